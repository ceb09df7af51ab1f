//! Tells the object store what an environment needs, so that retention leaves it there: the releases that it keeps, one
//! that is on its way, and those that wait at its gates.
use std::collections::BTreeSet;

use bot_clients::{InUse, ObjectError, Objects};
use bot_messages::Digest;

use crate::{environments::Environment, history::History};

/// The keeper says something only when it changed, so once more is mostly enough.
const TRIES: u32 = 3;

/// What an environment needs from what happened to it so far.
pub(crate) fn needed(environment: &Environment, history: &History) -> BTreeSet<Digest> {
    history.kept(environment.keep)
}

/// Says it under a job's token beside what was said before: a job knows nothing of what waits. The keeper takes away again
/// what is too much.
pub(crate) async fn add(
    objects: &Objects,
    environment: &Environment,
    digests: BTreeSet<Digest>,
    token: i64,
) -> Result<(), ObjectError> {
    for left in (0..TRIES).rev() {
        let before = objects.said_in_use(&environment.name).await?;
        let digests = before.in_use.digests.union(&digests).cloned().collect();
        match objects.write_in_use(&environment.name, &InUse { digests, token }, &before).await {
            Err(ObjectError::Overtaken { .. }) if left > 0 => {}
            said => return said,
        }
    }
    Ok(())
}
