//! The history of one environment, `journal.jsonl`: one line per switch, the truth about what should be there. Reads and
//! writes that file and the lock beside it, nothing else. Blocks: called off the runtime's threads.
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    history::{History, Kind, Switch},
    release::Release,
};

/// A journal with more lines is cut to the newest [`LINES_KEPT`]; the others move to `journal.1.jsonl`.
const LINES_MAX: usize = 500;
/// Enough for every release that can still be on disk.
const LINES_KEPT: usize = 250;

/// A switch that is wanted; the journal gives it its place.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) at: DateTime<Utc>,
    pub(crate) to: Option<Release>,
    pub(crate) job: String,
    pub(crate) token: i64,
    pub(crate) kind: Kind,
    pub(crate) reason: Option<String>,
    pub(crate) requested_by: Option<String>,
    /// How many switches of the same job come before it: 0 for its own, 1 for taking that back.
    pub(crate) nth: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error(
        "job {job} under fencing token {token} does not hold {}: job {holder} under token {held} does; this attempt was \
         taken over and changes nothing (if the bot's store was replaced and the clock was ahead before, remove the file \
         journal.holder beside it)", .path.display()
    )]
    Stale { path: PathBuf, job: String, token: i64, holder: String, held: i64 },
    #[error("line {line} of {} is damaged: {source}; restore the file, or move it away to begin a new history", .path.display())]
    Damaged { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("{} cannot be used: {source}; see that the folder exists, has space and belongs to the bot's user", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The attempt that may switch: the one with the highest token, since those rise over all jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Holder {
    job: String,
    token: i64,
}

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

/// As long as it is there, nobody else switches the environment or touches its application.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Ends with the file.
    _lock: File,
}

impl Journal {
    pub(crate) fn in_folder(root: &Path) -> Self {
        Self { path: root.join("journal.jsonl") }
    }

    /// No file is no history.
    pub(crate) fn read(&self) -> Result<History, JournalError> {
        Ok(self.read_whole()?.0)
    }

    /// Makes this attempt the only one that may switch, unless one with a higher token was here.
    pub(crate) fn claim(&self, job: &str, token: i64) -> Result<(), JournalError> {
        let _lock = self.lock()?;
        let holder = self.holder()?;
        let newest = self.read()?.switches.iter().map(|switch| switch.token).max().unwrap_or(token);
        if holder.token.max(newest) > token {
            return Err(self.stale(job, token, holder));
        }
        let write = || {
            let text = serde_json::to_vec(&Holder { job: job.to_owned(), token })?;
            let (place, new) = (self.path.with_extension("holder"), self.path.with_extension("holder.new"));
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(new, place)?;
            self.sync_folder()
        };
        write().map_err(self.io())
    }

    /// Waits until nobody touches the environment. Refused: another attempt may switch by now.
    pub(crate) fn hold(&self, job: &str, token: i64) -> Result<Hold, JournalError> {
        let lock = self.lock()?;
        let holder = self.holder()?;
        if holder.job != job || holder.token != token {
            return Err(self.stale(job, token, holder));
        }
        Ok(Hold { _lock: lock })
    }

    /// For whoever switches nothing and only sees to it that what the journal says is so; `None`: someone is at work there.
    pub(crate) fn hold_if_free(&self) -> Result<Option<Hold>, JournalError> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Hold { _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.io()(error)),
        }
    }

    /// The token of the attempt that may switch; 0 before the first.
    pub(crate) fn token(&self) -> Result<i64, JournalError> {
        Ok(self.holder()?.token)
    }

    /// Makes a switch the truth, unless the job has made its `nth` already: then that one is returned.
    pub(crate) fn append(&self, _hold: &Hold, wanted: Wanted) -> Result<Switch, JournalError> {
        let (history, bytes) = self.read_whole()?;
        if let Some(made) = history.of_job(&wanted.job).get(wanted.nth) {
            return Ok((*made).clone());
        }
        let seq = history.last().map_or(1, |last| last.seq + 1);
        let from = history.current().map(|release| release.digest().clone());
        let Wanted { at, to, job, token, kind, reason, requested_by, nth: _ } = wanted;
        let switch = Switch { seq, at, from, to, job, token, kind, reason, requested_by };
        let bytes = if history.switches.len() >= LINES_MAX { self.rotate(&history)? } else { bytes };
        self.write(&switch, bytes).map_err(self.io())?;
        Ok(switch)
    }

    /// Two processes of one bot may both believe that they hold the job; the folder decides between them.
    fn lock(&self) -> Result<File, JournalError> {
        let lock = self.lock_file()?;
        lock.lock().map_err(self.io())?;
        Ok(lock)
    }

    fn lock_file(&self) -> Result<File, JournalError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(self.path.with_extension("lock")).map_err(self.io())
    }

    fn holder(&self) -> Result<Holder, JournalError> {
        match fs::read_to_string(self.path.with_extension("holder")) {
            // Renamed into place, so never half; whatever else it may be is nobody's claim.
            Ok(text) => Ok(serde_json::from_str(&text).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Holder::default()),
            Err(error) => Err(self.io()(error)),
        }
    }

    fn stale(&self, job: &str, token: i64, holder: Holder) -> JournalError {
        let Holder { job: holder, token: held } = holder;
        JournalError::Stale { path: self.path.clone(), job: job.to_owned(), token, holder, held }
    }

    /// The history, and how many bytes of the file hold it: a line without its end was never committed.
    fn read_whole(&self) -> Result<(History, u64), JournalError> {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(mut file) => file.read_to_string(&mut text).map_err(self.io())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((History::default(), 0)),
            Err(error) => return Err(self.io()(error)),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut switches = Vec::new();
        for (index, line) in whole.lines().enumerate() {
            let damaged = |source| JournalError::Damaged { path: self.path.clone(), line: index + 1, source };
            switches.push(serde_json::from_str(line).map_err(damaged)?);
        }
        Ok((History { switches }, whole.len() as u64))
    }

    fn write(&self, switch: &Switch, bytes: u64) -> io::Result<()> {
        let mut line = serde_json::to_vec(switch)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(&line)?;
        file.sync_all()?;
        if bytes == 0 { self.sync_folder() } else { Ok(()) }
    }

    /// Leaves the newest lines, and says how many bytes they are.
    fn rotate(&self, history: &History) -> Result<u64, JournalError> {
        let (older, newest) = history.switches.split_at(history.switches.len() - LINES_KEPT);
        let replace = |path: &Path, lines: &[Switch]| -> io::Result<u64> {
            let mut text = Vec::new();
            for line in lines {
                serde_json::to_writer(&mut text, line)?;
                text.push(b'\n');
            }
            let new = path.with_extension("new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(new, path)?;
            Ok(text.len() as u64)
        };
        replace(&self.path.with_file_name("journal.1.jsonl"), older).map_err(self.io())?;
        let bytes = replace(&self.path, newest).map_err(self.io())?;
        self.sync_folder().map_err(self.io())?;
        Ok(bytes)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn io(&self) -> impl Fn(io::Error) -> JournalError + use<> {
        let path = self.path.clone();
        move |source| JournalError::Io { path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use bot_messages::{Digest, ObjectRef, Revision, pipeline::DeployStage};

    use super::*;

    fn release(letter: char) -> Release {
        let digest = Digest::from_hex(&letter.to_string().repeat(64)).unwrap();
        let artifact = ObjectRef { digest, ..ObjectRef::example("application/zstd") };
        Release::new(artifact, Revision::example(), DeployStage::default())
    }

    fn wanted(job: &str, token: i64, to: Option<char>, kind: Kind, nth: usize) -> Wanted {
        let at = DateTime::from_timestamp(1_793_534_400, 0).unwrap();
        Wanted { at, to: to.map(release), job: job.into(), token, kind, reason: None, requested_by: None, nth }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::in_folder(folder.path());
        (folder, journal)
    }

    fn append(journal: &Journal, wanted: Wanted) -> Switch {
        journal.claim(&wanted.job, wanted.token).unwrap();
        let hold = journal.hold(&wanted.job, wanted.token).unwrap();
        journal.append(&hold, wanted).unwrap()
    }

    fn deploy(journal: &Journal, number: u32, to: char) {
        append(journal, wanted(&format!("job-{number}"), i64::from(number), Some(to), Kind::Deploy, 0));
    }

    #[test]
    fn the_one_before_leaves_out_what_was_taken_back() {
        let (_folder, journal) = journal();
        assert_eq!(journal.read().unwrap(), History::default());
        for (number, to) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            deploy(&journal, number, to);
        }
        append(&journal, wanted("job-3", 3, Some('b'), Kind::Rollback, 1));
        let history = journal.read().unwrap();
        assert_eq!(history.current(), Some(&release('b')));
        assert_eq!(history.previous(), Some(&release('a')), "c was never good");
        assert_eq!(history.before(3), Some(&release('b')));
        assert_eq!(history.release(release('c').digest()), Some(&release('c')));
        assert_eq!(history.last().unwrap().from.as_ref(), Some(release('c').digest()));
        assert_eq!(history.kept(2), [release('a').digest().clone(), release('b').digest().clone()].into());
        assert_eq!(history.kept(3).len(), 3);
    }

    #[test]
    fn a_job_switches_once_and_takes_back_once() {
        let (_folder, journal) = journal();
        let first = append(&journal, wanted("job-1", 1, Some('a'), Kind::Deploy, 0));
        let again = append(&journal, wanted("job-1", 2, Some('a'), Kind::Deploy, 0));
        assert_eq!(first, again);
        append(&journal, wanted("job-1", 2, None, Kind::Rollback, 1));
        append(&journal, wanted("job-1", 3, None, Kind::Rollback, 1));
        let history = journal.read().unwrap();
        assert_eq!((history.of_job("job-1").len(), history.current(), history.previous()), (2, None, None));
    }

    #[test]
    fn an_attempt_that_was_overtaken_is_refused() {
        let (_folder, journal) = journal();
        journal.claim("job-1", 1).unwrap();
        append(&journal, wanted("job-1", 2, Some('a'), Kind::Deploy, 0));
        let stale = journal.hold("job-1", 1).unwrap_err();
        assert!(matches!(stale, JournalError::Stale { token: 1, held: 2, .. }), "{stale}");
        assert!(matches!(journal.claim("job-1", 1), Err(JournalError::Stale { .. })), "it does not come back");
        journal.claim("job-2", 3).unwrap();
        let stale = journal.hold("job-1", 2).unwrap_err();
        assert!(matches!(stale, JournalError::Stale { token: 2, held: 3, .. }), "of another job too: {stale}");
        assert!(matches!(journal.claim("job-1", 2), Err(JournalError::Stale { .. })), "it does not come back");
        assert!(matches!(journal.claim("job-0", 2), Err(JournalError::Stale { .. })), "whichever job it is");
        fs::remove_file(journal.path.with_extension("holder")).unwrap();
        assert!(matches!(journal.claim("job-1", 1), Err(JournalError::Stale { .. })), "the lines remember too");
        assert_eq!(journal.read().unwrap().current(), Some(&release('a')));
    }

    #[test]
    fn one_at_a_time_touches_an_environment() {
        let (_folder, journal) = journal();
        journal.claim("job-1", 1).unwrap();
        let hold = journal.hold("job-1", 1).unwrap();
        assert!(journal.hold_if_free().unwrap().is_none());
        drop(hold);
        assert!(journal.hold_if_free().unwrap().is_some());
        assert_eq!(journal.token().unwrap(), 1);
    }

    #[test]
    fn half_a_line_was_never_committed_and_a_damaged_one_is_told() {
        let (_folder, journal) = journal();
        deploy(&journal, 1, 'a');
        let whole = fs::read_to_string(&journal.path).unwrap();
        fs::write(&journal.path, format!("{whole}{}", &whole[..40])).unwrap();
        assert_eq!(journal.read().unwrap().current(), Some(&release('a')));
        deploy(&journal, 2, 'b');
        assert_eq!(journal.read().unwrap().newest(5), [2, 1]);
        fs::write(&journal.path, format!("{{}}\n{whole}")).unwrap();
        assert!(journal.read().unwrap_err().to_string().starts_with("line 1 of "));
    }

    #[test]
    fn a_long_journal_is_cut() {
        let (folder, journal) = journal();
        let mut text = String::new();
        deploy(&journal, 1, 'a');
        let line = journal.read().unwrap().last().unwrap().clone();
        for seq in 1..=LINES_MAX as u64 {
            text += &serde_json::to_string(&Switch { seq, ..line.clone() }).unwrap();
            text.push('\n');
        }
        fs::write(&journal.path, text).unwrap();
        deploy(&journal, 2, 'b');
        let history = journal.read().unwrap();
        assert_eq!(history.switches.len(), LINES_KEPT + 1);
        assert_eq!(history.last().unwrap().seq, LINES_MAX as u64 + 1);
        let older = fs::read_to_string(folder.path().join("journal.1.jsonl")).unwrap();
        assert_eq!(older.lines().count(), LINES_MAX - LINES_KEPT);
    }
}
