//! What a build leaves behind: the files that the pipeline's patterns name, packed. The workspace is hostile by now,
//! so nothing is followed out of it.
use std::path::{Path, PathBuf};

use bot_clients::{ArchiveError, ArchiveLimits, Packed, Part, Times, list_tree, pack_parts};
use bot_secrets::Redactor;
use globset::{GlobBuilder, GlobMatcher};

/// Files looked at in a workspace; what a build may pack of them is limited by `settings.entries`.
const WORKSPACE_ENTRIES_MAX: u64 = 2_000_000;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ProductError {
    /// A mistake in the pipeline file, or in what the steps made.
    #[error("build.{section}: {why}")]
    Pattern {
        /// `artifacts` or `keep`.
        section: &'static str,
        /// Which pattern, and what is wrong with it.
        why: String,
    },
    /// The files cannot be packed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// The patterns of `build.artifacts` or `build.keep`.
#[derive(Clone, Debug)]
pub struct Products {
    section: &'static str,
    patterns: Vec<Pattern>,
    /// What no name may hold.
    unnamed: Redactor,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// The path itself, and whatever is below it: `dist` means the folder's content.
    matchers: [GlobMatcher; 2],
}

impl Products {
    /// `section` is `artifacts` or `keep`.
    pub fn new(section: &'static str, patterns: &[String]) -> Result<Self, ProductError> {
        let glob = |text: &str| GlobBuilder::new(text).literal_separator(true).build().map(|g| g.compile_matcher());
        let pattern = |text: &String| {
            let plain = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
            let matchers = glob(plain).and_then(|this| Ok([this, glob(&format!("{plain}/**"))?]));
            let matchers = matchers.map_err(|e| {
                let why = format!("`{text}` is no pattern: {}", e.kind());
                ProductError::Pattern { section, why }
            })?;
            Ok(Pattern { text: text.clone(), matchers })
        };
        let patterns = patterns.iter().map(pattern).collect::<Result<_, ProductError>>()?;
        Ok(Self { section, patterns, unnamed: Redactor::default() })
    }

    /// The same, for files whose names hold none of these secrets.
    #[must_use]
    pub fn naming_no(mut self, secrets: &Redactor) -> Self {
        self.unnamed = secrets.clone();
        self
    }

    /// Packs what the patterns name in each of these trees into `to`: where its files lie in the archive, and where they
    /// lie now. Synchronous.
    pub fn pack_all(
        &self,
        trees: &[(PathBuf, PathBuf)],
        to: &Path,
        limits: &ArchiveLimits,
    ) -> Result<Packed, ProductError> {
        let choose = |(_, tree): &(PathBuf, PathBuf)| {
            let chosen = self.choose(list_tree(tree, WORKSPACE_ENTRIES_MAX)?)?;
            self.checked(chosen)
        };
        let chosen = trees.iter().map(choose).collect::<Result<Vec<_>, _>>()?;
        let parts = trees.iter().zip(&chosen).map(|((below, root), entries)| Part { below, root, entries });
        let parts: Vec<Part<'_>> = parts.collect();
        Ok(pack_parts(&parts, to, limits, Times::Zero)?)
    }

    /// Names of files are shown by much that never looks into them.
    fn checked(&self, chosen: Vec<PathBuf>) -> Result<Vec<PathBuf>, ProductError> {
        let Some(path) = chosen.iter().map(|path| path.to_string_lossy()).find(|path| self.unnamed.finds(path)) else {
            return Ok(chosen);
        };
        let why = format!("the name of `{}` holds a secret; call the file something else", self.unnamed.clean(&path));
        Err(ProductError::Pattern { section: self.section, why })
    }

    /// Every pattern has to name something: one that names nothing is a mistake that would show up much later.
    fn choose(&self, all: Vec<PathBuf>) -> Result<Vec<PathBuf>, ProductError> {
        let mut used = vec![false; self.patterns.len()];
        let chosen = all.into_iter().filter(|path| {
            let mut is_chosen = false;
            for (pattern, used) in self.patterns.iter().zip(&mut used) {
                let fits = pattern.matchers.iter().any(|matcher| matcher.is_match(path));
                *used |= fits;
                is_chosen |= fits;
            }
            is_chosen
        });
        let chosen = chosen.collect();
        let unused = self.patterns.iter().zip(&used).find(|(_, used)| !**used);
        if let Some((pattern, _)) = unused {
            let why = format!(
                "`{}` matches no file once the steps have run; correct the pattern, or what the steps write",
                pattern.text
            );
            return Err(ProductError::Pattern { section: self.section, why });
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(patterns: &[&str], all: &[&str]) -> Result<Vec<String>, String> {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let products = Products::new("artifacts", &patterns).map_err(|e| e.to_string())?;
        let chosen = products.choose(all.iter().map(PathBuf::from).collect()).map_err(|e| e.to_string())?;
        Ok(chosen.iter().map(|p| p.display().to_string()).collect())
    }

    #[test]
    fn patterns_name_files_and_whole_folders() {
        let all = ["a", "dist/x", "dist/deep/y", "src/a.rs", "target/app"];
        for (patterns, want) in [
            (&["**"][..], &all[..]),
            (&["dist"], &["dist/x", "dist/deep/y"]),
            (&["./dist/"], &["dist/x", "dist/deep/y"]),
            (&["dist/*"], &["dist/x", "dist/deep/y"]),
            (&["target/app", "**/*.rs"], &["src/a.rs", "target/app"]),
            (&[], &[]),
        ] {
            assert_eq!(choose(patterns, &all).unwrap(), want, "{patterns:?}");
        }
    }

    #[test]
    fn a_pattern_without_a_match_is_named() {
        let told = choose(&["a", "nothing/*"], &["a"]).unwrap_err();
        assert!(told.contains("build.artifacts: `nothing/*` matches no file"), "{told}");
        assert!(choose(&["[a"], &["a"]).unwrap_err().contains("is no pattern"));
    }
}
