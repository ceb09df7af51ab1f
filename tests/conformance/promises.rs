//! What the core promises, each promise once and for every place. Ids and repositories of one are nobody else's, so that all
//! can be kept one after the other at one place.
use std::{future::Future, pin::Pin, time::Duration};

use bot_messages::topology::{Binding, DestinationType, Queue, QueueType};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};

use crate::{
    places::{Cannot, Place},
    stage::wished,
};

pub(crate) type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), Cannot>> + 'a>>;

/// A promise, and what shows that it is kept.
pub(crate) struct Promise {
    pub(crate) name: &'static str,
    pub(crate) keep: for<'a> fn(&'a mut Place) -> Kept<'a>,
}

/// All of them.
pub(crate) const PROMISES: [Promise; 13] = [
    Promise { name: "keys fit patterns by their words", keep: |place| Box::pin(wildcards(place)) },
    Promise { name: "what nobody hears comes back", keep: |place| Box::pin(returned(place)) },
    Promise { name: "a dead letter without a target is kept", keep: |place| Box::pin(without_a_target(place)) },
    Promise { name: "too large is a dead letter", keep: |place| Box::pin(limits(place)) },
    Promise { name: "one effect for each id", keep: |place| Box::pin(one_effect(place)) },
    Promise { name: "one delay does not block another", keep: |place| Box::pin(delays(place)) },
    Promise { name: "five rounds, each without foreign headers", keep: |place| Box::pin(five_rounds(place)) },
    Promise { name: "an urgent message passes", keep: |place| Box::pin(priorities(place)) },
    Promise { name: "what was cut off is handled once", keep: |place| Box::pin(redelivered(place)) },
    Promise { name: "every message has one effect through a kill", keep: |place| Box::pin(many(place)) },
    Promise { name: "a deadly message goes alone", keep: |place| Box::pin(deadly(place)) },
    Promise { name: "a lost node costs nothing", keep: |place| Box::pin(lost_node(place)) },
    Promise { name: "no queue with messages is deleted", keep: |place| Box::pin(never_deleted(place)) },
];

/// Of them those that a cluster may answer otherwise than one node; the others take long or ask the bot alone.
pub(crate) const OF_A_CLUSTER: [&str; 4] = [
    "what nobody hears comes back",
    "what was cut off is handled once",
    "a lost node costs nothing",
    "no queue with messages is deleted",
];

/// Not by the broker's name of it: as many as the configuration of a suite allows.
pub(crate) const ATTEMPTS_MAX: u64 = 6;
const KIB: usize = 1024;

async fn wildcards(place: &mut Place) -> Result<(), Cannot> {
    let pairs = [
        ("a.b", ["a.b"].as_slice(), ["a", "a.b.c", "a.c", "ab"].as_slice()),
        ("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a"]),
        ("*.b", &["a.b"], &["b", "a.b.b", "a.c"]),
        ("a.#", &["a", "a.b", "a.b.c"], &["b.a", "ab"]),
        ("#.b", &["b", "a.b", "a.a.b"], &["a.b.a"]),
        ("a.#.b", &["a.b", "a.x.b", "a.x.y.b"], &["a", "a.x.c"]),
        ("#", &["", "a", "a.b"], &[]),
        ("to.*.control.*", &["to.build-bot.control.pause"], &["to.build-bot.control", "to.a.b.control.pause"]),
    ];
    for (number, (pattern, fitting, others)) in pairs.into_iter().enumerate() {
        let exchange = format!("wildcards-{number}");
        place.bind(&exchange, &format!("tmp.operator.{exchange}"), pattern).await;
        for key in fitting {
            assert!(place.publish(&exchange, key, "fits").await, "{key} fits {pattern}");
        }
        for key in others {
            assert!(!place.publish(&exchange, key, "does not").await, "{key} does not fit {pattern}");
        }
    }
    Ok(())
}

async fn returned(place: &mut Place) -> Result<(), Cannot> {
    assert!(!place.publish("lota.egress.outside", "build.completed", "{}").await, "no binding leads it anywhere");
    assert!(
        !place.publish("lota.egress.another", "to.toy-bot.control.pause", "{}").await,
        "nor a command of another's"
    );
    place.wish("returned-after", "returned", "say").await;
    place.until("an answer", |place| place.answers("returned").len() == 1).await;
    Ok(())
}

async fn without_a_target(place: &mut Place) -> Result<(), Cannot> {
    let binding = ("lota.requeue", "toy-bot.work", "requeue.toy-bot");
    place.bound(binding, false).await;
    let body = wished("no-target", "no-target", "say").to_string();
    assert!(place.publish("lota.egress.toy-bot", "retry.toy-bot.5s", &body).await);
    let begun = std::time::Instant::now();
    while place.waiting("unrouted").await.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(300), "what had no target is gone");
        place.rest().await;
    }
    place.bound(binding, true).await;
    assert!(place.waiting("unrouted").await[0].body.contains("no-target"));
    Ok(())
}

async fn limits(place: &mut Place) -> Result<(), Cannot> {
    let properties = |id: &str| BasicProperties::default().with_message_id(id.into());
    let mut headers = FieldTable::default();
    headers.insert("x-ballast".into(), AMQPValue::LongString("x".repeat(17 * KIB).into()));
    let large = "x".repeat(257 * KIB);
    let fits = "x".repeat(200 * KIB);
    let said = vec![
        (properties("large-body"), wished("large-body", &large, "say").to_string().into_bytes()),
        (
            properties("large-headers").with_headers(headers),
            wished("large-headers", "l", "say").to_string().into_bytes(),
        ),
        (properties("no-json"), b"{".to_vec()),
        (properties("fits"), wished("fits", "limits", &format!("say{fits}")).to_string().into_bytes()),
    ];
    assert_eq!(place.say(said).await, [true; 4]);
    // Nothing is read of what is too large or no JSON, its id neither.
    let letters = |place: &Place, words: &str| {
        let letters = place.said_of("message.dead_lettered");
        letters.iter().filter(|letter| letter["payload"]["data"]["error"].to_string().contains(words)).count()
    };
    for words in ["the body has", "the headers have", "JSON"] {
        place.until(words, |place| letters(place, words) == 1).await;
    }
    place.until("the one that fits", |place| place.answers("limits").len() == 1).await;
    assert_eq!(place.dead("fits"), None);
    Ok(())
}

async fn one_effect(place: &mut Place) -> Result<(), Cannot> {
    place.wish("same", "same", "say").await;
    place.wish("same", "same", "say").await;
    place.until("an answer", |place| place.answers("same").len() == 1).await;
    place.wish("same", "same-with-another-body", "say").await;
    place.until("the letter", |place| place.dead("same").is_some()).await;
    place.wish("after", "same", "say").await;
    place.until("the next", |place| place.answers("same").len() == 2).await;
    assert_eq!(place.dead("same"), Some(("DUPLICATE_ID".to_owned(), 1)));
    assert_eq!(place.answers("same"), ["attempt 1 answer 1", "attempt 1 answer 2"]);
    assert!(place.answers("same-with-another-body").is_empty());
    Ok(())
}

/// One that waits for half a minute is there first.
async fn delays(place: &mut Place) -> Result<(), Cannot> {
    let exchange = "lota.egress.toy-bot";
    for (tier, repository) in [("30s", "slow"), ("5s", "quick")] {
        let body = wished(repository, repository, "say").to_string();
        assert!(place.publish(exchange, &format!("retry.toy-bot.{tier}"), &body).await);
    }
    // Nobody's name is with them, so that each ends as a letter when its time has come.
    place.until("the quick one", |place| place.dead("quick").is_some()).await;
    assert_eq!(place.dead("slow"), None, "it came before its time");
    assert_eq!(place.waiting("toy-bot.retry.30s").await.len(), 1);
    Ok(())
}

fn foreign() -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut death = FieldTable::default();
    death.insert("queue".into(), AMQPValue::LongString("elsewhere".into()));
    headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)])));
    // A key that the publisher may use: RabbitMQ 4 refuses any other here as well.
    let keys = AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::LongString("repository.pushed".into())]));
    headers.insert("CC".into(), keys.clone());
    headers.insert("BCC".into(), keys);
    headers.insert("x-made-up".into(), AMQPValue::LongString("foreign".into()));
    BasicProperties::default()
        .with_message_id("rounds".into())
        .with_expiration("600000".into())
        .with_user_id("outside".into())
        .with_reply_to("somebody".into())
        .with_headers(headers)
}

const FOREIGN: [&str; 8] =
    ["x-death", "x-first-death-queue", "CC", "BCC", "x-made-up", "expiration", "user_id", "reply_to"];

async fn five_rounds(place: &mut Place) -> Result<(), Cannot> {
    let body = wished("rounds", "rounds", "retry:99").to_string().into_bytes();
    let back = wished("comes-back", "comes-back", "retry:5").to_string().into_bytes();
    let properties = BasicProperties::default().with_message_id("comes-back".into());
    assert_eq!(place.say(vec![(foreign(), body), (properties, back)]).await, [true; 2]);
    // Looked at before its time passes.
    let copy = loop {
        let waiting = place.waiting("toy-bot.retry.5s").await;
        if let Some(copy) = waiting.into_iter().find(|copy| copy.body.contains("\"rounds\"")) {
            break copy;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let carried = |beside: &std::collections::BTreeSet<String>| FOREIGN.iter().any(|name| beside.contains(*name));
    assert!(!carried(&copy.beside), "{:?}", copy.beside);
    place.until("the letter", |place| place.dead("rounds").is_some()).await;
    place.until("the answer", |place| !place.answers("comes-back").is_empty()).await;
    assert_eq!(place.dead("rounds"), Some(("ATTEMPTS_EXHAUSTED".to_owned(), ATTEMPTS_MAX)));
    assert_eq!(place.answers("comes-back"), ["attempt 6 answer 1"], "five attempts left nothing in the state");
    assert!(place.answers("rounds").is_empty());
    let letters = place.waiting("toy-bot.dead").await;
    let letter = letters.iter().find(|letter| letter.body.contains("\"rounds\"")).unwrap();
    assert!(!carried(&letter.beside), "{:?}", letter.beside);
    assert_eq!(letter.headers["x-lota-publisher"], "outside");
    Ok(())
}

async fn priorities(place: &mut Place) -> Result<(), Cannot> {
    const CALM: usize = 50;
    place.pause(true).await;
    // About one repository, so that they go one after the other.
    let calm: Vec<_> = (0..CALM).map(|n| (format!("calm-{n}"), "calm".to_owned(), "say".to_owned())).collect();
    place.wishes(&calm).await;
    let mut body = wished("urgent", "urgent", "say");
    body["priority"] = "high".into();
    let properties = BasicProperties::default().with_priority(9);
    assert_eq!(place.say(vec![(properties, body.to_string().into_bytes())]).await, [true]);
    place.pause(false).await;
    place.until("all answers", |place| place.answers("calm").len() == CALM && place.answers("urgent").len() == 1).await;
    let order = place.answered();
    let (urgent, last) = (order.iter().position(|r| r == "urgent"), order.iter().rposition(|r| r == "calm"));
    assert!(urgent < last, "it came last and was answered last");
    Ok(())
}

async fn redelivered(place: &mut Place) -> Result<(), Cannot> {
    const MESSAGES: usize = 200;
    let wishes: Vec<_> = (0..MESSAGES).map(|n| (format!("cut-{n}"), format!("cut-{n}"), "say".to_owned())).collect();
    place.wishes(&wishes[..MESSAGES / 2]).await;
    place.cut_off().await;
    place.wishes(&wishes[MESSAGES / 2..]).await;
    each_once(place, "cut-", MESSAGES).await;
    Ok(())
}

/// 10 000 with `LOTA_TEST_WHOLE`.
async fn many(place: &mut Place) -> Result<(), Cannot> {
    let messages = if std::env::var_os("LOTA_TEST_WHOLE").is_some() { 10_000 } else { 1_500 };
    place.pause(true).await;
    let wishes: Vec<_> = (0..messages).map(|n| (format!("many-{n}"), format!("many-{n}"), "say".to_owned())).collect();
    place.wishes(&wishes).await;
    place.pause(false).await;
    let answered = |place: &Place| place.answered().iter().filter(|r| r.starts_with("many-")).count();
    place.until("some answers", |place| answered(place) > messages / 20).await;
    place.kill_bot().await;
    assert!(answered(place) < messages, "killed too late to show anything");
    let before = answered(place);
    place.until("more answers", |place| answered(place) > before + messages / 20).await;
    place.cut_off().await;
    each_once(place, "many-", messages).await;
    Ok(())
}

async fn each_once(place: &mut Place, prefix: &str, count: usize) {
    let of = |place: &Place| -> Vec<String> {
        place.answered().into_iter().filter(|repository| repository.starts_with(prefix)).collect()
    };
    place.until("an answer to each", |place| of(place).len() >= count).await;
    let mut answered = of(place);
    answered.sort();
    let all = answered.len();
    answered.dedup();
    assert_eq!((all, answered.len()), (count, count), "one effect each");
    assert!(!place.said_of("message.dead_lettered").iter().any(|m| m.to_string().contains(prefix)));
}

async fn deadly(place: &mut Place) -> Result<(), Cannot> {
    const NEIGHBOURS: usize = 40;
    let before = place.starts()?;
    for n in 0..NEIGHBOURS {
        if n == NEIGHBOURS / 2 {
            place.wish("deadly", "deadly", "abort").await;
        }
        place.wish(&format!("beside-{n}"), &format!("beside-{n}"), "say").await;
    }
    place.until("the letter", |place| place.dead("deadly").is_some()).await;
    each_once(place, "beside-", NEIGHBOURS).await;
    assert_eq!(place.dead("deadly").unwrap().0, "CRASH_LOOP");
    // Once without a mark, as nobody suspected it, and three times with one.
    let crashes = place.starts()? - before;
    assert!((3..=4).contains(&crashes), "it ended the process {crashes} times");
    Ok(())
}

async fn lost_node(place: &mut Place) -> Result<(), Cannot> {
    const MESSAGES: usize = 300;
    let wishes: Vec<_> = (0..MESSAGES).map(|n| (format!("lost-{n}"), format!("lost-{n}"), "say".to_owned())).collect();
    place.wishes(&wishes[..MESSAGES / 2]).await;
    place.lose_a_node().await?;
    place.wishes(&wishes[MESSAGES / 2..]).await;
    each_once(place, "lost-", MESSAGES).await;
    place.heal().await;
    Ok(())
}

async fn never_deleted(place: &mut Place) -> Result<(), Cannot> {
    let earlier = place.topology()?;
    let mut wanted = earlier.clone();
    for name in ["gone.work", "left.work"] {
        wanted.queues.push(Queue { name: name.to_owned(), queue_type: QueueType::Quorum });
    }
    wanted.bindings.push(Binding {
        source: "lota.egress.outside".to_owned(),
        destination: "left.work".to_owned(),
        destination_type: DestinationType::Queue,
        routing_key: "test.left".to_owned(),
    });
    place.provision(&wanted).await?;
    assert!(place.publish("lota.egress.outside", "test.left", "still wanted").await);
    let changes = place.provision(&earlier).await?;
    assert!(changes.iter().any(|change| change == "removed queue gone.work"), "{changes:?}");
    assert!(changes.iter().any(|change| change.starts_with("kept queue left.work")), "{changes:?}");
    let kept = place.waiting("left.work").await;
    assert_eq!(kept.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["still wanted"]);
    Ok(())
}
