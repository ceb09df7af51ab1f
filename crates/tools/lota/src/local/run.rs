//! `lota run`: the stages of a pipeline file on this machine, in the sandbox and within the limits of a fleet's bots.
//! As in a fleet, the tests get the source, the artifacts and what is kept, and nothing else of the build.
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, bail};
use bot_clients::{detect, read_pipeline, unpack};
use bot_messages::pipeline::{FILE_NAME, Pipeline};
use bot_pipeline::{Combination, Folder, Images, Products, short_hash};
use bot_sandbox::{Engine, EngineChoice, EngineError, NetworkEnv, Options, Sandbox, SandboxKind, Search, Toolchains};
use tokio_util::sync::CancellationToken;

use super::{
    RunArgs,
    limits::BotLimits,
    source::Source,
    stage::{self, Done, Machine, Verdict},
};
use crate::{
    client::terminal::{plain, took},
    exit::Exit,
    up::{self, environment},
};

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    builds: bool,
    tests: bool,
    dir: PathBuf,
}

pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let request = match request(args.first.as_deref(), args.second.as_deref()) {
        Ok(request) => request,
        Err(why) => {
            eprintln!("lota: {why}");
            return Ok(ExitCode::from(Exit::Usage.code()));
        }
    };
    // Before there is anything to leave behind.
    let signals = up::Stop::install()?;
    let scratch = tempfile::Builder::new().prefix("lota-run-").tempdir().context("no temporary folder can be made")?;
    let scratch = std::fs::canonicalize(scratch.keep())?;
    let stop = CancellationToken::new();
    let work = staged(&request, &scratch, &stop);
    tokio::pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        signal = signals.told() => {
            stop.cancel();
            let _ = work.await;
            let number = u8::try_from(signal as i32).unwrap_or(u8::MAX);
            Ok(ExitCode::from(Exit::Stopped(number).code()))
        }
    };
    bot_pipeline::remove_tree(&scratch).await.with_context(|| format!("cannot remove {}", scratch.display()))?;
    result
}

/// `[STAGE] [DIR]`, either of them alone too.
fn request(first: Option<&str>, second: Option<&str>) -> Result<Request, String> {
    let (stage, dir) = match (first, second) {
        (Some(stage @ ("build" | "test")), dir) => (Some(stage), dir),
        (Some(dir), None) => (None, Some(dir)),
        (None, None) => (None, None),
        (stage, _) => {
            let stage = stage.unwrap_or_default();
            return Err(format!("`{stage}` is no stage: expected build or test, and then a folder"));
        }
    };
    let dir = Path::new(dir.unwrap_or("."));
    let found = dir.canonicalize().ok().filter(|dir| dir.is_dir());
    let dir = found.ok_or_else(|| format!("`{}` is neither a stage (build, test) nor a folder", dir.display()))?;
    Ok(Request { builds: stage != Some("test"), tests: stage != Some("build"), dir })
}

async fn staged(request: &Request, scratch: &Path, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let (build_limits, test_limits) = (BotLimits::of("build-bot")?, BotLimits::of("test-bot")?);
    let source = Source::of(&request.dir, scratch, build_limits.archives()).await?;
    let folder = Folder::make(scratch, "build", 1).await?;
    source.lay(&folder.tree())?;
    let (pipeline, origin) = match read_pipeline(&folder.tree()) {
        Ok(read) => read,
        Err(problem) => {
            eprintln!("lota: {problem}");
            return Ok(ExitCode::from(Exit::Data.code()));
        }
    };
    let products = match products(&pipeline) {
        Ok(products) => products,
        Err(why) => {
            eprintln!("lota: {FILE_NAME}: {why}");
            return Ok(ExitCode::from(Exit::Data.code()));
        }
    };
    introduce(&source, &pipeline, &origin, &folder, request);
    let machine = machine(scratch, stop, &pipeline, request).await?;
    let mut done = Vec::new();
    let mut archives = Vec::new();
    if request.builds {
        say("== build");
        done = stage::build(&machine, &pipeline, &source, &folder, &build_limits).await?;
        if all_well(&done) {
            let packed = pack(&products, &folder, scratch, &build_limits);
            done.push(packed.map_or_else(
                |why| Done { title: "artifacts".to_owned(), verdict: Verdict::Failed(0, why) },
                |(made, told)| {
                    archives = made;
                    Done { title: "artifacts".to_owned(), verdict: Verdict::Skipped(told) }
                },
            ));
        }
    }
    if request.tests && all_well(&done) && !pipeline.test.suites.is_empty() {
        say("== test");
        folder.remove().await?;
        let folder = Folder::make(scratch, "test", 1).await?;
        source.lay(&folder.tree())?;
        for archive in &archives {
            unpack(archive, &folder.tree(), &test_limits.archives())?;
        }
        done.extend(stage::test(&machine, &pipeline, &source, &folder, &test_limits).await?);
    }
    let is_untested = request.tests && all_well(&done) && pipeline.test.suites.is_empty();
    summary(&done, is_untested, begun);
    Ok(if all_well(&done) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for people; whoever closed the pipe has seen enough.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{}", plain(line));
}

fn all_well(done: &[Done]) -> bool {
    done.iter().all(|d| matches!(d.verdict, Verdict::Passed(_) | Verdict::Skipped(_)))
}

/// The patterns of `artifacts`, and of `keep` where there are any.
fn products(pipeline: &Pipeline) -> Result<Vec<(&'static str, Products)>, String> {
    let build = &pipeline.build;
    let sections = [("artifacts", &build.artifacts), ("keep", &build.keep)];
    let used = sections.into_iter().filter(|(_, patterns)| !patterns.is_empty());
    used.map(|(name, patterns)| Ok((name, Products::new(name, patterns).map_err(|e| e.to_string())?))).collect()
}

/// Archives of what the build leaves, and what they hold.
fn pack(
    products: &[(&'static str, Products)],
    folder: &Folder,
    scratch: &Path,
    limits: &BotLimits,
) -> Result<(Vec<PathBuf>, String), String> {
    let mut archives = Vec::new();
    let mut told = Vec::new();
    for (name, patterns) in products {
        let archive = scratch.join(format!("{name}.tar.zst"));
        let trees = [(PathBuf::new(), folder.tree())];
        let packed = patterns.pack_all(&trees, &archive, &limits.archives()).map_err(|e| e.to_string())?;
        told.push(format!("{name}: {} files, {} bytes", packed.entries, packed.bytes));
        archives.push(archive);
    }
    if told.is_empty() {
        told.push("none are asked for".to_owned());
    }
    Ok((archives, told.join("; ")))
}

async fn machine(
    scratch: &Path,
    stop: &CancellationToken,
    pipeline: &Pipeline,
    request: &Request,
) -> anyhow::Result<Machine> {
    let variables = environment::variables();
    let options = Options {
        owner: format!("lota-run:{}", short_hash(scratch)),
        bwrap: up::bubblewrap().await,
        path: environment::search_path(),
        state: scratch.join("sandbox"),
        launcher: Some(Options::own_program()),
        kind: None,
    };
    let sandbox = Sandbox::detect(options).await?;
    let why = sandbox.why_not_stronger().unwrap_or("there is no bubblewrap");
    match sandbox.kind() {
        SandboxKind::Bubblewrap => {}
        SandboxKind::Landlock => say(&format!("commands run in landlock, without a network of their own: {why}")),
        SandboxKind::ProcessGroup => say(&format!("not walled off: {why}")),
    }
    let path = variables.get("PATH").cloned().unwrap_or_default();
    let Some(home) = variables.get("HOME").map(PathBuf::from) else {
        bail!("HOME is not set: toolchains are looked for below it")
    };
    Ok(Machine {
        sandbox,
        toolchains: Toolchains::find(&Search::new(&path, &home, &variables)),
        network: NetworkEnv::of(&variables),
        stop: stop.clone(),
        images: images(pipeline, request, stop).await.map_err(|why| format!("image: {why}")),
        matrix: first_combination(pipeline),
    })
}

/// Whose machine it is decides which they are: all are taken.
async fn images(pipeline: &Pipeline, request: &Request, stop: &CancellationToken) -> Result<Images, EngineError> {
    let mut images = Images::default();
    for image in pipeline.build.steps.iter().filter(|_| request.builds).filter_map(|step| step.image.as_deref()) {
        let engine = Engine::find(EngineChoice::Auto, &environment::search_path()).await?;
        tokio::select! {
            added = images.add(&engine, image, &say) => added?,
            () = stop.cancelled() => return Ok(images),
        }
    }
    Ok(images)
}

fn first_combination(pipeline: &Pipeline) -> BTreeMap<String, String> {
    Combination::all(&pipeline.build.matrix).first().map(Combination::env).unwrap_or_default()
}

/// What is run, and by name what is not.
fn introduce(source: &Source, pipeline: &Pipeline, origin: &str, folder: &Folder, request: &Request) {
    say(&format!("{}: {}", request.dir.display(), source.told));
    match detect(&folder.tree()).filter(|_| origin != FILE_NAME) {
        Some(detected) => say(&format!("there is no {FILE_NAME}; {} (`lota init` writes the file)", detected.why())),
        None => say(&format!("the pipeline is {origin}")),
    }
    for what in only_in_a_fleet(pipeline, request) {
        say(&format!("only in a fleet: {what}"));
    }
}

fn only_in_a_fleet(pipeline: &Pipeline, request: &Request) -> Vec<String> {
    let build = &pipeline.build;
    let mut all = Vec::new();
    let mut add = |is_so: bool, what: &str| {
        if is_so {
            all.push(what.to_owned());
        }
    };
    let combination: Vec<String> =
        first_combination(pipeline).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let matrix = format!("build.matrix: here only the first combination is built, {}", combination.join(" "));
    add(request.builds && !build.matrix.is_empty(), &matrix);
    add(request.builds && !build.cache.is_empty(), "build.cache: here every run begins without");
    let by_more = |step: &bot_messages::pipeline::Step| {
        step.when.as_ref().is_some_and(|when| !when.path.is_empty() || !when.event.is_empty())
    };
    let conditions = "when.path and when.event: here only branch and tag are judged";
    add(request.builds && build.steps.iter().any(by_more), conditions);
    let suites = &pipeline.test.suites;
    let reports =
        "reports: here a suite is judged by its exit status; TestBot counts its tests too, and none is a failure";
    add(request.tests && !suites.is_empty(), reports);
    add(request.tests && suites.values().any(|s| !s.coverage.is_empty()), "coverage: here it is not read");
    let without_build = "the build: the suites find the source alone; `lota run` gives them the artifacts too";
    add(request.tests && !request.builds, without_build);
    add(!pipeline.deploy.is_empty(), "deploy: here nothing is deployed");
    all
}

fn summary(done: &[Done], is_untested: bool, begun: Instant) {
    say("== result");
    let width = done.iter().map(|d| d.title.chars().count()).max().unwrap_or(0);
    for Done { title, verdict } in done {
        let (word, time, why) = match verdict {
            Verdict::Passed(ms) => ("passed", took(*ms), ""),
            Verdict::Failed(ms, why) => ("failed", took(*ms), why.as_str()),
            Verdict::Skipped(why) => ("-", String::new(), why.as_str()),
            Verdict::NotRun(why) => ("not run", String::new(), why.as_str()),
        };
        say(format!("  {title:width$}  {word:7}  {time:>8}  {why}").trim_end());
    }
    if is_untested {
        say("  there are no suites: a fleet lets that pass only where the file says `test: {suites: {}}`");
    }
    let end = if all_well(done) { "all went well" } else { "not all went well" };
    say(&format!("{end}, after {}", took(begun.elapsed().as_millis() as u64)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_and_a_folder_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (path, real) = (dir.path().to_str().unwrap(), dir.path().canonicalize().unwrap());
        let both = Request { builds: true, tests: true, dir: real.clone() };
        assert_eq!(request(Some(path), None), Ok(both));
        let only = Request { builds: false, tests: true, dir: real };
        assert_eq!(request(Some("test"), Some(path)), Ok(only));
        assert!(request(None, None).is_ok_and(|r| r.builds && r.tests));
        for (first, second, words) in [("biuld", Some(path), "is no stage"), ("biuld", None, "neither a stage")] {
            let why = request(Some(first), second).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn what_only_a_fleet_does_is_named() {
        let text = "version: 1\nbuild: {matrix: {a: [x, y]}, cache: [t], steps: [{name: a, run: x, when: {path: b}}]}\ntest: {suites: {u: {run: x, coverage: [c]}}}\ndeploy: {local: {}}\n";
        let request = request(None, None).unwrap();
        let all = only_in_a_fleet(&Pipeline::parse(text).unwrap(), &request).join("\n");
        for word in ["MATRIX_A=x", "build.cache", "when.path", "exit status", "coverage", "deploy"] {
            assert!(all.contains(word), "{word}: {all}");
        }
        assert!(only_in_a_fleet(&Pipeline::parse("version: 1\n").unwrap(), &request).is_empty());
    }
}
