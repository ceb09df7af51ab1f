//! Which tools a build may find, as they say themselves. Asking all of them takes longer than many a build, so what they
//! said is remembered for as long as their files and those that choose among versions stay the same.
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bot_core::Fail;
use bot_pipeline::{End, Images, Secrets, Task};
use bot_sandbox::Toolchains;
use sha2::{Digest, Sha256};

use crate::{
    attempt::{Attempt, blocking},
    steps::Given,
};

/// Asked what they are; run in the source, as some of them look for their version there.
const TOOLS: [&str; 15] = [
    "cc", "c++", "clang", "make", "cmake", "rustc", "cargo", "go", "node", "npm", "python3", "java", "ruby", "php",
    "perl",
];
/// By which version managers choose for a folder.
const CHOOSING: [&str; 8] = [
    "rust-toolchain",
    "rust-toolchain.toml",
    ".tool-versions",
    ".python-version",
    ".nvmrc",
    ".node-version",
    ".ruby-version",
    ".java-version",
];
/// By which they choose for a whole machine; below the folders of toolchains.
const DEFAULTS: [&str; 3] = ["settings.toml", "toolchains", "version"];
/// Larger ones choose nothing.
const CHOOSING_BYTES_MAX: u64 = 64 << 10;
/// Sources that choose differently.
const REMEMBERED_MAX: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(60);

/// What was said, the latest last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered(Arc<Mutex<VecDeque<(String, String)>>>);

impl Remembered {
    fn find(&self, fingerprint: &str) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(one, _)| one == fingerprint).map(|(_, said)| said.clone())
    }

    fn keep(&self, fingerprint: String, said: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(one, _)| *one != fingerprint);
        if known.len() >= REMEMBERED_MAX {
            known.pop_front();
        }
        known.push_back((fingerprint, said));
    }
}

impl Attempt<'_> {
    /// What the tools said when they were asked last, if they look the same since then; else they are asked.
    pub(crate) async fn versions(&self) -> Result<Option<String>, Fail> {
        let fingerprint = self.fingerprint().await?;
        match self.bot.versions.find(&fingerprint) {
            Some(said) => Ok(Some(said)),
            None => self.ask_versions().await,
        }
    }

    /// What the tools say of themselves; none where they cannot be asked.
    pub(crate) async fn ask_versions(&self) -> Result<Option<String>, Fail> {
        let fingerprint = self.fingerprint().await?;
        let secrets = Secrets::default();
        let given = Given { secrets: &secrets, images: &Images::default() };
        let runner = self.runner(self.folder, BTreeMap::new(), given, &self.cx.cancelled);
        let task = Task {
            title: "asking the tools for their versions".to_owned(),
            run: script(),
            network: false,
            timeout: Some(TIMEOUT),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            services: Vec::new(),
            image: None,
        };
        let mut said = Vec::new();
        let ran = runner.run(&task, |line| said.push(line.to_owned())).await.map_err(Fail::retry)?;
        self.go_on()?;
        // Some leave files there, which must not look like what a step made.
        self.folder.empty_home().await.map_err(Fail::retry)?;
        if ran.end != End::Succeeded {
            return Ok(None);
        }
        let said = said.join("\n");
        self.bot.versions.keep(fingerprint, said.clone());
        Ok(Some(said))
    }

    async fn fingerprint(&self) -> Result<String, Fail> {
        let (toolchains, tree) = (self.bot.toolchains.clone(), self.folder.tree());
        blocking(move || fingerprint(&toolchains, &tree)).await
    }
}

fn script() -> String {
    let each = TOOLS.map(|tool| match tool {
        "go" => "if command -v go; then go version || true; fi".to_owned(),
        _ => format!("if command -v {tool}; then {tool} --version 2>&1 || true; fi"),
    });
    format!("{}\ncat /etc/os-release; uname -m", each.join("\n"))
}

/// Changes with the files of the tools, and with what chooses among them. Blocks.
fn fingerprint(toolchains: &Toolchains, tree: &Path) -> String {
    let mut hash = Sha256::new();
    let path = toolchains.path();
    for folder in path.split(':').map(Path::new) {
        for tool in TOOLS {
            hash.update(look_of(&folder.join(tool)));
        }
    }
    for folder in toolchains.read_only() {
        hash.update(look_of(folder));
        for name in DEFAULTS {
            hash.update(look_of(&folder.join(name)));
        }
    }
    hash.update(look_of(Path::new("/etc/os-release")));
    for name in CHOOSING {
        let file = tree.join(name);
        let is_small = fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= CHOOSING_BYTES_MAX);
        hash.update(if is_small { fs::read(&file).unwrap_or_default() } else { Vec::new() });
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

/// Which file it is, and when it was changed last; the link and what it points to.
fn look_of(path: &Path) -> String {
    let look = |meta: std::io::Result<fs::Metadata>| {
        meta.map_or(String::new(), |meta| {
            format!("{} {} {} {} {}", meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
        })
    };
    format!("{}: {}, {}\n", path.display(), look(fs::symlink_metadata(path)), look(fs::metadata(path)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bot_sandbox::Search;

    use super::*;

    #[test]
    fn another_tool_or_another_choice_is_another_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let (home, tree) = (dir.path().join("home"), dir.path().join("tree"));
        let cargo = home.join(".cargo/bin/cargo");
        for folder in [cargo.parent().unwrap(), &tree] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(&cargo, "1").unwrap();
        let toolchains = Toolchains::find(&Search::new("", &home, &BTreeMap::new()));
        let taken = || fingerprint(&toolchains, &tree);
        let first = taken();
        assert_eq!(taken(), first);
        fs::write(tree.join("main.c"), "int main() {}").unwrap();
        assert_eq!(taken(), first, "a source file chooses no tool");
        fs::write(tree.join("rust-toolchain.toml"), "[toolchain]\nchannel = \"1.95\"\n").unwrap();
        let chosen = taken();
        assert_ne!(chosen, first);
        fs::write(&cargo, "22").unwrap();
        assert_ne!(taken(), chosen);
    }

    #[test]
    fn what_was_said_is_remembered_within_a_limit() {
        let remembered = Remembered::default();
        for number in 0..=REMEMBERED_MAX {
            remembered.keep(number.to_string(), format!("said {number}"));
        }
        assert_eq!(remembered.find("0"), None);
        assert_eq!(remembered.find("1"), Some("said 1".to_owned()));
        remembered.keep("1".to_owned(), "said anew".to_owned());
        assert_eq!(remembered.find("1"), Some("said anew".to_owned()));
    }
}
