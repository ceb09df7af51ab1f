//! Things that are too large for a message: what refers to them, and the digests and commits that identify them.
use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A digest or commit was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not {expected}")]
pub struct InvalidDigest {
    expected: &'static str,
    got: String,
}

/// The SHA-256 of an object's bytes: `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(#[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))] String);

impl Digest {
    /// From the 32 bytes of a SHA-256, in hex.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidDigest> {
        format!("sha256:{hex}").parse()
    }
    /// The 64 hex digits without the prefix; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
    /// The first 12 hex digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
    /// With its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn lower_hex(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        match s.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && lower_hex(hex) => Ok(Self(s.to_owned())),
            _ => Err(InvalidDigest {
                expected: "a digest: expected `sha256:` and 64 lower-case hex digits",
                got: s.chars().take(80).collect(),
            }),
        }
    }
}
impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(s: String) -> Result<Self, InvalidDigest> {
        s.parse()
    }
}
impl From<Digest> for String {
    fn from(d: Digest) -> Self {
        d.0
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A git commit: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits, never a branch or an option.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(#[schemars(regex(pattern = r"^([0-9a-f]{40}|[0-9a-f]{64})$"))] String);

impl CommitId {
    /// All hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The first 8, for people.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}
impl FromStr for CommitId {
    type Err = InvalidDigest;
    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        if matches!(s.len(), 40 | 64) && lower_hex(s) {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidDigest {
                expected: "a commit: expected 40 or 64 lower-case hex digits, the full id and no branch name",
                got: s.chars().take(80).collect(),
            })
        }
    }
}
impl TryFrom<String> for CommitId {
    type Error = InvalidDigest;
    fn try_from(s: String) -> Result<Self, InvalidDigest> {
        s.parse()
    }
}
impl From<CommitId> for String {
    fn from(c: CommitId) -> Self {
        c.0
    }
}
impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A thing in the object store, by content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// SHA-256 of the stored bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Such as `application/zstd` or `text/plain`.
    pub media_type: String,
    /// Where the store keeps it; informative, the digest is what identifies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

impl ObjectRef {
    /// A made-up object for examples and tests.
    pub fn example(media_type: &str) -> Self {
        let digest = Digest(format!("sha256:{}", "3f8a".repeat(16)));
        Self { uri: Some(format!("object:{digest}")), digest, size: 482_113, media_type: media_type.to_owned() }
    }
}

/// One commit of one repository: what everything that follows from a push speaks about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Revision {
    /// The repository's name in the fleet, such as `shop/api`: 1 to 200 characters.
    pub repository: String,
    /// Where git can fetch it.
    pub url: String,
    /// The full ref, such as `refs/heads/main`.
    #[serde(rename = "ref")]
    pub git_ref: String,
    /// The exact commit.
    pub commit: CommitId,
    /// Which push of this ref it was: a later push has a higher number. BuildBot gives it; whoever pushes leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

impl Revision {
    /// The branch, where the ref is one.
    pub fn branch(&self) -> Option<&str> {
        self.git_ref.strip_prefix("refs/heads/")
    }
    /// The tag, where the ref is one.
    pub fn tag(&self) -> Option<&str> {
        self.git_ref.strip_prefix("refs/tags/")
    }
    /// A made-up revision for examples and tests.
    pub fn example() -> Self {
        Self {
            repository: "shop/api".into(),
            url: "https://git.example.org/shop/api.git".into(),
            git_ref: "refs/heads/main".into(),
            commit: CommitId("4f2d9c1e8b7a605f3d2c1b0a9e8d7c6b5a493827".into()),
            sequence: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_needs_its_prefix_and_lower_case() {
        assert!(format!("sha256:{}", "a".repeat(64)).parse::<Digest>().is_ok());
        for bad in ["a".repeat(64), format!("sha256:{}", "A".repeat(64)), "sha256:../../etc".into()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_commit_is_never_an_option() {
        for bad in ["--upload-pack=x", "main", "HEAD", ""] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad}");
        }
    }
}
