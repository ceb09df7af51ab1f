//! Which path a process names itself by to what it starts. Alone in its file: it closes the process it runs in.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use bot_sandbox::Options;
use caps::{CapSet, Capability};
use nix::sys::prctl;

#[test]
fn a_closed_process_is_known_by_its_file_where_nothing_sees_through() {
    let link = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    assert_eq!(Options::own_program(), link);
    prctl::set_dumpable(false).unwrap();
    // Of this thread.
    caps::drop(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap();
    assert_eq!(Options::own_program(), std::env::current_exe().unwrap());
}
