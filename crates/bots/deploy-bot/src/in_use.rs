//! Tells the object store what an environment needs, so that retention leaves it there: the releases that it keeps, and
//! one that is on its way.
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
