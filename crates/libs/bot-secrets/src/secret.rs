//! A value that shows itself to nobody who does not ask by name.
use std::fmt;

use rand::RngExt as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A password, a token, a key. `Debug` shows nothing of it; there is neither `Display` nor `Serialize`; its memory is
/// overwritten when it is dropped; and it is compared in a time that tells nothing but lengths.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// `letters` letters and digits from the operating system's generator (about 5.95 bits each).
    pub fn random(letters: usize) -> Self {
        let mut rng = rand::rng();
        let pick = |_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
        Self::new((0..letters).map(pick).collect::<String>())
    }

    /// The text itself. Use it where it is needed and nowhere else: not in argv, logs or messages.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_nothing_and_is_compared_by_value() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret(…))");
        assert!(Secret::new("hunter2") == Secret::new("hunter2") && Secret::new("hunter2") != Secret::new("hunter3"));
        let random = Secret::random(40);
        assert!(random.expose().len() == 40 && random != Secret::random(40));
    }
}
