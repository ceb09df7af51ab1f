//! Finds compilers and interpreters that live outside the system's folders, and what it takes to use them inside.
//! Reads the file system, never the environment: the caller hands in what it knows.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::detect::{SYSTEM_PATH, find};

/// The caller's values of PATH (split), HOME, and the variables that move toolchains elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Search {
    pub path: Vec<PathBuf>,
    pub home: PathBuf,
    pub cargo_home: Option<PathBuf>,
    pub rustup_home: Option<PathBuf>,
    pub java_home: Option<PathBuf>,
}

impl Search {
    /// From PATH as it is, HOME, and the variables that are set.
    pub fn new(path: &str, home: &Path, variables: &BTreeMap<String, String>) -> Self {
        let named = |name: &str| variables.get(name).map(PathBuf::from);
        Self {
            path: split_path(path),
            home: home.to_owned(),
            cargo_home: named("CARGO_HOME"),
            rustup_home: named("RUSTUP_HOME"),
            java_home: named("JAVA_HOME"),
        }
    }
}

/// The folders of a PATH. Relative ones are left out: what they mean depends on where one stands.
pub fn split_path(path: &str) -> Vec<PathBuf> {
    path.split(':').map(PathBuf::from).filter(|folder| folder.is_absolute()).collect()
}

/// What to mount, what to add to PATH, what to set. The same in both kinds, as toolchains keep their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toolchains {
    read_only: Vec<PathBuf>,
    bins: Vec<PathBuf>,
    env: BTreeMap<String, String>,
    cargo_config: Option<PathBuf>,
}

/// Folders bubblewrap mounts anyway.
const SYSTEM: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/nix/store"];

impl Toolchains {
    /// Looks for cargo and rustup, node, python (pyenv too), go, java. What is not there is left out.
    pub fn find(search: &Search) -> Self {
        let mut found = Self::default();
        found.rust(search);
        found.python(search);
        for tool in ["node", "go"] {
            if let Some(file) = find(&search.path, tool) {
                found.installed(&file, &search.home);
            }
        }
        found.java(search);
        found
    }

    /// Mounted read-only at the same path.
    pub fn read_only(&self) -> &[PathBuf] {
        &self.read_only
    }

    /// Mirrors and proxies of the machine's cargo; its credentials stay out.
    pub fn cargo_config(&self) -> Option<&Path> {
        self.cargo_config.as_deref()
    }

    /// PATH of the command: toolchains first, then the system.
    pub fn path(&self) -> String {
        let bins = self.bins.iter().map(|bin| bin.display().to_string());
        bins.chain([SYSTEM_PATH.to_owned()]).collect::<Vec<_>>().join(":")
    }

    /// Variables toolchains need; `home` is HOME as the command sees it. Cargo's own folder is there, so that its
    /// registry is per workspace while compilers are shared.
    pub fn environment(&self, home: &Path) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.insert("CARGO_HOME".to_owned(), home.join(".cargo").display().to_string());
        env
    }

    fn rust(&mut self, search: &Search) {
        let cargo_home = search.cargo_home.clone().unwrap_or_else(|| search.home.join(".cargo"));
        let rustup_home = search.rustup_home.clone().unwrap_or_else(|| search.home.join(".rustup"));
        let config = cargo_home.join("config.toml");
        self.cargo_config = config.is_file().then_some(config);
        if cargo_home.join("bin/cargo").is_file() {
            self.mount(&cargo_home.join("bin"));
            self.bins.push(cargo_home.join("bin"));
            if rustup_home.join("toolchains").is_dir() {
                self.mount(&rustup_home);
                self.set("RUSTUP_HOME", &rustup_home);
            }
        } else if let Some(file) = find(&search.path, "cargo") {
            self.installed(&file, &search.home);
        }
    }

    fn python(&mut self, search: &Search) {
        let Some(file) = find(&search.path, "python3") else {
            return;
        };
        let root = file.parent().filter(|folder| folder.ends_with("shims")).and_then(Path::parent);
        match root.filter(|root| root.join("libexec/pyenv").is_file()) {
            Some(root) => {
                self.mount(root);
                self.bins.extend([root.join("shims"), root.join("bin")]);
                self.set("PYENV_ROOT", root);
            }
            None => self.installed(&file, &search.home),
        }
    }

    fn java(&mut self, search: &Search) {
        let named = search.java_home.as_ref().map(|home| home.join("bin/java")).filter(|file| file.is_file());
        let Some(file) = named.or_else(|| find(&search.path, "java")) else {
            return;
        };
        self.installed(&file, &search.home);
        if let Some(prefix) = file.canonicalize().ok().as_deref().and_then(Path::parent).and_then(Path::parent) {
            self.set("JAVA_HOME", prefix);
            // Debian keeps what a JDK reads at its start in /etc, behind links.
            let policy = prefix.join("conf/security/java.security").canonicalize().ok();
            let settings = policy.as_deref().and_then(Path::parent).and_then(Path::parent);
            if let Some(settings) = settings.filter(|folder| folder.starts_with("/etc") && *folder != Path::new("/etc"))
            {
                self.mount(settings);
            }
        }
    }

    /// A program at `<prefix>/bin/<name>` needs its prefix, wherever a link to it was found. One that lies in a folder
    /// as wide as HOME is mounted alone: the rest of that folder is nobody's business.
    fn installed(&mut self, file: &Path, home: &Path) {
        let Ok(real) = file.canonicalize() else { return };
        let Some(bin) = real.parent() else { return };
        let prefix = if bin.ends_with("bin") { bin.parent().unwrap_or(bin) } else { bin };
        let too_wide = home.starts_with(prefix) || prefix.components().count() < 3;
        let alone = too_wide || prefix == home.join(".local");
        self.mount(if alone { &real } else { prefix });
        let in_system_path = SYSTEM_PATH.split(':').any(|folder| bin == Path::new(folder));
        if !in_system_path && !self.bins.iter().any(|known| known == bin) {
            self.bins.push(bin.to_owned());
        }
    }

    fn mount(&mut self, path: &Path) {
        let is_there = SYSTEM.iter().any(|folder| path.starts_with(folder))
            || self.read_only.iter().any(|known| path.starts_with(known));
        if !is_there {
            self.read_only.push(path.to_owned());
        }
    }

    fn set(&mut self, name: &str, path: &Path) {
        self.env.insert(name.to_owned(), path.display().to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn program(path: &Path) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, "#!/bin/sh\n").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("runnable");
    }

    #[test]
    fn toolchains_outside_the_system_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        let home = root.path().canonicalize().expect("real").join("home");
        program(&home.join(".cargo/bin/cargo"));
        fs::write(home.join(".cargo/config.toml"), "").expect("written");
        fs::write(home.join(".cargo/credentials.toml"), "canary").expect("written");
        fs::create_dir_all(home.join(".rustup/toolchains")).expect("made");
        program(&home.join(".nvm/v20/bin/node"));
        program(&home.join("bin/go"));
        program(&home.join(".pyenv/shims/python3"));
        program(&home.join(".pyenv/libexec/pyenv"));
        let path = [".nvm/v20/bin", "bin", ".pyenv/shims"].map(|folder| home.join(folder)).to_vec();
        let found = Toolchains::find(&Search { path, home: home.clone(), ..Search::default() });
        let expected = [".cargo/bin", ".rustup", ".pyenv", ".nvm/v20", "bin/go"].map(|folder| home.join(folder));
        assert_eq!(found.read_only(), expected, "never HOME itself, never the credentials");
        assert_eq!(found.cargo_config(), Some(home.join(".cargo/config.toml").as_path()));
        assert!(found.path().starts_with(&home.join(".cargo/bin").display().to_string()));
        assert!(found.path().ends_with(SYSTEM_PATH));
        let env = found.environment(Path::new("/srv/bot"));
        assert_eq!(env.get("CARGO_HOME").map(String::as_str), Some("/srv/bot/.cargo"));
        assert_eq!(env.get("RUSTUP_HOME"), Some(&home.join(".rustup").display().to_string()));
        assert_eq!(env.get("PYENV_ROOT"), Some(&home.join(".pyenv").display().to_string()));
    }

    #[test]
    fn nothing_found_is_the_system_alone() {
        let found = Toolchains::find(&Search { home: "/nowhere".into(), ..Search::default() });
        assert!(found.read_only().is_empty());
        assert_eq!(found.path(), SYSTEM_PATH);
    }
}
