//! Reads what a command says: into lines, to the caller, into the log file, into the tail; all within its limit.

use std::{
    collections::VecDeque,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::fcntl::OFlag;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{ChildStderr, ChildStdout},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use bot_secrets::Redactor;

use crate::{Command, Line, Outcome, SandboxError, Stream};

/// What is known of the output while the reader still runs, or after it was stopped.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) bytes: u64,
    pub(crate) tail: VecDeque<String>,
}

pub(crate) struct Output {
    heard: Arc<Mutex<Heard>>,
    /// Fires when the limit is passed; nothing more is kept from then on.
    pub(crate) exceeded: CancellationToken,
    lines: Option<mpsc::Sender<Line>>,
    log: Option<File>,
    redactor: Redactor,
    limit: u64,
    line_bytes: usize,
}

impl Output {
    pub(crate) fn new(command: &Command) -> Result<Self, SandboxError> {
        let log = command.log_file.as_deref().map(create_log).transpose()?;
        Ok(Self {
            heard: Arc::default(),
            exceeded: CancellationToken::new(),
            lines: command.output.clone(),
            log,
            redactor: command.redactor.clone(),
            limit: command.limits.output_bytes,
            line_bytes: command.limits.line_bytes,
        })
    }

    pub(crate) fn heard(&self) -> Arc<Mutex<Heard>> {
        Arc::clone(&self.heard)
    }

    /// Until both ends are closed by all who hold them, or the limit is passed.
    pub(crate) async fn pump(mut self, mut stdout: Option<ChildStdout>, mut stderr: Option<ChildStderr>) {
        let splitter = || Splitter::new(self.line_bytes, &self.redactor);
        let (mut out, mut err) = (splitter(), splitter());
        let (mut out_bytes, mut err_bytes) = ([0; 16 << 10], [0; 16 << 10]);
        while stdout.is_some() || stderr.is_some() {
            let within = tokio::select! {
                length = fill(&mut stdout, &mut out_bytes) => self.take(Stream::Stdout, &mut out, out_bytes.get(..length)).await,
                length = fill(&mut stderr, &mut err_bytes) => self.take(Stream::Stderr, &mut err, err_bytes.get(..length)).await,
            };
            if !within {
                self.exceeded.cancel();
                break;
            }
        }
        for (stream, splitter) in [(Stream::Stdout, &mut out), (Stream::Stderr, &mut err)] {
            // Cut at the limit, a rest may be the beginning of a secret that nothing would know.
            let rest = if self.exceeded.is_cancelled() { splitter.whole_lines() } else { splitter.finish() };
            for rest in rest {
                self.say(stream, rest).await;
            }
        }
        if self.exceeded.is_cancelled() {
            self.say(Stream::Stderr, format!("[output ended here: more than {} bytes]", self.limit)).await;
        }
        if let Some(log) = &mut self.log {
            let _ = log.flush().await;
        }
    }

    /// False once the limit is passed.
    async fn take(&mut self, stream: Stream, splitter: &mut Splitter, bytes: Option<&[u8]>) -> bool {
        let bytes = bytes.unwrap_or_default();
        let before = {
            let mut heard = lock(&self.heard);
            heard.bytes += bytes.len() as u64;
            heard.bytes - bytes.len() as u64
        };
        let room = self.limit.saturating_sub(before).min(bytes.len() as u64) as usize;
        let (kept, cut) = bytes.split_at(room);
        splitter.push(kept);
        while let Some(text) = splitter.next() {
            self.say(stream, text).await;
        }
        cut.is_empty()
    }

    async fn say(&mut self, stream: Stream, text: String) {
        {
            let mut heard = lock(&self.heard);
            heard.tail.push_back(text.clone());
            if heard.tail.len() > Outcome::TAIL_LINES {
                heard.tail.pop_front();
            }
        }
        if let Some(log) = &mut self.log {
            // A full disk must not end the command; it will meet it itself.
            let _ = log.write_all(format!("{text}\n").as_bytes()).await;
        }
        if let Some(lines) = &self.lines
            && lines.send(Line { stream, text }).await.is_err()
        {
            self.lines = None;
        }
    }
}

pub(crate) fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Never through a symbolic link: the folder may be one a command could write.
fn create_log(path: &Path) -> Result<File, SandboxError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path).map(File::from_std).map_err(SandboxError::io(format!("create the log file {}", path.display())))
}

/// 0 at the end, which also closes ours. Waits for ever on one already closed.
async fn fill<R: AsyncRead + Unpin>(stream: &mut Option<R>, bytes: &mut [u8]) -> usize {
    let Some(reader) = stream else {
        return std::future::pending().await;
    };
    let length = reader.read(bytes).await.unwrap_or(0);
    if length == 0 {
        *stream = None;
    }
    length
}

/// Cuts bytes into lines without secrets, and lines that are too long into pieces that do not break a character.
struct Splitter {
    clean: bot_secrets::Stream,
    waiting: Vec<u8>,
    limit: usize,
    /// Pieces of a line that has ended.
    ready: VecDeque<String>,
}

impl Splitter {
    fn new(limit: usize, redactor: &Redactor) -> Self {
        Self { clean: redactor.stream(), waiting: Vec::new(), limit, ready: VecDeque::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend(self.clean.push(bytes));
    }

    fn next(&mut self) -> Option<String> {
        if let Some(piece) = self.ready.pop_front() {
            return Some(piece);
        }
        let end = self.waiting.iter().take(self.limit + 1).position(|byte| *byte == b'\n');
        if let Some(end) = end {
            let line = text(self.waiting.get(..end).unwrap_or_default());
            self.waiting.drain(..=end);
            self.ready = pieces(line, self.limit);
            return self.ready.pop_front();
        }
        if self.waiting.len() <= self.limit {
            return None;
        }
        let known = boundary(&self.waiting, self.limit);
        let mut piece = text(self.waiting.get(..known).unwrap_or_default());
        let rest = piece.split_off(cut(&piece, self.limit));
        self.waiting.splice(..known, rest.into_bytes());
        Some(piece)
    }

    fn finish(&mut self) -> VecDeque<String> {
        let last = self.clean.finish();
        self.waiting.extend(last);
        self.whole_lines()
    }

    /// What was given out so far.
    fn whole_lines(&mut self) -> VecDeque<String> {
        let mut lines: VecDeque<String> = std::iter::from_fn(|| self.next()).collect();
        if !self.waiting.is_empty() {
            lines.extend(pieces(text(&std::mem::take(&mut self.waiting)), self.limit));
        }
        lines
    }
}

/// At least one.
fn pieces(line: String, limit: usize) -> VecDeque<String> {
    let mut pieces = VecDeque::new();
    let mut rest = line;
    while rest.len() > limit {
        let next = rest.split_off(cut(&rest, limit));
        pieces.push_back(std::mem::replace(&mut rest, next));
    }
    pieces.push_back(rest);
    pieces
}

/// Where a text that is too long is cut: after whole characters, and at least one.
fn cut(text: &str, limit: usize) -> usize {
    let within = (1..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    within.or_else(|| text.chars().next().map(char::len_utf8)).unwrap_or(0)
}

/// The limit, or up to three bytes before it where a character begins; never more than there is.
fn boundary(bytes: &[u8], limit: usize) -> usize {
    if bytes.len() <= limit {
        return bytes.len();
    }
    let begins = |at: &usize| bytes.get(*at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let lowest = limit.saturating_sub(3).max(1);
    (lowest..=limit).rev().find(begins).unwrap_or(limit)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(limit: usize, chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::new(limit, &Redactor::default());
        let mut found = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            found.extend(std::iter::from_fn(|| splitter.next()));
        }
        found.extend(splitter.finish());
        found
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        assert_eq!(lines(80, &[b"one\ntw", b"o\r\n", b"\nthree"]), ["one", "two", "", "three"]);
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        assert_eq!(lines(4, &["abcdefg".as_bytes()]), ["abcd", "efg"]);
        assert_eq!(lines(4, &["abcd\nx\n".as_bytes()]), ["abcd", "x"]);
        assert_eq!(lines(4, &["aaaéé".as_bytes()]), ["aaa", "éé"]);
        assert!(!lines(1, &["é\n".as_bytes()]).is_empty());
    }

    #[test]
    fn a_secret_is_taken_out_wherever_a_long_line_is_cut() {
        let secret = "canary-0123456789";
        let redactor = Redactor::new([secret]);
        for before in 60..90 {
            for after in [0, 200, 70_000] {
                let line = format!("{}{secret}{}", "a".repeat(before), "b".repeat(after));
                let mut splitter = Splitter::new(80, &redactor);
                let mut found = Vec::new();
                for chunk in line.as_bytes().chunks(1000) {
                    splitter.push(chunk);
                    found.extend(std::iter::from_fn(|| splitter.next()));
                }
                found.extend(splitter.finish());
                assert!(found.iter().all(|piece| piece.len() <= 80));
                assert_eq!(found.concat(), line.replace(secret, "***"), "{before} {after}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(lines(80, &[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }
}
