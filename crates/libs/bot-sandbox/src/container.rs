//! What a container engine is told: which mounts, which limits, no privileges. The walls are the engine's; whoever ends
//! its client ends nothing, so that every end here goes through the engine as well.
//!
//! What the command is and finds in its environment travels in a file of the run's own (mode 0600, mounted read-only):
//! values may be secrets, and neither an argument nor `inspect` may show them; nor may a variable of the command's reach
//! the engine's client, which runs outside.

use std::{collections::BTreeMap, fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, thread};

use crate::{
    Bind, Command, Engine, EngineError, Image, Program, Sandbox, SandboxError,
    bubblewrap::{HOME, TREE, prepare_mount_point},
    command::invalid,
    family::{Marker, RUN_MARKER},
    plan::{Keeper, Plan},
    process_group::wall,
    run::make_private,
    spawn::{INSTANCE_MARKER, Launch, Sink, finish_alone},
};

/// Inside a container this process is the engine's own: pid 1, which collects zombies.
pub(crate) const OWN_PROCESSES: u32 = 1;
/// Whose container it is, and of which run: by these they are found again.
const OWNER_LABEL: &str = "lotabots.owner";
const RUN_LABEL: &str = "lotabots.run";
/// Where the file with the command is inside.
const ENTRY: &str = "/run/lota/entry";

impl Sandbox {
    /// Makes the container; the launch starts it.
    pub(crate) async fn plan_container(&self, image: &Image, command: &Command) -> Result<Plan, SandboxError> {
        let run = self.next_run();
        let id = format!("{}/{}/{run}", self.inner.owner, command.label);
        let tmp = self.inner.state.join("tmp").join(run);
        make_private(&tmp)?;
        let entry = tmp.join("entry");
        write_private(&entry, &entry_script(command)?)?;
        let arguments = self.arguments(image, command, &id, &entry)?;
        let made = image.engine.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        // Warnings may stand before it.
        let name = made.lines().last().unwrap_or_default().trim().to_owned();
        let tools = &self.inner.tools;
        let mut argv = vec![tools.setsid.clone()];
        argv.extend(tools.setpriv_words(&["--pdeathsig", "KILL"]));
        argv.extend([image.engine.program(), "start", "--attach", &name].map(str::to_owned));
        let launch = Launch {
            argv,
            env: BTreeMap::new(),
            inherits_env: true,
            cwd: "/".into(),
            stdin: None,
            sink: Sink::Pipes,
            dies_with_handle: true,
        };
        let container = Container { engine: image.engine.clone(), name, is_gone: false };
        Ok(Plan { launch, keeper: Keeper::Container(container), marker: Marker::exact(RUN_MARKER, id), tmp: Some(tmp) })
    }

    /// Everyone of this machine can read them, here and by `inspect`: they hold no secret.
    fn arguments(&self, image: &Image, command: &Command, id: &str, entry: &Path) -> Result<Vec<String>, SandboxError> {
        let limits = &command.limits;
        let mut all: Vec<String> =
            ["create", "--pull", "never", "--init", "--read-only", "--cap-drop", "ALL"].map(str::to_owned).into();
        let mut say = |option: &str, value: String| all.extend([option.to_owned(), value]);
        say("--security-opt", "no-new-privileges".to_owned());
        say("--user", image.engine.own_user());
        say("--hostname", "sandbox".to_owned());
        if !command.network {
            say("--network", "none".to_owned());
        }
        let memory = limits.memory_bytes.to_string();
        say("--memory", memory.clone());
        // The same: no swap besides.
        say("--memory-swap", memory.clone());
        say("--pids-limit", wall(limits.processes).to_string());
        say("--ulimit", "core=0:0".to_owned());
        say("--ulimit", format!("nofile={0}:{0}", limits.open_files));
        say("--ulimit", format!("fsize={0}:{0}", limits.file_bytes));
        say("--tmpfs", format!("/tmp:rw,exec,nosuid,nodev,mode=1777,size={memory}"));
        for (name, value) in [(OWNER_LABEL, self.inner.owner.as_str()), (RUN_LABEL, id)] {
            say("--label", format!("{name}={value}"));
        }
        // By these the processes are seen from outside; they are no secrets.
        say("--env", format!("{RUN_MARKER}={id}"));
        say("--env", format!("{INSTANCE_MARKER}={}", self.inner.instance));
        for bind in binds(command)? {
            say("--mount", mount(&bind.host, &bind.inside, false)?);
        }
        for path in &command.read_only {
            say("--mount", mount(path, path, true)?);
        }
        say("--mount", mount(entry, Path::new(ENTRY), true)?);
        say("--workdir", Path::new(TREE).join(&command.cwd).display().to_string());
        say("--entrypoint", "sh".to_owned());
        all.extend([image.id.clone(), ENTRY.to_owned()]);
        Ok(all)
    }

    /// Ends and removes every container of this owner's runs whose label starts with `label_prefix`, as
    /// [`Sandbox::reap_stale`] does with processes. Returns how many there were.
    pub async fn reap_containers(&self, engine: &Engine, label_prefix: &str) -> Result<usize, SandboxError> {
        let filter = format!("label={OWNER_LABEL}={}", self.inner.owner);
        let listed = engine.run(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]).await?;
        let prefix = format!("{}/{label_prefix}", self.inner.owner);
        let question = format!("{{{{index .Config.Labels \"{RUN_LABEL}\"}}}}");
        let mut count = 0;
        for name in listed.lines().map(str::trim).filter(|name| !name.is_empty()) {
            // One that is gone by now is what was wanted.
            let Ok(run) = engine.run(&["inspect", "--format", &question, name]).await else { continue };
            if run.trim().starts_with(&prefix) {
                engine.run(&["rm", "--force", "--volumes", name]).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The two folders of the workspace at the same places as in bubblewrap, and what else may be written.
fn binds(command: &Command) -> Result<Vec<Bind>, SandboxError> {
    let workspace = &command.workspace;
    let mut binds = vec![
        Bind { host: workspace.tree.clone(), inside: TREE.into() },
        Bind { host: workspace.home.clone(), inside: HOME.into() },
    ];
    for bind in &command.read_write {
        for own in binds.iter().take(2) {
            if let Ok(below) = bind.inside.strip_prefix(&own.inside) {
                prepare_mount_point(&own.host, below, &bind.host)?;
            }
        }
        binds.push(bind.clone());
    }
    Ok(binds)
}

fn mount(host: &Path, inside: &Path, is_read_only: bool) -> Result<String, SandboxError> {
    let has_comma = |path: &Path| path.to_str().is_none_or(|text| text.contains([',', '"', '\n']));
    if let Some(path) = [host, inside].into_iter().find(|path| has_comma(path)) {
        return Err(invalid("mount", "a path without comma, quote or line end, as engines demand it", path.display()));
    }
    let read_only = if is_read_only { ",readonly" } else { "" };
    Ok(format!("type=bind,source={},target={}{read_only}", host.display(), inside.display()))
}

/// For the image's own `sh`: the environment, and then the command in its place. The image's variables stay.
fn entry_script(command: &Command) -> Result<String, SandboxError> {
    let mut env = BTreeMap::from(
        [("HOME", HOME), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    // Where rust's images keep it nobody may write.
    env.insert("CARGO_HOME".to_owned(), format!("{HOME}/.cargo"));
    env.extend(command.env.clone());
    let mut script = String::new();
    for (name, value) in &env {
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with(|first: char| first.is_ascii_digit());
        if !is_plain {
            return Err(invalid("env", "a name of letters, digits and `_`, as a shell has them", name));
        }
        script.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    match &command.program {
        Program::Argv(words) => {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            script.push_str(&format!("exec {}\n", words.join(" ")));
        }
        Program::Shell(line) => {
            let line = quoted(line);
            script.push_str(&format!("set -- {line}\n"));
            script.push_str("if command -v bash >/dev/null 2>&1; then exec bash -c \"$1\"; fi\nexec sh -c \"$1\"\n");
        }
    }
    Ok(script)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn write_private(path: &Path, text: &str) -> Result<(), SandboxError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(SandboxError::io(format!("write {}", path.display())))
}

/// A container that was made. Dropping it ends and removes it.
pub(crate) struct Container {
    engine: Engine,
    name: String,
    is_gone: bool,
}

/// What the engine says of a container that ended.
pub(crate) struct Ended {
    /// Why it never ran.
    pub(crate) not_started: Option<String>,
    /// The kernel killed something in it for want of memory.
    pub(crate) was_out_of_memory: bool,
}

impl Container {
    pub(crate) async fn is_running(&self) -> bool {
        let state = self.engine.run(&["inspect", "--format", "{{.State.Running}}", &self.name]).await;
        state.is_ok_and(|state| state.trim() == "true")
    }

    /// Ends what still runs in it, and removes it.
    pub(crate) async fn settle(&mut self) -> Result<Ended, EngineError> {
        let question = "{{.State.OOMKilled}}|{{.State.StartedAt}}|{{.State.Error}}";
        let state = self.engine.run(&["inspect", "--format", question, &self.name]).await?;
        self.remove().await?;
        let mut parts = state.trim().splitn(3, '|');
        let was_out_of_memory = parts.next() == Some("true");
        // The zero of Go's time.
        let never = parts.next().is_some_and(|at| at.starts_with("0001-"));
        let why = parts.next().unwrap_or_default();
        Ok(Ended { not_started: never.then(|| why.to_owned()), was_out_of_memory })
    }

    async fn remove(&mut self) -> Result<(), EngineError> {
        self.engine.run(&["rm", "--force", "--volumes", &self.name]).await?;
        self.is_gone = true;
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        let words = [self.engine.program(), "rm", "--force", "--volumes", &self.name].map(str::to_owned);
        let remove = move || {
            if let Err(error) = finish_alone(&words) {
                tracing::error!(%error, "the container of a dropped run could not be removed; the next start does it");
            }
        };
        if let Err(error) = thread::Builder::new().name("container".into()).spawn(remove) {
            tracing::error!(%error, "the container of a dropped run could not be removed; the next start does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::*;
    use crate::{Limits, Workspace};

    fn command(program: Program) -> Command {
        let workspace = Workspace { tree: "/srv/tree".into(), home: "/srv/home".into() };
        let limits = Limits {
            time: Duration::from_secs(1),
            memory_bytes: 1 << 20,
            processes: 8,
            output_bytes: 1,
            line_bytes: 1,
            file_bytes: 4096,
            open_files: 64,
        };
        Command::new("job-1", program, workspace, limits)
    }

    #[test]
    fn whatever_a_value_holds_it_reaches_the_command_as_it_is() {
        let mut own = command(Program::Shell("echo 'a' \"$B\"".into()));
        own.env.insert("B".into(), "it's\n$(two) `lines`".into());
        let script = entry_script(&own).unwrap();
        assert!(script.contains("export B='it'\\''s\n$(two) `lines`'\n"), "{script}");
        assert!(script.contains("set -- 'echo '\\''a'\\'' \"$B\"'\n"), "{script}");
        own.env.insert("A-B".into(), String::new());
        assert!(entry_script(&own).unwrap_err().to_string().contains("`A-B`"));
        let argv = command(Program::Argv(vec!["echo".into(), "two words".into()]));
        assert!(entry_script(&argv).unwrap().ends_with("exec 'echo' 'two words'\n"));
    }

    #[test]
    fn a_path_that_would_end_a_mount_is_refused() {
        let fine = mount(Path::new("/srv/a b"), Path::new("/workspace"), true).unwrap();
        assert_eq!(fine, "type=bind,source=/srv/a b,target=/workspace,readonly");
        let why = mount(Path::new("/srv/a,readonly"), Path::new("/workspace"), false).unwrap_err();
        assert!(why.to_string().contains("/srv/a,readonly"), "{why}");
    }

    #[test]
    fn the_workspace_lies_where_bubblewrap_has_it() {
        let binds = binds(&command(Program::Shell("true".into()))).unwrap();
        let inside: Vec<PathBuf> = binds.into_iter().map(|bind| bind.inside).collect();
        assert_eq!(inside, [Path::new(TREE), Path::new(HOME)]);
    }
}
