//! What the broker cannot see: a body that says other than its exchange and key prove. Every bot of a whole fleet gets it
//! by each of its bindings, keeps it among its dead letters with PERMISSION_DENIED, and an alert says so.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::Duration,
};

use bot_messages::{OutsidePublisher, catalogue};
use bot_provision::Management;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::{
    attempts::{Client, Outcome, Verdicts},
    broker,
    fleet::{self, Fleet, contracts},
};

/// A queue can only be looked at from its beginning.
const LETTERS_MAX: u32 = 1000;
const LIMIT: Duration = Duration::from_secs(300);

/// A message that pretends something, and the bots it comes to.
struct Forgery {
    bots: Vec<String>,
    publisher: String,
    key: String,
    body: Value,
    headers: FieldTable,
    proven: String,
}

/// What is pretended: the body without its id, the headers, and whose message the receiver takes it for.
struct Pretence {
    what: &'static str,
    body: Value,
    headers: FieldTable,
    proven: String,
}

pub(crate) fn attempt() {
    let dir = tempfile::Builder::new().prefix("lota-test-").tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(broker::node(dir.path()));
    let management = node.management().unwrap();
    let version = runtime.block_on(management.overview()).unwrap().rabbitmq_version.unwrap();
    let named = format!("amqp://{}:{}@127.0.0.1:{}", node.admin(), node.admin_password().expose(), node.amqp_port());
    let api = format!("http://127.0.0.1:{}", node.management_port());
    let fleet =
        tests::Fleet::start_with(&[("LOTA_BROKER_URL", named.as_str()), ("LOTA_BROKER_MANAGEMENT_URL", api.as_str())]);
    let url = |user: &str| {
        let password = fs::read_to_string(fleet.home().join(format!("secrets/{user}.password"))).unwrap();
        format!("amqp://{user}:{}@127.0.0.1:{}/lota", password.trim(), node.amqp_port())
    };

    let forgeries = forgeries();
    let mut verdicts = Verdicts::default();
    for bot in contracts().iter().map(|c| c.name.slug()) {
        let seen = what_it_was_told(fleet.pid(&bot));
        let has_it = seen.contains(node.admin_password().expose());
        verdicts.equal(|| format!("the administrator's password is told to {bot}"), &has_it, &false);
    }
    runtime.block_on(send(&forgeries, &url, &mut verdicts));
    for bot in contracts().iter().map(|c| c.name.slug()) {
        // With a key that it is bound by, but by an exchange that proves nobody.
        let past = json!({"delivery_mode": 2, "message_id": format!("past-{bot}")});
        assert!(runtime.block_on(management.publish("lota", "", &format!("{bot}.work"), past, "{}")).unwrap());
        let expected: BTreeMap<String, String> = forgeries
            .iter()
            .filter(|f| f.bots.contains(&bot))
            .map(|f| (text(&f.body["id"]), f.proven.clone()))
            .chain([(format!("past-{bot}"), "unknown".to_owned())])
            .collect();
        let letters = tests::wait_for(&format!("the letters of {bot}"), LIMIT, || {
            let letters = runtime.block_on(letters(&management, &bot));
            (letters.len() >= expected.len()).then_some(letters)
        });
        let ids = |of: &BTreeMap<String, _>| of.keys().cloned().collect::<BTreeSet<String>>();
        verdicts.equal(
            || format!("the dead letters of {bot}"),
            &letters.keys().cloned().collect::<BTreeSet<_>>(),
            &ids(&expected),
        );
        for (id, publisher) in expected {
            let came = letters.get(&id).cloned().unwrap_or_default();
            verdicts.equal(|| format!("{bot} and {id}"), &came, &("PERMISSION_DENIED".to_owned(), publisher));
        }
        tests::wait_for(&format!("an alert about {bot}"), LIMIT, || has_alert(&fleet, &bot).then_some(()));
    }
    verdicts.close(&format!("of forged bodies on RabbitMQ {version}"));
}

/// Environment and command line of a process, and which files it holds open.
fn what_it_was_told(pid: i32) -> String {
    let read = |part: &str| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{part}")).unwrap()).into_owned();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let small = |entry: &fs::DirEntry| entry.path().metadata().is_ok_and(|meta| meta.is_file() && meta.len() < 1000);
    let open = open.filter(small).filter_map(|entry| fs::read_to_string(entry.path()).ok());
    [read("environ"), read("cmdline")].into_iter().chain(open).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// By each key that leads to a bot's work: another source, type and destination; the same with headers that vouch for it;
/// and a replay and a command that pretend as much.
fn forgeries() -> Vec<Forgery> {
    let fleet = Fleet { bots: contracts(), outside: vec![fleet::outside(), OutsidePublisher::operator()] };
    let now = tests::succeeds(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned();
    let mut out = Vec::new();
    for publisher in fleet.publishers() {
        for (key, queues) in fleet.granted(&publisher) {
            let acts = |bot: &String| ["work", "control"].iter().any(|q| queues.contains(&format!("{bot}.{q}")));
            let bots: Vec<String> = fleet.bots().into_iter().filter(acts).collect();
            let Some(first) = bots.first() else { continue };
            for Pretence { what, mut body, headers, proven } in pretences(&publisher, first, &key, &now) {
                body["id"] = format!("{what}: {publisher} by {key}").into();
                let (publisher, bots, key) = (publisher.clone(), bots.clone(), key.clone());
                out.push(Forgery { bots, publisher, key, body, headers, proven });
            }
        }
    }
    out
}

fn pretences(publisher: &str, bot: &str, key: &str, now: &str) -> Vec<Pretence> {
    let vouching = |who: &str| {
        let mut headers = FieldTable::default();
        headers.insert("x-lota-publisher".into(), AMQPValue::LongString(who.into()));
        headers.insert("x-lota-replay".into(), AMQPValue::LongInt(1));
        headers
    };
    let command = key.strip_prefix(&format!("to.{bot}."));
    let is_replay = key.starts_with("requeue.");
    let event_type = command.unwrap_or(if is_replay { "deploy.requested" } else { key });
    let data = catalogue::find(event_type).map(|e| (e.example)()).unwrap();
    let destination = if command.is_some() { bot } else { "*" };
    let honest = json!({
        "timestamp": now, "source": publisher, "destination": destination, "type": event_type, "payload": {"data": data},
    });
    let with = |field: &str, value: &str| {
        let mut body = honest.clone();
        body[field] = value.into();
        body
    };
    let another = if publisher == "operator" { "build-bot" } else { "operator" };
    let nothing = FieldTable::default;
    let pretence = |what, body, headers, proven: &str| Pretence { what, body, headers, proven: proven.to_owned() };
    if is_replay {
        // Whoever replays says for whom; the body has to be of the same.
        return vec![
            pretence("a replay for another", with("source", "test-bot"), vouching("build-bot"), "build-bot"),
            pretence("a replay for nobody", with("source", "test-bot"), nothing(), "unknown"),
            pretence("a replay to another bot", with("destination", "NobodyBot"), vouching(publisher), publisher),
        ];
    }
    let other_type = if event_type == "deploy.requested" { "approval.granted" } else { "deploy.requested" };
    let elsewhere = if command.is_some() { "*" } else { bot };
    vec![
        pretence("another's source", with("source", another), nothing(), publisher),
        pretence("another's source, vouched for", with("source", another), vouching(another), publisher),
        pretence("another type", with("type", other_type), nothing(), publisher),
        pretence("to another bot", with("destination", "NobodyBot"), nothing(), publisher),
        pretence("an event as a command, or the reverse", with("destination", elsewhere), nothing(), publisher),
    ]
}

async fn send(forgeries: &[Forgery], url: &impl Fn(&str) -> String, verdicts: &mut Verdicts) {
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    for Forgery { publisher, key, body, headers, .. } in forgeries {
        if !clients.contains_key(publisher.as_str()) {
            clients.insert(publisher, Client::connect_to(&url(publisher)).await);
        }
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(text(&body["id"]).into())
            .with_headers(headers.clone());
        let client = clients.get_mut(publisher.as_str()).unwrap();
        let exchange = format!("lota.egress.{publisher}");
        let outcome = client.publish(&exchange, key, properties, body.to_string().as_bytes()).await;
        verdicts.equal(|| text(&body["id"]), &outcome, &Outcome::Done);
    }
}

/// By id: code and publisher.
async fn letters(management: &Management, bot: &str) -> BTreeMap<String, (String, String)> {
    let letters = management.peek("lota", &format!("{bot}.dead"), LETTERS_MAX).await.unwrap();
    let read = letters.iter().map(|letter| {
        let header = |name: &str| text(&letter.properties["headers"][name]);
        (text(&letter.properties["message_id"]), (header("x-lota-error-code"), header("x-lota-publisher")))
    });
    read.collect()
}

fn has_alert(fleet: &tests::Fleet, bot: &str) -> bool {
    let alerts = fleet.monitor("/api/v1/alerts").to_string();
    alerts.contains(&format!("dead-letters:{bot}"))
}
