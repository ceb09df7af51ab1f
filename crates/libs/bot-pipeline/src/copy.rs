//! A tree, copied: contents, links, modes and times of change, by which build tools see that nothing is new. Where the
//! file system can, the copy shares its blocks with what it was made from, and costs neither time nor disk.
use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::SystemTime,
};

use tokio::task::spawn_blocking;
use walkdir::WalkDir;

/// Copies what is in `from` into the folder `to`, which is there and empty. What is neither a file, a folder nor a link
/// is left. Nothing may write to either meanwhile.
pub async fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    spawn_blocking(move || copy(&from, &to)).await.map_err(io::Error::other)?
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut folders = Vec::new();
    for entry in WalkDir::new(from).min_depth(1) {
        let entry = entry?;
        let below = entry.path().strip_prefix(from).map_err(io::Error::other)?;
        let copy = to.join(below);
        let meta = entry.metadata()?;
        if meta.is_dir() {
            // Its own mode may forbid to put anything in; it gets that at the end.
            fs::DirBuilder::new().mode(0o700).create(&copy)?;
            folders.push((copy, meta));
        } else if meta.is_symlink() {
            symlink(fs::read_link(entry.path())?, &copy)?;
        } else if meta.is_file() {
            fs::copy(entry.path(), &copy)?;
            File::open(&copy)?.set_modified(changed(&meta))?;
        }
    }
    // The deepest first: whoever changes a folder's content changes its time.
    for (folder, meta) in folders.into_iter().rev() {
        File::open(&folder)?.set_modified(changed(&meta))?;
        fs::set_permissions(&folder, Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    Ok(())
}

/// A time that a file system holds and the clock does not counts as the beginning of time.
fn changed(meta: &fs::Metadata) -> SystemTime {
    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_copy_is_the_same_and_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("closed/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("closed/deep/run.sh"), "echo hello").unwrap();
        fs::set_permissions(from.join("closed/deep/run.sh"), Permissions::from_mode(0o555)).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for path in ["closed/deep/run.sh", "closed/deep"] {
            File::open(from.join(path)).unwrap().set_modified(long_ago).unwrap();
        }
        symlink("closed/deep/run.sh", from.join("link")).unwrap();
        symlink("/nowhere", from.join("dangling")).unwrap();
        fs::set_permissions(from.join("closed"), Permissions::from_mode(0o500)).unwrap();
        copy_tree(&from, &to).await.unwrap();
        assert_eq!(fs::read_to_string(to.join("link")).unwrap(), "echo hello");
        assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("/nowhere"));
        for path in ["closed", "closed/deep", "closed/deep/run.sh"] {
            let (a, b) = (from.join(path).metadata().unwrap(), to.join(path).metadata().unwrap());
            assert_eq!((a.mode(), a.modified().unwrap()), (b.mode(), b.modified().unwrap()), "{path}");
            assert_ne!(a.ino(), b.ino());
        }
        bot_clients::remove_tree(&from).unwrap();
        assert_eq!(fs::read_to_string(to.join("closed/deep/run.sh")).unwrap(), "echo hello");
        bot_clients::remove_tree(&to).unwrap();
    }
}
