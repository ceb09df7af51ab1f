//! Nothing leaks: neither to what runs nor from it. Alone in its file, as it counts the descriptors of its process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use bot_sandbox::SandboxKind;
use support::{Fixture, open_files};

#[tokio::test]
async fn runs_leave_no_descriptors_in_any_kind() {
    for kind in [SandboxKind::Bubblewrap, SandboxKind::Landlock, SandboxKind::ProcessGroup] {
        runs_leave_no_descriptors(kind).await;
    }
}

async fn runs_leave_no_descriptors(kind: SandboxKind) {
    let test = Fixture::new(kind).await;
    let outcome = test.run("ls /proc/self/fd").await;
    // Nothing of ours: only what whoever started the tests lets through, and the folder ls reads.
    let passed_on = support::inheritable();
    let added: Vec<&String> = outcome.tail.iter().filter(|fd| !passed_on.contains(fd)).collect();
    assert_eq!(added, ["3"]);
    let before = open_files();
    for _ in 0..10 {
        test.run("echo x; sleep TOKEN & exit 3").await;
    }
    assert_eq!(open_files(), before);
    test.assert_nothing_left().await;
}
