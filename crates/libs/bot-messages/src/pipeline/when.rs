//! Conditions: on which pushes a step runs and a deploy goes.
use std::{borrow::Cow, fmt};

use globset::GlobBuilder;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

/// What led to a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// A commit arrived.
    #[default]
    Push,
    /// A time came.
    Schedule,
    /// Someone asked.
    Manual,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Schedule => "schedule",
            Self::Manual => "manual",
        })
    }
}

/// What conditions are judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// The full ref.
    pub git_ref: String,
    /// What led to the build.
    pub trigger: Trigger,
    /// Paths of the files that changed, relative to the top; or why they are not known.
    pub changed: Result<Vec<String>, String>,
}

/// Whether a condition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It does.
    Holds,
    /// It counts as holding, and this is why nobody knows.
    Assumed(String),
    /// It does not, and why.
    Fails(String),
}

/// A condition. Each part that is there has to hold, one of `branch` and `tag` being enough of these two; of several
/// patterns one has to fit. `*` stays within a segment of a name, `**` does not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Branches.
    #[serde(default, skip_serializing_if = "Patterns::is_empty")]
    pub branch: Patterns,
    /// Tags.
    #[serde(default, skip_serializing_if = "Patterns::is_empty")]
    pub tag: Patterns,
    /// Files that changed.
    #[serde(default, skip_serializing_if = "Patterns::is_empty")]
    pub path: Patterns,
    /// What led to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event: Vec<Trigger>,
}

impl When {
    /// Whether every part holds.
    pub fn judge(&self, occasion: &Occasion) -> Judgement {
        match self.judge_ref(&occasion.git_ref) {
            Ok(()) => self.judge_cause(occasion),
            Err(why) => Judgement::Fails(why),
        }
    }

    /// Whether `path` and `event` hold.
    pub fn judge_cause(&self, occasion: &Occasion) -> Judgement {
        if !self.event.is_empty() && !self.event.contains(&occasion.trigger) {
            let events: Vec<String> = self.event.iter().map(ToString::to_string).collect();
            return Judgement::Fails(format!("only for event {}, and this is {}", events.join(", "), occasion.trigger));
        }
        if self.path.is_empty() {
            return Judgement::Holds;
        }
        match &occasion.changed {
            Err(why) => Judgement::Assumed(format!("which files changed is not known: {why}")),
            Ok(files) if self.path.fit_any(files) => Judgement::Holds,
            Ok(files) => {
                let patterns = self.path.0.join(", ");
                Judgement::Fails(format!("only where {patterns} changed, and none of {} changed files is", files.len()))
            }
        }
    }

    /// Whether `branch` and `tag` hold for a full ref; if not, why.
    pub fn judge_ref(&self, git_ref: &str) -> Result<(), String> {
        let fits =
            |patterns: &Patterns, prefix: &str| git_ref.strip_prefix(prefix).is_some_and(|name| patterns.fit(name));
        let is_free = self.branch.is_empty() && self.tag.is_empty();
        if is_free || fits(&self.branch, "refs/heads/") || fits(&self.tag, "refs/tags/") {
            return Ok(());
        }
        let parts = [("branch", &self.branch), ("tag", &self.tag)];
        let said = parts.iter().filter(|(_, p)| !p.is_empty());
        let said: Vec<String> = said.map(|(kind, p)| format!("{kind} {}", p.0.join(", "))).collect();
        Err(format!("only for {}, and this is {git_ref}", said.join(" or ")))
    }
}

/// One pattern or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one fits; what is no pattern fits nothing.
    pub fn fit(&self, text: &str) -> bool {
        self.fit_any(&[text.to_owned()])
    }

    /// Whether one fits one of these.
    pub fn fit_any(&self, texts: &[String]) -> bool {
        let glob = |p: &String| GlobBuilder::new(p).literal_separator(true).build().ok();
        let globs: Vec<_> = self.0.iter().filter_map(glob).map(|g| g.compile_matcher()).collect();
        texts.iter().any(|text| globs.iter().any(|glob| glob.is_match(text)))
    }

    /// The first that is no pattern, and why.
    pub(super) fn wrong(&self) -> Option<String> {
        self.0.iter().find_map(|p| GlobBuilder::new(p).build().err().map(|e| e.to_string()))
    }
}

impl From<&str> for Patterns {
    fn from(one: &str) -> Self {
        Self(vec![one.to_owned()])
    }
}

impl Serialize for Patterns {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => s.serialize_str(one),
            all => s.collect_seq(all),
        }
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Patterns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern or a list of patterns")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Patterns, E> {
                Ok(v.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Patterns, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(Patterns(all))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for Patterns {
    fn schema_name() -> Cow<'static, str> {
        "Patterns".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A pattern or a list of patterns.",
            "type": ["string", "array"],
            "items": {"type": "string"},
        })
    }
}
