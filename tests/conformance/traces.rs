//! Spans: what a bot does with a message, sent to a collector of OpenTelemetry's.
use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;

use crate::stage::Stage;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Where spans are sent to, and the spans that came.
async fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let kept = spans.clone();
    let take = move |body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|r| r.scope_spans);
        kept.lock().unwrap().extend(scopes.flat_map(|s| s.spans));
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, spans)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| format!("{text}{b:02x}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_its_job_and_what_is_said_are_one_trace_at_the_collector() {
    let (address, spans) = collector().await;
    let mut stage = Stage::set_with(vec![("OTEL_EXPORTER_OTLP_ENDPOINT", address)]).await;
    stage.wish_in_trace("traced", "traced", "play:2", Some(PARENT)).await;
    let of = |kind: SpanKind, name: &str| {
        let spans = spans.lock().unwrap();
        let fits = |s: &&Span| s.kind() == kind && s.name.starts_with(name) && hex(&s.trace_id) == TRACE;
        spans.iter().find(fits).cloned()
    };
    let process = "process lota.egress.outside:repository.pushed:toy-bot.work";
    stage
        .until("the spans of delivery, job and publish", |_| {
            let handled = of(SpanKind::Consumer, process).is_some() && of(SpanKind::Internal, "job play").is_some();
            handled && of(SpanKind::Producer, "send lota.egress.toy-bot:build.failed").is_some()
        })
        .await;
    let delivery = of(SpanKind::Consumer, process).unwrap();
    let job = of(SpanKind::Internal, "job play").unwrap();
    let failed = of(SpanKind::Producer, "send lota.egress.toy-bot:build.failed").unwrap();
    assert_eq!(hex(&delivery.parent_span_id), "b7ad6b7169203331");
    assert_eq!((&job.parent_span_id, &failed.parent_span_id), (&delivery.span_id, &job.span_id));
    let about = |key: &str| {
        let value = delivery.attributes.iter().find(|a| a.key == key).and_then(|a| a.value.clone());
        format!("{value:?}")
    };
    assert!(about("messaging.system").contains("rabbitmq"));
    assert!(about("messaging.message.id").contains("traced"));
    assert!(about("messaging.message.conversation_id").contains("traced"));
    assert_eq!(stage.traces("build.failed"), [format!("00-{TRACE}-{}-01", hex(&failed.span_id))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_a_trace_passes_through_as_it_came() {
    let mut stage = Stage::set().await;
    stage.wish_in_trace("traced", "traced", "play:2", Some(PARENT)).await;
    stage.until("the end of the job", |s| !s.said_of("build.failed").is_empty()).await;
    assert_eq!(
        (stage.traces("build.started"), stage.traces("build.failed")),
        (vec![PARENT.into()], vec![PARENT.into()])
    );
}
