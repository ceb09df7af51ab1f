//! What the exit codes of `lota` mean, after sysexits.h; and errors that bear one.
use std::fmt;

/// In `lota --help`.
pub(crate) const EXIT_HELP: &str = "\
Exit codes:
  0    done
  1    refused or failed; `lota push --help` says more of a push
  64   the command line is wrong
  65   the pipeline file is wrong
  69   something is missing or does not answer: a program, a package, the broker
  70   the fleet itself went wrong: a bot that is not heard, a process that does not end
  75   not now: another `lota up` has the fleet's folder
  78   configuration: a setting, a file, an address or a folder that cannot be used
  124  --timeout was over
  128+N  stopped by signal N before it was done";

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 64
    Usage,
    /// 65
    Data,
    /// 69
    Unavailable,
    /// 70
    Internal,
    /// 75
    Temporary,
    /// 78
    Config,
    /// A signal, by its number.
    Stopped(u8),
    /// As another process of ours said it.
    Told(u8),
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Temporary => 75,
            Self::Config => 78,
            Self::Stopped(signal) => 128_u8.saturating_add(signal),
            Self::Told(code) => code,
        }
    }

    /// The error with this code. One that has a code keeps it: who is nearer knows better.
    pub(crate) fn of(self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        let error = error.into();
        if coded(&error).is_some() { error } else { Failed { exit: self, text: format!("{error:#}") }.into() }
    }
}

/// Gives the error of a result its exit code.
pub(crate) trait OrExit<T> {
    fn or_exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| exit.of(error))
    }
}

/// The code for an error: its own, or 1.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    coded(error).map_or(1, Exit::code)
}

fn coded(error: &anyhow::Error) -> Option<Exit> {
    error.chain().find_map(|cause| Some(cause.downcast_ref::<Failed>()?.exit))
}

#[derive(Debug)]
struct Failed {
    exit: Exit,
    text: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failed {}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_nearest_code_stays_and_so_do_the_words() {
        let near = Exit::Config.of(anyhow!("no such word").context("LOTA_BROKER"));
        let far: anyhow::Result<()> = Err(near).context("the broker");
        let error = far.or_exit(Exit::Internal).unwrap_err();
        assert_eq!((code_of(&error), format!("{error:#}").as_str()), (78, "the broker: LOTA_BROKER: no such word"));
        assert_eq!(code_of(&anyhow!("something")), 1);
        assert_eq!(Exit::Stopped(2).code(), 130);
    }
}
