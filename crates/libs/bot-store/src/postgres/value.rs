//! Between Rust and PostgreSQL: its clock and its columns.

use std::borrow::Cow;

use serde_json::Value;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::value::from_json;

/// The database's clock in whole milliseconds, at the moment it is asked.
pub(super) const NOW_MS: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Stands for NUL, which PostgreSQL keeps in no text; followed by what it stands for.
const ESCAPE: char = '\u{1}';

/// A text as it is kept. Reversible, so that two texts stay two.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', ESCAPE]) {
        Cow::Owned(text.replace(ESCAPE, "\u{1}1").replace('\0', "\u{1}0"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A text as it was given.
pub(super) fn plain(kept: String) -> String {
    if kept.contains(ESCAPE) { kept.replace("\u{1}0", "\0").replace("\u{1}1", "\u{1}") } else { kept }
}

pub(super) fn string(row: &PgRow, column: &'static str) -> Result<String, sqlx::Error> {
    row.try_get(column).map(plain)
}

pub(super) fn optional(row: &PgRow, column: &'static str) -> Result<Option<String>, sqlx::Error> {
    row.try_get::<Option<String>, _>(column).map(|found| found.map(plain))
}

pub(super) fn json(row: &PgRow, column: &'static str) -> Result<Value, sqlx::Error> {
    from_json(row.try_get(column)?, column)
}

/// A number that was kept from one of this type.
pub(super) fn number<T: TryFrom<i64>>(row: &PgRow, column: &'static str) -> Result<T, sqlx::Error> {
    let found: i64 = row.try_get(column)?;
    T::try_from(found).map_err(|_| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: format!("{found} does not fit").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_two_stay_two() {
        let texts = ["", "a", "a\0b", "a\u{1}0b", "a\u{1}b", "\u{1}\0", "\0\u{1}1", "\u{1}1"];
        for one in texts {
            assert!(!text(one).contains('\0'));
            assert_eq!(plain(text(one).into_owned()), one);
            assert_eq!(texts.iter().filter(|other| text(other) == text(one)).count(), 1);
        }
    }
}
