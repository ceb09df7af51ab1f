//! The forms in which a value is found in text: as it is, and as programs encode and escape it.
use std::collections::BTreeSet;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// A shorter value is in every other line by chance.
pub(crate) const VALUE_BYTES_MIN: usize = 4;
/// A line of a longer value, and an encoded form.
pub(crate) const FORM_BYTES_MIN: usize = 8;
/// A longer form is looked for in pieces of this many characters, so that a part of it is known too, and so that little
/// has to be held back to know one.
const PIECE_CHARS: usize = 64;
/// As `base64` and `openssl` break their lines.
const BASE64_LINES: [usize; 2] = [76, 64];
/// So many of a form's first characters may have been printed before a line end without being known for a part of it.
pub(crate) const HEAD_CHARS: usize = 4;
/// A form this long is also looked for without some of its first characters.
const HEADLESS_CHARS_MIN: usize = 16;

/// All forms of a value, long ones in pieces; none where the value is too short.
pub(crate) fn forms(value: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if value.len() < VALUE_BYTES_MIN {
        return found;
    }
    let mut forms: BTreeSet<String> = escaped(value).into_iter().collect();
    let lines: Vec<&str> = value.lines().map(str::trim).collect();
    if lines.len() > 1 {
        forms.extend(lines.iter().filter(|line| line.len() >= FORM_BYTES_MIN).flat_map(|line| escaped(line)));
        // As it is found where line ends are not looked at.
        forms.insert(value.replace(['\r', '\n'], ""));
    }
    forms.extend(in_base64(value));
    forms.extend([hex::encode(value), hex::encode_upper(value)]);
    for form in forms {
        if form.len() >= FORM_BYTES_MIN || form == value {
            found.extend(pieces(&form, PIECE_CHARS));
            found.extend(headless(&form));
        }
    }
    found
}

/// As it is, and as formats and shells write it.
fn escaped(text: &str) -> Vec<String> {
    let json = serde_json::Value::from(text).to_string();
    let json = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&json).to_owned();
    let partial_xml = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut forms = vec![
        // As Go writes it.
        json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e"),
        // As PHP and older libraries do.
        json.replace('/', "\\/"),
        ascii_only(&json),
        json,
        text.escape_debug().to_string(),
        text.escape_default().to_string(),
        partial_xml.replace('"', "&quot;"),
        partial_xml.replace('"', "&quot;").replace('\'', "&apos;"),
        partial_xml.replace('"', "&quot;").replace('\'', "&#39;"),
        partial_xml.replace('"', "&quot;").replace('\'', "&#x27;"),
        partial_xml.replace('"', "&#34;").replace('\'', "&#39;"),
        partial_xml,
        text.replace('\'', r"'\''"),
        text.replace('\'', r#"'"'"'"#),
        shell_escaped(text),
        text.to_owned(),
    ];
    forms.extend(percent_encoded(text));
    forms
}

/// As Python's json writes what is not ASCII.
fn ascii_only(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            written.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| written.push_str(&format!("\\u{unit:04x}")));
        }
    }
    written
}

/// As `printf %q` writes it.
fn shell_escaped(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    text.chars().flat_map(|c| (!is_plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

fn percent_encoded(text: &str) -> Vec<String> {
    const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    const COMPONENT: AsciiSet = UNRESERVED.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
    const PATH: AsciiSet = UNRESERVED.remove(b'/');
    const FORM: AsciiSet = NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
    let mut forms = Vec::new();
    for set in [&UNRESERVED, &COMPONENT, &PATH, &FORM, NON_ALPHANUMERIC] {
        let upper = utf8_percent_encode(text, set).to_string();
        let lower = lower_hex(&upper);
        forms.extend([upper.replace("%20", "+"), lower.replace("%20", "+"), upper, lower]);
    }
    forms
}

fn lower_hex(encoded: &str) -> String {
    let mut digits = 0;
    let step = |c: char| {
        if c == '%' {
            digits = 2;
            return c;
        }
        if digits == 0 {
            return c;
        }
        digits -= 1;
        c.to_ascii_lowercase()
    };
    encoded.chars().map(step).collect()
}

/// What of a value stays the same in base64, wherever in a larger text it begins; broken into lines as well.
fn in_base64(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    for offset in 0..3 {
        let bytes = [&[0; 2][..offset], value.as_bytes()].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = engine.encode(&bytes);
            // Without the characters that also hold bits of what lies before or after.
            let begin = [0, 2, 3][offset];
            let end = text.len() - usize::from(bytes.len() % 3 != 0);
            let core = text.get(begin..end).unwrap_or_default();
            if offset == 0 {
                found.extend(BASE64_LINES.iter().flat_map(|width| lines(core, *width)));
            }
            found.push(core.to_owned());
        }
    }
    found
}

fn lines(core: &str, width: usize) -> impl Iterator<Item = String> {
    let mut rest = core;
    std::iter::from_fn(move || {
        let (line, next) = rest.split_at_checked(width).unwrap_or((rest, ""));
        rest = next;
        (!line.is_empty()).then(|| line.to_owned())
    })
}

/// Of `chars` characters each, the last of up to twice as many; one where it is no longer than that.
fn pieces(form: &str, chars: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = form;
    while let Some((next, _)) = rest.char_indices().nth(chars).filter(|_| rest.chars().nth(2 * chars - 1).is_some()) {
        let (piece, after) = rest.split_at(next);
        found.push(piece.to_owned());
        rest = after;
    }
    found.push(rest.to_owned());
    found
}

/// What is left of a form of which a line ended within the first characters.
fn headless(form: &str) -> Vec<String> {
    let first = pieces(form, PIECE_CHARS).swap_remove(0);
    let long_enough = first.len() >= HEADLESS_CHARS_MIN;
    let starts = first.char_indices().map(|(at, _)| at).skip(1).take(HEAD_CHARS - 1);
    starts.filter(|_| long_enough).filter_map(|at| first.get(at..).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_however_a_format_writes_it() {
        let value = "\"a&b\"<c>/d é's k";
        let forms = forms(value);
        for form in [
            value,
            "&quot;a&amp;b&quot;&lt;c&gt;/d é's k",
            "&quot;a&amp;b&quot;&lt;c&gt;/d é&apos;s k",
            "\\\"a&b\\\"<c>/d é's k",
            "\\\"a\\u0026b\\\"\\u003cc\\u003e/d é's k",
            "\\\"a&b\\\"<c>/d \\u00e9's k",
            "%22a%26b%22%3Cc%3E%2Fd%20%C3%A9%27s%20k",
            "%22a%26b%22%3cc%3e%2fd+%c3%a9%27s+k",
            "%22a%26b%22%3Cc%3E/d%20%C3%A9%27s%20k",
            r#""a&b"<c>/d é'\''s k"#,
            r#"\"a\&b\"\<c\>/d\ é\'s\ k"#,
            "2261266222",
        ] {
            assert!(forms.iter().any(|known| known == form || known.starts_with(form)), "{form}: {forms:#?}");
        }
    }

    #[test]
    fn short_values_have_no_forms_and_long_ones_pieces() {
        assert!(forms("abc").is_empty());
        assert_eq!(forms("abcd").into_iter().collect::<Vec<_>>(), ["61626364", "abcd"]);
        let long = forms(&"0123456789".repeat(100));
        assert!(long.iter().all(|form| form.len() < 2 * PIECE_CHARS), "{long:?}");
        assert_eq!(pieces(&"é".repeat(200), 64).concat(), "é".repeat(200));
    }
}
