//! Takes the secrets of a job out of what its suites report. The sandbox has done it for what they print; a report is a
//! file, and what a parser makes of it may be plain where the file was not.
use bot_secrets::Redactor;

use crate::report::Report;

/// Of one job, with all secrets that its suites name: one suite may find another's in what both share.
#[derive(Clone, Default)]
pub(crate) struct Redaction(Redactor);

impl Redaction {
    pub(crate) fn new(redactor: &Redactor) -> Self {
        Self(redactor.clone())
    }

    /// Before it is parsed, since a text that is cut may end within a secret that then nothing would know.
    pub(crate) fn text(&self, text: &str) -> String {
        self.0.clean(text).into_owned()
    }

    /// After it is parsed, since what was escaped in a way of its own is plain then.
    pub(crate) fn report(&self, mut report: Report) -> Report {
        let clean = |text: &mut String| *text = self.text(text);
        report.tests.iter_mut().for_each(|test| clean(&mut test.name));
        report.slowest.iter_mut().for_each(|(name, _)| clean(name));
        for failure in report.failures.iter_mut().chain(&mut report.flaky) {
            clean(&mut failure.name);
            clean(&mut failure.message);
            failure.location.iter_mut().for_each(clean);
        }
        report
    }
}
