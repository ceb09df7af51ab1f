//! `lota demo`: the main job on real input, from nothing to nothing: a push that goes through, one whose test fails, one
//! whose health check fails; then everything is stopped.
use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::{
    demo_app::DemoApp,
    down::end,
    say::say,
    start::{UpArgs, detached},
    stop::{Stop, stopped},
};
use crate::{
    client::{push, show},
    home::Home,
};

/// Any port of this machine alone.
const MONITOR: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// A repository of yours, instead of the demo's
    #[arg(long)]
    repo: Option<String>,
    /// Its ref
    #[arg(long, id = "ref")]
    git_ref: Option<String>,
    /// Leave the fleet running
    #[arg(long)]
    keep: bool,
    /// One push through the fleet of --home, which runs already; says where the application answers
    #[arg(long, conflicts_with = "keep")]
    running: bool,
}

pub(crate) async fn demo(home: &Home, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if args.running {
        return pushed_to(home, args).await;
    }
    // Before anything else, so that no signal comes between a start and its end.
    let stop = Stop::install()?;
    let code = super::doctor().await?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let dir = tempfile::Builder::new().prefix("lota-demo-").tempdir().context("no temporary folder can be made")?;
    let dir = dir.keep();
    let home = Home::new(&dir.join("fleet"))?;
    let begun = Instant::now();
    say(format_args!("\n== a fleet in {}", home.path().display()));
    // By itself: when it is stopped, it ends what it started.
    let up = UpArgs { detach: true, monitor: MONITOR, tls: None, development: false };
    let up = detached(&home, &up, &stop).await;
    let ended = match up {
        Ok(_) => tokio::select! {
            result = story(&home, &dir, args) => result.map_err(Ended::Wrong),
            signal = stop.told() => Err(Ended::Stopped(signal)),
        },
        Err(_) if stop.is_told() => Err(Ended::Stopped(stop.told().await)),
        Err(e) => Err(Ended::Wrong(e)),
    };
    if args.keep && ended.is_ok() {
        say(format_args!("\nthe fleet goes on: lota --home {} status", home.path().display()));
        return Ok(ExitCode::SUCCESS);
    }
    say("\n== away again");
    end(&home, true).await?;
    if let Err(Ended::Wrong(e)) = ended {
        say(format_args!("what it left for you to look at: {}", dir.display()));
        return Err(e);
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    if let Err(Ended::Stopped(signal)) = ended {
        return Err(stopped(signal, "the demo was over; nothing is left of it"));
    }
    say(format_args!("\nthe demo took {:.0} s. Try next:", begun.elapsed().as_secs_f64()));
    say("  target/demo/lota up --detach            a fleet that stays");
    say("  target/demo/lota push . --follow        your own repository through it");
    say("  target/demo/lota watch                  every message as it passes");
    ended.map_or(Ok(ExitCode::FAILURE), Ok)
}

/// Through a fleet that is there, and stays as it is.
async fn pushed_to(home: &Home, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("lota-demo-").tempdir().context("no temporary folder can be made")?;
    let path = match &args.repo {
        Some(repo) => repo.clone(),
        None => DemoApp::create(&dir.path().join("shop")).await?.path.to_string_lossy().into_owned(),
    };
    let code = pushed(home, &path, args.git_ref.as_deref()).await?;
    if code == ExitCode::SUCCESS
        && let Some(url) = application(home).await?
    {
        say(format_args!("\nit answers at {url}"));
    }
    Ok(code)
}

/// Why it came to no good end.
enum Ended {
    Stopped(Signal),
    Wrong(anyhow::Error),
}

async fn story(home: &Home, dir: &Path, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if let Some(repo) = &args.repo {
        say(format_args!("\n== {repo}"));
        return pushed(home, repo, args.git_ref.as_deref()).await;
    }
    let app = DemoApp::create(&dir.join("shop")).await?;
    let path = app.path.to_string_lossy().into_owned();

    say("\n== a commit goes through: built, tested, deployed");
    expect(pushed(home, &path, None).await?, true, "the first push")?;
    answers(home, "version 1").await?;

    say("\n== a commit with a failing test stops before it is deployed");
    app.change("cents * 120 / 100", "cents * 121 / 100", "Raise the tax").await?;
    expect(pushed(home, &path, None).await?, false, "the push with a failing test")?;
    answers(home, "version 1").await?;
    app.revert().await?;

    say("\n== a commit whose health check fails is rolled back");
    app.change("\"/health\" => (200,", "\"/health\" => (500,", "Feel unwell").await?;
    expect(pushed(home, &path, None).await?, false, "the push with a failing health check")?;
    answers(home, "version 1").await?;
    app.revert().await?;

    say("\n== a commit that is well again goes out");
    app.change("VERSION: &str = \"1\"", "VERSION: &str = \"2\"", "Version 2").await?;
    expect(pushed(home, &path, None).await?, true, "the last push")?;
    answers(home, "version 2").await?;
    Ok(ExitCode::SUCCESS)
}

/// Pushes, follows, and prints the tree of what happened.
async fn pushed(home: &Home, target: &str, git_ref: Option<&str>) -> anyhow::Result<ExitCode> {
    let args = push::PushArgs::followed(target, git_ref);
    let (code, correlation) = push::follow(home, args).await?;
    say("");
    show::run(home, show::ShowArgs::of(&correlation)).await?;
    Ok(code)
}

fn expect(code: ExitCode, success: bool, what: &str) -> anyhow::Result<()> {
    if (code == ExitCode::SUCCESS) != success {
        bail!("{what} was expected to {}, and did not", if success { "go through" } else { "be stopped" });
    }
    Ok(())
}

/// The deployed application answers with this text.
async fn answers(home: &Home, wanted: &str) -> anyhow::Result<()> {
    let http = home.http()?.timeout(Duration::from_secs(3)).build()?;
    let limit = Instant::now() + Duration::from_secs(15);
    let mut last = String::from("no application is known");
    while Instant::now() < limit {
        if let Some(url) = application(home).await? {
            match http.get(&url).send().await {
                Ok(response) => {
                    response.text().await?.trim().clone_into(&mut last);
                    if last.contains(wanted) {
                        say(format_args!("   GET {url} -> {last}"));
                        return Ok(());
                    }
                }
                Err(e) => last = e.to_string(),
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    bail!("the application was expected to say `{wanted}`; it said: {last}")
}

/// The URL of the first application that the monitor knows.
async fn application(home: &Home) -> anyhow::Result<Option<String>> {
    let http = home.http()?.timeout(Duration::from_secs(3)).build()?;
    let monitor = home.monitor_url()?;
    let body: serde_json::Value = http.get(format!("{monitor}/api/v1/applications")).send().await?.json().await?;
    let list = body.get("applications").unwrap_or(&body);
    let first = list.as_array().and_then(|list| list.first());
    Ok(first.and_then(|first| first.get("url")).and_then(|url| url.as_str()).map(str::to_owned))
}
