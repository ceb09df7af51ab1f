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
    fleet::{Fleet, contracts},
};

/// A queue can only be looked at from its beginning.
const LETTERS_MAX: u32 = 1000;
const LIMIT: Duration = Duration::from_secs(60);

/// A message that pretends something, and the bot it comes to.
struct Forgery {
    bot: String,
    publisher: String,
    key: String,
    body: Value,
    headers: FieldTable,
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
    runtime.block_on(send(&forgeries, &url, &mut verdicts));
    for bot in contracts().iter().map(|c| c.name.slug()) {
        // With a key that it is bound by, but by an exchange that proves nobody.
        let past = json!({"delivery_mode": 2, "message_id": format!("past-{bot}")});
        assert!(runtime.block_on(management.publish("lota", "", &format!("{bot}.work"), past, "{}")).unwrap());
        let expected: BTreeMap<String, String> = forgeries
            .iter()
            .filter(|f| f.bot == bot)
            .map(|f| (text(&f.body["id"]), f.publisher.clone()))
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

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// By each key that leads to a bot's work: another source, type and destination; the same with headers that vouch for it;
/// and a replay and a command that pretend as much.
fn forgeries() -> Vec<Forgery> {
    let mut outside = OutsidePublisher::operator();
    outside.name = "outside".parse().unwrap();
    (outside.says, outside.operator) = (vec!["repository.pushed".into(), "deploy.requested".into()], false);
    let fleet = Fleet { bots: contracts(), outside: vec![outside, OutsidePublisher::operator()] };
    let now = tests::succeeds(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).trim().to_owned();
    let mut out = Vec::new();
    for bot in &fleet.bots {
        let slug = bot.name.slug();
        let targets = [format!("{slug}.work"), format!("{slug}.control")];
        for publisher in fleet.publishers() {
            let granted = fleet.granted(&publisher).into_iter();
            for (key, _) in granted.filter(|(_, queues)| targets.iter().any(|queue| queues.contains(queue))) {
                for (what, body, headers) in pretences(&publisher, &slug, &key, &now) {
                    let mut body = body;
                    body["id"] = format!("{what}: {publisher} to {slug} by {key}").into();
                    let (bot, publisher, key) = (slug.clone(), publisher.clone(), key.clone());
                    let publisher_proven = publisher;
                    out.push(Forgery { bot, publisher: publisher_proven, key, body, headers });
                }
            }
        }
    }
    out
}

/// What is pretended, the body without its id, and the headers.
fn pretences(publisher: &str, bot: &str, key: &str, now: &str) -> Vec<(&'static str, Value, FieldTable)> {
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
    if is_replay {
        // Whoever replays says for whom; the body has to be of the same.
        return vec![
            ("a replay for another", with("source", "test-bot"), vouching("build-bot")),
            ("a replay for nobody", with("source", "test-bot"), FieldTable::default()),
            ("a replay to another bot", with("destination", "NobodyBot"), vouching(publisher)),
        ];
    }
    let other_type = if event_type == "deploy.requested" { "approval.granted" } else { "deploy.requested" };
    let elsewhere = if command.is_some() { "*" } else { bot };
    vec![
        ("another's source", with("source", another), FieldTable::default()),
        ("another's source, vouched for", with("source", another), vouching(another)),
        ("another type", with("type", other_type), FieldTable::default()),
        ("to another bot", with("destination", "NobodyBot"), FieldTable::default()),
        ("an event as a command, or the reverse", with("destination", elsewhere), FieldTable::default()),
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
