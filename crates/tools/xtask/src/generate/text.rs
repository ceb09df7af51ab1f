//! How generated data becomes text: keys sorted, so that the order of a map in memory never shows; a newline at the end.
use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// JSON, indented.
pub(super) fn json(value: Value) -> Result<String> {
    let text = serde_json::to_string_pretty(&sorted(value)).context("JSON cannot be written")?;
    Ok(text + "\n")
}

/// YAML in blocks, after a comment.
pub(super) fn yaml(comment: &str, value: Value) -> Result<String> {
    let text = serde_saphyr::to_string(&sorted(value)).context("YAML cannot be written")?;
    Ok(format!("# {comment}\n{}\n", text.trim_end()))
}

/// Whether serde_json keeps insertion order depends on the features that other crates of a build ask for; sorted maps
/// are the same either way.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<(String, Value)> = map.into_iter().collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().map(|(key, value)| (key, sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_in_every_depth() {
        assert_eq!(
            json(json!({"b": [{"d": 1, "c": 2}], "a": {}})).unwrap(),
            "{\n  \"a\": {},\n  \"b\": [\n    {\n      \"c\": 2,\n      \"d\": 1\n    }\n  ]\n}\n"
        );
    }

    #[test]
    fn yaml_reads_back_the_same_also_where_a_text_looks_like_something_else() {
        let long = format!("{}: # {}", "word ".repeat(40), "x".repeat(100));
        let texts = [
            "no",
            "on",
            "~",
            "1.0",
            "0x1f",
            "2026-11-01",
            "*",
            "&a",
            "#/components",
            "a: b",
            "a #b",
            "{bot}",
            "",
            " a ",
            "a\nb\n",
            "\"q\" 'q'",
            "`code`",
            "- a",
            "?",
            "|",
            "%",
            "@",
            "12:30:00",
            "ü → ×",
            "^(\\*|[A-Z])$",
            "trailing\n\n",
            "=",
            "<<",
            &long,
        ];
        let value = json!({"texts": texts, "to.{bot}.x": {"#/a": 1, "no": null, "1": [[], {}, [[1.5, true]]]}});
        let text = yaml("Said.", value.clone()).unwrap();
        assert!(text.starts_with("# Said.\n") && text.ends_with('\n') && !text.ends_with("\n\n"), "{text}");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{text}");
    }
}
