//! Releases on another machine over OpenSSH's client: as scripts, like those an operator would write. Whose host key is not
//! in the file of known hosts is refused.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bot_messages::pipeline::Span;
use serde::Deserialize;

use super::{
    fields::Fields,
    target::{Scripts, default_timeout},
};

/// A target as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ssh {
    host: String,
    #[serde(default = "default_port")]
    port: u16,
    user: String,
    /// On the other machine: holds `releases/` and `current`.
    path: String,
    /// The private key's file in the folder of secrets.
    key: String,
    /// A relative path starts from the configuration folder.
    known_hosts: PathBuf,
    /// Run there after each switch.
    restart: Option<String>,
    /// Run there until it ends well.
    check: Option<String>,
    #[serde(default = "default_timeout")]
    timeout: Span,
    url: Option<String>,
}

fn default_port() -> u16 {
    22
}

/// Reads nothing of the machine's or the user's own configuration, asks nobody, and believes no unknown host.
const CONNECT: &str = r#"lota_ssh() {
  ssh -F none -T -i "$LOTA_SSH_KEY" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
    -o UserKnownHostsFile="$LOTA_SSH_KNOWN_HOSTS" -o GlobalKnownHostsFile=/dev/null -o UpdateHostKeys=no \
    -o ConnectTimeout=15 -o ServerAliveInterval=10 -o ServerAliveCountMax=3 \
    -p "$LOTA_SSH_PORT" "$LOTA_SSH_USER@$LOTA_SSH_HOST" "$@"
}
"#;

/// Refuses whom another has overtaken, by a number that is kept there and never falls.
const FENCE: &str = r#"lota_fence="command -v flock > /dev/null || { echo 'flock is needed there: install util-linux'; exit 1; }
  exec 9>> .fence.lock; flock 9; held=\$(cat fence 2> /dev/null || :); held=\${held:-0}
  if [ \"\$held\" -gt '$LOTA_TOKEN' ]; then
    echo \"refused: fencing token \$held was here, and $LOTA_TOKEN is lower (if the bot's store was replaced, remove the file fence)\"
    exit 1
  fi
  echo '$LOTA_TOKEN' > .fence.new; sync .fence.new || sync; mv -T .fence.new fence"
"#;

/// A release gets its name last, so what has one is whole; what an interrupted upload left is removed by the next.
const UPLOAD: &str = r#"tar -C "$LOTA_RELEASE" -cf - . | lota_ssh "set -e
  mkdir -p '$LOTA_SSH_PATH/releases'; cd '$LOTA_SSH_PATH'
  $lota_fence
  exec 9>&-; cd releases
  if [ -d '$LOTA_HEX' ]; then cat > /dev/null; exit 0; fi
  for left in .unfinished-*; do if [ -e \"\$left\" ]; then chmod -R u+w \"\$left\"; rm -rf \"\$left\"; fi; done
  mkdir '.unfinished-$LOTA_HEX'; tar -C '.unfinished-$LOTA_HEX' -xf -; mv -T '.unfinished-$LOTA_HEX' '$LOTA_HEX'"
"#;

/// A link is renamed over the other: at no time is there none.
const SWITCH: &str = r#"lota_ssh "set -e
  cd '$LOTA_SSH_PATH'
  $lota_fence
  rm -f .current.new; ln -s 'releases/$LOTA_HEX' .current.new; mv -T .current.new current
  for old in releases/*; do case ' $LOTA_KEEP ' in *\" \${old#releases/} \"*) ;; *) chmod -R u+w \"\$old\"; rm -rf \"\$old\" ;; esac; done"
"#;

const AWAY: &str = r#"lota_ssh "set -e
  if [ ! -d '$LOTA_SSH_PATH' ]; then exit 0; fi
  cd '$LOTA_SSH_PATH'
  $lota_fence
  rm -f current"
"#;

const IS_THERE: &str = r#"lota_ssh "set -e
  there=\$(readlink '$LOTA_SSH_PATH/current') || { echo 'nothing is there'; exit 1; }
  if [ \"\$there\" != 'releases/$LOTA_HEX' ]; then echo \"\$there is there\"; exit 1; fi"
"#;

impl Ssh {
    /// What these fields mean as scripts; their mistakes are told.
    pub(super) fn scripts(self, from: &mut Fields<'_>, config_dir: &Path) -> Option<Scripts> {
        let word = |text: &str, more: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let mut right = true;
        let mut expect = |fits: bool, field: &str, what: &str| {
            if !fits {
                from.wrong(&format!("target.{field}"), what);
                right = false;
            }
        };
        expect(word(&self.host, ".-:_"), "host", "expected a host's name or address, such as app1.example.org");
        expect(word(&self.user, ".-_"), "user", "expected a user's name, such as deploy");
        let path = self.path.starts_with('/') && self.path.len() > 1 && word(&self.path, "/._-");
        let path = path && !self.path.split('/').any(|part| part == "..");
        expect(path, "path", "expected an absolute path of letters, digits, `.`, `_`, `-`, such as /srv/app");
        expect(word(&self.key, "._-"), "key", "expected a file's name in the folder of secrets, such as id_ed25519");
        expect(self.port > 0, "port", "expected 1 to 65535");
        if !right {
            return None;
        }
        let remote = |command: &Option<String>| {
            let told = |line: &str| {
                format!("lota_ssh 'cd \"{}/current\" && sh -e' <<'LOTA_END'\n{line}\nLOTA_END\n", self.path)
            };
            command.as_deref().map(told).unwrap_or_default()
        };
        let restart = remote(&self.restart);
        let env = [
            ("LOTA_SSH_HOST", self.host.clone()),
            ("LOTA_SSH_PORT", self.port.to_string()),
            ("LOTA_SSH_USER", self.user.clone()),
            ("LOTA_SSH_PATH", self.path.trim_end_matches('/').to_owned()),
        ];
        Some(Scripts {
            deploy: format!("{CONNECT}{FENCE}{UPLOAD}{SWITCH}{restart}"),
            verify: Some(format!("{CONNECT}{IS_THERE}{}", remote(&self.check))),
            rollback: Some(format!(
                "{CONNECT}{FENCE}if [ -z \"$LOTA_HEX\" ]; then\n{AWAY}exit 0; fi\n{UPLOAD}{SWITCH}{restart}"
            )),
            secrets: BTreeSet::new(),
            secret_files: BTreeMap::from([("LOTA_SSH_KEY".to_owned(), self.key.clone())]),
            files: BTreeMap::from([("LOTA_SSH_KNOWN_HOSTS".to_owned(), config_dir.join(&self.known_hosts))]),
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            timeout: self.timeout.0,
            network: true,
            url: self.url.clone(),
            project: None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the scripts are tried in this machine's shell")]

    use std::{fs, process::Command};

    use super::*;

    /// What the other machine's shell does, without the other machine.
    fn there(path: &Path, script: &str, hex: &str, token: i64) -> Result<(), String> {
        let release = path.with_file_name("release");
        fs::create_dir_all(&release).unwrap();
        let here = "set -e; lota_ssh() { sh -c \"$1\"; }";
        let ran = Command::new("sh")
            .args(["-c", &format!("{here}\n{FENCE}{script}")])
            .env("LOTA_SSH_PATH", path)
            .env("LOTA_RELEASE", release)
            .env("LOTA_HEX", hex)
            .env("LOTA_KEEP", "old new")
            .env("LOTA_TOKEN", token.to_string())
            .output()
            .unwrap();
        let told = [ran.stdout, ran.stderr].concat();
        if ran.status.success() { Ok(()) } else { Err(String::from_utf8(told).unwrap()) }
    }

    #[test]
    fn a_lower_token_than_was_there_uploads_switches_and_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app");
        let put = format!("{UPLOAD}{SWITCH}");
        there(&path, &put, "old", 9).unwrap();
        there(&path, &put, "new", 10).unwrap();
        for (script, hex) in [(UPLOAD, "late"), (SWITCH, "old"), (AWAY, "")] {
            let refused = there(&path, script, hex, 9).unwrap_err();
            assert!(refused.contains("fencing token 10 was here, and 9 is lower"), "{script}: {refused}");
            assert_eq!(fs::read_link(path.join("current")).unwrap(), Path::new("releases/new"));
            assert!(!path.join("releases/late").exists());
        }
        there(&path, &put, "old", 10).unwrap();
        there(&path, AWAY, "", 11).unwrap();
        assert!(!path.join("current").exists());
        assert_eq!(fs::read_to_string(path.join("fence")).unwrap(), "11\n");
    }
}
