//! JavaScript, by package.json: npm, pnpm or yarn, whichever left its lock file. How tests report is known of the
//! runners that most projects name in their test script.
use std::path::Path;

use serde_json::Value;

use super::{
    draft::{Draft, reported},
    look,
};

const REPORT: &str = "junit.xml";
/// Two reporters: one for people, one for the fleet.
const NODE_REPORTERS: &str = "--test-reporter=spec --test-reporter-destination=stdout --test-reporter=junit --test-reporter-destination=junit.xml";

/// Where well-known tools put what they build.
const OUTPUTS: [(&str, &str); 8] = [
    ("vite", "dist"),
    ("astro", "dist"),
    ("parcel", "dist"),
    ("@angular/cli", "dist"),
    ("@vue/cli-service", "dist"),
    ("react-scripts", "build"),
    ("gatsby", "public"),
    ("@11ty/eleventy", "_site"),
];

pub(super) fn find(root: &Path) -> Option<Draft> {
    if !look::is_file(root, "package.json") {
        return None;
    }
    // A manifest that is no JSON is told by the tool itself.
    let package: Value = serde_json::from_str(&look::text(root, "package.json")).unwrap_or_default();
    let (tool, fetch) = tool(root);
    let cache = match tool {
        "pnpm" => "~/.local/share/pnpm/store",
        "yarn" => "~/.cache/yarn",
        _ => "~/.npm",
    };
    let fetches = ["dependencies", "devDependencies", "optionalDependencies", "workspaces"];
    let fetches = fetches.iter().any(|key| package.get(key).is_some_and(|all| !is_empty(all)));
    let builds = script(&package, "build").is_some();
    let output = OUTPUTS.iter().find(|(name, _)| builds && depends_on(&package, name)).map(|(_, folder)| *folder);
    let draft = Draft::new(tool, "package.json")
        .when(fetches, |draft| draft.fetch(fetch).cache(&[cache]))
        .when(builds, |draft| draft.step("build", &format!("{tool} run build")));
    let draft = match output {
        Some(folder) => draft
            .artifacts(&[&format!("{folder}/**")])
            .keep(&["node_modules/**"])
            .remark("keep", "So that the tests need no network."),
        None => draft
            .artifacts(&["**"])
            .when(fetches, |draft| draft.remark("artifacts", "With node_modules, so that it runs as it is.")),
    };
    Some(match script(&package, "test") {
        Some(test) => tested(draft, tool, test, &package),
        None => draft,
    })
}

/// Of whoever left a lock file, and how it installs exactly what that says.
fn tool(root: &Path) -> (&'static str, &'static str) {
    if look::is_file(root, "pnpm-lock.yaml") {
        ("pnpm", "pnpm install --frozen-lockfile")
    } else if look::is_file(root, "yarn.lock") {
        let is_modern = look::text(root, "yarn.lock").contains("__metadata:");
        ("yarn", if is_modern { "yarn install --immutable" } else { "yarn install --frozen-lockfile" })
    } else if look::is_file(root, "package-lock.json") || look::is_file(root, "npm-shrinkwrap.json") {
        ("npm", "npm ci --no-audit --no-fund")
    } else {
        ("npm", "npm install --no-audit --no-fund")
    }
}

fn tested(draft: Draft, tool: &str, test: &str, package: &Value) -> Draft {
    let more = if tool == "npm" { "npm test --" } else { &format!("{tool} run test") };
    // Arguments reach the script's last command, so it has to be the only one.
    let runner = test.split_whitespace().next().filter(|_| !test.contains(['&', '|', ';'])).unwrap_or_default();
    let run = match runner {
        "node" if test.contains("--test") && !test.contains("--test-reporter") => {
            let mut suite = reported(&format!("{tool} run test"), REPORT);
            suite.env.insert("NODE_OPTIONS".to_owned(), NODE_REPORTERS.to_owned());
            return draft.suite("unit", suite);
        }
        "vitest" => format!("{more} --run --reporter=default --reporter=junit --outputFile.junit={REPORT}"),
        "mocha" => format!("{more} --reporter xunit --reporter-option output={REPORT}"),
        "jest" if depends_on(package, "jest-junit") => {
            format!("{more} --ci --reporters=default --reporters=jest-junit")
        }
        _ => return draft.suite_as_one("unit", &format!("{tool} run test")),
    };
    draft.suite("unit", reported(&run, REPORT))
}

/// A script that does something; the one that `npm init` writes does not.
fn script<'a>(package: &'a Value, name: &str) -> Option<&'a str> {
    let script = package.get("scripts")?.get(name)?.as_str()?.trim();
    (!script.is_empty() && !script.contains("no test specified")).then_some(script)
}

fn depends_on(package: &Value, name: &str) -> bool {
    ["dependencies", "devDependencies"].iter().any(|key| package.get(key).is_some_and(|all| all.get(name).is_some()))
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
