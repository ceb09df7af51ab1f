//! What the chain stands on: a broker, its topology, the two bots, the outside publisher, the oracle.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bot_messages::{OutsidePublisher, topology::Topology};
use bot_provision::{ApplyOptions, Management, NodeOptions, Passwords, Secret, apply};
use bot_store::{Store, StoreOptions};
use nix::sys::signal::Signal;
use serde::Deserialize as _;
use serde_json::Value;
use tests::{
    cast::{Cast, password},
    chain::{CountBot, Tally, WorkBot},
    installation,
};
use tokio::sync::Mutex;

use crate::{
    broker::Broker,
    oracle::Oracle,
    player::Player,
    publisher::{Publisher, entities},
    schedule::Who,
};

/// More than there are in any run.
const LETTERS_MAX: u32 = 20_000;
const FIGURES_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Ground {
    pub(crate) broker: Mutex<Broker>,
    management: Vec<Management>,
    topology: Topology,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) oracle: Oracle,
    work: Arc<Player>,
    count: Arc<Player>,
    // Dropped last: after the bots.
    #[expect(dead_code, reason = "what it is there for happens when it goes")]
    dir: tempfile::TempDir,
}

fn config(name: &str, heard: &str) -> String {
    // Attempts of jobs that chaos ends count as well, so there are many.
    format!(
        "
bot: {{name: {name}, version: '1', enabled: true}}
triggers: [{{type: event, pattern: {heard}}}]
actions: [{{type: execute, command: play}}]
constraints:
  max_concurrent_jobs: 16
  max_waiting_jobs: 2000
  timeout: 900
  retry_policy: {{max_attempts: 20, backoff: fixed}}
  rate: {{publisher_per_minute: 1000000, key_per_minute: 1000000}}
dependencies: []
outputs: [{{type: message, destination: '*'}}]
"
    )
}

impl Ground {
    pub(crate) async fn lay(seed: u64, total: u64, nodes: usize, per_second: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("lota-chaos-").tempdir().unwrap();
        let mut options = NodeOptions::new(dir.path().join("node"), installation().await);
        options.die_with_parent = true;
        options.figures_every = FIGURES_EVERY;
        let broker = Broker::start(options, nodes).await;
        let management = broker.management();
        let contracts = [bot_core::contract_of::<WorkBot>(), bot_core::contract_of::<CountBot>()];
        let outside = OutsidePublisher::new("outside".parse().unwrap(), &["repository.pushed"]);
        let topology = Topology::new(&contracts, &[outside, OutsidePublisher::operator()]).unwrap();
        provision(&management[0], &topology, &password).await;
        Oracle::declare(&management[0]).await;

        let ports = broker.ports();
        let addresses = |user: &str, password: &Secret| -> Vec<String> {
            let password = password.expose().replace(' ', "%20");
            ports.iter().map(|port| format!("amqp://{user}:{password}@127.0.0.1:{port}/lota")).collect()
        };
        let oracle = Oracle::default();
        let (admin, admin_password) = broker.admin();
        oracle.listen(&addresses(&admin, &admin_password));
        let publisher = Publisher::new(addresses("outside", &password("outside")), seed, total, per_second);
        let target = oracle.serve_target().await;
        let [work_contract, count_contract] = contracts;
        let cast = |who: Who, contract, config, heard| {
            let crashes = dir.path().join(who.slug()).join("crashes").to_string_lossy().into_owned();
            let variables = vec![("LOTA_TEST_CRASHES", crashes), ("LOTA_SETTING_TARGET", target.clone())];
            Cast { slug: who.slug(), contract, config, heard, variables }
        };
        let (pushed, completed) = ("repository.pushed", "build.completed");
        let work = cast(Who::Work, work_contract, config("WorkBot", pushed), pushed);
        let count = cast(Who::Count, count_contract, config("CountBot", completed), completed);
        Self {
            work: Player::start(dir.path().join(Who::Work.slug()), work, &ports).await,
            count: Player::start(dir.path().join(Who::Count.slug()), count, &ports).await,
            broker: Mutex::new(broker),
            management,
            topology,
            publisher,
            oracle,
            dir,
        }
    }

    pub(crate) fn player(&self, who: Who) -> &Arc<Player> {
        match who {
            Who::Work => &self.work,
            Who::Count => &self.count,
        }
    }

    /// The management API of a node that answers.
    pub(crate) async fn management(&self) -> Management {
        loop {
            for management in &self.management {
                if management.overview().await.is_ok() {
                    return management.clone();
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Restores what is missing, as `lota topology apply` does.
    pub(crate) async fn apply(&self) {
        let passwords = |user: &str| match [&self.work, &self.count].into_iter().find(|player| player.slug() == user) {
            Some(player) => player.password(),
            None => password(user),
        };
        provision(&self.management().await, &self.topology, &passwords).await;
    }

    /// How many messages have no place.
    pub(crate) async fn unrouted(&self) -> u64 {
        self.management().await.peek("lota", "unrouted", LETTERS_MAX).await.unwrap().len() as u64
    }

    /// The ids of the messages among the dead letters of both bots.
    pub(crate) async fn letters(&self) -> BTreeSet<String> {
        let (management, mut ids) = (self.management().await, BTreeSet::new());
        for who in Who::BOTH {
            let letters = management.peek("lota", &format!("{}.dead", who.slug()), LETTERS_MAX).await.unwrap();
            let bodies =
                letters.iter().map(|letter| serde_json::from_str::<Value>(&letter.payload).unwrap_or_default());
            ids.extend(bodies.map(|body| body["id"].as_str().unwrap_or_default().to_owned()));
        }
        ids
    }

    /// Ends the bots in order, and reads what they keep: per message, how often it was acted on; and how much is left to do.
    pub(crate) async fn read_stores(&self, total: u64) -> [Kept; 2] {
        for player in [&self.work, &self.count] {
            player.is_wanted(false);
            player.signal(Signal::SIGTERM);
        }
        let mut kept = [Kept::default(), Kept::default()];
        for (player, kept) in [&self.work, &self.count].into_iter().zip(&mut kept) {
            player.ended().await;
            let dir = player.dir().join("bots").join(player.slug()).join("store");
            let store = Store::open(StoreOptions::Sqlite { dir, max_page_count: None }).await.unwrap();
            for entity in 0..entities(total) {
                let Some((state, _)) = store.state(&format!("entity-{entity}")).await.unwrap() else { continue };
                let tally = Tally::deserialize(state).unwrap();
                kept.handled.extend(tally.handled);
                kept.fired.extend(tally.fired);
            }
            let counts = store.counts().await.unwrap();
            kept.left = counts.outbox_unsent + counts.jobs_waiting + counts.jobs_running;
            store.close().await;
        }
        kept
    }
}

/// What a bot's store has in the end.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) handled: BTreeMap<u64, u32>,
    pub(crate) fired: BTreeMap<u64, u32>,
    /// Messages not sent, jobs not ended.
    pub(crate) left: u64,
}

async fn provision(management: &Management, topology: &Topology, passwords: Passwords<'_>) {
    let options = ApplyOptions { dry_run: false, drain: false, figures_every: FIGURES_EVERY };
    let mut tries = 0;
    while let Err(e) = apply(management, topology, passwords, options).await {
        tries += 1;
        assert!(tries < 30, "the topology cannot be applied: {e}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
