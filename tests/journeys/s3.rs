//! A fleet whose object store is a bucket of an S3 server: a push goes through it, and `lota gc` removes what is old.
use std::{fs, time::Duration};

use bot_test::S3Server;
use tests::{Fleet, Repository, get, succeeds, text, wait_for};

const SITE: &[(&str, &str)] = &[
    (
        ".lotabots.yaml",
        "version: 1\n\
         build:\n  steps: [{name: make, run: make}]\n  artifacts: [out/**]\n\
         test:\n  suites: {there: {run: sh check.sh, reports: [report.xml]}}\n\
         deploy:\n  local: {serve: {run: python3 -m http.server -b 127.0.0.1 -d out $PORT}, health: {path: /}}\n",
    ),
    ("Makefile", "all:\n\tmkdir -p out && echo from a bucket > out/index.html\n"),
    (
        "check.sh",
        "test -f out/index.html &&\n\
         echo '<testsuite name=\"site\"><testcase classname=\"site\" name=\"there\"/></testsuite>' > report.xml\n",
    ),
];

#[test]
fn a_push_goes_through_a_bucket() {
    let server = S3Server::start();
    let place = server.place_without_credentials("fleet");
    let (id, key) = (server.secret("id"), server.secret("key"));
    let variables = [
        ("LOTA_OBJECTS", place.as_str()),
        ("AWS_ACCESS_KEY_ID_FILE", id.to_str().unwrap()),
        ("AWS_SECRET_ACCESS_KEY_FILE", key.to_str().unwrap()),
    ];
    let fleet = Fleet::start_with(&variables);
    let repository = Repository::create(&fleet.beside("shop"), SITE);
    let path = repository.path.to_str().unwrap();
    let pushed =
        fleet.lota(&["push", path, "--follow", "--bundle", "--timeout", "120"]).envs(variables).output().unwrap();
    assert!(pushed.status.success(), "{}", text(&pushed));
    let url = fleet.monitor("/api/v1/applications")["applications"][0]["url"].as_str().unwrap().to_owned();
    assert_eq!(get(&url), (200, "from a bucket\n".to_owned()));
    for kind in ["source", "artifact", "log", "bundle"] {
        let suffix = format!(".{kind}");
        assert!(server.keys("fleet/kinds/").iter().any(|key| key.ends_with(&suffix)), "no {kind} is stored");
    }
    assert_eq!(fs::read_dir(fleet.home().join("objects")).unwrap().count(), 0, "nothing lies in the folder");

    let in_use = wait_for("what the environment needs", Duration::from_secs(20), || {
        Some(server.keys("fleet/in-use/")).filter(|keys| !keys.is_empty())
    });
    assert_eq!(in_use, ["fleet/in-use/local.json"]);
    let before = server.keys("fleet/objects/");
    let told = succeeds(fleet.lota(&["gc"]).envs(variables));
    assert!(told.contains("artifact") && server.keys("fleet/objects/") == before, "nothing is old: {told}");

    server.put("fleet/in-use/local.json", b"{");
    let refused = fleet.lota(&["gc"]).envs(variables).output().unwrap();
    assert!(!refused.status.success() && text(&refused).contains("local"), "{}", text(&refused));
    for log in fs::read_dir(fleet.home().join("logs")).unwrap() {
        let said = fs::read_to_string(log.unwrap().path()).unwrap();
        assert!(!said.contains(S3Server::canary()), "a secret is in a log");
    }
}
