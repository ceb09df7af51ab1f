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
        }
    }

    async fn consume(&mut self, channel: &Channel, epoch: u64) -> Result<(), String> {
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await.map_err(|e| e.to_string())?;
        loop {
            wait_open(&mut self.intake).await?;
            let tag = format!("{}-{epoch}", self.queue);
            let options = BasicConsumeOptions { no_ack: self.no_ack, ..BasicConsumeOptions::default() };
            let mut deliveries = channel
                .basic_consume(self.queue.as_str().into(), tag.as_str().into(), options, FieldTable::default())
                .await
                .map_err(|e| e.to_string())?;
            loop {
                tokio::select! {
                    next = deliveries.next() => {
                        let delivery = next.ok_or("the broker cancelled the consumer")?.map_err(|e| e.to_string())?;
                        if self.out.send(read(delivery)).await.is_err() {
                            return Err("stopping".to_owned());
                        }
                    }
                    closed = wait_closed(&mut self.intake) => {
                        closed?;
                        break;
                    }
                }
            }
            channel
                .basic_cancel(tag.as_str().into(), BasicCancelOptions::default())
                .await
                .map_err(|e| e.to_string())?;
            // What was on its way when the cancel took effect is handed on; whoever reads gives it back.
            while let Some(Ok(delivery)) = deliveries.next().await {
                if self.out.send(read(delivery)).await.is_err() {
                    return Err("stopping".to_owned());
                }
            }
        }
    }
}

type MaybeIntake = Option<watch::Receiver<Intake>>;

async fn wait_open(intake: &mut MaybeIntake) -> Result<(), String> {
    match intake {
        Some(intake) => intake.wait_for(|i| *i == Intake::Open).await.map(|_| ()).map_err(|_| "stopping".to_owned()),
        None => Ok(()),
    }
}

async fn wait_closed(intake: &mut MaybeIntake) -> Result<(), String> {
    match intake {
        Some(intake) => intake.wait_for(|i| *i == Intake::Closed).await.map(|_| ()).map_err(|_| "stopping".to_owned()),
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
