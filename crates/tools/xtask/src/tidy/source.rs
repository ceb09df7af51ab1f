//! Rules about the text of Rust files: their first line, their length, their name, and marks of unfinished work.
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Report;
use super::tree::Tree;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// A program's main.rs hands over to its library, where tests can reach.
const MAIN_LINES_MAX: usize = 10;

/// Names that say nothing, so that everything ends up in them.
const EMPTY_NAMES: &[&str] = &["common", "helpers", "types", "utils"];

/// Macros that stand for work left undone, or for a look that was not cleaned up.
const UNFINISHED: &[&str] = &["dbg", "todo", "unimplemented"];

/// Every file says in its first line what lives there.
pub(super) fn headers(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.rust().filter(|(_, text)| !text.starts_with("//!")) {
        let first = text.lines().next().unwrap_or_default();
        let wrong = format!("it begins with {first:?} and not with a //! line");
        report.add("headers", path, 1, wrong, "say what lives here and what must not");
    }
}

/// Files and functions that fit into a head.
pub(super) fn lengths(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.rust() {
        let lines = text.lines().count();
        if is_program(path) && lines > MAIN_LINES_MAX {
            let wrong = format!("it has {lines} lines, more than the {MAIN_LINES_MAX} of a main.rs");
            report.add("main-lines", path, MAIN_LINES_MAX + 1, wrong, "move the rest to lib.rs");
        }
        if lines > FILE_LINES_MAX {
            let wrong = format!("it has {lines} lines, more than {FILE_LINES_MAX}");
            report.add("file-lines", path, FILE_LINES_MAX + 1, wrong, "split it by what it is about");
        }
        match syn::parse_file(text) {
            Ok(file) => {
                let mut long = LongFunctions::default();
                if !is_test(path) {
                    long.visit_file(&file);
                }
                for (name, line, lines) in long.0 {
                    let wrong = format!("`{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}");
                    report.add("function-lines", path, line, wrong, "split it into steps with names");
                    report.of(&name);
                }
            }
            Err(error) => {
                let line = error.span().start().line;
                report.add("syntax", path, line, format!("it does not parse ({error})"), "correct it");
            }
        }
    }
}

/// A file is named after what it holds.
pub(super) fn file_names(tree: &Tree, report: &mut Report) {
    for (path, _) in tree.rust() {
        let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let stem = stem.rsplit('/').next().unwrap_or(stem);
        if EMPTY_NAMES.contains(&stem) {
            let wrong = format!("`{stem}` says nothing about what is in it");
            report.add("file-names", path, 1, wrong, "name it after the noun it holds");
        }
    }
}

/// No test is switched off, and nothing is left for later.
pub(super) fn unfinished(tree: &Tree, report: &mut Report) {
    for (path, text) in tree.rust() {
        // What does not lex does not parse either, and is reported for that.
        let Ok(tokens) = text.parse::<TokenStream>() else {
            continue;
        };
        let mut marks = Vec::new();
        collect_marks(tokens, &mut marks);
        for (line, mark) in marks {
            let remedy =
                if mark == "#[ignore]" { "repair the test, or delete it" } else { "finish it, or take it out" };
            report.add("unfinished", path, line, format!("`{mark}` is in it"), remedy);
        }
    }
}

/// Tokens, and not the syntax tree: a mark may hide in the arguments of another macro.
fn collect_marks(tokens: TokenStream, marks: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        match (token, tokens.get(i + 1)) {
            (TokenTree::Ident(name), Some(TokenTree::Punct(mark))) if mark.as_char() == '!' => {
                if let Some(name) = UNFINISHED.iter().find(|unfinished| name == *unfinished) {
                    marks.push((token.span().start().line, format!("{name}!")));
                }
            }
            (TokenTree::Punct(mark), Some(TokenTree::Group(attribute)))
                if mark.as_char() == '#'
                    && attribute.delimiter() == Delimiter::Bracket
                    && ignores(&attribute.stream()) =>
            {
                marks.push((token.span().start().line, "#[ignore]".to_owned()));
            }
            _ => {}
        }
        if let TokenTree::Group(group) = token {
            collect_marks(group.stream(), marks);
        }
    }
}

/// `ignore`, `ignore = "…"`, or `cfg_attr(…, ignore)`.
fn ignores(attribute: &TokenStream) -> bool {
    let mut tokens = attribute.clone().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(name)), _) if name == "ignore" => true,
        (Some(TokenTree::Ident(name)), Some(TokenTree::Group(group))) if name == "cfg_attr" => {
            group.stream().into_iter().any(|token| matches!(token, TokenTree::Ident(name) if name == "ignore"))
        }
        _ => false,
    }
}

fn is_program(path: &str) -> bool {
    let program = path.starts_with("crates/bots/") || path.starts_with("crates/services/");
    program && path.ends_with("/src/main.rs")
}

/// Tests tell a story from top to bottom, so their functions may be longer.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Name, first line and lines of each function that is too long, from `fn` to its closing brace.
#[derive(Default)]
struct LongFunctions(Vec<(String, usize, usize)>);

impl LongFunctions {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.fn_token.span.start().line;
        let lines = block.brace_token.span.close().end().line - first + 1;
        if lines > FUNCTION_LINES_MAX {
            self.0.push((signature.ident.to_string(), first, lines));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !module.attrs.iter().any(is_cfg_test) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    let meta = &attribute.meta;
    matches!(meta, syn::Meta::List(list) if list.path.is_ident("cfg")
        && list.tokens.clone().into_iter().any(|token| matches!(token, TokenTree::Ident(name) if name == "test")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    const HOME: &str = "crates/libs/one/src/lib.rs";

    #[test]
    fn a_file_begins_with_what_lives_there() {
        assert_eq!(found(headers, &[(HOME, "//! One.\n")]), [""; 0]);
        assert_eq!(
            found(
                headers,
                &[(HOME, "use std::fs;\n"), ("tests/journeys/push.rs", ""), ("tests/fixtures/app/main.rs", "")]
            ),
            [
                "crates/libs/one/src/lib.rs:1: it begins with \"use std::fs;\" and not with a //! line",
                "tests/journeys/push.rs:1: it begins with \"\" and not with a //! line",
            ]
        );
    }

    #[test]
    fn a_program_hands_over_in_ten_lines() {
        let long = "//! One.\n".repeat(11);
        assert_eq!(found(lengths, &[("crates/bots/one/src/main.rs", &"//! One.\n".repeat(10))]), [""; 0]);
        assert_eq!(found(lengths, &[("crates/tools/one/src/main.rs", &long)]), [""; 0]);
        assert_eq!(
            found(lengths, &[("crates/services/one/src/main.rs", &long)]),
            ["crates/services/one/src/main.rs:11: it has 11 lines, more than the 10 of a main.rs"]
        );
    }

    #[test]
    fn a_file_has_five_hundred_lines_at_most() {
        assert_eq!(found(lengths, &[(HOME, &"//! One.\n".repeat(500))]), [""; 0]);
        let wanted = ["crates/libs/one/src/lib.rs:501: it has 501 lines, more than 500"];
        assert_eq!(found(lengths, &[(HOME, &"//! One.\n".repeat(501))]), wanted);
    }

    #[test]
    fn a_function_has_seventy_lines_at_most() {
        let function =
            |lines: usize| format!("/// Said\n/// before it.\nfn long() {{\n{}}}\n", "f();\n".repeat(lines - 2));
        let (fits, long) = (function(70), function(71));
        let wanted = ["crates/libs/one/src/lib.rs:3: `long` has 71 lines, more than 70"];
        assert_eq!(found(lengths, &[(HOME, &fits)]), [""; 0]);
        assert_eq!(found(lengths, &[(HOME, &long)]), wanted);
        for owner in ["impl One", "trait One", "mod one"] {
            let inside = format!("{owner} {{ {long} }}");
            assert_eq!(found(lengths, &[(HOME, &inside)]), wanted, "{owner}");
        }
    }

    #[test]
    fn a_test_may_be_longer() {
        let long = format!("fn long() {{\n{}}}\n", "f();\n".repeat(90));
        let inside = format!("#[cfg(test)]\nmod tests {{ {long} }}\n");
        assert_eq!(found(lengths, &[(HOME, &inside)]), [""; 0]);
        assert_eq!(found(lengths, &[("tests/journeys/push.rs", &long)]), [""; 0]);
        assert_eq!(found(lengths, &[("crates/bots/one/tests/one.rs", &long)]), [""; 0]);
    }

    #[test]
    fn a_file_that_does_not_parse_is_named() {
        let found = found(lengths, &[(HOME, "//! One.\n\nfn one( {}\n")]);
        assert!(found[0].starts_with("crates/libs/one/src/lib.rs:3: it does not parse"), "{found:?}");
    }

    #[test]
    fn a_file_name_says_something() {
        assert_eq!(found(file_names, &[("crates/libs/one/src/retry.rs", "")]), [""; 0]);
        assert_eq!(
            found(file_names, &[("crates/libs/one/src/utils.rs", ""), ("tests/src/common/mod.rs", "")]),
            [
                "crates/libs/one/src/utils.rs:1: `utils` says nothing about what is in it",
                "tests/src/common/mod.rs:1: `common` says nothing about what is in it",
            ]
        );
    }

    #[test]
    fn nothing_is_left_for_later() {
        let fine = "// todo!() and #[ignore]\nfn one(ignore: bool) { let dbg = \"dbg!(x)\"; }\n#[allow(ignored)]\nfn two() {}\n";
        assert_eq!(found(unfinished, &[(HOME, fine)]), [""; 0]);
        let marks = "fn one() {\n    assert!(todo!());\n    unimplemented!(\"x\");\n    dbg!(1);\n}\n";
        assert_eq!(
            found(unfinished, &[(HOME, marks)]),
            [
                "crates/libs/one/src/lib.rs:2: `todo!` is in it",
                "crates/libs/one/src/lib.rs:3: `unimplemented!` is in it",
                "crates/libs/one/src/lib.rs:4: `dbg!` is in it",
            ]
        );
    }

    #[test]
    fn no_test_is_switched_off() {
        let tests = "mod tests {\n#[ignore]\nfn a() {}\n#[ignore = \"slow\"]\nfn b() {}\n#[cfg_attr(unix, ignore)]\nfn c() {}\n}\n";
        let wanted = [2, 4, 6].map(|line| format!("{HOME}:{line}: `#[ignore]` is in it"));
        assert_eq!(found(unfinished, &[(HOME, tests)]), wanted);
    }
}
