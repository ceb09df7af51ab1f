//! What other replicas committed wakes those who wait in this process.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;

use super::options::Server;
use crate::operation::Change;
use crate::signals::Signals;

/// Everyone is woken so often whatever is told: a connection can be dead for long before anybody notices.
const WAKE_ALL_EVERY: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const EVERYONE: Change = Change { wrote: false, outbox: true, jobs: true, timers: true, cancels: true };

/// A letter for each kind of what changed.
pub(super) fn words(change: Change) -> String {
    let all = [(change.outbox, 'o'), (change.jobs, 'j'), (change.timers, 't'), (change.cancels, 'c')];
    all.into_iter().filter_map(|(changed, letter)| changed.then_some(letter)).collect()
}

fn read(words: &str) -> Change {
    let has = |letter| words.contains(letter);
    Change { wrote: false, outbox: has('o'), jobs: has('j'), timers: has('t'), cancels: has('c') }
}

/// Listens until it is dropped. What `own` tells is known already.
pub(super) async fn listen(server: Arc<Server>, pool: PgPool, signals: Arc<Signals>, own: String) {
    loop {
        if let Err(error) = hear(&server, &pool, &signals, &own).await {
            tracing::debug!(store = %server.place(), %error, "the store is not heard");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        // Its password may be another by now.
        if let Ok(options) = server.connecting() {
            pool.set_connect_options(options);
        }
    }
}

async fn hear(server: &Server, pool: &PgPool, signals: &Signals, own: &str) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(&server.options.channel()).await?;
    signals.wake(EVERYONE);
    loop {
        match tokio::time::timeout(WAKE_ALL_EVERY, listener.try_recv()).await {
            Ok(told) => match told?.as_ref().map(|told| told.payload().split_once(' ')) {
                Some(Some((name, _))) if name == own => {}
                Some(Some((_, words))) => signals.wake(read(words)),
                // The connection was lost and is back, and something may have been missed.
                Some(None) | None => signals.wake(EVERYONE),
            },
            Err(_) => signals.wake(EVERYONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_heard() {
        for change in [EVERYONE, Change { jobs: true, ..Change::default() }, Change::default()] {
            assert_eq!(read(&words(change)), change);
        }
    }
}
