//! `xtask new-bot NAME`: a bot that works and is tested, to be changed into what one wants. It edits two files, the
//! fleet's list and the manifest of its package; everything else it creates. What a bot is made of is in `templates/`.
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use bot_messages::BotName;

const FLEET_LIST: &str = "crates/tools/xtask/src/fleet.rs";
const FLEET_MANIFEST: &str = "crates/tools/xtask/Cargo.toml";
/// Users and exchanges of these names are the broker's own, or people's.
const TAKEN: &[&str] = &["ci", "lota-metrics", "operator", "outside", "unrouted"];
/// A library of such a name would hide the compiler's own.
const RUST_OWN: &[&str] = &["alloc", "core", "proc_macro", "std", "test"];

/// Creates the bot in the checkout at `root`.
pub(crate) fn run(root: &Path, name: &str, out: &mut impl Write) -> Result<ExitCode> {
    let names = Names::of(name)?;
    let plan = Plan::new(root, &names)?;
    for (path, text) in plan.created.iter().chain(&plan.edited) {
        let full = root.join(path);
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(full, text).with_context(|| format!("{path} cannot be written"))?;
    }
    for (verb, files) in [("created", &plan.created), ("edited", &plan.edited)] {
        for (path, _) in files {
            writeln!(out, "{verb} {path}")?;
        }
    }
    let Names { bot, slug, .. } = names;
    writeln!(out, "new-bot: {bot} counts alerts; make crates/bots/{slug}/src/lib.rs do what you want")?;
    writeln!(out, "next: make gen && cargo test --package {slug}")?;
    Ok(ExitCode::SUCCESS)
}

/// One name in its three spellings: `NoteBot`, `note-bot`, `note_bot`.
#[derive(Debug)]
struct Names {
    bot: String,
    slug: String,
    module: String,
}

impl Names {
    /// From either of the first two.
    fn of(given: &str) -> Result<Self> {
        let is_pascal = given.starts_with(|c: char| c.is_ascii_uppercase());
        let bot = if is_pascal { given.to_owned() } else { pascal(given) };
        let expected = "expected such as NoteBot or note-bot: words of letters and digits";
        let slug = bot.parse::<BotName>().with_context(|| format!("`{given}` is no name: {expected}"))?.slug();
        let same = if is_pascal { pascal(&slug) == bot } else { slug == given };
        ensure!(same, "`{given}` is no name that can be spelled both ways (`{bot}`, `{slug}`): {expected}");
        let module = slug.replace('-', "_");
        let is_free = !TAKEN.contains(&slug.as_str()) && !RUST_OWN.contains(&module.as_str());
        ensure!(is_free && syn::parse_str::<syn::Ident>(&module).is_ok(), "`{slug}` is taken: choose another name");
        Ok(Self { bot, slug, module })
    }

    fn fill(&self, template: &str) -> String {
        template.replace("@Name@", &self.bot).replace("@slug@", &self.slug).replace("@module@", &self.module)
    }
}

fn pascal(kebab: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    kebab.split('-').map(capital).collect()
}

/// All that is written, by path from the root.
struct Plan {
    created: Vec<(String, String)>,
    edited: Vec<(String, String)>,
}

impl Plan {
    fn new(root: &Path, names: &Names) -> Result<Self> {
        let Names { bot, slug, module } = names;
        // Also a package of somebody else would do harm: cargo could not tell which of the two is meant.
        let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
        ensure!(
            !lock.contains(&format!("name = \"{slug}\"\n")),
            "there is a package `{slug}` already: choose another name"
        );
        let created = [
            (format!("crates/bots/{slug}/Cargo.toml"), include_str!("../templates/new-bot/Cargo.toml.in")),
            (format!("crates/bots/{slug}/src/lib.rs"), include_str!("../templates/new-bot/lib.rs.in")),
            (format!("crates/bots/{slug}/src/main.rs"), include_str!("../templates/new-bot/main.rs.in")),
            (format!("crates/bots/{slug}/tests/{slug}.rs"), include_str!("../templates/new-bot/test.rs.in")),
            (format!("deploy/config/{slug}.yaml"), include_str!("../templates/new-bot/config.yaml.in")),
        ]
        .map(|(path, template)| (path, names.fill(template)))
        .to_vec();
        for (path, _) in &created {
            ensure!(!root.join(path).exists(), "{path} is there already: choose another name, or remove it");
        }
        let edit = |path: &str, change: &dyn Fn(&str) -> Result<String>| -> Result<(String, String)> {
            let text = fs::read_to_string(root.join(path)).with_context(|| format!("{path} cannot be read"))?;
            Ok((path.to_owned(), change(&text).with_context(|| format!("{path} cannot be edited"))?))
        };
        let edited = vec![
            edit(FLEET_LIST, &|text| listed(text, &format!("        member::<{module}::{bot}>(),")))?,
            edit(FLEET_MANIFEST, &|text| depended_on(text, slug))?,
        ];
        Ok(Self { created, edited })
    }
}

/// The fleet's list with one line more, in its place by the alphabet.
fn listed(text: &str, line: &str) -> Result<String> {
    let is_member = |line: &str| line.trim_start().starts_with("member::<");
    let mut lines: Vec<&str> = text.lines().collect();
    let members: Vec<usize> = (0..lines.len()).filter(|i| is_member(lines[*i])).collect();
    let Some(last) = members.last() else {
        bail!("no line `member::<…>(),` is in it: expected the list of all bots");
    };
    let at = members.iter().find(|i| lines[**i] > line).copied().unwrap_or(last + 1);
    lines.insert(at, line);
    Ok(lines.join("\n") + "\n")
}

/// The manifest with one dependency more, in its place by the alphabet.
fn depended_on(text: &str, slug: &str) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().position(|line| *line == "[dependencies]").context("it has no [dependencies]")? + 1;
    let length = lines[start..].iter().take_while(|line| !line.is_empty() && !line.starts_with('[')).count();
    let key = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    let is_behind = |line: &&str| !line.starts_with('#') && key(line).as_str() > slug;
    let mut at = start + lines[start..start + length].iter().position(is_behind).unwrap_or(length);
    // A comment belongs to the line behind it.
    while lines[at - 1].starts_with('#') {
        at -= 1;
    }
    let line = format!("{slug} = {{ path = \"../../bots/{slug}\" }}");
    lines.insert(at, &line);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
    }

    /// What a new bot touches, and what is looked at for it.
    fn copy() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in [FLEET_LIST, FLEET_MANIFEST, "Cargo.toml", "Cargo.lock"] {
            let to = folder.path().join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(root().join(path), to).unwrap();
        }
        folder
    }

    fn files(root: &Path) -> Vec<(String, String)> {
        let entries = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().is_file());
        let path = |entry: &walkdir::DirEntry| entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        files.map(|entry| (path(&entry), fs::read_to_string(entry.path()).unwrap())).collect()
    }

    #[test]
    fn a_bot_is_created_and_two_files_are_edited() {
        let folder = copy();
        let before = files(folder.path());
        let mut out = Vec::new();
        run(folder.path(), "made-up-for-tests", &mut out).unwrap();
        let after = files(folder.path());

        let is_new = |path: &String| !before.iter().any(|(other, _)| other == path);
        let created: Vec<_> = after.iter().map(|(path, _)| path).filter(|path| is_new(path)).collect();
        assert_eq!(
            created,
            [
                "crates/bots/made-up-for-tests/Cargo.toml",
                "crates/bots/made-up-for-tests/src/lib.rs",
                "crates/bots/made-up-for-tests/src/main.rs",
                "crates/bots/made-up-for-tests/tests/made-up-for-tests.rs",
                "deploy/config/made-up-for-tests.yaml",
            ]
        );
        let edited: Vec<_> =
            before.iter().filter(|file| !after.contains(file)).map(|(path, _)| path.as_str()).collect();
        assert_eq!(edited, [FLEET_MANIFEST, FLEET_LIST]);
        for (path, text) in &after {
            assert!(!text.contains("@slug@") && !text.contains("@Name@") && !text.contains("@module@"), "{path}");
        }
        for (path, line) in [
            (FLEET_LIST, "        member::<made_up_for_tests::MadeUpForTests>(),\n"),
            (FLEET_MANIFEST, "made-up-for-tests = { path = \"../../bots/made-up-for-tests\" }\n"),
            ("crates/bots/made-up-for-tests/src/main.rs", "    bot_core::run::<made_up_for_tests::MadeUpForTests>()\n"),
        ] {
            let text = fs::read_to_string(folder.path().join(path)).unwrap();
            assert_eq!(text.matches(line).count(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn a_new_bot_is_tidy_once_the_page_names_it() {
        let folder = copy();
        for name in ["AaMadeUp", "zz-made-up"] {
            run(folder.path(), name, &mut Vec::new()).unwrap();
        }
        let page = folder.path().join("docs/topology.md");
        fs::create_dir_all(page.parent().unwrap()).unwrap();
        fs::write(page, "**AaMadeUp**, **ZzMadeUp**\n").unwrap();
        let mut out = Vec::new();
        crate::tidy::run(folder.path(), &mut out).unwrap();
        let told = String::from_utf8(out).unwrap();
        // The copy is no whole workspace: what else it lacks is not the new bots'.
        let is_own = |line: &&str| line.contains("made-up") || line.starts_with(FLEET_MANIFEST);
        let own: Vec<_> = told.lines().filter(is_own).collect();
        assert_eq!(own, [""; 0]);
    }

    #[test]
    fn the_same_bot_is_not_created_twice() {
        let folder = copy();
        run(folder.path(), "MadeUpForTests", &mut Vec::new()).unwrap();
        let before = files(folder.path());
        let error = run(folder.path(), "made-up-for-tests", &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("crates/bots/made-up-for-tests/Cargo.toml is there already"), "{error}");
        assert!(run(folder.path(), "serde", &mut Vec::new()).is_err(), "it is a package of the lock file");
        assert_eq!(files(folder.path()), before);
    }

    #[test]
    fn a_name_has_two_spellings() {
        for (given, bot, slug) in [
            ("NoteBot", "NoteBot", "note-bot"),
            ("note-bot", "NoteBot", "note-bot"),
            ("x", "X", "x"),
            ("db2-bot", "Db2Bot", "db2-bot"),
        ] {
            let names = Names::of(given).unwrap();
            assert_eq!((names.bot.as_str(), names.slug.as_str()), (bot, slug));
        }
        for wrong in [
            "",
            "-",
            "note_bot",
            "Note-Bot",
            "HTTPBot",
            "noteBot",
            "note--bot",
            "note-2go",
            "9bot",
            "a/b",
            "../x",
            "bot ",
            "ü",
            "operator",
            "Outside",
            "fn",
            "Std",
            "test",
            &"x".repeat(65),
        ] {
            assert!(Names::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_takes_its_place_by_the_alphabet() {
        let list = "    vec![\n        member::<b::B>(),\n        member::<d::D>(),\n    ]\n";
        for (line, place) in [("a::A", 1), ("c::C", 2), ("e::E", 3)] {
            let line = format!("        member::<{line}>(),");
            assert_eq!(listed(list, &line).unwrap().lines().position(|other| other == line), Some(place));
        }
        assert!(listed("vec![]\n", "x").is_err());

        let manifest =
            "[dependencies]\nanyhow.workspace = true\n# Why.\ncee = { path = \"../cee\" }\n\n[dev-dependencies]\n";
        for (slug, place) in [("a", 1), ("bee", 2), ("dee", 4)] {
            let text = depended_on(manifest, slug).unwrap();
            assert_eq!(text.lines().position(|line| line.starts_with(&format!("{slug} = "))), Some(place), "{text}");
        }
    }
}
