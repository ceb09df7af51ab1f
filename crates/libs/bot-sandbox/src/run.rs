//! One run from start to the death of its last process. Knows the kinds by their plan only.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::DirBuilderExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{
    process::Child,
    task::{self, JoinHandle},
    time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Bind, Command, Ending, Outcome, Program, Sandbox, SandboxError, SandboxKind, Workspace,
    bubblewrap::{self, Bubblewrap, Interior, Status},
    command::invalid,
    container::{self, Container, Ended},
    detect::{SYSTEM_PATH, Walls},
    family::{Family, KILL_WAIT, Marker, RUN_MARKER, reap_adopted},
    landlock::{Cell, Landlock, Report},
    launcher::SUPERVISE,
    output::{Heard, Output, lock},
    proc,
    process_group::{limit_words, link, process_words},
    spawn::{INSTANCE_MARKER, Launch, Sink, spawn},
    weigh::{Around, weigh},
};

/// Between SIGTERM and SIGKILL, so that all is dead within five seconds.
const TERM_GRACE: Duration = Duration::from_secs(4);
/// How often memory and processes are counted.
const POLL: Duration = Duration::from_millis(100);
/// How long pid 1 of a namespace may take to end after bwrap did.
const NAMESPACE_WAIT: Duration = Duration::from_millis(500);
/// How long output is read on after the last process died; a full channel could hold it for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// A run that is about to start.
pub(crate) struct Plan {
    pub(crate) launch: Launch,
    pub(crate) keeper: Keeper,
    pub(crate) marker: Marker,
    /// Removed afterwards.
    pub(crate) tmp: Option<PathBuf>,
}

/// Who looks after the command beside us, and tells how it started.
pub(crate) enum Keeper {
    Bubblewrap(Status),
    Launcher(Report),
    Container(Container),
    Nobody,
}

impl Keeper {
    /// What it said where the command was not started, once it has ended by itself.
    fn failure(&self) -> Option<String> {
        match self {
            Self::Bubblewrap(status) => (!status.has_started()).then(String::new),
            Self::Launcher(report) => report.confined_by().err(),
            Self::Container(_) | Self::Nobody => None,
        }
    }

    fn around(&self) -> Around {
        match self {
            Self::Bubblewrap(_) => SandboxKind::Bubblewrap.into(),
            Self::Launcher(_) => SandboxKind::Landlock.into(),
            // The engine counts what lies in its folders.
            Self::Container(_) => Around { own_processes: container::OWN_PROCESSES, has_folders: false },
            Self::Nobody => SandboxKind::ProcessGroup.into(),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Peak {
    memory_bytes: u64,
    processes: u32,
}

enum Cause {
    Itself(ExitStatus),
    Us(Ending),
}

impl Sandbox {
    /// Runs it to its end. Everything it started is dead when this returns, or soon after the future is dropped, or
    /// this process dies. How it ended is in the outcome; an error means that it could not be run.
    pub async fn run(&self, command: Command) -> Result<Outcome, SandboxError> {
        self.run_confined(command).await.map(|(outcome, _)| outcome)
    }

    /// Also says by which version of landlock it was confined.
    pub(crate) async fn run_confined(&self, command: Command) -> Result<(Outcome, Option<u32>), SandboxError> {
        command.check()?;
        if command.cancel.is_cancelled() {
            let outcome = Outcome {
                ending: Ending::Cancelled,
                wall: Duration::ZERO,
                memory_peak_bytes: 0,
                processes_peak: 0,
                output_bytes: 0,
                tail: Vec::new(),
                survivors: Vec::new(),
            };
            return Ok((outcome, None));
        }
        make_private(&command.workspace.home)?;
        let output = Output::new(&command)?;
        let began = Instant::now();
        let plan = match &command.image {
            Some(image) => self.plan_container(image, &command).await?,
            None => self.plan(&command)?,
        };
        let _tmp = Removed(plan.tmp);
        let guardian = match plan.keeper {
            Keeper::Nobody | Keeper::Container(_) => Some(self.guardian().await?),
            Keeper::Bubblewrap(_) | Keeper::Launcher(_) => None,
        };
        let child = spawn(plan.launch).await.map_err(SandboxError::io("start the command"))?;
        let leader = child.id().map(|pid| pid as i32).and_then(proc::identity);
        let _watched = guardian.zip(leader).map(|(guardian, leader)| guardian.watch(leader.pid));
        let family = match plan.keeper {
            // What was started is the engine's client, and none of the command's.
            Keeper::Container(_) => Family::new(plan.marker, None),
            Keeper::Launcher(_) => Family::new(plan.marker, leader).holding_leader().led_by_its_adopter(),
            _ => Family::new(plan.marker, leader).holding_leader(),
        };
        let family = Leash(Some(Arc::new(Mutex::new(family))));
        let run = Run {
            child,
            leader: leader.map_or(0, |identity| identity.pid),
            keeper: plan.keeper,
            exceeded: output.exceeded.clone(),
            heard: output.heard(),
            family,
            peak: Peak::default(),
        };
        run.finish(&command, output, began).await
    }

    fn plan(&self, command: &Command) -> Result<Plan, SandboxError> {
        let run = self.next_run();
        let id = format!("{}/{}/{run}", self.inner.owner, command.label);
        let tools = &self.inner.tools;
        let markers = BTreeMap::from([
            (RUN_MARKER.to_owned(), id.clone()),
            (INSTANCE_MARKER.to_owned(), self.inner.instance.clone()),
        ]);
        let marker = Marker::exact(RUN_MARKER, id);
        if let Walls::Bubblewrap(bubblewrap) = &self.inner.walls {
            return self.plan_bubblewrap(bubblewrap, command, markers, marker);
        }
        for bind in &command.read_write {
            link(bind, &command.workspace)?;
        }
        if let Walls::Landlock(landlock) = &self.inner.walls {
            return self.plan_landlock(landlock, command, markers, marker);
        }
        let tmp = self.inner.state.join("tmp").join(run);
        make_private(&tmp)?;
        let home = &command.workspace.home;
        if let Some(config) = command.toolchains.cargo_config() {
            copy_cargo_config(config, home)?;
        }
        let mut argv = vec![tools.setsid.clone()];
        argv.extend(tools.setpriv_words(&["--pdeathsig", "KILL"]));
        argv.extend(limit_words(tools, &command.limits, false));
        argv.extend(self.program_words(&command.program));
        let env = environment(command, home, &tmp, markers);
        let cwd = command.workspace.tree.join(&command.cwd);
        let launch =
            Launch { argv, env, inherits_env: false, cwd, stdin: None, sink: Sink::Pipes, dies_with_handle: true };
        Ok(Plan { launch, keeper: Keeper::Nobody, marker, tmp: Some(tmp) })
    }

    fn plan_landlock(
        &self,
        landlock: &Landlock,
        command: &Command,
        markers: BTreeMap<String, String>,
        marker: Marker,
    ) -> Result<Plan, SandboxError> {
        let tools = &self.inner.tools;
        let Workspace { tree, home } = &command.workspace;
        if let Some(config) = command.toolchains.cargo_config() {
            copy_cargo_config(config, home)?;
        }
        // In HOME, so that what it holds counts as the workspace's.
        let tmp = home.join(".tmp");
        let mut readable = Cell::system(command.network);
        readable.extend(command.toolchains.read_only().iter().chain(&command.read_only).cloned());
        let mut writable = vec![tree.clone(), home.clone()];
        writable.extend(command.read_write.iter().map(|bind| bind.host.clone()));
        let cell = Cell {
            readable,
            writable,
            network: command.network,
            parent: Some(std::process::id() as i32),
            env: environment(command, home, &tmp, markers.clone()),
            tmp,
            cwd: tree.join(&command.cwd),
            argv: self.program_words(&command.program),
        };
        let (stdin, report) = Report::hand_over(&cell)?;
        let mut argv = vec![tools.setsid.clone()];
        argv.extend(limit_words(tools, &command.limits, false));
        argv.extend([landlock.program.display().to_string(), SUPERVISE.to_owned()]);
        let mut env = markers;
        env.insert("PATH".to_owned(), SYSTEM_PATH.to_owned());
        let launch = Launch {
            argv,
            env,
            inherits_env: false,
            cwd: "/".into(),
            stdin: Some(stdin),
            sink: Sink::Pipes,
            // Whoever kills the launcher first loses sight of what it would have ended.
            dies_with_handle: false,
        };
        Ok(Plan { launch, keeper: Keeper::Launcher(report), marker, tmp: None })
    }

    fn plan_bubblewrap(
        &self,
        bubblewrap: &Bubblewrap,
        command: &Command,
        markers: BTreeMap<String, String>,
        marker: Marker,
    ) -> Result<Plan, SandboxError> {
        let tools = &self.inner.tools;
        let (tree, home) = (Path::new(bubblewrap::TREE), Path::new(bubblewrap::HOME));
        let workspace = &command.workspace;
        let mut binds = vec![
            Bind { host: workspace.tree.clone(), inside: tree.to_owned() },
            Bind { host: workspace.home.clone(), inside: home.to_owned() },
        ];
        for bind in &command.read_write {
            for own in binds.iter().take(2) {
                if let Ok(below) = bind.inside.strip_prefix(&own.inside) {
                    bubblewrap::prepare_mount_point(&own.host, below, &bind.host)?;
                }
            }
            binds.push(bind.clone());
        }
        let read_only: Vec<PathBuf> =
            command.toolchains.read_only().iter().chain(&command.read_only).cloned().collect();
        if let Some(missing) = read_only.iter().find(|path| !path.exists()) {
            return Err(invalid("read_only", "a path that exists", missing.display()));
        }
        let mut argv = process_words(tools, &command.limits);
        argv.extend(self.program_words(&command.program));
        let interior = Interior {
            read_only,
            read_write: binds,
            cargo_config: command.toolchains.cargo_config(),
            env: environment(command, home, Path::new("/tmp"), markers.clone()),
            cwd: tree.join(&command.cwd),
            memory_bytes: command.limits.memory_bytes,
            network: command.network,
            dies_with_parent: true,
            argv,
        };
        let (words, stdin, status) = bubblewrap.wrap(tools, &interior)?;
        // Outside, where no variable of the command's has a say: a library of `LD_PRELOAD` would come before the limits.
        let mut argv = vec![tools.setsid.clone()];
        argv.extend(limit_words(tools, &command.limits, true));
        argv.extend(words);
        let mut env = markers;
        env.insert("PATH".to_owned(), SYSTEM_PATH.to_owned());
        let launch = Launch {
            argv,
            env,
            inherits_env: false,
            cwd: "/".into(),
            stdin: Some(stdin),
            sink: Sink::Pipes,
            dies_with_handle: true,
        };
        Ok(Plan { launch, keeper: Keeper::Bubblewrap(status), marker, tmp: None })
    }

    fn program_words(&self, program: &Program) -> Vec<String> {
        match program {
            Program::Argv(argv) => argv.clone(),
            Program::Shell(line) => vec![self.inner.tools.shell.clone(), "-c".to_owned(), line.clone()],
        }
    }
}

/// The command's own variables win over the sandbox's, markers over all.
fn environment(
    command: &Command,
    home: &Path,
    tmp: &Path,
    markers: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = command.toolchains.environment(home);
    env.insert("HOME".to_owned(), home.display().to_string());
    env.insert("PATH".to_owned(), command.toolchains.path());
    env.insert("TMPDIR".to_owned(), tmp.display().to_string());
    env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
    env.extend(command.env.clone());
    env.extend(markers);
    env
}

struct Run {
    child: Child,
    leader: i32,
    keeper: Keeper,
    exceeded: CancellationToken,
    heard: Arc<Mutex<Heard>>,
    family: Leash,
    peak: Peak,
}

impl Run {
    /// With the landlock version that held it, where that did.
    async fn finish(
        mut self,
        command: &Command,
        output: Output,
        began: Instant,
    ) -> Result<(Outcome, Option<u32>), SandboxError> {
        let mut pump = AbortOnDrop(task::spawn(output.pump(self.child.stdout.take(), self.child.stderr.take())));
        let cause = self.watch(command, began).await?;
        if let Cause::Us(Ending::TimedOut | Ending::Cancelled) = cause {
            self.ask_to_end().await;
        }
        let survivors = if self.all_have_ended(&cause).await {
            Vec::new()
        } else {
            self.family.on(|family| family.kill_all(KILL_WAIT)).await?
        };
        let ended = match &mut self.keeper {
            Keeper::Container(container) => Some(container.settle().await?),
            _ => None,
        };
        // Collects what the kernel keeps for us; a survivor of SIGKILL is left to the runtime.
        let _ = timeout(KILL_WAIT, self.child.wait()).await;
        if timeout(DRAIN, &mut pump.0).await.is_err() {
            tracing::warn!(label = command.label, "the reader of live lines is too slow; the last ones are lost");
        }
        if survivors.is_empty() {
            self.family.0 = None;
        } else {
            // The leash is dropped with its family, and so goes on hunting.
            tracing::error!(label = command.label, ?survivors, "processes outlived SIGKILL");
        }
        let heard = lock(&self.heard);
        let ending = match cause {
            Cause::Us(ending) => ending,
            Cause::Itself(_) if self.exceeded.is_cancelled() => Ending::OutputExceeded,
            Cause::Itself(exit) => {
                if let Some(why) = exit.code().and_then(|_| self.keeper.failure()) {
                    let said = [why].into_iter().chain(heard.tail.iter().cloned()).filter(|line| !line.is_empty());
                    return Err(SandboxError::NotStarted { said: said.collect::<Vec<_>>().join("; ") });
                }
                match ended {
                    Some(Ended { not_started: Some(why), .. }) => {
                        let tail = || heard.tail.iter().cloned().collect::<Vec<_>>().join("; ");
                        let said = if why.is_empty() { tail() } else { why };
                        return Err(SandboxError::NotStartedInImage { said });
                    }
                    Some(ended) if ended.was_out_of_memory && !exit.success() => Ending::MemoryExceeded,
                    _ => classify(exit),
                }
            }
        };
        let abi = if let Keeper::Launcher(report) = &self.keeper { report.confined_by().ok() } else { None };
        let outcome = Outcome {
            ending,
            wall: began.elapsed(),
            memory_peak_bytes: self.peak.memory_bytes,
            processes_peak: self.peak.processes,
            output_bytes: heard.bytes,
            tail: heard.tail.iter().cloned().collect(),
            survivors,
        };
        Ok((outcome, abi))
    }

    /// Whether all there was has ended with whoever looked after it: a launcher ends it before itself, and the kernel
    /// before pid 1 of a namespace counts as dead, which dies with bwrap's outer process. False if that cannot be told;
    /// then every process has to be looked at, which is slow.
    async fn all_have_ended(&self, cause: &Cause) -> bool {
        let Cause::Itself(exit) = cause else {
            return false;
        };
        match &self.keeper {
            Keeper::Bubblewrap(status) => namespace_is_empty(status).await,
            Keeper::Launcher(_) => exit.code().is_some(),
            Keeper::Container(container) => !container.is_running().await,
            Keeper::Nobody => false,
        }
    }

    /// Until it ends, or we have to end it.
    async fn watch(&mut self, command: &Command, began: Instant) -> Result<Cause, SandboxError> {
        let deadline = (began + command.limits.time).into();
        let mut poll = interval_at((Instant::now() + POLL).into(), POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                exit = self.child.wait() => return exit.map(Cause::Itself).map_err(SandboxError::io("wait for the command")),
                () = command.cancel.cancelled() => return Ok(Cause::Us(Ending::Cancelled)),
                () = self.exceeded.cancelled() => return Ok(Cause::Us(Ending::OutputExceeded)),
                () = sleep_until(deadline) => return Ok(Cause::Us(Ending::TimedOut)),
                _ = poll.tick() => if let Some(ending) = self.weigh(command).await? {
                    return Ok(Cause::Us(ending));
                },
            }
        }
    }

    async fn weigh(&mut self, command: &Command) -> Result<Option<Ending>, SandboxError> {
        let (memory_max, processes_max) = (command.limits.memory_bytes, command.limits.processes);
        let around = self.keeper.around();
        let weighed = self.family.on(move |family| weigh(family, memory_max, processes_max, around)).await;
        let (memory_bytes, processes) = weighed?;
        self.peak.memory_bytes = self.peak.memory_bytes.max(memory_bytes);
        self.peak.processes = self.peak.processes.max(processes);
        Ok(if processes > processes_max {
            Some(Ending::ProcessesExceeded)
        } else if memory_bytes > memory_max {
            Some(Ending::MemoryExceeded)
        } else {
            None
        })
    }

    /// SIGTERM to all but the outermost process, whose end would be SIGKILL for those inside.
    async fn ask_to_end(&mut self) {
        let spared = match self.keeper {
            Keeper::Bubblewrap(_) | Keeper::Launcher(_) => vec![self.leader],
            Keeper::Container(_) | Keeper::Nobody => Vec::new(),
        };
        if self.family.on(move |family| family.signal(Signal::SIGTERM, &spared)).await.is_ok() {
            let _ = timeout(TERM_GRACE, self.child.wait()).await;
        }
    }
}

/// Whether the kernel has ended all there was: it does so before pid 1 of a namespace counts as dead. That pid 1 dies with
/// bwrap's outer process.
async fn namespace_is_empty(status: &Status) -> bool {
    let Some(init) = status.namespace_init() else {
        return false;
    };
    let deadline = Instant::now() + NAMESPACE_WAIT;
    let mut pause = Duration::from_micros(200);
    while proc::read(init).is_some_and(|process| process.is_alive()) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    reap_adopted(init);
    true
}

/// bubblewrap and shells report a signal as 128 + n.
fn classify(exit: ExitStatus) -> Ending {
    match (exit.code(), exit.signal()) {
        (Some(code @ 129..=159), _) => Ending::Signalled(code - 128),
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Signalled(signal.unwrap_or(0)),
    }
}

/// Holds a family; whoever lets go of it before its end (a dropped future) has it killed.
struct Leash(Option<Arc<Mutex<Family>>>);

impl Leash {
    /// Reads of /proc block, so they happen beside the runtime's own threads.
    async fn on<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Family) -> T + Send + 'static,
    ) -> Result<T, SandboxError> {
        let family = self.0.clone().ok_or_else(|| invalid("run", "a run that has not ended", "an ended one"))?;
        let done = task::spawn_blocking(move || act(&mut family.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| SandboxError::Io {
            doing: "look after the command's processes".to_owned(),
            source: error.into(),
        })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(family) = self.0.take() {
            let hunt = move || family.lock().unwrap_or_else(PoisonError::into_inner).kill_all(KILL_WAIT);
            if let Err(error) = thread::Builder::new().name("leash".into()).spawn(hunt) {
                tracing::error!(%error, "the processes of a dropped run could not be hunted");
            }
        }
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Removed(Option<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Makes the folder for this user alone if it is missing; leaves one that is there as it is.
pub(crate) fn make_private(path: &Path) -> Result<(), SandboxError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(SandboxError::io(format!("make {}", path.display())))
}

fn copy_cargo_config(config: &Path, home: &Path) -> Result<(), SandboxError> {
    let folder = home.join(".cargo");
    make_private(&folder)?;
    let copy = folder.join("config.toml");
    // A link left there would be written through.
    let _ = fs::remove_file(&copy);
    fs::copy(config, &copy).map(|_| ()).map_err(SandboxError::io(format!(
        "copy {} to {}",
        config.display(),
        copy.display()
    )))
}
