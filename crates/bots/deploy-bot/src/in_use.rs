//! Tells the object store what an environment needs, so that retention leaves it there: the releases that it keeps, one
//! that is on its way, and those that wait at its gates.
use std::collections::BTreeSet;

use bot_clients::{InUse, ObjectError, Objects};
use bot_messages::Digest;

use crate::{environments::Environment, history::History};

/// What an environment needs from what happened to it so far.
pub(crate) fn needed(environment: &Environment, history: &History) -> BTreeSet<Digest> {
    history.kept(environment.keep)
}

/// Says it in place of what was said before.
pub(crate) async fn tell(
    objects: &Objects,
    environment: &Environment,
    digests: BTreeSet<Digest>,
) -> Result<(), ObjectError> {
    objects.write_in_use(&environment.name, &InUse { digests }).await
}

/// Says it beside what was said before: a job knows nothing of what waits. The keeper takes away again what is too much.
pub(crate) async fn add(
    objects: &Objects,
    environment: &Environment,
    digests: BTreeSet<Digest>,
) -> Result<(), ObjectError> {
    let told = objects.in_use().await?.remove(&environment.name).unwrap_or_default();
    tell(objects, environment, told.digests.into_iter().chain(digests).collect()).await
}
