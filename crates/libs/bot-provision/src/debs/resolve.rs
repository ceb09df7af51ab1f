//! Which packages a bundle needs beyond what the system has, from `apt-cache depends` and dpkg's status. No downloads.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Apt, Bundle, DebsError};

/// package → its dependencies, each a list of alternatives.
type Depends = BTreeMap<String, Vec<Vec<String>>>;

/// The packages to fetch. The walk follows only what is needed to *run* the program (Erlang and shared libraries):
/// logrotate, adduser, socat or python3 are for an installation as a service.
pub(super) async fn wanted_packages(apt: &Apt<'_>, what: Bundle, conf: &str) -> Result<BTreeSet<String>, DebsError> {
    let args = [
        "-c",
        conf,
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
        what.package(),
    ];
    let depends = parse_depends(&apt.run("apt-cache", &args, &apt.dir).await?.stdout);
    let installed = installed(apt).await?;
    Ok(walk(what.package(), &depends, &installed))
}

async fn installed(apt: &Apt<'_>) -> Result<HashSet<String>, DebsError> {
    let format = "-f=${db:Status-Status} ${Package}\n";
    let listed = apt.run("dpkg-query", &["-W", format], &apt.dir).await?;
    let packages = listed.stdout.lines();
    Ok(packages.filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

fn walk(start: &str, depends: &Depends, installed: &HashSet<String>) -> BTreeSet<String> {
    let mut wanted = BTreeSet::from([start.to_owned()]);
    let mut open = vec![start.to_owned()];
    while let Some(package) = open.pop() {
        for alternatives in depends.get(&package).into_iter().flatten() {
            // Debian lists the usual one first.
            let Some(first) = alternatives.iter().find(|name| depends.contains_key(*name)) else {
                continue;
            };
            // Erlang is unpacked even where some of it is installed: its parts find each other in one folder only.
            // `postgresql` is a name for the version of this release.
            let needed = first.starts_with("erlang-")
                || is_postgresql(first)
                || (is_library(first) && !alternatives.iter().any(|name| installed.contains(name)));
            if needed && wanted.insert(first.clone()) {
                open.push(first.clone());
            }
        }
    }
    wanted
}

/// The server or the client of one version.
fn is_postgresql(package: &str) -> bool {
    let version = package.strip_prefix("postgresql-").map(|rest| rest.strip_prefix("client-").unwrap_or(rest));
    version.is_some_and(|version| !version.is_empty() && version.chars().all(|c| c.is_ascii_digit()))
}

fn is_library(package: &str) -> bool {
    // A C library of another release beside the system's loader crashes; it is also always installed.
    (package.starts_with("lib") || package.starts_with("zlib")) && package != "libc6"
}

/// Lines of `apt-cache depends --recurse`: a package at the margin, ` |Depends: x` where an alternative follows,
/// `  Depends: x` otherwise, and deeper the providers of a virtual `<x>`.
fn parse_depends(text: &str) -> Depends {
    let mut all = Depends::new();
    let mut package = String::new();
    let mut alternatives: Vec<String> = Vec::new();
    let mut more_follow = false;
    for line in text.lines() {
        if !line.starts_with(' ') {
            package = plain(line);
            all.entry(package.clone()).or_default();
            more_follow = false;
            continue;
        }
        let list = all.entry(package.clone()).or_default();
        if let Some((kind, name)) = line.split_once("Depends: ") {
            if !more_follow {
                alternatives = Vec::new();
                list.push(Vec::new());
            }
            more_follow = kind.contains('|');
            alternatives.push(plain(name));
        } else {
            alternatives.push(plain(line));
        }
        if let Some(last) = list.last_mut() {
            last.clone_from(&alternatives);
        }
    }
    all
}

/// Without `<…>` around a virtual one and the architecture behind a colon.
fn plain(name: &str) -> String {
    let name = name.trim().trim_matches(['<', '>']);
    name.split(':').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDS: &str = "rabbitmq-server
  Depends: adduser
 |Depends: erlang-base
  Depends: <erlang-base-hipe>
  Depends: erlang-crypto
  Depends: <python3:any>
    python3
adduser
  Depends: passwd
erlang-base
  PreDepends: libc6
  Depends: libsystemd0
    libelogind0
  Depends: libtinfo6
erlang-crypto
  Depends: erlang-base
  Depends: libssl3
libc6
libelogind0
libssl3
  Depends: libc6
libsystemd0
libtinfo6
passwd
  Depends: libpam0g
python3
  Depends: libpython3-stdlib
";

    fn wanted(installed: &[&str]) -> Vec<String> {
        let installed = installed.iter().map(|&name| name.to_owned()).collect();
        let wanted = walk("rabbitmq-server", &parse_depends(DEPENDS), &installed);
        wanted.into_iter().collect()
    }

    #[test]
    fn takes_erlang_and_missing_libraries_only() {
        assert_eq!(
            wanted(&["libc6", "libsystemd0", "libtinfo6"]),
            ["erlang-base", "erlang-crypto", "libssl3", "rabbitmq-server"]
        );
    }

    #[test]
    fn a_provider_that_is_installed_serves() {
        let wanted = wanted(&["libelogind0", "libtinfo6", "libssl3", "erlang-crypto"]);
        assert_eq!(wanted, ["erlang-base", "erlang-crypto", "rabbitmq-server"]);
    }

    #[test]
    fn alternatives_stay_together() {
        let depends = parse_depends(DEPENDS);
        let of = &depends["rabbitmq-server"];
        assert_eq!(of[1], ["erlang-base", "erlang-base-hipe"]);
        assert_eq!(of[2], ["erlang-crypto"]);
        assert_eq!(of[3], ["python3", "python3"]);
    }
}
