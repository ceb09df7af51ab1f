//! Who gets in, and what the management API lets each of them do.
use bot_messages::topology::METRICS_USER;
use bot_provision::{Management, ManagementError};
use serde_json::json;

use crate::{
    attempts::{Client, Outcome, Verdicts},
    broker::{Broker, password},
};

pub(crate) async fn attempt(broker: &Broker, verdicts: &mut Verdicts) {
    for who in broker.fleet.publishers() {
        let wrong = Client::gets_in(&broker.url_with(&who, "wrong", "lota")).await;
        verdicts.equal(|| format!("{who} with a wrong password"), &wrong, &Outcome::Refused(403));
        let elsewhere = Client::gets_in(&broker.url_with(&who, password(&who).expose(), "%2F")).await;
        verdicts.equal(|| format!("{who} in another vhost"), &(elsewhere != Outcome::Done), &true);
        let api = broker.management_as(&who);
        verdicts.equal(|| format!("{who} asks the management API"), &refused(&api.overview().await), &true);
    }
    let metrics = Client::gets_in(&broker.url(METRICS_USER)).await;
    verdicts.equal(|| format!("{METRICS_USER} speaks AMQP"), &(metrics != Outcome::Done), &true);
    figures_and_nothing_else(broker, verdicts).await;
}

/// The monitor's user reads counts, and neither writes nor sees a message.
async fn figures_and_nothing_else(broker: &Broker, verdicts: &mut Verdicts) {
    let api = broker.management_as(METRICS_USER);
    verdicts.equal(|| "it reads the overview".to_owned(), &api.overview().await.is_ok(), &true);
    verdicts.equal(
        || "it counts queues".to_owned(),
        &api.queues("lota").await.map(|q| q.is_empty()).ok(),
        &Some(false),
    );
    let (queue, exchange) = ("build-bot.work", "lota.egress.operator");
    let wishes = [
        ("sees users", refused(&api.users().await)),
        ("sees permissions", refused(&api.permissions().await)),
        ("reads messages", refused(&api.peek("lota", queue, 1).await)),
        ("purges", refused(&api.purge("lota", queue).await)),
        ("deletes a queue", refused(&api.delete_queue("lota", queue).await)),
        ("makes a queue", refused(&api.put_queue("lota", "new", "classic").await)),
        ("makes an exchange", refused(&api.put_exchange("lota", "new", false).await)),
        ("deletes an exchange", refused(&api.delete_exchange("lota", exchange).await)),
        ("publishes", refused(&api.publish("lota", exchange, "repository.pushed", json!({}), "{}").await)),
        ("makes a user", refused(&api.put_user("new", &password("new"), &["administrator".to_owned()]).await)),
        ("changes itself", refused(&api.put_user(METRICS_USER, &password("x"), &["administrator".to_owned()]).await)),
        ("deletes a user", refused(&api.delete_user("operator").await)),
        ("makes a vhost", refused(&api.put_vhost("new").await)),
        ("deletes the vhost", refused(&api.delete_vhost("lota").await)),
        ("deletes a policy", refused(&api.delete_policy("lota", "lota-dead").await)),
    ];
    for (wish, refused) in wishes {
        verdicts.equal(|| format!("{METRICS_USER} {wish}: refused"), &refused, &true);
    }
}

fn refused<T>(result: &Result<T, ManagementError>) -> bool {
    matches!(result, Err(ManagementError::NotAllowed { .. }))
}

impl Broker {
    fn management_as(&self, user: &str) -> Management {
        Management::new(&self.management_url(), user, password(user), None).unwrap()
    }
}
