//! The workspace's own tasks: the command line alone. What a task does lives in the module named after it.
mod fleet;
mod generate;
mod new_bot;
mod sbom;
mod tidy;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "The workspace's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// The checkout to work on; by default the one this program was built from.
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Task {
    /// Check the rules of the tree that neither the compiler nor clippy can hold.
    Tidy,
    /// Write the files that follow from the bots' contracts.
    Gen {
        /// Write nothing; fail, and print the difference, where a file is stale.
        #[arg(long)]
        check: bool,
    },
    /// Create a bot that works and is tested, to be changed into what you want.
    NewBot {
        /// Such as `NoteBot` or `note-bot`.
        name: String,
    },
    /// Check the bills of materials that deploy/sbom.sh has made, and put them into target/sbom.
    Sbom {
        /// The copy of this checkout that they lie in.
        made: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = run(&Cli::parse(), &mut io::stdout().lock());
    outcome.unwrap_or_else(|error| {
        // With standard error gone too there is nobody left to tell; the exit code still says it.
        let _ = writeln!(io::stderr(), "xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(cli: &Cli, out: &mut impl Write) -> Result<ExitCode> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let root = cli.root.as_ref().unwrap_or(&built_from);
    let root = root
        .canonicalize()
        .with_context(|| format!("the checkout {} cannot be found: name it with --root", root.display()))?;
    match &cli.task {
        Task::Tidy => tidy::run(&root, out),
        Task::Gen { check } => generate::run(&root, *check, out),
        Task::NewBot { name } => new_bot::run(&root, name, out),
        Task::Sbom { made } => sbom::run(&root, made, out),
    }
}
