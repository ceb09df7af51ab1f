//! What this machine offers: a sandbox, toolchains, ways to the network. All of it comes from the runtime's `Tools`.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bot_core::Tools;
use bot_sandbox::{Options, Sandbox, SandboxError, Search, Toolchains};
use sha2::{Digest, Sha256};

/// The strongest there is. What an earlier process of this bot left running is ended.
pub(crate) async fn sandbox(tools: &Tools) -> Result<Sandbox, SandboxError> {
    let options = Options {
        // By folder, as two fleets on one machine must not end each other's processes.
        owner: format!("build-bot:{}", short_hash(&tools.dir)),
        bwrap: tools.bwrap.clone(),
        path: split_path(&tools.path),
        state: tools.subdir("sandbox"),
        try_bubblewrap: true,
    };
    let sandbox = Sandbox::detect(options).await?;
    sandbox.reap_stale("").await?;
    Ok(sandbox)
}

/// Compilers and interpreters.
pub(crate) fn toolchains(tools: &Tools) -> Toolchains {
    let named = |name: &str| tools.toolchain_env.get(name).map(PathBuf::from);
    Toolchains::find(&Search {
        path: split_path(&tools.path),
        home: tools.home.clone().unwrap_or_else(|| tools.dir.clone()),
        cargo_home: named("CARGO_HOME"),
        rustup_home: named("RUSTUP_HOME"),
        java_home: named("JAVA_HOME"),
    })
}

/// What the machine says about reaching the network, for git and for steps that may use it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkEnv {
    pub(crate) variables: BTreeMap<String, String>,
    /// Files the variables name.
    pub(crate) files: Vec<PathBuf>,
}

impl NetworkEnv {
    /// From what the runtime passes on. Tools differ in which case of a proxy's name they read, so they get both.
    pub(crate) fn of(machine: &BTreeMap<String, String>) -> Self {
        let mut own = Self::default();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            if let Some(value) = machine.get(name) {
                own.variables.insert(name.to_owned(), value.clone());
                own.variables.insert(name.to_lowercase(), value.clone());
            }
        }
        if let Some(file) = machine.get("SSL_CERT_FILE").map(PathBuf::from).filter(|f| f.is_absolute() && f.is_file()) {
            for name in ["SSL_CERT_FILE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO"] {
                own.variables.insert(name.to_owned(), file.display().to_string());
            }
            own.files.push(file);
        }
        own
    }
}

/// A path as a short word.
pub(crate) fn short_hash(path: &Path) -> String {
    hex::encode(Sha256::digest(path.as_os_str().as_encoded_bytes()))[..16].to_owned()
}

fn split_path(path: &str) -> Vec<PathBuf> {
    path.split(':').map(PathBuf::from).filter(|folder| folder.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_come_in_both_cases() {
        let env = NetworkEnv::of(&[("HTTPS_PROXY".to_owned(), "http://p:1".to_owned())].into());
        assert_eq!(env.variables.keys().collect::<Vec<_>>(), ["HTTPS_PROXY", "https_proxy"]);
        assert!(env.files.is_empty());
    }
}
