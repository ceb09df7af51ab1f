//! Where things stand in a YAML text, so that a mistake can be told with its line.
use std::fmt;

use bot_messages::pipeline::{YamlMistake, read_yaml};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Lines and columns of a YAML text, by JSON pointer.
pub struct Places(Node);
/// A line and a column, from 1.
pub type Place = (u64, u64);
type Node = Spanned<Kind>;

enum Kind {
    Map(Vec<(String, Node)>),
    Seq(Vec<Node>),
    Scalar,
}

impl Places {
    /// Within limits on depth and on what aliases stand for, so a text that passes may be given to readers without any. An
    /// error says what is no YAML, and where if that is known.
    pub fn read(text: &str) -> Result<Self, (Option<Place>, String)> {
        read_yaml(text).map(Places).map_err(|YamlMistake { at, message }| (at, message))
    }

    /// The place of a JSON pointer, or of the nearest above it that is there.
    pub fn of(&self, pointer: &str) -> Place {
        let mut node = &self.0;
        for part in pointer.split('/').filter(|p| !p.is_empty()) {
            let next = match &node.value {
                Kind::Map(entries) => entries.iter().find(|(k, _)| k == part).map(|(_, v)| v),
                Kind::Seq(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
                Kind::Scalar => None,
            };
            match next {
                Some(n) => node = n,
                None => break,
            }
        }
        (node.referenced.line(), node.referenced.column())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;
impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry::<String, Node>()? {
            entries.push(entry);
        }
        Ok(Kind::Map(entries))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Kind::Seq(items))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }
    fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }
    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }
}
