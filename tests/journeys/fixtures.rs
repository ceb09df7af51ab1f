//! Projects of many kinds go through one fleet, most of them without a pipeline file, and each ends as it should.
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use bot_clients::{ArchiveLimits, Objects, list_tree, unpack};
use serde_json::Value;
use tests::{Fleet, Repository, fixtures, wait_for};

const LIMIT: Duration = Duration::from_secs(240);
const ENDS: [&str; 3] = ["build.failed", "test.failed", "test.completed"];

#[test]
fn each_kind_of_project_has_its_end() {
    let fleet = Fleet::start();
    let watch = Watch::start(&fleet);
    let create = |name: &str, files| Repository::create(&fleet.beside(&format!("repositories/{name}")), files);
    let push = |name: &str, files: fixtures::Files| fleet.push(&create(name, files).path);
    let both = create("monorepo", fixtures::MONOREPO);
    let monorepo = fleet.push(&both.path);
    let [npm, python, c, matrix, broken, huge, site] = [
        push("npm", fixtures::NPM),
        push("python", fixtures::PYTHON),
        push("c", fixtures::C),
        push("matrix", fixtures::MATRIX),
        push("broken", fixtures::BROKEN),
        push("huge", fixtures::HUGE_LOG),
        push("site", fixtures::SITE),
    ];
    let submodule = fleet.push(&fixtures::with_submodule(&fleet.beside("repositories/submodule")).path);
    let database = fixtures::with_postgresql(&fleet.beside("repositories/database"), &bot_test::postgresql_bin());
    let database = fleet.push(&database.path);

    // What is recognised is built and tested, and its tests are counted.
    for (correlation, kind, suites) in [
        (&npm, "npm", vec![("unit", 2, 0)]),
        (&python, "python", vec![("unit", 2, 1)]),
        (&c, "make", vec![("make", 1, 0)]),
        (&monorepo, ".lotabots.yaml", vec![("api", 1, 0), ("web", 1, 0)]),
        (&matrix, ".lotabots.yaml", vec![("both", 1, 0)]),
        (&database, ".lotabots.yaml", vec![("database", 2, 0)]),
        (&site, "static", vec![]),
    ] {
        let end = watch.end(correlation);
        assert_eq!(end["type"], "test.completed", "{end:#}");
        assert_eq!(watch.data(correlation, "build.started")["pipeline"], kind);
        let data = &end["payload"]["data"];
        let told: Vec<(&str, u64, u64)> = data["suites"].as_array().unwrap().iter().map(counts).collect();
        assert_eq!(told, suites, "{data:#}");
    }
    let artifact = |correlation| names(&fleet, &watch.data(correlation, "build.completed")["artifact"]);
    assert_eq!(artifact(&npm), ["dist/sums.js", "package.json", "sums.js", "sums.test.js"]);
    assert!(artifact(&c).contains(&"sums".to_owned()));
    assert_eq!(artifact(&monorepo), ["out/index.html", "out/sums"]);
    assert_eq!(steps(&watch, &monorepo), ["api", "web"], "what changed is not known of a first push");
    assert_eq!(artifact(&matrix), ["matrix/two/out/page", "out/page"]);
    assert_eq!(steps(&watch, &matrix), ["page (one)", "page (two)"]);
    wait_for("the site's deployment", LIMIT, || (fleet.said(&site, "deploy.completed") == 1).then_some(()));

    what_is_wrong_is_told(&watch, &broken, &huge, &submodule);
    of_the_monorepo_only_what_changed(&fleet, &watch, &both);
    flaky(&fleet, &watch);
}

/// Where, and why.
fn what_is_wrong_is_told(watch: &Watch, broken: &str, huge: &str, submodule: &str) {
    for (correlation, code, step, words) in [
        (broken, "INVALID_PIPELINE", Value::Null, ".lotabots.yaml:3:3: `stepz` is no key here"),
        (huge, "LIMIT_EXCEEDED", "talk".into(), "more than 50 MiB of output"),
        (submodule, "COMMAND_FAILED", "make".into(), "step `make` ended with exit code 2"),
    ] {
        let end = watch.end(correlation);
        let data = &end["payload"]["data"];
        assert_eq!((&end["type"], &data["error"]["code"]), (&"build.failed".into(), &code.into()), "{end:#}");
        assert_eq!(data["step"], step, "{data:#}");
        assert!(data["error"]["message"].as_str().unwrap().contains(words), "{data:#}");
    }
    let tail = &watch.end(submodule)["payload"]["data"]["log_tail"];
    assert!(tail.to_string().contains("library/sums.c"), "submodules are not fetched: {tail}");
    let log = watch.end(huge)["payload"]["data"]["log"]["size"].as_u64().unwrap();
    assert!((40 << 20..51 << 20).contains(&log), "the log is kept up to its limit: {log} bytes");
}

fn of_the_monorepo_only_what_changed(fleet: &Fleet, watch: &Watch, repository: &Repository) {
    repository.commit(&[("web/index.html", "<p>hello again\n")]);
    let changed = fleet.push(&repository.path);
    assert_eq!(watch.end(&changed)["type"], "test.completed");
    assert_eq!(steps(watch, &changed), ["web"], "nothing of the other changed");
    assert_eq!(names(fleet, &watch.data(&changed, "build.completed")["artifact"]), ["out/index.html"]);
}

/// The same tree fails on one commit and passes on the next: each commit has its own end.
fn flaky(fleet: &Fleet, watch: &Watch) {
    let repository = Repository::create(&fleet.beside("repositories/flaky"), fixtures::FLAKY);
    let mut change = 0;
    for passes in [false, true] {
        let commit = loop {
            change += 1;
            let commit = repository.commit(&[("change", &change.to_string())]);
            if fixtures::flaky_passes_on(&commit) == passes {
                break commit;
            }
        };
        let end = watch.end(&fleet.push(&repository.path));
        let data = &end["payload"]["data"];
        assert_eq!(data["revision"]["commit"], commit.as_str(), "{end:#}");
        if passes {
            assert_eq!(end["type"], "test.completed", "{end:#}");
        } else {
            assert_eq!((&end["type"], &data["error"]["code"]), (&"test.failed".into(), &"TESTS_FAILED".into()));
            let [failure] = data["failures"].as_array().unwrap().as_slice() else { panic!("{data:#}") };
            assert!(failure["name"].as_str().unwrap().starts_with("test_it (test_sometimes."), "{data:#}");
        }
    }
}

fn steps(watch: &Watch, correlation: &str) -> Vec<String> {
    let data = watch.data(correlation, "build.completed");
    data["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

fn counts(suite: &Value) -> (&str, u64, u64) {
    (suite["name"].as_str().unwrap(), suite["passed"].as_u64().unwrap(), suite["skipped"].as_u64().unwrap())
}

/// What an archive in the fleet's store holds.
fn names(fleet: &Fleet, object: &Value) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (archive, tree) = (dir.path().join("archive"), dir.path().join("tree"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let objects = Objects::directory(&fleet.home().join("objects")).unwrap();
    let digest = object["digest"].as_str().unwrap().parse().unwrap();
    runtime.block_on(objects.get_file(&digest, &archive, 1 << 30)).unwrap();
    unpack(&archive, &tree, &ArchiveLimits { entries_max: 1000, bytes_max: 1 << 30 }).unwrap();
    list_tree(&tree, 1000).unwrap().iter().map(|path| path.display().to_string()).collect()
}

/// Every message of a fleet from now on, whole.
struct Watch {
    child: Child,
    file: std::path::PathBuf,
}

impl Watch {
    fn start(fleet: &Fleet) -> Self {
        let file = fleet.beside("watched");
        let out = File::create(&file).unwrap();
        let child = fleet.lota(&["watch", "--json"]).stdout(out).stderr(Stdio::null()).spawn().unwrap();
        let own = Self { child, file };
        let management = fleet.management();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        wait_for("the watch to be bound", Duration::from_secs(20), || {
            let bindings = runtime.block_on(management.bindings("lota")).ok()?;
            let is_bound = bindings.iter().any(|b| b.destination.starts_with("tmp.operator.") && !b.source.is_empty());
            is_bound.then_some(())
        });
        own
    }

    /// The message that ends a build with its tests.
    fn end(&self, correlation: &str) -> Value {
        wait_for(&format!("an end of {correlation}"), LIMIT, || {
            messages(&self.file)
                .into_iter()
                .find(|m| m["correlation_id"] == correlation && ENDS.iter().any(|end| m["type"] == *end))
        })
    }

    /// What a message of one type says.
    fn data(&self, correlation: &str, event_type: &str) -> Value {
        let all = messages(&self.file);
        let found = all.iter().find(|m| m["correlation_id"] == correlation && m["type"] == event_type);
        found.unwrap_or_else(|| panic!("no {event_type} in {correlation}"))["payload"]["data"].clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line may not be whole yet.
fn messages(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| line["body"].clone()).collect()
}
