//! What the monitor does besides handling: it reads the taps, asks applications and the broker how they are, says what
//! it finds wrong, and serves the API. Decisions are not made here but in `watch.rs`.
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum_server::tls_rustls::RustlsConfig;
use bot_core::{Effects, ServiceCx};
use bot_messages::Tap;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    MonitorBot,
    alerts::Announcement,
    api::{self, Api},
    crowd::Crowd,
    memory, queues,
};

/// How often alerts are judged and said, and what changed is written down.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// How often the broker is asked for its queue depths.
const QUEUES_EVERY: Duration = Duration::from_secs(10);

type Cx = ServiceCx<MonitorBot>;

/// Runs until it is told to end, or a part of it cannot go on.
pub(crate) async fn run(bot: Arc<MonitorBot>, cx: Cx) -> anyhow::Result<()> {
    let listener = TcpListener::bind(bot.listen).await.with_context(|| {
        format!("could not listen on {}: end what listens there, or change settings.listen", bot.listen)
    })?;
    let address = listener.local_addr()?;
    let client = client(&bot)?;
    let known = memory::read(&bot.dir).await;
    bot.watch().recall(known, cx.now());
    let tls = match &bot.certificate {
        Some(certificate) => Some(certificate.load().await?),
        None => None,
    };
    let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
    memory::write(&bot.dir, memory::ADDRESS_FILE, url.as_bytes())
        .await
        .with_context(|| format!("could not write {} in {}", memory::ADDRESS_FILE, bot.dir.display()))?;
    tracing::info!(url, "serving the API");
    let mut parts = JoinSet::new();
    parts.spawn(serve(bot.clone(), cx.clone(), listener, tls.clone()));
    let renewal = bot.certificate.clone().zip(tls).map(|(certificate, config)| certificate.keep_fresh(config));
    let _renewal = renewal.map(|renewal| AbortOnDropHandle::new(tokio::spawn(renewal)));
    parts.spawn(observe(bot.clone(), cx.clone()));
    parts.spawn(probe(bot.clone(), cx.clone(), client.clone()));
    parts.spawn(ask_broker(bot.clone(), cx.clone(), client));
    let mut ended = Ok(());
    while let Some(part) = parts.join_next().await {
        // A part that ended without being told to leaves the monitor half blind: the runtime has to know.
        if let Err(error) = part.map_err(anyhow::Error::from).and_then(|r| r) {
            parts.abort_all();
            ended = Err(error);
        }
    }
    let _ = tokio::fs::remove_file(bot.dir.join(memory::ADDRESS_FILE)).await;
    match ended {
        Err(error) if !cx.cancelled.is_cancelled() => Err(error),
        _ => Ok(()),
    }
}

/// Without proxies and redirects: what is asked is what the address says.
fn client(bot: &MonitorBot) -> anyhow::Result<reqwest::Client> {
    let timeout = Duration::from_millis(u64::from(bot.config.probe_timeout_ms));
    let authority = bot.management.as_ref().and_then(|management| management.authority.as_deref());
    let authority = authority.map(|file| {
        let pem = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        reqwest::Certificate::from_pem(&pem).with_context(|| format!("{} is no certificate", file.display()))
    });
    let builder = reqwest::Client::builder()
        .tls_certs_merge(authority.transpose()?)
        .no_proxy()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none());
    builder.build().context("could not make an HTTP client")
}

async fn serve(bot: Arc<MonitorBot>, cx: Cx, listener: TcpListener, tls: Option<RustlsConfig>) -> anyhow::Result<()> {
    let clock = cx.clone();
    let api = Api {
        watch: bot.watch.clone(),
        now: Arc::new(move || clock.now()),
        allow_remote: bot.config.allow_remote,
        crowd: Arc::new(Crowd::new(bot.config.requests_per_minute)),
    };
    let service = api::router(api).into_make_service_with_connect_info::<SocketAddr>();
    let ended = async {
        match tls {
            None => axum::serve(listener, service).await,
            Some(tls) => {
                let server = axum_server::from_tcp_rustls(listener.into_std()?, tls)?;
                server.serve(service).await
            }
        }
    };
    // Connections that idle in a browser's pool must not hold back the end, so nobody waits for them.
    tokio::select! {
        result = ended => result.context("the API cannot be served any more"),
        () = cx.cancelled.cancelled() => Ok(()),
    }
}

/// Reads the taps, and judges once a second.
async fn observe(bot: Arc<MonitorBot>, cx: Cx) -> anyhow::Result<()> {
    let (mut events, mut health, mut logs) = (cx.observe(Tap::Events), cx.observe(Tap::Health), cx.observe(Tap::Logs));
    let mut tick = interval(JUDGE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = Vec::new();
    loop {
        tokio::select! {
            Some(seen) = events.recv() => bot.watch().event(&seen),
            Some(seen) = health.recv() => bot.watch().heartbeat(&seen),
            Some(seen) = logs.recv() => bot.watch().record(&seen),
            _ = tick.tick() => {
                bot.watch().judge(cx.now());
                announce(&bot, &cx).await;
                write_down(&bot, &mut written).await;
            }
            () = cx.cancelled.cancelled() => break,
        }
    }
    write_down(&bot, &mut written).await;
    Ok(())
}

/// Says what is to be said of alerts. What cannot be committed now is said later.
async fn announce(bot: &MonitorBot, cx: &Cx) {
    loop {
        let Some((correlation, announcement)) = bot.watch().alerts.next_unsaid() else {
            return;
        };
        let effects = match announcement {
            Announcement::Triggered(alert) => Effects::none().say(alert),
            Announcement::Resolved(alert) => Effects::none().say(alert),
        };
        if let Err(fail) = cx.commit(&correlation, effects).await {
            tracing::warn!(correlation, reason = fail.message(), "an alert could not be said yet");
            return;
        }
        bot.watch().alerts.said();
    }
}

async fn write_down(bot: &MonitorBot, written: &mut Vec<u8>) {
    let memory = bot.watch().memory();
    let Ok(content) = serde_json::to_vec(&memory) else {
        return;
    };
    if content == *written {
        return;
    }
    match memory::write(&bot.dir, memory::MEMORY_FILE, &content).await {
        Ok(()) => {
            bot.tools.degraded("memory", None);
            *written = content;
        }
        Err(e) => {
            let dir = bot.dir.display();
            bot.tools.degraded(
                "memory",
                Some(format!("alerts would be forgotten by a restart: cannot write in {dir}: {e}")),
            );
        }
    }
}

/// Asks the applications how they are.
async fn probe(bot: Arc<MonitorBot>, cx: Cx, client: reqwest::Client) -> anyhow::Result<()> {
    let mut tick = interval(Duration::from_secs(u64::from(bot.config.probe_interval_s)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.cancelled.cancelled() => return Ok(()),
        }
        let mut round = JoinSet::new();
        for (environment, url) in bot.watch().applications.targets() {
            let client = client.clone();
            round.spawn(async move {
                let answer = get(&client, &url).await;
                (environment, url, answer)
            });
        }
        while let Some(asked) = round.join_next().await {
            if let Ok((environment, url, answer)) = asked {
                bot.watch().applications.probed(&environment, &url, answer, cx.now());
            }
        }
    }
}

/// 200 to 299 is healthy, as for the bot that deployed it. Milliseconds until the answer began.
async fn get(client: &reqwest::Client, url: &str) -> Result<u64, String> {
    let began = Instant::now();
    match client.get(url).send().await {
        Ok(answer) if answer.status().is_success() => Ok(began.elapsed().as_millis() as u64),
        Ok(answer) => Err(format!("expected 200 to 299 from {url}, got {}", answer.status())),
        Err(e) if e.is_timeout() => Err(format!("{url} did not answer within {} ms", began.elapsed().as_millis())),
        Err(e) if e.is_connect() => Err(format!("{url} cannot be reached")),
        Err(e) => Err(format!("{url} did not answer: {}", e.without_url())),
    }
}

/// Asks the broker how much waits in its queues, where the operator says how.
async fn ask_broker(bot: Arc<MonitorBot>, cx: Cx, client: reqwest::Client) -> anyhow::Result<()> {
    let Some(management): &Option<queues::Management> = &bot.management else {
        return Ok(());
    };
    let mut tick = interval(QUEUES_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.cancelled.cancelled() => return Ok(()),
        }
        let answer = management.ask(&client, cx.now()).await;
        bot.tools.degraded("queues", answer.as_ref().err().cloned());
        let mut watch = bot.watch();
        watch.queues_unknown = answer.as_ref().err().cloned();
        watch.queues = answer.ok();
    }
}
