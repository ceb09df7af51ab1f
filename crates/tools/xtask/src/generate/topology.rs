//! The contracts and the broker's topology: as JSON for programs, and as a page for people.
pub(super) mod page;

use anyhow::{Context, Result};

use super::{Files, MARK, Source, text};

/// Adds them.
pub(super) fn add(source: &Source, files: &mut Files) -> Result<()> {
    // In the order of the struct's fields: its name is what one looks for first. It holds no maps, so nothing is to sort.
    let contracts = serde_json::to_string_pretty(&source.contracts).context("the contracts cannot be written")?;
    files.insert("deploy/rabbitmq/contracts.json".to_owned(), contracts + "\n");
    let mut topology = serde_json::to_value(&source.topology).context("the topology cannot be written")?;
    topology["$comment"] = MARK.into();
    files.insert("deploy/rabbitmq/topology.json".to_owned(), text::json(topology)?);
    files.insert("docs/topology.md".to_owned(), page::write(source));
    Ok(())
}
