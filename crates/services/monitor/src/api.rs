//! The HTTP API: read-only JSON about the fleet. No authentication yet, so it listens on the loopback interface unless
//! told otherwise, and then answers only requests that name the loopback interface: a web page must not read it by
//! pointing its own name there.
//!
//! Errors are `{"success": false, "error": {"message", "code", "timestamp"}}` with 400 `INVALID_FIELD`, 403
//! `PERMISSION_DENIED`, 404 `NOT_REGISTERED` or `NOT_FOUND`, 409 `AMBIGUOUS`, 429 `RATE_LIMITED` with `Retry-After`. Ids may be cut to six characters or more.
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Query, Request, State, rejection::QueryRejection},
    http::{self, HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bot_secrets::known;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    crowd::Crowd,
    fleet::{Bot, Status},
    health::Report,
    lookup::{self, Miss},
    metrics,
    tree::Tree,
    watch::Watch,
};

/// Entries of a list where the request does not say.
const LIMIT_DEFAULT: usize = 50;
/// Entries of a list at most.
const LIMIT_MAX: usize = 1000;

/// What every answer is made from.
#[derive(Clone)]
pub(crate) struct Api {
    /// What is known.
    pub(crate) watch: Arc<Mutex<Watch>>,
    /// The time.
    pub(crate) now: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    /// Whether requests may come under any name.
    pub(crate) allow_remote: bool,
    /// Who asks how often.
    pub(crate) crowd: Arc<Crowd>,
}

impl Api {
    fn look(&self) -> (MutexGuard<'_, Watch>, DateTime<Utc>) {
        (self.watch.lock().unwrap_or_else(PoisonError::into_inner), (self.now)())
    }

    fn refusal(&self, status: StatusCode, code: &'static str, message: String) -> Refusal {
        Refusal { status, code, message, at: (self.now)() }
    }

    fn missed(&self, what: &str, asked: &str, miss: Miss) -> Refusal {
        match miss {
            Miss::Unknown => {
                let least = lookup::PREFIX_CHARS_MIN;
                let message = format!(
                    "no {what} `{asked}` is known: expected an id or at least {least} characters of its beginning; older ones are forgotten"
                );
                self.refusal(StatusCode::NOT_FOUND, "NOT_FOUND", message)
            }
            Miss::Ambiguous(fits) => {
                let message = format!("`{asked}` fits several: give more of {}", fits.join(", "));
                self.refusal(StatusCode::CONFLICT, "AMBIGUOUS", message)
            }
        }
    }

    fn query<T: DeserializeOwned>(&self, query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
        query.map(|Query(q)| q).map_err(|e| self.refusal(StatusCode::BAD_REQUEST, "INVALID_FIELD", e.body_text()))
    }
}

/// An error as it is answered.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    at: DateTime<Utc>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({"message": self.message, "code": self.code, "timestamp": self.at});
        (self.status, Json(json!({"success": false, "error": error}))).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

/// Bots say nothing that holds a secret of theirs; other publishers may, and tokens are known by their shape.
fn answer<T: Serialize>(value: &T) -> Json<Value> {
    // What is answered has string keys and no failing Serialize.
    let mut document = serde_json::to_value(value).unwrap_or_default();
    known().redactor().clean_document(&mut document);
    Json(document)
}

/// All paths.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/health", get(health))
        .route("/api/v1/bots", get(bots))
        .route("/api/v1/bots/{name}", get(bot))
        .route("/api/v1/correlations", get(correlations))
        .route("/api/v1/correlations/{id}", get(correlation))
        .route("/api/v1/jobs", get(jobs))
        .route("/api/v1/jobs/{id}", get(job))
        .route("/api/v1/jobs/{id}/log", get(log))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/applications", get(applications))
        .route("/metrics", get(prometheus))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(api.clone(), only_loopback))
        .layer(middleware::from_fn_with_state(api.clone(), not_too_many))
        .with_state(api)
}

/// Refuses what an address asks beyond its requests of a minute.
async fn not_too_many(State(api): State<Api>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(client)| client.ip());
    let Err(wait) = api.crowd.admit(address) else {
        return next.run(request).await;
    };
    let (per_minute, wait_s) = (api.crowd.per_minute, wait.as_secs() + 1);
    let message = format!("more than {per_minute} requests a minute came from {address}: ask again in {wait_s} s");
    let refusal = api.refusal(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message);
    ([(header::RETRY_AFTER, wait_s.to_string())], refusal).into_response()
}

/// Refuses what comes under a foreign name while listening on the loopback interface. HTTP/2 names the host in the address.
async fn only_loopback(State(api): State<Api>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let named: Vec<&str> =
        headers.get(header::HOST).and_then(|h| h.to_str().ok()).into_iter().chain(authority).collect();
    let is_loopback = !named.is_empty() && named.iter().all(|host| is_loopback(host));
    let host = named.first().copied().unwrap_or_default();
    if api.allow_remote || is_loopback {
        return next.run(request).await;
    }
    let message = format!("expected a loopback address as host, got `{}`", crate::seen::cut(host, 80));
    api.refusal(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message).into_response()
}

/// Of `name[:port]`.
fn is_loopback(host: &str) -> bool {
    let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = port.map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

async fn nothing_here(State(api): State<Api>, request: Request) -> Refusal {
    let message = format!(
        "nothing is at {}: see /api/v1/health, bots, correlations, jobs, alerts, applications",
        request.uri().path()
    );
    api.refusal(StatusCode::NOT_FOUND, "NOT_FOUND", message)
}

/// 200 with a [`Report`] when healthy, else 503 with the same shape.
async fn health(State(api): State<Api>) -> Response {
    let (watch, now) = api.look();
    let report = Report::of(&watch, now);
    let status = if report.overall == Status::Healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, answer(&report)).into_response()
}

/// `{timestamp, bots: [{name, status, state, error, heartbeat, instances: [{alive, heard_at, age_ms, heartbeat}]}]}`
async fn bots(State(api): State<Api>) -> Json<Value> {
    let (watch, now) = api.look();
    answer(&json!({"timestamp": now, "bots": watch.fleet.bots(now)}))
}

/// One of [`bots`], by name (`BuildBot`) or slug (`build-bot`).
async fn bot(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Bot>, Refusal> {
    let (watch, now) = api.look();
    watch.fleet.find(&name, now).map(Json).ok_or_else(|| {
        let known: Vec<String> = watch.fleet.bots(now).into_iter().map(|b| b.name).collect();
        let message = format!("bot `{name}` has not been heard: expected one of {}", known.join(", "));
        api.refusal(StatusCode::NOT_FOUND, "NOT_REGISTERED", message)
    })
}

#[derive(Deserialize)]
struct List {
    limit: Option<usize>,
    #[serde(default, rename = "type")]
    event_type: String,
}

impl List {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }
}

/// `{correlations: [Overview], forgotten}`; `?type=repository.` keeps those that began so.
async fn correlations(State(api): State<Api>, list: Result<Query<List>, QueryRejection>) -> Answer {
    let list = api.query(list)?;
    let (watch, _) = api.look();
    let recent = watch.correlations.recent(&list.event_type, list.limit());
    Ok(answer(&json!({"correlations": recent, "forgotten": watch.correlations.forgotten()})))
}

/// A [`Tree`].
async fn correlation(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let (watch, _) = api.look();
    let (id, found) = watch.correlations.find(&id).map_err(|miss| api.missed("correlation", &id, miss))?;
    Ok(answer(&Tree::of(id, found)))
}

/// `{jobs: [Job], forgotten}`
async fn jobs(State(api): State<Api>, list: Result<Query<List>, QueryRejection>) -> Answer {
    let list = api.query(list)?;
    let (watch, _) = api.look();
    Ok(answer(&json!({"jobs": watch.jobs.recent(list.limit()), "forgotten": watch.jobs.forgotten()})))
}

/// A [`crate::jobs::Job`].
async fn job(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let (watch, _) = api.look();
    watch.jobs.find(&id).map(answer).map_err(|miss| api.missed("job", &id, miss))
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

/// `{job, lines: [{line, text}], next, more, dropped, ended}`: ask again with `after=<next>` until `ended`.
async fn log(State(api): State<Api>, Path(id): Path<String>, after: Result<Query<After>, QueryRejection>) -> Answer {
    let after = api.query(after)?.after;
    let (watch, now) = api.look();
    // Lines may come before the event that begins the job, and stay when the job is forgotten.
    let job = match (watch.jobs.find(&id), lookup::find(watch.logs.jobs(), &id)) {
        (Ok(job), _) => job.id.clone(),
        (Err(Miss::Unknown), Ok(job)) => job.to_owned(),
        (Err(miss @ Miss::Ambiguous(_)), _) | (Err(Miss::Unknown), Err(miss)) => {
            return Err(api.missed("job", &id, miss));
        }
    };
    let page = watch.logs.page(&job, after);
    let ended = !page.more && watch.jobs.find(&job).is_ok_and(|j| j.is_over(now));
    let mut body = answer(&page);
    if let Some(fields) = body.as_object_mut() {
        fields.insert("job".into(), job.into());
        fields.insert("ended".into(), ended.into());
    }
    Ok(body)
}

/// `{open: [Alert], resolved: [Alert]}`, worst and latest first.
async fn alerts(State(api): State<Api>) -> Json<Value> {
    let (watch, _) = api.look();
    answer(&json!({"open": watch.alerts.open(), "resolved": watch.alerts.resolved().collect::<Vec<_>>()}))
}

/// `{applications: [Application]}`
async fn applications(State(api): State<Api>) -> Json<Value> {
    let (watch, _) = api.look();
    answer(&json!({"applications": watch.applications.all().collect::<Vec<_>>()}))
}

/// The text format of Prometheus.
async fn prometheus(State(api): State<Api>) -> Response {
    let (watch, now) = api.look();
    match metrics::render(&watch, now) {
        Ok(text) => (
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            known().clean(&text).into_owned(),
        )
            .into_response(),
        Err(e) => api.refusal(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN_ERROR", e.to_string()).into_response(),
    }
}

/// 200 while heartbeats are heard.
async fn ready(State(api): State<Api>) -> Response {
    let (watch, now) = api.look();
    if watch.fleet.is_hearing(now) {
        return "ok\n".into_response();
    }
    api.refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "no heartbeat is heard yet".into()).into_response()
}
