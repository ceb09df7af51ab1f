//! Starts a managed application that outlives the bot. Looking after it lives in `stop`.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::fcntl::OFlag;
use tokio::{process::Child, task, time::sleep};

use crate::{
    Bind, Sandbox, SandboxError, SandboxKind, Served, Toolchains,
    bubblewrap::Interior,
    command::{check_absolute, check_env, check_folder, check_name, check_words, invalid},
    detect::{SYSTEM_PATH, Walls},
    family::{APP_MARKER, Family, Marker},
    landlock::{Cell, Report},
    launcher::SUPERVISE,
    proc::Process,
    process_group::resource_words,
    run::make_private,
    spawn::{Launch, Sink, spawn},
    stop::{Head, beside, living},
};

/// How long the small script that writes the record may take.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// Writes the record before there is anything to record: pid and start time survive `exec`, so no crash of the bot can
/// leave a process nobody knows of. The start time is field 22 of the status line, the 20th after the name.
const RECORDER: &str = r#"
record=$1 head=$2
shift 2
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id || exit 71
count=0
for word in ${stat##*) }; do
  count=$((count + 1))
  [ "$count" -ne 20 ] || start=$word
done
(umask 077 && printf '%s,"pid":%s,"start":%s,"boot":"%s"}\n' "$head" "$$" "$start" "$boot" >"$record.new") || exit 71
mv -f "$record.new" "$record" || exit 71
exec "$@"
"#;

/// Mandatory; held by [`Served::enforce_limits`], which the supervisor calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeLimits {
    pub memory_bytes: u64,
    /// Threads included.
    pub processes: u32,
    /// The log is cut when it is longer.
    pub log_bytes: u64,
}

/// What to serve. Its paths are the same inside and outside, in both kinds; it may use the network.
#[derive(Clone)]
pub struct Application {
    /// Unique on the machine: letters, digits, `.`, `_`, `-`, `:`.
    pub id: String,
    /// Relative programs (`./app`) start from `release`. Arguments are visible in `ps`: no secrets.
    pub argv: Vec<String>,
    /// Read-only (in bubblewrap), and the working folder.
    pub release: PathBuf,
    /// The one folder it may write, and its HOME; made if missing.
    pub data: PathBuf,
    /// Its whole environment besides HOME, PATH, TMPDIR, LANG, and what the toolchains need.
    pub env: BTreeMap<String, String>,
    pub toolchains: Toolchains,
    pub limits: ServeLimits,
    /// Appended to.
    pub log_file: PathBuf,
    /// Where its identity is kept, for [`Served::adopt`].
    pub record: PathBuf,
}

impl fmt::Debug for Application {
    /// Without the values of the environment: they may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Application")
            .field("id", &self.id)
            .field("argv", &self.argv)
            .field("release", &self.release)
            .finish_non_exhaustive()
    }
}

impl Application {
    fn check(&self) -> Result<(), SandboxError> {
        check_name("id", &self.id)?;
        check_words(&self.argv)?;
        check_env(&self.env)?;
        check_folder("release", &self.release)?;
        for (what, path) in [("data", &self.data), ("log_file", &self.log_file), ("record", &self.record)] {
            check_absolute(what, path)?;
        }
        let ServeLimits { memory_bytes, processes, log_bytes } = self.limits;
        if memory_bytes == 0 || processes == 0 || log_bytes == 0 {
            return Err(invalid("limits", "every limit above zero", format!("{:?}", self.limits)));
        }
        Ok(())
    }

    fn environment(&self, tmp: &Path) -> BTreeMap<String, String> {
        let mut env = self.toolchains.environment(&self.data);
        env.insert("HOME".to_owned(), self.data.display().to_string());
        env.insert("PATH".to_owned(), self.toolchains.path());
        env.insert("TMPDIR".to_owned(), tmp.display().to_string());
        env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
        env.extend(self.env.clone());
        env.insert(APP_MARKER.to_owned(), self.id.clone());
        env
    }
}

impl Sandbox {
    /// Starts it in its own session, and returns once its record is on disk. Whether it answers is for a probe to say.
    pub async fn serve(&self, application: Application) -> Result<Served, SandboxError> {
        application.check()?;
        refuse_second(&application).await?;
        make_private(&application.data)?;
        let _ = fs::remove_file(&application.record);
        let log = open_log(&application.log_file)?;
        let launch = self.plan_served(&application, log)?;
        let child = spawn(launch).await.map_err(SandboxError::io("start the application"))?;
        wait_for_record(child, &application).await
    }

    fn plan_served(&self, application: &Application, log: File) -> Result<Launch, SandboxError> {
        let tools = &self.inner.tools;
        let head = Head {
            id: application.id.clone(),
            bubblewrap: self.kind() == SandboxKind::Bubblewrap,
            landlock: self.kind() == SandboxKind::Landlock,
            log_file: application.log_file.clone(),
            memory_bytes: application.limits.memory_bytes,
            processes: application.limits.processes,
            log_bytes: application.limits.log_bytes,
        };
        let head = serde_json::to_string(&head)
            .map_err(|error| SandboxError::Io { doing: "write a record".to_owned(), source: error.into() })?;
        // The recorder closes the object.
        let head = head.trim_end_matches('}').to_owned();
        let record = application.record.display().to_string();
        let mut argv =
            [&tools.setsid, &tools.sh, "-c", RECORDER, "lota-recorder", &record, &head].map(str::to_owned).to_vec();
        let limits = resource_words(tools, u64::MAX, 65_536, None);
        let words = application.argv.iter().cloned();
        let readable = application.toolchains.read_only().iter().chain([&application.release]).cloned();
        let outside = [(APP_MARKER, application.id.as_str()), ("PATH", SYSTEM_PATH)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (env, cwd, stdin) = match &self.inner.walls {
            Walls::Bubblewrap(bubblewrap) => {
                let interior = Interior {
                    read_only: readable.collect(),
                    read_write: vec![Bind { host: application.data.clone(), inside: application.data.clone() }],
                    cargo_config: None,
                    env: application.environment(Path::new("/tmp")),
                    cwd: application.release.clone(),
                    memory_bytes: application.limits.memory_bytes,
                    network: true,
                    dies_with_parent: false,
                    argv: words.collect(),
                };
                let (words, stdin, _) = bubblewrap.wrap(tools, &interior)?;
                argv.extend(limits);
                argv.extend(words);
                (outside.into(), PathBuf::from("/"), Some(stdin))
            }
            Walls::Landlock(landlock) => {
                let tmp = application.data.join("tmp");
                let cell = Cell {
                    readable: Cell::system(true).into_iter().chain(readable).collect(),
                    writable: vec![application.data.clone()],
                    network: true,
                    parent: None,
                    env: application.environment(&tmp),
                    tmp,
                    cwd: application.release.clone(),
                    argv: words.collect(),
                };
                let (stdin, _) = Report::hand_over(&cell)?;
                argv.extend(limits);
                argv.extend([landlock.program.display().to_string(), SUPERVISE.to_owned()]);
                (outside.into(), PathBuf::from("/"), Some(stdin))
            }
            Walls::None => {
                let tmp = application.data.join("tmp");
                make_private(&tmp)?;
                argv.extend(tools.setpriv_words(&[]));
                argv.extend(limits);
                argv.extend(words);
                (application.environment(&tmp), application.release.clone(), None)
            }
        };
        Ok(Launch { argv, env, inherits_env: false, cwd, stdin, sink: Sink::File(log), dies_with_handle: false })
    }
}

/// By record and, as that may be lost, by marker.
async fn refuse_second(application: &Application) -> Result<(), SandboxError> {
    let id = application.id.clone();
    if let Some(running) = Served::adopt(&application.record)? {
        return Err(SandboxError::AlreadyServed { id, pid: running.pid() });
    }
    let mut family = Family::new(Marker::exact(APP_MARKER, id.clone()), None);
    let pid =
        beside(move || if living(&mut family) == 0 { None } else { family.census().first().map(Process::pid) }).await?;
    pid.map_or(Ok(()), |pid| Err(SandboxError::AlreadyServed { id, pid }))
}

fn open_log(path: &Path) -> Result<File, SandboxError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path).map_err(SandboxError::io(format!("open the log {}", path.display())))
}

async fn wait_for_record(mut child: Child, application: &Application) -> Result<Served, SandboxError> {
    let began = Instant::now();
    let served = loop {
        let ended = matches!(child.try_wait(), Ok(Some(_)));
        if let Some(served) = Served::read(&application.record)? {
            break served;
        }
        if ended || began.elapsed() > RECORD_WAIT {
            // Without a record nobody could stop it later.
            let _ = child.start_kill();
            return Err(SandboxError::NoRecord {
                id: application.id.clone(),
                record: application.record.clone(),
                log: application.log_file.clone(),
                waited_ms: began.elapsed().as_millis(),
            });
        }
        sleep(Duration::from_millis(5)).await;
    };
    // Collects it when it ends while this bot lives; what ends later is collected by whoever adopted it.
    task::spawn(async move { child.wait().await });
    Ok(served)
}
