//! Finds the bot that does nothing while work waits and nothing holds it back, as when the broker has silently dropped a
//! consumer. First the session is renewed, twice; after that the process ends, so that its supervisor starts it again.
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bot_messages::keys;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::{bus::Intake, contract::Bot};

/// So often the session is renewed before the process is given up.
const RENEWALS_MAX: u32 = 2;

/// Runs until cancelled. Otherwise: why the process has to begin anew.
pub(crate) async fn watchdog<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) -> String {
    let after = Duration::from_secs(shared.constraints.stalled_after_s);
    let (mut messages, mut jobs) = (Stall::new(after), Stall::new(after));
    let mut tick = tokio::time::interval((after / 4).clamp(Duration::from_secs(1), Duration::from_secs(15)));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cancelled.cancelled() => return std::future::pending().await,
        }
        let by_messages = messages.look(messages_wait(&shared, &messages).await, Instant::now());
        let by_jobs = jobs.look(jobs_wait(&shared).await, Instant::now());
        let why = [&by_messages, &by_jobs].into_iter().find_map(Verdict::why);
        shared.condition(|c| c.stalled = why);
        if let Verdict::Renew(why) = &by_messages {
            tracing::error!("{why}: the session is renewed");
            shared.bus.renew(why);
        }
        // A job that runs may work; it has a limit of its own, and is not ended for this.
        let idle = shared.figures.jobs_running.load(Ordering::Relaxed) == 0;
        if let Some(Verdict::GiveUp(why)) = [by_messages, by_jobs].into_iter().find(Verdict::is_the_end)
            && idle
        {
            return why;
        }
    }
}

/// What is seen of one kind of work.
struct Seen {
    /// Rises with whatever is finished.
    finished: u64,
    /// What waits although nothing holds it back.
    waits: Option<String>,
}

async fn messages_wait<B: Bot>(shared: &Arc<Shared<B>>, stall: &Stall) -> Seen {
    let finished = shared.figures.processed.load(Ordering::Relaxed);
    let link = shared.bus.link();
    let free = *shared.intake.borrow() == Intake::Open && link.up && link.blocked.is_none();
    // The broker is only asked where nothing moved.
    if !free || finished != stall.finished {
        return Seen { finished, waits: None };
    }
    let queue = keys::work(&shared.speaker.slug);
    let waits = match shared.bus.ready(&queue).await {
        Ok(0) => None,
        Ok(ready) => Some(format!("{ready} messages wait in {queue}, and none is handled")),
        Err(why) => {
            tracing::debug!("what waits in {queue} is not known: {why}");
            None
        }
    };
    Seen { finished, waits }
}

async fn jobs_wait<B: Bot>(shared: &Arc<Shared<B>>) -> Seen {
    let figures = &shared.figures;
    let finished = figures.jobs_begun.load(Ordering::Relaxed);
    let full = figures.jobs_running.load(Ordering::Relaxed) >= shared.constraints.max_concurrent_jobs as u64;
    let held = !shared.relief(|r| r.held().is_empty());
    let waits = if full || held || !shared.takes_work() {
        None
    } else {
        let due = shared.store.next_job_in().await.ok().flatten() == Some(Duration::ZERO);
        due.then(|| "a job is due, and none begins".to_owned())
    };
    Seen { finished, waits }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Fine,
    /// As when it was looked at last.
    Stalled(String),
    Renew(String),
    GiveUp(String),
}

impl Verdict {
    fn why(&self) -> Option<String> {
        match self {
            Self::Fine => None,
            Self::Stalled(why) | Self::Renew(why) | Self::GiveUp(why) => Some(why.clone()),
        }
    }

    fn is_the_end(&self) -> bool {
        matches!(self, Self::GiveUp(_))
    }
}

/// Since when work waits and none is finished.
struct Stall {
    after: Duration,
    finished: u64,
    since: Option<Instant>,
    renewed: u32,
}

impl Stall {
    fn new(after: Duration) -> Self {
        Self { after, finished: 0, since: None, renewed: 0 }
    }

    fn look(&mut self, seen: Seen, now: Instant) -> Verdict {
        let moved = std::mem::replace(&mut self.finished, seen.finished) != seen.finished;
        let Some(what) = seen.waits.filter(|_| !moved) else {
            (self.since, self.renewed) = (None, 0);
            return Verdict::Fine;
        };
        let stalled = now.duration_since(*self.since.get_or_insert(now));
        if stalled < self.after {
            return Verdict::Fine;
        }
        let why = format!("{what} for {} s", stalled.as_secs());
        if stalled < self.after * (self.renewed + 1) {
            return Verdict::Stalled(why);
        }
        self.renewed += 1;
        if self.renewed > RENEWALS_MAX { Verdict::GiveUp(why) } else { Verdict::Renew(why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(finished: u64, waits: bool) -> Seen {
        Seen { finished, waits: waits.then(|| "2 messages wait".to_owned()) }
    }

    #[test]
    fn a_bot_that_finishes_nothing_is_renewed_twice_and_then_given_up() {
        let (mut stall, t) = (Stall::new(Duration::from_secs(60)), Instant::now());
        let mut told = Vec::new();
        for s in (0..=180).step_by(15) {
            match stall.look(seen(0, true), t + Duration::from_secs(s)) {
                Verdict::Fine | Verdict::Stalled(_) => {}
                verdict => told.push((s, verdict.is_the_end())),
            }
        }
        assert_eq!(told, [(60, false), (120, false), (180, true)]);
        let why = stall.look(seen(0, true), t + Duration::from_secs(195)).why().unwrap();
        assert_eq!(why, "2 messages wait for 195 s");
    }

    #[test]
    fn whatever_is_finished_or_nothing_that_waits_begins_anew() {
        let (mut stall, t) = (Stall::new(Duration::from_secs(60)), Instant::now());
        for s in (0..3000).step_by(15) {
            let (finished, waits) = (s / 45, s % 45 != 0 || s % 2 == 0);
            assert_eq!(stall.look(seen(finished, waits), t + Duration::from_secs(s)), Verdict::Fine, "{s}");
        }
        let later = t + Duration::from_secs(4000);
        assert_eq!(stall.look(seen(7, true), later), Verdict::Fine);
        assert_eq!(stall.look(seen(7, true), later + Duration::from_secs(1)), Verdict::Fine);
        assert_eq!(stall.look(seen(7, false), later + Duration::from_secs(59)), Verdict::Fine);
        assert_eq!(stall.look(seen(7, true), later + Duration::from_secs(75)), Verdict::Fine, "it waits since now");
    }
}
