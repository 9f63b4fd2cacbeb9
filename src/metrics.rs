//! The figures that `/metrics` exposes: each with what it is, and how it is made ready to be read by Prometheus.
//!
//! `docs/metrics.md` has a section for each. Whoever counts something new adds it here first: a test compares the three.

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricDescriptor {
    /// Its name, prefix and unit included.
    pub name: &'static str,
    /// How it moves.
    pub kind: MetricKind,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Up, from each start of the process on.
    Counter,
    /// Up and down.
    Gauge,
    /// Many values, counted by size.
    Histogram,
}

impl MetricKind {
    /// Prometheus' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Has everything that this process counts from now on kept for [`PrometheusHandle::render`]; once in a process.
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
    // There are none, which is not the same as not known.
    metrics::gauge!("mailtrail_smtp_sessions").increment(0.0);
    Ok(handle)
}

/// Ends of the sizes that times are counted by, in seconds: from a sync to a day.
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

/// All of them, by name.
pub const METRICS: &[MetricDescriptor] = &[
    describe_gauge("mailtrail_alarm", &["alarm", "subject"], "1 while an alarm is on"),
    describe_counter(
        "mailtrail_alarm_bulletins_total",
        &["way", "outcome"],
        "What was told of alarms, by webhook and mail",
    ),
    describe_gauge(
        "mailtrail_breaker_state",
        &["upstream"],
        "0 mail is sent, 1 one mail tries, 2 nothing is sent",
    ),
    describe_gauge("mailtrail_build_info", &["version"], "1, for its label"),
    describe_counter(
        "mailtrail_client_refusals_total",
        &["reason"],
        "Clients that were refused at a listener, by cause",
    ),
    describe_histogram("mailtrail_commit_seconds", "Time to write a group of records and sync them"),
    describe_gauge("mailtrail_dead_events", &[], "Reports that are genuine and cannot be understood"),
    describe_gauge("mailtrail_disk_free_bytes", &[], "Room on the disk of the data directory"),
    describe_histogram(
        "mailtrail_event_lag_seconds",
        "Time from what a provider reports until it was kept here",
    ),
    describe_counter(
        "mailtrail_events_total",
        &["upstream", "event"],
        "New events kept, by webhook and poll",
    ),
    describe_counter(
        "mailtrail_inbound_deliveries_total",
        &["target", "outcome"],
        "Attempts to deliver mail from outside",
    ),
    describe_counter(
        "mailtrail_inbound_total",
        &["upstream", "outcome"],
        "Mail from outside that providers brought",
    ),
    describe_counter("mailtrail_log_lines_lost_total", &[], "Log lines that nothing read in time"),
    describe_gauge("mailtrail_orphan_events", &[], "Events that found no send so far"),
    describe_gauge("mailtrail_queue_messages", &["state", "upstream"], "Mails that wait"),
    describe_gauge(
        "mailtrail_queue_oldest_seconds",
        &[],
        "Age of the oldest mail that waits, but for what is held",
    ),
    describe_counter(
        "mailtrail_recovered_events_total",
        &["upstream"],
        "Events that polls brought and no webhook did",
    ),
    describe_counter(
        "mailtrail_relay_attempts_total",
        &["upstream", "outcome"],
        "Recipients of attempts that have ended",
    ),
    describe_gauge("mailtrail_relay_connections", &["upstream", "state"], "Connections to upstreams"),
    describe_histogram("mailtrail_relay_seconds", "Time that an attempt took at the upstream"),
    describe_gauge(
        "mailtrail_sink_backlog",
        &["sink"],
        "Facts that a sink was not told yet, as far as it has read",
    ),
    describe_gauge("mailtrail_sink_delayed", &["sink"], "Facts that a sink takes later, each alone"),
    describe_counter("mailtrail_sink_deliveries_total", &["sink", "outcome"], "Facts handed to a sink"),
    describe_counter("mailtrail_smtp_accepted_total", &["client"], "Mails that got a 250"),
    describe_counter("mailtrail_smtp_lockouts_total", &[], "Users and addresses with too many wrong logins"),
    describe_counter("mailtrail_smtp_logins_refused_total", &["reason"], "Logins that were refused"),
    describe_counter("mailtrail_smtp_rejected_total", &["reason"], "Replies that refused something, by code"),
    describe_gauge("mailtrail_smtp_sessions", &[], "Clients that are connected"),
    describe_gauge("mailtrail_store_bytes", &["part"], "Bytes of the journal's and the ledger's files"),
    describe_counter(
        "mailtrail_suppression_sync_total",
        &["upstream", "act"],
        "Entries that a sync with a provider changed",
    ),
    describe_gauge("mailtrail_suppressions", &[], "Addresses that get no mail"),
    describe_gauge(
        "mailtrail_tls_certificate_expiry_timestamp_seconds",
        &["file"],
        "When a certificate of the listeners ends",
    ),
    describe_counter("mailtrail_webhook_requests_total", &["upstream", "outcome"], "Requests to /webhooks"),
];
