//! Where a fleet's object store is and how long it keeps what: `config/objects.yaml`.
use std::{fs, io};

use anyhow::{Context, bail};
use bot_clients::{Objects, RetentionDays};
use serde::Deserialize;

use crate::{home::Home, up::environment};

const FILE_BYTES_MAX: u64 = 64 << 10;

/// What the file says, and `LOTA_OBJECTS` over it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// As [`Objects::open`] reads it.
    pub(crate) place: String,
    pub(crate) retention: RetentionDays,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    store: Option<String>,
    retention_days: RetentionDays,
}

impl Settings {
    /// Of a fleet. No file is all defaults.
    pub(crate) fn read(home: &Home) -> anyhow::Result<Self> {
        let path = home.join("config/objects.yaml");
        let text = match fs::metadata(&path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                bail!("{} has {} bytes: at most {FILE_BYTES_MAX} are read", path.display(), meta.len())
            }
            Ok(_) => fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        Self::parse(&text, environment::objects(), home).with_context(|| format!("{} is wrong", path.display()))
    }

    fn parse(text: &str, named: Option<String>, home: &Home) -> anyhow::Result<Self> {
        let file: Option<File> =
            serde_saphyr::from_str(text).map_err(|e| anyhow::anyhow!("{}", e.without_snippet()))?;
        let File { store, retention_days } = file.unwrap_or_default();
        let mistakes = retention_days.mistakes();
        if !mistakes.is_empty() {
            bail!("retention_days: {}", mistakes.join("; "));
        }
        let place = named.or(store).unwrap_or_else(|| "objects".to_owned());
        // A URL stays as it is; a folder must mean the same to every process.
        let place = if place.contains("://") { place } else { home.join(&place).to_string_lossy().into_owned() };
        Ok(Self { place, retention: retention_days })
    }

    /// The store.
    pub(crate) fn open(&self) -> anyhow::Result<Objects> {
        Ok(Objects::open(&self.place)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, named: Option<&str>) -> anyhow::Result<Settings> {
        let home = Home::new("/fleet".as_ref()).unwrap();
        Settings::parse(text, named.map(str::to_owned), &home)
    }

    #[test]
    fn the_file_that_comes_with_a_fleet_says_the_defaults() {
        let shipped = include_str!("../../../../deploy/config/objects.yaml");
        let shipped = parse(shipped, None).unwrap();
        assert_eq!(shipped, parse("", None).unwrap());
        assert_eq!(shipped.place, "/fleet/objects");
        assert_eq!(shipped.retention, RetentionDays::default());
    }

    #[test]
    fn a_bucket_stays_as_written_and_the_environment_wins() {
        let text = "store: s3://b/p?region=x\nretention_days: {log: 1}\n";
        let read = parse(text, None).unwrap();
        assert_eq!((read.place.as_str(), read.retention.log, read.retention.source), ("s3://b/p?region=x", 1, 14));
        assert_eq!(parse(text, Some("/elsewhere")).unwrap().place, "/elsewhere");
    }

    #[test]
    fn mistakes_are_told() {
        for (text, why) in [
            ("retention_days: {log: 0, keep: 99999}", "log is 0"),
            ("retention_days: {logs: 1}", "logs"),
            ("shop: x", "shop"),
        ] {
            let told = format!("{:#}", parse(text, None).unwrap_err());
            assert!(told.contains(why), "{told}");
        }
    }
}
