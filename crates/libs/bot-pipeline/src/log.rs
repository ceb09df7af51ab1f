//! The log of one job: every line live, the whole in a file up to a limit, the last lines of each part for messages.
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// As the messages promise.
const TAIL_LINES: usize = 40;
/// So that forty of them stay far below what a message may hold.
const TAIL_LINE_CHARS: usize = 400;

/// The log of one job. Its parts (the steps, the suites, the bot's own work) may speak at the same time.
pub struct Log<'a> {
    kept: Mutex<Kept>,
    bytes_max: u64,
    live: &'a (dyn Fn(&str) + Send + Sync),
}

struct Kept {
    file: BufWriter<File>,
    bytes: u64,
    tails: BTreeMap<String, VecDeque<String>>,
}

impl<'a> Log<'a> {
    /// `live` gets every line as it comes.
    pub fn create(path: &Path, bytes_max: u64, live: &'a (dyn Fn(&str) + Send + Sync)) -> io::Result<Self> {
        let kept = Kept { file: BufWriter::new(File::create(path)?), bytes: 0, tails: BTreeMap::new() };
        Ok(Self { kept: Mutex::new(kept), bytes_max, live })
    }

    /// One line, without its end, said by `part`.
    pub fn line(&self, part: &str, text: &str) {
        let line = format!("[{part}] {text}");
        (self.live)(&line);
        let mut kept = self.kept();
        let tail = kept.tails.entry(part.to_owned()).or_default();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.chars().take(TAIL_LINE_CHARS).collect());
        let room = self.bytes_max.saturating_sub(kept.bytes);
        kept.bytes += line.len() as u64 + 1;
        let written = if line.len() as u64 <= room {
            writeln!(kept.file, "{line}")
        } else if room > 0 {
            kept.bytes = self.bytes_max;
            writeln!(kept.file, "[the log ends here: more than {} bytes]", self.bytes_max)
        } else {
            Ok(())
        };
        if let Err(e) = written {
            // A full disk fails the step by itself; a log that is cut is no reason to.
            tracing::warn!("a line of the log is lost: {e}");
        }
    }

    /// A part that ended well: nobody asks for its last lines any more.
    pub fn forget(&self, part: &str) {
        self.kept().tails.remove(part);
    }

    /// The last lines of a part.
    pub fn tail(&self, part: &str) -> Vec<String> {
        self.kept().tails.get(part).map(|tail| tail.iter().cloned().collect()).unwrap_or_default()
    }

    /// Writes what is held back.
    pub fn flush(&self) -> io::Result<()> {
        self.kept().file.flush()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn lines_name_their_part_and_the_file_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let seen = Mutex::new(Vec::new());
        let live = |line: &str| seen.lock().unwrap().push(line.to_owned());
        let log = Log::create(&path, 40, &live).unwrap();
        log.line("fetch", "one");
        for i in 0..50 {
            log.line("compile", &format!("{i} {}", "x".repeat(500)));
        }
        log.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[fetch] one\n[the log ends here: more than 40 bytes]\n");
        assert_eq!(seen.lock().unwrap().len(), 51);
        let tail = log.tail("compile");
        assert_eq!(tail.len(), TAIL_LINES);
        assert!(tail[39].starts_with("49 ") && tail[39].len() == TAIL_LINE_CHARS);
        assert_eq!(log.tail("fetch"), ["one"]);
        log.forget("fetch");
        assert!(log.tail("fetch").is_empty());
    }
}
