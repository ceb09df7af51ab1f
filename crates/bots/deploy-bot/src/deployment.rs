//! How a [`DeployJob`] is done: fetch, switch, start, ask, and take back what is not healthy. Every step can be repeated
//! by a later attempt, which finds in the journal how far the earlier one came.
use std::time::Duration;

use bot_core::{Effects, Fail, JobCx, Outcome, Stop, crash_point};
use bot_messages::{
    Code, FailureReason,
    deploy::{AttemptStep, DeployStarted},
    pipeline::Health,
};
use tokio::task::spawn_blocking;

use crate::{
    DeployBot,
    application::{self, Host, Running},
    environments::{Environment, Target},
    health::{self, Answer, Question},
    history::{History, Kind, Switch},
    in_use,
    job::{DeployJob, Want},
    journal::{Hold, Journal, JournalError, Wanted},
    release::{Release, Releases},
    report::{Up, Verdict},
    words::{self, What},
};

/// A job that was told to stop has 15 s until it is dropped: then the former release has only this long to answer.
const HURRIED_DEADLINE: Duration = Duration::from_secs(6);

pub(crate) enum Down {
    /// It is not healthy.
    Bad(Verdict),
    /// It was not found out: the attempt ends.
    Halted(Fail),
}

/// One attempt of one job.
pub(crate) struct Deployment<'a> {
    pub(crate) job: &'a DeployJob,
    pub(crate) bot: &'a DeployBot,
    pub(crate) cx: &'a JobCx<DeployBot>,
    pub(crate) environment: &'a Environment,
    pub(crate) host: &'a Host,
    pub(crate) journal: Journal,
    pub(crate) releases: Releases,
}

impl Deployment<'_> {
    /// Begins, or goes on where an earlier attempt of this job ended.
    pub(crate) async fn run(&self) -> Outcome<DeployBot> {
        let (job, token, root) = (self.cx.id.clone(), self.cx.token, self.environment.root.clone());
        beside(move || std::fs::create_dir_all(root).map_err(Fail::retry)).await?;
        self.journaled(move |journal| journal.claim(&job, token)).await?;
        crash_point("deployment: journal claimed");
        if self.environment.target != Target::Directory {
            self.reap().await?;
        }
        let begun = match self.cx.attempt {
            1 => "begun".to_owned(),
            again => format!("begun again, attempt {again}: the one before did not come to its end"),
        };
        self.step(&format!("begun-{}", self.cx.attempt), begun).await?;
        let history = self.history().await?;
        let Some(first) = history.of_job(&self.cx.id).first().map(|first| (*first).clone()) else {
            return self.begin(&history).await;
        };
        if history.last().is_some_and(|last| last.job != self.cx.id) {
            let why = anyhow::anyhow!("another job has switched {} since this one did", self.environment.name);
            return Err(Fail::reject(Code::Rejected, why));
        }
        match self.cx.recall::<Verdict>("verdict").await? {
            Some(verdict) => self.take_back(&first, verdict).await,
            None => self.finish(&first).await,
        }
    }

    /// Everything before the switch: until then, stopping changes nothing.
    async fn begin(&self, history: &History) -> Outcome<DeployBot> {
        let (release, kind) = self.wanted(history)?;
        if let Some(newer) = history.newer_than(&release.revision).filter(|_| !self.job.by_hand) {
            let why = anyhow::anyhow!(
                "{} is superseded: {}, a later push of {}, was in {} already; `deploy.requested` puts it there all the same",
                release.revision.commit.short(),
                newer.commit.short(),
                release.revision.git_ref,
                self.environment.name
            );
            return Err(Fail::reject(Code::Cancelled, why));
        }
        if kind == Kind::Deploy {
            let started = DeployStarted {
                environment: self.environment.name.clone(),
                revision: release.revision.clone(),
                job_id: self.cx.id.clone(),
                artifact: release.artifact.clone(),
                previous: history.current().map(|current| current.digest().clone()),
            };
            self.cx.emit("started", Effects::none().say(started)).await?;
        }
        self.heed()?;
        if let Target::Scripts(scripts) = &self.environment.target {
            // A secret that is missing is found out while nothing has been touched.
            self.secrets(scripts)?;
        }
        self.cx.progress(10, &format!("unpacking {}", release.digest().short()));
        let needed = in_use::needed(self.environment, history).into_iter().chain([release.digest().clone()]).collect();
        if let Err(error) = in_use::add(&self.bot.objects, self.environment, needed, self.cx.token).await {
            // The keeper says it again. What has to be fetched now fails by itself; what is on disk need not.
            self.cx.line(&error.to_string());
        }
        crash_point("deployment: told what is needed");
        self.unpack(&release).await?;
        self.step("unpacked", format!("unpacked {}", release.digest().short())).await?;
        self.heed()?;
        if let Some(there) = self.already_there(history, &release).await? {
            return Ok(there);
        }
        if let Target::Scripts(scripts) = &self.environment.target {
            self.admit(&release, scripts).await?;
        }
        // Whoever has lost the lease learns it here, while nothing has been touched.
        let from = history.current().map_or("nothing", |current| current.digest().short());
        let intent = format!("switching from {from} to {}", release.digest().short());
        self.step("intent", intent).await?;
        let first = self.switch(0, Some(release), kind, self.job.reason(), Some(self.job.by.clone())).await?;
        self.step("switched", format!("the journal says switch {}", first.seq)).await?;
        self.finish(&first).await
    }

    /// What the job is to put there.
    fn wanted(&self, history: &History) -> Result<(Release, Kind), Fail> {
        let name = &self.environment.name;
        match &self.job.want {
            Want::Release(release) => Ok(((**release).clone(), Kind::Deploy)),
            Want::Back { to: Some(digest), .. } => match history.release(digest) {
                Some(release) => Ok((release.clone(), Kind::Rollback)),
                None => Err(Fail::reject(
                    Code::PermissionDenied,
                    anyhow::anyhow!("{} was never in {name}: roll back to what was, or deploy it", digest.short()),
                )),
            },
            Want::Back { to: None, .. } => match history.previous() {
                Some(release) => Ok((release.clone(), Kind::Rollback)),
                None => Err(Fail::reject(
                    Code::Rejected,
                    anyhow::anyhow!("there is nothing in {name} to go back to: its history holds no earlier release"),
                )),
            },
        }
    }

    async fn unpack(&self, release: &Release) -> Result<(), Fail> {
        let attempt = format!("{}.{}", self.cx.id, self.cx.token);
        self.releases.unpack(&release.artifact, &self.bot.objects, self.bot.sizes, &attempt).await
    }

    /// The end of the job where nothing would change and the application answers.
    async fn already_there(&self, history: &History, release: &Release) -> Result<Option<Effects<DeployBot>>, Fail> {
        let Some(last) = history.last().filter(|last| last.to.as_ref().is_some_and(|to| to.is_same(release))) else {
            return Ok(None);
        };
        let up = match &self.environment.target {
            Target::Directory => self.bring_up(last).await,
            Target::Scripts(scripts) => self.still_there(last, scripts).await,
        };
        match up {
            Ok(up) => {
                let there = Switch { to: Some(release.clone()), ..last.clone() };
                let note = format!("{} is in {} already, and healthy", release.digest().short(), self.environment.name);
                self.cx.line(&note);
                Ok(Some(self.succeeded(&there, up).note(note)))
            }
            Err(Down::Halted(fail)) => Err(fail),
            Err(Down::Bad(_)) => {
                self.heed()?;
                Ok(None)
            }
        }
    }

    /// The `nth` switch of this job. The former application ends first: both want the same port.
    async fn switch(
        &self,
        nth: usize,
        to: Option<Release>,
        kind: Kind,
        reason: Option<String>,
        requested_by: Option<String>,
    ) -> Result<Switch, Fail> {
        let hold = self.hold().await?;
        let history = self.history().await?;
        if let Some(made) = history.of_job(&self.cx.id).get(nth) {
            return Ok((*made).clone());
        }
        let name = to.as_ref().map_or("nothing", |release| release.digest().short());
        self.cx.progress(50, &format!("switching {} to {name}", self.environment.name));
        if self.environment.target == Target::Directory {
            self.host.stop(self.environment, &history, self.hurried()).await.map_err(Fail::retry)?;
            crash_point(&format!("deployment: stopped for switch {nth} of the job"));
        }
        let (at, job, token) = (self.cx.now(), self.cx.id.clone(), self.cx.token);
        let wanted = Wanted { at, to, job, token, kind, reason, requested_by, nth };
        let switch = self.journaled(move |journal| journal.append(&hold, wanted)).await?;
        crash_point(&format!("deployment: switch {nth} of the job is in the journal"));
        Ok(switch)
    }

    /// From the switch on: healthy, or taken back.
    async fn finish(&self, first: &Switch) -> Outcome<DeployBot> {
        match self.bring_up(first).await {
            Ok(up) => {
                self.prune().await;
                Ok(self.succeeded(first, up))
            }
            Err(Down::Halted(fail)) => Err(fail),
            Err(Down::Bad(verdict)) => self.take_back(first, verdict).await,
        }
    }

    /// Makes the world what the journal says.
    async fn bring_up(&self, switch: &Switch) -> Result<Up, Down> {
        match &self.environment.target {
            Target::Directory => self.serve(switch).await,
            Target::Scripts(scripts) => self.put_there(switch, scripts).await,
        }
    }

    /// On this machine: link, application, answer.
    async fn serve(&self, switch: &Switch) -> Result<Up, Down> {
        let halted = Down::Halted;
        // Until the application was started: what is there is of whoever may switch.
        let hold = self.hold().await.map_err(halted)?;
        let (releases, digest) = (self.releases.clone(), switch.to.as_ref().map(|to| to.digest().clone()));
        beside(move || releases.point(digest.as_ref()).map_err(Fail::Retry)).await.map_err(halted)?;
        crash_point("deployment: link set");
        let history = self.history().await.map_err(halted)?;
        let serve =
            switch.to.as_ref().and_then(|to| Some((to, to.serve.as_ref().filter(|_| self.environment.serves)?)));
        let Some((release, serve)) = serve else {
            let stopped = self.host.stop(self.environment, &history, self.hurried()).await;
            stopped.map_err(|error| halted(Fail::retry(error)))?;
            return Ok(Up { url: None, health_url: None });
        };
        let switches = history.of_job(&self.cx.id).len();
        let path = self.releases.path(release.digest());
        let started = self.host.run(self.environment, &history, switch.seq, path, serve).await;
        let Running { served, port } = started.map_err(|error| {
            let message = format!("{} could not be started: {error:#}", release.digest().short());
            self.bad(switch, FailureReason::Error, Code::UnknownError, message)
        })?;
        drop(hold);
        crash_point("deployment: application started");
        let question = Question::new(port, release.health.as_ref());
        self.cx.progress(70, &format!("asking {question}"));
        let deadline = self.deadline(release);
        let answer =
            health::ask(&self.bot.http, &question, deadline, || served.is_running(), || self.must_end(switches));
        match answer.await {
            Answer::Healthy => {
                crash_point("deployment: healthy");
                let health_url = question.url_at(&self.bot.settings.reached_at);
                Ok(Up { url: Some(health::base_url(port)), health_url })
            }
            Answer::Stopped => Err(self.stopped(switch, switches)),
            Answer::Gone => {
                let message = format!("{} ended before {question} answered", release.digest().short());
                Err(self.bad(switch, FailureReason::Failed, Code::HealthCheckFailed, message))
            }
            Answer::NotInTime(last) => {
                let message = format!("{question} {last} until the deadline of {} s", deadline.as_secs_f64());
                Err(self.bad(switch, FailureReason::Failed, Code::HealthCheckFailed, message))
            }
        }
    }

    fn bad(&self, switch: &Switch, reason: FailureReason, code: Code, message: String) -> Down {
        let log_tail = application::log_tail(self.environment, switch.seq);
        Down::Bad(Verdict { reason, code, message, log_tail })
    }

    /// The smaller of what the pipeline and the operator allow.
    pub(crate) fn deadline(&self, release: &Release) -> Duration {
        let asked = release.health.as_ref().map(|health| health.deadline.0);
        // Where the operator asks by a command of their own, the pipeline need not say anything about health.
        let by_default = match self.environment.target {
            Target::Directory => Health::default().deadline.0,
            Target::Scripts(_) => self.environment.health_deadline_max,
        };
        let deadline = asked.unwrap_or(by_default).min(self.environment.health_deadline_max);
        if self.hurried() { deadline.min(HURRIED_DEADLINE) } else { deadline }
    }

    /// Back to what was there before, and the one terminal event of a deployment that failed.
    async fn take_back(&self, first: &Switch, verdict: Verdict) -> Outcome<DeployBot> {
        self.cx.remember("verdict", &verdict).await?;
        self.cx.line(&verdict.message);
        self.step("verdict", format!("taking it back: {}", verdict.message)).await?;
        let former = self.history().await?.before(first.seq).cloned();
        if let Some(former) = &former
            && let Err(fail) = self.unpack(former).await
        {
            // It was unpacked once; if it is gone and cannot be had, the start below says so.
            self.cx.line(&fail.message());
        }
        let kind = if first.kind == Kind::Deploy { Kind::Rollback } else { Kind::Deploy };
        let back = self.switch(1, former.clone(), kind, Some(verdict.message.clone()), None).await?;
        let trouble = match self.bring_up(&back).await {
            Ok(_) => None,
            Err(Down::Bad(trouble)) => Some(trouble.message),
            Err(Down::Halted(fail)) => return Err(fail),
        };
        self.prune().await;
        Ok(self.failed(first, former.as_ref(), verdict, trouble.as_deref()))
    }

    /// Writes a step into the environment's history, once over all attempts.
    pub(crate) async fn step(&self, step: &str, what: String) -> Result<(), Fail> {
        let DeployJob { environment, number, .. } = self.job;
        let word =
            What::Step { number: *number, job_id: self.cx.id.clone(), step: AttemptStep { at: self.cx.now(), what } };
        let told = words::say(environment, &format!("step:{environment}:{number}:{step}"), word);
        self.cx.emit(step, told).await
    }

    pub(crate) async fn history(&self) -> Result<History, Fail> {
        self.journaled(Journal::read).await
    }

    /// Nobody else touches the environment as long as it is there. Refused: this attempt was taken over.
    pub(crate) async fn hold(&self) -> Result<Hold, Fail> {
        let (job, token) = (self.cx.id.clone(), self.cx.token);
        self.journaled(move |journal| journal.hold(&job, token)).await
    }

    async fn journaled<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Fail> {
        let journal = self.journal.clone();
        match spawn_blocking(move || act(&journal)).await.map_err(Fail::retry)? {
            Err(error @ JournalError::Stale { .. }) => Err(self.refused(error).await),
            Err(error @ JournalError::Damaged { .. }) => Err(Fail::reject(Code::UnknownError, error)),
            Err(error @ JournalError::Io { .. }) => Err(Fail::retry(error)),
            Ok(done) => Ok(done),
        }
    }

    /// Whoever took over ends the job. Where the store knows of nobody, someone else deploys there, and a person has to look.
    async fn refused(&self, error: JournalError) -> Fail {
        tracing::warn!(job_id = self.cx.id, "{error}");
        self.cx.line(&error.to_string());
        let told = self.step(&format!("refused-{}", self.cx.attempt), error.to_string()).await;
        told.err().unwrap_or_else(|| Fail::reject(Code::Rejected, error))
    }

    /// What is left over costs space, nothing else: it never fails a deployment.
    async fn prune(&self) {
        let pruned = self.bot.pruning.attempt(async {
            let _hold = self.hold().await.map_err(|fail| fail.message())?;
            let history = self.history().await.map_err(|fail| fail.message())?;
            application::prune(self.environment, &history).map_err(|error| format!("{error:#}"))
        });
        if let Err(why) = pruned.await {
            self.cx.line(&why);
        }
    }

    /// Ends an attempt that was told to stop before it touched anything.
    pub(crate) fn heed(&self) -> Result<(), Fail> {
        if !self.cx.cancelled.is_cancelled() {
            return Ok(());
        }
        Err(match self.cx.stop() {
            Some(Stop::Asked(why)) => Fail::reject(Code::Cancelled, anyhow::anyhow!("cancelled: {why}")),
            Some(Stop::TimedOut) => Fail::reject(Code::TimedOut, anyhow::anyhow!("the time for the job is over")),
            Some(Stop::LeaseLost) => Fail::LeaseLost,
            Some(Stop::BotStopping) | None => {
                Fail::Later(Duration::ZERO, anyhow::anyhow!("the bot stops; the job goes on when it is back"))
            }
        })
    }

    /// Whether there is little time, because the runtime waits for the job to end.
    pub(crate) fn hurried(&self) -> bool {
        self.cx.cancelled.is_cancelled()
    }

    /// Whether waiting for an answer has to end. Who asked to stop gets what they asked for once it is being taken back.
    fn must_end(&self, switches: usize) -> bool {
        let taken_back = switches > 1 && matches!(self.cx.stop(), Some(Stop::Asked(_) | Stop::TimedOut));
        self.hurried() && !taken_back
    }

    /// What stopping means after so many switches of this job.
    pub(crate) fn stopped(&self, switch: &Switch, switches: usize) -> Down {
        match (self.cx.stop(), switches) {
            (Some(Stop::Asked(why)), 1..) => {
                self.bad(switch, FailureReason::Cancelled, Code::Cancelled, format!("cancelled: {why}"))
            }
            (Some(Stop::TimedOut), 1..) => {
                let message = "the time for the job was over before it was healthy".to_owned();
                self.bad(switch, FailureReason::TimedOut, Code::TimedOut, message)
            }
            _ => Down::Halted(self.heed().err().unwrap_or(Fail::LeaseLost)),
        }
    }
}

/// What blocks happens beside the runtime's own threads.
async fn beside<T: Send + 'static>(act: impl FnOnce() -> Result<T, Fail> + Send + 'static) -> Result<T, Fail> {
    spawn_blocking(act).await.map_err(Fail::retry)?
}
