//! The commands of one stage, one after the other in one folder, with their lines as they come and a verdict for each.
use std::collections::BTreeMap;

use bot_messages::pipeline::{Pipeline, Step, Suite};
use bot_pipeline::{End, Folder, Images, Log, Runner, Secrets, Task};
use bot_sandbox::{NetworkEnv, Sandbox, Toolchains};
use tokio_util::sync::CancellationToken;

use super::{limits::BotLimits, source::Source};

/// Of the processes; no job's name begins alike.
const LABEL: &str = "local:";

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed(u64),
    /// In one sentence.
    Failed(u64, String),
    /// It need not run, and nothing is wrong.
    Skipped(String),
    /// It should have run.
    NotRun(String),
}

/// A step or a suite, and its verdict.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) title: String,
    pub(super) verdict: Verdict,
}

/// What all commands of a run share.
pub(super) struct Machine {
    pub(super) sandbox: Sandbox,
    pub(super) toolchains: Toolchains,
    pub(super) network: NetworkEnv,
    pub(super) stop: CancellationToken,
    /// Those that steps name, or why there are none.
    pub(super) images: Result<Images, String>,
    /// Of the first combination of the matrix.
    pub(super) matrix: BTreeMap<String, String>,
}

/// A step or a suite.
struct Part<'a> {
    name: &'a str,
    task: Task,
    /// What it asks for that there is only in a fleet.
    fleet_only: Vec<&'static str>,
    /// What this machine would need for it.
    lacking: Option<String>,
    skipped: Option<String>,
}

/// Runs the steps, up to the first that fails.
pub(super) async fn build(
    machine: &Machine,
    pipeline: &Pipeline,
    source: &Source,
    folder: &Folder,
    limits: &BotLimits,
) -> anyhow::Result<Vec<Done>> {
    let git_ref = &source.revision.git_ref;
    let parts = pipeline.build.steps.iter().map(|step: &Step| Part {
        name: &step.name,
        task: Task::from(step),
        fleet_only: named(&[("secrets", !step.secrets.is_empty()), ("services", !step.services.is_empty())]),
        lacking: step.image.as_ref().and_then(|_| machine.images.as_ref().err().cloned()),
        skipped: step.when.as_ref().and_then(|when| when.judge_ref(git_ref).err()),
    });
    run(machine, source, folder, limits, parts.collect(), true).await
}

/// Runs the suites, all of them.
pub(super) async fn test(
    machine: &Machine,
    pipeline: &Pipeline,
    source: &Source,
    folder: &Folder,
    limits: &BotLimits,
) -> anyhow::Result<Vec<Done>> {
    let parts = pipeline.test.suites.iter().map(|(name, suite): (&String, &Suite)| Part {
        name,
        task: Task::from((name.as_str(), suite)),
        fleet_only: named(&[("secrets", !suite.secrets.is_empty()), ("services", !suite.services.is_empty())]),
        lacking: None,
        skipped: None,
    });
    run(machine, source, folder, limits, parts.collect(), false).await
}

fn named(used: &[(&'static str, bool)]) -> Vec<&'static str> {
    used.iter().filter(|(_, is_used)| *is_used).map(|(name, _)| *name).collect()
}

async fn run(
    machine: &Machine,
    source: &Source,
    folder: &Folder,
    limits: &BotLimits,
    parts: Vec<Part<'_>>,
    ends_at_failure: bool,
) -> anyhow::Result<Vec<Done>> {
    let log = Log::create(&folder.file("log.txt"), limits.log_bytes(), &super::run::say)?;
    // Of a fleet's bots alone.
    let (secrets, no_images) = (Secrets::default(), Images::default());
    let mut env = Runner::env_of(&source.revision);
    env.extend(machine.matrix.clone());
    let runner = Runner {
        sandbox: &machine.sandbox,
        toolchains: &machine.toolchains,
        network: &machine.network,
        folder,
        label: LABEL,
        env,
        secrets: &secrets,
        images: machine.images.as_ref().unwrap_or(&no_images),
        limits: limits.commands(),
        disk_bytes_max: limits.disk_bytes(),
        stop: &machine.stop,
    };
    let mut done: Vec<Done> = Vec::new();
    for part in parts {
        let has_failed = done.iter().any(|d| matches!(d.verdict, Verdict::Failed(..) | Verdict::NotRun(_)));
        let verdict = if let Some(why) = part.skipped {
            Verdict::Skipped(why)
        } else if ends_at_failure && has_failed {
            Verdict::NotRun("a step above it did not go well".to_owned())
        } else if !part.fleet_only.is_empty() {
            Verdict::NotRun(format!("{}: only a fleet has them", part.fleet_only.join(", ")))
        } else if let Some(why) = part.lacking {
            Verdict::NotRun(why)
        } else {
            let ran = runner.run(&part.task, |line| log.line(part.name, line)).await?;
            match &ran.end {
                End::Succeeded => Verdict::Passed(ran.duration_ms()),
                End::Failed { message, .. } => Verdict::Failed(ran.duration_ms(), message.clone()),
                End::Stopped => Verdict::NotRun("interrupted".to_owned()),
            }
        };
        done.push(Done { title: part.task.title, verdict });
    }
    Ok(done)
}
