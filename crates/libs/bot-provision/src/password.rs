//! The salted hash that RabbitMQ keeps of a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bot_secrets::Secret;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// The name RabbitMQ gives to [`rabbit_hash`].
pub(crate) const HASHING: &str = "rabbit_password_hashing_sha256";

const SALT_BYTES: usize = 4;

/// base64(salt + sha256(salt + password)), see <https://www.rabbitmq.com/docs/passwords>.
pub(crate) fn rabbit_hash(password: &Secret) -> String {
    with_salt(password, rand::rng().random::<[u8; SALT_BYTES]>())
}

/// Whether RabbitMQ's `hash` is one of this password.
pub(crate) fn matches_rabbit_hash(password: &Secret, hash: &str) -> bool {
    let salt = STANDARD.decode(hash).ok().and_then(|bytes| bytes.first_chunk::<SALT_BYTES>().copied());
    salt.is_some_and(|salt| Secret::new(with_salt(password, salt)) == Secret::new(hash))
}

fn with_salt(password: &Secret, salt: [u8; SALT_BYTES]) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(password.expose().as_bytes()).finalize();
    let mut bytes = salt.to_vec();
    bytes.extend_from_slice(&digest);
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rabbitmqs_manual_hashes_as_printed_there() {
        // https://www.rabbitmq.com/docs/passwords: "test12" with salt 908DC60A.
        let hash = with_salt(&Secret::new("test12"), [0x90, 0x8D, 0xC6, 0x0A]);
        assert_eq!(hash, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }

    #[test]
    fn a_hash_is_recognised_and_another_passwords_is_not() {
        let secret = Secret::random(32);
        assert!(matches_rabbit_hash(&secret, &rabbit_hash(&secret)));
        assert!(!matches_rabbit_hash(&Secret::new("other"), &rabbit_hash(&secret)));
        assert!(!matches_rabbit_hash(&secret, "not base64 at all"));
    }
}
