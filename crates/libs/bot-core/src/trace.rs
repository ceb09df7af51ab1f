//! Spans for what a bot does with a message, after OpenTelemetry's conventions for messaging: one for each delivery that is
//! handled, each publish, and each run of a job. Where no endpoint is set nothing is recorded, and the trace context of a
//! message passes through as it came.
use std::collections::HashMap;

use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span as SdkSpan},
};

use crate::{
    bus::{TRACEPARENT, TRACESTATE},
    meta::Cause,
};

const SYSTEM: &str = "rabbitmq";

/// Begins spans, or does nothing. Clones share the exporter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Option<SdkTracer>);

/// A span that has begun. Dropped, it ends without a verdict.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub(crate) struct Span(Option<SdkSpan>);

/// A message as the spans about it name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traced<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    /// The queue it came through; none for what is published.
    pub(crate) queue: Option<&'a str>,
    pub(crate) id: Option<&'a str>,
    pub(crate) event_type: Option<&'a str>,
    pub(crate) body_bytes: usize,
}

impl Spans {
    pub(crate) fn new(tracer: SdkTracer) -> Self {
        Self(Some(tracer))
    }

    /// A delivery is handled. What follows from it belongs to the new span: `cause` names that from now on.
    pub(crate) fn handled(&self, message: Traced<'_>, cause: &mut Cause) -> Span {
        self.begin(SpanKind::Consumer, cause, |cause| message.attributes("process", cause))
    }

    /// A message goes out. `cause` is what its headers say, and names the new span from now on.
    pub(crate) fn published(&self, message: Traced<'_>, cause: &mut Cause) -> Span {
        self.begin(SpanKind::Producer, cause, |cause| message.attributes("send", cause))
    }

    /// A job runs. What it says belongs to the new span: `cause` names that from now on.
    pub(crate) fn job(&self, kind: &str, id: &str, attempt: u32, cause: &mut Cause) -> Span {
        self.begin(SpanKind::Internal, cause, |cause| {
            let attributes = vec![
                KeyValue::new("lota.job.kind", kind.to_owned()),
                KeyValue::new("lota.job.id", id.to_owned()),
                KeyValue::new("lota.job.attempt", i64::from(attempt)),
                KeyValue::new("messaging.message.conversation_id", cause.correlation_id.clone()),
            ];
            (format!("job {kind}"), attributes)
        })
    }

    fn begin(
        &self,
        kind: SpanKind,
        cause: &mut Cause,
        describe: impl FnOnce(&Cause) -> (String, Vec<KeyValue>),
    ) -> Span {
        let Some(tracer) = &self.0 else { return Span::default() };
        let (name, attributes) = describe(cause);
        let propagator = TraceContextPropagator::new();
        let parent = propagator.extract_with_context(&Context::new(), &carried(cause));
        let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        let span = tracer.build_with_context(builder, &parent);
        let mut headers = HashMap::new();
        let own = Context::new().with_remote_span_context(span.span_context().clone());
        propagator.inject_context(&own, &mut headers);
        cause.traceparent = headers.remove(TRACEPARENT);
        cause.tracestate = headers.remove(TRACESTATE).filter(|state| !state.is_empty());
        Span(Some(span))
    }
}

impl Span {
    /// Ends it. `failed`: what went wrong.
    pub(crate) fn end(mut self, failed: Option<&str>) {
        if let Some(span) = &mut self.0 {
            if let Some(why) = failed {
                span.set_status(Status::error(why.to_owned()));
            }
            span.end();
        }
    }

    /// How the delivery ended, in a word.
    pub(crate) fn outcome(&mut self, outcome: &str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("lota.outcome", outcome.to_owned()));
        }
    }
}

impl Traced<'_> {
    /// Name and attributes of a span that does `operation` with it.
    fn attributes(self, operation: &'static str, cause: &Cause) -> (String, Vec<KeyValue>) {
        let mut destination = format!("{}:{}", self.exchange, self.routing_key);
        if let Some(queue) = self.queue {
            destination = format!("{destination}:{queue}");
        }
        let name = format!("{operation} {destination}");
        let mut attributes = vec![
            KeyValue::new("messaging.system", SYSTEM),
            KeyValue::new("messaging.operation.type", operation),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.destination.name", destination),
            KeyValue::new("messaging.rabbitmq.destination.routing_key", self.routing_key.to_owned()),
            KeyValue::new("messaging.message.body.size", self.body_bytes as i64),
        ];
        let conversation = Some(cause.correlation_id.as_str()).filter(|id| !id.is_empty());
        let texts = [
            ("messaging.message.id", self.id),
            ("messaging.message.conversation_id", conversation),
            ("lota.message.type", self.event_type),
        ];
        attributes.extend(texts.into_iter().filter_map(|(key, text)| Some(KeyValue::new(key, text?.to_owned()))));
        (name, attributes)
    }
}

fn carried(cause: &Cause) -> HashMap<String, String> {
    let headers = [(TRACEPARENT, &cause.traceparent), (TRACESTATE, &cause.tracestate)];
    headers.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const MESSAGE: Traced<'_> = Traced {
        exchange: "lota.egress.ci",
        routing_key: "repository.pushed",
        queue: Some("toy-bot.work"),
        id: Some("m-1"),
        event_type: Some("repository.pushed"),
        body_bytes: 2,
    };

    fn cause(traceparent: &str) -> Cause {
        Cause { correlation_id: "c-1".into(), traceparent: Some(traceparent.into()), ..Cause::default() }
    }

    #[test]
    fn without_an_endpoint_a_trace_passes_through_as_it_came() {
        let mut passing = Cause { tracestate: Some("a=b".into()), ..cause("00-odd") };
        let before = passing.clone();
        Spans::default().handled(MESSAGE, &mut passing).end(None);
        Spans::default().job("play", "j-1", 1, &mut passing).end(None);
        assert_eq!(passing, before);
    }

    #[test]
    fn a_delivery_its_job_and_what_that_says_are_one_trace() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let spans = Spans::new(provider.tracer("test"));
        let mut cause = Cause { tracestate: Some("a=b".into()), ..cause(PARENT) };
        let delivery = spans.handled(MESSAGE, &mut cause);
        let job = spans.job("play", "j-1", 1, &mut cause);
        spans.published(Traced { queue: None, ..MESSAGE }, &mut cause).end(Some("returned"));
        job.end(None);
        delivery.end(None);
        let ended = exporter.get_finished_spans().unwrap();
        let [published, job, delivery] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!(delivery.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(job.parent_span_id, delivery.span_context.span_id());
        assert_eq!(published.parent_span_id, job.span_context.span_id());
        assert!(ended.iter().all(|s| s.span_context.trace_id().to_string() == "0af7651916cd43dd8448eb211c80319c"));
        assert_eq!((&delivery.span_kind, &published.span_kind), (&SpanKind::Consumer, &SpanKind::Producer));
        assert_eq!(delivery.name, "process lota.egress.ci:repository.pushed:toy-bot.work");
        assert_eq!(published.status, Status::error("returned"));
        let last = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", published.span_context.span_id());
        assert_eq!((cause.traceparent, cause.tracestate.as_deref()), (Some(last), Some("a=b")));
        let has = |key: &str, text: &str| delivery.attributes.contains(&KeyValue::new(key.to_owned(), text.to_owned()));
        assert!(has("messaging.system", "rabbitmq") && has("messaging.message.id", "m-1"));
        assert!(has("messaging.message.conversation_id", "c-1"));
    }
}
