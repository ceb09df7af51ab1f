//! Consuming one queue on a channel of its own: deliveries go to a bounded channel; the end of the consumer ends the session.
use std::{future::Future, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use lapin::{
    Acker, Channel,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Boxed, Settle, session::SessionFault, wire::Properties};

/// For what the broker does at once. Without a limit, a session could stay for ever and consume nothing.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Which queue is consumed, and how.
#[derive(Clone)]
pub(crate) struct Consumer {
    pub(crate) queue: String,
    /// Deliveries in hand at most.
    pub(crate) prefetch: u16,
    /// Settled by the broker on delivery: for what may be lost.
    pub(crate) no_ack: bool,
    /// Whether to consume now; always, where there is none.
    pub(crate) intake: Option<watch::Receiver<Intake>>,
    pub(crate) out: mpsc::Sender<Delivery>,
}

/// Whether a queue is consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    Open,
    /// One delivery at a time, to find out how it goes.
    One,
    Closed,
}

/// A message that was delivered.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    /// `Err`: size of headers that are too large.
    pub(crate) properties: Result<Properties, usize>,
    pub(crate) body: Vec<u8>,
    pub(super) settle: Box<dyn Settle>,
}

impl Delivery {
    /// Settles it. `false`: the session it came in is over, and the broker delivers it again.
    pub(crate) async fn ack(&self) -> bool {
        self.settle.ack().await
    }
    /// Gives it back.
    pub(crate) async fn give_back(&self) -> bool {
        self.settle.give_back().await
    }
}

/// A delivery in hand, and the session to end when its settling is not sent: it would keep one of the places for deliveries.
#[derive(Debug)]
struct InHand {
    acker: Acker,
    queue: String,
    fault: SessionFault,
}

impl Settle for InHand {
    fn ack(&self) -> Boxed<'_, bool> {
        let done = self.acker.ack(BasicAckOptions::default());
        Box::pin(settled(&self.fault, &self.queue, "basic.ack", done))
    }
    fn give_back(&self) -> Boxed<'_, bool> {
        let done = self.acker.nack(BasicNackOptions { requeue: true, multiple: false });
        Box::pin(settled(&self.fault, &self.queue, "basic.nack", done))
    }
}

impl Consumer {
    pub(super) async fn run(mut self, channel: Channel, epoch: u64, fault: SessionFault) {
        if let Err(why) = self.consume(&channel, epoch, &fault).await {
            fault.report(ended(&self.queue, &why));
            return;
        }
        // Nobody takes deliveries any more, but some may still be in hand: they are settled on this channel, which would
        // close with its last handle.
        std::future::pending::<()>().await;
    }

    /// Until nobody takes deliveries any more. `Err`: the session is over.
    async fn consume(&mut self, channel: &Channel, epoch: u64, fault: &SessionFault) -> Result<(), String> {
        while let Some(wanted) = opened(&mut self.intake).await {
            let prefetch = if wanted == Intake::One { 1 } else { self.prefetch };
            in_time("basic.qos", channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
            let tag = format!("{}-{epoch}", self.queue);
            let options = BasicConsumeOptions { no_ack: self.no_ack, ..BasicConsumeOptions::default() };
            let (queue, named) = (self.queue.as_str().into(), tag.as_str().into());
            let consume = channel.basic_consume(queue, named, options, FieldTable::default());
            let mut deliveries = in_time("basic.consume", consume).await?;
            let goes_on = loop {
                tokio::select! {
                    next = deliveries.next() => {
                        let delivery = next.ok_or("the broker cancelled the consumer")?.map_err(|e| e.to_string())?;
                        if !self.hand_on(self.read(delivery, fault)).await {
                            break false;
                        }
                    }
                    changed = changed(&mut self.intake, wanted) => break changed,
                    () = self.out.closed() => break false,
                }
            };
            let cancel = channel.basic_cancel(tag.as_str().into(), BasicCancelOptions::default());
            in_time("basic.cancel", cancel).await?;
            // What was on its way when the cancel took effect is handed on; whoever reads gives it back.
            while let Some(delivery) = in_time("basic.cancel", deliveries.try_next()).await? {
                self.hand_on(self.read(delivery, fault)).await;
            }
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    fn read(&self, d: lapin::message::Delivery, fault: &SessionFault) -> Delivery {
        Delivery {
            exchange: d.exchange.as_str().to_owned(),
            routing_key: d.routing_key.as_str().to_owned(),
            redelivered: d.redelivered,
            properties: Properties::read(&d.properties),
            body: d.data,
            settle: Box::new(InHand { acker: d.acker, queue: self.queue.clone(), fault: fault.clone() }),
        }
    }

    /// `false`: nobody takes it, and it goes back to the broker.
    async fn hand_on(&self, delivery: Delivery) -> bool {
        match self.out.send(delivery).await {
            Ok(()) => true,
            Err(mpsc::error::SendError(delivery)) => {
                if !self.no_ack {
                    delivery.give_back().await;
                }
                false
            }
        }
    }
}

/// Waits until the queue is to be consumed, and says how. `None`: the bot is stopping, and its intake changes no more.
async fn opened(intake: &mut Option<watch::Receiver<Intake>>) -> Option<Intake> {
    match intake {
        Some(intake) => intake.wait_for(|i| *i != Intake::Closed).await.ok().map(|i| *i),
        None => Some(Intake::Open),
    }
}

/// Waits until it is to be consumed otherwise, or not. `false`: as above.
async fn changed(intake: &mut Option<watch::Receiver<Intake>>, from: Intake) -> bool {
    match intake {
        Some(intake) => intake.wait_for(|i| *i != from).await.is_ok(),
        None => std::future::pending().await,
    }
}

/// What the broker answers to `method`, in time or as an error that ends the session.
async fn in_time<T>(method: &str, answer: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, String> {
    let late = |_| format!("the broker did not answer {method} within {} s", ANSWER_MAX.as_secs());
    timeout(ANSWER_MAX, answer).await.map_err(late)?.map_err(|e| e.to_string())
}

/// Whether a delivery could be settled. Where that takes too long, nobody knows, and the session is over.
async fn settled(
    fault: &SessionFault,
    queue: &str,
    method: &str,
    done: impl Future<Output = Result<bool, lapin::Error>>,
) -> bool {
    match timeout(ANSWER_MAX, done).await {
        Ok(done) => matches!(done, Ok(true)),
        Err(_) => {
            let limit = ANSWER_MAX.as_secs();
            fault.report(ended(queue, &format!("{method} could not be sent to the broker within {limit} s")));
            false
        }
    }
}

fn ended(queue: &str, why: &str) -> String {
    format!("consuming {queue} ended: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_does_not_answer_ends_the_session() {
        let silent = std::future::pending::<Result<(), lapin::Error>>();
        assert_eq!(
            in_time("basic.consume", silent).await,
            Err("the broker did not answer basic.consume within 30 s".to_owned())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for() {
        let late = async {
            tokio::time::sleep(ANSWER_MAX / 2).await;
            Ok(7)
        };
        assert_eq!(in_time("basic.qos", late).await, Ok(7));
        let refused = async { Err::<(), _>(lapin::Error::from(lapin::ErrorKind::MissingHeartbeatError)) };
        assert!(in_time("basic.qos", refused).await.is_err_and(|why| !why.contains("did not answer")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_cannot_be_settled_ends_the_session() {
        let (fault, mut over) = SessionFault::new();
        assert!(settled(&fault, "a.work", "basic.ack", async { Ok(true) }).await);
        assert!(!settled(&fault, "a.work", "basic.ack", async { Ok(false) }).await, "its session is over");
        assert!(over.try_recv().is_err(), "nothing is wrong with this one");
        assert!(!settled(&fault, "a.work", "basic.ack", std::future::pending()).await);
        let why = "consuming a.work ended: basic.ack could not be sent to the broker within 30 s";
        assert_eq!(over.try_recv().as_deref(), Ok(why));
    }
}
