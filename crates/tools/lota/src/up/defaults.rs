//! The configuration a new fleet begins with: the files of `deploy/config`, and repositories that trust this machine.
use std::fs;

use anyhow::Context;

use super::bots;
use crate::home::Home;

/// Besides one file a bot.
const OF_THE_FLEET: [&str; 3] = ["environments.yaml", "objects.yaml", "publishers.yaml"];

/// Whoever can write `lota up` can run what is in a local folder anyway, so local repositories are trusted.
const REPOSITORIES: &str = "\
# Which repositories this fleet builds. The first entry that matches counts; anything else is refused with
# PERMISSION_DENIED. Written by `lota up`; yours to change, it is not written again.
- {match: \"/**\", trust: own}
- {match: \"file:///**\", trust: own}
";

/// Writes what is missing; never over a file that is there.
pub(crate) fn write_missing(home: &Home) -> anyhow::Result<()> {
    let of_bots = bots::slugs()?.into_iter().map(|slug| format!("{slug}.yaml"));
    for name in of_bots.chain(OF_THE_FLEET.map(str::to_owned)) {
        let text = bots::config(&name).with_context(|| format!("deploy/config/{name} was not there at the build"))?;
        write(home, &name, text)?;
    }
    write(home, "repositories.yaml", REPOSITORIES.as_bytes())
}

fn write(home: &Home, name: &str, text: &[u8]) -> anyhow::Result<()> {
    let path = home.join("config").join(name);
    if path.exists() {
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
