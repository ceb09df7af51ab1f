//! Chooses the kind of sandbox by trying it, and holds what all runs share. Mounts and flags live with each kind.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caps::{CapSet, Capability};
use nix::{sys::prctl, unistd::geteuid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::OnceCell, task, time::timeout};

use crate::{
    Command, Ending, Limits, ProcessBound, Program, SandboxError, Workspace,
    attacks::ATTACKS,
    bubblewrap::{self, Bubblewrap},
    command::{check_absolute, check_name},
    family::{Family, KILL_WAIT, Marker, RUN_MARKER},
    landlock::Landlock,
    proc::{self, Identity},
    process_group::limit_words,
    spawn::{Guardian, Launch, Sink, spawn},
};

/// A trial does nothing but start and end; a machine that needs longer has other worries.
const TRIAL_TIME: Duration = Duration::from_secs(10);

const TRIAL: Limits = Limits {
    time: TRIAL_TIME,
    memory_bytes: 256 << 20,
    processes: 64,
    output_bytes: 64 << 10,
    line_bytes: 1024,
    file_bytes: 1 << 20,
    open_files: 256,
};

/// What the caller knows and this crate does not ask the environment for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bot (with its instance, where several share a machine): names its processes in markers.
    pub owner: String,
    /// Use this bubblewrap instead of one found in `path`.
    pub bwrap: Option<PathBuf>,
    /// Folders to search for bwrap, setsid, setpriv, prlimit, nice, sh, bash: the bot's PATH, split.
    pub path: Vec<PathBuf>,
    /// A folder of the bot's own, for temporary folders of runs; made if missing.
    pub state: PathBuf,
    /// A program that calls [`crate::launcher`] first, for landlock: the bot's own ([`Options::own_program`]). `None`: do
    /// not try landlock.
    pub launcher: Option<PathBuf>,
    /// This kind and no other; `None`: the strongest that works here.
    pub kind: Option<SandboxKind>,
}

impl Options {
    /// The program of this process, also where its file was replaced since. A process whose memory is closed, as a bot's
    /// is, hides that link from what it starts, unless privileges see through it: then the file itself has to do.
    pub fn own_program() -> PathBuf {
        let sees_through = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap_or(false);
        let is_open = prctl::get_dumpable().unwrap_or(true);
        let link = || PathBuf::from(format!("/proc/{}/exe", std::process::id()));
        if sees_through || is_open { link() } else { std::env::current_exe().unwrap_or_else(|_| link()) }
    }

    fn asks_for(&self, kind: SandboxKind) -> bool {
        self.kind.is_none_or(|asked| asked == kind)
    }
}

/// From the strongest to the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxKind {
    Bubblewrap,
    Landlock,
    ProcessGroup,
}

impl SandboxKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bubblewrap => "bubblewrap",
            Self::Landlock => "landlock",
            Self::ProcessGroup => "process-group",
        }
    }

    /// Whether code that nobody trusts may run in it.
    pub fn is_a_boundary(self) -> bool {
        self != Self::ProcessGroup
    }
}

impl FromStr for SandboxKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Bubblewrap, Self::Landlock, Self::ProcessGroup];
        let found = known.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| format!("`{name}` is no kind of sandbox: expected bubblewrap, landlock or process-group"))
    }
}

impl fmt::Display for SandboxKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Starts processes. Cheap to clone; all clones are one sandbox. Dropping the last one ends its process-group runs.
#[derive(Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) owner: String,
    pub(crate) state: PathBuf,
    pub(crate) tools: Tools,
    pub(crate) walls: Walls,
    pub(crate) bound: ProcessBound,
    why_not_stronger: Option<String>,
    /// Unique for this sandbox on this boot.
    pub(crate) instance: String,
    runs: AtomicU64,
    guardian: OnceCell<Guardian>,
}

/// What keeps commands in.
pub(crate) enum Walls {
    Bubblewrap(Bubblewrap),
    Landlock(Landlock),
    None,
}

/// Absolute paths of the programs every kind needs.
pub(crate) struct Tools {
    pub(crate) setsid: String,
    pub(crate) setpriv: String,
    pub(crate) prlimit: String,
    pub(crate) nice: String,
    pub(crate) sh: String,
    /// bash, or sh where there is none.
    pub(crate) shell: String,
    /// Root, and allowed to give up capabilities for good.
    pub(crate) drops_capabilities: bool,
}

impl Sandbox {
    /// Tries bubblewrap and landlock with real rules; falls back to process groups and keeps the reasons. Fails if not even
    /// those are possible, or not the kind that was asked for; and where there is no room for a command's processes, since
    /// a weaker kind would have no more.
    pub async fn detect(options: Options) -> Result<Self, SandboxError> {
        check_name("owner", &options.owner)?;
        check_absolute("state", &options.state)?;
        let tmp = options.state.join("tmp");
        std::fs::create_dir_all(&tmp).map_err(SandboxError::io(format!("make {}", tmp.display())))?;
        remove_leftovers(&tmp);
        let tools = Tools::find(&options.path).await?;
        let mut reasons = Vec::new();
        if options.asks_for(SandboxKind::Bubblewrap) {
            match Self::try_bubblewrap(&options).await {
                Ok(sandbox) => return Ok(sandbox),
                Err(why) => reasons.push(why),
            }
        }
        let weakest = Self::assemble(&options, tools, Walls::None);
        weakest.look_for_room().await?;
        if options.asks_for(SandboxKind::Landlock) {
            match Self::try_landlock(&options).await {
                Ok(sandbox) => return Ok(sandbox.because(reasons.join("; "))),
                Err(why) => reasons.push(why),
            }
        }
        if let Some(kind) = options.kind.filter(|kind| *kind != SandboxKind::ProcessGroup) {
            return Err(SandboxError::Unavailable { kind, why: reasons.join("; ") });
        }
        if reasons.is_empty() {
            reasons.push("process-group was asked for".to_owned());
        }
        Ok(weakest.because(reasons.join("; ")))
    }

    async fn try_bubblewrap(options: &Options) -> Result<Self, String> {
        let Some(path) = options.bwrap.clone().or_else(|| find(&options.path, "bwrap")) else {
            return Err("bwrap was not found in PATH; install the package bubblewrap".to_owned());
        };
        let bubblewrap =
            bubblewrap::look(&path).await.map_err(|error| format!("{} --help failed: {error}", path.display()))?;
        let tools = Tools::find(&options.path).await.map_err(|error| error.to_string())?;
        let sandbox = Self::assemble(options, tools, Walls::Bubblewrap(bubblewrap));
        let tried = sandbox.try_out("true").await;
        tried.map(|_| sandbox).map_err(|why| format!("{} does not work here: {why}", path.display()))
    }

    async fn try_landlock(options: &Options) -> Result<Self, String> {
        let Some(program) = options.launcher.clone() else {
            return Err("landlock needs a launcher, and none was named".to_owned());
        };
        let tools = Tools::find(&options.path).await.map_err(|error| error.to_string())?;
        let mut sandbox = Self::assemble(options, tools, Walls::Landlock(Landlock { program, abi: 0 }));
        let forbidden = options.state.join("forbidden");
        std::fs::write(&forbidden, "")
            .map_err(|error| format!("{} cannot be written: {error}", forbidden.display()))?;
        // Words of the shell, so that nothing in the path is read as such.
        let shown = forbidden.display().to_string().replace('\'', r"'\''");
        let line =
            format!("if cat '{shown}' 2>/dev/null; then echo a forbidden file was read; exit 1; fi; echo >written");
        let abi = sandbox.try_out(&line).await.map_err(|why| format!("landlock does not work here: {why}"))?;
        if let Some(Inner { walls: Walls::Landlock(landlock), .. }) = Arc::get_mut(&mut sandbox.inner) {
            landlock.abi = abi.unwrap_or(0);
        }
        Ok(sandbox)
    }

    /// Runs a line; says what landlock said.
    async fn try_out(&self, line: &str) -> Result<Option<u32>, String> {
        let folder = self.inner.state.join("trial");
        std::fs::create_dir_all(&folder).map_err(|error| format!("{} could not be made: {error}", folder.display()))?;
        let workspace = Workspace { tree: folder.clone(), home: folder };
        let trial = Command::new("trial", Program::Shell(line.to_owned()), workspace, TRIAL);
        match self.run_confined(trial).await {
            Ok((outcome, abi)) if outcome.ending == Ending::Exited(0) => Ok(abi),
            Ok((outcome, _)) => Err(format!("a trial ended as {:?}: {}", outcome.ending, outcome.tail.join("; "))),
            Err(error) => Err(format!("a trial failed: {error}")),
        }
    }

    /// Whether a command may start a process, under the limits that the trial of landlock will have.
    async fn look_for_room(&self) -> Result<(), SandboxError> {
        let Inner { tools, bound, .. } = self.inner.as_ref();
        let mut argv = limit_words(tools, &TRIAL, *bound);
        // Behind `&` a shell always forks.
        argv.extend([tools.sh.clone(), "-c".to_owned(), "true & wait $!".to_owned()]);
        succeeds(argv).await.map_err(|said| {
            let seen = proc::threads_of_user(geteuid().as_raw());
            SandboxError::NoRoom { bound: *bound, seen, said }
        })
    }

    fn assemble(options: &Options, tools: Tools, walls: Walls) -> Self {
        static SANDBOXES: AtomicU64 = AtomicU64::new(0);
        let me = std::process::id();
        let start = proc::identity(me as i32).map_or(0, |identity| identity.start);
        let number = SANDBOXES.fetch_add(1, Ordering::Relaxed);
        let bound = match walls {
            Walls::Bubblewrap(_) => ProcessBound::Namespace,
            Walls::Landlock(_) | Walls::None => ProcessBound::here(),
        };
        let inner = Inner {
            bound,
            owner: options.owner.clone(),
            state: options.state.clone(),
            tools,
            walls,
            why_not_stronger: None,
            // The underscore ends it: `1.2.3` must not match `1.2.34`.
            instance: format!("{me}.{start}.{number}_"),
            runs: AtomicU64::new(0),
            guardian: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    fn because(mut self, why: String) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner).filter(|_| !why.is_empty()) {
            tracing::info!(why, kind = inner.walls.kind().as_str(), "commands run in a weaker sandbox");
            inner.why_not_stronger = Some(why);
        }
        self
    }

    pub fn kind(&self) -> SandboxKind {
        self.inner.walls.kind()
    }

    /// Why no stronger kind is used; `None` for the strongest.
    pub fn why_not_stronger(&self) -> Option<&str> {
        self.inner.why_not_stronger.as_deref()
    }

    /// Names of the [`attacks`] that this sandbox does not hold.
    pub fn weaknesses(&self) -> Vec<&'static str> {
        let abi = if let Walls::Landlock(landlock) = &self.inner.walls { landlock.abi } else { 0 };
        let open = ATTACKS.iter().filter(|attack| !attack.is_held_by(self.kind(), abi));
        open.map(|attack| attack.name).collect()
    }

    /// What bounds the number of a command's processes.
    pub fn process_bound(&self) -> ProcessBound {
        self.inner.bound
    }

    /// The workspace as a command without an image sees it; in a container it is as in bubblewrap.
    pub fn inside(&self, workspace: &Workspace) -> Workspace {
        match self.kind() {
            SandboxKind::Bubblewrap => Workspace { tree: bubblewrap::TREE.into(), home: bubblewrap::HOME.into() },
            SandboxKind::Landlock | SandboxKind::ProcessGroup => workspace.clone(),
        }
    }

    /// Kills every process of this owner's runs whose label starts with `label_prefix` (all with an empty one), those
    /// of an earlier bot with the same owner too. For the start of a bot and before a new attempt. End the prefix with
    /// a separator: `job-1` also begins `job-10`. Returns how many there were.
    pub async fn reap_stale(&self, label_prefix: &str) -> Result<usize, SandboxError> {
        let marker = Marker::prefix(RUN_MARKER, format!("{}/{label_prefix}", self.inner.owner));
        let ended = task::spawn_blocking(move || {
            let mut family = Family::new(marker, None);
            let found = family.census().iter().filter(|member| member.is_alive()).count();
            (found, family.kill_all(KILL_WAIT))
        });
        let (found, survivors) = ended
            .await
            .map_err(|error| SandboxError::Io { doing: "reap stale processes".into(), source: error.into() })?;
        if survivors.is_empty() { Ok(found) } else { Err(SandboxError::StillAlive { pids: survivors }) }
    }

    /// A number no other run of this machine has, for markers and folder names.
    pub(crate) fn next_run(&self) -> String {
        format!("{}{}", self.inner.instance, self.inner.runs.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn guardian(&self) -> Result<&Guardian, SandboxError> {
        let tools = &self.inner.tools;
        let start = || Guardian::start(&tools.setsid, &tools.sh, SYSTEM_PATH, &self.inner.instance);
        self.inner
            .guardian
            .get_or_try_init(start)
            .await
            .map_err(SandboxError::io("start the guardian of process groups"))
    }
}

impl Walls {
    fn kind(&self) -> SandboxKind {
        match self {
            Self::Bubblewrap(_) => SandboxKind::Bubblewrap,
            Self::Landlock(_) => SandboxKind::Landlock,
            Self::None => SandboxKind::ProcessGroup,
        }
    }
}

/// Where the system's own programs are, inside and outside.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Tools {
    async fn find(path: &[PathBuf]) -> Result<Self, SandboxError> {
        let need = |tool: &'static str| {
            let found = find(path, tool).map(|found| found.display().to_string());
            found.ok_or_else(|| SandboxError::ToolMissing { tool, searched: path.to_vec() })
        };
        let sh = need("sh")?;
        let mut tools = Self {
            setsid: need("setsid")?,
            setpriv: need("setpriv")?,
            prlimit: need("prlimit")?,
            nice: need("nice")?,
            shell: need("bash").unwrap_or_else(|_| sh.clone()),
            sh,
            drops_capabilities: false,
        };
        if geteuid().is_root() {
            tools.drops_capabilities = true;
            let mut argv = tools.setpriv_words(&[]);
            argv.extend([tools.sh.clone(), "-c".to_owned(), "true".to_owned()]);
            tools.drops_capabilities = succeeds(argv).await.is_ok();
        }
        Ok(tools)
    }

    /// `setpriv` without privileges to gain or, for root, to keep; `more` are further options.
    pub(crate) fn setpriv_words(&self, more: &[&str]) -> Vec<String> {
        let mut words = vec![self.setpriv.clone(), "--no-new-privs".to_owned(), "--inh-caps=-all".to_owned()];
        if self.drops_capabilities {
            words.push("--bounding-set=-all".to_owned());
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.push("--".to_owned());
        words
    }
}

/// Else what it said.
async fn succeeds(argv: Vec<String>) -> Result<(), String> {
    let launch = Launch {
        argv,
        env: [("PATH".to_owned(), SYSTEM_PATH.to_owned())].into(),
        inherits_env: false,
        cwd: "/".into(),
        stdin: None,
        sink: Sink::Pipes,
        dies_with_handle: true,
    };
    let ended = async { spawn(launch).await?.wait_with_output().await };
    let output = timeout(TRIAL_TIME, ended).await.map_err(|_| "it did not end".to_owned())?;
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

pub(crate) fn find(path: &[PathBuf], name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runnable = |file: &PathBuf| {
        file.is_absolute() && file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    path.iter().map(|folder| folder.join(name)).find(runnable)
}

/// Temporary folders of bots that were killed. Their names begin with pid and start time of who made them.
fn remove_leftovers(tmp: &Path) {
    for entry in std::fs::read_dir(tmp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let mut parts = name.to_str().unwrap_or_default().split('.');
        let maker =
            parts.next().and_then(|pid| pid.parse().ok()).zip(parts.next().and_then(|start| start.parse().ok()));
        if maker.is_some_and(|(pid, start)| proc::identity(pid) != Some(Identity { pid, start })) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
