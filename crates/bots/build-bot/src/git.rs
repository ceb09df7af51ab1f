//! One call of git in the sandbox, hardened: no hooks, no configuration but ours, no prompts, no helper programs, and
//! one protocol at a time. What git is asked to do is `mirrors.rs`'s to say.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bot_sandbox::{Command, Ending, Limits, NetworkEnv, Program, Sandbox, SandboxError, Workspace};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    credential::Credential,
    remote::{Protocol, Remote},
};

/// Our own global configuration. `upload-pack` of a local repository reads it too, and nothing given with `-c`:
/// repositories of other users may be read, and any commit of theirs asked for by its id.
const CONFIG_TEXT: &str = "[safe]\n\tdirectory = *\n[uploadpack]\n\tallowAnySHA1InWant = true\n";

const GLOBAL_CONFIG: &str = "GIT_CONFIG_GLOBAL";

/// What every call gets.
const HARDENED: [&str; 13] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "transfer.bundleURI=false",
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    "tar.umask=0022",
    // A server that sends next to nothing for a minute is gone.
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
    "protocol.allow=never",
];

/// How git is called on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Git {
    config_file: PathBuf,
    limits: Limits,
    ssh_key: Option<PathBuf>,
    ssh_known_hosts: Option<PathBuf>,
    /// Proxies and certificates of the machine.
    env: BTreeMap<String, String>,
    env_files: Vec<PathBuf>,
}

/// Where and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) sandbox: &'a Sandbox,
    /// The repository, bare.
    pub(crate) repository: &'a Path,
    /// The job's own: HOME of git, and where it may leave files.
    pub(crate) home: &'a Path,
    pub(crate) label: &'a str,
    pub(crate) stop: &'a CancellationToken,
}

impl Place<'_> {
    /// The same folders as git sees them.
    pub(crate) fn inside(&self) -> Workspace {
        self.sandbox.inside(&Workspace { tree: self.repository.to_owned(), home: self.home.to_owned() })
    }
}

/// What git answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0: yes; 128 and more where a signal ended it.
    pub(crate) exit: i32,
    /// The last lines of both streams.
    pub(crate) lines: Vec<String>,
}

impl Answer {
    pub(crate) fn is_yes(&self) -> bool {
        self.exit == 0
    }

    pub(crate) fn text(&self) -> String {
        self.lines.join("; ").chars().take(1500).collect()
    }
}

/// What is called, and whom it may speak to.
struct Call<'a> {
    /// Of errors.
    what: &'a str,
    words: Vec<String>,
    protocol: Option<Protocol>,
    credential: Option<&'a Credential>,
    variables: Vec<(&'static str, String)>,
}

impl<'a> Call<'a> {
    fn new(protocol: Option<Protocol>, credential: Option<&'a Credential>, args: &[&'a str]) -> Self {
        let what = args.first().copied().unwrap_or_default();
        Self { what, words: argv(protocol, args), protocol, credential, variables: Vec::new() }
    }
}

/// git gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GitError {
    #[error("told to stop")]
    Stopped,
    #[error("git {what} did not end within {seconds} s (settings.fetch_timeout_s)")]
    TimedOut { what: String, seconds: u64 },
    #[error("git {what} took more {limit} than allowed; see settings of build-bot.yaml")]
    TooMuch { what: String, limit: &'static str },
    #[error("the file for git's credential: {0}")]
    Credential(#[source] std::io::Error),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl Git {
    /// Writes the configuration file into `dir`.
    pub(crate) fn new(dir: &Path, config: &Config, network: &NetworkEnv) -> anyhow::Result<Self> {
        let config_file = dir.join("gitconfig");
        std::fs::write(&config_file, CONFIG_TEXT).with_context(|| format!("cannot write {}", config_file.display()))?;
        Ok(Self {
            config_file,
            limits: config.git_limits(),
            ssh_key: config.ssh_key_file.clone(),
            ssh_known_hosts: config.ssh_known_hosts_file.clone(),
            env: network.variables.clone(),
            env_files: network.files.clone(),
        })
    }

    /// A call that needs nothing outside the repository and `reads`.
    pub(crate) async fn offline(&self, place: Place<'_>, reads: &[PathBuf], args: &[&str]) -> Result<Answer, GitError> {
        self.call(place, Call::new(None, None, args), reads).await
    }

    /// Several calls that need nothing outside the repository, in one sandbox: `script` finds git with all that hardens it
    /// in `"$@"`, and what it is about in `variables`. A start of a sandbox costs more than most calls.
    pub(crate) async fn script(
        &self,
        place: Place<'_>,
        script: &str,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Answer, GitError> {
        let mut words: Vec<String> = ["sh", "-c", script, "git"].map(str::to_owned).into();
        words.extend(argv(None, &[]));
        let call = Call {
            what: "(mirror)",
            words,
            protocol: None,
            credential: None,
            variables: variables.into_iter().collect(),
        };
        self.call(place, call, &[]).await
    }

    /// A call that speaks to `remote`, and to no other kind of remote.
    pub(crate) async fn online(
        &self,
        place: Place<'_>,
        remote: &Remote,
        credential: Option<&Credential>,
        args: &[&str],
    ) -> Result<Answer, GitError> {
        self.call(place, Call::new(Some(remote.protocol), credential, args), &remote.local_folders()).await
    }

    async fn call(&self, place: Place<'_>, call: Call<'_>, reads: &[PathBuf]) -> Result<Answer, GitError> {
        let Call { what, words, protocol, credential, variables } = call;
        let workspace = Workspace { tree: place.repository.to_owned(), home: place.home.to_owned() };
        let mut command = Command::new(place.label, Program::Argv(words), workspace, self.limits.clone());
        let ssh_key = match credential {
            Some(Credential::Key(file)) => Some(file),
            _ => self.ssh_key.as_ref(),
        };
        command.env = self.environment(protocol, ssh_key);
        command.env.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
        // Until git has ended.
        let config_file = credential.map(|known| known.write_config(CONFIG_TEXT, place.home)).transpose();
        let config_file = config_file.map_err(GitError::Credential)?.flatten();
        if let Some(file) = &config_file {
            let shown = file.inside(&place.inside().home).display().to_string();
            command.env.insert(GLOBAL_CONFIG.to_owned(), shown);
        }
        if let Some(redactor) = credential.and_then(Credential::redactor).cloned() {
            command.redactor = redactor;
        }
        command.read_only = reads.to_vec();
        command.read_only.push(self.config_file.clone());
        command.network = protocol.is_some_and(|p| p != Protocol::File);
        if command.network {
            command.read_only.extend(self.env_files.iter().chain(ssh_key).chain(&self.ssh_known_hosts).cloned());
        }
        command.cancel = place.stop.clone();
        let outcome = place.sandbox.run(command).await?;
        let what = what.to_owned();
        let too_much = |limit| GitError::TooMuch { what: what.clone(), limit };
        match outcome.ending {
            Ending::Exited(exit) => Ok(Answer { exit, lines: outcome.tail }),
            Ending::Signalled(signal) => {
                let mut lines = outcome.tail;
                lines.push(format!("git was ended by signal {signal}"));
                Ok(Answer { exit: 128 + signal, lines })
            }
            Ending::Cancelled => Err(GitError::Stopped),
            Ending::TimedOut => Err(GitError::TimedOut { what, seconds: self.limits.time.as_secs() }),
            Ending::MemoryExceeded => Err(too_much("memory")),
            Ending::ProcessesExceeded => Err(too_much("processes")),
            Ending::OutputExceeded => Err(too_much("output")),
        }
    }

    fn environment(&self, protocol: Option<Protocol>, ssh_key: Option<&PathBuf>) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        let own = [
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            (GLOBAL_CONFIG, self.config_file.display().to_string()),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
            ("GIT_ASKPASS", "/bin/false".to_owned()),
            ("GIT_NO_LAZY_FETCH", "1".to_owned()),
            ("GIT_NO_REPLACE_OBJECTS", "1".to_owned()),
            ("GIT_ALLOW_PROTOCOL", protocol.map_or("none", Protocol::as_str).to_owned()),
            ("GIT_SSH_COMMAND", ssh_command(ssh_key, self.ssh_known_hosts.as_ref())),
            ("GIT_SSH_VARIANT", "ssh".to_owned()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        env
    }
}

fn ssh_command(key: Option<&PathBuf>, known_hosts: Option<&PathBuf>) -> String {
    let shown = |file: Option<&PathBuf>| file.map_or("/dev/null".to_owned(), |file| shell_word(file));
    format!(
        "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=20 -o IdentitiesOnly=yes -o IdentityFile={} -o UserKnownHostsFile={}",
        shown(key),
        shown(known_hosts),
    )
}

fn argv(protocol: Option<Protocol>, args: &[&str]) -> Vec<String> {
    let mut argv: Vec<String> = vec!["git".to_owned(), "--git-dir=.".to_owned()];
    let allowed = protocol.map(|protocol| format!("protocol.{}.allow=always", protocol.as_str()));
    for setting in HARDENED.into_iter().map(str::to_owned).chain(allowed) {
        argv.extend(["-c".to_owned(), setting]);
    }
    argv.extend(args.iter().map(ToString::to_string));
    argv
}

fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_believes_no_host_and_offers_no_key_but_those_named() {
        let command = ssh_command(Some(&"/etc/l'ota/key".into()), None);
        assert!(
            command.contains(r"IdentityFile='/etc/l'\''ota/key' ") && command.contains("-F /dev/null"),
            "{command}"
        );
        assert!(command.ends_with("UserKnownHostsFile=/dev/null"), "{command}");
    }

    #[test]
    fn only_the_protocol_of_the_remote_is_allowed() {
        let words = argv(Some(Protocol::Https), &["fetch", "--", "https://h/a"]).join(" ");
        assert!(
            words.contains("-c protocol.allow=never -c protocol.https.allow=always fetch -- https://h/a"),
            "{words}"
        );
        assert!(!argv(None, &["init"]).join(" ").contains("always"));
    }
}
