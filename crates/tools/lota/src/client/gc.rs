//! `lota gc`: removes old objects that no environment needs.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use bot_clients::{Collected, Kind, Tally};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    clock,
    table::{Cell, Table},
    terminal::{Out, bytes, note, seen_enough},
};
use crate::{home::Home, objects::Settings};

/// What `lota gc` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GcArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(home: &Home, args: GcArgs) -> anyhow::Result<ExitCode> {
    if !home.join("config").is_dir() {
        bail!("there is no fleet in {}: name its folder with --home", home.path().display());
    }
    let settings = Settings::read(home)?;
    let environments = environments(home)?;
    let objects = settings.open()?;
    let collected = objects.collect(&settings.retention, &environments, clock::now(), args.dry_run).await?;
    seen_enough(show(&collected, args.dry_run))
}

/// Those that DeployBot knows: each must have said what it needs.
fn environments(home: &Home) -> anyhow::Result<Vec<String>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct DeployBot {
        settings: Place,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Place {
        environments: Option<PathBuf>,
    }
    let config = home.join("config");
    let deploy_bot: DeployBot = yaml(&config.join("deploy-bot.yaml"))?.unwrap_or_default();
    let file = deploy_bot.settings.environments.unwrap_or_else(|| "environments.yaml".into());
    let environments: Option<BTreeMap<String, Value>> = yaml(&config.join(file))?;
    Ok(environments.unwrap_or_default().into_keys().collect())
}

/// Nothing, where there is no file or nothing in it.
fn yaml<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let read = serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("{}", e.without_snippet()));
    read.with_context(|| format!("{} is wrong, so nothing was removed", path.display()))
}

fn show(collected: &Collected, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    let mut table = Table::new(&["KIND", "OBJECTS", "BYTES"]);
    let mut row = |name: &str, tally: Tally| {
        table.row(vec![name.into(), Cell::figure(tally.count.to_string()), Cell::figure(bytes(tally.bytes))]);
    };
    for kind in Kind::ALL {
        row(kind.as_str(), collected.removed.get(&kind).copied().unwrap_or_default());
    }
    row("unfinished", collected.unfinished);
    out.lines(&table.lines(out.paint))?;
    note(&format!(
        "{}; old but in use: {} ({}), kept: {} ({})",
        if dry_run { "these would be removed" } else { "these were removed" },
        collected.in_use.count,
        bytes(collected.in_use.bytes),
        collected.kept.count,
        bytes(collected.kept.bytes),
    ));
    Ok(ExitCode::SUCCESS)
}
