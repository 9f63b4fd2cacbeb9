//! Descriptions of all metrics on `/metrics`, and the setup of the Prometheus recorder.
//!
//! `docs/metrics.md` has a section for each. A new metric is added here first: a test compares code, list and document.

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Name, kind, labels and help text of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub struct MetricDescriptor {
    /// Full name with prefix and unit.
    pub name: &'static str,
    pub kind: MetricKind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// Help text on `/metrics`.
    pub help: &'static str,
}

/// Kinds of metrics, as in Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub enum MetricKind {
    /// Only rises; 0 at each start of the process.
    Counter,
    Gauge,
    /// Values counted in buckets.
    Histogram,
}

impl MetricKind {
    /// Returns Prometheus' name of the kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Installs the global recorder; [`PrometheusHandle::render`] returns its values. May be called once per process.
pub fn install_recorder() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &DURATION_BUCKETS_SECONDS)?;
    let handle = builder.install_recorder()?;
    for MetricDescriptor { name, kind, help, .. } in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(*name, *help),
            MetricKind::Gauge => metrics::describe_gauge!(*name, *help),
            MetricKind::Histogram => metrics::describe_histogram!(*name, Unit::Seconds, *help),
        }
    }
    metrics::gauge!("mailtrail_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // Creates the series, because 0 sessions differ from an unknown number.
    metrics::gauge!("mailtrail_smtp_sessions").increment(0.0);
    Ok(handle)
}

/// Upper bounds of the histogram buckets in seconds, from the time of an fsync to a day.
const DURATION_BUCKETS_SECONDS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
    1800.0, 7200.0, 28_800.0, 86_400.0,
];

const fn describe_counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> MetricDescriptor {
    MetricDescriptor { name, kind: MetricKind::Counter, labels, help }
}

const fn describe_gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> MetricDescriptor {
    MetricDescriptor { name, kind: MetricKind::Gauge, labels, help }
}

const fn describe_histogram(name: &'static str, help: &'static str) -> MetricDescriptor {
    MetricDescriptor { name, kind: MetricKind::Histogram, labels: &[], help }
}

/// All metrics, sorted by name.
pub const METRICS: &[MetricDescriptor] = &[
    describe_gauge("mailtrail_alarm", &["alarm", "subject"], "1 while an alarm is active"),
    describe_counter(
        "mailtrail_alarm_bulletins_total",
        &["way", "outcome"],
        "Alarm notifications by webhook and mail",
    ),
    describe_gauge(
        "mailtrail_breaker_state",
        &["upstream"],
        "Circuit breaker: 0 closed, 1 half-open, 2 open",
    ),
    describe_gauge("mailtrail_build_info", &["version"], "Always 1; the label has the version"),
    describe_counter(
        "mailtrail_client_refusals_total",
        &["reason"],
        "Clients refused at a listener, by cause",
    ),
    describe_histogram("mailtrail_commit_seconds", "Time to write and fsync a group of records"),
    describe_gauge("mailtrail_dead_events", &[], "Genuine events that cannot be decoded"),
    describe_gauge("mailtrail_disk_free_bytes", &[], "Free bytes on the disk of the data directory"),
    describe_histogram("mailtrail_event_lag_seconds", "Time from a provider event until it was stored"),
    describe_counter(
        "mailtrail_events_total",
        &["upstream", "event"],
        "New provider events stored, by webhook and poll",
    ),
    describe_counter(
        "mailtrail_inbound_deliveries_total",
        &["target", "outcome"],
        "Attempts to deliver inbound messages",
    ),
    describe_counter(
        "mailtrail_inbound_total",
        &["upstream", "outcome"],
        "Inbound messages received from providers",
    ),
    describe_counter(
        "mailtrail_log_lines_lost_total",
        &[],
        "Log lines dropped because the reader was too slow",
    ),
    describe_gauge("mailtrail_orphan_events", &[], "Events without a matching message so far"),
    describe_gauge("mailtrail_queue_messages", &["state", "upstream"], "Queued messages"),
    describe_gauge(
        "mailtrail_queue_oldest_seconds",
        &[],
        "Age of the oldest queued message, held ones excluded",
    ),
    describe_counter(
        "mailtrail_recovered_events_total",
        &["upstream"],
        "Events received by poll and not by webhook",
    ),
    describe_counter(
        "mailtrail_relay_attempts_total",
        &["upstream", "outcome"],
        "Recipients of finished attempts",
    ),
    describe_gauge("mailtrail_relay_connections", &["upstream", "state"], "Connections to upstreams"),
    describe_histogram("mailtrail_relay_seconds", "Duration of an attempt at the upstream"),
    describe_gauge("mailtrail_sink_backlog", &["sink"], "Events read for a sink and not delivered yet"),
    describe_gauge("mailtrail_sink_delayed", &["sink"], "Events that a sink retries one by one"),
    describe_counter("mailtrail_sink_deliveries_total", &["sink", "outcome"], "Events delivered to a sink"),
    describe_counter("mailtrail_smtp_accepted_total", &["client"], "Messages accepted with 250"),
    describe_counter(
        "mailtrail_smtp_lockouts_total",
        &[],
        "Lockouts of a user and address after too many wrong logins",
    ),
    describe_counter("mailtrail_smtp_logins_refused_total", &["reason"], "Rejected logins"),
    describe_counter(
        "mailtrail_smtp_rejected_total",
        &["reason"],
        "Replies that rejected a command, by code",
    ),
    describe_gauge("mailtrail_smtp_sessions", &[], "Connected clients"),
    describe_gauge("mailtrail_store_bytes", &["part"], "Size of the files of journal and ledger"),
    describe_counter(
        "mailtrail_suppression_sync_total",
        &["upstream", "act"],
        "Suppressions changed by a sync with a provider",
    ),
    describe_gauge("mailtrail_suppressions", &[], "Suppressed addresses"),
    describe_gauge(
        "mailtrail_tls_certificate_expiry_timestamp_seconds",
        &["file"],
        "Expiry of a certificate of the listeners",
    ),
    describe_counter("mailtrail_webhook_requests_total", &["upstream", "outcome"], "Requests to /webhooks"),
];
