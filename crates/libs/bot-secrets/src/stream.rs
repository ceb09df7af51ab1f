//! Takes secrets out of a text that comes in parts, wherever these are cut. What may be the beginning of one is held back.
use crate::{
    redactor::{Redactor, write},
    shapes,
};

/// A longer line is given out in parts.
const LINE_BYTES_MAX: usize = 32 << 10;
/// Held back of such a line: more than any form has.
const TAIL_BYTES: usize = 1 << 10;

/// Gives out whole lines as they end, but for one whose end may begin a secret, and what follows from it. Holds at most
/// 32 KiB beside what was pushed last.
pub struct Stream {
    redactor: Redactor,
    waiting: Vec<u8>,
    in_key: bool,
}

impl Stream {
    pub(crate) fn new(redactor: Redactor) -> Self {
        Self { redactor, waiting: Vec::new(), in_key: false }
    }

    /// Takes a part, and gives out what is certain by now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.waiting.extend_from_slice(bytes);
        if !bytes.contains(&b'\n') && self.waiting.len() <= LINE_BYTES_MAX {
            return Vec::new();
        }
        let lines = self.waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let held = self.line_of(self.redactor.broken_off(&self.waiting).min(lines));
        let cut = if self.waiting.len() - held > LINE_BYTES_MAX { self.waiting.len() - TAIL_BYTES } else { held };
        self.give(cut)
    }

    /// Gives out the rest, once no more comes.
    pub fn finish(&mut self) -> Vec<u8> {
        self.give(self.waiting.len())
    }

    /// What lies before `cut`; less where a secret goes on behind it.
    fn give(&mut self, cut: usize) -> Vec<u8> {
        let mut in_key = self.in_key;
        let spans = self.redactor.spans(&self.waiting, &mut in_key);
        let across = |cut: usize| spans.iter().find(|span| span.start < cut && cut < span.end);
        let (mut end, wanted) = (cut, cut);
        while let Some(span) = across(end) {
            end = self.line_of(span.start);
        }
        if end == 0 && self.waiting.len() > LINE_BYTES_MAX {
            end = across(wanted).map_or(wanted, |span| span.end);
        }
        let cut = end;
        let spans: Vec<_> = spans.into_iter().filter(|span| span.end <= cut).collect();
        let part: Vec<u8> = self.waiting.drain(..cut).collect();
        if self.waiting.is_empty() {
            self.in_key = in_key;
        } else {
            shapes::find(&part, &mut self.in_key, &mut Vec::new());
        }
        let mut out = Vec::with_capacity(part.len());
        write(&part, &spans, &mut out);
        out
    }

    /// Where the line of a position begins.
    fn line_of(&self, at: usize) -> usize {
        let before = self.waiting.get(..at).unwrap_or_default();
        before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;
    use crate::SHOWN;

    fn streamed(redactor: &Redactor, text: &str, chunks: impl Iterator<Item = usize>) -> String {
        let (mut stream, mut out, mut rest) = (redactor.stream(), Vec::new(), text.as_bytes());
        for size in chunks {
            let (chunk, next) = rest.split_at(size.clamp(1, 1 << 16).min(rest.len()));
            out.extend(stream.push(chunk));
            assert!(stream.waiting.len() <= LINE_BYTES_MAX + chunk.len());
            rest = next;
        }
        out.extend(stream.push(rest));
        out.extend(stream.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_come_when_they_end_and_only_a_suspicious_one_waits() {
        let mut stream = Redactor::new(["canary-0123456789"]).stream();
        let mut push = |text: &str| String::from_utf8(stream.push(text.as_bytes())).unwrap();
        assert_eq!(push("one\ntw"), "one\n");
        assert_eq!(push("o can\n"), "two can\n");
        assert_eq!(push("three canary-01\n"), "");
        assert_eq!(push("23456789\nfour\n"), "three ***\nfour\n");
        assert_eq!(push("canary-01\n"), "");
        assert_eq!(push("not\n"), "canary-01\nnot\n");
    }

    #[test]
    fn a_private_key_is_hidden_line_by_line() {
        let text = "a\n-----BEGIN PRIVATE KEY-----\nMIIE\nabc=\n-----END PRIVATE KEY-----\nb\n";
        for size in 1..text.len() {
            let shown = streamed(&Redactor::default(), text, std::iter::repeat_n(size, text.len()));
            assert!(shown.starts_with("a\n***") && shown.ends_with("***\nb\n"), "{shown}");
            assert!(!shown.contains("MIIE") && !shown.contains("abc"), "{shown}");
        }
        let broken_off = "-----BEGIN PRIVATE KEY-----\nMIIE\n\u{e9} more\n";
        assert_eq!(streamed(&Redactor::default(), broken_off, std::iter::repeat_n(28, 9)), "******\u{e9} more\n");
    }

    #[test]
    fn a_long_line_is_given_out_and_nothing_in_it_is_missed() {
        let redactor = Redactor::new(["canary-0123456789"]);
        for before in [LINE_BYTES_MAX - 20, LINE_BYTES_MAX, 3 * LINE_BYTES_MAX - 9] {
            let line = |secret: &str| format!("{}{secret}{}", "a".repeat(before), "b".repeat(70_000));
            let shown = streamed(&redactor, &line("canary-0123456789"), std::iter::repeat_n(1000, 1000));
            assert_eq!(shown, line(SHOWN));
        }
    }

    fn encoded(value: &str, how: u8) -> String {
        match how {
            0 => value.to_owned(),
            1 => STANDARD.encode(format!("u:{value}")),
            2 => serde_json::to_string(value).unwrap(),
            3 => percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string(),
            4 => hex::encode_upper(value),
            5 => STANDARD.encode(value).as_bytes().chunks(20).map(|l| String::from_utf8_lossy(l) + "\n").collect(),
            _ => value.replace('\'', r"'\''"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_form_passes_however_the_text_is_cut(
            value in "[A-Za-z0-9+/&<>\"'é ,-]{16,200}(\n[A-Za-z0-9]{12,80}){0,3}",
            noise in prop::collection::vec("[a-z .\n]{0,40}", 8),
            hows in prop::collection::vec(0_u8..7, 7),
            chunks in prop::collection::vec(1_usize..60, 0..300),
        ) {
            let redactor = Redactor::new([value.as_str()]);
            let forms: Vec<String> = hows.iter().map(|how| encoded(&value, *how)).collect();
            let parts = noise.iter().map(String::as_str).zip(forms.iter().map(String::as_str).chain([""]));
            let text: String = parts.flat_map(|(noise, form)| [noise, form]).collect();
            let shown = streamed(&redactor, &text, chunks.into_iter());
            for form in forms.iter().chain([&value]) {
                prop_assert!(!shown.contains(form.trim()), "{form}\nin {shown}");
            }
            for line in value.lines().filter(|line| line.trim().len() >= 16) {
                prop_assert!(!shown.contains(line.trim()), "{line}\nin {shown}");
            }
        }

        #[test]
        fn a_text_without_secrets_stays_as_it_is(
            text in "([a-zA-Z0-9 :/@.=+_-]{0,80}\n?){0,30}",
            value in "[0-9a-f]{6}[#§%]{10,20}",
            chunks in prop::collection::vec(1_usize..60, 0..100),
        ) {
            let redactor = Redactor::new([value.as_str()]);
            prop_assume!(!redactor.finds(&text));
            prop_assert_eq!(streamed(&redactor, &text, chunks.into_iter()), text);
        }
    }
}
