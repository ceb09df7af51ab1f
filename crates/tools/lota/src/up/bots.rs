//! The bots of a fleet. Every contract of this release with a configuration file in `deploy/config` is one, so a new
//! bot is started without a word of it here.
use std::path::PathBuf;

use bot_messages::BotName;
use include_dir::{Dir, include_dir};

use super::{credentials, environment, topology};
use crate::home::Home;

/// Read when this is compiled; that a file came is noticed because `contracts.json` changed with it.
static CONFIG: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../../deploy/config");

/// A process that `lota up` starts beside the broker.
pub(crate) struct Member {
    pub(crate) name: BotName,
    pub(crate) slug: String,
    pub(crate) program: PathBuf,
}

/// By slug, without those that are shut out. An error names the program that was not built.
pub(crate) fn members(home: &Home) -> anyhow::Result<Vec<Member>> {
    let shut_out = credentials::revoked(home)?;
    let member = |name: BotName| {
        let slug = name.slug();
        Ok(Member { program: environment::sibling(program(&slug))?, slug, name })
    };
    names()?.into_iter().filter(|name| !shut_out.contains(&name.slug())).map(member).collect()
}

/// Whether bots' programs lie beside this one. In a container of the operator's command none does.
pub(crate) fn has_programs() -> anyhow::Result<bool> {
    Ok(slugs()?.iter().any(|slug| environment::sibling(program(slug)).is_ok()))
}

/// Those whose user may connect.
pub(crate) fn allowed(home: &Home) -> anyhow::Result<Vec<String>> {
    let shut_out = credentials::revoked(home)?;
    Ok(slugs()?.into_iter().filter(|slug| !shut_out.contains(slug)).collect())
}

/// Of every bot that has a configuration file to begin with.
pub(crate) fn slugs() -> anyhow::Result<Vec<String>> {
    Ok(names()?.iter().map(BotName::slug).collect())
}

fn names() -> anyhow::Result<Vec<BotName>> {
    let names = topology::contracts()?.into_iter().map(|contract| contract.name);
    Ok(names.filter(|name| config(&format!("{}.yaml", name.slug())).is_some()).collect())
}

/// A file of `deploy/config`.
pub(crate) fn config(name: &str) -> Option<&'static [u8]> {
    CONFIG.get_file(name).map(include_dir::File::contents)
}

/// A program bears its package's name. A bot's package is its slug; the one service's is what it does.
fn program(slug: &str) -> &str {
    if slug == "monitor-bot" { "monitor" } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_is_a_bot_with_configuration() {
        let contracts: Vec<String> = topology::contracts().unwrap().iter().map(|c| c.name.slug()).collect();
        assert_eq!(slugs().unwrap(), contracts);
        assert!(contracts.contains(&"monitor-bot".to_owned()), "{contracts:?}");
    }

    #[test]
    fn every_program_is_a_package() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for slug in slugs().unwrap() {
            let name = program(&slug);
            let is_there = ["bots", "services"].iter().any(|shelf| crates.join(shelf).join(name).is_dir());
            assert!(is_there, "{slug} would be started as {name}, which no package builds");
        }
    }
}
