//! Loops of triggers: a message that leads, by way of bots, to another of its own type. One that nobody meant never ends.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bot_messages::{Contract, Event, message::MessageDeadLettered};

/// A loop that is meant, and what ends it.
pub(crate) struct Declared {
    /// Its types, from the first in the alphabet on.
    pub(crate) types: &'static [&'static str],
    /// Why it ends.
    pub(crate) ends_because: &'static str,
}

/// The loops that are meant.
pub(crate) const DECLARED: &[Declared] = &[Declared {
    types: &["repository.pushed"],
    ends_because: "BuildBot says it only where a schedule of its configuration is due, never for one that it heard",
}];

/// Each type of a loop, with the bot that hears it and says the next; the last one says the first.
type Loop = Vec<(String, String)>;

/// What is wrong with the loops of these contracts, in a sentence each: one that is not declared, or is not there.
pub(crate) fn mistakes(contracts: &[Contract], declared: &[Declared]) -> Vec<String> {
    let loops = loops(contracts);
    let is =
        |found: &Loop, declared: &Declared| found.iter().map(|(t, _)| t.as_str()).eq(declared.types.iter().copied());
    let open = loops.iter().filter(|found| !declared.iter().any(|d| is(found, d))).map(|found| {
        let steps: Vec<String> = found.iter().map(|(t, bot)| format!("{t}, heard by {bot}")).collect();
        let first = found.first().map(|(t, _)| t.as_str()).unwrap_or_default();
        format!(
            "a message leads back to its own type: {}, which may say {first}; break the loop, or declare it in \
             crates/tools/xtask/src/loops.rs with what ends it",
            steps.join(", which may say ")
        )
    });
    let gone = declared.iter().filter(|d| !loops.iter().any(|found| is(found, d))).map(|d| {
        let types = d.types.join(", ");
        format!("the declared loop {types} ({}) is not there any more: take it out", d.ends_because)
    });
    open.chain(gone).collect()
}

/// The shortest loop through each type, each loop once.
fn loops(contracts: &[Contract]) -> BTreeSet<Loop> {
    let types: BTreeSet<&str> = contracts.iter().flat_map(|c| &c.hears).map(String::as_str).collect();
    types.iter().filter_map(|start| shortest(start, contracts)).map(turned).collect()
}

/// Breadth first, from a type back to itself.
fn shortest(start: &str, contracts: &[Contract]) -> Option<Loop> {
    let mut reached_by: BTreeMap<&str, (&str, &Contract)> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(heard) = open.pop_front() {
        for bot in contracts.iter().filter(|c| c.hears.iter().any(|h| h == heard)) {
            for said in may_follow(bot) {
                if reached_by.contains_key(said) {
                    continue;
                }
                reached_by.insert(said, (heard, bot));
                open.push_back(said);
            }
        }
    }
    let mut steps = Vec::new();
    let mut at = start;
    loop {
        let (before, bot) = reached_by.get(at)?;
        steps.push(((*before).to_owned(), bot.name.to_string()));
        at = before;
        if at == start {
            break;
        }
    }
    steps.reverse();
    Some(steps)
}

/// What handling a message can lead a bot to say: what it declares, and the notice of a dead letter.
fn may_follow(bot: &Contract) -> impl Iterator<Item = &str> {
    bot.says.iter().map(String::as_str).chain([MessageDeadLettered::TYPE])
}

/// The same loop from whichever type it was found.
fn turned(mut found: Loop) -> Loop {
    let first = found.iter().enumerate().min_by_key(|(_, step)| (*step).clone()).map_or(0, |(i, _)| i);
    found.rotate_left(first);
    found
}

#[cfg(test)]
mod tests {
    use bot_messages::Category;

    use super::*;

    fn bot(name: &str, hears: &[&str], says: &[&str]) -> Contract {
        let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
        Contract {
            name: name.parse().unwrap(),
            category: Category::Development,
            responsibility: String::new(),
            never: Vec::new(),
            actions: Vec::new(),
            hears: own(hears),
            says: own(says),
            jobs: Vec::new(),
            dependencies: Vec::new(),
            observes: Vec::new(),
        }
    }

    #[test]
    fn the_fleet_has_no_loop_but_the_declared_ones() {
        let contracts: Vec<Contract> = crate::fleet::fleet().into_iter().map(|m| m.contract).collect();
        assert_eq!(mistakes(&contracts, DECLARED), [""; 0]);
    }

    #[test]
    fn a_chain_and_a_fan_are_no_loops() {
        let chain = [bot("A", &["a.x"], &["b.x", "c.x"]), bot("B", &["b.x", "c.x"], &["d.x"]), bot("C", &["d.x"], &[])];
        assert_eq!(mistakes(&chain, &[]), [""; 0]);
    }

    #[test]
    fn a_loop_is_told_once_with_its_bots() {
        let ring = [bot("A", &["c.x"], &["a.x"]), bot("B", &["a.x"], &["b.x"]), bot("C", &["b.x"], &["c.x", "d.x"])];
        let found = mistakes(&ring, &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        let told = "a.x, heard by B, which may say b.x, heard by C, which may say c.x, heard by A, which may say a.x;";
        assert!(found[0].contains(told), "{found:?}");
    }

    #[test]
    fn a_bot_that_hears_itself_or_its_own_dead_letters_is_a_loop() {
        assert_eq!(mistakes(&[bot("A", &["a.x"], &["a.x"])], &[]).len(), 1);
        assert_eq!(mistakes(&[bot("A", &["message.dead_lettered"], &[])], &[]).len(), 1);
    }

    #[test]
    fn a_declared_loop_is_let_be_and_must_be_there() {
        let declared = [Declared { types: &["a.x", "b.x"], ends_because: "made up" }];
        let ring = [bot("A", &["b.x"], &["a.x"]), bot("B", &["a.x"], &["b.x"])];
        assert_eq!(mistakes(&ring, &declared), [""; 0]);
        let found = mistakes(&ring[..1], &declared);
        assert_eq!(found, ["the declared loop a.x, b.x (made up) is not there any more: take it out"]);
    }
}
