//! A detected pipeline as the file that says the same, for people to begin with. It reads back as what it was written
//! from.
use std::{collections::BTreeMap, fmt::Write};

use bot_messages::pipeline::{DeployStage, Patterns, Step, Suite};

use super::Detected;

const NO_SUITES: &str =
    "# No tests were recognised. A push without tests does not pass: name them, or say `test: {suites: {}}`.\n";

pub(super) fn write(detected: &Detected) -> String {
    let build = &detected.pipeline.build;
    let remark = |place: &str, indent: usize| {
        let text = detected.remarks.get(place);
        text.map(|text| format!("{:indent$}# {text}\n", "")).unwrap_or_default()
    };
    let mut out = format!("# A first pipeline file: {}.\nversion: 1\nbuild:\n", first_sentence(&detected.why()));
    if !build.steps.is_empty() {
        out += "  steps:\n";
    }
    for step in &build.steps {
        out += &remark(&format!("steps.{}", step.name), 4);
        out += &written_step(step);
    }
    for (key, all) in [("cache", &build.cache), ("artifacts", &build.artifacts), ("keep", &build.keep)] {
        if !all.is_empty() {
            out += &remark(key, 2);
            out += &format!("  {key}: {}\n", list(all));
        }
    }
    let suites = &detected.pipeline.test.suites;
    if !suites.is_empty() {
        out += "test:\n  suites:\n";
    } else if detected.kind == "static" {
        out += "test: {suites: {}}\n";
    } else {
        out += NO_SUITES;
    }
    for (name, suite) in suites {
        out += &remark(&format!("suites.{name}"), 4);
        out += &written_suite(name, suite);
    }
    if !detected.pipeline.deploy.is_empty() {
        out += &remark("deploy", 0);
        out += "deploy:\n";
    }
    for (name, stage) in &detected.pipeline.deploy {
        out += &written_deploy(name, stage);
    }
    out
}

fn first_sentence(why: &str) -> &str {
    why.split(';').next().unwrap_or(why)
}

fn written_step(step: &Step) -> String {
    let mut out = format!("    - name: {}\n", scalar(&step.name));
    out += &command(&step.run, 6);
    out += &more(step.network, &step.env, 6);
    out
}

fn written_suite(name: &str, suite: &Suite) -> String {
    let mut out = format!("    {}:\n", scalar(name));
    out += &command(&suite.run, 6);
    if !suite.reports.is_empty() {
        out += &format!("      reports: {}\n", list(&suite.reports));
    }
    out += &more(suite.network, &suite.env, 6);
    out
}

fn written_deploy(name: &str, stage: &DeployStage) -> String {
    let branch = |patterns: &Patterns| format!("  {}:\n    when: {{branch: {}}}\n", scalar(name), list(&patterns.0));
    stage.when.as_ref().map_or_else(|| format!("  {}: {{}}\n", scalar(name)), |when| branch(&when.branch))
}

/// Several lines as they are, and one that would need quotes too.
fn command(run: &str, indent: usize) -> String {
    if !run.contains(['\n', '\'', '"']) {
        return format!("{:indent$}run: {}\n", "", scalar(run));
    }
    let mut out = format!("{:indent$}run: |-\n", "");
    for line in run.lines() {
        // A string takes whatever is written to it.
        let _ = writeln!(out, "{:indent$}  {line}", "");
    }
    out
}

fn more(network: bool, env: &BTreeMap<String, String>, indent: usize) -> String {
    let mut out = if network { format!("{:indent$}network: true\n", "") } else { String::new() };
    if !env.is_empty() {
        let all: Vec<String> = env.iter().map(|(name, value)| format!("{name}: {}", scalar(value))).collect();
        out += &format!("{:indent$}env: {{{}}}\n", "", all.join(", "));
    }
    out
}

fn list(all: &[String]) -> String {
    let all: Vec<String> = all.iter().map(|item| scalar(item)).collect();
    format!("[{}]", all.join(", "))
}

/// Plain where nothing in it means something to YAML, quoted otherwise.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " ./_-=+".contains(c);
    let begins_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.' || c == '_');
    let is_word_of_yaml =
        ["true", "false", "null", "yes", "no", "on", "off", "."].contains(&text.to_lowercase().as_str());
    if begins_plain && !text.ends_with(' ') && text.chars().all(is_plain) && !is_word_of_yaml {
        return text.to_owned();
    }
    if text.chars().any(|c| c.is_control() || c == '\'') {
        // JSON's strings are YAML's too.
        return serde_json::Value::from(text).to_string();
    }
    format!("'{text}'")
}
