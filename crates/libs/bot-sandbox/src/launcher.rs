//! The program that confines itself and then becomes the command, and the one that looks after it. It is the bot's own
//! program, started again with a first argument of ours, so that nothing more has to be installed.
//!
//! Two processes: the outer one adopts whatever the command leaves behind (a "subreaper"), so that nothing gets out of its
//! sight, and ends all of it with the command or with the bot; the inner one gives up its rights and becomes the command.
#![allow(clippy::disallowed_methods, reason = "a process of its own, with arguments, children and output")]
#![allow(clippy::print_stderr, reason = "the command's output is all it has to say why the command did not start")]

use std::{
    collections::HashSet,
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getppid},
};

use crate::{
    family::send,
    landlock::{ABI_MIN, Cell},
    proc, syscalls,
};

/// First arguments.
pub(crate) const SUPERVISE: &str = "--lota-supervise";
const CONFINE: &str = "--lota-confine";

/// As the kernel would not end a process that hangs in it.
const END_WAIT: Duration = Duration::from_secs(10);
const BY_SIGNAL: u8 = 128;
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Does what the first argument says if this process was started as a launcher, and says how the process shall end. To be
/// called before anything else: there may be no threads yet.
pub fn launcher() -> Option<ExitCode> {
    let code = match env::args_os().nth(1)?.to_str()? {
        SUPERVISE => supervise(),
        CONFINE => confine(),
        _ => return None,
    };
    Some(code.unwrap_or_else(|why| {
        report(&why);
        ExitCode::from(NOT_RUN)
    }))
}

/// Behind the cell, for the bot to read.
fn report(text: &str) {
    let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let told = file.and_then(|mut file| {
        file.seek(SeekFrom::End(0))?;
        file.write_all(text.as_bytes())
    });
    if let Err(error) = told {
        eprintln!("{text} ({error})");
    }
}

fn read_cell() -> Result<(Cell, File), String> {
    let read = || -> io::Result<(Cell, File)> {
        let mut file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut bytes = Vec::new();
        file.rewind()?;
        Read::by_ref(&mut file).read_to_end(&mut bytes)?;
        file.rewind()?;
        Ok((serde_json::from_slice(&bytes)?, file))
    };
    read().map_err(|error| format!("the launcher expected a cell on its standard input: {error}"))
}

/// Not SIGTERM: that comes when everyone is asked to end, and whoever is asked shall have its time.
const PARENT_ENDED: Signal = Signal::SIGUSR1;

fn supervise() -> Result<ExitCode, String> {
    let told = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let (cell, file) = read_cell()?;
    // Nothing but SIGKILL ends this process before its charges; the others are waited for below.
    let signals = SigSet::all();
    signals.thread_block().map_err(told("signals cannot be blocked"))?;
    if let Some(parent) = cell.parent {
        prctl::set_pdeathsig(PARENT_ENDED).map_err(told("the bot's end cannot be watched"))?;
        if getppid().as_raw() != parent {
            return Err("the bot has ended already".to_owned());
        }
    }
    prctl::set_child_subreaper(true).map_err(told("orphans cannot be adopted"))?;
    let child = Command::new("/proc/self/exe")
        .arg(CONFINE)
        .env_clear()
        .stdin(file)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("the launcher cannot start itself: {error}"))?;
    let child = Pid::from_raw(child.id() as i32);
    let code = loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    break code;
                }
            }
            Ok(signal) if signal == PARENT_ENDED => break BY_SIGNAL + Signal::SIGTERM as u8,
            _ => {}
        }
    };
    end_charges();
    Ok(ExitCode::from(code))
}

/// Collects all that ended; says how the command did, if it is among them.
fn reap(command: Pid) -> Option<u8> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => ended = Some(code as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => ended = Some(BY_SIGNAL + signal as u8),
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}

/// Whoever is left is a descendant, as nobody else adopts them.
fn end_charges() {
    let deadline = Instant::now() + END_WAIT;
    loop {
        let table: Vec<proc::Process> = proc::table().collect();
        let mut charges = HashSet::from([std::process::id() as i32]);
        loop {
            let before = charges.len();
            charges.extend(
                table.iter().filter(|p| charges.contains(&p.parent)).map(proc::Process::pid).collect::<Vec<_>>(),
            );
            if charges.len() == before {
                break;
            }
        }
        charges.remove(&(std::process::id() as i32));
        for charge in table.iter().filter(|p| charges.contains(&p.pid()) && p.is_alive()) {
            send(charge.identity, Signal::SIGKILL);
        }
        reap(Pid::from_raw(0));
        if charges.is_empty() || Instant::now() >= deadline {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn confine() -> Result<ExitCode, String> {
    let (cell, _) = read_cell()?;
    // The outer process waits for signals with all of them blocked, and that is inherited.
    SigSet::all().thread_unblock().map_err(|error| format!("signals cannot be unblocked: {error}"))?;
    drop_capabilities()?;
    let abi = restrict(&cell).map_err(|error| format!("landlock: {error:#}"))?;
    fs::create_dir_all(&cell.tmp)
        .map_err(|error| format!("the command's temporary folder {} cannot be made: {error}", cell.tmp.display()))?;
    syscalls::restrict(cell.network)?;
    let Some((program, arguments)) = cell.argv.split_first() else {
        return Err("there is no command".to_owned());
    };
    report(&abi.to_string());
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&cell.env)
        .current_dir(&cell.cwd)
        .stdin(Stdio::null())
        .exec();
    eprintln!("{program}: {error}");
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }))
}

/// For good: with `no_new_privs` no program gives them back, and without them root is only the owner of root's files.
fn drop_capabilities() -> Result<(), String> {
    use caps::CapSet::{Ambient, Bounding, Effective, Inheritable, Permitted};
    // An ordinary user may not narrow this one, and cannot use it either.
    let _ = caps::clear(None, Bounding);
    let _ = caps::clear(None, Ambient);
    for set in [Inheritable, Effective, Permitted] {
        caps::clear(None, set).map_err(|error| format!("capabilities cannot be given up: {error}"))?;
    }
    prctl::set_no_new_privs().map_err(|error| format!("no_new_privs cannot be set: {error}"))
}

/// Says by which version.
fn restrict(cell: &Cell) -> Result<u32, landlock::RulesetError> {
    let newest = ABI::V6;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V3))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?
        .scope(Scope::from_all(newest))?;
    if !cell.network {
        rules = rules.handle_access(AccessNet::from_all(newest))?;
    }
    let mut rules = rules.create()?.no_new_privs(true);
    let all = AccessFs::from_all(newest);
    let nodes = AccessFs::MakeChar | AccessFs::MakeBlock;
    for (paths, access) in [
        (cell.readable.iter().map(PathBuf::as_path).collect::<Vec<&Path>>(), AccessFs::from_read(newest)),
        (cell.writable.iter().map(PathBuf::as_path).collect(), all & !nodes),
        (Cell::devices().to_vec(), all & !nodes),
    ] {
        for path in paths {
            // What is missing cannot be reached either.
            let Ok(fd) = PathFd::new(path) else { continue };
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(newest) };
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    let status = rules.restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            effective_abi as u32
        }
        _ => 0,
    };
    debug_assert!(abi >= ABI_MIN, "a hard requirement was met");
    Ok(abi)
}
