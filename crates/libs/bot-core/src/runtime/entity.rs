//! An entity's state around a handler: read, handed over, and written back where the handler changed it.
use std::panic::AssertUnwindSafe;

use bot_messages::Code;
use bot_store::{StateWrite, Store, StoreError};
use serde_json::Value;

use crate::{
    contract::Bot,
    effects::{Fail, Outcome},
    guard,
};

/// A larger state is not written: it would be read and written whole with each message of its entity.
pub(crate) const STATE_BYTES_MAX: usize = 256 * 1024;

/// What came of a handler.
pub(crate) enum Handled<B: Bot> {
    /// It ran.
    Ran {
        /// What it wants.
        outcome: Outcome<B>,
        /// What it made of the state, where that is another.
        state: Option<StateWrite>,
    },
    /// The stored state is not one that this version of the bot reads: why.
    Unreadable(String),
}

/// Runs `handler` with the state of `key`. One that panics, or makes more of the state than is kept, has failed.
pub(crate) async fn handle<B: Bot>(
    store: &Store,
    key: &str,
    handler: impl FnOnce(&mut B::State) -> Outcome<B> + Send,
) -> Result<Handled<B>, StoreError> {
    let (stored, expected_version) = store.state(key).await?.unwrap_or((Value::Null, 0));
    let attempt = AssertUnwindSafe(|| run(key, stored, expected_version, handler));
    Ok(std::panic::catch_unwind(attempt).unwrap_or_else(|panic| Handled::Ran {
        outcome: Err(Fail::Retry(anyhow::anyhow!("the handler panicked: {}", panic_text(panic.as_ref())))),
        state: None,
    }))
}

fn run<B: Bot>(
    key: &str,
    stored: Value,
    expected_version: u64,
    handler: impl FnOnce(&mut B::State) -> Outcome<B>,
) -> Handled<B> {
    let state = if expected_version == 0 { Ok(B::State::default()) } else { serde_json::from_value(stored) };
    let mut state: B::State = match state {
        Ok(state) => state,
        Err(e) => return Handled::Unreadable(format!("the stored state of {key} cannot be read: {e}")),
    };
    // Compared in the form of this version, so that what merely lacks a new field counts as unchanged.
    let before = serde_json::to_value(&state).ok();
    let outcome = handler(&mut state);
    let written = match outcome {
        Ok(_) => changed(key, &state, before.as_ref()),
        Err(_) => Ok(None),
    };
    match written {
        Ok(value) => Handled::Ran {
            outcome,
            state: value.map(|value| StateWrite { key: key.to_owned(), expected_version, value }),
        },
        Err(fail) => Handled::Ran { outcome: Err(fail), state: None },
    }
}

fn changed<S: serde::Serialize>(key: &str, state: &S, before: Option<&Value>) -> Result<Option<Value>, Fail> {
    let after = serde_json::to_value(state)
        .map_err(|e| Fail::reject(Code::UnknownError, anyhow::anyhow!("the state of {key} cannot be written: {e}")))?;
    if Some(&after) == before {
        return Ok(None);
    }
    let bytes = after.to_string().len();
    if bytes > STATE_BYTES_MAX {
        let why = format!(
            "the state of {key} would have {bytes} bytes: at most {STATE_BYTES_MAX} are kept; let the bot forget what is done"
        );
        return Err(Fail::reject(Code::LimitExceeded, anyhow::anyhow!(why)));
    }
    Ok(Some(after))
}

/// What a panic said, without the secrets of this process.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    guard::clean(&text).into_owned()
}
