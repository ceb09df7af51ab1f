//! What confines commands on this machine, and which toolchains it offers them. All of it comes from the runtime's
//! `Tools`.
use std::path::Path;

use bot_core::Tools;
use bot_pipeline::short_hash;
use bot_sandbox::{Options, Sandbox, SandboxError, SandboxKind, Search, Toolchains, split_path};

/// The kind that was asked for, else the strongest there is. What an earlier process of this bot left running is ended.
pub(crate) async fn sandbox(tools: &Tools, kind: Option<SandboxKind>) -> Result<Sandbox, SandboxError> {
    let options = Options {
        // By folder, as two fleets on one machine must not end each other's processes.
        owner: format!("build-bot:{}", short_hash(&tools.dir)),
        bwrap: tools.bwrap.clone(),
        path: split_path(&tools.path),
        state: tools.subdir("sandbox"),
        launcher: Some(Options::own_program()),
        kind,
    };
    let sandbox = Sandbox::detect(options).await?;
    sandbox.reap_stale("").await?;
    Ok(sandbox)
}

/// Compilers and interpreters.
pub(crate) fn toolchains(tools: &Tools) -> Toolchains {
    let home: &Path = tools.home.as_deref().unwrap_or(&tools.dir);
    Toolchains::find(&Search::new(&tools.path, home, &tools.toolchain_env))
}
