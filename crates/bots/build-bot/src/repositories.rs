//! Which repositories may be built: the operator's `repositories.yaml`, read once. Nothing here fetches.
use std::path::{Path, PathBuf};

use bot_messages::Revision;
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;

/// The file's name in the folder of configuration.
pub(crate) const FILE_NAME: &str = "repositories.yaml";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How far a repository's content is trusted. No build gets secrets or a shared cache, so BuildBot treats all alike;
/// who deploys looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trust {
    /// Written by the team.
    Own,
    /// Written by people the team knows.
    Known,
    /// Written by anyone.
    Fork,
}

/// One item of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    /// A pattern over URLs or local paths; `*` stays within a segment, `**` does not.
    #[serde(rename = "match")]
    pattern: String,
    /// The only name that a push of it may bear.
    name: Option<String>,
    trust: Trust,
}

#[derive(Debug)]
struct Rule {
    matcher: GlobMatcher,
    name: Option<String>,
    trust: Trust,
}

/// The repositories that may be built.
#[derive(Debug)]
pub(crate) struct Repositories {
    file: PathBuf,
    /// `None`: there is no file.
    rules: Option<Vec<Rule>>,
}

impl Repositories {
    /// Reads the file. That it is missing is no mistake: then nothing is built.
    pub(crate) fn read(config_dir: &Path) -> anyhow::Result<Self> {
        let file = config_dir.join(FILE_NAME);
        let shown = file.display();
        let meta = match file.metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self { file, rules: None }),
            Err(e) => anyhow::bail!("{shown} cannot be read: {e}"),
        };
        anyhow::ensure!(meta.len() <= FILE_BYTES_MAX, "{shown} has more than {FILE_BYTES_MAX} bytes");
        let text = std::fs::read_to_string(&file).map_err(|e| anyhow::anyhow!("{shown} cannot be read: {e}"))?;
        let rules = parse(&text).map_err(|why| anyhow::anyhow!("{shown}{why}"))?;
        Ok(Self { file, rules: Some(rules) })
    }

    /// How far it is trusted, by the first rule that fits; or what the operator would have to write.
    pub(crate) fn judge(&self, revision: &Revision) -> Result<Trust, String> {
        let (url, file) = (&revision.url, self.file.display());
        let line = format!("- {{match: {}, trust: known}}", quoted(url));
        let Some(rules) = &self.rules else {
            return Err(format!("there is no {file}, so no repository is built; make it with the line: {line}"));
        };
        let mut other_name = None;
        for rule in rules.iter().filter(|rule| rule.matcher.is_match(url)) {
            match &rule.name {
                Some(name) if *name != revision.repository => other_name = other_name.or(Some(name)),
                _ => return Ok(rule.trust),
            }
        }
        Err(match other_name {
            Some(name) => format!(
                "{file} lists `{url}` by the name `{name}`, and this push calls it `{}`; use that name",
                revision.repository
            ),
            None => format!(
                "`{url}` is not listed in {file}, which is read when BuildBot starts, so it is not built; to allow it add the line: {line}"
            ),
        })
    }
}

fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let expected = "expected a list of items such as `- {match: \"https://git.example.org/team/**\", trust: own}`";
    // A file of comments alone lists nothing, on purpose.
    let items: Option<Vec<Item>> = serde_saphyr::from_str(text).map_err(|e| {
        let at = e.location().map(|l| format!(":{}:{}", l.line(), l.column())).unwrap_or_default();
        let what = e.without_snippet().to_string();
        format!("{at}: {}; {expected}", what.lines().next().unwrap_or_default())
    })?;
    let rule = |item: Item| {
        let built = GlobBuilder::new(&item.pattern).literal_separator(true).build();
        let glob = built.map_err(|e| format!(": `{}` is no pattern: {e}", item.pattern))?;
        Ok(Rule { matcher: glob.compile_matcher(), name: item.name, trust: item.trust })
    };
    items.unwrap_or_default().into_iter().map(rule).collect()
}

/// As a YAML string that stands for exactly this text as a pattern.
fn quoted(url: &str) -> String {
    let literal = globset::escape(url);
    format!("{literal:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repositories(text: &str) -> Repositories {
        Repositories { file: "/etc/lota/repositories.yaml".into(), rules: Some(parse(text).unwrap()) }
    }

    fn push(url: &str) -> Revision {
        Revision { url: url.into(), ..Revision::example() }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let list = repositories(
            "- {match: https://git.example.org/team/*, trust: own}\n- {match: 'https://git.example.org/**', trust: fork}\n- {match: /**, trust: known}\n- {match: 'file:///**', trust: known}\n",
        );
        for (url, trust) in [
            ("https://git.example.org/team/api.git", Some(Trust::Own)),
            ("https://git.example.org/team/a/b", Some(Trust::Fork)),
            ("/srv/git/api", Some(Trust::Known)),
            ("file:///srv/git/api", Some(Trust::Known)),
            ("https://git.example.org.evil.net/team/api", None),
            ("https://git.example.org@evil.net/team/api", None),
        ] {
            assert_eq!(list.judge(&push(url)).ok(), trust, "{url}");
        }
    }

    #[test]
    fn the_line_to_add_allows_what_was_refused() {
        let url = "https://git.example.org/[x]*/api";
        let told = repositories("").judge(&push(url)).unwrap_err();
        assert!(told.contains("/etc/lota/repositories.yaml"), "{told}");
        let (_, line) = told.split_once("add the line: ").unwrap();
        assert_eq!(repositories(line).judge(&push(url)), Ok(Trust::Known));
        assert!(repositories(line).judge(&push("https://git.example.org/x/api")).is_err());
    }

    #[test]
    fn a_name_is_held_to() {
        let list = repositories("- {match: 'https://git.example.org/**', name: shop/web, trust: own}\n");
        let told = list.judge(&push("https://git.example.org/x")).unwrap_err();
        assert!(told.contains("`shop/web`") && told.contains("`shop/api`"), "{told}");
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_a_missing_file_says_so() {
        for (text, want) in [
            ("- {match: /x, trust: own}\n- {match: /x}\n", ":2:"),
            ("repositories: []\n", "expected a list"),
            ("- {match: '/[', trust: own}\n", "is no pattern"),
            ("- {match: /x, trust: mine}\n", ":1:"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(want), "{told}");
        }
        let dir = tempfile::tempdir().unwrap();
        let none = Repositories::read(dir.path()).unwrap();
        let told = none.judge(&push("/x")).unwrap_err();
        assert!(told.contains("there is no") && told.contains(FILE_NAME), "{told}");
    }

    #[test]
    fn the_shipped_file_is_read() {
        assert!(parse(include_str!("../../../../deploy/config/repositories.yaml")).is_ok());
    }
}
