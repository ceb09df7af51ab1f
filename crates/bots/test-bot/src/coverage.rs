//! Which lines the tests of a job ran, from LCOV and Cobertura files. Line by line, so that a line that two suites ran
//! counts once. What is tested wrote the files: size and numbers are bounded, nothing they refer to is fetched.
use std::{collections::BTreeMap, path::Path};

use bot_messages::test::Coverage;
use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};
use serde::{Deserialize, Serialize};

use crate::{formats::ERROR_BYTES_MAX, report::cut};

/// Files with lines.
const FILES_MAX: usize = 50_000;
/// Lines of a file further down are left.
const LINE_MAX: usize = 1_000_000;
/// Of all files: 8 MiB of memory.
const WORDS_MAX: usize = 1 << 20;
/// Further attributes of an element are not looked at.
const ATTRIBUTES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 1_000;

/// Lines by file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lines {
    files: BTreeMap<String, File>,
    words: usize,
}

/// A bit per line.
#[derive(Clone, Debug, Default, PartialEq)]
struct File {
    known: Vec<u64>,
    covered: Vec<u64>,
}

/// How many lines there are, and how many of them the tests ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// That were run.
    pub covered: u64,
    /// That can be run.
    pub total: u64,
}

impl Covered {
    fn percent(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.covered as f64 * 100.0 / self.total as f64 }
    }

    /// As it is told, held against what the branch had before.
    pub(crate) fn told(self, before: Option<Self>) -> Coverage {
        let round = |percent: f64| (percent * 100.0).round() / 100.0;
        let change = before.map(|before| round(self.percent() - before.percent()));
        let percent = round(self.percent());
        Coverage { lines_covered: self.covered, lines_total: self.total, percent, change }
    }
}

impl Lines {
    /// Adds what a report says; names below `tree` are told as ones of the repository.
    pub(crate) fn read(&mut self, text: &str, tree: &Path) -> Result<(), String> {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let read = if text.starts_with('<') { self.read_cobertura(text, tree) } else { self.read_lcov(text, tree) };
        read.map_err(|why| cut(&why, ERROR_BYTES_MAX).to_owned())
    }

    /// Both together.
    pub(crate) fn add(&mut self, other: &Self) -> Result<(), String> {
        for (name, file) in &other.files {
            for (i, (known, covered)) in file.known.iter().zip(&file.covered).enumerate() {
                for bit in (0..64).filter(|bit| known >> bit & 1 == 1) {
                    self.line(name, i * 64 + bit, covered >> bit & 1 == 1)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> Covered {
        let ones = |words: &[u64]| words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        let mut all = Covered::default();
        for file in self.files.values() {
            all.covered += ones(&file.covered);
            all.total += ones(&file.known);
        }
        all
    }

    fn line(&mut self, file: &str, line: usize, is_covered: bool) -> Result<(), String> {
        if line == 0 || line > LINE_MAX || file.is_empty() || file.len() > PATH_BYTES_MAX {
            return Ok(());
        }
        if !self.files.contains_key(file) {
            if self.files.len() == FILES_MAX {
                return Err(format!("it tells of more than {FILES_MAX} files"));
            }
            self.files.insert(file.to_owned(), File::default());
        }
        let Some(file) = self.files.get_mut(file) else { return Ok(()) };
        let (word, bit) = (line / 64, line % 64);
        let missing = (word + 1).saturating_sub(file.known.len());
        self.words += missing;
        if self.words > WORDS_MAX {
            return Err("it tells of too many lines".to_owned());
        }
        if missing > 0 {
            file.known.resize(word + 1, 0);
            file.covered.resize(word + 1, 0);
        }
        if let (Some(known), Some(covered)) = (file.known.get_mut(word), file.covered.get_mut(word)) {
            *known |= 1 << bit;
            *covered |= u64::from(is_covered) << bit;
        }
        Ok(())
    }

    /// `SF:src/lib.rs`, `DA:12,3`, `end_of_record`.
    fn read_lcov(&mut self, text: &str, tree: &Path) -> Result<(), String> {
        let mut file = None;
        let mut is_lcov = false;
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("SF:") {
                is_lcov = true;
                file = Some(relative(path.trim(), tree));
            } else if line.trim_end() == "end_of_record" {
                file = None;
            } else if let (Some(file), Some(data)) = (&file, line.strip_prefix("DA:")) {
                let mut parts = data.split(',').map(str::trim);
                let number = parts.next().and_then(|n| n.parse().ok());
                let count = parts.next().and_then(|n| n.parse::<f64>().ok());
                if let (Some(number), Some(count)) = (number, count) {
                    self.line(file, number, count > 0.0)?;
                }
            }
        }
        if is_lcov {
            Ok(())
        } else {
            Err("expected LCOV (`SF:…`, `DA:…`) or Cobertura XML (`<coverage>`)".to_owned())
        }
    }

    /// `<class filename="src/lib.rs"> … <line number="12" hits="3"/>`
    fn read_cobertura(&mut self, text: &str, tree: &Path) -> Result<(), String> {
        let mut reader = Reader::from_str(text);
        let mut file = String::new();
        let mut is_cobertura = false;
        loop {
            let event =
                reader.read_event().map_err(|e| format!("byte {}: {e}, expected XML", reader.error_position()))?;
            let element = match &event {
                Event::Start(element) | Event::Empty(element) => element,
                Event::Eof if is_cobertura => return Ok(()),
                Event::Eof => return Err("expected Cobertura XML, and it has no `<coverage>`".to_owned()),
                _ => continue,
            };
            match element.local_name().into_inner() {
                "coverage" => is_cobertura = true,
                "class" => file = relative(&attribute(element, "filename"), tree),
                "line" => {
                    let number = attribute(element, "number").parse();
                    let hits = attribute(element, "hits").parse::<f64>();
                    if let (Ok(number), Ok(hits)) = (number, hits) {
                        self.line(&file, number, hits > 0.0)?;
                    }
                }
                _ => {}
            }
        }
    }
}

fn relative(path: &str, tree: &Path) -> String {
    let path = Path::new(path);
    let below = path.strip_prefix(tree).unwrap_or(path);
    below.strip_prefix(".").unwrap_or(below).to_string_lossy().into_owned()
}

fn attribute(element: &BytesStart<'_>, name: &str) -> String {
    for attribute in element.attributes().with_checks(false).take(ATTRIBUTES_MAX).flatten() {
        if attribute.key.local_name().into_inner() == name {
            return attribute.normalized_value(XmlVersion::Implicit1_0).unwrap_or_default().into_owned();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LCOV: &str = "TN:\nSF:/workspace/src/a.rs\nFN:1,main\nDA:1,3\nDA:2,0\nDA:3,0,abc\nLF:3\nLH:1\nend_of_record\nSF:./src/b.rs\nDA:9,1\nend_of_record\nDA:7,1\n";
    const COBERTURA: &str = "<?xml version=\"1.0\" ?>\n<!DOCTYPE coverage SYSTEM \"http://cobertura.sourceforge.net/xml/coverage-04.dtd\">\n<coverage line-rate=\"0.5\"><packages><package><classes><class name=\"a\" filename=\"src/a.rs\"><methods/><lines><line number=\"2\" hits=\"1\"/><line number=\"3\" hits=\"0\" branch=\"true\"></line><line number=\"x\" hits=\"1\"/></lines></class></classes></package></packages></coverage>";

    fn read(text: &str) -> Result<Lines, String> {
        let mut lines = Lines::default();
        lines.read(text, Path::new("/workspace")).map(|()| lines)
    }

    fn count(lines: &Lines) -> (u64, u64) {
        (lines.count().covered, lines.count().total)
    }

    #[test]
    fn both_formats_are_read_and_a_line_counts_once_over_all_suites() {
        let (lcov, cobertura) = (read(LCOV).unwrap(), read(COBERTURA).unwrap());
        assert_eq!((count(&lcov), count(&cobertura)), ((2, 4), (1, 2)));
        let mut all = lcov.clone();
        all.add(&cobertura).unwrap();
        assert_eq!(count(&all), (3, 4), "src/a.rs is one file in both, and lines 1 and 2 of it and b.rs:9 were run");
        all.add(&lcov).unwrap();
        assert_eq!(count(&all), (3, 4));
    }

    #[test]
    fn what_is_told_holds_it_against_what_was() {
        let told = Covered { covered: 2, total: 3 }.told(Some(Covered { covered: 1, total: 2 }));
        assert_eq!((told.lines_covered, told.lines_total, told.percent, told.change), (2, 3, 66.67, Some(16.67)));
        assert_eq!(
            Covered::default().told(None),
            Coverage { lines_covered: 0, lines_total: 0, percent: 0.0, change: None }
        );
    }

    #[test]
    fn what_is_none_or_too_much_is_told() {
        assert!(read("hello").unwrap_err().contains("expected LCOV"));
        assert!(read("<html/>").unwrap_err().contains("no `<coverage>`"));
        assert!(read("<coverage><").unwrap_err().contains("expected XML"));
        assert_eq!(count(&read("SF:a\nDA:0,1\nDA:99999999999,1\nDA:x,1\nDA:2\n").unwrap()), (0, 0));
        let many = (0..100).map(|i| format!("SF:f{i}\nDA:1000000,1\n")).collect::<Vec<_>>().concat();
        assert!(read(&many).unwrap_err().contains("too many lines"), "100 files of a million lines each");
    }

    proptest! {
        #[test]
        fn no_text_panics(parts in proptest::collection::vec(prop_oneof![
            "\\PC{0,20}", "(SF|DA|FN):[\\PC]{0,10}\n", "DA:[0-9]{1,9},-?[0-9]{1,3}\n",
            Just("<coverage>".to_owned()), Just("<class filename='a'>".to_owned()), Just("</class>".to_owned()),
            "<line number='[0-9-]{0,9}' hits='[0-9.e]{0,5}'/>",
        ], 0..30)) {
            let _ = read(&parts.concat());
            let _ = read(&format!("<coverage>{}", parts.concat()));
        }
    }
}
