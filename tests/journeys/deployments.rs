//! What `lota push --follow` says of a deployment that does not come to be; and an application outside of the fleet's
//! folder, which `lota down --apps` stops with the others.
use std::fs;

use tests::{Fleet, Repository, processes_naming, text};

const PIPELINE: &str = r#"version: 1
build:
  steps: [{name: copy, run: cp serve.sh app.sh}]
  artifacts: [app.sh]
test:
  suites: {unit: {run: 'sh -n app.sh && echo "test a ... ok" && echo "test result: ok. 1 passed; 0 failed; 0 ignored"'}}
deploy:
"#;
/// Takes connections until it is ended. Perl is there wherever git is.
const APPLICATION: &str = r#"exec perl -MIO::Socket::INET -e '
    $all = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 9) or die;
    while ($one = $all->accept) { close $one }'
"#;

#[test]
fn the_end_of_a_push_says_whether_and_why_it_was_not_deployed() {
    let fleet = Fleet::start();
    let outside = fleet.beside("outside");
    let config = fleet.home().join("config/environments.yaml");
    let environments = format!(
        "tagged: {{repositories: ['*'], refs: ['refs/tags/*'], target: {{type: directory, path: environments/tagged}}}}\n\
         outside: {{repositories: ['*'], refs: ['refs/heads/*'], target: {{type: directory, path: {}}}, serve: auto, port: auto}}\n",
        outside.display()
    );
    fs::write(config, environments).unwrap();
    fleet.kill("deploy-bot");

    let repository = Repository::create(&fleet.beside("shop"), &[("serve.sh", APPLICATION)]);
    let push = |deploy: &str, code: i32, words: &[&str]| {
        repository.commit(&[(".lotabots.yaml", &format!("{PIPELINE}  {deploy}\n"))]);
        let output =
            fleet.lota(&["push", "--follow", "--timeout", "120", repository.path.to_str().unwrap()]).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{deploy}: {said}");
        for word in words {
            assert!(said.contains(word), "{deploy}: `{word}` is not in: {said}");
        }
    };
    push("nowhere: {}", 1, &["failed after", "refused", "no such environment"]);
    push("tagged: {}", 1, &["failed after", "refused", "environments.yaml"]);
    push("outside: {when: {branch: release}}", 0, &["not deployed after", "no environment fits"]);
    push("outside: {serve: {run: sh app.sh}}", 0, &["ok after", "tested and deployed"]);

    assert_ne!(processes_naming(&outside.to_string_lossy()), Vec::<i32>::new(), "the application should run");
    let down = fleet.lota(&["down", "--apps"]).output().unwrap();
    assert!(text(&down).contains("1 applications stopped"), "{}", text(&down));
    assert_eq!(processes_naming(&outside.to_string_lossy()), Vec::<i32>::new());
}
