//! `lota`, the operator's command: starts and stops a fleet, pushes through it, looks into it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod cli;
mod client;
mod exit;
mod home;
mod local;
mod objects;
mod place;
mod up;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use cli::{Cli, Command};
use exit::{Exit, OrExit};
use home::Home;

fn main() -> ExitCode {
    // The sandbox of `lota run` starts this program again, to confine itself.
    #[cfg(target_os = "linux")]
    if let Some(code) = bot_sandbox::launcher() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way, too.
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { Exit::Usage.code() } else { 0 });
        }
    };
    // One thread for all: a child's parent-death signal comes when the thread that started it ends.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(&format!("the async runtime cannot start: {e}"));
            return ExitCode::from(Exit::Internal.code());
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(e) => {
            complain(&format!("{e:#}"));
            ExitCode::from(exit::code_of(&e))
        }
    }
}

/// With standard error gone there is nobody left to tell; the exit code still says it.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "lota: {text}");
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    cli.command.runs_on(std::env::consts::OS).or_exit(Exit::Unavailable)?;
    let home = Home::new(&cli.home).or_exit(Exit::Usage)?;
    match cli.command {
        Command::Up(args) => up::up(&home, &args).await,
        Command::Down(args) => up::down(&home, &args).await,
        Command::Provision(args) => up::provision(&home, &args).await,
        Command::Demo(args) => up::demo(&home, &args).await,
        Command::Doctor => up::doctor().await,
        Command::Fetch => up::fetch().await,
        Command::Topology(args) => up::topology(&home, &args).await,
        Command::Stores(args) => up::stores(&home, &args).await,
        Command::Config(args) => client::configuration::run(&home, args).await,
        Command::Credentials(args) => up::credentials(&home, args).await,
        Command::Certs(args) => up::certs(&home, &args),
        Command::Init(args) => local::init(&args),
        Command::Run(args) => local::run(&args).await,
        Command::Gc(args) => client::gc::run(&home, args).await,
        Command::Push(args) => client::push::run(&home, args).await,
        Command::Rerun(args) => client::rerun::run(&home, args).await,
        Command::Publish(args) => client::publish::run(&home, args).await,
        Command::Watch(args) => client::watch::run(&home, args).await,
        Command::Show(args) => client::show::run(&home, args).await,
        Command::Logs(args) => client::logs::run(&home, args).await,
        Command::Jobs(args) => client::status::jobs(&home, args).await,
        Command::Status(args) => client::status::run(&home, args).await,
        Command::Tests(args) => client::test_report::run(&home, args).await,
        Command::Dlq(args) => client::dlq::run(&home, args).await,
        Command::Connection(args) => client::connection::run(&home, args).await,
        Command::Pause(args) => client::control::pause(&home, args).await,
        Command::Resume(args) => client::control::resume(&home, args).await,
        Command::Cancel(args) => client::control::cancel(&home, args).await,
        Command::Probe(args) => client::control::probe(&home, args).await,
        Command::Deploy(args) => client::environments::deploy(&home, args).await,
        Command::Rollback(args) => client::environments::rollback(&home, args).await,
        Command::Freeze(args) => client::environments::freeze(&home, args).await,
        Command::Unfreeze(args) => client::environments::unfreeze(&home, args).await,
        Command::Approve(args) => client::environments::approve(&home, args).await,
        Command::Deny(args) => client::environments::deny(&home, args).await,
        Command::History(args) => client::environments::history(&home, args).await,
    }
}
