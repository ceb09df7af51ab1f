//! `docs/topology.md`: who says what to whom, and what the broker holds for it.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bot_messages::{
    BotName, Contract, OutsidePublisher, keys,
    topology::{DestinationType, Policy, Queue, QueueType},
};
use serde_json::json;

use super::super::{MARK, Source};

const INTRODUCTION: &str = "\
Who says what to whom, and what the broker holds so that nobody can say or hear anything else. It follows from the bots' \
contracts (`crates/bots/*/src/lib.rs`, `crates/services/*/src/lib.rs`) and from the publishers that \
`deploy/config/publishers.yaml` ships with; a fleet with others looks at its own with `lota topology show`.";

const PUBLISHERS: &str = "\
A publisher writes to its own exchange and to no other. A key without a queue is seen by the taps alone. Not listed: \
`health.…`, `log.…`, `audit.…` (bots, to the taps of these names), `retry.…`, `dead.…` (bots, to their own queues), and \
what every bot may say of itself: ";

const QUEUES: &str = "\
`<bot>.work` is what a bot acts on; `<bot>.control` is how it is steered; `<bot>.health` holds heartbeats of bots it \
depends on; `<bot>.retry.<delay>` give a message back after the delay; `<bot>.dead` keeps what could not be handled; \
`<observer>.tap.<stream>` get a copy of everything of a stream; `unrouted` gets what no binding takes.";

/// The page. Writing to a String cannot fail, so what `writeln!` returns is left.
pub(super) fn write(source: &Source) -> String {
    let mut page = format!("# Topology\n\n<!-- {MARK} -->\n\n{INTRODUCTION}\n");
    bots(&mut page, &source.contracts);
    graph(&mut page, source);
    matrix(&mut page, source);
    exchanges(&mut page, source);
    queues(&mut page, source);
    users(&mut page, source);
    page
}

fn table(page: &mut String, title: &str, introduction: &str, columns: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(page, "\n## {title}\n");
    if !introduction.is_empty() {
        let _ = writeln!(page, "{introduction}\n");
    }
    let _ = writeln!(page, "| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let _ = writeln!(page, "| {} |", row.join(" | "));
    }
}

/// Rows that are alike for every bot but for its name become one, about `<bot>`.
fn alike(contracts: &[Contract], rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let slugs: Vec<String> = contracts.iter().map(|c| c.name.slug()).collect();
    let general = |row: &Vec<String>| {
        let about = slugs.iter().filter(|slug| generalised(&row[0], slug) != row[0]);
        let about = about.max_by_key(|slug| slug.len())?;
        Some(row.iter().map(|cell| generalised(cell, about)).collect::<Vec<String>>())
    };
    let mut times: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for row in rows.iter().filter_map(general) {
        *times.entry(row).or_default() += 1;
    }
    let of_all = |row: &Vec<String>| general(row).filter(|row| times.get(row) == Some(&slugs.len()));
    let mut merged: Vec<Vec<String>> = Vec::new();
    for row in rows {
        let row = of_all(&row).unwrap_or(row);
        if !merged.contains(&row) {
            merged.push(row);
        }
    }
    merged.sort();
    merged
}

/// With `<bot>` for the name, where it is no part of a longer word.
pub(in crate::generate) fn generalised(cell: &str, slug: &str) -> String {
    let mut text = String::new();
    let mut done = 0;
    for (at, _) in cell.match_indices(slug) {
        let behind = at + slug.len();
        let is_part = cell[..at].ends_with(char::is_alphanumeric) || cell[behind..].starts_with(char::is_alphanumeric);
        text.push_str(&cell[done..at]);
        text.push_str(if is_part { slug } else { "<bot>" });
        done = behind;
    }
    text + &cell[done..]
}

/// As code, also with a bar in it, which would end the cell.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn codes<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| code(item.as_ref())).collect();
    if items.is_empty() { "–".to_owned() } else { items.join(", ") }
}

fn bots(page: &mut String, contracts: &[Contract]) {
    let row = |c: &Contract| {
        let observes = c.observes.iter().map(|tap| format!("every one of `lota.{}`", tap.as_str()));
        let heard = c.hears.iter().map(|heard| code(heard)).chain(observes).collect::<Vec<_>>();
        vec![
            format!("**{}** {}", c.name, c.responsibility),
            if heard.is_empty() { "–".to_owned() } else { heard.join(", ") },
            codes(&c.says),
            codes(&c.jobs),
            if c.never.is_empty() { "–".to_owned() } else { c.never.join(", ") },
        ]
    };
    let rows: Vec<_> = contracts.iter().map(row).collect();
    table(page, "Bots", "", &["bot", "hears", "says", "jobs", "never"], &rows);
}

/// Only what leads from someone to someone: types that nobody hears would hide it.
fn graph(page: &mut String, source: &Source) {
    let operator = OutsidePublisher::operator();
    let people = [&source.outside, &operator].map(|o| (&o.name, &o.says));
    let bots = source.contracts.iter().map(|c| (&c.name, &c.says));
    let says: Vec<_> = bots.chain(people).collect();
    // Ids of two kinds, so that neither a bot and a type nor a bot and a word of mermaid's are ever the same.
    let who = |name: &BotName| format!("by_{}", name.slug().replace('-', "_"));
    let what = |event_type: &str| format!("on_{}", event_type.replace(['.', '-'], "_"));
    let (mut nodes, mut edges) = (BTreeSet::new(), BTreeSet::new());
    for hearer in &source.contracts {
        nodes.insert(format!("{}[{}]", who(&hearer.name), hearer.name));
        for heard in &hearer.hears {
            for (speaker, _) in says.iter().filter(|(_, said)| said.contains(heard)) {
                nodes.insert(format!("{}([{heard}])", what(heard)));
                edges.insert(format!("{} --> {}", who(speaker), what(heard)));
                edges.insert(format!("{} --> {}", what(heard), who(&hearer.name)));
                if people.iter().any(|(name, _)| name == speaker) {
                    nodes.insert(format!("{}{{{{{speaker}}}}}", who(speaker)));
                }
            }
        }
    }
    let _ = writeln!(page, "\n## Who leads to whom\n\n```mermaid\nflowchart LR");
    for line in nodes.iter().chain(&edges) {
        let _ = writeln!(page, "    {line}");
    }
    let _ = writeln!(page, "```");
}

fn matrix(page: &mut String, source: &Source) {
    let mut heard_in: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for binding in &source.topology.bindings {
        let Some(publisher) = binding.source.strip_prefix(keys::EGRESS_PREFIX) else {
            continue;
        };
        let own = ["health.", "log.", "audit.", "retry.", "dead."];
        if own.iter().any(|beginning| binding.routing_key.starts_with(beginning)) {
            continue;
        }
        let is_bot = source.contracts.iter().any(|c| c.name.slug() == publisher);
        let queues = heard_in.entry((publisher, &binding.routing_key)).or_default();
        if binding.destination_type == DestinationType::Queue {
            queues.insert(&binding.destination);
        } else if is_bot && queues.is_empty() && Contract::core_says().contains(&binding.routing_key.as_str()) {
            heard_in.remove(&(publisher, binding.routing_key.as_str()));
        }
    }
    let rows: Vec<_> = heard_in
        .iter()
        .map(|((publisher, key), queues)| vec![(*publisher).to_owned(), code(key), codes(queues)])
        .collect();
    let introduction = format!("{PUBLISHERS}{}.", codes(Contract::core_says()));
    table(page, "Publisher, key, queues", &introduction, &["publisher", "key", "queues that act on it"], &rows);
}

fn exchanges(page: &mut String, source: &Source) {
    let row = |name: &str, internal: bool| {
        let what = match name {
            keys::EVENTS => "tap: a copy of every event and command",
            keys::HEALTH => "tap: heartbeats",
            keys::AUDIT => "tap: audit records",
            keys::LOGS => "tap: log records",
            keys::REQUEUE => "what comes back from a retry queue, to the bot's work queue",
            keys::DEAD => "what the broker itself takes out of a work queue, to the bot's dead letters",
            keys::UNROUTED => "what no binding takes",
            _ => "the one exchange its publisher writes to",
        };
        vec![code(name), if internal { "no" } else { "yes" }.to_owned(), what.to_owned()]
    };
    let rows: Vec<_> = source.topology.exchanges.iter().map(|e| row(&e.name, e.internal)).collect();
    let rows = alike(&source.contracts, rows);
    table(page, "Exchanges", "All are durable topic exchanges.", &["exchange", "publishers", "what"], &rows);
}

fn queues(page: &mut String, source: &Source) {
    let row = |queue: &Queue| {
        let kind = match queue.queue_type {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        let policies = policies_of(&queue.name, &source.topology.policies);
        vec![code(&queue.name), kind.to_owned(), codes(policies.iter().map(|p| &p.name))]
    };
    let rows: Vec<_> = source.topology.queues.iter().map(row).collect();
    let rows = alike(&source.contracts, rows);
    table(page, "Queues", QUEUES, &["queue", "type", "policy"], &rows);

    let setting = |(key, value): (&String, &serde_json::Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{key} {}", code(&value))
    };
    let row = |policy: &Policy| {
        // Sorted here: whether the map keeps another order depends on the build.
        let settings: BTreeMap<_, _> = policy.definition.iter().collect();
        let settings: Vec<String> = settings.into_iter().map(setting).collect();
        vec![code(&policy.name), code(&policy.pattern), policy.apply_to.clone(), settings.join(", ")]
    };
    let rows: Vec<_> = source.topology.policies.iter().map(row).collect();
    let introduction = "All that is set on a queue but its type, so that it can change without deleting the queue.";
    let rows = alike(&source.contracts, rows);
    table(page, "Policies", introduction, &["policy", "names", "of", "settings"], &rows);
}

/// Those of the highest priority whose pattern fits; more than one would leave it to chance which holds.
fn policies_of<'a>(queue: &str, policies: &'a [Policy]) -> Vec<&'a Policy> {
    let fits = |policy: &&Policy| {
        // The schema validator brings the regular expressions that the broker's patterns are written in.
        policy.apply_to == "queues" && jsonschema::is_valid(&json!({"pattern": policy.pattern}), &json!(queue))
    };
    let fitting: Vec<&Policy> = policies.iter().filter(fits).collect();
    let highest = fitting.iter().map(|policy| policy.priority).max();
    fitting.into_iter().filter(|policy| Some(policy.priority) == highest).collect()
}

fn users(page: &mut String, source: &Source) {
    let mut users: Vec<_> = source.topology.users.iter().collect();
    users.sort_by(|a, b| a.name.cmp(&b.name));
    let may = |pattern: &str| {
        if pattern == "^$" { "nothing".to_owned() } else { code(pattern) }
    };
    let mut rows = Vec::new();
    for user in users {
        let topics = user.topic_permissions.iter();
        let written = topics.filter(|topic| topic.write != "^$").map(|topic| code(&topic.write)).collect::<Vec<_>>();
        rows.push(vec![
            code(&user.name),
            may(&user.configure),
            may(&user.write),
            may(&user.read),
            if written.is_empty() { "–".to_owned() } else { written.join(", ") },
        ]);
    }
    let introduction = "Regular expressions over names. Keys are those with which it may write to its exchange. Names and \
                        depths of queues are no secret between users: RabbitMQ asks no right for a passive declare. \
                        `tests/matrix` tries all of it, with every user's password.";
    let columns = ["user", "may declare", "may write to", "may read from", "with keys"];
    table(page, "Users", introduction, &columns, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_generalised_where_it_stands_alone() {
        for (cell, general) in [
            ("`a.work`", "`<bot>.work`"),
            ("`lota.audit`", "`lota.audit`"),
            (r"`^a\.retry\.1h$`, dead.a", r"`^<bot>\.retry\.1h$`, dead.<bot>"),
            ("lota-work-a", "lota-work-<bot>"),
            ("", ""),
        ] {
            assert_eq!(generalised(cell, "a"), general);
        }
    }
}
