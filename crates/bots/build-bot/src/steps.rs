//! The part of an attempt that runs what the pipeline says: each combination of the matrix in a tree of its own, steps
//! side by side as far as their needs go, and what may go on afterwards.
use std::{collections::BTreeMap, path::PathBuf};

use bot_clients::unpack;
use bot_core::Fail;
use bot_messages::{
    Code,
    build::StepResult,
    pipeline::{DeployStage, Judgement, Occasion, Pipeline, Step, When},
};
use bot_pipeline::{
    Combination, End, Folder, Images, Log, Runner, Secrets, StepBroken, StepEnd, Steps, Task, Unit, needs_of,
};
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, Broken, blocking, fail, of_archive, stopped};

const DEPLOY: &str = "deploy";

/// One combination of the matrix, and where its steps run. The first one's is the job's own tree.
pub(crate) struct Variant {
    pub(crate) combination: Combination,
    pub(crate) folder: Folder,
}

impl Variant {
    /// Where its files lie in the artifact: the first one's where tests and deployments expect them.
    pub(crate) fn below(&self, is_first: bool) -> PathBuf {
        if is_first { PathBuf::new() } else { self.combination.folder() }
    }
}

/// What commands may name.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) images: &'a Images,
}

impl Attempt<'_> {
    /// Every combination but the first gets the source anew.
    pub(crate) async fn lay_out(&self, pipeline: &Pipeline, source: PathBuf) -> Result<Vec<Variant>, Fail> {
        let mut variants = Vec::new();
        for (i, combination) in Combination::all(&pipeline.build.matrix).into_iter().enumerate() {
            self.go_on()?;
            let folder = if i == 0 {
                self.folder.clone()
            } else {
                let part = self.folder.part(&i.to_string()).map_err(Fail::retry)?;
                let (source, tree, limits) = (source.clone(), part.tree(), self.bot.config.source_limits());
                let unpacked = blocking(move || unpack(&source, &tree, &limits)).await?;
                unpacked.map_err(|e| of_archive(Code::FetchFailed, "the source of this commit", e))?;
                part
            };
            variants.push(Variant { combination, folder });
        }
        // It is in the store, and the disk may be small.
        tokio::fs::remove_file(source).await.map_err(Fail::retry)?;
        Ok(variants)
    }

    /// Of commands in a folder; `env` goes over what names the revision.
    pub(crate) fn runner<'r>(
        &'r self,
        folder: &'r Folder,
        env: BTreeMap<String, String>,
        given: Given<'r>,
        stop: &'r CancellationToken,
    ) -> Runner<'r> {
        Runner {
            sandbox: self.sandbox,
            toolchains: &self.bot.toolchains,
            network: &self.bot.network,
            folder,
            label: self.label,
            env: Runner::env_of(&self.job.revision).into_iter().chain(env).collect(),
            secrets: given.secrets,
            images: given.images,
            limits: self.bot.config.step_limits(None),
            disk_bytes_max: self.bot.config.workspace_mib << 20,
            stop,
        }
    }

    pub(crate) async fn run_steps(
        &self,
        pipeline: &Pipeline,
        variants: &[Variant],
        occasion: &Occasion,
        given: Given<'_>,
        log: &Log<'_>,
    ) -> Result<Vec<StepResult>, Broken> {
        // Of the steps alone, so that one that fails can end the others and not the job.
        let stop = self.cx.cancelled.child_token();
        let runners = variants.iter().map(|v| self.runner(&v.folder, v.combination.env(), given, &stop));
        let runners: Vec<Runner<'_>> = runners.collect();
        let steps = &pipeline.build.steps;
        let mut units = Vec::new();
        for (variant, runner) in variants.iter().zip(&runners) {
            let begin = units.len();
            units.extend(steps.iter().zip(needs_of(steps)).map(|(step, needs)| {
                let name = variant.combination.name(&step.name);
                Unit {
                    task: Task { title: format!("step `{name}`"), ..Task::from(step) },
                    name,
                    runner,
                    needs: needs.into_iter().map(|need| begin + need).collect(),
                    may_run: judge(step.when.as_ref(), occasion),
                }
            }));
        }
        let all = Steps { units: &units, parallel: self.bot.config.parallel_steps, log, stop: &stop };
        let count = units.len();
        let on_start = |ended: usize, name: &str| {
            self.cx.progress((10 + 80 * ended / count) as u8, &format!("{ended} of {count} steps done, now {name}"));
        };
        all.run(on_start).await.map_err(|StepBroken { name, why }| Broken {
            part: name.clone(),
            step: Some(name),
            fail: match why {
                StepEnd::Ended(End::Failed { code, message }) => fail(code, message),
                StepEnd::Ended(_) => stopped(),
                StepEnd::Machine(e) => Fail::retry(*e),
            },
        })
    }

    /// Those that steps name which are going to run.
    pub(crate) fn secrets(&self, pipeline: &Pipeline, occasion: &Occasion) -> Result<Secrets, Fail> {
        let names = running(pipeline, occasion).into_iter().flat_map(|step| &step.secrets);
        self.bot.secrets.read(names, &self.listed.secrets).map_err(|e| fail(e.code(), e))
    }

    /// What may go on to an environment: conditions on what changed, and on what led to the build, are known here alone.
    pub(crate) fn deployable(
        &self,
        mut deploy: BTreeMap<String, DeployStage>,
        occasion: &Occasion,
        log: &Log<'_>,
    ) -> BTreeMap<String, DeployStage> {
        deploy.retain(|name, stage| {
            let caused = || stage.when.as_ref().map_or(Judgement::Holds, |when| when.judge_cause(occasion));
            let judged = self.listed.refuses(name).map_or_else(caused, Judgement::Fails);
            match &judged {
                Judgement::Holds => {}
                Judgement::Assumed(why) => log.line(DEPLOY, &format!("{name} goes on: {why}")),
                Judgement::Fails(why) => log.line(DEPLOY, &format!("{name} is left out: {why}")),
            }
            !matches!(judged, Judgement::Fails(_))
        });
        deploy
    }
}

/// The steps that are going to run.
pub(crate) fn running<'p>(pipeline: &'p Pipeline, occasion: &Occasion) -> Vec<&'p Step> {
    let runs = |step: &&Step| !matches!(judge(step.when.as_ref(), occasion), Judgement::Fails(_));
    pipeline.build.steps.iter().filter(runs).collect()
}

pub(crate) fn judge(when: Option<&When>, occasion: &Occasion) -> Judgement {
    when.map_or(Judgement::Holds, |when| when.judge(occasion))
}
