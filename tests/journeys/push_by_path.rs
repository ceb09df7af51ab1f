//! A repository is pushed by its path where the fleet can read it, and by a bundle where it cannot, without being told.
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use serde_json::Value;
use tests::{Fleet, Repository, text, wait_for};

const SITE: &[(&str, &str)] = &[("Makefile", "all:\n\techo built > out\n")];

#[test]
fn a_bundle_goes_exactly_where_the_path_would_not_do() {
    let fleet = Fleet::start();
    let open = Repository::create(&fleet.beside("open/shop"), SITE);
    fs::set_permissions(fleet.beside(""), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(pushed(&fleet, &open), None);

    // Root may look into another user's folder, and the sandbox that its bots fetch in may not.
    if nix::unistd::geteuid().is_root() {
        let closed = Repository::create(&fleet.beside("closed/shop"), SITE);
        let folder = fleet.beside("closed");
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let why = pushed(&fleet, &closed).expect("a bundle");
        assert!(why.contains("uid 0") && why.contains("closed"), "{why}");
    } else {
        eprintln!("NOT RUN: a repository in another user's folder: only root can make one");
    }

    // What a record says that was written on another machine.
    let file = fleet.home().join("fleet.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["place"]["boot"] = "another".into();
    fs::write(&file, record.to_string()).unwrap();
    let why = pushed(&fleet, &open).expect("a bundle");
    assert!(why.contains("another machine"), "{why}");
}

/// Pushes and sees that it is built; gives the reason for a bundle, if one went.
fn pushed(fleet: &Fleet, repository: &Repository) -> Option<String> {
    let commit = repository.commit(&[("change", &format!("{:?}", std::time::Instant::now()))]);
    let output = fleet.lota(&["push", repository.path.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let correlation = said.lines().find(|l| l.contains("correlation")).unwrap().split_whitespace().last().unwrap();
    wait_for("build.completed", Duration::from_secs(60), || {
        assert_eq!(fleet.said(correlation, "build.failed"), 0, "{commit} was not built: {said}");
        (fleet.said(correlation, "build.completed") == 1).then_some(())
    });
    said.lines().find(|l| l.contains("as a bundle")).map(str::to_owned)
}
