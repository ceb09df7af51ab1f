//! The operator's `repositories.yaml`: which repositories are built, and what each may have. Read once, and checked whole.
//! Nothing here fetches.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bot_messages::pipeline::{YamlMistake, read_yaml};
use bot_sandbox::SandboxKind;
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::mistakes::{Mistakes, lines, text_of};

/// The file's name in the folder of configuration.
const FILE_NAME: &str = "repositories.yaml";
const WEIGHT_MAX: u32 = 100;

/// How far a repository's content is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Written by the team.
    Own,
    /// Written by people the team knows.
    Known,
    /// Written by anyone: it gets no secrets, shares no cache, and goes nowhere.
    Fork,
}

impl Trust {
    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Known => "known",
            Self::Fork => "fork",
        }
    }
}

/// What a repository may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub trust: Trust,
    /// With which it is fetched, by its name in the folder of secrets.
    pub credential: Option<String>,
    /// To which environments it may go; none: to every one that takes it.
    pub environments: Option<Vec<String>>,
    /// Names of secrets that its steps and suites may name.
    pub secrets: Vec<String>,
    /// How many of its jobs begin for one of a repository of weight 1.
    pub weight: u32,
}

impl Listed {
    /// Nobody's code but the team's own runs where nothing keeps it in.
    pub fn may_run_in(&self, kind: SandboxKind, allow_weak: bool) -> Result<(), String> {
        if kind.is_a_boundary() || allow_weak || self.trust == Trust::Own {
            return Ok(());
        }
        Err(format!(
            "its commands are not run: only the sandbox {kind} works on this machine, which keeps nothing in, and the repository is `trust: {}` in repositories.yaml, not `own`; install bubblewrap, allow user namespaces or have a kernel with landlock (6.2), or set settings.allow_weak_sandbox in the bot's configuration",
            self.trust.as_str()
        ))
    }

    /// Why it may not go there.
    pub fn refuses(&self, environment: &str) -> Option<String> {
        if self.trust == Trust::Fork {
            return Some("a fork is not deployed (trust in repositories.yaml)".to_owned());
        }
        let allowed = self.environments.as_ref()?;
        let names = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        let refused = !allowed.iter().any(|name| name == environment);
        refused.then(|| format!("repositories.yaml lists {names} as environments of this repository"))
    }
}

/// One item of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(rename = "match")]
    pattern: Spanned<String>,
    #[serde(default)]
    name: Option<Spanned<String>>,
    trust: Trust,
    #[serde(default)]
    credential: Option<Spanned<String>>,
    #[serde(default)]
    environments: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    secrets: Vec<Spanned<String>>,
    #[serde(default)]
    weight: Option<Spanned<u32>>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    matcher: GlobMatcher,
    name: Option<String>,
    listed: Listed,
}

/// The repositories that may be built.
#[derive(Debug)]
pub struct Repositories {
    file: PathBuf,
    /// `None`: there is no file.
    rules: Option<Vec<Rule>>,
}

impl Repositories {
    /// Reads the file. That it is missing is no mistake: then nothing is built.
    pub fn read(config_dir: &Path) -> Result<Self, String> {
        let file = config_dir.join(FILE_NAME);
        let Some(text) = text_of(&file)? else {
            return Ok(Self { file, rules: None });
        };
        let rules = parse(&text).map_err(|mistakes| lines(&file.display(), mistakes))?;
        Ok(Self { file, rules: Some(rules) })
    }

    /// As [`Listed::may_run_in`], for whoever asks of a repository nothing else.
    pub fn may_run_in(&self, kind: SandboxKind, allow_weak: bool, repository: &str, url: &str) -> Result<(), String> {
        if kind.is_a_boundary() || allow_weak {
            return Ok(());
        }
        self.judge(repository, url)?.may_run_in(kind, allow_weak)
    }

    /// What it may have, by the first rule that fits; or what the operator would have to write.
    pub fn judge(&self, repository: &str, url: &str) -> Result<&Listed, String> {
        let file = self.file.display();
        let line = format!("- {{match: {}, trust: known}}", quoted(url));
        let Some(rules) = &self.rules else {
            return Err(format!("there is no {file}, so no repository is built; make it with the line: {line}"));
        };
        // A name that is given to one place is not taken by another.
        let owner = rules.iter().find(|rule| rule.name.as_deref() == Some(repository));
        let owned =
            owner.is_some() && !rules.iter().any(|r| r.name.as_deref() == Some(repository) && r.matcher.is_match(url));
        if let Some(owner) = owner.filter(|_| owned) {
            return Err(format!(
                "{file} gives the name `{repository}` to `{}`, and `{url}` is another; use a name of its own",
                owner.matcher.glob().glob()
            ));
        }
        let mut other_name = None;
        for rule in rules.iter().filter(|rule| rule.matcher.is_match(url)) {
            match &rule.name {
                Some(name) if name != repository => other_name = other_name.or(Some(name)),
                _ => return Ok(&rule.listed),
            }
        }
        Err(match other_name {
            Some(name) => format!(
                "{file} lists `{url}` by the name `{name}`, and here it is called `{repository}`; use that name"
            ),
            None => format!(
                "`{url}` is not listed in {file}, which is read when the bot starts, so it is not built; to allow it add the line: {line}"
            ),
        })
    }

    /// Every credential that is named.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flatten().filter_map(|rule| rule.listed.credential.as_deref())
    }
}

/// The types first; then all that types cannot say, together.
pub(crate) fn parse(text: &str) -> Result<Vec<Rule>, Vec<YamlMistake>> {
    let expected = "expected a list of items such as `- {match: \"https://git.example.org/team/**\", trust: own}`";
    // A file of comments alone lists nothing, on purpose.
    let items: Option<Vec<Item>> = read_yaml(text).map_err(|mut mistake| {
        mistake.message = format!("{}; {expected}", mistake.message);
        vec![mistake]
    })?;
    let mut mistakes = Mistakes::default();
    let mut seen: BTreeMap<(String, Option<String>), Location> = BTreeMap::new();
    let mut rules = Vec::new();
    for item in items.unwrap_or_default() {
        let key = (item.pattern.value.clone(), item.name.as_ref().map(|name| name.value.clone()));
        let here = item.pattern.referenced;
        if let Some(first) = seen.get(&key) {
            let why = format!("`{}` is listed in line {} already, and the first counts", key.0, first.line());
            mistakes.add(here, why);
        }
        seen.entry(key).or_insert(here);
        rules.extend(rule(item, &mut mistakes));
    }
    mistakes.or(rules)
}

fn rule(item: Item, mistakes: &mut Mistakes) -> Option<Rule> {
    let Item { pattern, name, trust, credential, environments, secrets, weight } = item;
    if let Some(name) = &name {
        mistakes.check(name, (1..=200).contains(&name.value.chars().count()), "1 to 200 characters");
    }
    for name in environments.iter().flatten().chain(&credential) {
        mistakes.check(name, is_name(&name.value), "a name of letters, digits, `-`, `_` and `.`");
    }
    for name in &secrets {
        mistakes.check(name, is_variable(&name.value), "the name of a variable: letters, digits and `_`");
    }
    if let Some(weight) = weight.as_ref().filter(|weight| !(1..=WEIGHT_MAX).contains(&weight.value)) {
        mistakes.add(weight.referenced, format!("weight {}: expected 1 to {WEIGHT_MAX}", weight.value));
    }
    if trust == Trust::Fork {
        let useless = secrets.iter().chain(environments.iter().flatten());
        useless.for_each(|name| {
            let why = format!("`{}`: a fork gets no secrets and goes nowhere; leave it out, or trust it", name.value);
            mistakes.add(name.referenced, why);
        });
    }
    if let Some(credential) = &credential
        && !names_a_host(&pattern.value)
    {
        let why = format!(
            "credential `{}` would go to whatever host `{}` fits: begin `match` with https://host/, ssh://user@host/ or user@host:",
            credential.value, pattern.value
        );
        mistakes.add(credential.referenced, why);
    }
    let matcher = match GlobBuilder::new(&pattern.value).literal_separator(true).build() {
        Ok(glob) => glob.compile_matcher(),
        Err(e) => {
            mistakes.add(pattern.referenced, format!("`{}` is no pattern: {}", pattern.value, e.kind()));
            return None;
        }
    };
    let plain = |all: Vec<Spanned<String>>| all.into_iter().map(|one| one.value).collect::<Vec<_>>();
    let listed = Listed {
        trust,
        credential: credential.map(|name| name.value),
        environments: environments.map(plain),
        secrets: plain(secrets),
        weight: weight.map_or(1, |weight| weight.value),
    };
    Some(Rule { matcher, name: name.map(|name| name.value), listed })
}

fn is_name(text: &str) -> bool {
    (1..=60).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_variable(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether all that it fits is on one host: nothing in it up to there stands for something else.
fn names_a_host(pattern: &str) -> bool {
    let fixed = pattern.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
    match fixed.split_once("://") {
        Some((_, rest)) => rest.contains('/') && !rest.starts_with('/'),
        None => fixed.split_once('@').is_some_and(|(_, rest)| rest.contains(':') && !rest.starts_with(':')),
    }
}

/// As a YAML string that stands for exactly this text as a pattern.
fn quoted(url: &str) -> String {
    let literal = globset::escape(url);
    format!("{literal:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let told = |m: YamlMistake| format!("{:?} {}", m.at.unwrap_or_default(), m.message);
        parse(text).unwrap_err().into_iter().map(told).collect::<Vec<_>>().join("\n")
    }

    fn repositories(text: &str) -> Repositories {
        Repositories { file: "/etc/lota/repositories.yaml".into(), rules: Some(parse(text).unwrap()) }
    }

    const NAME: &str = "shop/api";

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
            assert_eq!(list.judge(NAME, url).ok().map(|listed| listed.trust), trust, "{url}");
        }
    }

    #[test]
    fn an_item_says_all_that_a_repository_may_have() {
        let list = repositories(
            "- {match: 'https://h/a/*', trust: own, credential: forge, environments: [staging], secrets: [TOKEN], weight: 3}\n- {match: 'git@h:b/*', trust: fork, credential: key}\n- {match: 'https://h/**', trust: known}\n",
        );
        let listed = list.judge(NAME, "https://h/a/x").unwrap();
        let want = Listed {
            trust: Trust::Own,
            credential: Some("forge".into()),
            environments: Some(vec!["staging".into()]),
            secrets: vec!["TOKEN".into()],
            weight: 3,
        };
        assert_eq!(*listed, want);
        assert_eq!(listed.refuses("staging"), None);
        assert!(listed.refuses("production").unwrap().contains("lists staging as environments"));
        assert!(list.judge(NAME, "git@h:b/x").unwrap().refuses("staging").unwrap().contains("fork"));
        assert_eq!(list.judge(NAME, "https://h/c").unwrap().refuses("any"), None);
        assert_eq!(list.credentials().collect::<Vec<_>>(), ["forge", "key"]);
    }

    #[test]
    fn the_line_to_add_allows_what_was_refused() {
        let url = "https://git.example.org/[x]*/api";
        let told = repositories("").judge(NAME, url).unwrap_err();
        assert!(told.contains("/etc/lota/repositories.yaml"), "{told}");
        let (_, line) = told.split_once("add the line: ").unwrap();
        assert_eq!(repositories(line).judge(NAME, url).unwrap().trust, Trust::Known);
        assert!(repositories(line).judge(NAME, "https://git.example.org/x/api").is_err());
    }

    #[test]
    fn a_name_is_held_to() {
        let list = repositories("- {match: 'https://git.example.org/**', name: shop/web, trust: own}\n");
        let told = list.judge(NAME, "https://git.example.org/x").unwrap_err();
        assert!(told.contains("`shop/web`") && told.contains("`shop/api`"), "{told}");
    }

    #[test]
    fn a_name_that_is_given_is_not_taken_by_another_place() {
        let list = repositories(
            "- {match: 'https://h/shop/api', name: shop/api, trust: own}\n- {match: 'https://h/**', trust: known}\n",
        );
        assert!(list.judge(NAME, "https://h/shop/api").is_ok());
        assert!(list.judge("mine", "https://h/mine").is_ok());
        let told = list.judge(NAME, "https://h/mine").unwrap_err();
        assert!(told.contains("gives the name `shop/api` to `https://h/shop/api`"), "{told}");
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_a_missing_file_says_so() {
        for (text, want) in [
            ("- {match: /x, trust: own}\n- {match: /x}\n", "(2, "),
            ("repositories: []\n", "expected a list"),
            ("- {match: '/[', trust: own}\n", "(1, 11) `/[` is no pattern"),
            ("- {match: /x, trust: onw}\n", "did you mean `own`?"),
            ("- match: /x\n  trust: own\n  secret: [A]\n", "did you mean `secrets`?"),
            ("- {match: /x, trust: own}\n- {match: /x, trust: fork}\n", "(2, 11) `/x` is listed in line 1 already"),
            ("- {match: /x, trust: own, weight: 0}\n", "(1, 35) weight 0: expected 1 to 100"),
            ("- {match: /x, trust: own, secrets: [a-b]}\n", "`a-b`: expected the name of a variable"),
            ("- {match: /x, trust: fork, secrets: [A]}\n", "`A`: a fork gets no secrets"),
            ("- {match: 'https://h/x', trust: own, credential: ../x}\n", "`../x`: expected a name"),
        ] {
            let told = told(text);
            assert!(told.contains(want), "{told}");
        }
        let two = told("- {match: /x, trust: own, weight: 0}\n- {match: '/[', trust: own}\n");
        assert!(two.contains("(1, 35)") && two.contains("(2, 11)"), "all at once: {two}");
        let dir = tempfile::tempdir().unwrap();
        let none = Repositories::read(dir.path()).unwrap();
        let told = none.judge(NAME, "/x").unwrap_err();
        assert!(told.contains("there is no") && told.contains(FILE_NAME), "{told}");
    }

    #[test]
    fn a_credential_goes_to_one_host_alone() {
        for (pattern, fits) in [
            ("https://h/**", true),
            ("ssh://git@h:22/team/*", true),
            ("git@h:team/*", true),
            ("https://*/x", false),
            ("https://h*/x", false),
            ("https://h", false),
            ("http*://h/x", false),
            ("**", false),
            ("*@h:x", false),
            ("git@*:x", false),
            ("/srv/**", false),
        ] {
            assert_eq!(names_a_host(pattern), fits, "{pattern}");
        }
        assert!(told("- {match: '**', trust: own, credential: c}\n").contains("would go to whatever host `**` fits"));
    }

    #[test]
    fn the_shipped_file_is_read() {
        assert!(parse(include_str!("../../../../deploy/config/repositories.yaml")).is_ok());
    }
}
