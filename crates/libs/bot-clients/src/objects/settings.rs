//! `objects.yaml`: where a fleet's object store is, and how long it keeps what.
use std::{fs, io, path::Path};

use serde::Deserialize;

use super::RetentionDays;

const FILE_BYTES_MAX: u64 = 64 << 10;

/// What the file says; no file is all defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectSettings {
    /// A folder (a relative one starts from the fleet's), or a bucket, as [`super::Objects::open`] reads it.
    pub store: Option<String>,
    /// How long it keeps what.
    pub retention_days: RetentionDays,
}

impl ObjectSettings {
    /// Reads `objects.yaml`. The error is for people, and names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let told = |why: String| format!("{}: {why}", path.display());
        let text = match fs::metadata(path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(told(format!("it has {} bytes: at most {FILE_BYTES_MAX} are read", meta.len())));
            }
            Ok(_) => fs::read_to_string(path).map_err(|e| told(format!("it cannot be read: {e}")))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(told(format!("it cannot be read: {e}"))),
        };
        Self::parse(&text).map_err(told)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: Option<Self> = serde_saphyr::from_str(text).map_err(|e| e.without_snippet().to_string())?;
        let settings = file.unwrap_or_default();
        match settings.retention_days.mistakes()[..] {
            [] => Ok(settings),
            ref mistakes => Err(format!("retention_days: {}", mistakes.join("; "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_comes_with_a_fleet_says_the_defaults() {
        let shipped = ObjectSettings::parse(include_str!("../../../../../deploy/config/objects.yaml")).unwrap();
        assert_eq!(shipped, ObjectSettings { store: Some("objects".into()), ..ObjectSettings::default() });
        assert_eq!(ObjectSettings::read("/nowhere/objects.yaml".as_ref()).unwrap(), ObjectSettings::default());
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, why) in [
            ("retention_days: {log: 0, keep: 99999}", "log is 0"),
            ("retention_days: {logs: 1}", "logs"),
            ("shop: x", "shop"),
        ] {
            fs::write(file.path(), text).unwrap();
            let told = ObjectSettings::read(file.path()).unwrap_err();
            assert!(told.contains(why) && told.contains(&file.path().display().to_string()), "{told}");
        }
    }
}
