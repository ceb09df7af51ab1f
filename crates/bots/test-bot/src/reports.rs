//! The report files of a suite: found by pattern, read as what they are, never through a link.
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bot_clients::{list_tree, open_beneath};
use bot_messages::pipeline::Suite;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{Config, bytes, coverage::Lines, formats, redaction::Redaction, report::Report};

/// Deletes the reports that are there before a suite runs: one that came with the source would count as its result.
pub(crate) fn clear(tree: &Path, suite: &Suite, config: &Config) -> Result<(), String> {
    let reports = find(tree, "reports", &suite.reports, config)?;
    for path in reports.into_iter().chain(find(tree, "coverage", &suite.coverage, config)?) {
        fs::remove_file(&path).map_err(|e| format!("could not delete the old report {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Reads the reports a suite wrote.
pub(crate) fn read(tree: &Path, suite: &Suite, config: &Config, redaction: &Redaction) -> Result<Report, String> {
    let mut all = Report::default();
    for path in find(tree, "reports", &suite.reports, config)? {
        let name = path.strip_prefix(tree).unwrap_or(&path).display();
        let text = read_regular(tree, &path, bytes(config.report_mib))
            .map_err(|e| format!("the report {name} cannot be read: {e}"))?;
        let text = redaction.text(&text);
        all.add(formats::read_file(&text, suite.format).map_err(|e| format!("the report {name} {e}"))?);
    }
    Ok(all)
}

/// Reads the coverage files a suite wrote; `inside` is the tree as the suite saw it.
pub(crate) fn read_coverage(tree: &Path, inside: &Path, suite: &Suite, config: &Config) -> Result<Lines, String> {
    let mut all = Lines::default();
    let found = find(tree, "coverage", &suite.coverage, config)?;
    if found.is_empty() {
        return Err(format!("no file fits {}", suite.coverage.join(", ")));
    }
    for path in found {
        let name = path.strip_prefix(tree).unwrap_or(&path).display();
        let text =
            read_regular(tree, &path, bytes(config.report_mib)).map_err(|e| format!("{name} cannot be read: {e}"))?;
        all.read(&text, inside).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(all)
}

fn find(tree: &Path, section: &str, patterns: &[String], config: &Config) -> Result<Vec<PathBuf>, String> {
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = globs(section, patterns)?;
    let files = list_tree(tree, config.entries).map_err(|e| format!("could not look for reports: {e}"))?;
    let found: Vec<PathBuf> = files.into_iter().filter(|f| wanted.is_match(f)).map(|f| tree.join(f)).collect();
    if found.len() > config.reports {
        return Err(format!(
            "{} files fit {}: at most {} reports are read",
            found.len(),
            patterns.join(", "),
            config.reports
        ));
    }
    Ok(found)
}

fn globs(section: &str, patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let plain = pattern.strip_prefix("./").unwrap_or(pattern);
        let glob = GlobBuilder::new(plain).literal_separator(true).build();
        set.add(glob.map_err(|e| format!("the pattern `{pattern}` in `{section}` cannot be used: {e}"))?);
    }
    set.build().map_err(|e| format!("the patterns in `{section}` cannot be used: {e}"))
}

/// A file of the tree that is one: what is tested could leave a link to something that only the bot may read.
pub(crate) fn read_regular(tree: &Path, path: &Path, bytes_max: u64) -> io::Result<String> {
    let name = path.strip_prefix(tree).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    open_beneath(tree, name)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("expected at most {bytes_max} bytes, it has more")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "<testsuite><testcase name='a'/></testsuite>";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn suite(reports: &[&str]) -> Suite {
        Suite { reports: reports.iter().map(ToString::to_string).collect(), ..Suite::default() }
    }

    #[test]
    fn reports_are_found_by_pattern_and_added_up() {
        let dir = tree(&[("a/junit.xml", PASSED), ("b/c/junit.xml", PASSED), ("junit.xml", PASSED), ("x.xml", "no")]);
        let config = Config::default();
        let read = |all: &[&str]| super::read(dir.path(), &suite(all), &config, &Redaction::default()).unwrap().passed;
        assert_eq!((read(&["./junit.xml"]), read(&["*/junit.xml"]), read(&["**/junit.xml"])), (1, 1, 3));
        clear(dir.path(), &suite(&["**/junit.xml"]), &config).unwrap();
        assert_eq!(read(&["**/junit.xml"]), 0);
        assert!(dir.path().join("x.xml").exists());
    }

    #[test]
    fn what_cannot_be_a_report_is_told() {
        let dir = tree(&[("big.xml", &"x".repeat(1 << 21)), ("bad.xml", "<html/>")]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.xml")).unwrap();
        let config = Config { report_mib: 1, reports: 2, ..Config::default() };
        let told =
            |pattern: &str| super::read(dir.path(), &suite(&[pattern]), &config, &Redaction::default()).unwrap_err();
        assert!(told("big.xml").contains("at most 1048576 bytes"));
        assert!(told("bad.xml").contains("report bad.xml is no JUnit XML: expected `testsuites`"));
        assert!(told("link.xml").contains("not a link"), "it would be read with the rights of the bot");
        assert!(told("*.xml").contains("3 files fit *.xml: at most 2"));
        assert!(told("a[").contains("`a[` in `reports` cannot be used"));
    }
}
