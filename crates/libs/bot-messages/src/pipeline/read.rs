//! Reading the file: limits first, then types, then sense; every mistake with its place and, if near, what was meant.
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Error, Location, Options, Spanned};

use super::{FILE_BYTES_MAX, Pipeline, PipelineError};

/// A step along the way to a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key(String),
    Index(usize),
}

impl Pipeline {
    /// Reads the file. All limits hold before anything is built from it.
    pub fn parse(text: &str) -> Result<Self, PipelineError> {
        if text.len() > FILE_BYTES_MAX {
            let message = format!("the file has {} bytes: at most {FILE_BYTES_MAX} are read", text.len());
            return Err(PipelineError { at: None, message });
        }
        let pipeline: Self = read_yaml(text).map_err(|YamlMistake { at, message }| PipelineError { at, message })?;
        pipeline.validate().map_err(|mistake| {
            let tree = serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options());
            let find = |path: &[Part]| tree.as_ref().ok().and_then(|tree| place(tree, path));
            let other = mistake.other.as_deref().and_then(find);
            let other = other.map(|(line, column)| format!(" (the other is at {line}:{column})")).unwrap_or_default();
            PipelineError { at: find(&mistake.path), message: format!("{mistake}{other}") }
        })?;
        Ok(pipeline)
    }
}

/// Why a YAML text is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlMistake {
    /// Line and column, from 1, where known.
    pub at: Option<(u64, u64)>,
    /// What was expected, what came, what was probably meant.
    pub message: String,
}

/// Reads a YAML text within limits on what it may stand for. For the pipeline file and the operator's lists.
pub fn read_yaml<T: DeserializeOwned>(text: &str) -> Result<T, YamlMistake> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|e| told(&e))
}

/// A bomb is small as a text; so what it stands for is limited too.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            flow_nesting_limit: 16,
            max_nodes: 20_000,
            max_events: 60_000,
            max_aliases: 100,
            max_anchors: 100,
            max_merge_keys: 100,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000, max_replay_stack_depth: 8 },
        with_snippet: false,
    }
}

fn told(error: &Error) -> YamlMistake {
    let error = error.without_snippet();
    let at = error.location().map(|l| (l.line(), l.column()));
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("`{field}` is no key here: expected {}{}", listed(expected), meant(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not known here: expected {}{}", listed(expected), meant(variant, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing here: add it"),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    YamlMistake { at, message }
}

fn listed(names: &[&str]) -> String {
    format!("one of {}", names.join(", "))
}

/// `; did you mean …?`, where something that exists is near.
pub fn meant(came: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(came, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + came.len() / 4 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

/// The file as it is written, with places.
enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    List(Vec<Spanned<Node>>),
    Leaf,
}

/// Of the deepest part of the path that is in the file.
fn place(tree: &Spanned<Node>, path: &[Part]) -> Option<(u64, u64)> {
    let (mut node, mut at) = (tree, tree.referenced);
    for part in path {
        let found = match (part, &node.value) {
            (Part::Key(key), Node::Map(all)) => {
                all.iter().find(|(name, _)| name.value == *key).map(|(name, value)| (value, name.referenced))
            }
            (Part::Index(i), Node::List(all)) => all.get(*i).map(|value| (value, value.referenced)),
            _ => None,
        };
        let Some(found) = found else { break };
        (node, at) = found;
    }
    (at != Location::UNKNOWN).then(|| (at.line(), at.column()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Node;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("anything")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Node::Map(all))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(Node::List(all))
            }
            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
        }
        d.deserialize_any(V)
    }
}
