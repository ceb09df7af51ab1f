//! Durable timers: when one is due, the bot handles it with the state of its entity.
use std::{sync::Arc, time::Duration};

use bot_messages::{Code, Priority};
use bot_store::{Commit, Committed, Guard, NewTimer, StoreError, Timer};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    entity::{self, Handled},
    schedules,
    shared::Shared,
};
use crate::{
    clock,
    contract::{Bot, TimerDue},
    effects::Fail,
    meta::{Cause, Meta},
};

const AT_A_TIME: u32 = 32;
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Runs until cancelled.
pub(crate) async fn timers<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    while !cancelled.is_cancelled() {
        let wait = match fire_due(&shared).await {
            Ok(()) if !shared.takes_work() => Duration::from_secs(1),
            Ok(()) => shared.store.next_timer_in().await.ok().flatten().unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN),
            Err(e) => {
                tracing::error!("timers cannot be handled: {e}");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = shared.store.timers_changed().notified() => {}
            () = tokio::time::sleep(wait.max(Duration::from_millis(5))) => {}
            () = cancelled.cancelled() => break,
        }
    }
}

async fn fire_due<B: Bot>(shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
    if !shared.takes_work() {
        return Ok(());
    }
    for timer in shared.store.due_timers(AT_A_TIME).await? {
        while fire(shared, &timer).await? == Committed::Stale {}
    }
    Ok(())
}

async fn fire<B: Bot>(shared: &Arc<Shared<B>>, timer: &Timer) -> Result<Committed, StoreError> {
    let schedule = shared.schedules.iter().find(|s| s.timer == timer.name);
    let mut cause: Cause = serde_json::from_value(timer.meta.clone()).unwrap_or_default();
    if schedule.is_some() {
        // Each time is the beginning of something.
        cause.correlation_id = Uuid::now_v7().to_string();
    }
    let now = clock::now();
    let meta = Meta {
        id: format!("timer:{}:{}", timer.name, timer.generation),
        publisher: shared.speaker.slug.clone(),
        correlation_id: cause.correlation_id.clone(),
        priority: Priority::Medium,
        attempt: 1,
        now,
    };
    let name = schedule.map_or(&timer.name, |s| &s.name).clone();
    let due = TimerDue { name, data: timer.data.clone() };
    let guard = Guard::Timer { name: timer.name.clone(), generation: timer.generation };
    let next = schedule.and_then(|s| schedules::timer(s, &timer.key, now));
    let run = |state: &mut B::State| match schedule {
        Some(_) => shared.bot.on_schedule(&due, state, &meta),
        None => shared.bot.on_timer(&due, state, &meta),
    };
    let fail = match entity::handle::<B>(&shared.store, &timer.key, run).await? {
        Handled::Ran { outcome: Ok(effects), state } => {
            let mut commit = Commit { guard: guard.clone(), state, ..Commit::default() };
            match shared.speaker.write(effects.list, &cause, now, &mut commit) {
                Ok(()) => {
                    commit.set_timers.extend(next);
                    return shared.commit(commit).await;
                }
                Err(why) => Fail::reject(Code::MessageTooLarge, anyhow::anyhow!(why)),
            }
        }
        Handled::Ran { outcome: Err(fail), .. } => fail,
        // A version of the bot that can read it may come.
        Handled::Unreadable(why) => Fail::retry(anyhow::anyhow!(why)),
    };
    // A timer has no dead letters: it is set again where that may help, and the log says why.
    tracing::error!(timer = timer.name, correlation_id = cause.correlation_id, "failed: {}", fail.message());
    let after = match fail {
        Fail::Retry(_) | Fail::Outside { .. } => Some(RETRY_AFTER),
        Fail::Later(after, _) => Some(after),
        Fail::Reject { .. } | Fail::LeaseLost => None,
    };
    let set_again = after.map(|after| NewTimer {
        name: timer.name.clone(),
        key: timer.key.clone(),
        after,
        data: timer.data.clone(),
        meta: timer.meta.clone(),
    });
    let set_timers = set_again.or(next).into_iter().collect();
    shared.commit(Commit { guard, set_timers, ..Commit::default() }).await
}
