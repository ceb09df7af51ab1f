//! The operator's `publishers.yaml`: who may publish besides the bots, what each may say, and for which repositories it
//! may speak. The provisioner grants the first two on the broker; the third is held by the bots that act.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bot_messages::{
    BotName, OutsidePublisher, catalogue,
    contract::{control_types, operator_name},
    pipeline::{YamlMistake, meant, read_yaml},
};
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::mistakes::{Mistakes, lines, text_of};

/// The file's name in the folder of configuration.
const FILE_NAME: &str = "publishers.yaml";
/// What a broker's user can sensibly have.
const LIMIT_MAX: u32 = 10_000;
/// By which the names of bots end, and no publisher's.
const BOT: &str = "-bot";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    publishers: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    name: Spanned<String>,
    says: Vec<Spanned<String>>,
    #[serde(default)]
    hears_all: bool,
    #[serde(default)]
    repositories: Vec<Spanned<String>>,
    #[serde(default)]
    max_connections: Option<Spanned<u32>>,
    #[serde(default)]
    max_channels: Option<Spanned<u32>>,
}

#[derive(Debug)]
pub(crate) struct Granted {
    publisher: OutsidePublisher,
    repositories: Vec<GlobMatcher>,
}

/// Who may publish besides the bots and the operator.
#[derive(Debug, Default)]
pub struct Publishers {
    file: PathBuf,
    granted: Vec<Granted>,
}

impl Publishers {
    /// Reads the file. That it is missing is no mistake: then nobody may.
    ///
    /// # Errors
    /// All mistakes, a line each, with file, line and column.
    pub fn read(config_dir: &Path) -> Result<Self, String> {
        let file = config_dir.join(FILE_NAME);
        let Some(text) = text_of(&file)? else {
            return Ok(Self { file, granted: Vec::new() });
        };
        let granted = parse(&text).map_err(|mistakes| lines(&file.display(), mistakes))?;
        Ok(Self { file, granted })
    }

    /// As the topology wants them.
    pub fn outside(&self) -> Vec<OutsidePublisher> {
        self.granted.iter().map(|granted| granted.publisher.clone()).collect()
    }

    /// Whether `publisher` (a slug, as the broker proves it) may speak for the repository at `url`. Bots and the operator
    /// may for all; whoever else is not in the file for none.
    ///
    /// # Errors
    /// Why not, and the line to add.
    pub fn may_speak_for(&self, publisher: &str, url: &str) -> Result<(), String> {
        if publisher.ends_with(BOT) || publisher == operator_name().slug() {
            return Ok(());
        }
        let file = self.file.display();
        let Some(granted) = self.granted.iter().find(|granted| granted.publisher.name.slug() == publisher) else {
            return Err(format!(
                "{publisher} is not listed in {file}, which is read when the bot starts: restart the bot"
            ));
        };
        if granted.repositories.iter().any(|pattern| pattern.is_match(url)) {
            return Ok(());
        }
        Err(format!(
            "{publisher} may not speak for `{url}`: to allow it, add the pattern {:?} to `repositories` of {publisher} in \
             {file}, and restart the bot",
            globset::escape(url)
        ))
    }
}

/// The types first; then all that types cannot say, together.
pub(crate) fn parse(text: &str) -> Result<Vec<Granted>, Vec<YamlMistake>> {
    let expected = "expected `publishers:` with a list of items such as `- {name: ci, says: [test.completed]}`";
    let file: Option<File> = read_yaml(text).map_err(|mut mistake| {
        mistake.message = format!("{}; {expected}", mistake.message);
        vec![mistake]
    })?;
    let (mut mistakes, mut seen, mut all) = (Mistakes::default(), BTreeMap::new(), Vec::new());
    for item in file.map(|file| file.publishers).unwrap_or_default() {
        all.extend(granted(item, &mut seen, &mut mistakes));
    }
    mistakes.or(all)
}

fn granted(item: Item, seen: &mut BTreeMap<String, Location>, mistakes: &mut Mistakes) -> Option<Granted> {
    let name = name(&item.name, seen, mistakes);
    says(&item.says, mistakes);
    for limit in [&item.max_connections, &item.max_channels].into_iter().flatten() {
        if !(1..=LIMIT_MAX).contains(&limit.value) {
            mistakes.add(limit.referenced, format!("{}: expected 1 to {LIMIT_MAX}", limit.value));
        }
    }
    let patterns = item.repositories.iter().filter_map(|pattern| {
        let glob = GlobBuilder::new(&pattern.value).literal_separator(true).build();
        let wrong = |e: &globset::Error| format!("`{}` is no pattern: {}", pattern.value, e.kind());
        glob.inspect_err(|e| mistakes.add(pattern.referenced, wrong(e))).ok()
    });
    let repositories = patterns.map(|glob| glob.compile_matcher()).collect();
    let plain = |all: Vec<Spanned<String>>| all.into_iter().map(|one| one.value).collect();
    let publisher = OutsidePublisher {
        name: name?,
        says: plain(item.says),
        hears_all: item.hears_all,
        operator: false,
        repositories: plain(item.repositories),
        max_connections: item.max_connections.map(|limit| limit.value),
        max_channels: item.max_channels.map(|limit| limit.value),
    };
    Some(Granted { publisher, repositories })
}

/// A name that is nobody else's, on the broker too.
fn name(text: &Spanned<String>, seen: &mut BTreeMap<String, Location>, mistakes: &mut Mistakes) -> Option<BotName> {
    let name: BotName = match text.value.parse() {
        Ok(name) => name,
        Err(e) => {
            mistakes.add(text.referenced, e.to_string());
            return None;
        }
    };
    let slug = name.slug();
    if slug == operator_name().slug() || slug.starts_with("lota-") || slug.ends_with(BOT) {
        let why =
            "operator, names that begin with `lota-` and names that end in `Bot` are the fleet's own; take another";
        mistakes.add(text.referenced, format!("`{}`: {why}", text.value));
    }
    if let Some(first) = seen.get(&slug) {
        let why = format!("`{}` is `{slug}` on the broker, as is the publisher of line {}", text.value, first.line());
        mistakes.add(text.referenced, why);
    }
    seen.entry(slug).or_insert(text.referenced);
    Some(name)
}

fn says(types: &[Spanned<String>], mistakes: &mut Mistakes) {
    let known: Vec<&str> = catalogue::all().iter().map(|entry| entry.event_type).collect();
    for said in types {
        let event_type = said.value.as_str();
        if !known.contains(&event_type) {
            let near = meant(event_type, &known);
            mistakes
                .add(said.referenced, format!("`{event_type}` is no message type (docs/MESSAGES.md lists them){near}"));
        } else if control_types().contains(&event_type) {
            mistakes.add(said.referenced, format!("`{event_type}`: only the operator steers bots; leave it out"));
        } else if types.iter().filter(|other| other.value == said.value).count() > 1 {
            mistakes.add(said.referenced, format!("`{event_type}` is here twice; leave one out"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publishers(text: &str) -> Publishers {
        Publishers { file: "/etc/lota/publishers.yaml".into(), granted: parse(text).unwrap() }
    }

    #[test]
    fn a_publisher_speaks_for_what_it_is_listed_for_and_a_bot_for_all() {
        let list = publishers(
            "publishers:\n  - {name: ci, says: [repository.pushed], repositories: ['https://h/team/*']}\n  - {name: other, says: [repository.pushed]}\n",
        );
        for (publisher, url, may) in [
            ("ci", "https://h/team/api", true),
            ("ci", "https://h/team/a/b", false),
            ("ci", "/srv/git/api", false),
            ("other", "https://h/team/api", false),
            ("nobody", "https://h/team/api", false),
            ("operator", "/srv/git/api", true),
            ("build-bot", "/srv/git/api", true),
        ] {
            assert_eq!(list.may_speak_for(publisher, url).is_ok(), may, "{publisher} {url}");
        }
        let told = list.may_speak_for("ci", "/srv/[x]").unwrap_err();
        assert!(told.contains("/etc/lota/publishers.yaml") && told.contains("\"/srv/[[]x[]]\""), "{told}");
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places() {
        let told = parse(
            "publishers:\n  - {name: ci, says: [deploy.request, control.pause]}\n  - {name: CI, says: []}\n  - {name: LintBot, says: []}\n  - {name: a b, says: [build.failed, build.failed]}\n  - {name: lota-admin, says: [], repositories: ['/['], max_connections: 0}\n  - {name: operator, says: []}\n",
        );
        let told: Vec<String> =
            told.unwrap_err().into_iter().map(|m| format!("{:?} {}", m.at.unwrap(), m.message)).collect();
        for (mistake, part) in [
            "(2, 23) `deploy.request` is no message type",
            "(2, 39) `control.pause`: only the operator",
            "(3, 12) `CI` is `ci` on the broker, as is the publisher of line 2",
            "(4, 12) `LintBot`: operator, names",
            "(5, 12) name `a b` is not usable",
            "(5, 24) `build.failed` is here twice",
            "(5, 38) `build.failed` is here twice",
            "(6, 12) `lota-admin`: operator, names",
            "(6, 73) 0: expected 1 to 10000",
            "(6, 49) `/[` is no pattern",
            "(7, 12) `operator`: operator, names",
        ]
        .into_iter()
        .zip(&told)
        {
            assert!(part.starts_with(mistake), "{part}: expected {mistake}");
        }
        assert_eq!(told.len(), 11, "{told:#?}");
        assert!(told[0].ends_with("did you mean `deploy.requested`?"), "{told:?}");
        let told = parse("publishers:\n  - {name: ci, say: []}\n").unwrap_err();
        assert!(told[0].message.contains("did you mean `says`?"), "{told:?}");
    }

    #[test]
    fn the_shipped_file_is_read() {
        let shipped = publishers(include_str!("../../../../deploy/config/publishers.yaml"));
        assert!(shipped.may_speak_for("outside", "/srv/git/api").is_ok());
    }
}
