//! docker or podman, whichever answers: commands with a deadline, images, and whom a container's processes are outside
//! of it. What runs in a container is not here.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{sleep, timeout},
};

use crate::{
    detect::find,
    spawn::{Launch, Sink, spawn},
};

/// An engine whose daemon hangs is one that does not answer.
const INFO_LIMIT: Duration = Duration::from_secs(10);
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// A gigabyte over a middling line.
const PULL_LIMIT: Duration = Duration::from_mins(8);
const TELL_EVERY: Duration = Duration::from_secs(3);
const OUTPUT_BYTES_MAX: u64 = 8 << 20;
const LINES_SHOWN: usize = 4;

/// Each engine, and the question whose answer holds the word.
const ENGINES: [(&str, &str, &str); 2] =
    [("docker", "{{json .SecurityOptions}}", "rootless"), ("podman", "{{.Host.Security.Rootless}}", "true")];

/// Which engines are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// docker, else podman.
    Auto,
    Docker,
    Podman,
}

impl EngineChoice {
    fn takes(self, program: &str) -> bool {
        match self {
            Self::Auto => true,
            Self::Docker => program == "docker",
            Self::Podman => program == "podman",
        }
    }
}

/// What an engine could not do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no container engine answers ({0}); install docker or podman, or start its service")]
    NoEngine(String),
    #[error("`{command}` {outcome}")]
    Command { command: String, outcome: String },
    #[error("the image {image} is not here, and `{program} pull {image}` {outcome}")]
    Image { program: String, image: String, outcome: String },
}

/// A container engine that answered. Its client gets the environment of this process, by which the operator tells it where
/// its daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    program: String,
    /// Runs without root's rights: root of its containers is the user who started it.
    rootless: bool,
}

impl Engine {
    /// The first that answers, its client looked for in these folders. The error says of each what it lacked.
    pub async fn find(choice: EngineChoice, path: &[PathBuf]) -> Result<Self, EngineError> {
        let mut lacking = Vec::new();
        for (name, question, word) in ENGINES.into_iter().filter(|(name, _, _)| choice.takes(name)) {
            let Some(program) = find(path, name) else {
                lacking.push(format!("{name}: not in PATH"));
                continue;
            };
            let program = program.display().to_string();
            match call(&program, &["info", "--format", question], INFO_LIMIT).await {
                Ok(answer) => return Ok(Self { program, rootless: answer.contains(word) }),
                Err(why) => lacking.push(format!("{name}: {why}")),
            }
        }
        Err(EngineError::NoEngine(lacking.join("; ")))
    }

    /// The client.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// docker or podman.
    pub fn name(&self) -> &str {
        self.program.rsplit('/').next().unwrap_or_default()
    }

    /// `user:group` inside a container that is this process's user and group outside, so that files of mode 0600 can
    /// be shared with it and what it writes can be deleted.
    pub fn own_user(&self) -> String {
        if self.rootless {
            return "0:0".to_owned();
        }
        format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid())
    }

    /// Standard output of a command that has to succeed.
    pub async fn run(&self, args: &[&str]) -> Result<String, EngineError> {
        call(&self.program, args, CALL_LIMIT).await.map_err(|outcome| EngineError::Command {
            command: format!("{} {}", self.name(), args.first().copied().unwrap_or_default()),
            outcome,
        })
    }

    /// The image's id. Fetches it unless it is here; `tell` hears that, and how long it takes.
    pub async fn have(&self, image: &str, tell: &(dyn Fn(&str) + Send + Sync)) -> Result<String, EngineError> {
        if let Ok(id) = self.id_of(image).await {
            return Ok(id);
        }
        let name = self.name();
        tell(&format!("{name} fetches {image}"));
        let begun = Instant::now();
        let still = || tell(&format!("{name} fetches {image}, {} s", begun.elapsed().as_secs()));
        let pulled = pull(&self.program, image, still).await;
        let failed = |outcome| EngineError::Image { program: name.to_owned(), image: image.to_owned(), outcome };
        pulled.map_err(failed)?;
        tell(&format!("{name} fetched {image} in {:.1} s", begun.elapsed().as_secs_f32()));
        self.id_of(image).await
    }

    async fn id_of(&self, image: &str) -> Result<String, EngineError> {
        let id = self.run(&["image", "inspect", "--format", "{{.Id}}", image]).await?;
        Ok(id.trim().to_owned())
    }
}

async fn pull(program: &str, image: &str, still: impl Fn()) -> Result<String, String> {
    let telling = async {
        loop {
            sleep(TELL_EVERY).await;
            still();
        }
    };
    let args = ["pull", "--quiet", image];
    tokio::select! {
        pulled = call(program, &args, PULL_LIMIT) => pulled,
        never = telling => never,
    }
}

/// Standard output, or what went wrong.
async fn call(program: &str, args: &[&str], limit: Duration) -> Result<String, String> {
    let launch = Launch {
        argv: std::iter::once(program).chain(args.iter().copied()).map(str::to_owned).collect(),
        env: [("LC_ALL".to_owned(), "C".to_owned())].into(),
        inherits_env: true,
        cwd: "/".into(),
        stdin: None,
        sink: Sink::Pipes,
        dies_with_handle: true,
    };
    let mut child = spawn(launch).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "not installed".to_owned(),
        _ => error.to_string(),
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async { tokio::join!(collect(stdout), collect(stderr), child.wait()) };
    let Ok((stdout, stderr, status)) = timeout(limit, work).await else {
        return Err(format!("gave no answer within {} s", limit.as_secs()));
    };
    let status = status.map_err(|error| error.to_string())?;
    if status.success() { Ok(stdout) } else { Err(format!("ended with {status}: {}", last_lines(&stderr))) }
}

/// What cannot be read is left out: the status says how it went.
async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn what_each_engine_lacks_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = [folder.path().to_owned()];
        let why = Engine::find(EngineChoice::Auto, &path).await.unwrap_err().to_string();
        assert!(why.contains("docker: not in PATH; podman: not in PATH"), "{why}");
        assert!(why.contains("install docker or podman"), "{why}");
        script(folder.path(), "docker", "echo no daemon >&2; exit 1");
        let why = Engine::find(EngineChoice::Docker, &path).await.unwrap_err().to_string();
        assert!(why.contains("no daemon") && !why.contains("podman:"), "{why}");
    }

    #[tokio::test]
    async fn the_first_that_answers_is_taken_and_root_of_a_rootless_one_is_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = [folder.path().to_owned()];
        script(folder.path(), "docker", "exit 1");
        script(folder.path(), "podman", "echo true");
        let engine = Engine::find(EngineChoice::Auto, &path).await.unwrap();
        assert_eq!((engine.name(), engine.own_user().as_str()), ("podman", "0:0"));
        script(folder.path(), "docker", "echo '[\"name=seccomp\"]'");
        let engine = Engine::find(EngineChoice::Auto, &path).await.unwrap();
        assert_eq!(engine.name(), "docker");
        assert!(engine.own_user().starts_with(&format!("{}:", nix::unistd::geteuid())));
    }

    #[tokio::test]
    async fn an_image_is_fetched_only_if_it_is_not_here() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("here");
        let answer = format!(
            "case $1 in info) echo none;; image) test -e {0} && echo sha256:1;; pull) touch {0};; esac",
            here.display()
        );
        script(folder.path(), "docker", &answer);
        let engine = Engine::find(EngineChoice::Docker, &[folder.path().to_owned()]).await.unwrap();
        let told = std::sync::Mutex::new(Vec::new());
        let tell = |line: &str| told.lock().unwrap().push(line.to_owned());
        assert_eq!(engine.have("debian:12", &tell).await.unwrap(), "sha256:1");
        assert_eq!(told.lock().unwrap().len(), 2, "{told:?}");
        assert_eq!(engine.have("debian:12", &tell).await.unwrap(), "sha256:1");
        assert_eq!(told.lock().unwrap().len(), 2, "it was here");
        script(folder.path(), "docker", "case $1 in pull) echo no such host >&2;; esac; exit 1");
        let why = engine.have("debian:13", &tell).await.unwrap_err().to_string();
        assert!(why.starts_with("the image debian:13 is not here, and `docker pull debian:13` ended with"), "{why}");
        assert!(why.contains("no such host"), "{why}");
    }
}
