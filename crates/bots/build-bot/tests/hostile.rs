//! Repositories that are written to attack whoever fetches and builds them. Where git is concerned they run without walls, so
//! that whatever got through would be seen; and nothing that nobody trusts is run that way unless the operator says so.
#![allow(clippy::unwrap_used, reason = "a broken assumption ends the test")]
mod fixture;

use std::{fs, os::unix::fs::symlink};

use bot_messages::{Code, build::BuildCompleted};
use bot_sandbox::SandboxKind;
use build_bot::Config;
use fixture::{Fleet, Repository};

const PIPELINE: &str = "version: 1\nbuild: {steps: [{name: look, run: 'ls -A | tr \"\\n\" \" \"; cat plain.txt'}], artifacts: [plain.txt]}\n";
const OWN: &str = "- {match: '**', trust: own}\n";

fn without_walls() -> Config {
    Config { sandbox: Some(SandboxKind::ProcessGroup), ..Config::default() }
}

fn repository() -> Repository {
    let repository = Repository::new();
    repository.write(".lotabots.yaml", PIPELINE);
    repository.write("plain.txt", "as it was committed\n");
    repository
}

#[tokio::test]
async fn nothing_in_a_repository_is_run_by_fetching_it() {
    let fleet = Fleet::listing(OWN, &[], without_walls());
    let repository = repository();
    let trace = repository.add_every_hook();
    let evil = format!("touch {}", trace.display());
    repository.write(".gitattributes", "* filter=evil diff=evil merge=evil\n");
    for kind in ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv"] {
        repository.git(&["config", kind, &format!("cat; {evil}")]);
    }
    // Committed without going through the filters.
    let added = format!("160000,{},lib", "1".repeat(40));
    for args in [
        &["config", "--unset", "core.fsmonitor"][..],
        &["config", "--remove-section", "filter.evil"],
        &["update-index", "--add", "--cacheinfo", &added],
    ] {
        repository.git(args);
    }
    let modules = format!(
        "[submodule \"lib\"]\n\tpath = lib\n\turl = ext::sh -c {}\n\tupdate = !{evil}\n[submodule \"-u\"]\n\tpath = other\n\turl = -u./evil\n",
        evil.replace(' ', "% ")
    );
    repository.write(".gitmodules", &modules);
    repository.write(".git-is-a-file/.git-not", "gitdir: /root");
    repository.git(&["add", ".lotabots.yaml", "plain.txt", ".gitattributes", ".gitmodules", ".git-is-a-file"]);
    repository.git(&["commit", "--quiet", "--message", "evil"]);
    let commit = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
    repository.git(&["config", "filter.evil.smudge", &format!("cat; {evil}")]);
    repository.git(&["config", "core.fsmonitor", &evil]);
    // Committing ran the hooks.
    let _ = fs::remove_file(&trace);

    let run = fleet.run(&repository.revision(&commit)).await;
    let built: BuildCompleted = run.only_event("build.completed");
    assert!(!trace.exists(), "something of the repository was run");
    assert_eq!(fleet.unpack(&built.artifact).await["plain.txt"], "as it was committed\n");
    let mirror = fs::read_dir(fleet.mirrors()).unwrap().next().unwrap().unwrap().path();
    assert!(!mirror.join("modules").exists(), "no submodule is fetched");
    assert!(!fs::read_to_string(mirror.join("config")).unwrap().contains("evil"));
}

#[tokio::test]
async fn urls_and_refs_that_are_options_or_programs_reach_no_git() {
    let fleet = Fleet::listing(OWN, &[], without_walls());
    let repository = repository();
    let commit = repository.commit();
    let trace = repository.path().with_file_name("was-run");
    let touch = format!("touch {}", trace.display());
    for url in [
        format!("ext::sh -c {}", touch.replace(' ', "% ")),
        format!("--upload-pack={touch}"),
        format!("-u{touch}"),
        format!("ssh://-oProxyCommand={touch}/x"),
        format!("git@-oProxyCommand={touch}:x"),
        format!("fd::17/{}", repository.path().display()),
        format!("file://localhost{}", repository.path().display()),
    ] {
        let mut revision = repository.revision(&commit);
        revision.url = url;
        let run = fleet.run(&revision).await;
        assert_eq!(run.rejected(), Code::InvalidField, "{}", run.message());
    }
    // The commit is not there, so that the ref is asked for.
    for git_ref in [format!("--upload-pack={touch}"), "-x".to_owned(), format!("refs/heads/x;{touch}")] {
        let mut revision = repository.revision(&"2".repeat(40));
        revision.git_ref = git_ref;
        // Whoever hears the push refuses such a ref; git would, too.
        assert!(fleet.run(&revision).await.outcome.is_err());
    }
    assert!(!trace.exists());
}

#[tokio::test]
async fn what_a_step_leaves_in_place_of_its_products_leads_nowhere() {
    let fleet = Fleet::listing(OWN, &[], without_walls());
    let secret = repository();
    secret.write("dist/file", "canary");
    for (run, code, told) in [
        (
            format!("mkdir dist; ln -s {}/dist/file dist/file", secret.path().display()),
            Code::Rejected,
            "may leave the tree",
        ),
        (format!("ln -s {}/dist dist", secret.path().display()), Code::Rejected, "may leave the tree"),
        ("mkfifo dist".to_owned(), Code::InvalidPipeline, "matches no file"),
    ] {
        let repository = Repository::new();
        let text = format!("version: 1\nbuild: {{steps: [{{name: swap, run: '{run}'}}], artifacts: [dist]}}\n");
        repository.write(".lotabots.yaml", &text);
        let ran = fleet.run(&repository.revision(&repository.commit())).await;
        assert!(ran.rejected() == code && ran.message().contains(told), "{}", ran.message());
    }
    // In the source, too.
    let repository = repository();
    symlink(secret.path().join("dist"), repository.path().join("dist")).unwrap();
    let ran = fleet.run(&repository.revision(&repository.commit())).await;
    assert!(ran.rejected() == Code::FetchFailed && ran.message().contains("may leave the tree"), "{}", ran.message());
}

#[tokio::test]
async fn a_fork_leaves_nothing_that_another_build_finds() {
    let fleet =
        Fleet::listing("- {match: '**/fork', trust: fork}\n- {match: '**', trust: own}", &[], Config::default());
    let repository = Repository::new();
    let text = "version: 1\nbuild:\n  steps: [{name: see, run: 'cat target/poison || mkdir -p target; cat owner > target/poison'}]\n  cache: [target]\n";
    repository.write(".lotabots.yaml", text);
    repository.write("owner", "poison of the fork\n");
    repository.write("Cargo.lock", "1");
    let commit = repository.commit();
    let (own, fork) = (repository.path(), repository.path().with_file_name("fork"));
    fs::rename(&own, &fork).unwrap();
    let mut revision = repository.revision(&commit);
    revision.url = fork.display().to_string();
    let _: BuildCompleted = fleet.run_anew(&revision).await.only_event("build.completed");
    fs::rename(&fork, &own).unwrap();
    // The same commit, lock files and name, from where the team's own lies.
    let run = fleet.run_anew(&repository.revision(&commit)).await;
    let _: BuildCompleted = run.only_event("build.completed");
    let lines = run.record.lines().join("\n");
    assert!(!lines.contains("[see] poison") && lines.contains("nothing was kept by an earlier build"), "{lines}");
    // And the fork finds nothing of the team's.
    fs::rename(&own, &fork).unwrap();
    let lines = fleet.run_anew(&revision).await.record.lines().join("\n");
    assert!(!lines.contains("[see] poison"), "{lines}");
}

#[tokio::test]
async fn without_walls_only_the_teams_own_code_is_run_unless_the_operator_allows_it() {
    let repository = repository();
    let revision = repository.revision(&repository.commit());
    for trust in ["known", "fork"] {
        let list = format!("- {{match: '**', trust: {trust}}}\n");
        let refused = Fleet::listing(&list, &[], without_walls()).run(&revision).await;
        assert_eq!(refused.rejected(), Code::PermissionDenied);
        let message = refused.message();
        for part in ["process-group", "keeps nothing in", trust, "settings.allow_weak_sandbox"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let allowing = Config { allow_weak_sandbox: true, ..without_walls() };
        let _: BuildCompleted = Fleet::listing(&list, &[], allowing).run(&revision).await.only_event("build.completed");
        let walled = Config { sandbox: Some(SandboxKind::Bubblewrap), ..Config::default() };
        let _: BuildCompleted = Fleet::listing(&list, &[], walled).run(&revision).await.only_event("build.completed");
    }
    let _: BuildCompleted =
        Fleet::listing(OWN, &[], without_walls()).run(&revision).await.only_event("build.completed");
}
