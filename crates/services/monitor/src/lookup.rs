//! Finding one thing by its id or by the beginning of it, as people type it.

/// A shorter beginning is not accepted: it would fit too many.
pub(crate) const PREFIX_CHARS_MIN: usize = 6;
/// So many are listed where a beginning fits several.
const LISTED_MAX: usize = 10;

/// Nothing was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// None has this id or beginning.
    Unknown,
    /// It could be one of these.
    Ambiguous(Vec<String>),
}

/// The id that is `asked`, or the only one that begins with it.
pub(crate) fn find<'a>(ids: impl Iterator<Item = &'a String>, asked: &str) -> Result<&'a str, Miss> {
    let mut fits: Vec<&str> = Vec::new();
    for id in ids.filter(|id| id.starts_with(asked)) {
        if id == asked {
            return Ok(id);
        }
        fits.push(id);
    }
    match fits.as_slice() {
        [] => Err(Miss::Unknown),
        _ if asked.len() < PREFIX_CHARS_MIN => Err(Miss::Unknown),
        [only] => Ok(only),
        _ => {
            fits.sort_unstable();
            Err(Miss::Ambiguous(fits.iter().take(LISTED_MAX).map(ToString::to_string).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_or_the_only_one_that_begins_so() {
        let ids = ["abcdef-1", "abcdef-2", "abcdef-22", "x"].map(str::to_owned);
        assert_eq!(find(ids.iter(), "x"), Ok("x"));
        assert_eq!(find(ids.iter(), "abcdef-2"), Ok("abcdef-2"), "exact wins over longer ones");
        assert_eq!(find(ids.iter(), "abcdef-1"), Ok("abcdef-1"));
        let all = vec!["abcdef-1".to_owned(), "abcdef-2".into(), "abcdef-22".into()];
        assert_eq!(find(ids.iter(), "abcdef"), Err(Miss::Ambiguous(all)));
        assert_eq!(find(ids.iter(), "abc"), Err(Miss::Unknown), "too short");
        assert_eq!(find(ids.iter(), ""), Err(Miss::Unknown));
    }
}
