//! Keeps the applications of all environments running: finds them again after a restart of the bot, starts those that
//! ended, ends those that take too much. Which release it is stays the journal's to say; jobs go first.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bot_clients::{InUse, ObjectError};
use bot_core::ServiceCx;
use bot_messages::Digest;
use tokio::time::Instant;

use crate::{
    DeployBot,
    application::{self, Host},
    environments::{Environment, Target},
    in_use,
    journal::Journal,
    release::Releases,
    words,
};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// An application that ran this long has recovered: the next end of it counts from the beginning.
const RECOVERED: Duration = Duration::from_secs(60);

/// What is remembered of one environment between two looks.
#[derive(Debug, Default)]
struct Watch {
    /// The switch whose application this is about; the next one begins anew.
    seq: u64,
    /// Starts in a row that did not last.
    starts: u32,
    started: Option<Instant>,
    not_before: Option<Instant>,
}

/// Looks until cancelled. Applications go on: they outlive the bot.
pub(crate) async fn keep(bot: &DeployBot, cx: &ServiceCx<DeployBot>) {
    let mut watches: BTreeMap<&str, Watch> = BTreeMap::new();
    let mut told: BTreeMap<&str, BTreeSet<Digest>> = BTreeMap::new();
    while !cx.cancelled.is_cancelled() {
        for environment in bot.environments.values() {
            // A job that has the environment knows better what should run.
            if let Ok(_busy) = environment.busy.try_lock() {
                let watch = watches.entry(&environment.name).or_default();
                let trouble = look(bot, environment, watch).await.unwrap_or_else(|error| Some(format!("{error:#}")));
                bot.tools.degraded(&format!("environment {}", environment.name), trouble);
            }
            let trouble = tell(bot, cx, environment, &mut told).await.err().map(|error| format!("{error:#}"));
            bot.tools.degraded(&format!("retention for {}", environment.name), trouble);
        }
        tokio::select! {
            () = cx.cancelled.cancelled() => {}
            () = tokio::time::sleep(bot.settings.check_every.0) => {}
        }
    }
}

/// Tells the object store what the environment needs, first of all and whenever that has changed.
async fn tell<'a>(
    bot: &DeployBot,
    cx: &ServiceCx<DeployBot>,
    environment: &'a Environment,
    told: &mut BTreeMap<&'a str, BTreeSet<Digest>>,
) -> anyhow::Result<()> {
    if told.get(environment.name.as_str()) == Some(&needed(cx, environment).await?) {
        return Ok(());
    }
    // What is needed is looked up behind what it takes the place of: whatever another says in between stays.
    let before = bot.objects.said_in_use(&environment.name).await?;
    let digests = needed(cx, environment).await?;
    let token = Journal::in_folder(&environment.root).token()?;
    let in_use = InUse { digests, token };
    match bot.objects.write_in_use(&environment.name, &in_use, &before).await {
        Ok(()) => drop(told.insert(&environment.name, in_use.digests)),
        // The next look sees what the other said.
        Err(ObjectError::Overtaken { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn needed(cx: &ServiceCx<DeployBot>, environment: &Environment) -> anyhow::Result<BTreeSet<Digest>> {
    let memory = cx.state(&words::desk(&environment.name)).await;
    let memory = memory.map_err(|fail| anyhow::anyhow!("what waits is not known: {}", fail.message()))?;
    // Afterwards, so that what begins meanwhile is still among what waits.
    let kept = in_use::needed(environment, &Journal::in_folder(&environment.root).read()?);
    Ok(memory.desk.awaited().cloned().chain(kept).collect())
}

/// One look; says what is wrong, if anything is.
async fn look(bot: &DeployBot, environment: &Environment, watch: &mut Watch) -> anyhow::Result<Option<String>> {
    if environment.target != Target::Directory {
        return Ok(None);
    }
    let journal = Journal::in_folder(&environment.root);
    if journal.read()?.last().is_none() {
        return Ok(None);
    }
    // Also another process, where this one stood still for long and was taken over.
    let Some(_hold) = journal.hold_if_free()? else {
        return Ok(None);
    };
    let history = journal.read()?;
    let Some((switch, release)) = history.last().and_then(|last| Some((last, last.to.as_ref()?))) else {
        return Ok(None);
    };
    let Some(serve) = release.serve.as_ref().filter(|_| environment.serves) else {
        return Ok(None);
    };
    if watch.seq != switch.seq {
        *watch = Watch { seq: switch.seq, ..Watch::default() };
    }
    if let Some(running) = Host::find(environment, switch.seq)? {
        if let Some(ending) = running.served.enforce_limits().await? {
            watch.pause();
            return Ok(Some(format!(
                "{} was ended: {ending:?}; raise its limits or mend it",
                release.digest().short()
            )));
        }
        let steady = watch.started.is_none_or(|started| started.elapsed() >= RECOVERED);
        if steady {
            *watch = Watch { seq: switch.seq, ..Watch::default() };
        }
        return Ok((watch.starts > 1).then(|| watch.told(environment, switch.seq)));
    }
    if watch.not_before.is_some_and(|not_before| Instant::now() < not_before) {
        return Ok(Some(watch.told(environment, switch.seq)));
    }
    watch.pause();
    let path = Releases::in_folder(&environment.root).path(release.digest());
    let host = bot.host().await.map_err(|fail| anyhow::anyhow!(fail.message()))?;
    let running = host.run(environment, &history, switch.seq, path, serve).await?;
    tracing::warn!(environment = environment.name, pid = running.served.pid(), "the application did not run: started");
    Ok((watch.starts > 1).then(|| watch.told(environment, switch.seq)))
}

impl Watch {
    /// A start, or an end that leads to one: each makes the next wait twice as long.
    fn pause(&mut self) {
        let pause = (PAUSE_MIN * 2_u32.saturating_pow(self.starts)).min(PAUSE_MAX);
        self.starts = self.starts.saturating_add(1).min(16);
        self.started = Some(Instant::now());
        self.not_before = Some(Instant::now() + pause);
    }

    fn told(&self, environment: &Environment, seq: u64) -> String {
        let last = application::log_tail(environment, seq).pop();
        let last = last.map(|line| format!("; it last said: {line}")).unwrap_or_default();
        format!("the application does not stay up: started {} times{last}", self.starts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_waits_longer_up_to_a_minute() {
        let mut watch = Watch::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            watch.pause();
            pauses.push((watch.not_before.unwrap() - watch.started.unwrap()).as_secs_f64().round() as u64);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
