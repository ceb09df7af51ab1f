//! Rules about what stands beside the code: a bot's companions, the front pages, sizes, and places on one machine.
use super::Report;
use super::tree::{FILE_BYTES_MAX, Tree};

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
const ARCHITECTURE_LINES_MAX: usize = 200;

/// What the front page must tell newcomers.
const README_NAMES: &[&str] = &["make demo", "make test"];

/// What every bot needs outside its crate. A new kind of companion is a line here.
const COMPANIONS: &[Companion] = &[
    Companion {
        what: "a configuration deploy/config/<bot>.yaml",
        is_there: |tree, bot| tree.has(&format!("deploy/config/{bot}.yaml")),
        remedy: "add the file",
    },
    Companion {
        what: "a line in docs/ARCHITECTURE.md or docs/topology.md",
        is_there: |tree, bot| {
            let pages = [ARCHITECTURE, "docs/topology.md"];
            pages.iter().filter_map(|page| tree.text(page)).any(|page| names_bot(page, bot))
        },
        remedy: "name it there",
    },
];

struct Companion {
    what: &'static str,
    is_there: fn(&Tree, bot: &str) -> bool,
    remedy: &'static str,
}

/// Every bot has all its companions.
pub(super) fn companions(tree: &Tree, report: &mut Report) {
    for (path, _) in tree.files() {
        let ["crates", "bots", bot, "Cargo.toml"] = path.split('/').collect::<Vec<_>>()[..] else {
            continue;
        };
        for companion in COMPANIONS.iter().filter(|companion| !(companion.is_there)(tree, bot)) {
            let wrong = format!("{bot} lacks {}", companion.what);
            report.add("companions", path, 1, wrong, companion.remedy);
        }
    }
}

/// The two pages that newcomers read first.
pub(super) fn front_pages(tree: &Tree, report: &mut Report) {
    for path in ["README.md", ARCHITECTURE] {
        if !tree.has(path) {
            report.add("front-pages", path, 1, "it is missing", "write it");
        }
    }
    if let Some(text) = tree.text("README.md") {
        for name in README_NAMES.iter().filter(|name| !text.contains(**name)) {
            let wrong = format!("it does not name `{name}`");
            report.add("front-pages", "README.md", 1, wrong, "tell newcomers about it");
        }
    }
    let lines = tree.text(ARCHITECTURE).map_or(0, |text| text.lines().count());
    if lines > ARCHITECTURE_LINES_MAX {
        let wrong = format!("it has {lines} lines, more than {ARCHITECTURE_LINES_MAX}");
        let remedy = "move detail to the page that is about it";
        report.add("front-pages", ARCHITECTURE, ARCHITECTURE_LINES_MAX + 1, wrong, remedy);
    }
}

/// A clone carries every large file for ever.
pub(super) fn sizes(tree: &Tree, report: &mut Report) {
    for (path, file) in tree.files().filter(|(_, file)| file.bytes > FILE_BYTES_MAX) {
        let wrong = format!("it has {} bytes, more than {FILE_BYTES_MAX}", file.bytes);
        report.add("sizes", path, 1, wrong, "generate or download it, or make it smaller");
    }
}

/// A path that exists on one machine works on no other.
pub(super) fn places(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.texts() {
        for (i, line) in text.lines().enumerate() {
            if let Some(place) = machine_place(line) {
                let wrong = format!("`{place}` is a place on one machine");
                report.add("places", path, i + 1, wrong, "make it relative, or take it from a setting");
            }
        }
    }
}

/// By its folder's name, or as people and messages call it: `build-bot`, `BuildBot`.
fn names_bot(page: &str, bot: &str) -> bool {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    let spoken: String = bot.split('-').filter(|part| !part.is_empty()).map(capital).collect();
    page.contains(bot) || page.contains(&spoken)
}

/// The beginning of the first path in the line that starts in somebody's own folders.
fn machine_place(line: &str) -> Option<String> {
    line.match_indices('/').find_map(|(at, _)| {
        let before = &line[..at];
        // Behind a name, a dot, a variable or a pattern it is the middle of a path.
        let in_a_path = |c: char| c.is_alphanumeric() || "_-./}$~*)>]".contains(c);
        if before.ends_with(in_a_path) && !before.ends_with("file://") {
            return None;
        }
        let mut parts = line[at + 1..].split('/');
        let name = parts.next().filter(|name| ["home", "root", "work"].contains(name))?;
        let inside = parts.next()?;
        if name != "home" {
            return Some(format!("/{name}/"));
        }
        let is_user = !inside.is_empty() && inside.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        (is_user && parts.next().is_some()).then(|| format!("/home/{inside}/"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    const BOT: (&str, &str) = ("crates/bots/build-bot/Cargo.toml", "");

    #[test]
    fn a_bot_has_its_companions() {
        let config = ("deploy/config/build-bot.yaml", "");
        for line in [(ARCHITECTURE, "BuildBot builds.\n"), ("docs/topology.md", "- build-bot\n")] {
            assert_eq!(found(companions, &[BOT, config, line]), [""; 0]);
        }
        assert_eq!(
            found(companions, &[BOT, (ARCHITECTURE, "TestBot tests.\n")]),
            [
                "crates/bots/build-bot/Cargo.toml:1: build-bot lacks a configuration deploy/config/<bot>.yaml",
                "crates/bots/build-bot/Cargo.toml:1: build-bot lacks a line in docs/ARCHITECTURE.md or docs/topology.md",
            ]
        );
    }

    #[test]
    fn the_front_pages_are_there_and_fit() {
        let readme = ("README.md", "Try `make demo`, check with `make test`.\n");
        assert_eq!(found(front_pages, &[readme, (ARCHITECTURE, &"line\n".repeat(200))]), [""; 0]);
        assert_eq!(
            found(front_pages, &[("README.md", "Hello.\n"), (ARCHITECTURE, &"line\n".repeat(201))]),
            [
                "README.md:1: it does not name `make demo`",
                "README.md:1: it does not name `make test`",
                "docs/ARCHITECTURE.md:201: it has 201 lines, more than 200",
            ]
        );
        assert_eq!(found(front_pages, &[]), ["README.md:1: it is missing", "docs/ARCHITECTURE.md:1: it is missing"]);
    }

    #[test]
    fn a_file_has_a_mebibyte_at_most() {
        let mut text = "x".repeat(1024 * 1024);
        assert_eq!(found(sizes, &[("docs/picture.svg", &text)]), [""; 0]);
        text.push('x');
        let wanted = ["docs/picture.svg:1: it has 1048577 bytes, more than 1048576"];
        assert_eq!(found(sizes, &[("docs/picture.svg", &text)]), wanted);
    }

    #[test]
    fn a_path_is_good_on_every_machine() {
        // Put together here, so that this file keeps the rule too.
        let own = |name: &str, rest: &str| format!("/{name}/{rest}");
        let elsewhere = [
            "https://example.org/root/page".to_owned(),
            format!("$HOME{0} and ~{0} and build-bot{0}", own("work", "x")),
            "chroot to /root, or /work".to_owned(),
            own("home", "$USER/x"),
            own("home", "<name>/x"),
            own("workers", "x"),
        ]
        .join("\n");
        assert_eq!(found(places, &[("docs/a.md", &elsewhere)]), [""; 0]);
        let here = [
            own("root", ".cargo"),
            format!("cd \"{}\"", own("work", "main")),
            format!("see ({}).", own("home", "jane/x")),
            format!("file://{}", own("home", "jane/x")),
        ]
        .join("\n");
        assert_eq!(
            found(places, &[("docs/a.md", &here)]),
            [(1, own("root", "")), (2, own("work", "")), (3, own("home", "jane/")), (4, own("home", "jane/"))]
                .map(|(line, place)| format!("docs/a.md:{line}: `{place}` is a place on one machine"))
        );
    }
}
