//! The command line: what can be asked, and who answers.
use std::path::PathBuf;

use anyhow::bail;
use clap::{Parser, Subcommand};

use crate::{client, exit::EXIT_HELP, local, up};

/// The operator's command of a LotaBots fleet.
#[derive(Debug, Parser)]
#[command(name = "lota", version, max_term_width = 100, after_help = EXIT_HELP)]
pub(crate) struct Cli {
    /// The fleet's folder.
    #[arg(long, global = true, env = "LOTA_HOME", default_value = ".lota")]
    pub(crate) home: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a fleet on this machine: a broker of its own and the bots
    #[command(after_help = up::BROKER_HELP)]
    Up(up::UpArgs),
    /// Stop the fleet; applications it deployed go on unless --apps
    Down(up::DownArgs),
    /// Everything of a fleet but its processes, on the broker that LOTA_BROKER_URL names: passwords, configuration, topology
    Provision(up::ProvisionArgs),
    /// One push through a whole fleet, from nothing, and away again
    Demo(up::DemoArgs),
    /// What is missing on this machine
    Doctor,
    /// Unpack what tests need into the cache; prints the path of bubblewrap
    #[command(hide = true)]
    Fetch,
    /// The broker's exchanges, queues, users and permissions
    Topology(up::TopologyArgs),
    /// Logins and schemas of bots whose stores are in PostgreSQL
    Stores(up::StoresArgs),
    /// The bots' configuration: whether it fits, and that it is meant
    Config(client::configuration::ConfigArgs),
    /// Passwords of the broker's users: their age, new ones, and who is shut out
    Credentials(up::CredentialsArgs),
    /// Renew the certificates of a fleet that speaks TLS
    Certs(up::CertsArgs),
    /// Write a first pipeline file for a project, by what lies in it
    Init(local::InitArgs),
    /// Build and test a folder as a fleet would, without one
    Run(local::RunArgs),
    /// Remove old objects that nothing needs
    Gc(client::gc::GcArgs),
    /// Push a commit of a repository through the fleet
    #[command(after_help = client::push::PUSH_HELP)]
    Push(client::push::PushArgs),
    /// Do once more what a job that has ended was for
    #[command(after_help = client::push::PUSH_HELP)]
    Rerun(client::rerun::RerunArgs),
    /// Say any message
    Publish(client::publish::PublishArgs),
    /// See every message as it passes
    Watch(client::watch::WatchArgs),
    /// The tree of all that followed from one cause
    Show(client::show::ShowArgs),
    /// What a job printed
    Logs(client::logs::LogsArgs),
    /// Recent jobs
    Jobs(client::status::JobsArgs),
    /// How the fleet is
    Status(client::status::StatusArgs),
    /// How a repository's tests went so far: flaky, failing, slow
    Tests(client::test_report::TestsArgs),
    /// Dead letters
    Dlq(client::dlq::DlqArgs),
    /// How an outside publisher connects
    Connection(client::connection::ConnectionArgs),
    /// Have a bot take no work for a while
    Pause(client::control::PauseArgs),
    /// Have a bot take work again
    Resume(client::control::ResumeArgs),
    /// Stop a job
    Cancel(client::control::CancelArgs),
    /// Ask a bot how it is
    Probe(client::control::ProbeArgs),
    /// Put a tested artifact into an environment
    Deploy(client::environments::DeployArgs),
    /// Put back what was in an environment before
    Rollback(client::environments::RollbackArgs),
    /// Let nothing go to an environment for a while
    Freeze(client::environments::FreezeArgs),
    /// End a freeze
    Unfreeze(client::environments::UnfreezeArgs),
    /// Say yes to a deployment that waits for it
    Approve(client::environments::ApproveArgs),
    /// Say no to a deployment that waits for a yes
    Deny(client::environments::DenyArgs),
    /// What happened in an environment, and why
    History(client::environments::HistoryArgs),
}

impl Command {
    /// A fleet needs Linux; whoever looks into one does not.
    pub(crate) fn runs_on(&self, system: &str) -> anyhow::Result<()> {
        let needs_linux =
            matches!(self, Self::Up(_) | Self::Down(_) | Self::Demo(_) | Self::Doctor | Self::Fetch | Self::Run(_));
        if needs_linux && system != "linux" {
            bail!(
                "a fleet runs on Linux alone, and this is {system}: run this in a Linux virtual machine or container; \
                 of LotaBots only `lota`, to look into a fleet, runs here"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_client_runs_elsewhere() {
        for (words, elsewhere) in [
            (["lota", "up"].as_slice(), false),
            (&["lota", "down"], false),
            (&["lota", "demo"], false),
            (&["lota", "run"], false),
            (&["lota", "init"], true),
            (&["lota", "status"], true),
            (&["lota", "push", "."], true),
        ] {
            let command = Cli::parse_from(words).command;
            assert!(command.runs_on("linux").is_ok());
            let answer = command.runs_on("macos").map_err(|e| e.to_string());
            assert_eq!(answer.is_ok(), elsewhere, "{words:?}");
            assert!(
                answer.err().is_none_or(|e| e.contains("macos") && e.contains("virtual machine") && !e.contains('\n'))
            );
        }
    }
}
