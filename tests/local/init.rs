//! `lota init` writes what would be detected, and never over what someone wrote.
use std::fs;

use tests::fixtures;

use crate::{project, said};

#[test]
fn the_file_is_written_once_and_shown_as_often_as_one_likes() {
    let dir = project(fixtures::NPM);
    let (path, file) = (dir.path().to_str().unwrap(), dir.path().join(".lotabots.yaml"));
    let (code, shown) = said(&["init", "--print", path]);
    assert!(code == 0 && shown.contains("run: npm run build") && !file.exists(), "{shown}");

    let (code, told) = said(&["init", path]);
    assert!(code == 0 && told.contains("recognised as npm by package.json") && told.contains("lota run"), "{told}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(shown.contains(&written), "{shown}\n{written}");

    fs::write(&file, "version: 1 # mine\n").unwrap();
    let (code, told) = said(&["init", path]);
    assert!(code == 65 && told.contains("--force"), "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "version: 1 # mine\n");
    assert_eq!(said(&["init", "--force", path]).0, 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
}

#[test]
fn a_link_is_not_written_through() {
    let dir = project(fixtures::C);
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join(".lotabots.yaml")).unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(said(&["init", path]).0, 65);
    assert_eq!(said(&["init", "--force", path]).0, 0);
    assert!(!elsewhere.exists() && dir.path().join(".lotabots.yaml").is_file());
}

#[test]
fn where_nothing_is_recognised_there_is_a_sketch() {
    let dir = project(&[("README", "")]);
    let (code, told) = said(&["init", dir.path().to_str().unwrap()]);
    assert!(code == 0 && told.contains("a sketch"), "{told}");
    let (code, told) = said(&["init", "/nowhere/at/all"]);
    assert!(code == 64 && told.contains("is no folder"), "{told}");
}
