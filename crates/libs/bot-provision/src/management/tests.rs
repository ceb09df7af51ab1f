//! The client's own parts, without a broker; its calls are in `tests/node.rs`.

use super::*;

fn client() -> Management {
    Management::new("http://127.0.0.1:15672", "admin", Secret::new("hunter2"), None).unwrap()
}

#[test]
fn every_part_of_a_path_is_encoded() {
    let request = client().request(Method::GET, &["queues", "/", "a/b%c d#?.work"]).build().unwrap();
    let url = request.url().as_str();
    assert_eq!(url, "http://127.0.0.1:15672/api/queues/%2F/a%2Fb%25c%20d%23%3F.work");
}

#[test]
fn the_password_is_not_in_debug() {
    assert!(!format!("{:?}", client()).contains("hunter2"));
}

#[test]
fn the_reason_is_rabbitmqs_own() {
    assert_eq!(reason(br#"{"error":"bad_request","reason":"inequivalent arg"}"#), "inequivalent arg");
    assert_eq!(reason(b"Not found"), "Not found");
}

#[test]
fn a_field_that_comes_twice_is_read() {
    let said = br#"{"members": ["a", "b"], "online": ["a"], "leader": "a", "online": ["a"]}"#;
    assert_eq!(decoded::<QueueMembers>(said).unwrap().online, ["a"]);
}
