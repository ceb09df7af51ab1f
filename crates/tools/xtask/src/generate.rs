//! `xtask gen`: the files that follow from the bots' contracts. Nothing here yet writes one.
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// Writes the generated files of the checkout at `root`, or with `check` only compares them.
pub(crate) fn run(_root: &Path, _check: bool) -> Result<ExitCode> {
    bail!("gen is not built yet, so no generated file can be written or compared")
}
