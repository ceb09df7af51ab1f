//! With what a repository is fetched that not everyone may read. The operator's `repositories.yaml` names it, the bot's
//! folder of secrets holds it; git reads it from a file of the call's own, or gives its path to ssh.
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bot_pipeline::SecretsDir;
use bot_secrets::{Redactor, Secret, known};

use crate::remote::{Protocol, Remote};

/// In the job's git home, while git runs.
const CONFIG: &str = "credential.gitconfig";

/// Looked up for one job.
pub(crate) enum Credential {
    /// Of an HTTP server.
    Token {
        /// `https://host:port/`: to no other place it is sent.
        server: String,
        /// `user:token` in base64.
        basic: Secret,
        redactor: Redactor,
    },
    /// The file of a private key.
    Key(PathBuf),
}

impl Credential {
    /// The error never repeats it.
    pub(crate) fn find(name: &str, secrets: &SecretsDir, remote: &Remote) -> Result<Self, String> {
        match remote.protocol {
            Protocol::Ssh => secrets.credential_file(name).map(Self::Key).map_err(|e| e.to_string()),
            Protocol::Https => Self::token(name, secrets, remote),
            Protocol::Http if remote.is_this_machine() => Self::token(name, secrets, remote),
            other => Err(format!(
                "credential `{name}` is not sent over {}: expected https or ssh; correct `match` or `credential` in repositories.yaml",
                other.as_str()
            )),
        }
    }

    fn token(name: &str, secrets: &SecretsDir, remote: &Remote) -> Result<Self, String> {
        let text = secrets.credential(name).map_err(|e| e.to_string())?;
        let text = text.expose();
        // Forges take any user with a token; some expect this one.
        let pair = if text.contains(':') { text.to_owned() } else { format!("oauth2:{text}") };
        let token = pair.split_once(':').map_or("", |(_, token)| token);
        known().add(&Secret::new(token));
        let server = remote.server().ok_or_else(|| format!("{} names no server", remote.location))?;
        let basic = STANDARD.encode(&pair);
        let redactor = Redactor::new([token, &pair]);
        Ok(Self::Token { server, basic: Secret::new(basic), redactor })
    }

    pub(crate) fn redactor(&self) -> Option<&Redactor> {
        match self {
            Self::Token { redactor, .. } => Some(redactor),
            Self::Key(_) => None,
        }
    }

    /// Writes `config` and this credential to a file of git's home, which goes away with what is returned.
    pub(crate) fn write_config(&self, config: &str, home: &Path) -> io::Result<Option<ConfigFile>> {
        let Self::Token { server, basic, .. } = self else { return Ok(None) };
        let path = home.join(CONFIG);
        let file = ConfigFile(path.clone());
        // A server could send the header on to another.
        let text = format!(
            "{config}[http \"{server}\"]\n\textraHeader = Authorization: Basic {}\n\tfollowRedirects = false\n",
            basic.expose()
        );
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&path)?.write_all(text.as_bytes())?;
        Ok(Some(file))
    }
}

/// A file with a credential in it.
pub(crate) struct ConfigFile(PathBuf);

impl ConfigFile {
    /// As git sees it, whose home is `home`.
    pub(crate) fn inside(&self, home: &Path) -> PathBuf {
        home.join(self.0.file_name().unwrap_or_default())
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            tracing::warn!("{} cannot be removed: {e}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    fn find(text: &str, url: &str) -> Result<Credential, String> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("credentials");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("forge"), text).unwrap();
        fs::set_permissions(folder.join("forge"), Permissions::from_mode(0o600)).unwrap();
        Credential::find(
            "forge",
            &SecretsDir::new(dir.path(), &bot_secrets::Sources::default()),
            &Remote::parse(url, true).unwrap(),
        )
    }

    #[test]
    fn a_token_goes_to_its_server_alone_in_a_closed_file_that_goes_away() {
        let home = tempfile::tempdir().unwrap();
        for (text, pair) in [("canary\n", "oauth2:canary"), ("ada:canary", "ada:canary")] {
            let credential = find(text, "https://ada@Git.example.org:8443/a/b.git").unwrap();
            let file = credential.write_config("[a]\n", home.path()).unwrap().unwrap();
            let path = home.path().join(CONFIG);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let basic = STANDARD.encode(pair);
            let want = format!(
                "[a]\n[http \"https://Git.example.org:8443/\"]\n\textraHeader = Authorization: Basic {basic}\n\tfollowRedirects = false\n"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), want);
            assert_eq!(file.inside(Path::new("/home/bot")), Path::new("/home/bot").join(CONFIG));
            drop(file);
            assert!(!path.exists());
            let redactor = credential.redactor().unwrap();
            assert!(!redactor.clean(&format!("x {basic} canary")).contains("canary"));
        }
    }

    #[test]
    fn nothing_goes_over_an_open_line_but_to_this_machine() {
        assert!(find("canary", "http://127.0.0.1:3000/a").is_ok());
        assert!(matches!(find("key", "git@h:a"), Ok(Credential::Key(_))));
        for url in ["http://git.example.org/a", "git://git.example.org/a", "/srv/git/a"] {
            let Err(told) = find("canary", url) else { panic!("{url}") };
            assert!(told.contains("expected https or ssh") && !told.contains("canary"), "{told}");
        }
    }
}
