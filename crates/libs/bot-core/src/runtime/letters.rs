//! What goes among the dead letters without a place in the inbox of its own: what could not be read or believed, what used
//! the id of another message, what ended the process.
use bot_messages::{Code, telemetry::Outcome as Settled};
use bot_store::{Commit, Committed, InboxKey, InboxMark, StoreError};

use super::{
    inbox::{Message, Verdict, attempt, cause_of, verdict},
    origin::Origin,
    outgoing::Returned,
    shared::Shared,
};
use crate::{
    bus::{Delivery, Properties},
    clock,
    contract::Bot,
    crash::crash_point,
    envelope::Envelope,
    hash,
    meta::Cause,
};

/// A delivery that has to go among the dead letters.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) code: Code,
    pub(crate) why: String,
    pub(super) id: Option<String>,
    pub(super) event_type: Option<String>,
    pub(super) origin: Origin,
    pub(super) attempt: u32,
    pub(super) cause: Cause,
}

impl<B: Bot> Shared<B> {
    /// What is known of a delivery without its body.
    pub(super) fn letter(&self, delivery: &Delivery, code: Code, why: String) -> Box<Letter> {
        let none = Properties::default();
        let properties = delivery.properties.as_ref().unwrap_or(&none);
        let origin = self.origin(delivery, properties).unwrap_or_else(|r| Origin {
            publisher: r.publisher,
            replay: 0,
            returned: false,
        });
        Box::new(Letter {
            code,
            why,
            id: properties.message_id.clone(),
            event_type: properties.event_type.clone(),
            attempt: attempt(&origin, properties),
            origin,
            cause: cause_of(properties),
        })
    }

    /// What is known of a delivery that was decoded.
    pub(crate) fn decoded_letter(
        &self,
        delivery: &Delivery,
        envelope: &Envelope,
        cause: &Cause,
        code: Code,
        why: String,
    ) -> Box<Letter> {
        Box::new(Letter {
            id: Some(envelope.id.clone()),
            event_type: Some(envelope.event_type.clone()),
            cause: cause.clone(),
            ..*self.letter(delivery, code, why)
        })
    }

    pub(super) async fn conflict(&self, delivery: &Delivery, m: &Message) -> Result<Verdict, StoreError> {
        let why =
            format!("the id {} was used before for other content: give every message an id of its own", m.envelope.id);
        self.bury(delivery, &Self::returned(delivery, m), Code::DuplicateId, &why).await
    }

    /// Puts aside what could not be read or believed, with its raw bytes.
    pub(super) async fn bury_unread(&self, delivery: &Delivery, letter: &Letter) -> Result<Verdict, StoreError> {
        let returned = Returned {
            body: &delivery.body,
            id: letter.id.as_deref(),
            event_type: letter.event_type.as_deref(),
            properties: delivery.properties.clone().unwrap_or_default(),
            publisher: &letter.origin.publisher,
            replay: letter.origin.replay,
            attempt: letter.attempt,
            cause: letter.cause.clone(),
        };
        self.bury(delivery, &returned, letter.code, &letter.why).await
    }

    /// Writes a letter about what has no place in the inbox of its own. The mark, by the bytes, keeps a delivery that comes
    /// again after a crash from making a second one; who publishes the same bytes twice has two letters.
    async fn bury(
        &self,
        delivery: &Delivery,
        returned: &Returned<'_>,
        code: Code,
        why: &str,
    ) -> Result<Verdict, StoreError> {
        let content_hash = hash::full(&[&delivery.body]);
        let id = format!("letter:{}:{content_hash}", returned.attempt);
        let key = InboxKey { publisher: returned.publisher.to_owned(), id, replay: returned.replay };
        if delivery.redelivered && self.store.inbox(&key).await?.is_some() {
            return Ok(verdict(Settled::Duplicate, "it is among the dead letters already".to_owned()));
        }
        let outbox = self.speaker.dead_letter(returned, code, why, clock::now());
        let inbox = Some(InboxMark { key, content_hash, attempt: 1, settled: true, counts: true });
        let marked = self.commit(Commit { inbox, outbox: outbox.clone(), ..Commit::default() }).await?;
        if marked != Committed::Done {
            self.commit(Commit { outbox, ..Commit::default() }).await?;
        }
        crash_point("letter: committed");
        Ok(verdict(Settled::DeadLettered, format!("{}: {why}", code.as_str())))
    }

    /// A message that ended the process several times is put aside unread.
    pub(crate) fn crash_letter(&self, delivery: &Delivery, crashes: u32) -> Box<Letter> {
        let why = format!("{crashes} deliveries of this message had no outcome: it seems to end the bot");
        self.letter(delivery, Code::CrashLoop, why)
    }
}
