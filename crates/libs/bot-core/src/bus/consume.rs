//! Consuming one queue on a channel of its own: deliveries go to a bounded channel; the end of the consumer ends the session.
use futures_util::StreamExt;
use lapin::{
    Acker, Channel,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::sync::{mpsc, watch};

use super::{session::SessionFault, wire::Properties};

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
    acker: Acker,
}

impl Delivery {
    /// Settles it. `false`: the session it came in is over, and the broker delivers it again.
    pub(crate) async fn ack(&self) -> bool {
        matches!(self.acker.ack(BasicAckOptions::default()).await, Ok(true))
    }
    /// Gives it back.
    pub(crate) async fn give_back(&self) -> bool {
        matches!(self.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await, Ok(true))
    }
}

impl Consumer {
    pub(super) async fn run(mut self, channel: Channel, epoch: u64, fault: SessionFault) {
        if let Err(why) = self.consume(&channel, epoch).await {
            fault.report(format!("consuming {} ended: {why}", self.queue));
            return;
        }
        // Nobody takes deliveries any more, but some may still be in hand: they are settled on this channel, which would
        // close with its last handle.
        std::future::pending::<()>().await;
    }

    /// Until nobody takes deliveries any more. `Err`: the session is over.
    async fn consume(&mut self, channel: &Channel, epoch: u64) -> Result<(), String> {
        while let Some(wanted) = opened(&mut self.intake).await {
            let prefetch = if wanted == Intake::One { 1 } else { self.prefetch };
            channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(|e| e.to_string())?;
            let tag = format!("{}-{epoch}", self.queue);
            let options = BasicConsumeOptions { no_ack: self.no_ack, ..BasicConsumeOptions::default() };
            let mut deliveries = channel
                .basic_consume(self.queue.as_str().into(), tag.as_str().into(), options, FieldTable::default())
                .await
                .map_err(|e| e.to_string())?;
            let goes_on = loop {
                tokio::select! {
                    next = deliveries.next() => {
                        let delivery = next.ok_or("the broker cancelled the consumer")?.map_err(|e| e.to_string())?;
                        if !self.hand_on(read(delivery)).await {
                            break false;
                        }
                    }
                    changed = changed(&mut self.intake, wanted) => break changed,
                    () = self.out.closed() => break false,
                }
            };
            channel
                .basic_cancel(tag.as_str().into(), BasicCancelOptions::default())
                .await
                .map_err(|e| e.to_string())?;
            // What was on its way when the cancel took effect is handed on; whoever reads gives it back.
            while let Some(Ok(delivery)) = deliveries.next().await {
                self.hand_on(read(delivery)).await;
            }
            if !goes_on {
                break;
            }
        }
        Ok(())
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

fn read(d: lapin::message::Delivery) -> Delivery {
    Delivery {
        exchange: d.exchange.as_str().to_owned(),
        routing_key: d.routing_key.as_str().to_owned(),
        redelivered: d.redelivered,
        properties: Properties::read(&d.properties),
        body: d.data,
        acker: d.acker,
    }
}
