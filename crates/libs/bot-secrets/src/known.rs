//! The secrets that this process has read. Its logs, its panics and its errors are held against them; nothing can be read
//! from here.
use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    sync::{LazyLock, Mutex, PoisonError, RwLock},
};

use crate::{Redactor, Secret};

const VALUES_MAX: usize = 256;
const BYTES_MAX: usize = 128 << 10;

/// Values, of which those that were not read for the longest time go first: at most 256, of 128 KiB in all.
#[derive(Default)]
pub struct Known {
    values: Mutex<VecDeque<Secret>>,
    redactor: RwLock<Redactor>,
}

/// Those of this process.
pub fn known() -> &'static Known {
    static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);
    &KNOWN
}

impl Known {
    /// Notes a value. [`crate::Sources`] does it for all that it gives out.
    pub fn add(&self, secret: &Secret) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let before = values.len();
        values.retain(|value| value != secret);
        let is_new = values.len() == before;
        values.push_back(secret.clone());
        if is_new {
            while values.len() > VALUES_MAX || total(&values) > BYTES_MAX {
                values.pop_front();
            }
            let redactor = Redactor::new(values.iter().map(Secret::expose));
            *self.redactor.write().unwrap_or_else(PoisonError::into_inner) = redactor;
        }
    }

    /// What takes those out that are known now.
    pub fn redactor(&self) -> Redactor {
        self.redactor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A text without them.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.redactor().clean(text)
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known(…)")
    }
}

fn total(values: &VecDeque<Secret>) -> usize {
    values.iter().map(|value| value.expose().len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_values_are_forgotten_and_one_that_is_read_again_is_not() {
        let known = Known::default();
        let value = |i: usize| format!("canary-{i:05}-x");
        for i in 0..VALUES_MAX {
            known.add(&Secret::new(value(i)));
        }
        known.add(&Secret::new(value(0)));
        known.add(&Secret::new("one more of them"));
        let text = format!("{} {} {} one more of them", value(0), value(1), value(2));
        assert_eq!(known.clean(&text), format!("*** {} *** ***", value(1)));
        known.add(&Secret::new("x".repeat(BYTES_MAX)));
        assert!(!known.redactor().finds(&value(0)));
    }
}
