//! What is started for a run, by the kind of sandbox: words, variables, mounts, rules. `run.rs` looks after what was started.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use crate::{
    Bind, Command, Program, Sandbox, SandboxError, SandboxKind, Workspace,
    bubblewrap::{self, Bubblewrap, Interior, Status},
    command::invalid,
    container::{self, Container},
    detect::{SYSTEM_PATH, Walls},
    family::{Marker, RUN_MARKER},
    landlock::{Cell, Landlock, Report},
    launcher::SUPERVISE,
    process_group::{limit_words, link, process_words},
    run::make_private,
    spawn::{INSTANCE_MARKER, Launch, Sink},
    weigh::Around,
};

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
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Bubblewrap(status) => (!status.has_started()).then(String::new),
            Self::Launcher(report) => report.confined_by().err(),
            Self::Container(_) | Self::Nobody => None,
        }
    }

    pub(crate) fn around(&self) -> Around {
        match self {
            Self::Bubblewrap(_) => SandboxKind::Bubblewrap.into(),
            Self::Launcher(_) => SandboxKind::Landlock.into(),
            // The engine counts what lies in its folders.
            Self::Container(_) => Around { own_processes: container::OWN_PROCESSES, has_folders: false },
            Self::Nobody => SandboxKind::ProcessGroup.into(),
        }
    }
}

impl Sandbox {
    pub(crate) fn plan(&self, command: &Command) -> Result<Plan, SandboxError> {
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
        argv.extend(limit_words(tools, &command.limits, self.inner.bound));
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
        argv.extend(limit_words(tools, &command.limits, self.inner.bound));
        argv.extend([landlock.program.display().to_string(), SUPERVISE.to_owned()]);
        // Whoever kills the launcher first loses sight of what it would have ended.
        let launch = Launch { dies_with_handle: false, ..keepers(argv, markers, stdin) };
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
        argv.extend(limit_words(tools, &command.limits, self.inner.bound));
        argv.extend(words);
        let launch = keepers(argv, markers, stdin);
        Ok(Plan { launch, keeper: Keeper::Bubblewrap(status), marker, tmp: None })
    }

    fn program_words(&self, program: &Program) -> Vec<String> {
        match program {
            Program::Argv(argv) => argv.clone(),
            Program::Shell(line) => vec![self.inner.tools.shell.clone(), "-c".to_owned(), line.clone()],
        }
    }
}

/// How a keeper is started: outside of what it keeps, with nothing of the command's but the markers.
fn keepers(argv: Vec<String>, markers: BTreeMap<String, String>, stdin: OwnedFd) -> Launch {
    let mut env = markers;
    env.insert("PATH".to_owned(), SYSTEM_PATH.to_owned());
    Launch {
        argv,
        env,
        inherits_env: false,
        cwd: "/".into(),
        stdin: Some(stdin),
        sink: Sink::Pipes,
        dies_with_handle: true,
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
