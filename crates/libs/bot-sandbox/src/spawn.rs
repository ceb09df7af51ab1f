//! The one place of the workspace that starts processes. Knows threads and pipes, not sandboxes.
#![allow(clippy::disallowed_methods, reason = "the home of processes")]

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, PipeWriter, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

use crate::proc::{self, Identity};

/// In the environment of every run, so that the guardian finds what belongs to its sandbox.
pub(crate) const INSTANCE_MARKER: &str = "LOTA_RUN_BY";

pub(crate) enum Sink {
    Pipes,
    File(File),
    Nothing,
}

/// All of a process that the caller decides. The first word is an absolute path.
pub(crate) struct Launch {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// Also what this process has in its own environment: for the machine's own programs alone.
    pub(crate) inherits_env: bool,
    pub(crate) cwd: PathBuf,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) sink: Sink,
    pub(crate) dies_with_handle: bool,
}

type Job = (Launch, Handle, oneshot::Sender<io::Result<Child>>);

/// Starts it from a thread that lives as long as this process: a death signal set with `prctl` fires when the *thread*
/// that forked ends, and threads of a runtime come and go.
pub(crate) async fn spawn(launch: Launch) -> io::Result<Child> {
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    spawner()?.send((launch, Handle::current(), reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn spawner() -> io::Result<mpsc::Sender<Job>> {
    static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);
    let mut slot = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*slot {
        return Ok(sender.clone());
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new().name("spawner".into()).spawn(move || {
        for (launch, runtime, reply) in jobs {
            let _inside = runtime.enter();
            // If nobody waits any more, the handle is dropped and kills the child.
            let _ = reply.send(start(launch));
        }
    })?;
    *slot = Some(sender.clone());
    Ok(sender)
}

fn start(launch: Launch) -> io::Result<Child> {
    let (program, arguments) = launch.argv.split_first().ok_or_else(|| io::Error::other("no program to start"))?;
    let mut command = Command::new(program);
    if !launch.inherits_env {
        command.env_clear();
    }
    command.args(arguments).envs(&launch.env).current_dir(&launch.cwd).kill_on_drop(launch.dies_with_handle);
    command.stdin(launch.stdin.map_or_else(Stdio::null, Stdio::from));
    match launch.sink {
        Sink::Pipes => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        Sink::File(file) => {
            let copy = file.try_clone()?;
            command.stdout(file).stderr(copy)
        }
        Sink::Nothing => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    let child = command.spawn()?;
    if let Some(identity) = child.id().and_then(|pid| proc::identity(pid as i32)) {
        let mut children = own_children();
        children.retain(|known| proc::identity(known.pid) == Some(*known));
        children.insert(identity);
    }
    Ok(child)
}

/// Runs a program of the machine to its end, without a runtime: for what is cleared up when a value is dropped.
pub(crate) fn finish_alone(argv: &[String]) -> io::Result<()> {
    let (program, arguments) = argv.split_first().ok_or_else(|| io::Error::other("no program to start"))?;
    let ended = std::process::Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} ended with {}: {said}", ended.status)))
}

/// Started here, so waited for by its handle; a second one who waits would take its exit status away.
pub(crate) fn is_own_child(identity: Identity) -> bool {
    own_children().contains(&identity)
}

fn own_children() -> MutexGuard<'static, HashSet<Identity>> {
    static CHILDREN: LazyLock<Mutex<HashSet<Identity>>> = LazyLock::new(Mutex::default);
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of its input, which comes when our process ends however it ends; then kills the groups last
/// named, and whatever carries our instance in its environment, until a round finds nothing.
const GUARDIAN: &str = r#"
groups=
while read -r line; do groups=$line; done
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  for group in $groups; do kill -KILL -- "-$group"; done
  found=$(grep -lF "$1" /proc/[0-9]*/environ)
  [ -n "$found" ] || exit 0
  for file in $found; do
    pid=${file#/proc/}
    kill -KILL "${pid%/environ}"
  done
done
"#;

/// Ends the process-group runs of one sandbox when this process is killed and can no longer do so. A death signal reaches only
/// the first process of a run; bubblewrap needs no guardian.
pub(crate) struct Guardian {
    line: Mutex<(PipeWriter, Vec<i32>)>,
    // Held, not used: dropping it would hand the child to whoever reaps orphans.
    _child: Child,
}

impl Guardian {
    pub(crate) async fn start(setsid: &str, shell: &str, path: &str, instance: &str) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let marker = format!("{INSTANCE_MARKER}={instance}");
        let launch = Launch {
            argv: [setsid, shell, "-c", GUARDIAN, "lota-guardian", &marker].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
            inherits_env: false,
            cwd: "/".into(),
            stdin: Some(reader.into()),
            sink: Sink::Nothing,
            dies_with_handle: false,
        };
        Ok(Self { _child: spawn(launch).await?, line: Mutex::new((writer, Vec::new())) })
    }

    /// Until the answer is dropped: its number may then become another's.
    pub(crate) fn watch(&self, group: i32) -> Watched<'_> {
        self.tell(|groups| groups.push(group));
        Watched { guardian: self, group }
    }

    fn tell(&self, change: impl FnOnce(&mut Vec<i32>)) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut line.1);
        let text = line.1.iter().map(i32::to_string).collect::<Vec<_>>().join(" ") + "\n";
        if let Err(error) = line.0.write_all(text.as_bytes()) {
            tracing::warn!(%error, "the guardian is gone; runs are not ended if this process is killed");
        }
    }
}

pub(crate) struct Watched<'a> {
    guardian: &'a Guardian,
    group: i32,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.guardian.tell(|groups| groups.retain(|known| *known != self.group));
    }
}
