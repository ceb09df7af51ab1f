//! Loops of triggers: a message that leads, by way of bots, to another of its own type. One that nobody meant never ends, so
//! there is no topology with one, and a bot that is one by itself does not start.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{Contract, Event, contract::MeantLoop, message::MessageDeadLettered};

/// Each type of a loop, with the bot that hears it and says the next; the last one says the first.
type Loop = Vec<(String, String)>;

/// The loops of these contracts that no contract declares, in a sentence each.
pub fn undeclared(contracts: &[Contract]) -> Vec<String> {
    let open = loops(contracts).into_iter().filter(|found| !declared(contracts).any(|meant| is(found, meant)));
    let told = open.map(|found| {
        let steps: Vec<String> = found.iter().map(|(t, bot)| format!("{t}, heard by {bot}")).collect();
        let first = found.first().map(|(t, _)| t.as_str()).unwrap_or_default();
        format!(
            "a message leads back to its own type: {}, which may say {first}; break the loop, or declare it in `LOOPS` \
             of one of its bots with what ends it",
            steps.join(", which may say ")
        )
    });
    told.collect()
}

/// Declared loops that are not there any more, in a sentence each.
pub fn gone(contracts: &[Contract]) -> Vec<String> {
    let loops = loops(contracts);
    let gone = declared(contracts).filter(|meant| !loops.iter().any(|found| is(found, meant)));
    let told = gone.map(|meant| {
        let types = meant.types.join(", ");
        format!("the declared loop {types} ({}) is not there any more: take it out", meant.ends_because)
    });
    told.collect()
}

fn declared(contracts: &[Contract]) -> impl Iterator<Item = &MeantLoop> {
    contracts.iter().flat_map(|contract| &contract.loops)
}

fn is(found: &Loop, meant: &MeantLoop) -> bool {
    found.iter().map(|(t, _)| t).eq(&meant.types)
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
    use super::*;
    use crate::{Category, topology::Topology};

    fn bot(name: &str, hears: &[&str], says: &[&str]) -> Contract {
        let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
        Contract { hears: own(hears), says: own(says), ..Contract::new(name.parse().unwrap(), Category::Development) }
    }

    #[test]
    fn a_chain_and_a_fan_are_no_loops() {
        let chain = [bot("A", &["a.x"], &["b.x", "c.x"]), bot("B", &["b.x", "c.x"], &["d.x"]), bot("C", &["d.x"], &[])];
        assert_eq!(undeclared(&chain), [""; 0]);
    }

    #[test]
    fn a_loop_is_told_once_with_its_bots() {
        let ring = [bot("A", &["c.x"], &["a.x"]), bot("B", &["a.x"], &["b.x"]), bot("C", &["b.x"], &["c.x", "d.x"])];
        let found = undeclared(&ring);
        assert_eq!(found.len(), 1, "{found:?}");
        let told = "a.x, heard by B, which may say b.x, heard by C, which may say c.x, heard by A, which may say a.x;";
        assert!(found[0].contains(told), "{found:?}");
    }

    #[test]
    fn a_bot_that_hears_itself_or_its_own_dead_letters_is_a_loop() {
        assert_eq!(undeclared(&[bot("A", &["a.x"], &["a.x"])]).len(), 1);
        assert_eq!(undeclared(&[bot("A", &["message.dead_lettered"], &[])]).len(), 1);
    }

    #[test]
    fn a_declared_loop_is_let_be_and_must_be_there() {
        let mut ring = [bot("A", &["b.x"], &["a.x"]), bot("B", &["a.x"], &["b.x"])];
        ring[0].loops =
            vec![MeantLoop { types: vec!["a.x".to_owned(), "b.x".to_owned()], ends_because: "made up".to_owned() }];
        assert_eq!((undeclared(&ring), gone(&ring)), (Vec::new(), Vec::new()));
        assert_eq!(gone(&ring[..1]), ["the declared loop a.x, b.x (made up) is not there any more: take it out"]);
    }

    #[test]
    fn there_is_no_topology_with_a_loop() {
        let ring =
            [bot("A", &["build.completed"], &["test.completed"]), bot("B", &["test.completed"], &["build.completed"])];
        let refused = Topology::new(&ring, &[]).unwrap_err().to_string();
        let told =
            "build.completed, heard by A, which may say test.completed, heard by B, which may say build.completed;";
        assert!(refused.contains(told), "{refused}");
    }
}
