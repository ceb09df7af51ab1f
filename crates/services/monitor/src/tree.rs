//! The causal tree of one correlation: each message below the one that led to it, with the time between them.
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::correlations::{Correlation, Handled, Message, State};

/// Deeper messages hang below the ancestor at this depth: the loop guard ends honest chains at 32, and readers of JSON
/// refuse what is nested too deep.
const DEPTH_MAX: usize = 40;

/// One message and what followed from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Node {
    /// Its id.
    pub(crate) id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    /// Who said it.
    pub(crate) source: String,
    /// When it was said.
    pub(crate) at: DateTime<Utc>,
    /// Milliseconds since the first message.
    pub(crate) offset_ms: i64,
    /// The message that led to it, where it named one; it may be unknown here.
    pub(crate) parent: Option<String>,
    /// Milliseconds since that message, where it is known.
    pub(crate) hop_ms: Option<i64>,
    /// What it is about, in one line.
    pub(crate) summary: String,
    /// How it was settled, by whom.
    pub(crate) handled: Vec<Handled>,
    /// What followed.
    pub(crate) children: Vec<Self>,
}

/// A correlation with all its messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Tree {
    /// Its id.
    pub(crate) id: String,
    /// What has become of it.
    pub(crate) state: State,
    /// When its first message was said.
    pub(crate) started: Option<DateTime<Utc>>,
    /// When its latest message was said.
    pub(crate) last: Option<DateTime<Utc>>,
    /// From first to latest, milliseconds.
    pub(crate) duration_ms: i64,
    /// Messages that are shown.
    pub(crate) count: usize,
    /// Messages and settled deliveries that did not fit.
    pub(crate) dropped: u64,
    /// The repository, where it is about one.
    pub(crate) repository: Option<String>,
    /// The commit, where it is about one.
    pub(crate) commit: Option<String>,
    /// The messages that nothing here led to.
    pub(crate) roots: Vec<Node>,
}

impl Tree {
    /// Draws it.
    pub(crate) fn of(id: &str, correlation: &Correlation) -> Self {
        let span = correlation.span();
        let mut order: Vec<&Message> = correlation.messages.iter().collect();
        order.sort_by_key(|m| m.at);
        let by_id: HashMap<&str, &Message> = order.iter().map(|m| (m.id.as_str(), *m)).collect();
        let mut below: HashMap<Option<&str>, Vec<&Message>> = HashMap::new();
        for message in &order {
            below.entry(hangs_below(message, &by_id)).or_default().push(message);
        }
        let first = span.map_or_else(DateTime::default, |s| s.0);
        let drawing = Drawing { correlation, by_id: &by_id, below: &below, first };
        Self {
            id: id.to_owned(),
            state: correlation.state(),
            started: span.map(|s| s.0),
            last: span.map(|s| s.1),
            duration_ms: span.map_or(0, |(first, last)| (last - first).num_milliseconds()),
            count: order.len(),
            dropped: correlation.dropped,
            repository: correlation.repository.clone(),
            commit: correlation.commit.clone(),
            roots: drawing.nodes(None),
        }
    }
}

/// The message below which this one is drawn: its parent, or at most [`DEPTH_MAX`] below the root. Who is its own
/// ancestor (a forged header) is a root.
fn hangs_below<'a>(message: &'a Message, by_id: &HashMap<&'a str, &'a Message>) -> Option<&'a str> {
    let mut line: Vec<&str> = Vec::new();
    let mut met = HashSet::from([message.id.as_str()]);
    let mut at = message;
    while let Some(parent) = at.parent.as_deref().and_then(|p| by_id.get(p)) {
        if !met.insert(&parent.id) {
            return if parent.id == message.id { None } else { line.first().copied() };
        }
        line.push(&parent.id);
        at = parent;
    }
    // `line` goes from the parent up to the root, which is at depth 0.
    let too_deep = line.len().saturating_sub(DEPTH_MAX);
    line.get(too_deep).copied()
}

struct Drawing<'a> {
    correlation: &'a Correlation,
    by_id: &'a HashMap<&'a str, &'a Message>,
    below: &'a HashMap<Option<&'a str>, Vec<&'a Message>>,
    first: DateTime<Utc>,
}

impl Drawing<'_> {
    fn nodes(&self, parent: Option<&str>) -> Vec<Node> {
        self.below.get(&parent).into_iter().flatten().map(|m| self.node(m)).collect()
    }

    fn node(&self, message: &Message) -> Node {
        let parent = message.parent.as_deref().and_then(|p| self.by_id.get(p));
        Node {
            id: message.id.clone(),
            event_type: message.event_type.clone(),
            source: message.source.clone(),
            at: message.at,
            offset_ms: (message.at - self.first).num_milliseconds(),
            parent: message.parent.clone(),
            // Clocks of two machines may disagree; nothing happens before its cause.
            hop_ms: parent.map(|p| (message.at - p.at).num_milliseconds().max(0)),
            summary: message.summary.clone(),
            handled: self.correlation.handled.get(&message.id).cloned().unwrap_or_default(),
            children: self.nodes(Some(&message.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlations::{
        Bounds, Correlations,
        tests::{BOUNDS, say},
    };
    use bot_messages::telemetry::Outcome;

    fn tree(messages: &[(&str, Option<&str>, i64)]) -> Tree {
        let mut c = Correlations::new(Bounds { messages_each: 500, messages: 500, ..BOUNDS });
        for (id, parent, ms) in messages {
            say(&mut c, id, "a.b", *parent, *ms);
        }
        c.handled(
            "correlation-1",
            "1",
            Handled { bot: "LintBot".into(), outcome: Outcome::Ignored, reason: "no".into(), duration_us: None },
        );
        let (id, found) = c.find("correl").unwrap();
        Tree::of(id, found)
    }

    fn shape(nodes: &[Node]) -> String {
        nodes.iter().fold(String::new(), |all, n| format!("{all}{}({})", n.id, shape(&n.children)))
    }

    #[test]
    fn each_message_hangs_below_its_cause_however_it_arrived() {
        let t = tree(&[
            ("3", Some("2"), 30),
            ("1", None, 10),
            ("4", Some("1"), 12),
            ("2", Some("1"), 15),
            ("5", Some("unknown"), 40),
        ]);
        assert_eq!(shape(&t.roots), "1(4()2(3()))5()");
        let two = &t.roots[0].children[1];
        assert_eq!((two.offset_ms, two.hop_ms, t.duration_ms), (5, Some(5), 30));
        assert_eq!((t.roots[1].parent.as_deref(), t.roots[1].hop_ms), (Some("unknown"), None));
        assert_eq!(t.roots[0].handled[0].bot, "LintBot");
    }

    #[test]
    fn a_circle_of_causes_is_drawn_all_the_same() {
        let t = tree(&[("1", Some("2"), 1), ("2", Some("1"), 2), ("3", Some("3"), 3), ("4", Some("1"), 4)]);
        assert_eq!(shape(&t.roots), "1(4())2()3()");
    }

    #[test]
    fn a_long_chain_is_not_nested_too_deep_for_readers() {
        let ids: Vec<String> = (0..300).map(|i| format!("m{i}")).collect();
        let chain: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(i, id)| (id.as_str(), i.checked_sub(1).map(|p| ids[p].as_str()), i as i64))
            .collect();
        let t = tree(&chain);
        let text = serde_json::to_string(&t).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).expect("not nested too deep");
        assert_eq!(read["count"], 300);
        assert_eq!(text.matches("\"children\"").count(), 300, "none is lost");
    }
}
