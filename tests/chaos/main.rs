//! A chain of two bots, whose processes, network, broker and stores fail at random while messages go through: nothing is lost,
//! and every message has one effect. docs/chaos/README.md says how to read and repeat a run.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a broken assumption ends the test"
)]

mod broker;
mod faults;
mod ground;
mod oracle;
mod player;
mod publisher;
mod report;
mod schedule;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use ground::Ground;
use report::{Recovery, Run};
use schedule::{Round, Who, schedule};
use tests::chain::Kind;

/// Enough for every kind of fault and some more; `make chaos` asks for more.
const MESSAGES: u64 = 3000;
/// Of the run in `make test`, so that its schedule is the same each time; `make chaos` takes any.
const SEED: u64 = 20_261_121;
const NODES: usize = 3;
const ROUNDS_MIN: usize = 26;
const MESSAGES_OF_A_ROUND: u64 = 250;
const PER_SECOND: u64 = 150;
/// A round after which nothing comes through for so long is a finding.
const RECOVERY_LIMIT: Duration = Duration::from_secs(120);
/// The end is waited for as long as anything comes through, but not for ever.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
const SETTLE_LIMIT: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What `make chaos` may say.
struct Options {
    seed: u64,
    messages: u64,
    rounds: usize,
    nodes: usize,
    report: Option<PathBuf>,
}

impl Options {
    fn read() -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse().unwrap_or_else(|e| panic!("{name} is `{text}` ({e}): expected a number")))
        };
        let messages = number("LOTA_CHAOS_MESSAGES").unwrap_or(MESSAGES);
        let rounds = number("LOTA_CHAOS_ROUNDS").unwrap_or(messages / MESSAGES_OF_A_ROUND) as usize;
        Self {
            seed: number("LOTA_CHAOS_SEED").unwrap_or(SEED),
            messages,
            rounds: rounds.max(ROUNDS_MIN),
            nodes: number("LOTA_CHAOS_NODES").map_or(NODES, |nodes| nodes as usize),
            report: std::env::var_os("LOTA_CHAOS_REPORT").map(PathBuf::from),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_every_message_has_one_effect() {
    let options = Options::read();
    let rounds = schedule(options.seed, options.rounds, options.nodes);
    let mut findings = run(&options, &rounds).await;
    findings.extend(missing_kinds(&rounds));
    assert!(findings.is_empty(), "seed {}:\n{}", options.seed, findings.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_on_from_every_place_at_which_its_bot_ends() {
    let rounds = schedule::every_place();
    let count = rounds.len();
    let options = Options { seed: 0, messages: 100 * count as u64, rounds: count, nodes: 1, report: None };
    let findings = run(&options, &rounds).await;
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Has every round happen while the messages go through; gives what was wrong.
async fn run(options: &Options, rounds: &[Round]) -> Vec<String> {
    let &Options { seed, messages: total, nodes, .. } = options;
    eprintln!("chaos: seed {seed}, {total} messages, {nodes} nodes; LOTA_CHAOS_SEED={seed} repeats the schedule");
    let ground = Ground::lay(seed, total, nodes, PER_SECOND).await;
    tokio::spawn(ground.publisher.clone().run());
    let begun = Instant::now();
    let recoveries = suffer_all(&ground, rounds, total).await;
    settle(&ground, total).await;
    let took = begun.elapsed();

    let (unrouted, letters) = (ground.unrouted().await, ground.letters().await);
    let kept = ground.read_stores(total).await;
    let (sent, books) = (ground.publisher.look(Clone::clone), ground.oracle.look(Clone::clone));
    let run = Run {
        seed,
        nodes,
        took,
        sent: &sent,
        repeated: ground.publisher.repeated(),
        books: &books,
        kept: &kept,
        unrouted,
        letters: &letters,
        starts: Who::BOTH.map(|who| ground.player(who).starts()),
        recoveries: &recoveries,
    };
    eprintln!("{}", serde_json::to_string_pretty(&run.json()).unwrap());
    if let Some(dir) = &options.report {
        run.write(dir);
    }
    let mut findings = run.findings();
    findings.extend(unknown_places(&ground));
    if !findings.is_empty() {
        show_logs(&ground);
    }
    findings
}

/// One round after the other, each with its share of the messages: half of them may be sent before it is over.
async fn suffer_all(ground: &Ground, rounds: &[Round], total: u64) -> Vec<Recovery> {
    let share = total / rounds.len() as u64;
    let mut recoveries = Vec::new();
    for (n, round) in rounds.iter().enumerate() {
        let first = share * n as u64;
        eprintln!("chaos: round {} of {}: {round}", n + 1, rounds.len());
        ground.publisher.allow(first + share / 2);
        let ended = ground.suffer(n, *round).await;
        let share_is_new = ground.publisher.allow(if n + 1 == rounds.len() { total } else { first + share });
        if !share_is_new {
            // A store that was filled has taken messages of later rounds; recovery is seen by one that comes now.
            ground.publisher.allow_more(share / 2);
        }
        let recovered = loop {
            if let Some(at) = first_through(ground, ended) {
                break at;
            }
            if ended.elapsed() > RECOVERY_LIMIT {
                show_logs(ground);
                panic!("{} s after the end of {round} nothing has come through", RECOVERY_LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let took = recovered.duration_since(ended);
        eprintln!("chaos:   recovered after {} ms", took.as_millis());
        recoveries.push(Recovery { kind: round.fault.kind(), took });
    }
    recoveries
}

/// When the first message that was sent after `ended`, and that nothing makes wait, had come through.
fn first_through(ground: &Ground, ended: Instant) -> Option<Instant> {
    let after: Vec<u64> = ground.publisher.look(|sent| {
        let after = sent.iter().rev().take_while(|(_, sent)| sent.at >= ended);
        after.filter(|(_, sent)| sent.kind == Kind::Say).map(|(number, _)| *number).collect()
    });
    ground.oracle.look(|books| after.iter().filter_map(|number| books.through.get(number)).min().copied())
}

/// Waits until everything was sent and has come to its end, or nothing moves any more.
async fn settle(ground: &Ground, total: u64) {
    let begun = Instant::now();
    let (mut seen, mut moved) = (0, begun);
    loop {
        let sent: Vec<u64> = ground.publisher.look(|sent| sent.keys().copied().collect());
        let (ended, copies) = ground.oracle.look(|books| {
            let ended = |number: &&u64| books.has_ended(**number);
            (sent.iter().filter(ended).count(), books.copies)
        });
        if ended as u64 == total {
            return;
        }
        if copies != seen {
            (seen, moved) = (copies, Instant::now());
        }
        if moved.elapsed() > IDLE_LIMIT || begun.elapsed() > SETTLE_LIMIT {
            eprintln!("chaos: it does not settle: {} sent, {ended} have come to their end", sent.len());
            return;
        }
        tokio::time::sleep(LOOK_EVERY * 10).await;
    }
}

/// Places that the list does not know, and places of the list that nobody came to.
fn unknown_places(ground: &Ground) -> Vec<String> {
    let reached: Vec<String> = Who::BOTH.iter().map(|who| ground.player(*who).reached()).collect();
    let reached: BTreeSet<&str> = reached.iter().flat_map(|text| text.lines()).collect();
    let known: BTreeSet<&str> = schedule::PLACES.into();
    (&reached ^ &known)
        .into_iter()
        .map(|place| format!("schedule::PLACES and what was reached differ in `{place}`"))
        .collect()
}

/// Every round has happened; so these kinds did not.
fn missing_kinds(rounds: &[Round]) -> Vec<String> {
    let happened: BTreeSet<&str> = rounds.iter().map(|round| round.fault.kind()).collect();
    let all: BTreeSet<&str> = schedule(0, 0, 1).iter().map(|round| round.fault.kind()).collect();
    all.difference(&happened).map(|kind| format!("it did not happen: {kind}")).collect()
}

fn show_logs(ground: &Ground) {
    for who in Who::BOTH {
        eprintln!("== {}\n{}", who.slug(), ground.player(who).last_lines(40));
    }
}
