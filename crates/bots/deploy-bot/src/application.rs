//! The one application of an environment: started, stopped, found again, and what it printed. It outlives the bot; which
//! release it should be is the journal's to say.
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use bot_core::Tools;
use bot_messages::pipeline::Serve;
use bot_sandbox::{Application, Options, Sandbox, SandboxError, Search, Served, Toolchains, split_path};
use sha2::{Digest as _, Sha256};

use crate::{
    environments::Environment,
    history::History,
    release::Releases,
    settings::{Ports, Settings},
};

const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 40;
const TAIL_LINE_CHARS: usize = 300;
/// Instead of the configured grace, when the bot itself is waited for.
const HURRIED_GRACE: Duration = Duration::from_secs(3);

/// Starts and stops applications; one for all environments of the bot.
pub(crate) struct Host {
    pub(crate) sandbox: Sandbox,
    pub(crate) toolchains: Toolchains,
    stop_grace: Duration,
    /// Those that one is picked from.
    ports: Ports,
    listen: IpAddr,
}

/// An application that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) served: Served,
    pub(crate) port: u16,
}

impl Host {
    pub(crate) async fn new(tools: &Tools, settings: &Settings) -> Result<Self, SandboxError> {
        let home = tools.home.as_deref().unwrap_or(Path::new("/"));
        let toolchains = Toolchains::find(&Search::new(&tools.path, home, &tools.toolchain_env));
        let sandbox = Sandbox::detect(Options {
            owner: "deploy-bot".to_owned(),
            bwrap: tools.bwrap.clone(),
            path: split_path(&tools.path),
            state: tools.subdir("sandbox"),
            launcher: Some(Options::own_program()),
            kind: settings.sandbox,
        });
        let sandbox = sandbox.await?;
        tools.sandbox_is(sandbox.kind().as_str(), sandbox.weaknesses(), sandbox.process_bound());
        let (stop_grace, ports, listen) = (settings.stop_grace.0, settings.ports, settings.listen);
        Ok(Self { sandbox, toolchains, stop_grace, ports, listen })
    }

    /// The application of the switch `seq`, if it runs.
    pub(crate) fn find(environment: &Environment, seq: u64) -> Result<Option<Running>, SandboxError> {
        let found = Served::adopt(&record(environment))?.filter(|served| served.id() == id(environment, seq));
        Ok(found.zip(kept_port(environment)).map(|(served, port)| Running { served, port }))
    }

    /// Makes the application of the switch `seq` the one that runs: finds it, or ends what is there and starts it.
    pub(crate) async fn run(
        &self,
        environment: &Environment,
        history: &History,
        seq: u64,
        release: PathBuf,
        serve: &Serve,
    ) -> anyhow::Result<Running> {
        if let Ok(Some(running)) = Self::find(environment, seq) {
            return Ok(running);
        }
        // Without a record everything was ended in order, and looking for strays takes its time.
        if record(environment).exists() {
            self.stop(environment, history, false).await?;
        }
        let port = self.claim_port(environment)?;
        let logs = environment.root.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("{} cannot be made", logs.display()))?;
        let mut env = serve.env.clone();
        env.insert("HOST".to_owned(), self.listen.to_string());
        env.insert("PORT".to_owned(), port.to_string());
        let application = Application {
            id: id(environment, seq),
            argv: ["sh", "-c", &serve.run].map(str::to_owned).to_vec(),
            release,
            data: environment.root.join("data"),
            env,
            toolchains: self.toolchains.clone(),
            limits: environment.limits.clone(),
            log_file: log_file(environment, seq),
            record: record(environment),
        };
        let served = match self.sandbox.serve(application.clone()).await {
            // A bot died between the start and the record: whatever it started ends before this start.
            Err(SandboxError::AlreadyServed { id, .. }) => {
                self.sandbox.stop_by_id(&id, self.stop_grace).await?;
                self.sandbox.serve(application).await
            }
            served => served,
        };
        Ok(Running { served: served?, port })
    }

    /// Ends whatever runs in the environment; `hurried` leaves it less time to end by itself.
    pub(crate) async fn stop(
        &self,
        environment: &Environment,
        history: &History,
        hurried: bool,
    ) -> Result<(), SandboxError> {
        let record = record(environment);
        let grace = if hurried { self.stop_grace.min(HURRIED_GRACE) } else { self.stop_grace };
        match Served::adopt(&record) {
            Ok(Some(served)) => return served.stop(grace).await,
            Ok(None) | Err(SandboxError::BadRecord { .. }) => {}
            Err(error) => return Err(error),
        }
        // Without the process that the record names, its children may still be there, known by their id. A record that
        // is there may be of the newest switch or, if that one was not started, of the one before.
        let count = if record.exists() { 2 } else { 1 };
        for seq in history.applications(count) {
            self.sandbox.stop_by_id(&id(environment, seq), grace).await?;
        }
        // A broken record would be in the way of the next start; one that is left over is rewritten by it.
        let _ = fs::remove_file(record);
        Ok(())
    }

    /// The operator's port; or the one of before, so that the address stays; or the first free one from a place that
    /// depends on the folder alone.
    fn claim_port(&self, environment: &Environment) -> anyhow::Result<u16> {
        let free = |port: &u16| TcpListener::bind((self.listen, *port)).is_ok();
        let kept = kept_port(environment);
        let port = if let Some(port) = environment.port {
            anyhow::ensure!(
                free(&port),
                "port {port} is taken by another program: end that one, or give {} another port in environments.yaml",
                environment.name
            );
            port
        } else {
            let folder = Sha256::digest(environment.root.as_os_str().as_encoded_bytes());
            let kept = kept.filter(|port| self.ports.holds(*port));
            let picked = self.ports.beginning_by(u16::from_be_bytes([folder[6], folder[7]]));
            let port = kept.into_iter().chain(picked).find(free);
            port.with_context(|| format!("none of the ports {} is free", self.ports))?
        };
        if kept != Some(port) {
            let new = environment.root.join(".port.new");
            let kept =
                fs::write(&new, format!("{port}\n")).and_then(|()| fs::rename(&new, environment.root.join("port")));
            kept.context("the port cannot be written down")?;
        }
        Ok(port)
    }
}

fn record(environment: &Environment) -> PathBuf {
    environment.root.join("serve.json")
}

fn log_file(environment: &Environment, seq: u64) -> PathBuf {
    environment.root.join("logs").join(format!("{seq}.log"))
}

/// Unique on the machine, where several fleets may have an environment `local`; and the id tells which switch started
/// the application, so that a record alone says whether it is the right one.
fn id(environment: &Environment, seq: u64) -> String {
    let folder = Sha256::digest(environment.root.as_os_str().as_encoded_bytes());
    format!("{}:{}:{seq}", environment.name, hex::encode(&folder[..6]))
}

/// The port under which an application was started last.
pub(crate) fn kept_port(environment: &Environment) -> Option<u16> {
    fs::read_to_string(environment.root.join("port")).ok()?.trim().parse().ok()
}

/// The last lines an application printed, without what could move a terminal's cursor.
pub(crate) fn log_tail(environment: &Environment, seq: u64) -> Vec<String> {
    let bytes = read_tail(&log_file(environment, seq)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> =
        text.lines().map(|line| line.chars().filter(|c| !c.is_control()).take(TAIL_LINE_CHARS).collect()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}

fn read_tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes what no release or application of the environment needs any more.
pub(crate) fn prune(environment: &Environment, history: &History) -> anyhow::Result<()> {
    Releases::in_folder(&environment.root).prune(&history.kept(environment.keep))?;
    let kept: Vec<String> = history.newest(environment.keep).iter().map(|seq| format!("{seq}.log")).collect();
    let logs = match fs::read_dir(environment.root.join("logs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        logs => logs?,
    };
    for entry in logs {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `7.log.1` is the older half of `7.log`.
        if !kept.iter().any(|log| name == *log || name.strip_prefix(log.as_str()) == Some(".1")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
