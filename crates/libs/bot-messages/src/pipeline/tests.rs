//! Whole files, read.
use std::time::Duration;

use super::*;
use proptest::prelude::*;

const GOOD: &str = "version: 1\nbuild:\n  steps:\n    - {name: compile, run: cargo build --offline, timeout: 15m, env: {RUSTFLAGS: \"-D warnings\"}}\n  artifacts: [target/debug/app]\ntest:\n  suites:\n    unit: {run: cargo test --offline}\ndeploy:\n  staging: {when: {branch: main}, serve: {run: ./target/debug/app}, health: {path: /health, deadline: 10}}\n";

#[test]
fn a_whole_file_is_read() {
    let p = Pipeline::parse(GOOD).unwrap();
    assert_eq!(p.build.steps[0].timeout, Some(Span(Duration::from_secs(900))));
    assert_eq!(p.build.steps[0].env["RUSTFLAGS"], "-D warnings");
    assert_eq!(p.deploy["staging"].health.as_ref().unwrap().deadline.0, Duration::from_secs(10));
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, want) in [
        ("version: 2\n", "reads version 1"),
        ("version: 1\nbiuld: {}\n", "biuld"),
        ("version: 1\nbuild:\n  steps:\n    - {name: a}\n", "run"),
        ("version: 1\nbuild: {artifacts: [../x]}\n", "leaves the repository"),
        ("version: 1\nbuild: {steps: [{name: a, run: x}, {name: a, run: y}]}\n", "used twice"),
        ("version: 1\nbuild: {steps: [{name: a, run: x, timeout: soon}]}\n", "length of time"),
        ("version: 1\nbuild: {steps: [{name: a, run: x, env: {LD_PRELOAD: x}}]}\n", "LD_"),
        ("", ""),
    ] {
        let e = Pipeline::parse(text).unwrap_err().to_string();
        assert!(e.starts_with(".lotabots.yaml") && e.contains(want), "{e}");
    }
    let e = Pipeline::parse("version: 1\nbuild:\n  stepz: []\n").unwrap_err();
    assert_eq!(e.at.map(|a| a.0), Some(3), "{e}");
}

#[test]
fn a_bomb_and_a_huge_file_are_refused() {
    let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (i, c) in ('b'..'j').enumerate() {
        let p = char::from(b'a' + i as u8);
        bomb.push_str(&format!("{c}: &{c} [{}]\n", vec![format!("*{p}"); 9].join(",")));
    }
    assert!(Pipeline::parse(&bomb).is_err());
    assert!(Pipeline::parse(&"#".repeat(FILE_BYTES_MAX + 1)).unwrap_err().to_string().contains("at most"));
}

fn told(text: &str) -> String {
    Pipeline::parse(text).unwrap_err().to_string()
}

#[test]
fn every_mistake_has_its_place_and_what_was_meant() {
    let steps = "version: 1\nbuild:\n  steps:\n";
    for (text, place, words) in [
        ("version: 1\nbiuld: {}\n".to_owned(), ":2:1", "did you mean `build`?"),
        (
            format!("{steps}    - {{name: a, run: x}}\n    - {{name: b, run: x, needs: [aa]}}\n"),
            ":5:33",
            "did you mean `a`?",
        ),
        (
            format!("{steps}    - {{name: a, run: x, needs: [b]}}\n    - {{name: b, run: x}}\n"),
            ":4:33",
            "not above `a`",
        ),
        (format!("{steps}    - {{name: a, run: x, needs: [a]}}\n"), ":4:33", "not above `a`"),
        (format!("{steps}    - {{name: a, run: x, secrets: [1X]}}\n"), ":4:", "is no variable"),
        (
            format!("{steps}    - name: a\n      run: x\n      when: {{event: [pusch]}}\n"),
            ":6:",
            "did you mean `push`?",
        ),
        ("version: 1\nbuild:\n  cache: [target, ~/../x]\n".to_owned(), ":3:19", "leaves the repository"),
        ("version: 1\nbuild: {cache: [/etc]}\n".to_owned(), ":2:17", "leaves the repository"),
        ("version: 1\nbuild:\n  matrix: {a: [x, x]}\n".to_owned(), ":3:12", "none of them twice"),
        (
            "version: 1\ntest:\n  suites:\n    a: {run: x, services: [{name: d, run: y, ready: {tcp: x}}]}\n"
                .to_owned(),
            ":4:",
            "expected a port",
        ),
        ("version: 1\ntest:\n  suites:\n    a: {run: x, format: junit}\n".to_owned(), ":4:", "name those"),
        ("version: 1\ntest:\n  suites:\n    a: {run: x, format: tapp}\n".to_owned(), ":4:", "tap"),
        (
            "version: 1\ntest:\n  suites:\n    a: {run: x, services: [{name: d, run: y, ready: {}}]}\n".to_owned(),
            ":4:",
            "exactly one",
        ),
    ] {
        let e = told(&text);
        assert!(e.starts_with(&format!(".lotabots.yaml{place}")) && e.contains(words), "{e}\n{text}");
    }
}

#[test]
fn two_services_with_one_variable_are_told_with_both_places() {
    let services = "      - {name: db-1, run: x, ready: {log: up}}\n      - {name: web, run: x, ready: {log: up}}\n      - {name: db_1, run: x, ready: {log: up}}\n";
    let e = told(&format!("version: 1\ntest:\n  suites:\n    a:\n      run: x\n      services:\n{services}"));
    assert!(e.starts_with(".lotabots.yaml:9:10: test.suites.a.services[2].name: "), "{e}");
    assert!(
        e.contains("`db-1` and `db_1` in the same variable, DB_1_PORT") && e.ends_with("(the other is at 7:10)"),
        "{e}"
    );
    let steps = format!("version: 1\nbuild:\n  steps:\n    - name: a\n      run: x\n      services:\n{services}");
    assert!(told(&steps).contains("(the other is at 7:10)"), "{}", told(&steps));
    let variable = |name: &str| {
        let service = Service { name: name.into(), run: "x".into(), ready: Ready::default(), env: BTreeMap::new() };
        service.port_variable()
    };
    assert_eq!((variable("db-1"), variable("1st")), ("DB_1_PORT".to_owned(), "_1ST_PORT".to_owned()));
}

#[test]
fn depth_and_numbers_are_limited() {
    assert!(Pipeline::parse(&"[".repeat(10_000)).is_err());
    let values = (0..33).map(|i| format!("v{i}")).collect::<Vec<_>>().join(",");
    assert!(told(&format!("version: 1\nbuild: {{matrix: {{a: [{values}]}}}}\n")).contains("at most 32"));
    let values = (0..32).map(|i| format!("v{i}")).collect::<Vec<_>>().join(",");
    let steps = (0..10).map(|i| format!("    - {{name: s{i}, run: x}}\n")).collect::<Vec<_>>().concat();
    assert!(
        told(&format!("version: 1\nbuild:\n  matrix: {{a: [{values}]}}\n  steps:\n{steps}"))
            .contains("320 runs: at most 300")
    );
    let variables = (0..6).map(|i| format!("v{i}: [x]")).collect::<Vec<_>>().join(",");
    assert!(told(&format!("version: 1\nbuild: {{matrix: {{{variables}}}}}\n")).contains("at most 5"));
    let steps = (0..201).map(|i| format!("    - {{name: s{i}, run: x}}\n")).collect::<Vec<_>>().concat();
    assert!(told(&format!("version: 1\nbuild:\n  steps:\n{steps}")).contains("at most 200"));
}

#[test]
fn versions_in_a_matrix_stay_as_they_are_written() {
    let p = Pipeline::parse("version: 1\nbuild: {matrix: {python: [3.10, 3.11]}}\n").unwrap();
    assert_eq!(p.build.matrix["python"], ["3.10", "3.11"]);
}

#[test]
fn a_condition_is_held_against_the_ref() {
    let p = Pipeline::parse("version: 1\ndeploy: {x: {when: {branch: [main, release/*], tag: v*}}}\n").unwrap();
    let when = p.deploy["x"].when.clone().unwrap();
    for (git_ref, holds) in [
        ("refs/heads/main", true),
        ("refs/heads/release/1", true),
        ("refs/heads/release/1/x", false),
        ("refs/tags/v1", true),
        ("refs/tags/main", false),
        ("refs/heads/v1", false),
    ] {
        assert_eq!(when.judge_ref(git_ref).is_ok(), holds, "{git_ref}");
    }
    assert!(when.judge_ref("refs/heads/x").unwrap_err().contains("branch main, release/* or tag v*"));
    assert_eq!(When::default().judge_ref("refs/heads/x"), Ok(()));
}

#[test]
fn a_condition_is_held_against_what_led_to_the_build_and_what_changed() {
    let text = "version: 1\ndeploy: {x: {when: {branch: main, event: [push, manual], path: [src/**, '*.toml']}}}\n";
    let when = Pipeline::parse(text).unwrap().deploy["x"].when.clone().unwrap();
    let judge = |trigger, changed: Result<&[&str], &str>| {
        let changed = changed.map(|files| files.iter().map(ToString::to_string).collect()).map_err(str::to_owned);
        when.judge(&Occasion { git_ref: "refs/heads/main".into(), trigger, changed })
    };
    for changed in [&["src/a/b.rs"][..], &["README", "Cargo.toml"]] {
        assert_eq!(judge(Trigger::Push, Ok(changed)), Judgement::Holds, "{changed:?}");
    }
    for (trigger, changed, words) in [
        (Trigger::Push, &["docs/src/a", "x/Cargo.toml"][..], "none of 2 changed files"),
        (Trigger::Push, &[], "none of 0 changed files"),
        (Trigger::Schedule, &["src/a"], "only for event push, manual, and this is schedule"),
    ] {
        let Judgement::Fails(why) = judge(trigger, Ok(changed)) else { panic!("{changed:?}") };
        assert!(why.contains(words), "{why}");
    }
    let Judgement::Assumed(why) = judge(Trigger::Manual, Err("no history")) else { panic!() };
    assert!(why.contains("not known: no history"), "{why}");
    let elsewhere =
        Occasion { git_ref: "refs/heads/x".into(), trigger: Trigger::Push, changed: Ok(vec!["src/a".into()]) };
    assert!(matches!(when.judge(&elsewhere), Judgement::Fails(why) if why.contains("branch main")));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,300}") {
        let _ = Pipeline::parse(&text);
    }

    #[test]
    fn a_span_reads_back(ms in 0u64..100_000_000) {
        let span = Span(Duration::from_millis(ms));
        prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
    }
}
