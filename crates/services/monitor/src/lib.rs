//! `MonitorBot` watches the fleet and the applications it deployed.
//!
//! **Hears** `deploy.completed` and `deploy.rolled_back`, to know what it has to probe; observes the taps of events,
//! heartbeats and log records. **Says** `alert.triggered` and `alert.resolved`: about a bot that is silent and did not
//! say that it stops, an application that did not answer twice in a row, new dead letters.
//!
//! **Serves** an HTTP API (`api.rs`) that answers from memory: what is kept is bounded, what is dropped is counted. Its
//! address is in the file `http-address` of its folder.
//!
//! **How it fails**: what it cannot read on a tap is counted and left. Without heartbeats of anyone, its own included,
//! it blames no bot but reports itself deaf (score 0). Alerts, deployed applications and expected bots survive a
//! restart in `memory.json`; correlations, jobs and log lines do not. An alert whose commit fails is said later; after
//! a crash in between it may be said twice, with the same `alert_id`.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::bail;
use bot_core::{About, Bot, Effects, Handle, Meta, Outcome, ServiceCx, Tools};
use bot_messages::{
    Category, Tap,
    alert::{AlertResolved, AlertTriggered},
    deploy::{DeployCompleted, DeployRolledBack},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod alerts;
mod api;
mod applications;
mod applied;
mod correlations;
mod crowd;
mod fleet;
mod health;
mod held;
mod jobs;
mod logs;
mod lookup;
mod memory;
mod metrics;
mod queues;
mod seen;
mod service;
mod tls;
mod traffic;
mod tree;
mod watch;

pub use applications::{Known, Release};

/// The section `settings` of its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API listens. Port 0 takes a free one; it is written to `http-address` in the bot's folder.
    pub listen: String,
    /// Whether `listen` may be reachable from other machines. The API asks nobody who they are.
    pub allow_remote: bool,
    /// Requests that the API answers to one address.
    pub requests_per_minute: u32,
    /// A bot that is not heard for so long is silent, seconds. Heartbeats come every 5 s.
    pub silent_after_s: u32,
    /// How often applications are asked, seconds.
    pub probe_interval_s: u32,
    /// How long they may take to answer, milliseconds.
    pub probe_timeout_ms: u32,
    /// Days after which a bot's broker password is too old; 0: nobody looks.
    pub credential_days_max: u32,
    /// Correlations kept.
    pub correlations_max: usize,
    /// Messages kept of one correlation.
    pub messages_per_correlation_max: usize,
    /// Messages kept of all. One with how it was settled takes about 740 bytes of memory as bots speak, and no field of
    /// it is kept longer than 300 characters.
    pub messages_max: usize,
    /// Jobs kept.
    pub jobs_max: usize,
    /// Jobs whose lines are kept.
    pub logs_jobs_max: usize,
    /// Lines kept of one job.
    pub logs_lines_max: usize,
    /// Bytes of lines kept of all jobs; one job takes at most an eighth.
    pub logs_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            allow_remote: false,
            requests_per_minute: 6000,
            silent_after_s: 30,
            probe_interval_s: 10,
            probe_timeout_ms: 3000,
            credential_days_max: 90,
            correlations_max: 10_000,
            messages_per_correlation_max: 500,
            messages_max: 150_000,
            jobs_max: 2000,
            logs_jobs_max: 200,
            logs_lines_max: 5000,
            logs_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// Watches.
pub struct MonitorBot {
    config: Config,
    tools: Tools,
    dir: PathBuf,
    listen: SocketAddr,
    management: Option<queues::Management>,
    certificate: Option<tls::Certificate>,
    watch: Arc<Mutex<watch::Watch>>,
}

impl Bot for MonitorBot {
    const ABOUT: About = About {
        name: "MonitorBot",
        category: Category::Infrastructure,
        responsibility: "watches the fleet and its applications",
        never: &["remediates", "configures", "deploys"],
        actions: &["watch"],
        dependencies: &[],
        observes: &[Tap::Events, Tap::Health, Tap::Logs],
    };
    type Hears = (DeployCompleted, (DeployRolledBack, ()));
    type Says = (AlertTriggered, (AlertResolved, ()));
    type Jobs = ();
    type Config = Config;
    type State = Known;

    fn new(config: Config, tools: Tools) -> anyhow::Result<Self> {
        let mut wrong = Vec::new();
        let listen = listen(&config, &tools, &mut wrong);
        let management = queues::Management::from_settings(&tools.settings, &mut wrong);
        let certificate = tls::Certificate::from_settings(&tools.settings, &mut wrong);
        for (name, value) in [
            ("requests_per_minute", config.requests_per_minute),
            ("silent_after_s", config.silent_after_s),
            ("probe_interval_s", config.probe_interval_s),
            ("probe_timeout_ms", config.probe_timeout_ms),
        ] {
            if value == 0 {
                wrong.push(format!("settings.{name} is 0: expected at least 1"));
            }
        }
        let Some(listen) = listen.filter(|_| wrong.is_empty()) else {
            bail!("MonitorBot cannot start: {}", wrong.join("; "));
        };
        let watch = Arc::new(Mutex::new(watch::Watch::new(&config)));
        let dir = tools.dir.clone();
        Ok(Self { config, tools, dir, listen, management, certificate, watch })
    }

    async fn service(self: Arc<Self>, cx: ServiceCx<Self>) -> anyhow::Result<()> {
        service::run(self, cx).await
    }
}

/// The address to listen on: the runtime's setting goes before the file's.
fn listen(config: &Config, tools: &Tools, wrong: &mut Vec<String>) -> Option<SocketAddr> {
    let text = tools.settings.get("listen").unwrap_or(&config.listen);
    let Ok(address) = text.parse::<SocketAddr>() else {
        wrong.push(format!("settings.listen is `{text}`: expected an IP address and a port such as 127.0.0.1:8610"));
        return None;
    };
    if !address.ip().is_loopback() && !config.allow_remote {
        let text = format!(
            "settings.listen is {address}, which other machines reach, and the API asks nobody who they are: listen on \
             127.0.0.1, or set settings.allow_remote where a firewall or a container's network guards it"
        );
        wrong.push(text);
    }
    Some(address)
}

impl MonitorBot {
    fn watch(&self) -> MutexGuard<'_, watch::Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the service what stands in an environment. Not an effect: doing it twice is as good as once.
    fn place(&self, environment: &str, known: &Known) -> Effects<Self> {
        self.watch().applications.place(environment, known.current.as_ref());
        let probing = known.current.as_ref().and_then(|r| r.health_url.as_deref());
        let what = probing.map_or_else(|| "has nothing to probe".to_owned(), |url| format!("is probed at {url}"));
        Effects::none().note(format!("{environment} {what}"))
    }
}

impl Handle<DeployCompleted> for MonitorBot {
    fn key(&self, event: &DeployCompleted) -> String {
        event.environment.clone()
    }
    fn handle(&self, event: DeployCompleted, state: &mut Known, _: &Meta) -> Outcome<Self> {
        let environment = event.environment.clone();
        if !state.deployed(event) {
            return Ok(Effects::ignored(format!("a later deployment of {environment} is known")));
        }
        Ok(self.place(&environment, state))
    }
}

impl Handle<DeployRolledBack> for MonitorBot {
    fn key(&self, event: &DeployRolledBack) -> String {
        event.environment.clone()
    }
    fn handle(&self, event: DeployRolledBack, state: &mut Known, _: &Meta) -> Outcome<Self> {
        if !state.rolled_back(&event) {
            return Ok(Effects::ignored(format!("a later deployment of {} is known", event.environment)));
        }
        Ok(self.place(&event.environment, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bot_messages::{Event, Priority};

    pub(crate) fn bot(settings: &[(&str, &str)]) -> anyhow::Result<MonitorBot> {
        let mut tools = Tools::default();
        tools.settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        MonitorBot::new(Config::default(), tools)
    }

    fn meta() -> Meta {
        Meta {
            id: "m1".into(),
            publisher: "deploy-bot".into(),
            correlation_id: "c1".into(),
            priority: Priority::Medium,
            attempt: 1,
            now: seen::tests::at(0),
        }
    }

    #[test]
    fn what_is_deployed_is_probed_and_what_is_taken_back_is_not() {
        let (bot, mut state) = (bot(&[]).unwrap(), Known::default());
        let event = DeployCompleted::example();
        let probed = Effects::none().note("staging is probed at http://127.0.0.1:8600/health");
        assert_eq!(bot.handle(event.clone(), &mut state, &meta()), Ok(probed));
        assert_eq!(bot.watch().applications.targets().len(), 1);
        let late = DeployCompleted { job_id: "0".into(), ..event };
        let ignored = Effects::ignored("a later deployment of staging is known");
        assert_eq!(bot.handle(late, &mut state, &meta()), Ok(ignored));
        let back = DeployRolledBack { to: None, ..DeployRolledBack::example() };
        assert_eq!(bot.handle(back, &mut state, &meta()), Ok(Effects::none().note("staging has nothing to probe")));
        assert!(bot.watch().applications.targets().is_empty());
    }

    #[test]
    fn all_mistakes_in_the_settings_are_told_at_once() {
        let error = bot(&[("listen", "0.0.0.0:80"), ("management_url", "ftp://x")]).err().unwrap().to_string();
        for part in ["allow_remote", "management_url is `ftp://x`", "management_password_file is not"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(bot(&[("listen", "localhost")]).err().unwrap().to_string().contains("127.0.0.1:8610"));
        assert!(bot(&[("listen", "127.0.0.1:8610")]).is_ok());
    }

    #[test]
    fn the_shipped_configuration_holds_the_defaults() {
        #[derive(Deserialize)]
        struct File {
            settings: Config,
        }
        let text = include_str!("../../../../deploy/config/monitor-bot.yaml");
        assert_eq!(serde_saphyr::from_str::<File>(text).unwrap().settings, Config::default());
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>("{\"lisen\": \"x\"}").is_err());
    }

    #[test]
    fn the_contract_is_as_documented() {
        let contract = bot_core::contract_of::<MonitorBot>();
        assert_eq!(contract.name.slug(), "monitor-bot");
        assert_eq!(contract.hears, ["deploy.completed", "deploy.rolled_back"]);
        assert_eq!(contract.says, ["alert.triggered", "alert.resolved"]);
    }
}
