//! How this machine reaches the network, for commands that may.
use std::{collections::BTreeMap, path::PathBuf};

/// What the machine says about reaching the network, for git and for steps that may use it.
#[derive(Clone, Debug, Default)]
pub struct NetworkEnv {
    pub variables: BTreeMap<String, String>,
    /// Files the variables name.
    pub files: Vec<PathBuf>,
}

impl NetworkEnv {
    /// From what the runtime passes on. Tools differ in which case of a proxy's name they read, so they get both.
    pub fn of(machine: &BTreeMap<String, String>) -> Self {
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
