//! `lota demo`: the main job on real input, from nothing to nothing: a push that goes through, one whose test fails, one
//! whose health check fails; then everything is stopped.
use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::{
    demo_app::DemoApp,
    down::{DownArgs, down},
    start::{UpArgs, up},
};
use crate::{
    client::{push, show},
    home::Home,
};

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
}

pub(crate) async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let code = super::doctor().await?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let dir = tempfile::Builder::new().prefix("lota-demo-").tempdir().context("no temporary folder can be made")?;
    let dir = dir.keep();
    let home = Home::new(&dir.join("fleet"))?;
    let begun = Instant::now();
    println!("\n== a fleet in {}", home.path().display());
    let result = tokio::select! {
        result = story(&home, &dir, args) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if args.keep && result.is_ok() {
        println!("\nthe fleet goes on: lota --home {} status", home.path().display());
        return result;
    }
    println!("\n== away again");
    if home.record()?.is_some() {
        down(&home, &DownArgs { apps: true }).await?;
    }
    if result.is_err() {
        println!("what it left for you to look at: {}", dir.display());
        return result;
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    println!("\nthe demo took {:.0} s. Try next:", begun.elapsed().as_secs_f64());
    println!("  target/demo/lota up --detach            a fleet that stays");
    println!("  target/demo/lota push . --follow        your own repository through it");
    println!("  target/demo/lota watch                  every message as it passes");
    result
}

async fn story(home: &Home, dir: &Path, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    up(home, &UpArgs { detach: true, monitor: "127.0.0.1:0".into() }).await?;
    if let Some(repo) = &args.repo {
        println!("\n== {repo}");
        return pushed(home, repo, args.git_ref.as_deref()).await;
    }
    let app = DemoApp::create(&dir.join("shop")).await?;
    let path = app.path.to_string_lossy().into_owned();

    println!("\n== a commit goes through: built, tested, deployed");
    expect(pushed(home, &path, None).await?, true, "the first push")?;
    answers(home, "version 1").await?;

    println!("\n== a commit with a failing test stops before it is deployed");
    app.change("cents * 120 / 100", "cents * 121 / 100", "Raise the tax").await?;
    expect(pushed(home, &path, None).await?, false, "the push with a failing test")?;
    answers(home, "version 1").await?;
    app.revert().await?;

    println!("\n== a commit whose health check fails is rolled back");
    app.change("\"/health\" => (200,", "\"/health\" => (500,", "Feel unwell").await?;
    expect(pushed(home, &path, None).await?, false, "the push with a failing health check")?;
    answers(home, "version 1").await?;
    app.revert().await?;

    println!("\n== a commit that is well again goes out");
    app.change("VERSION: &str = \"1\"", "VERSION: &str = \"2\"", "Version 2").await?;
    expect(pushed(home, &path, None).await?, true, "the last push")?;
    answers(home, "version 2").await?;
    Ok(ExitCode::SUCCESS)
}

/// Pushes, follows, and prints the tree of what happened.
async fn pushed(home: &Home, target: &str, git_ref: Option<&str>) -> anyhow::Result<ExitCode> {
    let args = push::PushArgs::followed(target, git_ref);
    let (code, correlation) = push::follow(home, args).await?;
    println!();
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
    let http = reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build()?;
    let monitor = home.monitor_url()?;
    let limit = Instant::now() + Duration::from_secs(15);
    let mut last = String::from("no application is known");
    while Instant::now() < limit {
        let body: serde_json::Value = http.get(format!("{monitor}/api/v1/applications")).send().await?.json().await?;
        let list = body.get("applications").unwrap_or(&body).clone();
        if let Some(url) = list.as_array().and_then(|l| l.first()).and_then(|a| a.get("url")).and_then(|u| u.as_str()) {
            match http.get(url).send().await {
                Ok(response) => {
                    response.text().await?.trim().clone_into(&mut last);
                    if last.contains(wanted) {
                        println!("   GET {url} -> {last}");
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
