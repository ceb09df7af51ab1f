//! Where a fleet's object store is and how long it keeps what: `config/objects.yaml`, and `LOTA_OBJECTS` over it.
use bot_clients::{ObjectSettings, Objects, RetentionDays};

use crate::{home::Home, up::environment};

/// What the file says, and `LOTA_OBJECTS` over it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// As [`Objects::open`] reads it.
    pub(crate) place: String,
    pub(crate) retention: RetentionDays,
}

impl Settings {
    /// Of a fleet. No file is all defaults.
    pub(crate) fn read(home: &Home) -> anyhow::Result<Self> {
        let file = ObjectSettings::read(&home.join("config/objects.yaml")).map_err(anyhow::Error::msg)?;
        Ok(Self::of(file, environment::objects(), home))
    }

    fn of(file: ObjectSettings, named: Option<String>, home: &Home) -> Self {
        let place = named.or(file.store).unwrap_or_else(|| "objects".to_owned());
        // A URL stays as it is; a folder must mean the same to every process.
        let place = if place.contains("://") { place } else { home.join(&place).to_string_lossy().into_owned() };
        Self { place, retention: file.retention_days }
    }

    /// The store.
    pub(crate) fn open(&self) -> anyhow::Result<Objects> {
        Ok(Objects::open(&self.place)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stays_as_written_and_the_environment_wins() {
        let home = Home::new("/fleet".as_ref()).unwrap();
        let place = |store: Option<&str>, named: Option<&str>| {
            let file = ObjectSettings { store: store.map(str::to_owned), ..ObjectSettings::default() };
            Settings::of(file, named.map(str::to_owned), &home).place
        };
        assert_eq!(place(None, None), "/fleet/objects");
        assert_eq!(place(Some("s3://b/p?region=x"), None), "s3://b/p?region=x");
        assert_eq!(place(Some("s3://b/p?region=x"), Some("/elsewhere")), "/elsewhere");
    }
}
