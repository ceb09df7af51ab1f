//! The queue to the one task that writes.

use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::model::StoreError;
use crate::operation::{Apply, Pending, Queue};

/// The most writes in one transaction, and the most that wait before callers are held back.
pub(crate) const BATCH_MAX: usize = 128;

pub(crate) type Receiver<C> = mpsc::Receiver<Box<dyn Queue<C>>>;
type Sender<C> = mpsc::Sender<Box<dyn Queue<C>>>;

/// Where writes over a connection of kind `C` are handed in.
pub(crate) struct Line<C> {
    name: Arc<str>,
    /// `None` once the store is closed.
    queue: std::sync::Mutex<Option<Sender<C>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl<C> std::fmt::Debug for Line<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<C: Send + 'static> Line<C> {
    /// Starts the task that writes; it ends when the line is closed and empty.
    pub(crate) fn start<F>(name: Arc<str>, writer: impl FnOnce(Receiver<C>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(BATCH_MAX);
        let writer = Mutex::new(Some(tokio::spawn(writer(receiver))));
        Self { name, queue: std::sync::Mutex::new(Some(sender)), writer }
    }

    /// Hands a write in and waits until it is durable.
    pub(crate) async fn write<W: Apply<C>>(&self, write: W) -> Result<W::Answer, StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        queue.send(Box::new(Pending::new(write, reply))).await.map_err(|_| StoreError::Closed)?;
        // Not kept while waiting for the answer: the writer ends when the last sender is gone.
        drop(queue);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Waits until what was handed in is done and the writer has closed what it held.
    pub(crate) async fn ended(&self) {
        // Held while waiting, so that a second caller returns only when the files are closed as well.
        let mut writer = self.writer.lock().await;
        if let Some(task) = writer.as_mut() {
            if let Err(error) = task.await {
                tracing::error!(store = %self.name, %error, "the store's writer did not end well");
            }
            *writer = None;
        }
    }
}
