//! Secrets of a fleet's operator: one file each in a folder of the bot's, read when a job needs it, given only to what
//! names it, and taken out of every line that is printed.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use bot_messages::Code;
use bot_sandbox::Redact;

/// Longer ones do not fit into an environment beside others.
const SECRET_BYTES_MAX: u64 = 32 << 10;
/// Shorter ones are in every other line by chance.
const REDACTED_BYTES_MIN: usize = 4;
/// A line of a longer secret, and a part of its base64.
const PART_BYTES_MIN: usize = 8;
/// As `base64` breaks its lines.
const BASE64_LINE: usize = 76;
const SHOWN: &str = "***";
/// Below the folder, so that no step can name one.
const CREDENTIALS: &str = "credentials";

/// A secret cannot be had. Never says more of it than its name.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "secret `{name}` is not for this repository: repositories.yaml lists {listed} for it; the operator adds `{name}` to `secrets` there"
    )]
    NotListed { name: String, listed: String },
    #[error("there is no secret `{name}`: expected the file {}, readable by the bot's user alone", path.display())]
    Missing { name: String, path: PathBuf },
    #[error("the secret in {} has mode {mode:o}: others may read it; chmod 600", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the secret in {}: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
}

impl SecretError {
    /// For the failure.
    pub fn code(&self) -> Code {
        match self {
            Self::NotListed { .. } => Code::PermissionDenied,
            _ => Code::Rejected,
        }
    }
}

/// The folder with the files.
#[derive(Clone, Debug)]
pub struct SecretsDir(PathBuf);

impl SecretsDir {
    /// It need not exist: then there are no secrets.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The secrets of these names, of which a repository may have those in `listed`.
    pub fn read<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
        listed: &[String],
    ) -> Result<Secrets, SecretError> {
        let mut values = BTreeMap::new();
        for name in names.into_iter().collect::<BTreeSet<_>>() {
            if !listed.contains(name) {
                let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
                return Err(SecretError::NotListed { name: name.clone(), listed });
            }
            values.insert(name.clone(), read(name, &self.0.join(name))?);
        }
        Ok(Secrets::new(values))
    }

    /// The file of a credential, looked at: git or ssh read it themselves.
    pub fn credential_file(&self, name: &str) -> Result<PathBuf, SecretError> {
        let path = self.0.join(CREDENTIALS).join(name);
        read(name, &path).map(|_| path)
    }

    /// The text of a credential.
    pub fn credential(&self, name: &str) -> Result<String, SecretError> {
        read(name, &self.0.join(CREDENTIALS).join(name))
    }
}

fn read(name: &str, path: &Path) -> Result<String, SecretError> {
    let unfit = |why: String| SecretError::Unfit { path: path.to_owned(), why };
    let io = |e: std::io::Error| unfit(format!("cannot be read: {e}"));
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(SecretError::Missing { name: name.to_owned(), path: path.to_owned() });
        }
        Err(e) => return Err(io(e)),
    };
    if !meta.is_file() {
        return Err(unfit("expected a regular file".to_owned()));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(unfit(format!("more than {SECRET_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unfit("expected UTF-8".to_owned()))?;
    // An editor ends the file with a line end that is no part of a token.
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() || value.contains('\0') {
        return Err(unfit("expected a text that is not empty and holds no NUL".to_owned()));
    }
    Ok(value.to_owned())
}

/// Secrets of one job.
#[derive(Clone, Default)]
pub struct Secrets {
    values: BTreeMap<String, String>,
    redactor: Redactor,
}

impl Secrets {
    fn new(values: BTreeMap<String, String>) -> Self {
        let redactor = Redactor::new(values.values().map(String::as_str));
        Self { values, redactor }
    }

    /// For the environment of what names these.
    pub fn of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = (String, String)> + 'a {
        names.iter().filter_map(|name| Some((name.clone(), self.values.get(name)?.clone())))
    }

    /// What takes them out of lines; none where there are none.
    pub fn redact(&self) -> Option<Redact> {
        self.redactor.redact()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.values.keys().collect::<Vec<_>>()).finish()
    }
}

/// Takes secrets out of text: as they are, their lines, and wherever they lie in something that is base64.
#[derive(Clone, Default)]
pub struct Redactor {
    /// The longest first, so that none is cut by a shorter one in it.
    needles: Arc<Vec<String>>,
}

impl Redactor {
    pub fn new<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut needles = BTreeSet::new();
        for value in values.filter(|value| value.len() >= REDACTED_BYTES_MIN) {
            needles.insert(value.to_owned());
            let lines = value.lines().map(str::trim).filter(|line| line.len() >= PART_BYTES_MIN);
            needles.extend(lines.map(str::to_owned));
            needles.extend(as_base64(value));
        }
        let mut needles: Vec<String> = needles.into_iter().collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        Self { needles: Arc::new(needles) }
    }

    /// The text without them.
    pub fn clean(&self, text: String) -> String {
        self.needles.iter().fold(text, |text, needle| {
            if text.contains(needle.as_str()) { text.replace(needle.as_str(), SHOWN) } else { text }
        })
    }

    fn redact(&self) -> Option<Redact> {
        let own = self.clone();
        (!own.needles.is_empty()).then(|| -> Redact { Arc::new(move |text| own.clean(text)) })
    }
}

/// What of a value stays the same in base64, wherever in a larger text it begins; broken into lines as well.
fn as_base64(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    for offset in 0..3 {
        let bytes = [&[0; 2][..offset], value.as_bytes()].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = engine.encode(&bytes);
            // Characters that also hold bits of what lies before or after.
            let begin = [0, 2, 3][offset];
            let end = text.len() - usize::from(bytes.len() % 3 != 0);
            let core = text.get(begin..end).unwrap_or_default();
            let lines = if offset == 0 { lines_of(core) } else { Vec::new() };
            found.extend([core.to_owned()].into_iter().chain(lines).filter(|part| part.len() >= REDACTED_BYTES_MIN));
        }
    }
    found
}

fn lines_of(core: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = core;
    while let Some((line, next)) = rest.split_at_checked(BASE64_LINE) {
        lines.push(line.to_owned());
        rest = next;
    }
    lines.extend((rest.len() >= PART_BYTES_MIN).then(|| rest.to_owned()));
    lines
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn folder(files: &[(&str, &str, u32)]) -> (tempfile::TempDir, SecretsDir) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(CREDENTIALS)).unwrap();
        for (name, text, mode) in files {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
        }
        let own = SecretsDir::new(dir.path());
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
        assert_eq!(secrets.credential("forge").unwrap(), "canary-3");
        assert_eq!(secrets.credential_file("forge").unwrap(), dir.path().join("credentials/forge"));
        assert!(secrets.credential("TOKEN").is_err());
        assert!(secrets.read(&names(&["forge"]), &names(&["forge"])).is_err());
    }

    #[test]
    fn no_form_of_a_secret_stays_in_a_line() {
        let key = "-----BEGIN KEY-----\nc2VjcmV0bGluZW9mYWtleQ\nzz\n-----END KEY-----";
        let token = "canary?>~token/0123456789-0123456789-0123456789-0123456789-0123456789";
        let redactor = Redactor::new([token, key, "abc"].into_iter());
        for text in [
            format!("x {token} y {token}"),
            format!("x {}", STANDARD.encode(token)),
            format!("x {}", URL_SAFE_NO_PAD.encode(format!("{token}\n"))),
            format!("Authorization: Basic {}", STANDARD.encode(format!("u:{token}"))),
            format!("Authorization: Basic {}", STANDARD.encode(format!("me:{token}@host"))),
            "| c2VjcmV0bGluZW9mYWtleQ |".to_owned(),
        ] {
            let clean = redactor.clean(text.clone());
            assert!(clean.contains(SHOWN) && clean.len() < 40, "{text}: {clean}");
        }
        for line in STANDARD.encode(token).as_bytes().chunks(BASE64_LINE) {
            let line = String::from_utf8(line.to_vec()).unwrap();
            assert!(redactor.clean(line.clone()).len() < 8, "{line}");
        }
        assert_eq!(redactor.clean("abc and zz stay".to_owned()), "abc and zz stay");
        assert!(Secrets::default().redact().is_none());
    }
}
