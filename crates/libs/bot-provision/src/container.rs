//! A RabbitMQ in a container: started, found again, stopped. It is reached from this machine alone, keeps what it has
//! in a folder, and is this user's outside, so that nothing it leaves needs root to be deleted.

mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::command::last_lines;
use crate::lock::{FileLock, lock};
use crate::ports::{PortError, free_ports};
use crate::ready::{readiness, taken};
use crate::settings::{self, ERLANG_ARGUMENTS, LogTo};
use crate::{Management, ManagementError, Progress, Secret};
use bot_sandbox::{Engine, EngineError};
use files::Record;

const START_LIMIT: Duration = Duration::from_mins(2);
/// The engine kills what has not ended by then.
const STOP_SECONDS: &str = "30";
const GONE_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(300);
const TELL_EVERY: Duration = Duration::from_secs(3);
const LOG_LINES_SHOWN: usize = 25;
/// Its value is the folder, which no two containers share.
const LABEL: &str = "lotabots.broker";
/// Erlang sizes its tables by this; some engines allow a thousand million.
const OPEN_FILES: &str = "nofile=4096:4096";
/// Its output goes where it can be read after the container is gone. The image's own entry point is left out, since it
/// would change to a user who may not read our files.
const COMMAND: &str = "exec rabbitmq-server >/var/log/rabbitmq/console.log 2>&1";

#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}; fetch it where there is a network, or name one that is here in LOTA_BROKER_IMAGE")]
    Image(EngineError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(
        "expected port {port} of 127.0.0.1 to be free for the broker of {dir}, but another program listens on it; end \
         that program (see `ss -ltnp`)"
    )]
    PortTaken { port: u16, dir: PathBuf },
    #[error("the broker's container of {dir} ended while it started; its last lines:\n{log}")]
    Ended { dir: PathBuf, log: String },
    #[error(
        "the broker's container of {dir} was not ready after {seconds} s (last answer: {last}); it has been removed. Its \
         last lines:\n{log}"
    )]
    NotReady { dir: PathBuf, seconds: u64, last: String, log: String },
    #[error(
        "expected the container {name} to be gone within {seconds} s, and it is not: `{program} rm --force {name}`"
    )]
    Unstoppable { program: String, name: String, seconds: u64 },
    #[error("cannot use {path} for the broker's container: {source}; make it writable or choose another folder")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Management(#[from] ManagementError),
}

/// How a broker's container is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerOptions {
    pub image: String,
    pub vhost: String,
    /// The broker's only user at first; its password lies in `<dir>/admin.password` (mode 0600).
    pub admin: String,
    /// For messages; the container gets twice as much.
    pub memory_mib: u32,
    pub disk_free_mb: u32,
}

impl ContainerOptions {
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            vhost: "lota".to_owned(),
            admin: "lota-admin".to_owned(),
            memory_mib: 512,
            disk_free_mb: 50,
        }
    }
}

/// A broker that was running when this value was made. Dropping it leaves it running.
#[derive(Debug)]
pub struct Container {
    /// Everything it keeps lies here.
    dir: PathBuf,
    record: Record,
    password: Secret,
}

impl Container {
    /// Writes what a container starts from that somebody else runs, as Compose does: `<dir>/config` for /etc/rabbitmq,
    /// `<dir>/data` for /var/lib/rabbitmq. It logs to its standard output. Gives the password of the admin, which is made
    /// once and kept in `<dir>/admin.password`; the container needs the other two folders alone.
    pub fn prepare(dir: &Path, options: &ContainerOptions) -> Result<Secret, ContainerError> {
        let dir = files::create(dir)?;
        files::write(&dir, options, LogTo::Console)
    }

    /// Starts the container of `dir`, or attaches to it when it runs already. Returns when it answers on AMQP and HTTP
    /// with its vhost and admin in place.
    pub async fn start(
        dir: &Path,
        engine: Engine,
        options: ContainerOptions,
        progress: Progress<'_>,
    ) -> Result<Self, ContainerError> {
        let dir = files::create(dir)?;
        let held = Self::lock(&dir, progress).await?;
        if let Some(running) = Self::attach(&dir).await? {
            running.wait_until_ready(progress).await?;
            return Ok(running);
        }
        engine.have(&options.image, progress).await.map_err(|error| match error {
            EngineError::Image { .. } => ContainerError::Image(error),
            other => other.into(),
        })?;
        let (amqp_port, management_port) = match Record::read(&dir)? {
            Some(earlier) => (earlier.amqp_port, earlier.management_port),
            None => free_ports::<2>()?.into(),
        };
        if let Some(port) = taken(&[amqp_port, management_port]).await {
            return Err(ContainerError::PortTaken { port, dir });
        }
        let password = files::write(&dir, &options, LogTo::File)?;
        let record = Record { engine, options, amqp_port, management_port, is_wanted: true };
        // Before anything runs: should this process die now, the container is found all the same.
        record.write(&dir)?;
        let container = Self { dir, record, password };
        let started = container.launch(held, progress).await;
        if started.is_err() {
            // The first error is the one to show.
            let _ = remove(&container.record.engine, &container.dir).await;
        }
        started.map(|()| container)
    }

    /// The container of `dir` if it runs, whoever started it.
    pub async fn attach(dir: &Path) -> Result<Option<Self>, ContainerError> {
        let Some(record) = Record::read(dir)? else {
            return Ok(None);
        };
        let dir = dir.canonicalize().map_err(|source| at(dir, source))?;
        if state(&record.engine, &dir).await?.as_deref() != Some("running") {
            return Ok(None);
        }
        let password = settings::password(&dir).map_err(|source| at(&dir, source))?;
        Ok(Some(Self { dir, record, password }))
    }

    /// Starts the container of `dir` again if it died: it was started, nobody stopped it, and it does not run.
    pub async fn revive(dir: &Path, progress: Progress<'_>) -> Result<bool, ContainerError> {
        let Some(record) = Record::read(dir)?.filter(|record| record.is_wanted) else {
            return Ok(false);
        };
        if Self::attach(dir).await?.is_some() {
            return Ok(false);
        }
        Self::start(dir, record.engine, record.options, progress).await?;
        Ok(true)
    }

    /// Stops the container of `dir`, be it ready or half started. `false`: there was none.
    pub async fn end(dir: &Path, progress: Progress<'_>) -> Result<bool, ContainerError> {
        if Record::read(dir)?.is_none_or(|record| !record.is_wanted) {
            return Ok(false);
        }
        let _held = Self::lock(dir, progress).await?;
        if let Some(mut running) = Self::attach(dir).await? {
            running.stop().await?;
            return Ok(true);
        }
        let Some(mut record) = Record::read(dir)? else {
            return Ok(false);
        };
        let dir = dir.canonicalize().map_err(|source| at(dir, source))?;
        remove(&record.engine, &dir).await?;
        record.is_wanted = false;
        record.write(&dir)?;
        Ok(false)
    }

    pub fn amqp_port(&self) -> u16 {
        self.record.amqp_port
    }

    pub fn management_port(&self) -> u16 {
        self.record.management_port
    }

    pub fn vhost(&self) -> &str {
        &self.record.options.vhost
    }

    pub fn admin(&self) -> &str {
        &self.record.options.admin
    }

    pub fn admin_password(&self) -> &Secret {
        &self.password
    }

    /// As the engine calls it.
    pub fn name(&self) -> String {
        name(&self.dir)
    }

    /// A client with the admin's rights.
    pub fn management(&self) -> Result<Management, ContainerError> {
        let url = format!("http://127.0.0.1:{}", self.management_port());
        Ok(Management::new(&url, self.admin(), self.password.clone(), None)?)
    }

    /// Ends it as RabbitMQ wants it, by force after 30 s. Ports, queues and messages stay for the next start.
    pub async fn stop(&mut self) -> Result<(), ContainerError> {
        self.record.is_wanted = false;
        self.record.write(&self.dir)?;
        self.record.engine.run(&["stop", "-t", STOP_SECONDS, &self.name()]).await?;
        // The engine removes it a moment after it ended; until then the name is taken.
        let begun = Instant::now();
        while state(&self.record.engine, &self.dir).await?.is_some() {
            if begun.elapsed() > GONE_LIMIT {
                let (program, seconds) = (self.record.engine.name().to_owned(), GONE_LIMIT.as_secs());
                return Err(ContainerError::Unstoppable { program, name: self.name(), seconds });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn launch(&self, held: FileLock, progress: Progress<'_>) -> Result<(), ContainerError> {
        let (engine, dir, arguments) = (self.record.engine.clone(), self.dir.clone(), self.arguments());
        // By itself: were this dropped while the engine works, a container would come to be that nobody knows of. With
        // the lock, so that `end` waits for it.
        let run = tokio::spawn(async move {
            // One that ended and was not removed, as after a crash of the engine.
            remove(&engine, &dir).await?;
            let ran = engine.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
            ran.map(|_| held).map_err(ContainerError::from)
        });
        let _held = run.await.map_err(|error| at(&self.dir, io::Error::other(error)))??;
        self.wait_until_ready(progress).await
    }

    async fn lock(dir: &Path, progress: Progress<'_>) -> Result<FileLock, ContainerError> {
        let held = lock(&dir.join("lock"), START_LIMIT, "starts the same broker", progress).await;
        held.map_err(|source| at(dir, source))
    }

    /// Everyone of this machine can read them, here and by `inspect`: they hold no secret.
    fn arguments(&self) -> Vec<String> {
        let Record { engine, options, amqp_port, management_port, .. } = &self.record;
        let dir = self.dir.display();
        let mut all: Vec<String> =
            ["run", "--detach", "--rm", "--pull", "never", "--cap-drop", "ALL"].map(Into::into).into();
        // `Z` relabels where SELinux is in force, and means nothing elsewhere.
        for (option, value) in [
            ("--name", self.name()),
            ("--label", format!("{LABEL}={dir}")),
            ("--hostname", "lota-broker".to_owned()),
            ("--user", engine.own_user()),
            ("--security-opt", "no-new-privileges".to_owned()),
            ("--memory", format!("{}m", options.memory_mib * 2)),
            ("--ulimit", OPEN_FILES.to_owned()),
            ("--publish", format!("127.0.0.1:{amqp_port}:{}", files::AMQP)),
            ("--publish", format!("127.0.0.1:{management_port}:{}", files::MANAGEMENT)),
            ("--volume", format!("{dir}/config:{}:ro,Z", files::CONFIG)),
            ("--volume", format!("{dir}/data:{}:Z", files::DATA)),
            ("--volume", format!("{dir}/log:{}:Z", files::LOG)),
            ("--env", format!("HOME={}", files::DATA)),
            ("--env", "LANG=C.UTF-8".to_owned()),
            ("--env", "RABBITMQ_NODENAME=lota@localhost".to_owned()),
            ("--env", format!("RABBITMQ_LOG_BASE={}", files::LOG)),
            // The script becomes the node, which then gets the engine's signal to stop.
            ("--env", "RUNNING_UNDER_SYSTEMD=true".to_owned()),
            ("--env", "ERL_EPMD_ADDRESS=127.0.0.1".to_owned()),
            ("--env", format!("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={ERLANG_ARGUMENTS}")),
            ("--entrypoint", "/bin/sh".to_owned()),
        ] {
            all.extend([option.to_owned(), value]);
        }
        all.extend([options.image.clone(), "-c".to_owned(), COMMAND.to_owned()]);
        all
    }

    async fn wait_until_ready(&self, progress: Progress<'_>) -> Result<(), ContainerError> {
        let (begun, management, dir) = (Instant::now(), self.management()?, self.dir.clone());
        let mut told = begun;
        while let Err(last) =
            readiness(&management, self.vhost(), self.amqp_port(), self.management_port(), false).await
        {
            if state(&self.record.engine, &self.dir).await?.as_deref() != Some("running") {
                return Err(ContainerError::Ended { dir, log: self.last_log_lines() });
            }
            if begun.elapsed() > START_LIMIT {
                let (seconds, log) = (START_LIMIT.as_secs(), self.last_log_lines());
                return Err(ContainerError::NotReady { dir, seconds, last, log });
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                progress(&format!("RabbitMQ starts in its container, {} s: {last}", begun.elapsed().as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (name, port, seconds) = (self.name(), self.amqp_port(), begun.elapsed().as_secs_f32());
        progress(&format!("RabbitMQ is ready in container {name} on 127.0.0.1:{port} after {seconds:.1} s"));
        Ok(())
    }

    fn last_log_lines(&self) -> String {
        let texts = files::logs(&self.dir).map(|path| std::fs::read(path).unwrap_or_default());
        texts.map(|text| last_lines(&String::from_utf8_lossy(&text), LOG_LINES_SHOWN)).join("\n")
    }
}

/// What the engine says of the container of `dir`; none where it has none.
async fn state(engine: &Engine, dir: &Path) -> Result<Option<String>, ContainerError> {
    let filter = format!("label={LABEL}={}", dir.display());
    let listed = engine.run(&["ps", "--all", "--filter", &filter, "--format", "{{.State}}"]).await?;
    Ok(listed.lines().next().map(|line| line.trim().to_lowercase()))
}

async fn remove(engine: &Engine, dir: &Path) -> Result<(), ContainerError> {
    if state(engine, dir).await?.is_some() {
        engine.run(&["rm", "--force", &name(dir)]).await?;
    }
    Ok(())
}

/// After the folder: two folders have two containers, and people see whose it is by the label.
fn name(dir: &Path) -> String {
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    let short = digest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    format!("lota-broker-{short:08x}")
}

fn at(path: &Path, source: io::Error) -> ContainerError {
    ContainerError::Io { path: path.to_owned(), source }
}
