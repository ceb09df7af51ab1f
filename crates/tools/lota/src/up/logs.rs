//! The log files of a fleet's processes: bounded, with one older part each.
use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Of one file; so much again lies in its older part.
const BYTES_MAX: u64 = 10 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Keeps every `*.log` of one folder within its limit.
pub(super) struct Logs {
    dir: PathBuf,
    bytes_max: u64,
    looked: Option<Instant>,
}

impl Logs {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, bytes_max: BYTES_MAX, looked: None }
    }

    /// Called often, looks now and then.
    pub(super) fn attend(&mut self) -> io::Result<()> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        self.cut()
    }

    /// Cuts those that are too long; the error is the first.
    fn cut(&self) -> io::Result<()> {
        let mut result = Ok(());
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log")
                && fs::metadata(&path)?.len() > self.bytes_max
            {
                result = result.and(rotate(&path));
            }
        }
        result
    }
}

/// Copies and then empties, since the processes have the file open (to append). What one writes in between is lost: a
/// few lines in ten million bytes. Where there is no room for a copy, room counts more than old lines.
fn rotate(path: &Path) -> io::Result<()> {
    let older = path.with_extension("log.1");
    let copied = fs::copy(path, &older).map(drop);
    if copied.is_err() {
        let _ = fs::remove_file(&older);
    }
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    copied
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_is_written_stays_within_its_limit_with_one_older_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.log");
        fs::write(dir.path().join("other.txt"), [b'x'; 200]).unwrap();
        let logs = Logs { bytes_max: 100, ..Logs::new(dir.path().to_owned()) };
        let mut bot = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for round in 0..50 {
            writeln!(bot, "line {round} of what a bot says").unwrap();
            logs.cut().unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 100);
        }
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let both = text("bot.log.1") + &text("bot.log");
        assert!(both.ends_with("line 49 of what a bot says\n"), "{both}");
        assert!(both.len() > 100 && both.len() < 300 && !both.contains('\0'), "{both}");
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["bot.log", "bot.log.1", "other.txt"]);
    }

    #[test]
    fn without_room_for_the_older_part_the_log_is_emptied_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.log");
        fs::write(&path, [b'x'; 200]).unwrap();
        // A folder in its place is what cannot be written.
        fs::create_dir(dir.path().join("bot.log.1")).unwrap();
        let logs = Logs { bytes_max: 100, ..Logs::new(dir.path().to_owned()) };
        assert!(logs.cut().is_err());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }
}
