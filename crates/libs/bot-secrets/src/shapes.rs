//! Tokens that are known by their shape, whoever's they are.
use std::{ops::Range, sync::LazyLock};

use aho_corasick::AhoCorasick;
use regex::bytes::Regex;

/// What every shape has somewhere; a text without any of these is looked at no further.
const MARKS: [&str; 19] = [
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "eyJ",
    "npm_",
    "_live_",
    "AGE-SECRET-KEY-1",
    "earer",
    "EARER",
    "asic",
    "://",
    KEY_MARK,
];
const KEY_MARK: &str = "PRIVATE KEY";
const KEY_END: &[u8] = b"-----END ";
/// A key that does not end within this is taken to end where its lines stop to look like one.
const KEY_BYTES_MAX: usize = 32 << 10;

/// Only ASCII is matched, so that no character is cut. The group, or else the whole, is hidden.
const SHAPES: [&str; 10] = [
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{20,255}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,255}",
    r"\bglpat-[A-Za-z0-9_.-]{16,255}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,255}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"\b(?:npm_[A-Za-z0-9]{36}|[rs]k_live_[A-Za-z0-9]{16,255}|AGE-SECRET-KEY-1[0-9A-Z]{58})",
    r"\b(?i:bearer)[ \t]+([A-Za-z0-9._~+/-]*[0-9][A-Za-z0-9._~+/-]{7,}=*)",
    r"(?i:authorization\\?[\x22']?[ \t]*[:=][ \t]*\\?[\x22']?basic)[ \t]+([A-Za-z0-9+/_-]{8,}=*)",
    r"://[!-~&&[^:/@\x22'<>\\]]*:([!-~&&[^/@\x22'<>\\]]+)@",
];

struct Compiled {
    marks: AhoCorasick,
    shapes: Vec<Regex>,
    key: Regex,
}

/// `None` cannot be: a test compiles them.
static COMPILED: LazyLock<Option<Compiled>> = LazyLock::new(|| {
    let shapes = SHAPES.iter().map(|shape| Regex::new(&format!("(?-u){shape}"))).collect::<Result<_, _>>().ok()?;
    let key = Regex::new(r"(?-u)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----").ok()?;
    Some(Compiled { marks: AhoCorasick::new(MARKS).ok()?, shapes, key })
});

/// What of a text has such a shape, in no order. `in_key` tells whether the text begins within a private key, and
/// afterwards whether it ends in one.
pub(crate) fn find(text: &[u8], in_key: &mut bool, found: &mut Vec<Range<usize>>) {
    let Some(compiled) = COMPILED.as_ref() else { return };
    if *in_key {
        let end = key_end(text);
        *in_key = end == text.len();
        found.push(0..end);
    }
    if !compiled.marks.is_match(text) {
        return;
    }
    for shape in &compiled.shapes {
        for captures in shape.captures_iter(text) {
            found.extend(captures.get(1).or_else(|| captures.get(0)).map(|hidden| hidden.range()));
        }
    }
    for header in compiled.key.find_iter(text) {
        let rest = text.get(header.end()..).unwrap_or_default();
        let end = key_end(rest);
        *in_key |= end == rest.len();
        found.push(header.start()..header.end() + end);
    }
}

/// How much of a text that begins within a key belongs to it; all of it where no end is seen.
fn key_end(text: &[u8]) -> usize {
    let near = text.get(..KEY_BYTES_MAX).unwrap_or(text);
    if let Some(at) = near.windows(KEY_END.len()).position(|window| window == KEY_END) {
        let rest = near.get(at + KEY_END.len()..).unwrap_or_default();
        let dashes = rest.windows(5).position(|window| window == b"-----").map(|end| end + 5);
        return at + KEY_END.len() + dashes.unwrap_or(0);
    }
    let mut end = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !is_of_key(line) {
            return end;
        }
        end += line.len();
    }
    end
}

fn is_of_key(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let is_base64 = line.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=\\".contains(byte));
    is_base64 || [b"Proc-Type:".as_slice(), b"DEK-Info:", b"Comment:"].iter().any(|head| line.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        crate::Redactor::default().clean(text).into_owned()
    }

    #[test]
    fn tokens_are_known_by_their_shape() {
        assert!(COMPILED.is_some());
        let (a, b) = ("Ab1".repeat(13), "A".repeat(16));
        for (text, want) in [
            (format!("id AKIA{b}."), "id ***."),
            (format!("ghp_{a} github_pat_{a}"), "*** ***"),
            (format!("glpat-{a},xoxb-{a}"), "***,***"),
            (format!("t=eyJ{a}.eyJ{a}.{a}"), "t=***"),
            (format!("Authorization: Bearer {a}"), "Authorization: Bearer ***"),
            (format!("\"authorization\": \"BEARER {a}\""), "\"authorization\": \"BEARER ***\""),
            ("authorization: basic dTpwYXNzd29yZA==".to_owned(), "authorization: basic ***"),
            ("to https://me:s3cr3t@host/x".to_owned(), "to https://me:***@host/x"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nx".to_owned(), "***\nx"),
            (
                "{\"k\":\"-----BEGIN PRIVATE KEY-----\\nMII\\n-----END PRIVATE KEY-----\\n\"}".to_owned(),
                "{\"k\":\"***\\n\"}",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMII\n it broke off".to_owned(), "*** it broke off"),
        ] {
            assert_eq!(shown(&text), want, "{text}");
        }
    }

    #[test]
    fn what_only_looks_alike_stays() {
        for text in [
            "the bearer authentication is on",
            "http://localhost:8080/a@b and https://host/a:b@c",
            "eyJ is how JSON begins in base64, xoxo",
            "AKIA is short; git@host:shop/api.git; a basic rule",
            "PRIVATE KEY expected",
        ] {
            assert_eq!(shown(text), text);
        }
    }
}
