//! Logs: one line an event, pretty or JSON, on standard error; spans to an OpenTelemetry collector when one is named.
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{guard, trace::Spans};

/// How to log.
#[derive(Clone, Debug, Default)]
pub struct TelemetryOptions {
    /// Filter directives; `info` where absent.
    pub filter: Option<String>,
    /// One JSON object a line.
    pub json: bool,
    /// Where spans go (OTLP over HTTP); nowhere where absent.
    pub otlp_endpoint: Option<String>,
}

impl TelemetryOptions {
    /// From `LOTA_LOG`, `LOTA_LOG_FORMAT` and `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn from_variables(vars: &BTreeMap<String, String>) -> Self {
        Self {
            filter: vars.get("LOTA_LOG").cloned(),
            json: vars.get("LOTA_LOG_FORMAT").is_some_and(|f| f == "json"),
            otlp_endpoint: vars.get("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|e| !e.is_empty()).cloned(),
        }
    }
}

/// Sends the last spans when it is dropped.
#[derive(Debug)]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl TelemetryGuard {
    /// Where spans begin.
    pub(crate) fn spans(&self) -> Spans {
        self.0.as_ref().map(|provider| Spans::new(provider.tracer("lotabots"))).unwrap_or_default()
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            let _ = provider.shutdown();
        }
    }
}

/// Starts logging; the first call of a process counts.
pub fn start(service: &str, options: &TelemetryOptions) -> anyhow::Result<TelemetryGuard> {
    // lapin prints whole messages when it warns of a return, and an error for each channel of a closed connection: a
    // message's content never belongs in a log, and the bus tells of its sessions itself.
    let directives = format!("{},lapin=off,sqlx=warn,hyper=warn,h2=warn", options.filter.as_deref().unwrap_or("info"));
    let filter = EnvFilter::try_new(&directives)
        .map_err(|e| anyhow::anyhow!("LOTA_LOG is no filter ({e}): expected such as info,bot_core=debug"))?;
    let format = tracing_subscriber::fmt::layer().with_writer(|| WithoutSecrets(io::stderr()));
    let format = if options.json { format.json().flatten_event(true).boxed() } else { format.with_ansi(false).boxed() };
    let provider = options.otlp_endpoint.as_deref().map(|e| provider(service, e)).transpose()?;
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
    Ok(TelemetryGuard(provider))
}

/// Writes lines of a log without the secrets of this process. The formatter hands over each event whole.
struct WithoutSecrets<W: Write>(W);

impl<W: Write> Write for WithoutSecrets<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(guard::clean(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Spans are sent in batches by a thread of its own, so the exporter's client is the blocking one.
fn provider(service: &str, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder().with_service_name(service.to_owned()).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
