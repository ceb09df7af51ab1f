//! Reads one environment's fields one by one, so that a mistake in one does not hide the next, and remembers where each
//! mistake is.
use std::fmt::Display;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

/// More letters apart than this, a suggestion is a guess.
const NEAR: usize = 3;

/// A mistake and the JSON pointer of its place.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) pointer: String,
    pub(super) message: String,
}

/// Glob patterns, and how the operator wrote them.
#[derive(Debug)]
pub(super) struct Patterns {
    set: GlobSet,
    pub(super) text: String,
}

impl Patterns {
    pub(super) fn fit(&self, text: &str) -> bool {
        self.set.is_match(text)
    }
}

/// The fields of one environment that are not read yet.
pub(super) struct Fields<'a> {
    pub(super) name: &'a str,
    left: Map<String, Value>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Fields<'a> {
    /// What is in none of the `known` fields is a mistake.
    pub(super) fn new(
        name: &'a str,
        fields: Map<String, Value>,
        known: &[&str],
        mistakes: &'a mut Vec<Mistake>,
    ) -> Self {
        let unknown: Vec<String> = fields.keys().filter(|field| !known.contains(&field.as_str())).cloned().collect();
        let mut own = Self { name, left: fields, mistakes };
        for field in unknown {
            let suggestion = suggestion(&field, known.iter().copied());
            own.wrong(&field, format!("is not known: expected one of {}{suggestion}", known.join(", ")));
        }
        own
    }

    /// `field` may lead deeper: `health.deadline`.
    pub(super) fn wrong(&mut self, field: &str, what: impl Display) {
        let pointer = format!("/{}/{}", self.name, field.replace('.', "/"));
        self.mistakes.push(Mistake { pointer, message: format!("{}.{field}: {what}", self.name) });
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.left.contains_key(field)
    }

    pub(super) fn optional<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = self.left.remove(field)?;
        let read = serde_path_to_error::deserialize::<_, T>(value);
        read.map_err(|error| {
            let mut deeper = field.to_owned();
            for segment in error.path() {
                match segment {
                    Segment::Seq { index } => deeper = format!("{deeper}.{index}"),
                    Segment::Map { key } => deeper = format!("{deeper}.{key}"),
                    Segment::Enum { .. } | Segment::Unknown => {}
                }
            }
            self.wrong(&deeper, explained(&error.inner().to_string()));
        })
        .ok()
    }

    pub(super) fn required<T: DeserializeOwned>(&mut self, field: &str, example: &str) -> Option<T> {
        if !self.has(field) {
            self.wrong(field, format!("is missing: expected such as {example}"));
        }
        self.optional(field)
    }

    pub(super) fn patterns(
        &mut self,
        field: &str,
        example: &str,
        glob: fn(&str) -> Result<Glob, globset::Error>,
    ) -> Option<Patterns> {
        let written: Vec<String> = self.required(field, example)?;
        if written.is_empty() {
            self.wrong(field, format!("is empty, so nothing could ever go there: expected such as {example}"));
        }
        let mut set = GlobSetBuilder::new();
        for (index, pattern) in written.iter().enumerate() {
            match glob(pattern) {
                Ok(glob) => drop(set.add(glob)),
                Err(error) => self.wrong(&format!("{field}.{index}"), error),
            }
        }
        let set = set.build().map_err(|error| self.wrong(field, error)).ok()?;
        Some(Patterns { set, text: written.join(", ") })
    }
}

/// What serde says of an unknown name, with the known one that was probably meant.
fn explained(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let came = quoted.next().filter(|_| message.starts_with("unknown "));
    let suggestion = came.map(|came| suggestion(came, quoted)).unwrap_or_default();
    format!("{message}{suggestion}")
}

/// `; did you mean …?` where a known name is near.
pub(super) fn suggestion<'k>(came: &str, known: impl Iterator<Item = &'k str>) -> String {
    let near = known.map(|name| (strsim::damerau_levenshtein(came, name), name)).min();
    match near {
        Some((distance, name)) if distance <= NEAR && distance < name.len() => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}
