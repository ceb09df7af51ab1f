//! Where lines for people go: colours only where someone looks, nothing that could steer a terminal, and no panic when
//! the reader has gone.
#![allow(clippy::disallowed_methods, reason = "NO_COLOR and TERM say what a terminal should be shown")]

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// How something is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Warn,
    Dim,
    Plain,
}

/// Whether tones are shown as colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(super) const NONE: Self = Self(false);

    pub(super) fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Warn => "33",
            Tone::Dim => "2",
            Tone::Plain => return text.to_owned(),
        };
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.tone(Tone::Dim, text)
    }
}

/// Standard output.
pub(super) struct Out {
    to: io::Stdout,
    pub(super) paint: Paint,
}

impl Out {
    pub(super) fn stdout() -> Self {
        let to = io::stdout();
        let set = |name: &str| env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|t| t == "dumb");
        let paint = Paint(to.is_terminal() && !set("NO_COLOR") && !dumb);
        Self { to, paint }
    }

    /// One line, at once: whoever follows wants to see it now.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{text}")?;
        self.to.flush()
    }

    pub(super) fn lines<'a>(&mut self, lines: impl IntoIterator<Item = &'a String>) -> io::Result<()> {
        for line in lines {
            writeln!(self.to, "{line}")?;
        }
        self.to.flush()
    }

    /// A value for programs, on several lines.
    pub(super) fn json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        self.line(&format!("{value:#}"))
    }
}

/// A remark that does not belong to the result, on standard error.
pub(super) fn note(text: &str) {
    // Nobody may be listening, and a remark is not worth failing for.
    let _ = writeln!(io::stderr(), "lota: {text}");
}

/// Whoever closed the pipe has seen enough (`lota watch | head -3`): that is no failure.
pub(super) fn seen_enough(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match result {
        Err(e) if closed_pipe(&e) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

fn closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// Text that came from somewhere else, without escape sequences and control characters.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            skip_escape(&mut chars);
        } else if c == '\t' {
            out.push_str("    ");
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// `ESC [ … letter`, or whatever single character follows.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        let _ = chars.find(|c| ('@'..='~').contains(c));
    }
}

/// One line of [`plain`] text, at most so many characters.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    let line = plain(&text.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" "));
    if line.chars().count() <= chars_max {
        return line;
    }
    let mut kept: String = line.chars().take(chars_max.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

/// The beginning of an id. UUIDs of version 7 begin with their time: 13 characters tell milliseconds apart, and are
/// enough wherever an id is asked for.
pub(super) fn short(id: &str) -> String {
    let is_uuid = id.len() == 36 && id.bytes().filter(|b| *b == b'-').count() == 4 && id.is_ascii();
    if is_uuid { id[..13].to_owned() } else { cut(id, 24) }
}

/// `840 ms`, `12.3 s`, `3 m 05 s`, `2 h 10 m`, `3 d 4 h`.
pub(crate) fn took(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..100 => format!("{}.{} s", s, ms % 1000 / 100),
        100..3600 => format!("{} m {:02} s", s / 60, s % 60),
        3600..172_800 => format!("{} h {:02} m", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `512 B`, `3.4 MiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(plain("\x1b[31mred\x1b[0m \x07bell\r\n\tend\x1b]"), "red bell    end");
        assert_eq!(cut("  first\n\nsecond\n", 40), "first second");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(Paint(true).tone(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Paint::NONE.tone(Tone::Bad, "x"), "x");
    }

    #[test]
    fn figures_read_well() {
        let times = [
            (0, "0 ms"),
            (840, "840 ms"),
            (12_345, "12.3 s"),
            (185_000, "3 m 05 s"),
            (7_800_000, "2 h 10 m"),
            (273_600_000, "3 d 4 h"),
        ];
        for (ms, text) in times {
            assert_eq!(took(ms), text);
        }
        for (n, text) in [(512, "512 B"), (3_565_158, "3.4 MiB"), (1 << 40, "1.0 TiB")] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn a_short_id_still_finds_its_whole() {
        assert_eq!(short("0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01"), "0198c5d2-7b3a");
        assert_eq!(short("push-1"), "push-1");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(seen_enough(Err(broken)).is_ok());
        assert!(seen_enough(Err(anyhow::anyhow!("else"))).is_err());
    }
}
