//! What takes bubblewrap's place where it does not work: a session of its own, limits and no privileges to gain.
//! Isolates nothing.

use std::{fs, os::unix::fs::symlink, path::Path};

use nix::sys::resource::{Resource, getrlimit};

use crate::{Bind, Limits, ProcessBound, SandboxError, Workspace, command::invalid, detect::Tools};

const NICENESS: &str = "10";

/// Room between our limit, which ends the run, and the kernel's, which only makes `fork` fail: the poll has to see a
/// bomb to name it.
pub(crate) fn wall(processes: u32) -> u64 {
    u64::from(processes) + u64::from(processes) / 4 + 32
}

/// `prlimit` in front of a command; in a user namespace of its own, [`process_words`] come with it.
pub(crate) fn limit_words(tools: &Tools, limits: &Limits, bound: ProcessBound) -> Vec<String> {
    let processes = bound.limit(wall(limits.processes));
    // Behind the bot and what it serves: a bomb of root's, which the kernel does not bound, must not starve the poll.
    let mut words = [tools.nice.as_str(), "-n", NICENESS, "--"].map(str::to_owned).to_vec();
    words.extend(resource_words(tools, limits.file_bytes, limits.open_files, processes));
    words
}

/// The number of processes, set inside of a user namespace, where the kernel counts anew.
pub(crate) fn process_words(tools: &Tools, limits: &Limits) -> Vec<String> {
    let count = at_most(Resource::RLIMIT_NPROC, wall(limits.processes));
    vec![tools.prlimit.clone(), format!("--nproc={count}"), "--".to_owned()]
}

/// Nobody may raise a hard limit without privileges, and asking for it would fail.
fn at_most(resource: Resource, wanted: u64) -> u64 {
    getrlimit(resource).map_or(wanted, |(_, hard)| wanted.min(hard))
}

pub(crate) fn resource_words(tools: &Tools, file_bytes: u64, open_files: u64, processes: Option<u64>) -> Vec<String> {
    let mut words = vec![
        tools.prlimit.clone(),
        "--core=0".to_owned(),
        format!("--fsize={}", at_most(Resource::RLIMIT_FSIZE, file_bytes)),
        format!("--nofile={}", at_most(Resource::RLIMIT_NOFILE, open_files)),
    ];
    words.extend(processes.map(|count| format!("--nproc={}", at_most(Resource::RLIMIT_NPROC, count))));
    words.push("--".to_owned());
    words
}

/// A bind becomes a symbolic link where that is possible: below the two folders that are the command's own.
pub(crate) fn link(bind: &Bind, workspace: &Workspace) -> Result<(), SandboxError> {
    if bind.host == bind.inside || fs::read_link(&bind.inside).is_ok_and(|target| target == bind.host) {
        return Ok(());
    }
    if !bind.inside.starts_with(&workspace.tree) && !bind.inside.starts_with(&workspace.home) {
        return Err(invalid(
            "read_write.inside",
            "a path below the workspace or home, as only bubblewrap can mount",
            bind.inside.display(),
        ));
    }
    let parent = bind.inside.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(SandboxError::io(format!("make {}", parent.display())))?;
    // An empty folder is a mount point a bubblewrap run left.
    let _ = fs::remove_dir(&bind.inside);
    symlink(&bind.host, &bind.inside).map_err(SandboxError::io(format!(
        "link {} to {}",
        bind.inside.display(),
        bind.host.display()
    )))
}
