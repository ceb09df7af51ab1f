//! A monitor with a runtime that the test plays.
use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bot_core::{Bot, Effect, Fail, Observed, ServiceCx, ServicePort, Tools};
use bot_messages::{
    BotName, Event, Tap,
    telemetry::{BotState, Heartbeat},
};
use chrono::{DateTime, TimeDelta, Utc};
use monitor::{Config, MonitorBot};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) const CORRELATION: &str = "0198c5d2-7b3a-7c41-9a53-0f6f2f1f6a01";

/// A runtime that the test plays: it feeds the taps, sets the clock, and keeps what is said.
pub(crate) struct Runtime {
    pub(crate) taps: Mutex<BTreeMap<Tap, mpsc::Sender<Observed>>>,
    pub(crate) said: Mutex<Vec<(String, Effect)>>,
    pub(crate) now: Mutex<DateTime<Utc>>,
}

impl Runtime {
    pub(crate) fn new() -> Arc<Self> {
        let now = DateTime::from_timestamp(1_793_534_400, 0).unwrap();
        Arc::new(Self { taps: Mutex::default(), said: Mutex::default(), now: Mutex::new(now) })
    }
    pub(crate) fn pass(&self, ms: i64) -> DateTime<Utc> {
        let mut now = self.now.lock().unwrap();
        *now += TimeDelta::milliseconds(ms);
        *now
    }
    pub(crate) async fn feed<T: Serialize>(&self, tap: Tap, routing_key: &str, causation_id: Option<&str>, body: &T) {
        let body = serde_json::to_value(body).unwrap();
        let source = body["source"].as_str().and_then(|source| source.parse::<BotName>().ok());
        let observed = Observed {
            body: body.to_string().into_bytes(),
            routing_key: routing_key.into(),
            publisher: source.map(|source| source.slug()),
            causation_id: causation_id.map(str::to_owned),
            at: self.pass(0),
        };
        let sender = self.taps.lock().unwrap()[&tap].clone();
        sender.send(observed).await.unwrap();
    }
    pub(crate) async fn say<E: Event>(&self, id: &str, source: &str, parent: Option<&str>, event: &E) {
        let body = json!({
            "id": id, "timestamp": self.pass(0), "source": source, "destination": "*", "type": E::TYPE,
            "payload": {"data": event}, "priority": "medium", "correlation_id": CORRELATION,
        });
        self.feed(Tap::Events, E::TYPE, parent, &body).await;
    }
    pub(crate) async fn beat(&self, bot: &str, slug: &str) {
        let heartbeat =
            Heartbeat { bot: bot.into(), instance: "host-1".into(), state: BotState::Running, ..Heartbeat::default() };
        self.feed(Tap::Health, &format!("health.{slug}.host-1"), None, &heartbeat).await;
    }
    /// The summaries of the alerts said so far.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.iter()
            .filter_map(|(_, e)| match e {
                Effect::Say { event_type, data, .. } => Some(format!("{event_type} {}", data["alert_id"].as_str()?)),
                _ => None,
            })
            .collect()
    }
}

impl ServicePort for Runtime {
    fn commit<'a>(
        &'a self,
        key: &'a str,
        effects: Vec<Effect>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Fail>> + Send + 'a>> {
        self.said.lock().unwrap().extend(effects.into_iter().map(|e| (key.to_owned(), e)));
        Box::pin(async { Ok(()) })
    }
    fn state<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<serde_json::Value>, Fail>> + Send + 'a>> {
        Box::pin(async { Ok(None) })
    }
    fn observe(&self, tap: Tap) -> mpsc::Receiver<Observed> {
        let (sender, receiver) = mpsc::channel(16);
        self.taps.lock().unwrap().insert(tap, sender);
        receiver
    }
    fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap()
    }
}

pub(crate) struct Running {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) bot: Arc<MonitorBot>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) service: tokio::task::JoinHandle<anyhow::Result<()>>,
    pub(crate) base: String,
}

impl Running {
    pub(crate) async fn start(dir: &Path, settings: &[(&str, &str)]) -> Self {
        let config = Config { probe_interval_s: 1, probe_timeout_ms: 500, ..Config::default() };
        Self::start_with(dir, settings, config).await
    }
    pub(crate) async fn start_with(dir: &Path, settings: &[(&str, &str)], config: Config) -> Self {
        let mut tools = Tools::default();
        tools.dir = dir.to_owned();
        tools.settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let bot = Arc::new(MonitorBot::new(config, tools).unwrap());
        let (runtime, cancelled) = (Runtime::new(), CancellationToken::new());
        let cx = ServiceCx::new(cancelled.clone(), runtime.clone());
        let service = tokio::spawn(bot.clone().service(cx));
        let address = until(|| async { std::fs::read_to_string(dir.join("http-address")).ok() }).await;
        let taps = || runtime.taps.lock().unwrap().len() == 3;
        until(|| async { taps().then_some(()) }).await;
        Self { base: address, runtime, bot, cancelled, service }
    }
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let answer = client.get(format!("{}{path}", self.base)).send().await.unwrap();
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }
    /// Asks until the answer has what is wanted.
    pub(crate) async fn eventually(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(|| async { Some(self.get(path).await.1).filter(&wanted) }).await
    }
    pub(crate) async fn stop(self) {
        self.cancelled.cancel();
        self.service.await.unwrap().unwrap();
    }
}

/// Waits for a condition, not for a time; ten seconds are an end to a test that failed.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(condition: impl Fn() -> F) -> T {
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the condition came about within ten seconds")
}
