//! One publisher's connection, what came of an attempt, and the list of what came otherwise than expected.
use std::fmt;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use crate::broker::Broker;

/// More are counted, not shown.
const SHOWN_MAX: usize = 40;

/// What the broker made of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It leads to no queue.
    Returned,
    /// With AMQP's code: 403 for a right that is missing.
    Refused(u16),
    /// The connection ended without a word of why.
    Lost,
}

pub(crate) const DENIED: Outcome = Outcome::Refused(403);

impl Outcome {
    fn of<T>(result: lapin::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(error) => match error.kind() {
                ErrorKind::ProtocolError(error) => Self::Refused(error.get_id()),
                _ => Self::Lost,
            },
        }
    }
}

/// A publisher as the broker knows it. A refusal ends the channel, and the next attempt gets another.
pub(crate) struct Client {
    url: String,
    connection: Connection,
    channel: Option<Channel>,
}

impl Client {
    pub(crate) async fn connect(broker: &Broker, user: &str) -> Self {
        Self::connect_to(&broker.url(user)).await
    }

    pub(crate) async fn connect_to(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        Self { url: url.to_owned(), connection, channel: None }
    }

    /// Whether that user gets in at all.
    pub(crate) async fn gets_in(url: &str) -> Outcome {
        Outcome::of(Connection::connect(url, ConnectionProperties::default()).await)
    }

    async fn channel(&mut self) -> Channel {
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return channel.clone();
        }
        if !self.connection.status().connected() {
            self.connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
        }
        let channel = self.connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        self.channel = Some(channel.clone());
        channel
    }

    /// Anything that is asked of a channel.
    pub(crate) async fn attempt<T>(&mut self, ask: impl AsyncFnOnce(Channel) -> lapin::Result<T>) -> Outcome {
        let channel = self.channel().await;
        let outcome = Outcome::of(ask(channel).await);
        if outcome != Outcome::Done {
            self.channel = None;
        }
        outcome
    }

    /// Mandatory, and confirmed.
    pub(crate) async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Outcome {
        let mut returned = false;
        let outcome = self
            .attempt(async |channel| {
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
                let confirmation = confirm.await?;
                assert!(matches!(confirmation, Confirmation::Ack(_)), "{confirmation:?}");
                returned = confirmation.take_message().is_some();
                Ok(())
            })
            .await;
        if outcome == Outcome::Done && returned { Outcome::Returned } else { outcome }
    }
}

/// How many cases there were, and which went otherwise than they should.
#[derive(Default)]
pub(crate) struct Verdicts {
    cases: usize,
    refused: usize,
    granted: usize,
    wrong: Vec<String>,
}

impl Verdicts {
    pub(crate) fn equal<T: PartialEq + fmt::Debug>(&mut self, what: impl FnOnce() -> String, came: &T, expected: &T) {
        self.cases += 1;
        if came != expected {
            self.wrong.push(format!("{}: expected {expected:?}, came {came:?}", what()));
        }
    }

    /// Whether it was allowed, and that it should have been.
    pub(crate) fn allowed(&mut self, what: impl FnOnce() -> String, outcome: Outcome, granted: bool) {
        let expected = if granted { Outcome::Done } else { DENIED };
        *(if granted { &mut self.granted } else { &mut self.refused }) += 1;
        self.equal(what, &outcome, &expected);
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.cases += more.cases;
        self.refused += more.refused;
        self.granted += more.granted;
        self.wrong.extend(more.wrong);
    }

    /// Prints the count; fails if anything was wrong.
    pub(crate) fn close(self, of: &str) {
        let Self { cases, refused, granted, wrong } = self;
        eprintln!(
            "matrix: {cases} cases {of}: {granted} granted, {refused} refused, {} other",
            cases - granted - refused
        );
        let shown = wrong.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "{} of {cases} cases went wrong {of}:\n{shown}", wrong.len());
    }
}
