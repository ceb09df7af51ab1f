//! How a deployment brings something up that scripts put elsewhere: run, asked whether it is there, and never begun twice
//! without asking first.
use std::collections::{BTreeMap, BTreeSet};

use bot_core::{Fail, crash_point};
use bot_messages::{Code, Digest, FailureReason};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    deployment::{Deployment, Down},
    environments::{Environment, Scripts},
    history::{Kind, Switch},
    release::Release,
    report::{Up, Verdict},
    scripts::{Runner, ScriptEnd, Secrets, Which},
};

impl Deployment<'_> {
    /// Runs the script that puts a switch into the world, unless an earlier attempt did and it is seen there.
    pub(crate) async fn put_there(&self, switch: &Switch, scripts: &Scripts) -> Result<Up, Down> {
        let mut runner = self.runner(switch.to.as_ref(), switch.from.as_ref(), scripts).await.map_err(Down::Halted)?;
        let begun = format!("script-{}", switch.seq);
        let by: Option<u32> = self.cx.recall(&begun).await.map_err(Down::Halted)?;
        let seen_before = by.is_some_and(|attempt| attempt != self.cx.attempt);
        if seen_before && switch.to.is_some() && self.is_seen(&runner).await? {
            let what = "an earlier attempt had put it there: it was asked for and found".to_owned();
            self.step(&format!("found-{}", switch.seq), what).await.map_err(Down::Halted)?;
            return Ok(up(scripts));
        }
        let Some((which, script)) = chosen(switch, scripts) else {
            return Err(Down::Bad(Verdict {
                reason: FailureReason::Error,
                code: Code::CommandFailed,
                message: "nothing was there before, and the target has no `rollback` command to take away what the \
                          command `deploy` left"
                    .to_owned(),
                log_tail: Vec::new(),
            }));
        };
        if let Some(to) = &switch.to {
            let release = self.releases.path(to.digest());
            self.judge(switch, runner.prepare(&release, to.digest()).await)?;
        }
        // The intent, durable before anything outside is touched.
        self.cx.remember(&begun, &self.cx.attempt).await.map_err(Down::Halted)?;
        // A script may run for long, so nothing is held meanwhile: it was begun by whoever may switch, and has the token.
        drop(self.hold().await.map_err(Down::Halted)?);
        self.cx.progress(60, &format!("running {which:?}").to_lowercase());
        let ended = runner.run(which, script).await;
        crash_point("deployment: command ended");
        if let Err(down) = self.judge(switch, ended) {
            // What a script could not bring back may never have been away.
            let never_away = self.is_taken_back().await && switch.to.is_some() && self.is_seen(&runner).await?;
            return if never_away { Ok(up(scripts)) } else { Err(down) };
        }
        if switch.to.is_some() {
            let deadline = switch.to.as_ref().map_or(self.environment.health_deadline_max, |to| self.deadline(to));
            self.cx.progress(80, "asking whether it is there");
            self.judge(switch, runner.verified(deadline).await)?;
            crash_point("deployment: seen there");
        }
        Ok(up(scripts))
    }

    /// Whether what the journal says is still there. Without a way to ask nobody knows, and it is put there again.
    pub(crate) async fn still_there(&self, switch: &Switch, scripts: &Scripts) -> Result<Up, Down> {
        let runner = self.runner(switch.to.as_ref(), switch.from.as_ref(), scripts).await.map_err(Down::Halted)?;
        if self.is_seen(&runner).await? {
            return Ok(up(scripts));
        }
        let message = "it was not seen there".to_owned();
        let (reason, code) = (FailureReason::Failed, Code::HealthCheckFailed);
        Err(Down::Bad(Verdict { reason, code, message, log_tail: Vec::new() }))
    }

    /// One question, where there is a way to ask.
    async fn is_seen(&self, runner: &Runner<'_>) -> Result<bool, Down> {
        let Some(verify) = &runner.scripts.verify else {
            return Ok(false);
        };
        let asked = runner.run(Which::Verify, verify).await;
        Ok(matches!(asked.map_err(|error| Down::Halted(Fail::Retry(error)))?, ScriptEnd::Good))
    }

    fn judge(&self, switch: &Switch, end: anyhow::Result<ScriptEnd>) -> Result<(), Down> {
        match end.map_err(|error| Down::Halted(Fail::Retry(error)))? {
            ScriptEnd::Good => Ok(()),
            ScriptEnd::Bad(verdict) => Err(Down::Bad(verdict)),
            ScriptEnd::Stopped => Err(self.stopped(switch, 1)),
        }
    }

    /// Refuses what a compose project may not have while nothing has been touched.
    pub(crate) async fn admit(&self, release: &Release, scripts: &Scripts) -> Result<(), Fail> {
        if scripts.project.is_none() {
            return Ok(());
        }
        let mut runner = self.runner(Some(release), None, scripts).await?;
        let path = self.releases.path(release.digest());
        match runner.prepare(&path, release.digest()).await.map_err(Fail::Retry)? {
            ScriptEnd::Good => Ok(()),
            ScriptEnd::Bad(verdict) => Err(Fail::reject(verdict.code, anyhow::anyhow!(verdict.message))),
            ScriptEnd::Stopped => self.heed(),
        }
    }

    /// Ends what scripts of an earlier process left running: before an attempt, nobody else may be at work there.
    pub(crate) async fn reap(&self) -> Result<(), Fail> {
        let reaped = self.host.sandbox.reap_stale(&label_of(self.environment)).await.map_err(Fail::retry)?;
        if reaped > 0 {
            self.cx.line(&format!("{reaped} processes of an earlier attempt were ended"));
        }
        Ok(())
    }

    /// What the scripts name and the operator laid down.
    pub(crate) fn secrets(&self, scripts: &Scripts) -> Result<Secrets, Fail> {
        let dir = self.bot.tools.config_dir.join(&self.bot.settings.secret_dir);
        Secrets::read(scripts, &dir, &self.bot.tools.secrets).map_err(|error| Fail::reject(Code::Rejected, error))
    }

    /// Whether this job has switched, and switched back.
    async fn is_taken_back(&self) -> bool {
        self.history().await.is_ok_and(|history| history.of_job(&self.cx.id).len() > 1)
    }

    async fn runner<'r>(
        &'r self,
        to: Option<&Release>,
        from: Option<&Digest>,
        scripts: &'r Scripts,
    ) -> Result<Runner<'r>, Fail> {
        let secrets = self.secrets(scripts)?;
        let history = self.history().await?;
        let is_taken_back = self.is_taken_back().await;
        let release = to.map(|to| self.releases.path(to.digest()));
        // What is taken back is taken back in time even where the job was told to stop.
        let stop = if is_taken_back { CancellationToken::new() } else { self.cx.cancelled.clone() };
        let mut told = BTreeMap::from([
            ("LOTA_ENVIRONMENT", self.environment.name.clone()),
            ("LOTA_JOB", self.cx.id.clone()),
            ("LOTA_TOKEN", self.cx.token.to_string()),
            ("LOTA_DIGEST", to.map(|to| to.digest().to_string()).unwrap_or_default()),
            ("LOTA_HEX", to.map(|to| to.digest().hex().to_owned()).unwrap_or_default()),
            ("LOTA_PREVIOUS_DIGEST", from.map(Digest::to_string).unwrap_or_default()),
            ("LOTA_KEEP", spaced(&history.kept(self.environment.keep))),
            ("LOTA_RELEASE", release.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ]);
        if let Some(to) = to {
            let image = scripts.project.as_ref().and_then(|project| project.image(to.digest()));
            told.extend(image.map(|image| ("LOTA_IMAGE", image)));
            told.insert("LOTA_REPOSITORY", to.revision.repository.clone());
            told.insert("LOTA_REF", to.revision.git_ref.clone());
            told.insert("LOTA_COMMIT", to.revision.commit.as_str().to_owned());
        }
        Ok(Runner {
            host: self.host,
            environment: self.environment,
            scripts,
            secrets,
            label: format!("{}{}", label_of(self.environment), self.cx.id),
            told: told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            read_only: release.into_iter().collect(),
            laid: None,
            stop,
            line: Box::new(|line| self.cx.line(line)),
        })
    }
}

/// Which script makes the world what the switch says.
fn chosen<'s>(switch: &Switch, scripts: &'s Scripts) -> Option<(Which, &'s str)> {
    match (&switch.to, switch.kind, &scripts.rollback) {
        (_, Kind::Rollback, Some(rollback)) | (None, Kind::Deploy, Some(rollback)) => Some((Which::Rollback, rollback)),
        (Some(_), _, _) => Some((Which::Deploy, &scripts.deploy)),
        (None, _, None) => None,
    }
}

/// What the runs of an environment's scripts are called: several fleets of one machine may have one of that name.
fn label_of(environment: &Environment) -> String {
    let folder = Sha256::digest(environment.root.as_os_str().as_encoded_bytes());
    format!("{}:{}:", environment.name, hex::encode(&folder[..6]))
}

fn up(scripts: &Scripts) -> Up {
    Up { url: scripts.url.clone(), health_url: None }
}

fn spaced(digests: &BTreeSet<Digest>) -> String {
    digests.iter().map(Digest::hex).collect::<Vec<_>>().join(" ")
}
