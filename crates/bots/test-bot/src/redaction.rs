//! Takes the secrets of a job out of what its suites print and report. The sandbox does it for a secret as it is; formats
//! of reports escape it, and parsers cut texts.
use std::collections::BTreeMap;

use bot_messages::pipeline::Suite;
use bot_pipeline::{End, Ran, Redactor, Secrets};
use quick_xml::escape::{escape, partial_escape};

use crate::report::Report;

/// Of one job.
#[derive(Clone, Default)]
pub(crate) struct Redaction(Redactor);

impl Redaction {
    /// Of all secrets that the suites name: one suite may find another's in what both share.
    pub(crate) fn new(secrets: &Secrets, suites: &BTreeMap<String, Suite>) -> Self {
        let values = suites.values().flat_map(|suite| secrets.of(&suite.secrets));
        let forms: Vec<String> = values.flat_map(|(_, value)| forms(&value)).collect();
        Self(Redactor::new(forms.iter().map(String::as_str)))
    }

    /// Before it is parsed, since a text that is cut may end within a secret that then nothing would know.
    pub(crate) fn text(&self, text: String) -> String {
        self.0.clean(text)
    }

    /// What is told of how a command ended.
    pub(crate) fn command(&self, mut ran: Ran) -> Ran {
        if let End::Failed { message, .. } = &mut ran.end {
            self.clean(message);
        }
        ran.outcome.tail.iter_mut().for_each(|line| self.clean(line));
        ran
    }

    /// After it is parsed, since what was escaped in a way of its own is plain then.
    pub(crate) fn report(&self, mut report: Report) -> Report {
        let clean = |text: &mut String| self.clean(text);
        report.tests.iter_mut().for_each(|test| clean(&mut test.name));
        report.slowest.iter_mut().for_each(|(name, _)| clean(name));
        for failure in report.failures.iter_mut().chain(&mut report.flaky) {
            clean(&mut failure.name);
            clean(&mut failure.message);
            failure.location.iter_mut().for_each(clean);
        }
        report
    }

    fn clean(&self, text: &mut String) {
        *text = self.0.clean(std::mem::take(text));
    }
}

/// As it is, and as XML and JSON are mostly written.
fn forms(value: &str) -> Vec<String> {
    let json = serde_json::Value::from(value).to_string();
    let json = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&json).to_owned();
    // As Go writes it.
    let safe_json = json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    vec![value.to_owned(), escape(value).into_owned(), partial_escape(value).into_owned(), json, safe_json]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_however_a_format_escapes_it() {
        let forms = forms("\"a&b\"<c>");
        assert_eq!(
            forms,
            [
                "\"a&b\"<c>",
                "&quot;a&amp;b&quot;&lt;c&gt;",
                "\"a&amp;b\"&lt;c&gt;",
                "\\\"a&b\\\"<c>",
                "\\\"a\\u0026b\\\"\\u003cc\\u003e"
            ]
        );
    }
}
