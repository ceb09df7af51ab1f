//! docs/PIPELINES.md is held to what it shows: every example is read by the real parser, those that name a fixture are
//! run, those that are wrong are refused in the words of the page.
use std::fs;

use bot_messages::pipeline::Pipeline;
use tests::fixtures;

use crate::{project, said};

/// A fenced block, and the comment above it.
struct Block {
    line: usize,
    language: String,
    mark: Option<String>,
    text: String,
}

#[test]
fn every_example_is_what_the_page_says() {
    let page = fs::read_to_string(tests::workspace().join("docs/PIPELINES.md")).unwrap();
    let blocks = blocks(&page);
    let (mut run, mut refused) = (0, 0);
    for (i, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "yaml") {
        let place = format!("docs/PIPELINES.md:{}", block.line);
        match block.mark.as_deref().map(|mark| mark.split_once(' ').unwrap_or((mark, ""))) {
            None => drop(Pipeline::parse(&block.text).unwrap_or_else(|e| panic!("{place}: {e}"))),
            Some(("run", fixture)) => {
                runs(&place, fixture, &block.text);
                run += 1;
            }
            Some(("refused", _)) => {
                let told = Pipeline::parse(&block.text).unwrap_err().to_string();
                assert_eq!(told, blocks[i + 1].text.trim_end(), "{place}: the block after it says otherwise");
                refused += 1;
            }
            Some((mark, _)) => panic!("{place}: the mark `{mark}` means nothing here"),
        }
    }
    assert!(run >= 7 && refused >= 3, "the page lost its examples: {run} are run, {refused} refused");
}

fn runs(place: &str, fixture: &str, text: &str) {
    let files = match fixture {
        "c" => fixtures::C,
        "npm" => fixtures::NPM,
        "python" => fixtures::PYTHON,
        "site" => fixtures::SITE,
        other => panic!("{place}: there is no fixture `{other}`"),
    };
    let dir = project(files);
    fs::write(dir.path().join(".lotabots.yaml"), text).unwrap();
    let (code, told) = said(&["run", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{place}: {told}");
}

fn blocks(page: &str) -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    let mut mark = None;
    let mut is_open = false;
    for (i, line) in page.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            is_open = !is_open;
            if is_open {
                let text = String::new();
                all.push(Block { line: i + 1, language: language.to_owned(), mark: mark.take(), text });
            }
        } else if let Some(block) = all.last_mut().filter(|_| is_open) {
            block.text += &format!("{line}\n");
        } else if let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
            mark = Some(comment.to_owned());
        } else if !line.trim().is_empty() {
            mark = None;
        }
    }
    assert!(!is_open, "a block is not closed");
    all
}
