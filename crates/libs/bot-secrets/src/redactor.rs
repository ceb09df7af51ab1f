//! Finds values in all their forms, and tokens by their shape, and puts `***` in their place.
use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use serde_json::Value;

use crate::{
    Stream,
    forms::{self, HEAD_CHARS},
    shapes,
};

/// What stands in a secret's place.
pub const SHOWN: &str = "***";
/// A form this long is known with line ends within it; a shorter one would be found in what stands in two lines by chance.
const FOLDED_BYTES_MIN: usize = 12;

/// Takes secrets out of text. The default one knows no values, and tokens by their shape alone. Clones share all.
#[derive(Clone, Default)]
pub struct Redactor(Arc<Needles>);

#[derive(Default)]
struct Needles {
    /// Looked for in the text as it is.
    short: Option<AhoCorasick>,
    /// Looked for in the text without its line ends.
    long: Option<AhoCorasick>,
    /// Those of `long`, in order.
    sorted: Vec<String>,
    /// There are more than can be looked for: nothing is shown.
    too_many: bool,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(…)")
    }
}

impl Redactor {
    /// Of these values. One of fewer than 4 bytes is not looked for, and encoded forms only from 8 bytes on.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let all: std::collections::BTreeSet<String> = values.into_iter().flat_map(forms::forms).collect();
        let (sorted, short): (Vec<String>, Vec<String>) = all.into_iter().partition(|f| f.len() >= FOLDED_BYTES_MIN);
        // Small, and quick to build, whatever the number of forms.
        let build = |forms: &[String]| {
            let built = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(forms);
            (!forms.is_empty()).then(|| built.ok())
        };
        let (short, long) = (build(&short), build(&sorted));
        let too_many = [&short, &long].iter().any(|built| matches!(built, Some(None)));
        Self(Arc::new(Needles { short: short.flatten(), long: long.flatten(), sorted, too_many }))
    }

    /// The text without them. Whoever has the text in parts takes [`Redactor::stream`].
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let spans = self.spans(text.as_bytes(), &mut false);
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut clean = Vec::with_capacity(text.len());
        write(text.as_bytes(), &spans, &mut clean);
        // Forms are text and shapes are ASCII, so no character was cut.
        Cow::Owned(String::from_utf8_lossy(&clean).into_owned())
    }

    /// All texts of a document without them, the names of its members too.
    pub fn clean_document(&self, document: &mut Value) {
        match document {
            Value::String(text) => {
                if let Cow::Owned(clean) = self.clean(text) {
                    *text = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean_document(item)),
            Value::Object(members) => {
                members.values_mut().for_each(|member| self.clean_document(member));
                if members.keys().any(|name| self.finds(name)) {
                    let all = std::mem::take(members).into_iter();
                    *members = all.map(|(name, member)| (self.clean(&name).into_owned(), member)).collect();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether there is anything to take out.
    pub fn finds(&self, text: &str) -> bool {
        !self.spans(text.as_bytes(), &mut false).is_empty()
    }

    /// For a text that comes in parts.
    pub fn stream(&self) -> Stream {
        Stream::new(self.clone())
    }

    /// What is to be taken out, in order and apart from one another.
    pub(crate) fn spans(&self, text: &[u8], in_key: &mut bool) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.0.too_many && !text.is_empty() {
            found.push(0..text.len());
        }
        if let Some(short) = &self.0.short {
            all(short, text, |span| found.push(span));
        }
        if let Some(long) = &self.0.long {
            let folded = Folded::new(text);
            all(long, &folded.bytes, |span| found.push(folded.position(span.start)..folded.position(span.end - 1) + 1));
        }
        shapes::find(text, in_key, &mut found);
        merged(found)
    }

    /// Where a form begins that the text may break off in; its end where there is none.
    pub(crate) fn broken_off(&self, text: &[u8]) -> usize {
        let Some(longest) = self.0.sorted.iter().map(String::len).max() else { return text.len() };
        let mut tail = Vec::new();
        for (at, byte) in text.iter().enumerate().rev().filter(|(_, byte)| !is_line_end(**byte)).take(longest - 1) {
            tail.push((at, *byte));
        }
        tail.reverse();
        let bytes: Vec<u8> = tail.iter().map(|(_, byte)| *byte).collect();
        let begins = |suffix: &[u8]| {
            let next = self.0.sorted.partition_point(|form| form.as_bytes() < suffix);
            self.0.sorted.get(next).is_some_and(|form| form.as_bytes().starts_with(suffix))
        };
        let candidates = 0..(bytes.len() + 1).saturating_sub(HEAD_CHARS);
        let first = candidates.into_iter().find(|start| bytes.get(*start..).is_some_and(begins));
        first.and_then(|start| tail.get(start)).map_or(text.len(), |(at, _)| *at)
    }
}

fn all(needles: &AhoCorasick, text: &[u8], mut found: impl FnMut(Range<usize>)) {
    // Most texts hold none, and this is the quicker question.
    if needles.is_match(text) {
        needles.find_overlapping_iter(text).for_each(|hit| found(hit.range()));
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Writes a text with its spans hidden.
pub(crate) fn write(text: &[u8], spans: &[Range<usize>], out: &mut Vec<u8>) {
    let mut at = 0;
    for span in spans {
        out.extend_from_slice(text.get(at..span.start).unwrap_or_default());
        out.extend_from_slice(SHOWN.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
}

fn merged(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_by_key(|span| span.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(spans.len());
    for span in spans.into_iter().filter(|span| !span.is_empty()) {
        match merged.last_mut().filter(|last| last.end >= span.start) {
            Some(last) => last.end = last.end.max(span.end),
            None => merged.push(span),
        }
    }
    merged
}

/// A text without its line ends, and where in the text each of its parts was.
struct Folded<'a> {
    bytes: Cow<'a, [u8]>,
    /// Where a part begins here, and there.
    parts: Vec<(usize, usize)>,
}

impl<'a> Folded<'a> {
    fn new(text: &'a [u8]) -> Self {
        if !text.iter().any(|byte| is_line_end(*byte)) {
            return Self { bytes: Cow::Borrowed(text), parts: vec![(0, 0)] };
        }
        let (mut bytes, mut parts, mut at) = (Vec::with_capacity(text.len()), Vec::new(), 0);
        for part in text.split(|byte| is_line_end(*byte)) {
            if !part.is_empty() {
                parts.push((bytes.len(), at));
                bytes.extend_from_slice(part);
            }
            at += part.len() + 1;
        }
        Self { bytes: Cow::Owned(bytes), parts }
    }

    fn position(&self, folded: usize) -> usize {
        let part = self.parts.partition_point(|(here, _)| *here <= folded).saturating_sub(1);
        self.parts.get(part).map_or(folded, |(here, there)| there + (folded - here))
    }
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };

    use super::*;

    #[test]
    fn no_form_of_a_secret_stays_in_a_text() {
        let key = "-----BEGIN KEY-----\nc2VjcmV0bGluZW9mYWtleQ\nzz\n-----END KEY-----";
        let token = "canary?>~token/0123456789-0123456789-0123456789-0123456789-0123456789";
        let redactor = Redactor::new([token, key, "abc"]);
        for text in [
            format!("x {token} y {token}"),
            format!("x {}", STANDARD.encode(token)),
            format!("x {}", URL_SAFE_NO_PAD.encode(format!("{token}\n"))),
            format!("Authorization: Basic {}", STANDARD.encode(format!("u:{token}"))),
            format!("Authorization: Basic {}", STANDARD.encode(format!("me:{token}@host"))),
            format!("x {key} y"),
            format!("x {}", hex::encode(token)),
            "| c2VjcmV0bGluZW9mYWtleQ |".to_owned(),
        ] {
            let clean = redactor.clean(&text);
            assert!(clean.contains(SHOWN) && clean.len() < 40, "{text}: {clean}");
        }
        // Broken into lines, of any width, wherever in them it lies.
        let text = format!("some words before it, {token}{token}");
        for width in [20, 60, 64, 76, 100] {
            let encoded = STANDARD.encode(&text);
            let lines: Vec<&str> = encoded.as_bytes().chunks(width).map(|l| std::str::from_utf8(l).unwrap()).collect();
            assert!(redactor.clean(&lines.join("\n")).len() < 50, "{}", redactor.clean(&lines.join("\n")));
        }
        // And each of its lines alone, where they begin with it.
        for width in [64, 76] {
            for line in STANDARD.encode(token).as_bytes().chunks(width) {
                let line = std::str::from_utf8(line).unwrap();
                assert!(redactor.clean(line).len() < 12, "{line}: {}", redactor.clean(line));
            }
        }
        assert_eq!(redactor.clean("abc and zz stay"), "abc and zz stay");
        assert!(redactor.finds(token) && !redactor.finds("abc"));
        assert_eq!(format!("{redactor:?}"), "Redactor(…)");
    }

    #[test]
    fn no_text_of_a_document_keeps_a_secret() {
        let redactor = Redactor::new(["canary-in-a-document"]);
        let base64 = STANDARD.encode("canary-in-a-document");
        let mut document =
            serde_json::json!({"a": ["x canary-in-a-document", 1], "canary-in-a-document": {"b": base64}});
        redactor.clean_document(&mut document);
        assert_eq!(document, serde_json::json!({"a": ["x ***", 1], "***": {"b": "***Q="}}));
    }

    #[test]
    fn one_value_within_another_hides_both() {
        let redactor = Redactor::new(["canary-1", "canary-1-and-more", "and-more-of-it"]);
        assert_eq!(redactor.clean("a canary-1, canary-1-and-more, canary-1-and-more-of-it."), "a ***, ***, ***.");
    }
}
