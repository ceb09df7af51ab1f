//! Mistakes in the operator's lists, collected so that all are told at once, each with its place.
use std::{fmt::Display, path::Path};

use bot_messages::pipeline::YamlMistake;
use serde_saphyr::{Location, Spanned};

/// Mistakes told at once.
const MISTAKES_MAX: usize = 20;
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<YamlMistake>);

impl Mistakes {
    pub(crate) fn add(&mut self, at: Location, message: String) {
        if self.0.len() < MISTAKES_MAX {
            self.0.push(YamlMistake { at: (at != Location::UNKNOWN).then(|| (at.line(), at.column())), message });
        }
    }

    pub(crate) fn check(&mut self, text: &Spanned<String>, fits: bool, expected: &str) {
        if !fits {
            self.add(text.referenced, format!("`{}`: expected {expected}", text.value));
        }
    }

    /// `all`, if nothing was wrong with it.
    pub(crate) fn or<T>(self, all: T) -> Result<T, Vec<YamlMistake>> {
        if self.0.is_empty() { Ok(all) } else { Err(self.0) }
    }
}

/// A line each, beginning with `file:line:column`.
pub(crate) fn lines(file: &impl Display, mistakes: Vec<YamlMistake>) -> String {
    let line = |YamlMistake { at, message }: YamlMistake| {
        let at = at.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
        format!("{file}{at}: {message}")
    };
    mistakes.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The file's text, within its limit; `None` where there is no such file.
pub(crate) fn text_of(file: &Path) -> Result<Option<String>, String> {
    let shown = file.display();
    let unreadable = |e: std::io::Error| format!("{shown} cannot be read: {e}");
    let meta = match file.metadata() {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    if meta.len() > FILE_BYTES_MAX {
        return Err(format!("{shown} has more than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(file).map(Some).map_err(unreadable)
}
