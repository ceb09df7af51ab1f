//! What an operator does with dead letters: looking loses none and changes nothing, and what is done with one has one effect
//! and one record, also when the command is cut off at any place.
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{fails, succeeds, text};

use crate::stage::Stage;

const LETTERS: usize = 40;
const LOOKS: usize = 60;

/// The letters that lie there, by their names in the order of the queue's groups.
fn names(stage: &Stage) -> Vec<String> {
    let list: Value = serde_json::from_str(&succeeds(&mut stage.lota(&["dlq", "list", "--json"]))).unwrap();
    let groups = list.pointer("/0/groups").and_then(Value::as_array).cloned().unwrap_or_default();
    let letters = groups.iter().flat_map(|group| group["letters"].as_array().cloned().unwrap());
    letters.map(|l| l["letter"]["message_id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Letters that somebody held whose connection just ended come back in a moment.
fn names_until(stage: &Stage, what: &str, fits: impl Fn(&[String]) -> bool) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(300);
    loop {
        let found = names(stage);
        if fits(&found) {
            return found;
        }
        assert!(Instant::now() < end, "waited 300 s for {what}; there are {found:?}");
    }
}

fn crashes(stage: &Stage) -> PathBuf {
    let folder = stage.beside("crashes");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a command that ends at a place.
fn cut_off(stage: &Stage, args: &[&str], place: &str) {
    let folder = crashes(stage);
    fs::write(folder.join("at"), place).unwrap();
    let output = stage.lota(args).env("LOTA_TEST_CRASHES", &folder).output().unwrap();
    assert!(output.status.code().is_none() && !folder.join("at").exists(), "{place}: {}", text(&output));
}

/// The places that a command comes to.
fn places(stage: &Stage, args: &[&str]) -> BTreeSet<String> {
    let folder = crashes(stage);
    fs::write(folder.join("reached"), "").unwrap();
    succeeds(stage.lota(args).env("LOTA_TEST_CRASHES", &folder));
    fs::read_to_string(folder.join("reached")).unwrap().lines().map(str::to_owned).collect()
}

/// Records of a kind about a message; the same one said twice counts once.
fn records(stage: &Stage, event_type: &str, id: &str) -> Vec<Value> {
    let all = stage.said_of(event_type).into_iter().map(|m| m["payload"]["data"].clone());
    all.filter(|data| data["letter"]["message_id"] == id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_letters_loses_none_and_changes_nothing() {
    let stage = Stage::set().await;
    for n in 0..LETTERS {
        stage.letter_of(&format!("letter-{n:02}"), "say").await;
    }
    let first = names_until(&stage, "all letters", |found| found.len() == LETTERS);
    for look in 1..=LOOKS {
        assert_eq!(names(&stage), first, "look {look}");
    }
    for look in ["list", "show"] {
        let args = if look == "list" { vec!["dlq", "list"] } else { vec!["dlq", "show", "letter-07"] };
        cut_off(&stage, &args, "dlq: looked");
        let after = names_until(&stage, "all letters after a look that was cut off", |found| found.len() == LETTERS);
        assert_eq!(after, first, "after `dlq {look}` was cut off");
    }
    assert_eq!(stage.management.peek("lota", "toy-bot.dead", 200).await.unwrap().len(), LETTERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_cut_off_has_one_effect_and_one_record() {
    let mut stage = Stage::set().await;
    let mut tried = 0;
    for (what, record, effects) in
        [("retry", "message.replayed", 1), ("edit", "message.edited", 1), ("discard", "message.discarded", 0)]
    {
        let args = |id: &str| -> Vec<String> {
            let more: &[&str] = match what {
                "edit" => &["--set", "ref=\"refs/heads/other\""],
                "discard" => &["--reason", "a test"],
                _ => &[],
            };
            ["dlq", what, id].iter().chain(more).map(ToString::to_string).collect()
        };
        let whole = format!("{what}-whole");
        stage.letter_of(&whole, "say").await;
        names_until(&stage, "the letter", |found| found.contains(&whole));
        let words = args(&whole);
        let places = places(&stage, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(places.len() >= 3, "{what} has places between what it does: {places:?}");
        let mut letters = vec![whole];
        for (n, place) in places.iter().enumerate() {
            let id = format!("{what}-at-{n}");
            stage.letter_of(&id, "say").await;
            names_until(&stage, "the letter", |found| found.contains(&id));
            let words = args(&id);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            cut_off(&stage, &words, place);
            // At the last place the broker may have heard that the letter is settled.
            let left = names_until(&stage, "the session's end", |found| place == "dlq: settled" || found.contains(&id));
            if left.contains(&id) {
                succeeds(&mut stage.lota(&words));
            }
            tried += 1;
            letters.push(id);
        }
        assert_eq!(names_until(&stage, "no letters", <[String]>::is_empty), Vec::<String>::new());
        for id in &letters {
            stage.until(&format!("the record of {id}"), |s| !records(s, record, id).is_empty()).await;
            assert_eq!(records(&stage, record, id).len(), 1, "{id}");
            let handled = records(&stage, record, id)[0]["new_id"].as_str().unwrap_or(id).to_owned();
            stage.until(&format!("the effect of {id}"), |s| s.calls(&handled) >= effects).await;
        }
        // What came twice would have come before this.
        stage.wish(&format!("{what}-last"), "r", "say").await;
        stage.until("a later message", |s| s.calls(&format!("{what}-last")) == 1).await;
        for id in &letters {
            let handled = records(&stage, record, id)[0]["new_id"].as_str().unwrap_or(id).to_owned();
            assert_eq!(stage.calls(&handled), effects, "{handled}");
        }
        if what == "edit" {
            assert_eq!(stage.logged("asked edited-"), letters.len(), "the same edit is the same message");
        }
    }
    assert!(tried >= 10, "{tried} places");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_letter_of_the_brokers_somebody_has_to_vouch() {
    let mut stage = Stage::set().await;
    stage.given_up("orphan", "say").await;
    names_until(&stage, "the letter", |found| found == ["orphan"]);
    let shown = succeeds(&mut stage.lota(&["dlq", "show", "orphan"]));
    assert!(shown.contains("unproven") && shown.contains("lota.egress.outside"), "{shown}");
    let refused = fails(&mut stage.lota(&["dlq", "retry", "orphan"]), 1);
    assert!(refused.contains("nothing proves who said it") && refused.contains("--as"), "{refused}");
    let refused = fails(&mut stage.lota(&["dlq", "retry", "orphan", "--as", "another"]), 1);
    assert!(refused.contains("of outside, and you vouch for another"), "{refused}");
    assert_eq!(names_until(&stage, "the letter", |found| !found.is_empty()), ["orphan"]);
    succeeds(&mut stage.lota(&[
        "dlq",
        "retry",
        "orphan",
        "--as",
        "outside",
        "--by",
        "ada",
        "--reason",
        "seen in its log",
    ]));
    stage.until("its effect", |s| s.calls("orphan") == 1).await;
    stage.until("the record", |s| !records(s, "message.replayed", "orphan").is_empty()).await;
    let record = &records(&stage, "message.replayed", "orphan")[0];
    let told = [&record["vouched_for"], &record["by"], &record["reason"], &record["letter"]["publisher"]];
    assert_eq!(told, [&json!(true), &json!("ada"), &json!("seen in its log"), &json!("outside")], "{record}");
}
