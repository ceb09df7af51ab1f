//! Deliveries as a runtime handles them, on a store that its process leaves at any place: each message comes again until it was
//! acknowledged, what is in the outbox goes out until it was confirmed. In the end each message has had exactly one effect or
//! one dead letter, and nothing waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bot_store::{Commit, Committed, InboxKey, InboxMark, Store};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use crate::fixture::{message, open};

const ATTEMPTS_MAX: u32 = 3;
/// Later than the last place of any turn.
const PLACES: usize = 6;

/// A message, and how its handler ends.
#[derive(Clone, Debug)]
struct Wish {
    id: u8,
    replay: u32,
    /// Attempts that fail before one works.
    fails: u32,
    /// Times that it is put off before that, which is no attempt.
    later: u32,
}

#[derive(Clone, Debug)]
enum Turn {
    /// The next delivery is handled, up to a place.
    Handle(usize),
    /// The outbox is sent, up to a place.
    Relay(usize),
    /// The connection ends: what is in hand comes again, also where it was handled.
    CutOff,
}

fn wish() -> impl Strategy<Value = Wish> {
    (0..4_u8, 0..2_u32, 0..5_u32, 0..3_u32).prop_map(|(id, replay, fails, later)| Wish { id, replay, fails, later })
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (0..PLACES).prop_map(Turn::Handle),
        3 => (0..PLACES).prop_map(Turn::Relay),
        1 => Just(Turn::CutOff),
    ]
}

/// A copy on its way.
#[derive(Clone, Debug, PartialEq)]
struct Copy {
    id: u8,
    replay: u32,
    attempt: u32,
    put_off: u32,
}

/// A bot and the broker beside it. `Err` from a turn: the process is gone.
struct World {
    dir: TempDir,
    store: Store,
    wishes: BTreeMap<(u8, u32), Wish>,
    queue: Vec<Copy>,
    effects: Vec<String>,
    /// The handler's attempts, each as often as it was committed.
    attempts: BTreeSet<(u8, u32, u32)>,
}

/// The process is gone.
struct Gone;

impl World {
    async fn handle(&mut self, until: usize) -> Result<(), Gone> {
        let Some(copy) = self.queue.first().cloned() else { return Ok(()) };
        alive(until, 0)?;
        let key = InboxKey { publisher: "outside".to_owned(), id: copy.id.to_string(), replay: copy.replay };
        let known = self.store.inbox(&key).await.unwrap();
        alive(until, 1)?;
        if !known.is_some_and(|known| known.settled || known.attempt > copy.attempt) {
            let wish = self.wishes[&(copy.id, copy.replay)].clone();
            let (said, settled, counts) = decide(&wish, &copy);
            let mark = InboxMark { key, content_hash: "same".to_owned(), attempt: copy.attempt, settled, counts };
            let commit = Commit { inbox: Some(mark), outbox: vec![message(&said)], ..Commit::default() };
            let done = self.store.commit(commit).await.unwrap();
            if done == Committed::Done && counts {
                self.attempts.insert((copy.id, copy.replay, copy.attempt));
            }
            alive(until, 2)?;
        }
        self.queue.remove(0);
        alive(until, 3)
    }

    async fn relay(&mut self, until: usize) -> Result<(), Gone> {
        for row in self.store.unsent(0, 100).await.unwrap() {
            alive(until, 0)?;
            let said = String::from_utf8(row.message.body).unwrap();
            match said.strip_prefix("again ") {
                Some(copy) => self.queue.push(read(copy)),
                None => self.effects.push(said),
            }
            alive(until, 1)?;
            self.store.mark_sent(vec![row.seq]).await.unwrap();
            alive(until, 2)?;
        }
        Ok(())
    }

    async fn begin_again(&mut self) {
        self.store.close().await;
        self.store = open(self.dir.path()).await;
    }
}

fn alive(until: usize, place: usize) -> Result<(), Gone> {
    if until == place { Err(Gone) } else { Ok(()) }
}

/// What the handler's end leads to: what is said, whether that settles the message, and whether it was an attempt.
fn decide(wish: &Wish, copy: &Copy) -> (String, bool, bool) {
    let Copy { id, replay, attempt, put_off } = *copy;
    if put_off < wish.later {
        return (format!("again {id} {replay} {attempt} {}", put_off + 1), false, false);
    }
    if attempt > wish.fails {
        return (format!("effect {id} {replay}"), true, true);
    }
    if attempt >= ATTEMPTS_MAX {
        return (format!("letter {id} {replay}"), true, true);
    }
    (format!("again {id} {replay} {} {put_off}", attempt + 1), false, true)
}

fn read(copy: &str) -> Copy {
    let fields: Vec<u32> = copy.split(' ').map(|field| field.parse().unwrap()).collect();
    Copy { id: u8::try_from(fields[0]).unwrap(), replay: fields[1], attempt: fields[2], put_off: fields[3] }
}

async fn run(wishes: Vec<Wish>, turns: Vec<Turn>) -> Result<(), TestCaseError> {
    let dir = tempdir().unwrap();
    let store = open(Path::new(dir.path())).await;
    let first = |wish: &Wish| Copy { id: wish.id, replay: wish.replay, attempt: 1, put_off: 0 };
    // Two with the same id and replay are one message that came twice.
    let queue: Vec<Copy> = wishes.iter().map(first).collect();
    let wishes: BTreeMap<_, _> = wishes.into_iter().map(|wish| ((wish.id, wish.replay), wish)).collect();
    let (effects, attempts) = (Vec::new(), BTreeSet::new());
    let mut world = World { dir, store, wishes, queue, effects, attempts };
    for turn in turns {
        let lived = match turn {
            Turn::Handle(until) => world.handle(until).await,
            Turn::Relay(until) => world.relay(until).await,
            Turn::CutOff => {
                // Handled or not, the broker knows of no acknowledgement: the copy comes once more.
                let again = world.queue.first().cloned();
                let lived = world.handle(PLACES).await;
                world.queue.extend(again);
                lived
            }
        };
        if lived.is_err() {
            world.begin_again().await;
        }
    }
    for _ in 0..1000 {
        if world.queue.is_empty() && world.store.unsent(0, 1).await.unwrap().is_empty() {
            break;
        }
        let _ = world.handle(PLACES).await;
        let _ = world.relay(PLACES).await;
    }
    prop_assert!(world.queue.is_empty(), "it does not come to an end: {:?}", world.queue);
    // What went out twice is one message for whoever hears it.
    let mut effects = world.effects.clone();
    effects.sort();
    effects.dedup();
    let mut expected: Vec<String> = Vec::new();
    for Wish { id, replay, fails, .. } in world.wishes.values() {
        let word = if *fails < ATTEMPTS_MAX { "effect" } else { "letter" };
        expected.push(format!("{word} {id} {replay}"));
        let attempts: Vec<u32> =
            world.attempts.iter().filter(|(i, r, _)| (i, r) == (id, replay)).map(|(.., attempt)| *attempt).collect();
        let all: Vec<u32> = (1..=(fails + 1).min(ATTEMPTS_MAX)).collect();
        prop_assert_eq!(attempts, all, "each attempt once, and none for being put off");
    }
    expected.sort();
    prop_assert_eq!(effects, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_message_has_one_effect_or_one_letter(wishes in vec(wish(), 1..6), turns in vec(turn(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(wishes, turns))?;
    }
}
