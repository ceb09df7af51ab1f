//! The configuration a new fleet begins with: the files of `deploy/config`, and repositories that trust this machine.
use std::fs;

use anyhow::Context;

use crate::home::Home;

const FILES: [(&str, &str); 6] = [
    ("build-bot.yaml", include_str!("../../../../../deploy/config/build-bot.yaml")),
    ("test-bot.yaml", include_str!("../../../../../deploy/config/test-bot.yaml")),
    ("deploy-bot.yaml", include_str!("../../../../../deploy/config/deploy-bot.yaml")),
    ("monitor-bot.yaml", include_str!("../../../../../deploy/config/monitor-bot.yaml")),
    ("environments.yaml", include_str!("../../../../../deploy/config/environments.yaml")),
    ("publishers.yaml", include_str!("../../../../../deploy/config/publishers.yaml")),
];

/// Whoever can write `lota up` can run what is in a local folder anyway, so local repositories are trusted.
const REPOSITORIES: &str = "\
# Which repositories this fleet builds. The first entry that matches counts; anything else is refused with
# PERMISSION_DENIED. Written by `lota up`; yours to change, it is not written again.
- {match: \"/**\", trust: own}
- {match: \"file:///**\", trust: own}
";

/// Writes what is missing; never over a file that is there.
pub(crate) fn write_missing(home: &Home) -> anyhow::Result<()> {
    for (name, text) in FILES.into_iter().chain([("repositories.yaml", REPOSITORIES)]) {
        let path = home.join("config").join(name);
        if !path.exists() {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}
