//! Passwords: a type that never shows itself, and the salted hash RabbitMQ keeps. No storage here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// The name RabbitMQ gives to [`Secret::rabbit_hash`].
pub(crate) const HASHING: &str = "rabbit_password_hashing_sha256";

const SALT_BYTES: usize = 4;
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A password. `Debug` shows nothing of it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// `letters` letters and digits from the operating system's generator (about 5.95 bits each).
    pub fn random(letters: usize) -> Self {
        let mut rng = rand::rng();
        let pick = |_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
        Self((0..letters).map(pick).collect())
    }

    /// The text itself. Use it where it is needed and nowhere else: not in argv, logs or messages.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// base64(salt + sha256(salt + password)), see <https://www.rabbitmq.com/docs/passwords>.
    pub(crate) fn rabbit_hash(&self) -> String {
        self.rabbit_hash_with(rand::rng().random::<[u8; SALT_BYTES]>())
    }

    /// Whether RabbitMQ's `hash` is one of this password.
    pub(crate) fn matches_rabbit_hash(&self, hash: &str) -> bool {
        let salt = STANDARD.decode(hash).ok().and_then(|bytes| bytes.first_chunk::<SALT_BYTES>().copied());
        salt.is_some_and(|salt| self.rabbit_hash_with(salt) == hash)
    }

    fn rabbit_hash_with(&self, salt: [u8; SALT_BYTES]) -> String {
        let digest = Sha256::new().chain_update(salt).chain_update(self.0.as_bytes()).finalize();
        let mut bytes = salt.to_vec();
        bytes.extend_from_slice(&digest);
        STANDARD.encode(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rabbitmqs_manual_hashes_as_printed_there() {
        // https://www.rabbitmq.com/docs/passwords: "test12" with salt 908DC60A.
        let hash = Secret::new("test12").rabbit_hash_with([0x90, 0x8D, 0xC6, 0x0A]);
        assert_eq!(hash, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }

    #[test]
    fn a_hash_is_recognised_and_another_passwords_is_not() {
        let secret = Secret::random(32);
        assert!(secret.matches_rabbit_hash(&secret.rabbit_hash()));
        assert!(!Secret::new("other").matches_rabbit_hash(&secret.rabbit_hash()));
        assert!(!secret.matches_rabbit_hash("not base64 at all"));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
