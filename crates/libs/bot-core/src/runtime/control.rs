//! How people steer a bot: commands on its control queue set a row in the store that every replica reads.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bot_messages::{
    Code, Event, Reply, SafeError,
    bot::{BotPaused, BotResumed},
    control::{ControlCancel, ControlPause, ControlProbe, ControlReplied, ControlRerun, ControlResume},
};
use bot_store::{Commit, Committed, Counts, InboxKey, InboxMark, StoreError};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    entity::STATE_BYTES_MAX, holding, inbox::proven_publisher, origin, outgoing::Returned, pulse, rerun, shared::Shared,
};
use crate::{
    bus::{Delivery, Intake, Properties},
    clock,
    config::Constraints,
    contract::Bot,
    envelope::{BODY_BYTES_MAX, Envelope},
    guard, hash,
    meta::Cause,
};

const PAUSE_ROW: &str = "control.pause";
/// A command whose effect could not be written waits so long.
const COMMAND_AGAIN: Duration = Duration::from_secs(1);
const OUTBOX_UNSENT_MAX: u64 = 1000;
const PAUSE_SECONDS_MAX: u64 = 31_536_000;

/// What is in the store while the bot is paused.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PauseRow {
    reason: String,
    by: String,
    until: Option<DateTime<Utc>>,
}

/// Why a command was not carried out.
pub(super) type Refusal = (Code, String);

/// Answers commands until cancelled.
pub(crate) async fn control<B: Bot>(
    shared: Arc<Shared<B>>,
    mut deliveries: mpsc::Receiver<Delivery>,
    cancelled: CancellationToken,
) {
    loop {
        let delivery = tokio::select! {
            d = deliveries.recv() => match d { Some(d) => d, None => return },
            () = cancelled.cancelled() => return,
        };
        // Kept in hand while the store fails: given back, it would come again at once, and only so often.
        while let Err(e) = command(&shared, &delivery).await {
            tracing::error!("a command waits, since the store cannot be written: {e}");
            tokio::select! {
                () = tokio::time::sleep(COMMAND_AGAIN) => {}
                () = cancelled.cancelled() => return,
            }
        }
        delivery.ack().await;
    }
}

async fn command<B: Bot>(shared: &Arc<Shared<B>>, delivery: &Delivery) -> Result<(), StoreError> {
    let begun = Instant::now();
    let properties = delivery.properties.clone().unwrap_or_default();
    let envelope = match believed(shared, delivery, &properties) {
        Ok(envelope) => envelope,
        Err((code, why)) => {
            tracing::warn!(code = code.as_str(), "a command is refused: {why}");
            let returned = Returned {
                body: &delivery.body,
                id: properties.message_id.as_deref(),
                event_type: properties.event_type.as_deref(),
                publisher: proven_publisher(&delivery.exchange),
                properties: properties.clone(),
                attempt: 1,
                ..Returned::default()
            };
            let letters = shared.speaker.dead_letter(&returned, code, &why, clock::now());
            return shared.commit(Commit { outbox: letters, ..Commit::default() }).await.map(|_| ());
        }
    };
    let mark = mark_of(&envelope);
    if shared.store.inbox(&mark.key).await?.is_some_and(|known| known.settled) {
        tracing::info!(command = envelope.id, "a command came again, and was answered before");
        return Ok(());
    }
    let cause = Cause {
        correlation_id: envelope.correlation_id.clone().unwrap_or_else(|| envelope.id.clone()),
        causation_id: envelope.id.clone(),
        ..Cause::default()
    };
    // What it does to the store is committed together with the answer.
    let mut commit = Commit::default();
    let done = if envelope.event_type == ControlRerun::TYPE {
        match data::<ControlRerun>(&envelope) {
            Ok(asked) => rerun::rerun(shared, &envelope, &asked, &cause, &mut commit).await?,
            Err(refusal) => Err(refusal),
        }
    } else {
        carry_out(shared, &envelope).await?
    };
    let now = clock::now();
    let reply = Reply {
        success: done.is_ok(),
        execution_id: envelope.id.clone(),
        error: done.as_ref().err().map(|(code, why)| SafeError::new(*code, why.clone(), now)),
        data: done.ok(),
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let replied = ControlReplied { bot: shared.contract.name.to_string(), command: envelope.event_type, reply };
    commit.outbox.extend(shared.speaker.say_core(&replied, &cause, now));
    commit.inbox = Some(mark);
    match shared.commit(commit).await? {
        Committed::Done => {}
        refused => tracing::info!(command = envelope.id, ?refused, "a command came again, and was answered before"),
    }
    Ok(())
}

/// By which a command is answered once, however often it is delivered. The publisher is the one that was proven.
fn mark_of(envelope: &Envelope) -> InboxMark {
    InboxMark {
        key: InboxKey { publisher: envelope.source.slug(), id: envelope.id.clone(), replay: 0 },
        content_hash: hash::full(&[envelope.event_type.as_bytes(), envelope.data.to_string().as_bytes()]),
        attempt: 1,
        settled: true,
        counts: true,
    }
}

async fn carry_out<B: Bot>(shared: &Arc<Shared<B>>, envelope: &Envelope) -> Result<Result<Value, Refusal>, StoreError> {
    let by = envelope.source.to_string();
    Ok(match envelope.event_type.as_str() {
        ControlPause::TYPE => match data::<ControlPause>(envelope) {
            Ok(pause) => {
                let until = pause.for_seconds.map(|s| clock::now() + Duration::from_secs(s.min(PAUSE_SECONDS_MAX)));
                set_pause(shared, Some(PauseRow { reason: pause.reason, by, until })).await?;
                Ok(json!({"paused": true}))
            }
            Err(refusal) => Err(refusal),
        },
        ControlResume::TYPE => {
            set_pause(shared, None).await?;
            // Whoever says so may know that what was missing is there again.
            shared.relief(|r| r.try_now(clock::now()));
            Ok(json!({"paused": false}))
        }
        ControlCancel::TYPE => match data::<ControlCancel>(envelope) {
            Ok(cancel) => {
                let reason = format!("{} (by {by})", cancel.reason);
                if shared.store.request_cancel(&cancel.job_id, &reason).await? {
                    Ok(json!({"job_id": cancel.job_id, "cancelling": true}))
                } else {
                    Err((Code::Rejected, format!("no job {} waits or runs here", cancel.job_id)))
                }
            }
            Err(refusal) => Err(refusal),
        },
        ControlProbe::TYPE => {
            let mut answer = serde_json::to_value(pulse::heartbeat(shared).await).unwrap_or_default();
            answer["files"] = match (shared.hash_of_files)() {
                Ok(config_hash) => json!({"config_hash": config_hash}),
                Err(wrong) => json!({"wrong": guard::clean(&wrong)}),
            };
            Ok(answer)
        }
        other => Err((
            Code::UnknownType,
            format!("`{other}` is no command: expected control.pause, .resume, .cancel, .rerun or .probe"),
        )),
    })
}

fn believed<B: Bot>(
    shared: &Arc<Shared<B>>,
    delivery: &Delivery,
    properties: &Properties,
) -> Result<Envelope, Refusal> {
    let origin =
        origin::origin(&delivery.exchange, &delivery.routing_key, properties, &shared.speaker.slug, &shared.operator)
            .map_err(|r| (r.code, r.message))?;
    let envelope = Envelope::decode(&delivery.body).map_err(|e| (e.code, e.to_string()))?;
    origin::check(&origin, &delivery.routing_key, &envelope, &shared.contract).map_err(|r| (r.code, r.message))?;
    Ok(envelope)
}

fn data<T: DeserializeOwned>(envelope: &Envelope) -> Result<T, Refusal> {
    serde_path_to_error::deserialize::<_, T>(&envelope.data)
        .map_err(|e| (Code::InvalidField, format!("`payload.data.{}`: {}", e.path(), e.inner())))
}

async fn set_pause<B: Bot>(shared: &Arc<Shared<B>>, row: Option<PauseRow>) -> Result<(), StoreError> {
    let _alone = shared.pausing.lock().await;
    let text = row.map(|r| serde_json::to_string(&r).unwrap_or_default()).unwrap_or_default();
    shared.store.set_meta(PAUSE_ROW, &text).await?;
    look_alone(shared).await
}

/// Opens and closes the intake, twice a second, by what the store and the backlog say.
pub(crate) async fn govern<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cancelled.cancelled() => break,
        }
        let looked = look(&shared).await;
        if let Err(e) = looked.and(holding::tell(&shared).await) {
            shared.store_failed(&e);
        }
        if shared.condition(|c| c.store.is_due(Instant::now())) {
            try_store(&shared).await;
        }
    }
    shared.intake.send_replace(Intake::Closed);
}

/// Passes on that someone asked for a running job to be stopped, whichever replica was told.
pub(crate) async fn hear_cancels<B: Bot>(shared: Arc<Shared<B>>, cancelled: CancellationToken) {
    loop {
        tokio::select! {
            () = shared.store.cancels_changed().notified() => {}
            () = cancelled.cancelled() => return,
        }
        shared.cancels.send_replace(());
    }
}

/// Whether the store has room for a message and a state of the largest size.
async fn try_store<B: Bot>(shared: &Arc<Shared<B>>) {
    let tried = shared.store.try_room(BODY_BYTES_MAX + STATE_BYTES_MAX).await;
    let now = Instant::now();
    match tried {
        Ok(()) => {
            shared.adjust(|c| c.store.over(now));
            tracing::info!("the store can be written again");
        }
        Err(e) => shared.adjust(|c| c.store.still_failed(e.to_string(), now)),
    }
}

/// Reads what the store says now. Never beside a command that changes it.
pub(crate) async fn look<B: Bot>(shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
    let _alone = shared.pausing.lock().await;
    look_alone(shared).await
}

async fn look_alone<B: Bot>(shared: &Arc<Shared<B>>) -> Result<(), StoreError> {
    let text = shared.store.meta(PAUSE_ROW).await?.unwrap_or_default();
    let row = serde_json::from_str::<PauseRow>(&text).ok();
    let now = clock::now();
    let over = row.as_ref().is_some_and(|r| r.until.is_some_and(|u| u <= now));
    if over {
        // Another replica may have been told of another pause since.
        shared.store.replace_meta(PAUSE_ROW, &text, "").await?;
    }
    let paused = row.filter(|_| !over).map(|r| (r.reason, r.by));
    let counts = shared.store.counts().await?;
    let backlog = backlog(&counts, &shared.constraints);
    let (waited, before) = shared.adjust(|c| {
        let waited = std::mem::replace(&mut c.backlog, backlog.clone());
        (waited, std::mem::replace(&mut c.paused, paused.clone()))
    });
    match (waited, backlog) {
        (None, Some(why)) => tracing::warn!("no further messages are taken: {why}"),
        (Some(_), None) => tracing::info!("what waited has become less: messages are taken again"),
        _ => {}
    }
    announce_change(shared, before, paused).await
}

/// Why no further messages are taken: what was taken has to go first.
fn backlog(counts: &Counts, constraints: &Constraints) -> Option<String> {
    let waiting_max = constraints.max_waiting_jobs.unwrap_or(2 * constraints.max_concurrent_jobs) as u64;
    if counts.outbox_unsent > OUTBOX_UNSENT_MAX {
        Some(format!("{} messages wait for the broker (at most {OUTBOX_UNSENT_MAX})", counts.outbox_unsent))
    } else if counts.jobs_waiting >= waiting_max {
        Some(format!("{} jobs wait (at most {waiting_max})", counts.jobs_waiting))
    } else {
        None
    }
}

type Paused = Option<(String, String)>;

async fn announce_change<B: Bot>(shared: &Arc<Shared<B>>, before: Paused, paused: Paused) -> Result<(), StoreError> {
    let (bot, instance) = (shared.contract.name.to_string(), shared.tools.instance.clone());
    let said = match (before, paused) {
        (None, Some((reason, by))) => shared.speaker.say_core(
            &BotPaused { bot, instance, reason, by, what: None, dependency: None, error: None },
            &Cause::default(),
            clock::now(),
        ),
        (Some((_, by)), None) => shared.speaker.say_core(
            &BotResumed { bot, instance, by, what: None, dependency: None },
            &Cause::default(),
            clock::now(),
        ),
        _ => return Ok(()),
    };
    shared.announce(said).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_keeps_further_messages_away() {
        let limits = |max_waiting_jobs| Constraints { max_waiting_jobs, ..Constraints::default() };
        let told = |jobs_waiting, outbox_unsent, max| {
            backlog(&Counts { jobs_waiting, outbox_unsent, ..Counts::default() }, &limits(max)).unwrap_or_default()
        };
        assert_eq!((told(9, 1000, None).as_str(), told(10, 0, None).as_str()), ("", "10 jobs wait (at most 10)"));
        assert_eq!((told(2, 0, Some(3)).as_str(), told(3, 0, Some(3)).as_str()), ("", "3 jobs wait (at most 3)"));
        assert_eq!(told(0, 1001, None), "1001 messages wait for the broker (at most 1000)");
    }
}
