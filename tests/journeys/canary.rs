//! Secrets are planted in a fleet, and a repository prints them in every form, crashes with them, puts them into reports
//! and names of files. Then every place where bytes rest is searched for them.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aho_corasick::AhoCorasick;
use tests::{Fleet, Repository, get, succeeds, wait_for};

const LIMIT: Duration = Duration::from_secs(120);
const PRINT: &str = include_str!("canary.sh");
const STEP: &str = "step?Q7x&<\"9Lw2Zr 8Vt4Kp/+=~'m";
const KEY: &str = "-----BEGIN STEP-----\nkeyLine1AbCdEfGhIjKlMnOp\nkeyLine2QrStUvWxYz012345\n-----END STEP-----";
const SUITE: &str = "suite?T3v&<\"5Nb8Xc 1Yd6Jf/+=~'h";
const DEPLOY: &str = "deploy?R2u&<\"4Mz7Gq 9Wk3Bs/+=~'e";
/// Known by its shape to everybody.
const TOKEN: &str = "ghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2";
/// Where the operator keeps them.
const KEPT: [&str; 5] =
    ["secrets", "bots/build-bot/secrets", "bots/test-bot/secrets", "config/deploy-secrets", "broker/admin.password"];

const PIPELINE: &str = r#"version: 1
build:
  steps:
    - {name: print, run: 'S="$STEP" sh print.sh; S="$KEY" sh print.sh; git_url="https://me:$STEP@host"; set -x; echo "$KEY"; echo token:gh""p_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2', secrets: [STEP, KEY]}
    - {name: wait, run: 'sleep 3', secrets: [STEP]}
    - {name: BUILD, run: 'BUILD_RUN', secrets: [STEP, KEY]}
  artifacts: [ARTIFACTS]
test:
  suites:
    unit: {run: 'sh test.sh', secrets: [SUITE], reports: ['*.xml']}
deploy:
  live: {}
"#;
const TEST: &str = r#"S="$SUITE" sh print.sh
xml=$(S="$SUITE" sh print.sh 2>/dev/null | sed -n 's/^xml://p')
failure=
test -e fails && failure="<failure message=\"not $xml\">at src/$xml.rs:3 $(S="$SUITE" sh print.sh 2>/dev/null | sed 's/&/\&amp;/g; s/</\&lt;/g')</failure>"
echo "<testsuite><testcase name=\"with $xml\" time=\"1\">$failure<system-out>$xml</system-out></testcase></testsuite>" > report.xml
test -e breaks && echo "<$SUITE" > "$(printf %s "$SUITE" | od -An -v -tx1 | tr -d ' \n').xml"
test ! -e fails
"#;
const ENVIRONMENTS: &str = "live:
  repositories: ['*']
  refs: ['refs/heads/*']
  target:
    type: command
    deploy: 'S=\"$DEPLOY\" sh \"$LOTA_RELEASE/print.sh\"; kill -ABRT $$'
    secrets: [DEPLOY]
";

#[test]
fn no_planted_secret_rests_anywhere() {
    let fleet = planted();
    let passwords = passwords(&fleet);
    let watch = Watch::start(&fleet);
    let processes = Processes::look_at(&fleet);
    let push = |name: &str, build: &str, artifacts: &str, mark: &str, end: &str| {
        let pipeline = PIPELINE.replace("BUILD_RUN", build).replace("BUILD", name).replace("ARTIFACTS", artifacts);
        let files = [(".lotabots.yaml", pipeline.as_str()), ("print.sh", PRINT), ("test.sh", TEST), (mark, "")];
        let repository = Repository::create(&fleet.beside(name), &files);
        let correlation = fleet.push(&repository.path);
        wait_for(&format!("{end} of {name}"), LIMIT, || (fleet.said(&correlation, end) == 1).then_some(()));
    };
    push("deploys", "true", "print.sh", "passes", "deploy.failed");
    push("fails", r#"echo "failed with $STEP" >&2; kill -ABRT $$"#, "print.sh", "x", "build.failed");
    push("names", r#"touch "out-$(echo "$KEY" | sed -n 2p)""#, "out-*", "x", "build.failed");
    push("tests", "true", "print.sh", "fails", "test.failed");
    push("reports", "true", "print.sh", "breaks", "test.failed");
    let (seen_in_children, elsewhere) = processes.end();
    assert!(seen_in_children, "the processes that were given a secret were not looked at");
    assert_eq!(elsewhere, Vec::<String>::new());

    for bot in ["build-bot", "test-bot", "deploy-bot", "monitor-bot"] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", fleet.pid(bot))).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{bot}");
    }

    let beside: PathBuf = fleet.beside("answers");
    fs::create_dir(&beside).unwrap();
    for (n, path) in answers(&fleet).iter().enumerate() {
        let address = fs::read_to_string(fleet.home().join("bots/monitor-bot/http-address")).unwrap();
        let (status, body) = get(&format!("{}{path}", address.trim()));
        assert_eq!(status, 200, "{path}: {body}");
        fs::write(beside.join(n.to_string()), body).unwrap();
    }
    for (name, args) in [("dlq", ["dlq", "list"].as_slice()), ("status", &["status"]), ("jobs", &["jobs"])] {
        fs::write(beside.join(name), succeeds(&mut fleet.lota(args))).unwrap();
    }
    fs::copy(&watch.file, beside.join("said")).unwrap();
    fs::write(beside.join("queues"), queues(&fleet)).unwrap();

    let needles = needles(&passwords);
    let mut places = files(&beside);
    let kept: Vec<PathBuf> = KEPT.iter().map(|kept| fleet.home().join(kept)).collect();
    places.extend(files(fleet.home()).into_iter().filter(|file| !kept.iter().any(|kept| file.starts_with(kept))));
    // The search finds what is there: planted bytes, in each form, packed as objects are.
    let search = AhoCorasick::new(needles.iter().map(|(_, needle)| needle)).unwrap();
    for (name, needle) in &needles {
        let packed = zstd::encode_all(format!("x{needle}x").as_bytes(), 1).unwrap();
        assert!(search.is_match(&unpacked(packed)), "{name}");
    }
    assert!(files(&kept[1]).iter().any(|file| contains(&unpacked(fs::read(file).unwrap()), STEP)));
    let told: Vec<Vec<u8>> = places.iter().map(|file| unpacked(fs::read(file).unwrap_or_default())).collect();
    for mark in ["percent-lower:", "json-go:", "wrapped:", "failed with ", "with ***"] {
        assert!(
            told.iter().any(|bytes| contains(bytes, mark)),
            "`{mark}` was printed and is nowhere: too little is looked at"
        );
    }
    let mut found = BTreeSet::new();
    for (file, bytes) in places.iter().zip(&told) {
        assert!(!file.file_name().unwrap().to_string_lossy().starts_with("core"), "{}", file.display());
        let named = file.display().to_string();
        for hit in search.find_overlapping_iter(bytes).chain(search.find_overlapping_iter(named.as_bytes())) {
            let (name, needle) = &needles[hit.pattern()];
            found.insert(format!("{named} has {name}: {needle}"));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// A fleet whose operator has laid secrets down.
fn planted() -> Fleet {
    let fleet = Fleet::start();
    let home = fleet.home();
    let listed = "- {match: '/**', trust: own, secrets: [STEP, KEY, SUITE]}\n";
    fs::write(home.join("config/repositories.yaml"), listed).unwrap();
    fs::write(home.join("config/environments.yaml"), ENVIRONMENTS).unwrap();
    for (dir, name, value) in
        [(KEPT[1], "STEP", STEP), (KEPT[1], "KEY", KEY), (KEPT[2], "SUITE", SUITE), (KEPT[3], "DEPLOY", DEPLOY)]
    {
        fs::create_dir_all(home.join(dir)).unwrap();
        let file = home.join(dir).join(name);
        fs::write(&file, format!("{value}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    for bot in ["build-bot", "test-bot", "deploy-bot"] {
        fleet.kill(bot);
    }
    fleet
}

/// Of the broker's users.
fn passwords(fleet: &Fleet) -> Vec<(String, String)> {
    let all = files(&fleet.home().join("secrets")).into_iter();
    all.map(|file| (file.display().to_string(), fs::read_to_string(&file).unwrap().trim().to_owned())).collect()
}

/// What may be nowhere, by name: each form as another program than ours writes it.
fn needles(passwords: &[(String, String)]) -> Vec<(String, String)> {
    let mut needles = vec![("a token".to_owned(), TOKEN.chars().take(30).collect())];
    needles.extend(passwords.iter().cloned());
    for (name, value) in [("STEP", STEP), ("KEY", KEY), ("SUITE", SUITE), ("DEPLOY", DEPLOY)] {
        let printed = succeeds(Command::new("sh").args(["-c", PRINT]).env("S", value));
        let lines =
            printed.lines().flat_map(|line| line.split_once(':').map_or(vec![line], |(_, form)| vec![line, form]));
        // Of a line break in the encoding some characters at its ends belong to neither.
        let lines = lines.filter(|line| line.len() >= 16);
        needles.extend(lines.map(|line| (name.to_owned(), line.to_owned())));
        needles.extend(value.lines().map(|line| (name.to_owned(), line.to_owned())));
    }
    needles
}

fn answers(fleet: &Fleet) -> Vec<String> {
    let mut paths: Vec<String> =
        ["health", "bots", "correlations?limit=100", "jobs?limit=100", "alerts", "applications"]
            .iter()
            .map(|path| format!("/api/v1/{path}"))
            .collect();
    paths.push("/metrics".to_owned());
    for (list, id, path) in [("jobs", "id", "jobs"), ("correlations", "correlation_id", "correlations")] {
        for item in fleet.monitor(&format!("/api/v1/{list}?limit=100"))[list].as_array().unwrap() {
            let id = item[id].as_str().or(item["id"].as_str()).unwrap();
            paths.push(format!("/api/v1/{path}/{id}"));
            paths.extend((path == "jobs").then(|| format!("/api/v1/jobs/{id}/log")));
        }
    }
    paths
}

/// What lies in every queue.
fn queues(fleet: &Fleet) -> String {
    let management = fleet.management();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let names = runtime.block_on(management.queues("lota")).unwrap().into_iter().map(|queue| queue.name);
    let is_ours = |name: &String| !name.starts_with("tmp.");
    let peeked =
        names.filter(is_ours).map(|name| format!("{:?}", runtime.block_on(management.peek("lota", &name, 100))));
    peeked.collect::<Vec<_>>().join("\n")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// With its name, and with what is packed in it.
fn unpacked(bytes: Vec<u8>) -> Vec<u8> {
    let mut plain = Vec::new();
    match zstd::Decoder::new(bytes.as_slice()).map(|mut packed| packed.read_to_end(&mut plain)) {
        Ok(Ok(_)) => [bytes, plain].concat(),
        _ => bytes,
    }
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Looks again and again at what processes of the fleet show of themselves.
struct Processes {
    stop: Arc<AtomicBool>,
    looking: thread::JoinHandle<(bool, Vec<String>)>,
}

impl Processes {
    fn look_at(fleet: &Fleet) -> Self {
        let (stop, home) = (Arc::new(AtomicBool::new(false)), fleet.home().to_owned());
        let until = Arc::clone(&stop);
        let looking = thread::spawn(move || {
            let (mut in_children, mut elsewhere) = (false, Vec::new());
            while !until.load(Ordering::Relaxed) {
                let bots: BTreeMap<String, u32> =
                    serde_json::from_slice(&fs::read(home.join("pids.json")).unwrap_or_default()).unwrap_or_default();
                for pid in fs::read_dir("/proc").unwrap().flatten() {
                    let read = |name: &str| fs::read(pid.path().join(name)).unwrap_or_default();
                    let shows = |bytes: &[u8]| [STEP, KEY, SUITE, DEPLOY].iter().any(|secret| contains(bytes, secret));
                    let name = pid.file_name().to_string_lossy().into_owned();
                    if shows(&read("cmdline")) {
                        elsewhere.push(format!("cmdline of {name}"));
                    }
                    if shows(&read("environ")) {
                        in_children = true;
                        elsewhere.extend(
                            bots.values().any(|bot| bot.to_string() == name).then(|| format!("environ of {name}")),
                        );
                    }
                }
                thread::sleep(Duration::from_millis(50));
            }
            (in_children, elsewhere)
        });
        Self { stop, looking }
    }

    fn end(self) -> (bool, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().unwrap()
    }
}

/// Every message of a fleet from now on.
struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    fn start(fleet: &Fleet) -> Self {
        let file = fleet.beside("watched");
        let out = File::create(&file).unwrap();
        let child = fleet.lota(&["watch", "--json"]).stdout(out).stderr(Stdio::null()).spawn().unwrap();
        Self { child, file }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
