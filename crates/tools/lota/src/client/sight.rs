//! Whether a fleet can read a repository of this machine by its path. "No" is always safe: then a bundle goes.
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::place::Place;

/// Why the fleet of `fleet` cannot be trusted to read all of `folders` (absolute, without links), which this process
/// can. None: it can.
pub(super) fn hidden(fleet: Option<&Place>, here: Option<&Place>, folders: &[PathBuf]) -> Option<String> {
    let (Some(fleet), Some(here)) = (fleet, here) else {
        return Some("where the fleet runs is not known".to_owned());
    };
    if !fleet.has_the_files_of(here) {
        return Some("the fleet runs on another machine or in a container".to_owned());
    }
    if fleet.uid == here.uid && fleet.uid != 0 {
        return None;
    }
    // Root is asked like anyone else: bots fetch in a sandbox that takes root's privileges away.
    let barred = folders.iter().flat_map(|folder| steps(folder)).find(|(path, bits)| !may(fleet.uid, path, *bits));
    barred.map(|(path, _)| format!("the fleet's user (uid {}) may not read {}", fleet.uid, path.display()))
}

/// The folder itself, to read and enter, and the folders above it, to pass through.
fn steps(folder: &Path) -> impl Iterator<Item = (&Path, u32)> {
    std::iter::once((folder, 0o5)).chain(folder.ancestors().skip(1).map(|above| (above, 0o1)))
}

/// By the bits for the owner or for everyone. Groups and access lists may allow more; that is not looked at.
fn may(uid: u32, path: &Path, bits: u32) -> bool {
    fs::metadata(path).is_ok_and(|found| {
        let granted = if found.uid() == uid { found.mode() >> 6 } else { found.mode() };
        granted & bits == bits
    })
}

/// What git reads of a repository whose folders these are: also where it borrows objects.
pub(super) fn with_borrowed(mut folders: Vec<PathBuf>, objects: &Path) -> io::Result<Vec<PathBuf>> {
    let alternates = match fs::read_to_string(objects.join("info/alternates")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    folders.push(objects.to_owned());
    folders.extend(alternates.lines().filter(|line| !line.is_empty()).map(|line| objects.join(line)));
    folders.into_iter().map(fs::canonicalize).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn place(boot: &str, mounts: &str, uid: u32) -> Place {
        serde_json::from_value(json!({ "boot": boot, "mounts": mounts, "uid": uid })).unwrap()
    }

    /// A folder below one with this mode.
    fn below(mode: u32) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(dir.path()).unwrap().join("shop");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        (dir, vec![folder])
    }

    #[test]
    fn another_machine_sees_nothing() {
        let (_dir, folders) = below(0o755);
        let here = place("b", "m", 1000);
        for other in [place("c", "m", 1000), place("b", "n", 1000)] {
            assert!(hidden(Some(&other), Some(&here), &folders).unwrap().contains("another machine"));
        }
        assert!(hidden(None, Some(&here), &folders).is_some());
        assert!(hidden(Some(&here), None, &folders).is_some());
        assert_eq!(hidden(Some(&here), Some(&here), &folders), None);
    }

    #[test]
    fn another_user_sees_what_everyone_may() {
        let own = nix::unistd::geteuid().as_raw();
        for (mode, uid, is_hidden) in [(0o755, own + 1, false), (0o711, own + 1, false), (0o700, own + 1, true)] {
            let (_dir, folders) = below(mode);
            let why = hidden(Some(&place("b", "m", uid)), Some(&place("b", "m", own)), &folders);
            assert_eq!(why.is_some(), is_hidden, "{mode:o} by {uid}: {why:?}");
        }
    }

    #[test]
    fn the_same_user_sees_its_own_and_root_only_by_the_bits() {
        let (dir, folders) = below(0o700);
        let owner = fs::metadata(dir.path()).unwrap().uid();
        let own = place("b", "m", owner);
        assert_eq!(hidden(Some(&own), Some(&own), &folders), None);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o000)).unwrap();
        let root = place("b", "m", 0);
        let why = hidden(Some(&root), Some(&root), &folders).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(why.contains("uid 0"), "{why}");
    }

    #[test]
    fn borrowed_objects_count() {
        let (dir, folders) = below(0o755);
        let (_lender, lent) = below(0o755);
        let objects = dir.path().join("objects");
        fs::create_dir_all(objects.join("info")).unwrap();
        fs::write(objects.join("info/alternates"), format!("{}\n", lent[0].display())).unwrap();
        let all = with_borrowed(folders, &objects).unwrap();
        assert_eq!((all.len(), all.last()), (3, lent.first()));
    }
}
