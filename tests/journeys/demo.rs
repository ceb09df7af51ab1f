//! `lota demo` as a newcomer runs it: all four pushes end as they should, and nothing is left behind.
use tests::{lota, processes_naming, text};

#[test]
fn the_demo_runs_to_its_end_and_leaves_nothing_running() {
    let output = lota(&["demo"]).output().unwrap();
    let all = text(&output);
    assert!(output.status.success(), "{all}");
    for wanted in
        ["version 1: an apple is 120 cents", "test.failed", "deploy.rolled_back", "version 2: an apple", "Try next"]
    {
        assert!(all.contains(wanted), "`{wanted}` is not in:\n{all}");
    }
    let home = all.lines().find_map(|l| l.strip_prefix("== a fleet in ")).unwrap();
    assert!(!std::path::Path::new(home).exists(), "{home} is still there");
    assert_eq!(processes_naming(home), Vec::<i32>::new(), "still running after:\n{all}");
}
