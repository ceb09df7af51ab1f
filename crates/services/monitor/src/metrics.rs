//! `/metrics`: what is watched, in the text format of Prometheus. Every metric's name is here.
use std::{fmt, sync::atomic::AtomicU64};

use bot_messages::telemetry::{Heartbeat as H, Held};
use chrono::{DateTime, TimeDelta, Utc};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    applications::Health,
    fleet::{Bot, slug},
    health::Report,
    watch::Watch,
};

/// End-to-end latency is an average over what ended so lately.
const LATENCY_OVER: TimeDelta = TimeDelta::minutes(5);

type Labels = Vec<(&'static str, String)>;

/// Collects metrics and writes them once; nothing here lives on between two scrapes.
#[derive(Default)]
struct Page {
    registry: Registry,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }
}

/// The page at `now`.
pub(crate) fn render(watch: &Watch, now: DateTime<Utc>) -> Result<String, fmt::Error> {
    let mut page = Page::default();
    let bots = watch.fleet.bots(now);
    fleet(&mut page, &bots);
    processes(&mut page, &bots);
    system(&mut page, watch, now);
    queues(&mut page, watch);
    losses(&mut page, watch);
    let mut text = String::new();
    text::encode(&mut text, &page.registry)?;
    Ok(text)
}

fn fleet(page: &mut Page, bots: &[Bot]) {
    let is_active = |b: &Bot| f64::from(u8::from(b.instances.iter().any(|i| i.alive)));
    let active = bots.iter().map(|b| (vec![("bot", slug(&b.name))], is_active(b)));
    page.gauge("lota_bot_active", "1 while a process of the bot is heard", active);
}

/// Name, meaning, value.
type Figure<T> = (&'static str, &'static str, fn(&H) -> T);

const COUNTERS: [Figure<u64>; 5] = [
    ("lota_bot_processed", "Deliveries settled since the process started", |h| h.processed),
    ("lota_bot_errors", "Deliveries that failed since the process started", |h| h.errors),
    ("lota_bot_records_dropped", "Log and health records dropped", |h| h.records_dropped),
    ("lota_bot_rate_deferred", "Messages that waited for a minute with room", |h| h.rate_deferred),
    ("lota_bot_rate_refused", "Messages refused with RATE_LIMITED", |h| h.rate_refused),
];

const GAUGES: [Figure<f64>; 9] = [
    ("lota_bot_processing_rate", "Deliveries settled per second over the last minute", |h| h.rate_per_s),
    ("lota_bot_error_rate", "Failures per delivery over the last minute, 0 to 1", |h| h.error_rate),
    ("lota_bot_in_flight", "Deliveries in hand", |h| h.in_flight as f64),
    ("lota_bot_jobs_running", "Jobs that run", |h| h.jobs_running as f64),
    ("lota_bot_jobs_waiting", "Jobs that wait", |h| h.jobs_waiting as f64),
    ("lota_bot_outbox_unsent", "Messages not yet confirmed by the broker", |h| h.outbox_unsent as f64),
    ("lota_bot_resident_memory_bytes", "Resident memory", |h| h.rss_bytes as f64),
    ("lota_bot_cpu_percent", "Share of one core", |h| h.cpu_percent),
    ("lota_bot_uptime_seconds", "Since the process started", |h| h.uptime_s as f64),
];

fn processes(page: &mut Page, bots: &[Bot]) {
    let heard = bots.iter().flat_map(|b| &b.instances).filter(|i| i.heard_at.is_some());
    let all: Vec<(Labels, &H)> = heard
        .map(|i| {
            let (bot, instance) = (slug(&i.heartbeat.bot), i.heartbeat.instance.clone());
            (vec![("bot", bot), ("instance", instance)], &i.heartbeat)
        })
        .collect();
    for (name, help, value) in COUNTERS {
        page.counter(name, help, all.iter().map(|(labels, h)| (labels.clone(), value(h))));
    }
    for (name, help, value) in GAUGES {
        page.gauge(name, help, all.iter().map(|(labels, h)| (labels.clone(), value(h))));
    }
    let off = all.iter().flat_map(|(labels, h)| {
        let name = |what: &'static str, value: &String| -> Labels {
            labels.iter().cloned().chain([(what, value.clone())]).collect()
        };
        h.off.iter().map(move |feature| (name("feature", feature), 1.0)).collect::<Vec<_>>()
    });
    page.gauge("lota_bot_feature_off", "1 for each optional feature that is switched off for a while", off);
    let held = all.iter().flat_map(|(labels, h)| {
        let of = |held: &Held| -> Labels {
            let more = [("what", held.what.clone()), ("dependency", held.dependency.clone())];
            labels.iter().cloned().chain(more).collect()
        };
        h.held.iter().map(move |held| (of(held), 1.0)).collect::<Vec<_>>()
    });
    page.gauge("lota_bot_held", "1 for whatever a bot holds back since something outside fails", held);
    let quantiles = all.iter().flat_map(|(labels, h)| {
        [("0.5", h.response_p50_us), ("0.99", h.response_p99_us)].map(|(q, us)| {
            let labels = labels.iter().cloned().chain([("quantile", q.to_owned())]).collect();
            (labels, us as f64 / 1_000_000.0)
        })
    });
    page.gauge("lota_bot_response_seconds", "From delivery to settled, over the last minute", quantiles);
}

fn system(page: &mut Page, watch: &Watch, now: DateTime<Utc>) {
    let report = Report::of(watch, now);
    let messages = Counter::<u64>::default();
    messages.inc_by(watch.traffic.total());
    page.registry.register("lota_messages", "Messages seen on the events tap", messages);
    for (name, help, value) in [
        (
            "lota_messages_per_second",
            "Messages seen per second over the last minute",
            Some(watch.traffic.per_second(now)),
        ),
        (
            "lota_end_to_end_seconds",
            "Average from the first to the latest message of what ended in the last 5 minutes",
            watch.correlations.latency_s(now - LATENCY_OVER),
        ),
        ("lota_jobs_running", "Jobs that have begun and not ended", Some(watch.jobs.running() as f64)),
        ("lota_health_score", "Health of the fleet, 0 to 100", Some(f64::from(report.score))),
        ("lota_alerts_open", "Alerts that are open", Some(report.alerts.len() as f64)),
    ] {
        if let Some(value) = value {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            page.registry.register(name, help, gauge);
        }
    }
    let known = watch.applications.all().filter(|a| a.health != Health::Unknown);
    let up = known.map(|a| {
        let labels = vec![("environment", a.environment.clone())];
        (labels, f64::from(u8::from(a.health == Health::Up)))
    });
    page.gauge("lota_application_up", "1 while the application answers its health check", up);
}

fn queues(page: &mut Page, watch: &Watch) {
    let known = watch.queues.as_ref().map(|s| s.queues.iter()).into_iter().flatten();
    let depths: Vec<_> = known.map(|(queue, depth)| (vec![("queue", queue.clone())], depth)).collect();
    let of = |value: fn(&crate::queues::Depth) -> u64| {
        depths.iter().map(move |(l, d)| (l.clone(), value(d) as f64)).collect::<Vec<_>>()
    };
    page.gauge("lota_queue_messages", "Messages in a queue, ready and in hand", of(|d| d.messages));
    page.gauge("lota_queue_messages_ready", "Messages in a queue that wait", of(|d| d.ready));
    page.gauge("lota_queue_consumers", "Who reads from a queue", of(|d| d.consumers));
}

/// What the monitor itself could not keep or read.
fn losses(page: &mut Page, watch: &Watch) {
    let forgotten = [
        ("unreadable", watch.unreadable),
        ("correlations", watch.correlations.forgotten()),
        ("jobs", watch.jobs.forgotten()),
        ("log_lines", watch.logs.dropped()),
    ];
    let values = forgotten.map(|(what, n)| (vec![("what", what.to_owned())], n));
    page.counter("lota_monitor_dropped", "What the monitor could not read, or dropped to make room", values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config,
        fleet::tests::beat,
        queues::{Depth, Snapshot},
        seen::tests::{at, observed},
    };
    use bot_messages::telemetry::BotState;

    #[test]
    fn the_page_tells_of_bots_messages_and_queues() {
        let mut w = Watch::new(&Config::default());
        let off = vec!["cache".to_owned()];
        w.fleet.heard(H { off, ..beat("BuildBot", "a", BotState::Running) }, at(0));
        w.event(&observed("1", "repository.pushed", None, 0, &serde_json::json!({})));
        let queues = [("build-bot.work".to_owned(), Depth { messages: 4, ..Depth::default() })].into();
        w.queues = Some(Snapshot { at: at(0), queues });
        let page = render(&w, at(1)).unwrap();
        for line in [
            "lota_bot_active{bot=\"build-bot\"} 1.0",
            "lota_bot_processed_total{bot=\"build-bot\",instance=\"a\"} 7",
            "lota_bot_response_seconds{bot=\"build-bot\",instance=\"a\",quantile=\"0.5\"} 0.0025",
            "lota_bot_feature_off{bot=\"build-bot\",instance=\"a\",feature=\"cache\"} 1.0",
            "lota_messages_total 1",
            "lota_queue_messages{queue=\"build-bot.work\"} 4.0",
            "lota_health_score 100.0",
            "lota_monitor_dropped_total{what=\"unreadable\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "expected {line} in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
