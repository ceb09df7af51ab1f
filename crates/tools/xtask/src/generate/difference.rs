//! Where two texts differ, in the form of a unified diff, as far as it helps to see what is stale.
use std::fmt::Write;

/// Lines shown before and behind what differs.
const CONTEXT_LINES: usize = 2;
/// Lines shown of either side.
const LINES_MAX: usize = 12;

/// From the first line that differs to the last, cut.
pub(super) fn excerpt(path: &str, found: &str, wanted: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (found.lines().collect(), wanted.lines().collect());
    let same = |a: &&str, b: &&str| a == b;
    let head = old.iter().zip(&new).take_while(|(a, b)| same(a, b)).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| same(a, b)).count();
    let (gone, come) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);

    let first = head.saturating_sub(CONTEXT_LINES);
    let mut text = format!("--- {path} (in the tree)\n+++ {path} (from the contracts)\n@@ line {} @@\n", head + 1);
    lines(&mut text, ' ', &new[first..head]);
    lines(&mut text, '-', gone);
    lines(&mut text, '+', come);
    let behind = &new[new.len() - tail..];
    lines(&mut text, ' ', &behind[..behind.len().min(CONTEXT_LINES)]);
    if gone.is_empty() && come.is_empty() {
        text.push_str("only the ends of lines differ\n");
    }
    text
}

fn lines(text: &mut String, sign: char, lines: &[&str]) {
    // Writing to a String cannot fail.
    for line in lines.iter().take(LINES_MAX) {
        let _ = writeln!(text, "{sign}{line}");
    }
    if lines.len() > LINES_MAX {
        let _ = writeln!(text, "{sign}… and {} lines more", lines.len() - LINES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: &str, wanted: &str) -> Vec<String> {
        excerpt("x", found, wanted).lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn what_changed_is_shown_between_its_neighbours() {
        let lines = shown("a\nb\nc\nd\ne\nf\ng\n", "a\nb\nc\nD\nE\ne\nf\ng\n");
        assert_eq!(lines, ["@@ line 4 @@", " b", " c", "-d", "+D", "+E", " e", " f"]);
    }

    #[test]
    fn the_beginning_the_end_and_repeated_lines() {
        assert_eq!(shown("", "a\n"), ["@@ line 1 @@", "+a"]);
        assert_eq!(shown("a\n", ""), ["@@ line 1 @@", "-a"]);
        assert_eq!(shown("a\na\n", "a\na\na\n"), ["@@ line 3 @@", " a", " a", "+a"]);
        assert_eq!(shown("a\r\nb", "a\nb\n"), ["@@ line 3 @@", " a", " b", "only the ends of lines differ"]);
    }

    #[test]
    fn a_long_difference_is_cut() {
        let lines = shown("", &"x\n".repeat(LINES_MAX + 3));
        assert_eq!(lines.len(), 1 + LINES_MAX + 1);
        assert_eq!(lines.last().unwrap(), "+… and 3 lines more");
    }
}
