//! Bills of materials: those of the released programs are taken from where the tool wrote them, checked, and put into
//! target/sbom. What each must have: CycloneDX, dependencies, and a licence with every one of them.
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const SHELVES: [&str; 3] = ["crates/bots", "crates/services", "crates/tools"];
/// Programs that only a checkout needs.
const UNRELEASED: &str = "xtask";

/// Takes the bills that lie beside the manifests of `made`, a copy of this checkout.
pub(crate) fn run(root: &Path, made: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let folder = root.join("target/sbom");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    for (name, place) in programs(root)? {
        let file = made.join(place).join(format!("{name}.cdx.json"));
        let text = fs::read_to_string(&file).with_context(|| format!("{name} has no bill: {}", file.display()))?;
        // Where the copy lay is nobody's business, and would make two bills of one source differ.
        let text = text.replace(&format!("{}/", made.display()), "");
        let count = check(&text).with_context(|| format!("the bill of {name} is not fit to be given away"))?;
        let to = folder.join(format!("{name}.cdx.json"));
        fs::write(&to, text).with_context(|| format!("{} cannot be written", to.display()))?;
        writeln!(out, "target/sbom/{name}.cdx.json: {count} dependencies, each with its licence")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Names and folders of what is released: whatever has a `main.rs` on the shelves of programs.
fn programs(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for shelf in SHELVES {
        let entries = fs::read_dir(root.join(shelf)).with_context(|| format!("{shelf} cannot be read"))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("{shelf} cannot be read"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != UNRELEASED && entry.path().join("src/main.rs").exists() {
                found.push((name.clone(), Path::new(shelf).join(name)));
            }
        }
    }
    found.sort();
    if found.is_empty() {
        bail!("{} has no program", root.display());
    }
    Ok(found)
}

/// How many dependencies the bill names.
fn check(text: &str) -> Result<usize> {
    let bill: Value = serde_json::from_str(text).context("it is no JSON")?;
    if bill["bomFormat"] != "CycloneDX" {
        bail!("expected `bomFormat` CycloneDX, got {}", bill["bomFormat"]);
    }
    let parts = bill["components"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parts.is_empty() {
        bail!("it names no dependency");
    }
    let without: Vec<&str> = parts
        .iter()
        .filter(|part| part["licenses"].as_array().is_none_or(Vec::is_empty))
        .map(|part| part["name"].as_str().unwrap_or("one without a name"))
        .collect();
    if !without.is_empty() {
        bail!("without a licence: {}", without.join(", "));
    }
    Ok(parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bill(licenses: &Value) -> String {
        let parts = json!([
            {"name": "a", "licenses": [{"expression": "MIT"}], "bom-ref": "path+file:///copy/crates/libs/a#0.1.0"},
            {"name": "b", "licenses": licenses},
        ]);
        json!({"bomFormat": "CycloneDX", "components": parts}).to_string()
    }

    /// A checkout with one program, and a copy with its bill.
    fn set(bill: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for shelf in SHELVES {
            fs::create_dir_all(dir.path().join("root").join(shelf)).unwrap();
        }
        for program in ["root/crates/bots/a-bot", "root/crates/tools/xtask", "copy/crates/bots/a-bot"] {
            fs::create_dir_all(dir.path().join(program).join("src")).unwrap();
            fs::write(dir.path().join(program).join("src/main.rs"), "").unwrap();
        }
        if let Some(bill) = bill {
            let bill = bill.replace("/copy/", &format!("{}/copy/", dir.path().display()));
            fs::write(dir.path().join("copy/crates/bots/a-bot/a-bot.cdx.json"), bill).unwrap();
        }
        dir
    }

    fn told(bill: Option<&str>) -> (tempfile::TempDir, Result<String>) {
        let dir = set(bill);
        let mut out = Vec::new();
        let done = run(&dir.path().join("root"), &dir.path().join("copy"), &mut out);
        let told = done.map(|_| String::from_utf8(out).unwrap());
        (dir, told)
    }

    #[test]
    fn a_bill_is_put_into_target_without_the_place_it_was_made_in() {
        let (dir, told) = told(Some(&bill(&json!([{"license": {"name": "Zlib"}}]))));
        assert_eq!(told.unwrap(), "target/sbom/a-bot.cdx.json: 2 dependencies, each with its licence\n");
        let text = fs::read_to_string(dir.path().join("root/target/sbom/a-bot.cdx.json")).unwrap();
        assert!(text.contains("path+file://crates/libs/a#0.1.0"), "{text}");
    }

    #[test]
    fn a_bill_that_lacks_something_is_refused() {
        for (bill, why) in [
            (None, "a-bot has no bill"),
            (Some("{".to_owned()), "it is no JSON"),
            (Some("{}".to_owned()), "expected `bomFormat` CycloneDX"),
            (Some(json!({"bomFormat": "CycloneDX", "components": []}).to_string()), "names no dependency"),
            (Some(bill(&json!([]))), "without a licence: b"),
            (Some(bill(&Value::Null)), "without a licence: b"),
        ] {
            let error = format!("{:#}", told(bill.as_deref()).1.unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
