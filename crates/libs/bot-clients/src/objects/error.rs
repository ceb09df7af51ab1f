//! What can go wrong with an object, told apart by what helps: build it again, repair the settings, or try later.
use std::{error::Error, path::PathBuf};

use bot_messages::Digest;
use object_store::client::HttpError;

/// What can go wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is not there.
    #[error("object {digest} is not in the store; it was never stored here, or retention removed it: build it again")]
    NotFound {
        /// Which.
        digest: Digest,
    },
    /// It is larger than the caller takes.
    #[error(
        "object {digest} has {size} bytes or more; at most {bytes_max} are taken here: raise the limit or make it smaller"
    )]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Bytes seen.
        size: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// The store holds other bytes than the digest names.
    #[error(
        "expected the bytes of {expected}, the store holds those of {found}; remove the damaged object and build it again"
    )]
    Damaged {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The file was written to while it was stored.
    #[error(
        "{path} changed while it was stored: expected {expected}, then read {found}; store it once nobody writes to it"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// By the first reading.
        expected: Digest,
        /// By the second reading.
        found: Digest,
    },
    /// A file of ours.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// A verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not known what an environment needs.
    #[error(
        "what the environment {environment} needs of the object store is not known, so nothing may be removed: {why}"
    )]
    InUse {
        /// Its name.
        environment: String,
        /// What was expected.
        why: String,
    },
    /// Who says what an environment needs was taken over.
    #[error(
        "what {environment} needs was said under fencing token {held}, and {token} is lower: whoever said it took over. If \
         the bot's store or folder was replaced, remove in-use/{environment}.json"
    )]
    Stale {
        /// Its name.
        environment: String,
        /// Whose is refused.
        token: i64,
        /// What is there.
        held: i64,
    },
    /// Another said it at the same time.
    #[error("another said meanwhile what the environment {environment} needs: look again, then say it again")]
    Overtaken {
        /// Its name.
        environment: String,
    },
    /// The place that the settings name is none.
    #[error("the object store's place is wrong: {0}")]
    Place(String),
    /// The store does not take our credentials, or has no such bucket.
    #[error("the object store refused to {doing}: {source}; check its bucket, its credentials and what they allow")]
    Refused {
        /// A verb.
        doing: &'static str,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
    /// The store did not answer, or said that it cannot now. Worth another try later.
    #[error("the object store could not be reached to {doing}: {source}; see that its endpoint is right and up")]
    Unreachable {
        /// A verb.
        doing: &'static str,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
    /// Anything else of the store itself.
    #[error("the object store could not {doing}: {source}")]
    Store {
        /// A verb.
        doing: &'static str,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
}

impl ObjectError {
    /// Whether the store itself failed, rather than a file of ours or what was asked for.
    pub fn is_of_store(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unreachable { .. } | Self::Store { .. })
    }

    /// Whether the same may work later, without anybody building again or making something smaller.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Refused { .. } | Self::Unreachable { .. } | Self::Store { .. })
    }
}

/// Reads a refusal of the store. Whoever looks for an object takes `NotFound` out first, except where the bucket is
/// what was not found.
pub(super) fn store(doing: &'static str) -> impl FnOnce(object_store::Error) -> ObjectError {
    use object_store::Error as E;
    move |source| match &source {
        E::NotFound { .. } | E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            ObjectError::Refused { doing, source }
        }
        E::Generic { .. } if is_passing(&source) => ObjectError::Unreachable { doing, source },
        _ => ObjectError::Store { doing, source },
    }
}

/// An S3 server answers 404 for a missing object and for a missing bucket; only its body tells which.
pub(super) fn is_missing_object(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !error.to_string().contains("NoSuchBucket")
}

/// No answer, or one of the 500s after all retries.
fn is_passing(error: &object_store::Error) -> bool {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.into_iter().any(|cause| cause.is::<HttpError>() || cause.to_string().contains("non-2xx status code: 5"))
}

pub(super) fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> ObjectError {
    move |source| ObjectError::Io { doing, path: path.to_owned(), source }
}
