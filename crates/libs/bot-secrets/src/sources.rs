//! Where values come from: a folder with a file each, variables, a file encrypted with age. Read when they are needed,
//! so that they can be exchanged while a bot runs.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::{Zeroize as _, Zeroizing};

use crate::{Handle, Secret, known};

/// A longer one does not fit into an environment beside others.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;
const AGE_FILE_BYTES_MAX: u64 = 1 << 20;
const IDENTITY: &str = "AGE-SECRET-KEY-1";
/// Values in the environment have names that begin so.
pub const VARIABLE_PREFIX: &str = "LOTA_SECRET_";

/// A secret cannot be had. Never says more of it than its name and where it was looked for.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("`{0}` is no name of a secret: expected 1 to 128 letters, digits, `.`, `_` and `-`")]
    Name(String),
    #[error("there is no secret `{name}`: expected {}", places.join(", or "))]
    Missing { name: String, places: Vec<String> },
    #[error("the secret in {} has mode {mode:o}: others may read it; chmod 600", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the secret in {}: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
}

/// Where secrets are looked for, in this order: a folder, variables, a file encrypted with age.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    folder: Option<PathBuf>,
    variables: BTreeMap<String, Secret>,
    age: Option<AgeFile>,
}

#[derive(Clone, Debug)]
struct AgeFile {
    file: PathBuf,
    identity: PathBuf,
}

impl Sources {
    /// With a folder that holds a file for each secret: mode 600, named as the secret, a line end at its end is no part
    /// of the value. It need not exist.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// With those of the variables that begin with [`VARIABLE_PREFIX`]; the rest of their names is the secret's.
    #[must_use]
    pub fn with_variables<'a>(mut self, variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let named =
            variables.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(VARIABLE_PREFIX)?, value)));
        self.variables.extend(named.map(|(name, value)| (name.to_owned(), Secret::new(value.as_str()))));
        self
    }

    /// With a file encrypted by age, binary or armoured, for the X25519 key in `identity` (mode 600). Its plain text is a
    /// YAML map from names to texts.
    #[must_use]
    pub fn with_age(mut self, file: impl Into<PathBuf>, identity: impl Into<PathBuf>) -> Self {
        self.age = Some(AgeFile { file: file.into(), identity: identity.into() });
        self
    }

    /// The value that a handle stands for.
    pub fn resolve(&self, handle: &Handle) -> Result<Secret, SecretError> {
        self.get(handle.name())
    }

    /// The secret of this name. From then on no log of this process shows it.
    pub fn get(&self, name: &str) -> Result<Secret, SecretError> {
        let secret = self.find(name)?;
        known().add(&secret);
        Ok(secret)
    }

    fn find(&self, name: &str) -> Result<Secret, SecretError> {
        if !Handle::fits(name) {
            return Err(SecretError::Name(name.to_owned()));
        }
        let mut places = Vec::new();
        if let Some(folder) = &self.folder {
            let path = folder.join(name);
            match read_private(&path) {
                Err(SecretError::Missing { .. }) => {
                    places.push(format!("the file {}, readable by its owner alone", path.display()));
                }
                found => return found,
            }
        }
        if let Some(secret) = self.variables.get(name) {
            return fit(secret.expose(), Path::new(&format!("{VARIABLE_PREFIX}{name}")));
        }
        if let Some(age) = &self.age {
            if let Some(secret) = age.get(name)? {
                return Ok(secret);
            }
            places.push(format!("an entry in {}", age.file.display()));
        }
        if places.is_empty() || !self.variables.is_empty() {
            places.push(format!("the variable {VARIABLE_PREFIX}{name}"));
        }
        Err(SecretError::Missing { name: name.to_owned(), places })
    }
}

impl AgeFile {
    fn get(&self, name: &str) -> Result<Option<Secret>, SecretError> {
        let unfit = |why: &str| SecretError::Unfit { path: self.file.clone(), why: why.to_owned() };
        let identity = read_private(&self.identity)?;
        let line = identity.expose().lines().map(str::trim).find(|line| line.starts_with(IDENTITY));
        let key: Option<age::x25519::Identity> = line.and_then(|line| line.parse().ok());
        let key = key.ok_or_else(|| SecretError::Unfit {
            path: self.identity.clone(),
            why: format!("expected a line {IDENTITY}…, as age-keygen writes it"),
        })?;
        let sealed = read(&self.file, AGE_FILE_BYTES_MAX)?;
        // What age or YAML would say of a wrong file may quote it.
        let plain = age::decrypt(&key, &sealed).map_err(|_| {
            unfit("it cannot be decrypted with that identity: encrypt it for the identity's public key")
        })?;
        let plain = Zeroizing::new(plain);
        let text = std::str::from_utf8(&plain).map_err(|_| unfit("its plain text is no UTF-8"))?;
        let mut values: BTreeMap<String, String> =
            serde_saphyr::from_str(text).map_err(|_| unfit("its plain text is no YAML map from names to texts"))?;
        let found = values.remove(name).map(Zeroizing::new);
        values.values_mut().for_each(String::zeroize);
        found.map(|value| fit(&value, &self.file)).transpose()
    }
}

/// The value in a file that only its owner may read. It is not yet known to logs.
pub fn read_private(path: &Path) -> Result<Secret, SecretError> {
    let meta = fs::metadata(path).map_err(|e| failed(path, &e))?;
    let mode = meta.permissions().mode() & 0o777;
    if meta.is_file() && mode & 0o077 != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode });
    }
    let bytes = Zeroizing::new(read(path, SECRET_BYTES_MAX)?);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| SecretError::Unfit { path: path.to_owned(), why: "expected UTF-8".to_owned() })?;
    // An editor ends the file with a line end that is no part of a token.
    let value = text.strip_suffix('\n').unwrap_or(text);
    fit(value.strip_suffix('\r').unwrap_or(value), path)
}

fn fit(value: &str, path: &Path) -> Result<Secret, SecretError> {
    if value.is_empty() || value.contains('\0') {
        let why = "expected a text that is not empty and holds no NUL".to_owned();
        return Err(SecretError::Unfit { path: path.to_owned(), why });
    }
    Ok(Secret::new(value))
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, SecretError> {
    let unfit = |why: String| SecretError::Unfit { path: path.to_owned(), why };
    if !fs::metadata(path).map_err(|e| failed(path, &e))?.is_file() {
        return Err(unfit("expected a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| failed(path, &e))?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| failed(path, &e))?;
    if bytes.len() as u64 > bytes_max {
        return Err(unfit(format!("more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn failed(path: &Path, error: &io::Error) -> SecretError {
    if error.kind() == io::ErrorKind::NotFound {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let places = vec![format!("the file {}, readable by its owner alone", path.display())];
        return SecretError::Missing { name, places };
    }
    SecretError::Unfit { path: path.to_owned(), why: format!("cannot be read: {error}") }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use age::secrecy::ExposeSecret as _;

    use super::*;

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_folder_comes_before_variables_and_these_before_the_encrypted_file() {
        let dir = tempfile::tempdir().unwrap();
        let key = age::x25519::Identity::generate();
        let plain = b"A: canary-age\nB: canary-age\nC: \"canary\\nage\"\n";
        write(&dir.path().join("all.age"), &age::encrypt(&key.to_public(), plain).unwrap(), 0o644);
        let identity = dir.path().join("identity");
        write(&identity, format!("# made today\n{}\n", key.to_string().expose_secret()).as_bytes(), 0o600);
        write(&dir.path().join("A"), b"canary-file\r\n", 0o600);
        let variables = BTreeMap::from([
            ("LOTA_SECRET_A".to_owned(), "canary-variable".to_owned()),
            ("LOTA_SECRET_B".to_owned(), "canary-variable".to_owned()),
            ("OTHER".to_owned(), "x".to_owned()),
        ]);
        let sources = Sources::default()
            .with_folder(dir.path())
            .with_variables(&variables)
            .with_age(dir.path().join("all.age"), &identity);
        for (name, value) in [("A", "canary-file"), ("B", "canary-variable"), ("C", "canary\nage")] {
            assert_eq!(sources.get(name).unwrap().expose(), value);
        }
        assert!(!format!("{sources:?}").contains("canary"));
        let told = sources.get("D").unwrap_err().to_string();
        for place in ["/D, readable by", "all.age", "the variable LOTA_SECRET_D"] {
            assert!(told.contains(place), "{told}");
        }
        // From then on logs of this process know it.
        assert_eq!(known().clean("x canary-file y"), "x *** y");

        write(&identity, key.to_string().expose_secret().as_bytes(), 0o640);
        assert!(matches!(sources.get("C"), Err(SecretError::Open { mode: 0o640, .. })));
        let other = age::x25519::Identity::generate();
        write(&identity, other.to_string().expose_secret().as_bytes(), 0o600);
        assert!(sources.get("C").unwrap_err().to_string().contains("cannot be decrypted"));
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let long = vec![b'c'; SECRET_BYTES_MAX as usize + 1];
        for (name, bytes, mode) in [
            ("OPEN", b"canary-1".as_slice(), 0o640),
            ("EMPTY", b"\n", 0o600),
            ("NUL", b"canary\0", 0o600),
            ("BYTES", b"canary\xff", 0o600),
            ("LONG", &long, 0o600),
        ] {
            write(&dir.path().join(name), bytes, mode);
        }
        fs::create_dir(dir.path().join("FOLDER")).unwrap();
        let sources = Sources::default().with_folder(dir.path());
        for (name, words) in [
            ("OPEN", "has mode 640: others may read it; chmod 600"),
            ("EMPTY", "not empty"),
            ("NUL", "no NUL"),
            ("BYTES", "expected UTF-8"),
            ("LONG", "more than 65536 bytes"),
            ("FOLDER", "expected a regular file"),
            ("AWAY", "there is no secret `AWAY`: expected the file"),
            ("../OPEN", "is no name of a secret"),
        ] {
            let told = sources.get(name).unwrap_err().to_string();
            assert!(told.contains(words) && !told.contains("canary"), "{told}");
        }
    }
}
