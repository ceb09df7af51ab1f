//! What stands in a file where a value must not.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const SCHEME: &str = "secret://";
const NAME_CHARS_MAX: usize = 128;

/// The name of a secret, written as `secret://name`. It may be printed, stored and hashed: it holds nothing of the value.
/// A name is 1 to 128 letters, digits, `.`, `_` and `-`, of which the first is a letter or a digit: a file name, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(String);

/// The text is no handle. It is not repeated: it may be a value that somebody wrote in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected secret://NAME, with a name of 1 to 128 letters, digits, `.`, `_` and `-`; the value itself does not belong here"
)]
pub struct NoHandle;

impl Handle {
    /// The part behind `secret://`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether a name is one.
    pub(crate) fn fits(name: &str) -> bool {
        name.len() <= NAME_CHARS_MAX
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    }
}

impl FromStr for Handle {
    type Err = NoHandle;

    fn from_str(text: &str) -> Result<Self, NoHandle> {
        let name = text.strip_prefix(SCHEME).filter(|name| Self::fits(name)).ok_or(NoHandle)?;
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_handles_and_nothing_else_is_repeated() {
        let handle: Handle = "secret://forge.token_1-a".parse().unwrap();
        assert_eq!((handle.name(), handle.to_string()), ("forge.token_1-a", "secret://forge.token_1-a".to_owned()));
        assert_eq!(serde_json::to_string(&handle).unwrap(), "\"secret://forge.token_1-a\"");
        for wrong in
            ["canary", "secret://", "secret://../canary", "secret://a/canary", "secret://.canary", "Secret://canary"]
        {
            assert_eq!(wrong.parse::<Handle>(), Err(NoHandle));
            let told = serde_json::from_value::<Handle>(wrong.into()).unwrap_err().to_string();
            assert!(told.contains("expected secret://NAME") && !told.contains("canary"), "{told}");
        }
    }
}
