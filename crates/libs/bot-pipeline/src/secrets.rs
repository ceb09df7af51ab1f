//! Secrets of a fleet's operator for the jobs of bots: read when a job needs them, given only to what names them, and
//! taken out of all that is printed.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use bot_messages::Code;
use bot_secrets::{Redactor, Secret, SecretError, Sources, known, read_private};

/// Below the folder, so that no step can name one.
const CREDENTIALS: &str = "credentials";

/// A secret is not had. Never says more of it than its name and where it was looked for.
#[derive(Debug, thiserror::Error)]
pub enum NoSecret {
    #[error(
        "secret `{name}` is not for this repository: repositories.yaml lists {listed} for it; the operator adds `{name}` to `secrets` there"
    )]
    NotListed { name: String, listed: String },
    #[error(transparent)]
    Source(#[from] SecretError),
}

impl NoSecret {
    /// For the failure.
    pub fn code(&self) -> Code {
        match self {
            Self::NotListed { .. } => Code::PermissionDenied,
            Self::Source(_) => Code::Rejected,
        }
    }
}

/// A bot's folder with a file for each secret, and the other places where it has some.
#[derive(Clone, Debug)]
pub struct SecretsDir {
    dir: PathBuf,
    sources: Sources,
}

impl SecretsDir {
    /// The folder need not exist. What it does not hold is looked for in `others`.
    pub fn new(dir: impl Into<PathBuf>, others: &Sources) -> Self {
        let dir = dir.into();
        Self { sources: others.clone().with_folder(dir.clone()), dir }
    }

    /// The secrets of these names, of which a repository may have those in `listed`.
    pub fn read<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
        listed: &[String],
    ) -> Result<Secrets, NoSecret> {
        let mut values = BTreeMap::new();
        for name in names.into_iter().collect::<BTreeSet<_>>() {
            if !listed.contains(name) {
                let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
                return Err(NoSecret::NotListed { name: name.clone(), listed });
            }
            values.insert(name.clone(), self.sources.get(name)?);
        }
        Ok(Secrets::new(values))
    }

    /// The file of a credential, looked at: git or ssh read it themselves.
    pub fn credential_file(&self, name: &str) -> Result<PathBuf, SecretError> {
        let path = self.dir.join(CREDENTIALS).join(name);
        known().add(&read_private(&path)?);
        Ok(path)
    }

    /// The text of a credential.
    pub fn credential(&self, name: &str) -> Result<Secret, SecretError> {
        Sources::default().with_folder(self.dir.join(CREDENTIALS)).get(name)
    }
}

/// Secrets of one job.
#[derive(Clone, Default)]
pub struct Secrets {
    values: BTreeMap<String, Secret>,
    redactor: Redactor,
}

impl Secrets {
    fn new(values: BTreeMap<String, Secret>) -> Self {
        let redactor = Redactor::new(values.values().map(Secret::expose));
        Self { values, redactor }
    }

    /// For the environment of what names these.
    pub fn of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = (String, String)> + 'a {
        names.iter().filter_map(|name| Some((name.clone(), self.values.get(name)?.expose().to_owned())))
    }

    /// What takes them out of text.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.values.keys().collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::*;

    fn folder(files: &[(&str, &str, u32)]) -> (tempfile::TempDir, SecretsDir) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(CREDENTIALS)).unwrap();
        for (name, text, mode) in files {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
        }
        let own = SecretsDir::new(dir.path(), &Sources::default());
        (dir, own)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_listed_secrets_in_closed_files_are_read_and_only_what_names_them_gets_them() {
        let (_dir, secrets) =
            folder(&[("TOKEN", "canary-1\n", 0o600), ("OPEN", "canary-2", 0o640), ("EMPTY", "\n", 0o600)]);
        let all = names(&["TOKEN", "OPEN", "EMPTY", "AWAY"]);
        let got = secrets.read(&names(&["TOKEN", "TOKEN"]), &all).unwrap();
        assert_eq!(got.of(&all).collect::<Vec<_>>(), [("TOKEN".to_owned(), "canary-1".to_owned())]);
        assert_eq!(got.of(&[]).count(), 0);
        assert!(!format!("{got:?}").contains("canary"));
        for (wanted, listed, words) in [
            ("TOKEN", &names(&["OTHER"]), "lists OTHER for it"),
            ("TOKEN", &Vec::new(), "lists none for it"),
            ("OPEN", &all, "has mode 640: others may read it; chmod 600"),
            ("EMPTY", &all, "not empty"),
            ("AWAY", &all, "there is no secret `AWAY`: expected the file"),
        ] {
            let told = secrets.read(&names(&[wanted]), listed).unwrap_err().to_string();
            assert!(told.contains(words) && !told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn a_credential_is_no_secret_and_a_secret_no_credential() {
        let (dir, secrets) = folder(&[("TOKEN", "canary-1", 0o600), ("credentials/forge", "canary-3\n", 0o600)]);
        assert_eq!(secrets.credential("forge").unwrap().expose(), "canary-3");
        assert_eq!(secrets.credential_file("forge").unwrap(), dir.path().join("credentials/forge"));
        assert!(secrets.credential("TOKEN").is_err());
        assert!(secrets.read(&names(&["forge"]), &names(&["forge"])).is_err());
    }
}
