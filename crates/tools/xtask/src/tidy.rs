//! `xtask tidy`: the rules of the tree. This file lists them and reports; a rule lives in the module of what it looks at.
mod compose;
mod documents;
mod edges;
mod exceptions;
mod manifest;
mod modules;
mod source;
mod tree;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use exceptions::{EXCEPTIONS, Exception};
use tree::Tree;

/// Every rule looks at the whole tree and reports all it finds. A new rule is a function and a line here.
const RULES: &[fn(&Tree, &mut Report)] = &[
    source::headers,
    source::lengths,
    source::file_names,
    source::unfinished,
    modules::dead_files,
    manifest::names_and_inheritance,
    manifest::dependency_lists,
    edges::direction,
    edges::fences,
    compose::services,
    documents::companions,
    documents::front_pages,
    documents::sizes,
    documents::places,
];

/// One thing that is wrong, where, and what to do about it.
struct Finding {
    rule: &'static str,
    /// What an exception names: the path, or `path::part` for a function or a dependency.
    place: String,
    path: String,
    line: usize,
    wrong: String,
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, path, line, wrong, remedy, .. } = self;
        write!(f, "{path}:{line}: {wrong}: {remedy} [{rule}]")
    }
}

/// What the rules have found so far.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    /// Something about a file, at a line counted from 1.
    fn add(
        &mut self,
        rule: &'static str,
        path: &str,
        line: usize,
        wrong: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            rule,
            place: path.to_owned(),
            path: path.to_owned(),
            line,
            wrong: wrong.into(),
            remedy: remedy.into(),
        });
    }

    /// Narrows the last finding to a part of its file, so that an exception covers no more than that part.
    fn of(&mut self, part: &str) {
        if let Some(last) = self.0.last_mut() {
            last.place = format!("{}::{part}", last.path);
        }
    }
}

/// Prints each finding on a line of its own; fails if there is one.
pub(crate) fn run(root: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let tree = Tree::read(root)?;
    let findings = judge(&tree, EXCEPTIONS);
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let files = tree.files().count();
    if findings.is_empty() {
        writeln!(out, "tidy: {} rules hold for {files} files", RULES.len())?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "tidy: {} to correct in {files} files", findings.len())?;
    Ok(ExitCode::FAILURE)
}

/// All findings that no exception covers, and all exceptions that cover nothing, in the order of the files.
fn judge(tree: &Tree, exceptions: &[Exception]) -> Vec<Finding> {
    let mut report = Report::default();
    for rule in RULES {
        rule(tree, &mut report);
    }
    let covers =
        |exception: &Exception, finding: &Finding| exception.rule == finding.rule && exception.place == finding.place;
    let (excepted, mut open): (Vec<_>, Vec<_>) =
        report.0.into_iter().partition(|finding| exceptions.iter().any(|e| covers(e, finding)));
    for exception in exceptions.iter().filter(|e| !excepted.iter().any(|finding| covers(e, finding))) {
        open.push(Finding {
            rule: "exceptions",
            place: exceptions::HOME.to_owned(),
            path: exceptions::HOME.to_owned(),
            line: 1,
            wrong: format!(
                "the exception from {} for {} ({}) covers nothing",
                exception.rule, exception.place, exception.reason
            ),
            remedy: "remove it".to_owned(),
        });
    }
    open.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one rule says of a made-up tree: the findings as printed, without the remedy's wording.
    #[track_caller]
    pub(super) fn found(rule: fn(&Tree, &mut Report), files: &[(&str, &str)]) -> Vec<String> {
        let mut report = Report::default();
        rule(&tree::made(files), &mut report);
        report.0.iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.wrong)).collect()
    }

    #[test]
    fn the_workspace_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let findings = judge(&Tree::read(&root).expect("the checkout reads"), EXCEPTIONS);
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
    }

    #[test]
    fn an_exception_covers_its_place_and_an_unneeded_one_is_reported() {
        let tree = tree::made(&[("README.md", "make demo, make test\n"), ("docs/ARCHITECTURE.md", "# Map\n")]);
        assert_eq!(judge(&tree, &[]).len(), 0);

        let tree = tree::made(&[("README.md", "make demo\n"), ("docs/ARCHITECTURE.md", "# Map\n")]);
        let exception = |place| [Exception { rule: "front-pages", place, reason: "made up" }];
        assert_eq!(judge(&tree, &exception("README.md")).len(), 0);
        let open = judge(&tree, &exception("NOTES.md"));
        let lines: Vec<String> = open.iter().map(|f| format!("{}: {}", f.path, f.wrong)).collect();
        assert_eq!(
            lines,
            [
                "README.md: it does not name `make test`",
                "crates/tools/xtask/src/tidy/exceptions.rs: \
                 the exception from front-pages for NOTES.md (made up) covers nothing",
            ]
        );
    }

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        let tree = tree::made(&[("README.md", "make test\n"), ("docs/ARCHITECTURE.md", "# Map\n")]);
        let lines: Vec<String> = judge(&tree, &[]).iter().map(ToString::to_string).collect();
        let wanted = "README.md:1: it does not name `make demo`: tell newcomers about it [front-pages]";
        assert_eq!(lines, [wanted]);
    }

    #[test]
    fn running_it_prints_all_findings_at_once_and_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut out = Vec::new();
        let code = run(folder.path(), &mut out).expect("it runs");
        assert_eq!(code, ExitCode::FAILURE);
        let text = String::from_utf8(out).expect("text");
        for path in ["README.md", "docs/ARCHITECTURE.md"] {
            assert!(text.contains(&format!("{path}:1: it is missing: write it [front-pages]\n")), "{text}");
        }
        assert!(text.ends_with(" to correct in 0 files\n"), "{text}");
    }
}
