//! Who may say and hear what, tried out: with each publisher's password everything is attempted on a provisioned RabbitMQ,
//! what is granted as much as what is not. The cases follow from the bots' contracts, so a new bot is covered by itself.
//! What is expected follows from the contracts too, by other ways than `topology.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a broken assumption ends the test"
)]

mod attempts;
mod broker;
mod fleet;
mod objects;
mod publishing;
mod receivers;
mod returning;
mod users;

use attempts::Verdicts;
use broker::Broker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_says_or_hears_what_no_contract_grants() {
    let broker = Broker::provisioned().await;
    let mut verdicts = Verdicts::default();
    publishing::attempt(&broker, &mut verdicts).await;
    objects::attempt(&broker, &mut verdicts).await;
    users::attempt(&broker, &mut verdicts).await;
    returning::attempt(&broker, &mut verdicts).await;
    verdicts.close(&format!("on RabbitMQ {}", broker.version));
}

#[test]
fn what_a_body_pretends_is_put_aside_by_its_receiver() {
    receivers::attempt();
}
