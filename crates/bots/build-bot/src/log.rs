//! The log of one job: every line live, the whole in a file up to a limit, the last lines for messages.
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// As the messages promise.
const TAIL_LINES: usize = 40;
/// So that forty of them stay far below what a message may hold.
const TAIL_LINE_CHARS: usize = 400;

/// The log of one job.
pub(crate) struct Log<'a> {
    file: BufWriter<File>,
    bytes: u64,
    bytes_max: u64,
    part: String,
    tail: VecDeque<String>,
    live: &'a (dyn Fn(&str) + Send + Sync),
}

impl<'a> Log<'a> {
    /// `live` gets every line as it comes.
    pub(crate) fn create(path: &Path, bytes_max: u64, live: &'a (dyn Fn(&str) + Send + Sync)) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self { file, bytes: 0, bytes_max, part: String::new(), tail: VecDeque::new(), live })
    }

    /// What follows is said by `part`: a step's name, or the bot's own work.
    pub(crate) fn begin(&mut self, part: &str) {
        part.clone_into(&mut self.part);
        self.tail.clear();
    }

    /// One line, without its end.
    pub(crate) fn line(&mut self, text: &str) {
        let line = format!("[{}] {text}", self.part);
        (self.live)(&line);
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text.chars().take(TAIL_LINE_CHARS).collect());
        let room = self.bytes_max.saturating_sub(self.bytes);
        self.bytes += line.len() as u64 + 1;
        let written = if line.len() as u64 <= room {
            writeln!(self.file, "{line}")
        } else if room > 0 {
            self.bytes = self.bytes_max;
            writeln!(self.file, "[the log ends here: more than {} bytes]", self.bytes_max)
        } else {
            Ok(())
        };
        if let Err(e) = written {
            // A full disk fails the step by itself; a log that is cut is no reason to.
            tracing::warn!("a line of the log is lost: {e}");
        }
    }

    /// The last lines of the current part.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn lines_name_their_part_and_the_file_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let seen = Mutex::new(Vec::new());
        let live = |line: &str| seen.lock().unwrap().push(line.to_owned());
        let mut log = Log::create(&path, 40, &live).unwrap();
        log.begin("fetch");
        log.line("one");
        log.begin("compile");
        for i in 0..50 {
            log.line(&format!("{i} {}", "x".repeat(500)));
        }
        log.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[fetch] one\n[the log ends here: more than 40 bytes]\n");
        assert_eq!(seen.lock().unwrap().len(), 51);
        assert_eq!(log.tail().len(), TAIL_LINES);
        assert!(log.tail()[39].starts_with("49 ") && log.tail()[39].len() == TAIL_LINE_CHARS);
    }
}
