//! What letters have in common: the same bot, the same code, and the same error but for numbers, ids and paths. Pure.
use super::found::hex_of;

/// How a fingerprint begins, so that it is taken for no message's id.
pub(super) const PREFIX: &str = "fp-";
const LETTERS_MAX: usize = 300;
/// A word of letters and digits that is so long is an id.
const ID_LETTERS: usize = 16;
/// So many hex digits with a number among them are a commit or a digest.
const HEX_LETTERS: usize = 7;

/// `fp-` and 8 hex digits.
pub(super) fn fingerprint(bot: &str, code: &str, normalised: &str) -> String {
    let digest = hex_of(format!("{bot}\0{code}\0{normalised}").as_bytes());
    format!("{PREFIX}{}", &digest[..8])
}

/// An error with placeholders for what differs from letter to letter. `own` are texts of the message itself, such as its id.
pub(super) fn normalised(error: &str, own: &[&str]) -> String {
    let mut text = error.to_owned();
    for own in own.iter().filter(|own| own.len() > 2) {
        text = text.replace(own, "<id>");
    }
    let words: Vec<String> = text.split_whitespace().map(word).collect();
    words.join(" ").chars().take(LETTERS_MAX).collect()
}

fn word(word: &str) -> String {
    let is_edge = |c: char| !c.is_alphanumeric() && c != '/' && c != '<' && c != '>';
    let core = word.trim_matches(is_edge);
    if core.is_empty() {
        return word.to_owned();
    }
    let start = word.find(core).unwrap_or(0);
    let (before, after) = (&word[..start], &word[start + core.len()..]);
    format!("{before}{}{after}", placeholder(core))
}

fn placeholder(core: &str) -> String {
    let has_digit = core.contains(|c: char| c.is_ascii_digit());
    let is_hex = core.len() >= HEX_LETTERS && core.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let is_long = core.len() >= ID_LETTERS && core.chars().all(|c| c.is_ascii_alphanumeric() || "-_:".contains(c));
    if core.starts_with('/') || core.contains("://") || core.matches('/').count() > 1 {
        "<path>".to_owned()
    } else if has_digit && (is_hex || is_long) {
        "<id>".to_owned()
    } else if has_digit {
        numbers(core)
    } else {
        core.to_owned()
    }
}

/// Each run of digits is one placeholder.
fn numbers(core: &str) -> String {
    let mut out = String::new();
    let mut in_number = false;
    for c in core.chars() {
        if c.is_ascii_digit() {
            if !in_number {
                out.push_str("<n>");
            }
            in_number = true;
        } else {
            in_number = false;
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_letter_to_letter_is_left_out() {
        for (error, own, expected) in [
            ("all 3 attempts failed; the last: exit 101", [].as_slice(), "all <n> attempts failed; the last: exit <n>"),
            ("cannot read /srv/git/shop-7: no such file", &[], "cannot read <path>: no such file"),
            ("commit `4f2d9c1e8b7a605f` is unknown", &[], "commit `<id>` is unknown"),
            ("it is of 2026-11-01T12:00:00Z: too old", &[], "it is of <id>: too old"),
            ("job 0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01.", &[], "job <id>."),
            ("the id push-one was used before", &["push-one"], "the id <id> was used before"),
            ("`payload.data.commit`: missing", &[], "`payload.data.commit`: missing"),
            ("", &[], ""),
        ] {
            assert_eq!(normalised(error, own), expected);
        }
    }

    #[test]
    fn letters_of_one_cause_share_a_fingerprint_and_others_do_not() {
        let of = |bot: &str, code: &str, error: &str| fingerprint(bot, code, &normalised(error, &[]));
        let one = of("build-bot", "INVALID_FIELD", "attempt 1 of /a/b");
        assert_eq!(one, of("build-bot", "INVALID_FIELD", "attempt 22 of /c/d/e"));
        assert!(one.starts_with(PREFIX) && one.len() == 11, "{one}");
        for other in [
            of("test-bot", "INVALID_FIELD", "attempt 1 of /a/b"),
            of("build-bot", "REJECTED", "attempt 1 of /a/b"),
            of("build-bot", "INVALID_FIELD", "attempt 1 at /a/b"),
        ] {
            assert_ne!(one, other);
        }
    }
}
