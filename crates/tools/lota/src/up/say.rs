//! Lines for people. A reader that has gone, a terminal that closed or a full disk under the log ends nothing: whoever
//! started processes has to end them, too.
use std::{
    fmt::Display,
    io::{self, Write},
};

/// One line on standard output.
pub(super) fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Text that has its own line ends.
pub(super) fn say_raw(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
