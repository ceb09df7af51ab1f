//! What an object was stored as, which is what retention goes by. Told by an empty marker beside the objects, at
//! `kinds/sha256/ab/cdef….<kind>`, whose age is the time since the object was last stored as that: the same bytes may be
//! several things, and a store without metadata (a directory) can tell it too. Without a marker it is an artifact.
use std::fmt;

use bot_messages::Digest;
use object_store::{ObjectStoreExt, PutPayload, path::Path as Key};
use serde::{Deserialize, Serialize};

use super::{ObjectError, Objects, error::store};

/// What an object was stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The source tree of a commit.
    Source,
    /// What a build made.
    Artifact,
    /// What a build keeps for its tests.
    Keep,
    /// What a job printed.
    Log,
    /// What a test suite reported.
    Report,
    /// A commit with its history, as `lota push` hands it over.
    Bundle,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Source, Self::Artifact, Self::Keep, Self::Log, Self::Report, Self::Bundle];

    /// In markers, settings and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Artifact => "artifact",
            Self::Keep => "keep",
            Self::Log => "log",
            Self::Report => "report",
            Self::Bundle => "bundle",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The marker of an object of a kind.
pub(super) fn marker(digest: &Digest, kind: Kind) -> Key {
    let (folder, name) = digest.hex().split_at(2);
    Key::from(format!("kinds/sha256/{folder}/{name}.{kind}"))
}

/// The object and the kind that a marker in the folder `ab` tells of; nothing if it is no marker.
pub(super) fn read_marker(folder: &str, name: &str) -> Option<(Digest, Kind)> {
    let (rest, kind) = name.split_once('.')?;
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    Some((Digest::from_hex(&format!("{folder}{rest}")).ok()?, kind))
}

impl Objects {
    /// Makes an object young. Before the object is looked for, so that whoever removes old ones sees it first.
    pub(super) async fn mark(&self, digest: &Digest, kind: Kind) -> Result<(), ObjectError> {
        let marker = marker(digest, kind);
        self.store.put(&marker, PutPayload::new()).await.map_err(store("note the kind of an object"))?;
        self.seal(&marker).await
    }
}
