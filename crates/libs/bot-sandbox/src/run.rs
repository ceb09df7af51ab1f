//! One run from start to the death of its last process. Knows the kinds by their plan only.

use std::{
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
    Command, Ending, Outcome, Sandbox, SandboxError,
    bubblewrap::Status,
    command::invalid,
    container::Ended,
    family::{Family, KILL_WAIT, reap_adopted},
    output::{Heard, Output, lock},
    plan::Keeper,
    proc,
    spawn::spawn,
    weigh::weigh,
};

/// Between SIGTERM and SIGKILL, so that all is dead within five seconds.
const TERM_GRACE: Duration = Duration::from_secs(4);
/// How often memory and processes are counted.
const POLL: Duration = Duration::from_millis(100);
/// How long pid 1 of a namespace may take to end after bwrap did.
const NAMESPACE_WAIT: Duration = Duration::from_millis(500);
/// How long output is read on after the last process died; a full channel could hold it for ever.
const DRAIN: Duration = Duration::from_secs(2);

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
