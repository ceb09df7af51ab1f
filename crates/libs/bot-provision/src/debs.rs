//! Debian packages unpacked into a cache without root. What to unpack is worked out in `debs/resolve.rs`; nothing
//! here starts what was unpacked.

mod resolve;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Progress;
use crate::command::{CommandError, Finished, last_lines, run};
use crate::lock::lock;
use resolve::wanted_packages;

/// Everything after the lock is held: lists, 35 MB of downloads, unpacking. 15 s on a good line.
const LIMIT: Duration = Duration::from_mins(5);
/// Another process may need its whole limit before us.
const LOCK_LIMIT: Duration = Duration::from_secs(330);
const MARKER: &str = "lota-packages.json";
const SYSTEM_LISTS: &str = "/var/lib/apt/lists/";

/// What can be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bundle {
    /// rabbitmq-server and the Erlang it runs on: 35 MB to fetch, about 60 MB unpacked.
    RabbitMq,
    /// bubblewrap, 72 KB.
    Bubblewrap,
    /// openssh-server, 500 KB; for tests of deployments by ssh.
    SshServer,
    /// PostgreSQL's server and client, 50 MB to fetch; for tests of stores.
    PostgreSql,
}

impl Bundle {
    /// The Debian package, and the name of its folder in the cache.
    pub fn package(self) -> &'static str {
        match self {
            Self::RabbitMq => "rabbitmq-server",
            Self::Bubblewrap => "bubblewrap",
            Self::SshServer => "openssh-server",
            Self::PostgreSql => "postgresql",
        }
    }

    /// The program that is started, from the root of the unpacked tree.
    pub fn program(self) -> &'static str {
        match self {
            // Never the wrapper in /usr/sbin, which insists on its own user.
            Self::RabbitMq => "usr/lib/rabbitmq/bin/rabbitmq-server",
            Self::Bubblewrap => "usr/bin/bwrap",
            Self::SshServer => "usr/sbin/sshd",
            // Its programs are in a folder of its version, below this one.
            Self::PostgreSql => "usr/lib/postgresql",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DebsError {
    #[error(
        "cannot unpack {package} here: `{missing}` is missing, so this is not a Debian-like system; install {package} \
         with this system's own package manager"
    )]
    NotDebian { package: &'static str, missing: String },
    #[error(
        "expected `{command}` to succeed, but {outcome}; {package} could not be unpacked without root. With root: \
         `apt-get install {package}`"
    )]
    Command { package: &'static str, command: String, outcome: String },
    #[error(
        "expected {program} among the files of {package}, and it is not there; with root: `apt-get install {package}`"
    )]
    Incomplete { package: &'static str, program: &'static str },
    #[error(
        "the cache folder {path:?} must not contain spaces, quotes or control characters: RabbitMQ's scripts and apt's \
         configuration break on them; choose another folder"
    )]
    Folder { path: PathBuf },
    #[error("cannot use the package cache at {path}: {source}; make it writable or choose another folder")]
    Io { path: PathBuf, source: io::Error },
}

/// A folder that holds unpacked packages, shared by every process of every checkout that names it.
#[derive(Debug, Clone)]
pub struct PackageCache {
    dir: PathBuf,
}

/// Written last into a tree, so its presence says that the tree is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// Architecture and release of the system it was unpacked on: its libraries come from there.
    system: String,
    packages: BTreeMap<String, String>,
}

impl PackageCache {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The root of the unpacked tree, if it is there, whole, and made for this system.
    pub fn present(&self, what: Bundle) -> Option<PathBuf> {
        let root = self.root(what).canonicalize().ok()?;
        let marker: Marker = serde_json::from_slice(&std::fs::read(root.join(MARKER)).ok()?).ok()?;
        (marker.system == system() && root.join(what.program()).exists()).then_some(root)
    }

    /// Unpacks `what` unless it is there, and returns the root under which [`Bundle::program`] lies. Works as any
    /// user; what the system already has installed (other than Erlang) is not fetched again. Several processes may
    /// call this at once: one works, the others wait.
    pub async fn ensure(&self, what: Bundle, progress: Progress<'_>) -> Result<PathBuf, DebsError> {
        if let Some(root) = self.present(what) {
            return Ok(root);
        }
        let dir = self.folder()?;
        let package = what.package();
        // One for all bundles: they share apt's folder.
        let file = dir.join("lock");
        let held = lock(&file, LOCK_LIMIT, &format!("unpacks {package}"), progress).await;
        let _held = held.map_err(|source| at(&file, source))?;
        if let Some(root) = self.present(what) {
            return Ok(root);
        }
        let apt = Apt { package, dir: dir.clone(), deadline: Instant::now() + LIMIT, progress };
        // Inside the cache folder, so that the rename stays on one file system.
        let staging = dir.join(format!("{package}.staging"));
        let result = unpack(&apt, what, &staging, &self.root(what)).await;
        // Package lists are 20 MB and stale soon.
        for folder in [staging, dir.join("apt")] {
            let _ = std::fs::remove_dir_all(folder);
        }
        result?;
        self.present(what).ok_or(DebsError::Incomplete { package, program: what.program() })
    }

    fn root(&self, what: Bundle) -> PathBuf {
        self.dir.join("debs").join(what.package())
    }

    fn folder(&self) -> Result<PathBuf, DebsError> {
        let dir = self.dir.join("debs");
        std::fs::create_dir_all(&dir).map_err(|source| at(&dir, source))?;
        let dir = dir.canonicalize().map_err(|source| at(&dir, source))?;
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && !"\"'\\;{}".contains(c);
        match dir.to_str() {
            Some(text) if text.chars().all(fits) => Ok(dir),
            _ => Err(DebsError::Folder { path: dir }),
        }
    }
}

/// The folders of an unpacked tree that hold shared libraries, as LD_LIBRARY_PATH wants them; empty when it has none.
pub fn library_path(root: &Path) -> OsString {
    let mut found = Vec::new();
    for base in ["usr/lib", "lib"] {
        let Ok(entries) = std::fs::read_dir(root.join(base)) else {
            continue;
        };
        let triplets = entries.flatten().map(|entry| entry.path());
        found.extend(triplets.filter(|path| path.to_string_lossy().contains("-linux-gnu")));
    }
    std::env::join_paths(found).unwrap_or_default()
}

/// apt and dpkg with state of our own, all under one deadline.
struct Apt<'a> {
    package: &'static str,
    dir: PathBuf,
    deadline: Instant,
    progress: Progress<'a>,
}

/// Whose package lists are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    Systems,
    Ours,
}

impl Apt<'_> {
    /// Writes the configuration that keeps apt inside the cache. It is read after the system's (`-c`), so that it
    /// can clear hooks which would fail without root.
    fn configuration(&self, lists: Lists) -> Result<String, DebsError> {
        let (name, lists_dir) = match lists {
            Lists::Systems => ("apt-system.conf", SYSTEM_LISTS.to_owned()),
            Lists::Ours => ("apt-ours.conf", format!("{}/apt/lists/", self.dir.display())),
        };
        let apt = self.dir.join("apt");
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = apt.join(folder);
            std::fs::create_dir_all(&folder).map_err(|source| at(&folder, source))?;
        }
        let apt = apt.display();
        let text = format!(
            "Dir::State \"{apt}\";\nDir::State::Lists \"{lists_dir}\";\nDir::State::status \"/var/lib/dpkg/status\";\n\
             Dir::Cache \"{apt}/cache\";\nDir::Log \"{apt}\";\nDebug::NoLocking \"1\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"2\";\nAcquire::http::Timeout \"20\";\n\
             Acquire::https::Timeout \"20\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             APT::Update::Error-Mode \"any\";\n\
             APT::Sandbox::User \"{user}\";\n#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n",
            // As root apt drops to `_apt`, which may not write into the caller's folder.
            user = "root",
        );
        let path = self.dir.join(name);
        std::fs::write(&path, text).map_err(|source| at(&path, source))?;
        Ok(path.display().to_string())
    }

    async fn run(&self, program: &str, args: &[&str], dir: &Path) -> Result<Finished, DebsError> {
        let outcome = match run(program, args, dir, self.deadline, self.progress).await {
            Ok(finished) if finished.status.success() => return Ok(finished),
            Ok(finished) => {
                let said = last_lines(&format!("{}\n{}", finished.stdout, finished.stderr), 4);
                format!("it ended with {}: {said}", finished.status)
            }
            Err(CommandError::NotFound) => {
                return Err(DebsError::NotDebian { package: self.package, missing: program.to_owned() });
            }
            Err(CommandError::TimedOut) => {
                format!("{} s for fetching and unpacking were over (is the package mirror reachable?)", LIMIT.as_secs())
            }
            Err(CommandError::Io(error)) => error.to_string(),
        };
        Err(DebsError::Command { package: self.package, command: format!("{program} {}", args.join(" ")), outcome })
    }

    /// Downloads into `dir`, from the system's package lists if they know the packages and the mirror still has
    /// those versions, else from lists of our own.
    async fn fetch(&self, what: Bundle, dir: &Path) -> Result<(), DebsError> {
        (self.progress)(&format!("looking up what {} needs", self.package));
        match self.fetch_with(what, Lists::Systems, dir).await {
            Err(DebsError::Command { .. }) => {}
            done => return done,
        }
        (self.progress)("the system's package lists do not help: fetching our own");
        let conf = self.configuration(Lists::Ours)?;
        // Error-Mode any: else an update that fetched nothing counts as good, and the reason is lost.
        // A foreign source that fails makes the whole update fail, though Debian's own lists arrived: what counts is
        // whether the packages are found then.
        let updated = self.run("apt-get", &["-c", &conf, "update"], &self.dir).await;
        let fetched = self.fetch_with(what, Lists::Ours, dir).await;
        match (updated, fetched) {
            (_, Ok(())) => Ok(()),
            (Err(cause), Err(_)) => Err(cause),
            (Ok(_), Err(error)) => Err(error),
        }
    }

    async fn fetch_with(&self, what: Bundle, lists: Lists, dir: &Path) -> Result<(), DebsError> {
        let conf = self.configuration(lists)?;
        let packages = wanted_packages(self, what, &conf).await?;
        (self.progress)(&format!("fetching {} packages for {}", packages.len(), self.package));
        let mut args = vec!["-c", conf.as_str(), "-q", "download"];
        args.extend(packages.iter().map(String::as_str));
        self.run("apt-get", &args, dir).await.map(drop)
    }
}

async fn unpack(apt: &Apt<'_>, what: Bundle, staging: &Path, root: &Path) -> Result<(), DebsError> {
    let _ = std::fs::remove_dir_all(staging);
    let (archives, tree) = (staging.join("archives"), staging.join("tree"));
    for folder in [&archives, &tree] {
        std::fs::create_dir_all(folder).map_err(|source| at(folder, source))?;
    }
    apt.fetch(what, &archives).await?;
    let mut packages = BTreeMap::new();
    let files = files_in(&archives).map_err(|source| at(&archives, source))?;
    for (count, file) in files.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // name_version_architecture.deb, with the version's colon as %3a.
        let mut parts = name.split('_');
        if let (Some(package), Some(version)) = (parts.next(), parts.next()) {
            (apt.progress)(&format!("unpacking {package} ({} of {})", count + 1, files.len()));
            packages.insert(package.to_owned(), version.replace("%3a", ":"));
        }
        let (file, tree) = (file.to_string_lossy(), tree.to_string_lossy());
        apt.run("dpkg-deb", &["-x", &file, &tree], staging).await?;
    }
    if what == Bundle::RabbitMq {
        let erlang = tree.join("usr/lib/erlang");
        point_scripts_home(&erlang).map_err(|source| at(&erlang, source))?;
    }
    let marker = Marker { system: system(), packages };
    let text = serde_json::to_vec_pretty(&marker).map_err(|error| at(&tree, error.into()))?;
    std::fs::write(tree.join(MARKER), text).map_err(|source| at(&tree, source))?;
    // An old tree is of another release of the system; nothing of this system runs from it.
    let _ = std::fs::remove_dir_all(root);
    std::fs::rename(&tree, root).map_err(|source| at(root, source))
}

/// Erlang's start scripts name /usr/lib/erlang and ignore ERL_ROOTDIR. They are told to look beside themselves, so
/// that the tree may also be moved.
fn point_scripts_home(erlang: &Path) -> io::Result<()> {
    let mut folders = vec![(erlang.join("bin"), "..")];
    for entry in std::fs::read_dir(erlang)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("erts-")) {
            folders.push((path.join("bin"), "../.."));
        }
    }
    for (folder, up) in folders {
        for path in files_in(&folder)? {
            // Most are programs, not scripts.
            let Ok(text) = String::from_utf8(std::fs::read(&path)?) else {
                continue;
            };
            let patched = with_root(&text, up);
            if patched != text && text.starts_with("#!") {
                std::fs::write(&path, patched)?;
            }
        }
    }
    Ok(())
}

fn with_root(script: &str, up: &str) -> String {
    let home = format!(r#"ROOTDIR="$(cd "$(dirname "$(readlink -f "$0")")/{up}" && pwd -P)""#);
    script.replace("ROOTDIR=\"/usr/lib/erlang\"", &home).replace("ROOTDIR=/usr/lib/erlang", &home)
}

/// Regular files, sorted; links are left out.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("unknown").trim_matches('"').to_owned()
    };
    format!("{} {} {}", field("ID="), field("VERSION_ID="), std::env::consts::ARCH)
}

fn at(path: &Path, source: io::Error) -> DebsError {
    DebsError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_their_root_beside_themselves() {
        let script = "#!/bin/sh\n    ROOTDIR=/usr/lib/erlang\nBINDIR=x\n";
        let patched = with_root(script, "..");
        assert!(patched.contains(r#"ROOTDIR="$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd -P)""#));
        assert!(!patched.contains("/usr/lib/erlang"));
    }

    #[test]
    fn a_tree_without_marker_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::new(dir.path());
        let program = cache.root(Bundle::Bubblewrap).join(Bundle::Bubblewrap.program());
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, "").unwrap();
        assert_eq!(cache.present(Bundle::Bubblewrap), None);
    }

    #[tokio::test]
    async fn a_folder_with_spaces_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::new(dir.path().join("with space"));
        let error = cache.ensure(Bundle::RabbitMq, &|_| {}).await.unwrap_err();
        assert!(error.to_string().contains("must not contain spaces"), "{error}");
    }
}
