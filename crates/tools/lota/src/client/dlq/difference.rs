//! Where a message differs from what this release's schema asks for. The bot may have had other reasons. Pure.
use bot_core::{Destination, Envelope};
use bot_messages::catalogue;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Value, json};

use super::super::terminal::cut;

const MAX: usize = 20;
const SHOWN_LETTERS: usize = 120;

/// One member that is not what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// From the top of the message, such as `payload.data.commit`.
    pub(super) field: String,
    pub(super) expected: String,
    pub(super) got: String,
}

impl Difference {
    pub(super) fn line(&self) -> String {
        format!("{}: expected {}; got {}", self.field, self.expected, self.got)
    }

    pub(super) fn json(&self) -> Value {
        json!({"field": self.field, "expected": self.expected, "got": self.got})
    }
}

/// Of a body, its envelope and its data; at most 20.
pub(super) fn of_body(body: &[u8], bot: &str) -> Vec<Difference> {
    let envelope = match Envelope::decode(body) {
        Ok(envelope) => envelope,
        Err(e) => {
            let field = if e.field.is_empty() { "the message".to_owned() } else { e.field.clone() };
            let expected = format!("what the envelope asks for ({})", e.code.as_str());
            return vec![Difference { field, expected, got: e.message }];
        }
    };
    let mut all = Vec::new();
    if let Destination::Bot(to) = &envelope.destination
        && to.slug() != bot
    {
        let expected = format!("`*` or the bot {bot}");
        all.push(Difference { field: "destination".into(), expected, got: to.to_string() });
    }
    all.extend(of_data(&envelope.event_type, &envelope.data));
    all
}

/// Of a `payload.data`; at most 20.
pub(super) fn of_data(event_type: &str, data: &Value) -> Vec<Difference> {
    let Some(entry) = catalogue::find(event_type) else {
        let expected = "a message type of this release".to_owned();
        return vec![Difference { field: "type".into(), expected, got: event_type.to_owned() }];
    };
    let schema = (entry.schema)().to_value();
    let mut all: Vec<Difference> = jsonschema::validator_for(&schema)
        .map(|validator| validator.iter_errors(data).take(MAX).map(|e| difference(&e, &schema)).collect())
        .unwrap_or_default();
    // What no schema says, such as that a name is one.
    if all.is_empty()
        && let Err(wrong) = (entry.check)(data)
    {
        let got = cut(&data.to_string(), SHOWN_LETTERS);
        all.push(Difference { field: "payload.data".into(), expected: format!("something else: {wrong}"), got });
    }
    all
}

fn difference(error: &jsonschema::ValidationError<'_>, schema: &Value) -> Difference {
    let at = error.instance_path().to_string();
    if let ValidationErrorKind::Required { property } = error.kind() {
        let name = property.as_str().unwrap_or_default();
        let described = schema.pointer(&format!("/properties/{name}/description")).and_then(Value::as_str);
        let expected = match described.filter(|_| at.is_empty()) {
            Some(description) => format!("one ({})", cut(description, SHOWN_LETTERS)),
            None => "one".to_owned(),
        };
        return Difference { field: field(&format!("{at}/{name}")), expected, got: "none".to_owned() };
    }
    let got = cut(&error.instance().to_string(), SHOWN_LETTERS);
    let told = error.masked_with("what came").to_string();
    Difference { field: field(&at), expected: format!("something else, since {}", cut(&told, 200)), got }
}

/// `/steps/0/name` → `payload.data.steps.0.name`
fn field(pointer: &str) -> String {
    format!("payload.data{}", pointer.replace('/', "."))
}

/// Which members differ between two values, as JSON pointers; at most 20.
pub(super) fn changed(before: &Value, after: &Value) -> Vec<String> {
    fn walk(at: &str, before: &Value, after: &Value, out: &mut Vec<String>) {
        match (before, after) {
            _ if before == after || out.len() == MAX => {}
            (Value::Object(a), Value::Object(b)) => {
                let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
                for name in names {
                    let (a, b) = (a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null));
                    walk(&format!("{at}/{name}"), a, b, out);
                }
            }
            _ => out.push(at.to_owned()),
        }
    }
    let mut out = Vec::new();
    walk("", before, after, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed() -> Value {
        (catalogue::find("repository.pushed").unwrap().example)()
    }

    #[test]
    fn every_field_that_is_wrong_is_named_with_what_was_expected_and_came() {
        assert_eq!(of_data("repository.pushed", &pushed()), []);
        let mut data = pushed();
        data.as_object_mut().unwrap().remove("repository");
        data["commit"] = 7.into();
        let found = of_data("repository.pushed", &data);
        let of = |field: &str| found.iter().find(|d| d.field == field).unwrap_or_else(|| panic!("{found:#?}"));
        assert_eq!(of("payload.data.repository").got, "none");
        assert_eq!(of("payload.data.commit").got, "7");
        assert!(of("payload.data.commit").expected.contains("string"), "{found:?}");
    }

    #[test]
    fn a_body_that_is_none_and_an_unknown_type_are_told() {
        let found = of_body(b"{", "build-bot");
        assert!(found[0].expected.contains("INVALID_JSON"), "{found:?}");
        assert_eq!(of_data("no.such", &Value::Null)[0].field, "type");
        let body = json!({
            "id": "1", "timestamp": "2026-11-01T12:00:00Z", "source": "ci", "destination": "DeployBot",
            "type": "repository.pushed", "payload": {"data": pushed()},
        });
        assert_eq!(of_body(body.to_string().as_bytes(), "build-bot")[0].field, "destination");
        assert_eq!(of_body(body.to_string().as_bytes(), "deploy-bot"), []);
    }

    #[test]
    fn what_an_edit_changed_is_listed() {
        let (before, after) = (json!({"a": 1, "b": {"c": 2}, "d": 4}), json!({"a": 1, "b": {"c": 3}, "e": 5}));
        assert_eq!(changed(&before, &after), ["/b/c", "/d", "/e"]);
        assert_eq!(changed(&json!("x"), &json!({})), [""]);
    }
}
