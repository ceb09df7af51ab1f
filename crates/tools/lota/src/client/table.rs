//! Tables for people: columns as wide as their widest cell, the last one as long as it is.
use super::terminal::{Paint, Tone};

/// One cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone, right: false }
    }

    /// Figures stand at the right.
    pub(super) fn figure(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain, right: true }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows below a heading.
#[derive(Debug)]
pub(super) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn lines(&self, paint: Paint) -> Vec<String> {
        let rights = |column: usize| self.rows.first().and_then(|r| r.get(column)).is_some_and(|c| c.right);
        let heading = self.heading.iter().enumerate();
        let heading: Vec<Cell> =
            heading.map(|(i, h)| Cell { text: (*h).to_owned(), tone: Tone::Dim, right: rights(i) }).collect();
        let all = || std::iter::once(&heading).chain(&self.rows);
        let width =
            |column: usize| all().filter_map(|r| r.get(column)).map(|c| c.text.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.heading.len()).map(width).collect();
        all().map(|row| line(row, &widths, paint)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize], paint: Paint) -> String {
    let mut out = String::new();
    for (i, cell) in row.iter().enumerate() {
        let missing = widths.get(i).copied().unwrap_or(0).saturating_sub(cell.text.chars().count());
        let (before, after) = if cell.right { (missing, 0) } else { (0, missing) };
        let after = if i + 1 == row.len() { 0 } else { after + 2 };
        out.push_str(&" ".repeat(before));
        out.push_str(&paint.tone(cell.tone, &cell.text));
        out.push_str(&" ".repeat(after));
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(&["BOT", "QUEUE", "WHY"]);
        table.row(vec!["BuildBot".into(), Cell::figure("12"), "".into()]);
        table.row(vec!["X".into(), Cell::figure("3"), "paused".into()]);
        assert_eq!(table.lines(Paint::NONE), ["BOT       QUEUE  WHY", "BuildBot     12", "X             3  paused"]);
    }
}
