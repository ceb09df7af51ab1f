//! The suites: each run in the sandbox, read, and run again where that may tell something. `verdict.rs` judges.
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bot_core::Fail;
use bot_messages::pipeline::Suite;
use bot_pipeline::{End, Folder, Log, Runner, Task, copy_tree, said_by};
use bot_sandbox::Workspace;
use futures_util::stream::{self, StreamExt};

use crate::{
    Config, blocking,
    formats::Output,
    redaction::Redaction,
    reports,
    verdict::{Ran, Run},
};

/// What running a suite takes besides the suite.
pub(crate) struct Suites<'a> {
    /// In the folder with the job's tree.
    pub(crate) runner: Runner<'a>,
    pub(crate) config: &'a Config,
    pub(crate) log: &'a Log<'a>,
    pub(crate) redaction: &'a Redaction,
}

/// All suites of a job, while they run.
struct Running<'a> {
    suites: Suites<'a>,
    in_copies: bool,
    ended: AtomicUsize,
    first_failure: Mutex<Option<Fail>>,
}

/// A suite in the tree where it runs.
struct Place<'a> {
    name: &'a str,
    suite: &'a Suite,
    runner: Runner<'a>,
    config: &'a Config,
    log: &'a Log<'a>,
    redaction: &'a Redaction,
}

impl Suites<'_> {
    /// Runs all of them, several at a time, and tells how each went in the order of their names. Suites may write where
    /// they like, so of more than one each gets a copy of the tree; a copy goes as soon as its suite has ended. An error
    /// means that one could not be run, or was told to stop; then the others are ended, and have ended.
    pub(crate) async fn run_all(
        &self,
        suites: &BTreeMap<String, Suite>,
        on_start: impl Fn(usize, &str) + Sync,
    ) -> Result<Vec<Ran>, Fail> {
        // Of its own, so that a suite that cannot be run ends the others and not the job.
        let stop = self.runner.stop.child_token();
        let all = Running {
            suites: Suites {
                runner: Runner { stop: &stop, ..self.runner.clone() },
                config: self.config,
                log: self.log,
                redaction: self.redaction,
            },
            in_copies: suites.len() > 1,
            ended: AtomicUsize::new(0),
            first_failure: Mutex::new(None),
        };
        let mut runs = Vec::new();
        for (name, suite) in suites {
            runs.push(all.run(name, suite, &on_start));
        }
        let ran: Vec<Option<Ran>> = stream::iter(runs).buffer_unordered(self.config.parallel_suites).collect().await;
        let failure = all.first_failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut ran: Vec<Ran> = failure.map_or(Ok(ran), Err)?.into_iter().flatten().collect();
        ran.sort_by(|a, b| a.result.name.cmp(&b.result.name));
        Ok(ran)
    }

    async fn run_in_copy(&self, name: &str, suite: &Suite) -> Result<Ran, Fail> {
        let own = self.runner.folder.part(name).map_err(Fail::retry)?;
        copy_tree(&self.runner.folder.tree(), &own.tree()).await.map_err(Fail::retry)?;
        let ran = self.run_in(&own, name, suite).await;
        own.remove().await.map_err(Fail::retry)?;
        ran
    }

    async fn run_in(&self, folder: &Folder, name: &str, suite: &Suite) -> Result<Ran, Fail> {
        let runner = Runner { folder, ..self.runner.clone() };
        let Self { config, log, redaction, .. } = *self;
        Place { name, suite, runner, config, log, redaction }.run().await
    }
}

impl Running<'_> {
    /// `None`: it could not be run, or was told to stop.
    async fn run(&self, name: &str, suite: &Suite, on_start: &(impl Fn(usize, &str) + Sync)) -> Option<Ran> {
        on_start(self.ended.load(Ordering::Relaxed), name);
        let stop = self.suites.runner.stop;
        let ran = if stop.is_cancelled() {
            Err(told_to_stop(name))
        } else if self.in_copies {
            self.suites.run_in_copy(name, suite).await
        } else {
            self.suites.run_in(self.suites.runner.folder, name, suite).await
        };
        self.ended.fetch_add(1, Ordering::Relaxed);
        let keep = |fail| {
            let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(fail);
            stop.cancel();
        };
        ran.map_err(keep).ok()
    }
}

fn told_to_stop(suite: &str) -> Fail {
    Fail::retry(anyhow::anyhow!("suite `{suite}` was told to stop"))
}

impl Place<'_> {
    /// Runs it. Where few tests failed it is run again as a whole: tests that pass then are flaky, and those that fail
    /// again have failed.
    async fn run(&self) -> Result<Ran, Fail> {
        let mut run = self.run_once().await?;
        for again in 1..=self.config.retries {
            let Some(failed) = run.may_be_flaky(self.name) else { break };
            let retries = self.config.retries;
            self.log.line(self.name, &format!("{failed} tests failed: the suite is run again ({again} of {retries})"));
            run = run.and(self.run_once().await?, self.name);
        }
        let ran = Ran::judge(self.name, self.suite.flaky, run);
        for flaky in &ran.flaky {
            let first = flaky.message.lines().next().unwrap_or_default();
            self.log.line(self.name, &format!("flaky: {} failed and then passed: {first}", flaky.name));
        }
        Ok(ran)
    }

    async fn run_once(&self) -> Result<Run, Fail> {
        let (name, suite) = (self.name, self.suite);
        self.log.line(name, suite.run.lines().next().unwrap_or_default());
        if let Err(why) = self.on_reports(reports::clear).await? {
            return Ok(Run::not_begun(why));
        }
        let mut printed = Output::new(suite.format);
        let task = Task::from((name, suite));
        let ran = self.runner.run(&task, |line| {
            self.log.line(name, line);
            // What a service prints is no result.
            if said_by(line).is_none() {
                printed.line(line);
            }
        });
        let command = ran.await.map_err(Fail::retry)?;
        if command.end == End::Stopped {
            return Err(told_to_stop(name));
        }
        let report = if suite.reports.is_empty() {
            Ok(printed.finish().unwrap_or_default())
        } else {
            let redaction = self.redaction.clone();
            let read = move |own: &Path, suite: &Suite, config: &Config| reports::read(own, suite, config, &redaction);
            self.on_reports(read).await?
        };
        let folder = self.runner.folder;
        let workspace = Workspace { tree: folder.tree(), home: folder.home() };
        let tree = self.runner.sandbox.inside(&workspace).tree;
        let report = report.map(|report| self.redaction.report(report.relative_to(&tree)));
        let coverage = if suite.coverage.is_empty() {
            None
        } else {
            let read =
                move |own: &Path, suite: &Suite, config: &Config| reports::read_coverage(own, &tree, suite, config);
            Some(self.on_reports(read).await?)
        };
        Ok(Run { command, report, coverage })
    }

    /// An error may quote a report, or name a file that the suite named.
    async fn on_reports<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Path, &Suite, &Config) -> Result<T, String> + Send + 'static,
    ) -> Result<Result<T, String>, Fail> {
        let (tree, suite, config) = (self.runner.folder.tree(), self.suite.clone(), self.config.clone());
        let done = blocking(move || what(&tree, &suite, &config)).await?;
        Ok(done.map_err(|why| self.redaction.text(&why)))
    }
}
