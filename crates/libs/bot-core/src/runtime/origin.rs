//! Who said a message: what the exchange and the routing key prove, held against what the body claims. Pure.
use bot_messages::{Code, Contract, keys};

use crate::{
    bus::{PUBLISHER, Properties, REPLAY},
    envelope::{Destination, Envelope},
};

/// What the broker proves about a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Slug of the publisher.
    pub(crate) publisher: String,
    /// Which replay of the message it is.
    pub(crate) replay: u32,
    /// It came back through a retry queue or a replay: the key says nothing of type and destination.
    pub(crate) returned: bool,
}

/// A delivery that may not be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// As far as it is proven.
    pub(crate) publisher: String,
}

fn denied(publisher: &str, message: String) -> Refused {
    Refused { code: Code::PermissionDenied, message, publisher: publisher.to_owned() }
}

/// What exchange, key and headers prove, before the body is read.
pub(crate) fn origin(
    exchange: &str,
    routing_key: &str,
    properties: &Properties,
    own_slug: &str,
    operator: &str,
) -> Result<Origin, Refused> {
    let requeued = routing_key == keys::requeue(own_slug);
    let said_by = || properties.text(PUBLISHER).unwrap_or("unknown").to_owned();
    if let Some(publisher) = exchange.strip_prefix(keys::EGRESS_PREFIX) {
        if !requeued {
            return Ok(Origin { publisher: publisher.to_owned(), replay: 0, returned: false });
        }
        if publisher != operator {
            let message = format!("{publisher} used the key {routing_key}: only the operator may replay");
            return Err(denied(publisher, message));
        }
        let replay = properties.count(REPLAY).unwrap_or(1).max(1);
        return Ok(Origin { publisher: said_by(), replay, returned: true });
    }
    if exchange == keys::REQUEUE && requeued {
        return Ok(Origin { publisher: said_by(), replay: properties.count(REPLAY).unwrap_or(0), returned: true });
    }
    let message =
        format!("it came from the exchange `{exchange}` with key `{routing_key}`, which no binding of ours allows");
    Err(denied("unknown", message))
}

/// Holds the body against what is proven.
pub(crate) fn check(
    origin: &Origin,
    routing_key: &str,
    envelope: &Envelope,
    contract: &Contract,
) -> Result<(), Refused> {
    let refuse = |message: String| Err(denied(&origin.publisher, message));
    if envelope.source.slug() != origin.publisher {
        return refuse(format!("`source` is {}, but the exchange proves {}", envelope.source, origin.publisher));
    }
    let own = &contract.name;
    if let Destination::Bot(to) = &envelope.destination
        && to != own
    {
        return refuse(format!("`destination` is {to}, but this is {own}"));
    }
    if origin.returned {
        return Ok(());
    }
    let expected = match &envelope.destination {
        Destination::Everyone => envelope.event_type.clone(),
        Destination::Bot(to) => keys::command(&to.slug(), &envelope.event_type),
    };
    if expected != routing_key {
        let said = format!("`type` {} and `destination` {}", envelope.event_type, envelope.destination.as_str());
        return refuse(format!("{said} ask for the key {expected}, but it came with {routing_key}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests_support::contract;
    use serde_json::json;

    fn envelope(source: &str, destination: &str, event_type: &str) -> Envelope {
        let body = json!({
            "id": "1", "timestamp": "2026-11-01T12:00:00Z", "source": source, "destination": destination,
            "type": event_type, "payload": {"data": {}},
        });
        Envelope::decode(body.to_string().as_bytes()).unwrap()
    }

    fn verdict(exchange: &str, key: &str, headers: &Properties, e: &Envelope) -> Result<Origin, String> {
        let c = contract("DeployBot", &["deploy.requested"]);
        let origin = origin(exchange, key, headers, "deploy-bot", "operator").map_err(|r| r.message)?;
        check(&origin, key, e, &c).map_err(|r| r.message)?;
        Ok(origin)
    }

    #[test]
    fn a_granted_message_is_believed() {
        let e = envelope("ci", "*", "deploy.requested");
        assert_eq!(verdict("lota.egress.ci", "deploy.requested", &Properties::default(), &e).unwrap().publisher, "ci");
        let c = envelope("operator", "DeployBot", "control.pause");
        assert!(verdict("lota.egress.operator", "to.deploy-bot.control.pause", &Properties::default(), &c).is_ok());
    }

    #[test]
    fn forgeries_are_refused() {
        let none = Properties::default;
        let e = envelope("ci", "*", "deploy.requested");
        for (exchange, key, headers, envelope, why) in [
            ("lota.egress.lint-bot", "deploy.requested", none(), e.clone(), "proves lint-bot"),
            ("lota.egress.ci", "build.completed", none(), e.clone(), "ask for the key deploy.requested"),
            ("lota.egress.ci", "requeue.deploy-bot", none(), e.clone(), "only the operator"),
            ("", "deploy-bot.work", none(), e.clone(), "no binding"),
            ("lota.events", "deploy.requested", none(), e.clone(), "no binding"),
            ("lota.requeue", "requeue.deploy-bot", none(), e.clone(), "proves unknown"),
            ("lota.requeue", "requeue.deploy-bot", none().header(PUBLISHER, "lint-bot"), e.clone(), "proves lint-bot"),
            (
                "lota.egress.ci",
                "to.deploy-bot.deploy.requested",
                none(),
                envelope("ci", "BuildBot", "deploy.requested"),
                "this is DeployBot",
            ),
        ] {
            let message = verdict(exchange, key, &headers, &envelope).unwrap_err();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn retries_and_replays_keep_their_publisher() {
        let e = envelope("ci", "*", "deploy.requested");
        let headers = Properties::default().header(PUBLISHER, "ci");
        let retried = verdict("lota.requeue", "requeue.deploy-bot", &headers, &e).unwrap();
        assert_eq!((retried.publisher.as_str(), retried.replay), ("ci", 0));
        let replayed = verdict("lota.egress.operator", "requeue.deploy-bot", &headers.header(REPLAY, 2), &e).unwrap();
        assert_eq!((replayed.publisher.as_str(), replayed.replay), ("ci", 2));
    }
}
