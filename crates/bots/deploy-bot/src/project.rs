//! Before a compose project is brought up: its file is resolved, looked at, and marked with the release. What was looked
//! at is what is run.
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bot_messages::{Code, Digest, FailureReason};
use bot_sandbox::SandboxKind;
use serde_json::Value;

use crate::{
    compose,
    environments::{INDEX, MANIFEST, Project, RESOLVED},
    report::Verdict,
    scripts::{Runner, ScriptEnd, Which, Work},
};

const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// More are told as a number.
const REASONS_TOLD: usize = 8;

impl Project {
    /// docker's socket without links on its way, as the sandbox wants it.
    pub(crate) fn real_socket(&self) -> Result<PathBuf, String> {
        self.socket.canonicalize().map_err(|error| {
            let shown = self.socket.display();
            format!("docker's socket {shown} is not there ({error}): start docker, or name its socket in target.socket")
        })
    }

    /// What the image of a release is called on this engine, as long as the release is kept.
    pub(crate) fn image(&self, digest: &Digest) -> Option<String> {
        self.archive.as_ref().map(|_| format!("lotabots/deployed:{}-{}", self.name, digest.hex()))
    }
}

impl Runner<'_> {
    /// Lays the resolved file down for the scripts that follow. Touches nothing outside.
    pub(crate) async fn prepare(&mut self, release: &Path, digest: &Digest) -> anyhow::Result<ScriptEnd> {
        let Some(project) = &self.scripts.project else { return Ok(ScriptEnd::Good) };
        if let Err(why) = project.real_socket() {
            return Ok(bad(Code::Unavailable, why));
        }
        if project.is_judged && self.host.sandbox.kind() != SandboxKind::Bubblewrap {
            let why = "a release's own compose file is read in bubblewrap alone, as it may name any file: install \
                       bubblewrap, or say target.allow_host";
            return Ok(bad(Code::PermissionDenied, why.to_owned()));
        }
        let work = Work::make(&self.environment.root.join("work"))?;
        match self.run_in(Which::Resolve, &project.resolve, &work).await? {
            ScriptEnd::Good => {}
            end => return Ok(end),
        }
        let read = |name: &str| read(&work.tree().join(name));
        if let Some(archive) = &project.archive
            && let Some(why) = compose::archive_beyond(&read(MANIFEST)?, &read(INDEX)?, &archive.name)
        {
            return Ok(bad(Code::PermissionDenied, format!("{} is refused: {why}", archive.archive)));
        }
        let mut config: Value = serde_json::from_str(&read(RESOLVED)?).context("docker compose wrote no JSON")?;
        if project.is_judged {
            let found = compose::beyond(&config, &project.name, release);
            if !found.is_empty() {
                return Ok(bad(Code::PermissionDenied, refused(&found)));
            }
        }
        if let Err(why) = compose::label(&mut config, digest) {
            return Ok(bad(Code::Rejected, why));
        }
        self.laid = Some(config.to_string());
        Ok(ScriptEnd::Good)
    }
}

fn refused(found: &[String]) -> String {
    let more = found.len().saturating_sub(REASONS_TOLD);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let told = found[..found.len().min(REASONS_TOLD)].join("; ");
    format!("the release's compose file is refused: {told}{more}. Leave it out, or the operator says target.allow_host")
}

fn bad(code: Code, message: String) -> ScriptEnd {
    ScriptEnd::Bad(Verdict { reason: FailureReason::Error, code, message, log_tail: Vec::new() })
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(|| format!("{} is no text", path.display()))?;
    Ok(text)
}
