//! C, C++ and whatever else is made by CMake or by a makefile.
use std::path::Path;

use super::{
    draft::{Draft, reported},
    look,
};

pub(super) fn cmake(root: &Path) -> Option<Draft> {
    if !look::is_file(root, "CMakeLists.txt") {
        return None;
    }
    let text = look::text(root, "CMakeLists.txt");
    let says = |word: &str| text.lines().any(|line| line.trim_start().to_lowercase().starts_with(word));
    let draft = Draft::new("cmake", "CMakeLists.txt")
        .step("configure", "cmake -S . -B build -DCMAKE_BUILD_TYPE=Release")
        .step("compile", "cmake --build build --parallel 2");
    let draft = if says("install(") || says("install (") {
        let draft = draft.step("install", "cmake --install build --prefix dist").artifacts(&["dist/**"]);
        draft.keep(&["build/**"]).remark("keep", "The tests run in the folder of the build.")
    } else {
        draft
            .artifacts(&["build/**"])
            .remark("artifacts", "Nothing says what is installed, so it is all that was built.")
    };
    let has_tests = says("enable_testing") || says("include(ctest") || says("add_test");
    let suite = reported("ctest --test-dir build --output-on-failure --output-junit ../junit.xml", "junit.xml");
    Some(draft.when(has_tests, |draft| draft.suite("ctest", suite)))
}

/// What a makefile makes is its own secret, so the artifact is the whole tree.
pub(super) fn make(root: &Path) -> Option<Draft> {
    let by = look::first_file(root, &["GNUmakefile", "makefile", "Makefile"])?;
    let text = look::text(root, by);
    let has_rule = |name: &str| text.lines().any(|line| is_rule_for(name, line));
    let test = ["test", "check"].into_iter().find(|name| has_rule(name));
    let draft = Draft::new("make", by)
        .step("make", "make")
        .artifacts(&["**"])
        .remark("artifacts", "Which files `make` makes is not known, so it is the whole tree.");
    Some(match test {
        Some(target) => draft.suite_as_one("make", &format!("make {target}")),
        None => draft,
    })
}

fn is_rule_for(target: &str, line: &str) -> bool {
    let Some((targets, rest)) = line.split_once(':') else {
        return false;
    };
    !line.starts_with(['\t', '#']) && !rest.starts_with('=') && targets.split_whitespace().any(|t| t == target)
}
