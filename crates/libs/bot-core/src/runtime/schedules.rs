//! Schedules are durable timers that set themselves again: a time that passed while the bot was away fires once when it
//! is back, and of several replicas one commits the firing.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bot_store::{Commit, NewTimer, StoreError};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::shared::Shared;
use crate::{
    clock,
    config::Trigger,
    contract::Bot,
    schedule::{Schedule, TIMER_PREFIX},
};

/// The entity of each schedule by the name of its timer, as the bot says. `Err`: what it has no use for.
pub(crate) fn keys<B: Bot>(bot: &B, triggers: &[Trigger]) -> Result<BTreeMap<String, String>, String> {
    let key = |schedule: &Schedule| match bot.schedule_key(&schedule.data) {
        Ok(key) => Ok((schedule.timer.clone(), key)),
        Err(why) => Err(format!("the schedule `{}`: {why}", schedule.name)),
    };
    Schedule::all(triggers).iter().map(key).collect()
}

/// One replica plans at a time: what another planned is not set again.
const LEAD: &str = "schedules";
const LEAD_LENGTH: Duration = Duration::from_secs(10);
const LEAD_AGAIN: Duration = Duration::from_millis(100);

/// Sets the timers of schedules that are new, and clears those of schedules that are gone or say something else now.
pub(crate) async fn plan<B: Bot>(shared: &Arc<Shared<B>>, keys: &BTreeMap<String, String>) -> Result<(), StoreError> {
    while !shared.store.lead(LEAD, &shared.tools.instance, LEAD_LENGTH).await? {
        tokio::time::sleep(LEAD_AGAIN).await;
    }
    plan_alone(shared, keys).await?;
    shared.store.lead(LEAD, &shared.tools.instance, Duration::ZERO).await.map(|_| ())
}

async fn plan_alone<B: Bot>(shared: &Arc<Shared<B>>, keys: &BTreeMap<String, String>) -> Result<(), StoreError> {
    let known = shared.store.timer_names(TIMER_PREFIX).await?;
    let now = clock::now();
    let new = shared.schedules.iter().filter(|s| !known.contains(&s.timer));
    let set_timers: Vec<NewTimer> = new.filter_map(|s| timer(s, keys.get(&s.timer)?, now)).collect();
    let clear_timers: Vec<String> = known.into_iter().filter(|name| !keys.contains_key(name)).collect();
    if set_timers.is_empty() && clear_timers.is_empty() {
        return Ok(());
    }
    shared.commit(Commit { set_timers, clear_timers, ..Commit::default() }).await.map(|_| ())
}

/// The timer of the next time.
pub(crate) fn timer(schedule: &Schedule, key: &str, now: DateTime<Utc>) -> Option<NewTimer> {
    let after = schedule.next(now)?.signed_duration_since(now).to_std().unwrap_or(Duration::ZERO);
    let (name, data) = (schedule.timer.clone(), schedule.data.clone());
    Some(NewTimer { name, key: key.to_owned(), after, data, meta: Value::Null })
}
