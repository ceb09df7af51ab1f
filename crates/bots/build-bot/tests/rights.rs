//! What a repository may have: secrets, credentials, environments; and that none of it shows.
#![allow(clippy::unwrap_used, reason = "a broken assumption ends the test")]
mod fixture;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bot_messages::{
    Code,
    build::{BuildCompleted, BuildFailed},
};
use build_bot::Config;
use fixture::{Fleet, Repository, Run};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

const CANARY: &str = "canary-5f1d2c3b4a";

fn pipeline(text: &str) -> Repository {
    let repository = Repository::new();
    repository.write(".lotabots.yaml", &format!("version: 1\n{text}"));
    repository
}

#[track_caller]
fn nothing_shows(run: &Run, texts: &[&str]) {
    let lines = run.record.lines().join("\n");
    for form in [CANARY.to_owned(), STANDARD.encode(CANARY), "Y2FuYXJ5LTVm".to_owned()] {
        for text in texts.iter().chain([&lines.as_str()]) {
            assert!(!text.contains(&form), "{form}: {text}");
        }
    }
}

#[tokio::test]
async fn a_secret_reaches_the_step_that_names_it_and_no_line() {
    let list = "- {match: '**', trust: own, secrets: [TOKEN]}\n";
    let fleet = Fleet::listing(list, &[("TOKEN", "canary-5f1d2c3b4a\n")], Config::default());
    let step = "test ${#TOKEN} = 17; echo plain $TOKEN; printf %s $TOKEN | base64; echo \"u:$TOKEN\" | base64; env | grep TOKEN";
    let repository = pipeline(&format!(
        "build:\n  steps:\n    - {{name: other, run: 'test -z \"$TOKEN\"; ! grep -rs canary-5f1 /proc/*/environ'}}\n    - name: uses\n      run: |\n        {step}\n      secrets: [TOKEN]\n"
    ));
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    let done: BuildCompleted = run.only_event("build.completed");
    let log = fleet.text(&done.log).await;
    assert!(log.contains("[uses] plain ***\n[uses] ***") && log.contains("[uses] TOKEN=***\n"), "{log}");
    nothing_shows(&run, &[&log, &serde_json::to_string(&done).unwrap()]);
}

#[tokio::test]
async fn the_last_lines_of_a_failed_step_show_no_secret() {
    let list = "- {match: '**', trust: known, secrets: [TOKEN]}\n";
    let fleet = Fleet::listing(list, &[("TOKEN", CANARY)], Config::default());
    let repository = pipeline("build: {steps: [{name: a, run: 'echo $TOKEN >&2; exit 1', secrets: [TOKEN]}]}\n");
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.rejected(), Code::CommandFailed);
    let failed: BuildFailed = run.gave_up(&fleet);
    assert_eq!(failed.log_tail[0], "***");
    let log = fleet.text(failed.log.as_ref().unwrap()).await;
    nothing_shows(&run, &[&log, &serde_json::to_string(&failed).unwrap()]);
}

#[tokio::test]
async fn a_secret_that_cannot_be_given_fails_the_build_and_says_why() {
    let repository = pipeline("build: {steps: [{name: a, run: echo ran, secrets: [TOKEN]}]}\n");
    let revision = repository.revision(&repository.commit());
    for (list, secrets, code, words) in [
        ("- {match: '**', trust: own}", &[("TOKEN", CANARY)][..], Code::PermissionDenied, "lists none for it"),
        ("- {match: '**', trust: own, secrets: [TOKEN]}", &[], Code::Rejected, "there is no secret `TOKEN`"),
        ("- {match: '**', trust: fork}", &[("TOKEN", CANARY)], Code::PermissionDenied, "lists none for it"),
    ] {
        let fleet = Fleet::listing(list, secrets, Config::default());
        let run = fleet.run(&revision).await;
        assert_eq!(run.rejected(), code, "{list}");
        assert!(run.message().contains(words), "{}", run.message());
        assert!(!run.record.lines().join("\n").contains("[a]"), "no step ran");
        nothing_shows(&run, &[&run.message()]);
    }
    // Nobody needs what a step names that is not run.
    let skipped = pipeline("build: {steps: [{name: a, run: echo ran, secrets: [TOKEN], when: {branch: release}}]}\n");
    let run = Fleet::new().run(&skipped.revision(&skipped.commit())).await;
    let _: BuildCompleted = run.only_event("build.completed");
}

#[tokio::test]
async fn a_build_goes_on_to_the_environments_its_repository_may_use() {
    let repository = pipeline("build: {steps: [{name: a, run: echo fine}]}\ndeploy: {staging: {}, production: {}}\n");
    let revision = repository.revision(&repository.commit());
    for (item, stages, words) in [
        ("trust: own", &["production", "staging"][..], ""),
        (
            "trust: own, environments: [staging]",
            &["staging"],
            "[deploy] production is left out: repositories.yaml lists staging",
        ),
        ("trust: own, environments: []", &[], "repositories.yaml lists none"),
        ("trust: fork", &[], "[deploy] production is left out: a fork is not deployed"),
    ] {
        let fleet = Fleet::listing(&format!("- {{match: '**', {item}}}"), &[], Config::default());
        let done: BuildCompleted = fleet.run(&revision).await.only_event("build.completed");
        assert_eq!(done.deploy.keys().collect::<Vec<_>>(), stages, "{item}");
        let log = fleet.text(&done.log).await;
        assert!(log.contains(words), "{log}");
    }
}

#[tokio::test]
async fn a_job_of_a_repository_that_is_no_longer_listed_is_refused() {
    let repository = pipeline("build: {steps: [{name: a, run: echo ran}]}\n");
    let fleet = Fleet::listing("- {match: /elsewhere, trust: own}", &[], Config::default());
    let run = fleet.run(&repository.revision(&repository.commit())).await;
    assert_eq!(run.rejected(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_credential_opens_its_server_and_shows_nowhere() {
    let repository = pipeline("build: {steps: [{name: look, run: 'ls -a ~; env'}]}\n");
    let commit = repository.commit();
    let server = Server::start(&repository.served()).await;
    let mut revision = repository.revision(&commit);
    revision.url = server.url.clone();
    let config = Config { allow_unencrypted: true, ..Config::default() };
    let list = format!("- {{match: '{}', trust: own, credential: forge}}", revision.url);
    let fleet = Fleet::listing(&list, &[("credentials/forge", CANARY)], config.clone());
    let run = fleet.run(&revision).await;
    let done: BuildCompleted = run.only_event("build.completed");
    assert!(server.opened.load(Ordering::SeqCst) > 0 && server.refused.load(Ordering::SeqCst) == 0);
    let log = fleet.text(&done.log).await;
    nothing_shows(&run, &[&log, &serde_json::to_string(&done).unwrap()]);
    assert!(!fleet.keeps(CANARY) && !fleet.keeps(&STANDARD.encode(format!("oauth2:{CANARY}"))));

    let wrong = Fleet::listing(&list, &[("credentials/forge", "canary-5f1d2c3b4a-old")], config.clone());
    let run = wrong.run(&revision).await;
    assert_eq!(run.rejected(), Code::FetchFailed);
    nothing_shows(&run, &[&run.message()]);
    let without = Fleet::with(config);
    assert_eq!(without.run(&revision).await.rejected(), Code::FetchFailed);
}

/// Serves files to whoever has the token.
struct Server {
    url: String,
    opened: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
}

impl Server {
    async fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/served.git", listener.local_addr().unwrap());
        let own = Self { url, opened: Arc::default(), refused: Arc::default() };
        let (root, opened, refused) = (root.to_owned(), own.opened.clone(), own.refused.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = if answer(stream, root.clone()).await { &opened } else { &refused };
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        own
    }
}

/// Whether the token was right.
async fn answer(stream: TcpStream, root: PathBuf) -> bool {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) < 3 {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let want = format!("Authorization: Basic {}", STANDARD.encode(format!("oauth2:{CANARY}")));
    let is_known = head.contains(&want);
    let path = head.first().and_then(|line| line.split([' ', '?']).nth(1)).unwrap_or_default().to_owned();
    let file = path.strip_prefix("/served.git/").map(|name| root.join(name));
    let (status, body) = match file.and_then(|file| fs::read(file).ok()) {
        _ if !is_known => ("401 Unauthorized", Vec::new()),
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&[answer.as_bytes(), &body].concat()).await;
    is_known
}
