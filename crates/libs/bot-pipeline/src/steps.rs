//! Running steps side by side, as their needs allow. The first that fails ends the others.
use bot_messages::{build::StepResult, pipeline::Judgement};
use bot_sandbox::SandboxError;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::{End, Log, Ran, Runner, Schedule, Task};

/// One run of one step.
pub struct Unit<'a> {
    /// Its part of the log, and its name in the results.
    pub name: String,
    pub runner: &'a Runner<'a>,
    pub task: Task,
    /// Other units, by index.
    pub needs: Vec<usize>,
    /// A unit whose condition fails is skipped, and counts as satisfied.
    pub may_run: Judgement,
}

/// Not every step succeeded. All that ran has ended.
#[derive(Debug)]
pub struct StepBroken {
    /// The unit that was the first to end so.
    pub name: String,
    pub why: StepEnd,
}

/// How it ended.
#[derive(Debug)]
pub enum StepEnd {
    /// Never `Succeeded`.
    Ended(End),
    /// This machine could not run it.
    Machine(Box<SandboxError>),
}

/// How steps are run.
pub struct Steps<'a> {
    pub units: &'a [Unit<'a>],
    /// How many at a time.
    pub parallel: usize,
    pub log: &'a Log<'a>,
    /// What the units' runners have as `stop`; cancelled here once one failed.
    pub stop: &'a CancellationToken,
}

impl Steps<'_> {
    /// Runs all of them. `on_start` hears how many have ended and which begins.
    pub async fn run(&self, on_start: impl Fn(usize, &str)) -> Result<Vec<StepResult>, StepBroken> {
        let needs = self.units.iter().map(|unit| unit.needs.clone()).collect();
        let mut schedule = Schedule::new(needs, self.parallel);
        let mut results: Vec<Option<StepResult>> = self.units.iter().map(|_| None).collect();
        let mut running = FuturesUnordered::new();
        let mut broken = None;
        loop {
            while let Some(i) = schedule.start_next() {
                let unit = &self.units[i];
                if self.stop.is_cancelled() {
                    schedule.failed(i);
                    broken.get_or_insert(unit.broken(StepEnd::Ended(End::Stopped)));
                } else if let Judgement::Fails(why) = &unit.may_run {
                    self.log.line(&unit.name, &format!("skipped: {why}"));
                    schedule.satisfied(i);
                } else {
                    if let Judgement::Assumed(why) = &unit.may_run {
                        self.log.line(&unit.name, &format!("runs: {why}"));
                    }
                    on_start(schedule.ended(), &unit.name);
                    running.push(async move { (i, self.run_one(unit).await) });
                }
            }
            let Some((i, ran)) = running.next().await else { break };
            let unit = &self.units[i];
            let end = match ran {
                Ok(ran) if ran.end == End::Succeeded => {
                    self.log.forget(&unit.name);
                    schedule.satisfied(i);
                    results[i] = Some(unit.result(&ran));
                    continue;
                }
                Ok(ran) => StepEnd::Ended(ran.end),
                Err(e) => StepEnd::Machine(Box::new(e)),
            };
            schedule.failed(i);
            if let (Some(StepBroken { name, .. }), StepEnd::Ended(End::Stopped)) = (&broken, &end) {
                self.log.line(&unit.name, &format!("ended, because `{name}` failed"));
            }
            broken.get_or_insert(unit.broken(end));
            self.stop.cancel();
        }
        broken.map_or_else(|| Ok(results.into_iter().flatten().collect()), Err)
    }

    async fn run_one(&self, unit: &Unit<'_>) -> Result<Ran, SandboxError> {
        unit.runner.run(&unit.task, |line| self.log.line(&unit.name, line)).await
    }
}

impl Unit<'_> {
    fn broken(&self, why: StepEnd) -> StepBroken {
        StepBroken { name: self.name.clone(), why }
    }

    fn result(&self, ran: &Ran) -> StepResult {
        StepResult { name: self.name.clone(), duration_ms: ran.duration_ms(), exit_code: ran.exit_code() }
    }
}
