//! The hashes the core makes: of contents for the inbox, of bodies for started marks, of configuration for heartbeats.
use sha2::{Digest, Sha256};

/// SHA-256 over the parts, each with its length, in hex.
pub(crate) fn full(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().fold(String::with_capacity(64), |mut s, b| {
        use std::fmt::Write as _;
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The first 16 hex digits of [`full`].
pub(crate) fn short(parts: &[&[u8]]) -> String {
    full(parts)[..16].to_owned()
}
