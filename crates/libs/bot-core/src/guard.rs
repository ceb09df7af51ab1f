//! What keeps a bot's process from showing the secrets that it has read: no dumps of its memory, no panic and nothing said
//! that holds one.
use std::{backtrace::Backtrace, borrow::Cow, io, panic};

use bot_secrets::known;
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};
use serde_json::Value;

/// No core dumps, no debugger, and `/proc/PID/environ` and `mem` for root alone, also before other processes of the same
/// user; panics are printed without secrets. What this process starts is itself again: `exec` undoes all but the first.
pub(crate) fn close_process() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        crate::runtime::complain(&clean(&format!("{panic}\n{trace}")));
    }));
    Ok(())
}

/// A text without the secrets of this process.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    known().clean(text)
}

/// All texts of a document without the secrets of this process.
pub(crate) fn clean_document(document: &mut Value) {
    known().redactor().clean_document(document);
}
