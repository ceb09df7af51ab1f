//! Durable timers: when one is due, the bot handles it with the state of its entity.
use std::{sync::Arc, time::Duration};

use bot_messages::Priority;
use bot_store::{Commit, Committed, Guard, StateWrite, StoreError, Timer};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::{
    clock,
    contract::{Bot, TimerDue},
    meta::{Cause, Meta},
};

const AT_A_TIME: u32 = 32;
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Runs until cancelled.
pub(crate) async fn timers<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    while !cancelled.is_cancelled() {
        let wait = match fire_due(&shared).await {
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
    for timer in shared.store.due_timers(AT_A_TIME).await? {
        while fire(shared, &timer).await? == Committed::Stale {}
    }
    Ok(())
}

async fn fire<B: Bot>(shared: &Arc<Shared<B>>, timer: &Timer) -> Result<Committed, StoreError> {
    let cause: Cause = serde_json::from_value(timer.meta.clone()).unwrap_or_default();
    let now = clock::now();
    let stored = shared.store.state(&timer.key).await?;
    let version = stored.as_ref().map_or(0, |(_, v)| *v);
    let mut state: B::State = stored.and_then(|(v, _)| serde_json::from_value(v).ok()).unwrap_or_default();
    let meta = Meta {
        id: format!("timer:{}:{}", timer.name, timer.generation),
        publisher: shared.speaker.slug.clone(),
        correlation_id: cause.correlation_id.clone(),
        priority: Priority::Medium,
        attempt: 1,
        now,
    };
    let due = TimerDue { name: timer.name.clone(), data: timer.data.clone() };
    let guard = Guard::Timer { name: timer.name.clone(), generation: timer.generation };
    let mut commit = Commit { guard, ..Commit::default() };
    match shared.bot.on_timer(&due, &mut state, &meta) {
        Ok(effects) => {
            if let Err(why) = shared.speaker.write(effects.list, &cause, now, &mut commit) {
                tracing::error!(timer = timer.name, "its effects cannot be sent: {why}");
            }
            let value = serde_json::to_value(&state).unwrap_or_default();
            commit.state = Some(StateWrite { key: timer.key.clone(), expected_version: version, value });
        }
        // A timer has no dead letters: the guard clears it, and the log says why.
        Err(fail) => {
            tracing::error!(timer = timer.name, correlation_id = cause.correlation_id, "failed: {}", fail.message());
        }
    }
    shared.commit(commit).await
}
