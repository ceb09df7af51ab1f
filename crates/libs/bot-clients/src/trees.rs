//! Removing what commands of others have left: folders that even their owner may not open, however deep.
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Removes a folder with all that is in it; fine if it is not there. Blocks. Nothing else may be at work in it.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(path);
            fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Each before it is read, or a closed folder would hide the closed ones in it. Links are not followed.
fn open_folders(path: &Path) {
    let mut closed = vec![path.to_owned()];
    while let Some(folder) = closed.pop() {
        let _ = fs::set_permissions(&folder, Permissions::from_mode(0o700));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        closed.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_folders_are_opened_to_the_deepest() {
        let dir = tempfile::tempdir().expect("a folder");
        let top = dir.path().join("top");
        let deepest = top.join("a/b/c/d");
        fs::create_dir_all(&deepest).expect("made");
        fs::write(deepest.join("file"), "x").expect("written");
        for folder in deepest.ancestors().take(5) {
            fs::set_permissions(folder, Permissions::from_mode(0o000)).expect("closed");
        }
        open_folders(&top);
        // Root may open what is closed, so the rights are looked at too.
        for folder in deepest.ancestors().take(5) {
            assert_eq!(fs::metadata(folder).expect("open").permissions().mode() & 0o777, 0o700, "{}", folder.display());
        }
        remove_tree(&top).expect("removed");
        assert!(!top.exists());
        remove_tree(&top).expect("what is not there is removed");
    }
}
