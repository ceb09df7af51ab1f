//! A project on this machine, without a fleet: its first pipeline file, and a run of what the file says.

mod init;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod source;
#[cfg(target_os = "linux")]
mod stage;

pub(crate) use init::{InitArgs, init};
#[cfg(target_os = "linux")]
pub(crate) use run::run;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The folder's files are copied first: what is committed and what is new, without what git ignores.\n\
    Exit code: 0 all went well, 1 a step or suite did not, 64 wrong arguments, 65 wrong pipeline file, 128+N stopped by signal N."
)]
pub(crate) struct RunArgs {
    /// `build` or `test`, and nothing else of the file; without it both
    #[arg(value_name = "STAGE")]
    first: Option<String>,
    /// The project; without it the current folder
    #[arg(value_name = "DIR")]
    second: Option<String>,
}

/// The sandbox is Linux's; `Command::runs_on` has said so already.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn run(_args: &RunArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("steps run in a sandbox that only Linux has")
}
