//! The figures that `/metrics` exposes: each with what it is, and how it is made ready to be read by Prometheus.
//!
//! `docs/metrics.md` has a section for each. Whoever counts something new adds it here first: a test compares the three.

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Its name, prefix and unit included.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
    /// What it says.
    pub what: &'static str,
}

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Up, from each start of the process on.
    Counter,
    /// Up and down.
    Gauge,
    /// Many values, counted by size.
    Histogram,
}

impl Kind {
    /// Prometheus' word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Has everything that this process counts from now on kept for [`PrometheusHandle::render`]; once in a process.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)?;
    let handle = builder.install_recorder()?;
    for Measure { name, kind, what, .. } in MEASURES {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *what),
            Kind::Gauge => metrics::describe_gauge!(*name, *what),
            Kind::Histogram => metrics::describe_histogram!(*name, Unit::Seconds, *what),
        }
    }
    metrics::gauge!("mailtrail_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // There are none, which is not the same as not known.
    metrics::gauge!("mailtrail_smtp_sessions").increment(0.0);
    Ok(handle)
}

/// Ends of the sizes that times are counted by, in seconds: from a sync to a day.
const BUCKETS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
    1800.0, 7200.0, 28_800.0, 86_400.0,
];

const fn counter(name: &'static str, labels: &'static [&'static str], what: &'static str) -> Measure {
    Measure { name, kind: Kind::Counter, labels, what }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], what: &'static str) -> Measure {
    Measure { name, kind: Kind::Gauge, labels, what }
}

const fn histogram(name: &'static str, what: &'static str) -> Measure {
    Measure { name, kind: Kind::Histogram, labels: &[], what }
}

/// All of them, by name.
pub const MEASURES: &[Measure] = &[
    gauge("mailtrail_alarm", &["alarm", "subject"], "1 while an alarm is on"),
    counter(
        "mailtrail_alarm_bulletins_total",
        &["way", "outcome"],
        "What was told of alarms, by webhook and mail",
    ),
    gauge("mailtrail_breaker_state", &["upstream"], "0 mail is sent, 1 one mail tries, 2 nothing is sent"),
    gauge("mailtrail_build_info", &["version"], "1, for its label"),
    counter(
        "mailtrail_client_refusals_total",
        &["reason"],
        "Clients that were refused at a listener, by cause",
    ),
    histogram("mailtrail_commit_seconds", "Time to write a group of records and sync them"),
    gauge("mailtrail_dead_events", &[], "Reports that are genuine and cannot be understood"),
    gauge("mailtrail_disk_free_bytes", &[], "Room on the disk of the data directory"),
    histogram("mailtrail_event_lag_seconds", "Time from what a provider reports until it was kept here"),
    counter("mailtrail_events_total", &["upstream", "event"], "New events kept, by webhook and poll"),
    counter(
        "mailtrail_inbound_deliveries_total",
        &["target", "outcome"],
        "Attempts to deliver mail from outside",
    ),
    counter("mailtrail_inbound_total", &["upstream", "outcome"], "Mail from outside that providers brought"),
    counter("mailtrail_log_lines_lost_total", &[], "Log lines that nothing read in time"),
    gauge("mailtrail_orphan_events", &[], "Events that found no send so far"),
    gauge("mailtrail_queue_messages", &["state", "upstream"], "Mails that wait"),
    gauge("mailtrail_queue_oldest_seconds", &[], "Age of the oldest mail that waits, but for what is held"),
    counter(
        "mailtrail_recovered_events_total",
        &["upstream"],
        "Events that polls brought and no webhook did",
    ),
    counter(
        "mailtrail_relay_attempts_total",
        &["upstream", "outcome"],
        "Recipients of attempts that have ended",
    ),
    gauge("mailtrail_relay_connections", &["upstream", "state"], "Connections to upstreams"),
    histogram("mailtrail_relay_seconds", "Time that an attempt took at the upstream"),
    gauge("mailtrail_sink_backlog", &["sink"], "Facts that a sink was not told yet, as far as it has read"),
    gauge("mailtrail_sink_delayed", &["sink"], "Facts that a sink takes later, each alone"),
    counter("mailtrail_sink_deliveries_total", &["sink", "outcome"], "Facts handed to a sink"),
    counter("mailtrail_smtp_accepted_total", &["client"], "Mails that got a 250"),
    counter("mailtrail_smtp_lockouts_total", &[], "Users and addresses with too many wrong logins"),
    counter("mailtrail_smtp_logins_refused_total", &["reason"], "Logins that were refused"),
    counter("mailtrail_smtp_rejected_total", &["reason"], "Replies that refused something, by code"),
    gauge("mailtrail_smtp_sessions", &[], "Clients that are connected"),
    gauge("mailtrail_store_bytes", &["part"], "Bytes of the journal's and the ledger's files"),
    counter(
        "mailtrail_suppression_sync_total",
        &["upstream", "act"],
        "Entries that a sync with a provider changed",
    ),
    gauge("mailtrail_suppressions", &[], "Addresses that get no mail"),
    gauge(
        "mailtrail_tls_certificate_expiry_timestamp_seconds",
        &["file"],
        "When a certificate of the listeners ends",
    ),
    counter("mailtrail_webhook_requests_total", &["upstream", "outcome"], "Requests to /webhooks"),
];
