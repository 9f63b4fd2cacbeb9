//! One row: a fresh relay under one load.

use crate::far::LatencyProxy;
use crate::load::{self, LoadResult, Workload};
use crate::process::{MemoryUsage, ProcessTree};
use crate::relay::{Environment, Relay, RelayKind};
use crate::sink::{BenchSink, ReceivedCount};
use crate::webhooks::{self, WebhookLoad};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a row measures, in the order of [`Figures`]: key and unit, title, and digits behind the point.
pub const RELAY_COLUMNS: &[Column] = &[
    ("accepted_per_s", "accepted/s", 0),
    ("relayed_per_s", "relayed/s", 0),
    ("wait_p50_ms", "p50 ms", 2),
    ("wait_p99_ms", "p99 ms", 2),
    ("cpu_ms_per_message", "CPU ms", 2),
    ("rss_idle_mib", "RSS idle", 1),
    ("rss_peak_mib", "RSS peak", 1),
    ("pss_peak_mib", "PSS peak", 1),
];
/// The same, of mail that nobody takes.
pub const QUEUE_COLUMNS: &[Column] = &[
    ("accepted_per_s", "accepted/s", 0),
    ("rss_before_mib", "RSS before", 1),
    ("rss_added_mib", "RSS added", 1),
    ("rss_added_bytes_per_message", "bytes/message", 0),
    ("pss_added_mib", "PSS added", 1),
];

/// The same, of sessions that do nothing.
pub const IDLE_COLUMNS: &[Column] = &[
    ("pss_with_them_mib", "PSS with them", 1),
    ("rss_with_them_mib", "RSS with them", 1),
    ("pss_before_mib", "PSS before", 1),
    ("pss_added_kib_per_session", "KiB/session", 1),
];
/// The same, of webhooks.
pub const WEBHOOK_COLUMNS: &[Column] = &[
    ("events_per_s", "events/s", 0),
    ("wait_p50_ms", "p50 ms", 2),
    ("wait_p99_ms", "p99 ms", 2),
    ("cpu_ms_per_event", "CPU ms", 2),
    ("pss_peak_mib", "PSS peak", 1),
];

/// Where a row's work takes place, and what is asked of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Mail is accepted and relayed to a sink.
    Local,
    /// The same, with a disk whose syncs take 5 ms longer.
    SlowSync,
    /// The same as near, but the sink is 100 ms away and takes so many connections.
    Remote(usize),
    /// Mail is accepted while nobody listens upstream.
    Queue,
    /// Sessions are open and do nothing.
    Idle,
    /// A provider reports what became of mail of others.
    Webhooks,
    /// The same, of so many mails of ours.
    Burst(usize),
}

impl Scenario {
    /// What it measures.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Local | Self::SlowSync | Self::Remote(_) => RELAY_COLUMNS,
            Self::Queue => QUEUE_COLUMNS,
            Self::Idle => IDLE_COLUMNS,
            Self::Webhooks | Self::Burst(_) => WEBHOOK_COLUMNS,
        }
    }

    /// Whether that has an ear for it.
    pub fn supports(self, kind: RelayKind) -> bool {
        match kind {
            RelayKind::Mailtrail => true,
            RelayKind::Postfix => self.columns() != WEBHOOK_COLUMNS,
            RelayKind::Python => self.columns() == WEBHOOK_COLUMNS,
        }
    }

    /// Measures one relay.
    pub async fn measure(self, kind: RelayKind, work: Workload) -> io::Result<Figures> {
        match self {
            Self::Local | Self::SlowSync | Self::Remote(_) => self.measure_relaying(kind, work).await,
            Self::Queue => self.measure_queueing(kind, work).await,
            Self::Idle => self.measure_idling(kind, work).await,
            Self::Webhooks => self.measure_webhooks(kind, work, 0).await,
            Self::Burst(mails) => self.measure_webhooks(kind, work, mails).await,
        }
    }

    fn start_relay(self, kind: RelayKind, upstream: SocketAddr, work: Workload) -> io::Result<Relay> {
        let connections = if let Self::Remote(connections) = self { connections } else { MAX_CONNECTIONS };
        let slow_sync = self == Self::SlowSync;
        Relay::start(kind, upstream, Environment { sessions: work.sessions, connections, slow_sync })
    }

    async fn measure_relaying(self, kind: RelayKind, work: Workload) -> io::Result<Figures> {
        let mut sink = BenchSink::open().await?;
        let far = if matches!(self, Self::Remote(_)) {
            Some(LatencyProxy::open(sink.address).await?)
        } else {
            None
        };
        let upstream = far.as_ref().map_or(sink.address, |far| far.address);
        let relay = self.start_relay(kind, upstream, work)?;
        tokio::time::sleep(SETTLE_TIME).await;
        let idle = relay.process_tree().memory();
        let measured =
            measure_load(&relay, &mut sink, work).await.map_err(|error| with_relay_output(error, &relay))?;
        let LoadFigures { result, relayed, cpu_ms, peak_memory } = measured;
        let messages = work.messages as f64;
        Ok(vec![
            messages / result.duration.as_secs_f64(),
            messages / relayed.as_secs_f64(),
            percentile(&result.latencies, 0.50),
            percentile(&result.latencies, 0.99),
            cpu_ms as f64 / messages,
            to_mib(idle.resident),
            to_mib(peak_memory.resident),
            to_mib(peak_memory.proportional),
        ])
    }

    async fn measure_queueing(self, kind: RelayKind, work: Workload) -> io::Result<Figures> {
        let relay = self.start_relay(kind, closed_port()?, work)?;
        let (to, tls) = (relay.address(work.use_tls), relay.tls_connector()?);
        load::run_workload(to, tls.clone(), warm_up_workload(work))
            .await
            .map_err(|error| with_relay_output(error, &relay))?;
        tokio::time::sleep(SETTLE_TIME).await;
        let before = relay.process_tree().memory();
        let sent = tokio::time::timeout(MAX_DURATION, load::run_workload(to, tls, work)).await?;
        let sent = sent.map_err(|error| with_relay_output(error, &relay))?;
        tokio::time::sleep(SETTLE_TIME).await;
        let after = relay.process_tree().memory();
        let added = after.resident.saturating_sub(before.resident);
        Ok(vec![
            work.messages as f64 / sent.duration.as_secs_f64(),
            to_mib(before.resident),
            to_mib(added),
            added as f64 / work.messages as f64,
            to_mib(after.proportional.saturating_sub(before.proportional)),
        ])
    }

    async fn measure_idling(self, kind: RelayKind, work: Workload) -> io::Result<Figures> {
        let relay = self.start_relay(kind, closed_port()?, work)?;
        tokio::time::sleep(SETTLE_TIME).await;
        let before = relay.process_tree().memory();
        let (to, tls) = (relay.address(work.use_tls), relay.tls_connector()?);
        let opened = tokio::time::timeout(MAX_DURATION, load::open_sessions(to, &tls, work)).await?;
        let sessions = opened.map_err(|error| with_relay_output(error, &relay))?;
        tokio::time::sleep(SETTLE_TIME).await;
        let after = relay.process_tree().memory();
        let added = after.proportional.saturating_sub(before.proportional);
        Ok(vec![
            to_mib(after.proportional),
            to_mib(after.resident),
            to_mib(before.proportional),
            added as f64 / 1024.0 / sessions.len() as f64,
        ])
    }

    async fn measure_webhooks(self, kind: RelayKind, work: Workload, mails: usize) -> io::Result<Figures> {
        let mut sink = BenchSink::open().await?;
        let relay = self.start_relay(kind, sink.address, work)?;
        let (to, tree) = (relay.http_address(), relay.process_tree());
        let mut message_ids = Vec::new();
        if mails > 0 && kind == RelayKind::Mailtrail {
            message_ids = load::send_for_ids(relay.address(false), &relay.tls_connector()?, mails).await?;
            sink.wait_for_count(mails, MAX_DURATION).await?;
        }
        let warm_up = WebhookLoad { events: WARM_UP_MESSAGES, clients: 1, message_ids: Vec::new() };
        webhooks::post_webhooks(to, warm_up).await.map_err(|error| with_relay_output(error, &relay))?;
        let reports = WebhookLoad { events: work.messages, clients: work.sessions, message_ids };
        tokio::time::sleep(SETTLE_TIME).await;
        let watch = ResourceMonitor::start(tree);
        let posted = tokio::time::timeout(MAX_DURATION, webhooks::post_webhooks(to, reports)).await?;
        let sent = posted.map_err(|error| with_relay_output(error, &relay))?;
        tokio::time::sleep(SETTLE_TIME).await;
        let (cpu_ms, peak) = watch.stop().await?;
        Ok(vec![
            work.messages as f64 / sent.duration.as_secs_f64(),
            percentile(&sent.latencies, 0.50),
            percentile(&sent.latencies, 0.99),
            cpu_ms as f64 / work.messages as f64,
            to_mib(peak.proportional),
        ])
    }
}

/// Key, title, digits behind the point.
pub type Column = (&'static str, &'static str, usize);
/// One value for each column.
pub type Figures = Vec<f64>;

struct LoadFigures {
    result: LoadResult,
    /// From the first connect until the sink has taken the last message.
    relayed: Duration,
    cpu_ms: u64,
    peak_memory: MemoryUsage,
}

async fn measure_load(relay: &Relay, sink: &mut BenchSink, work: Workload) -> io::Result<LoadFigures> {
    let (to, tls, tree) = (relay.address(work.use_tls), relay.tls_connector()?, relay.process_tree());
    let warm_up = warm_up_workload(work);
    load::run_workload(to, tls.clone(), warm_up).await?;
    sink.wait_for_count(warm_up.messages, MAX_DURATION).await?;
    tokio::time::sleep(SETTLE_TIME).await;
    let (watch, begun) = (ResourceMonitor::start(tree), Instant::now());
    let result = tokio::time::timeout(MAX_DURATION, load::run_workload(to, tls, work)).await??;
    let expected = warm_up.messages + work.messages;
    let ReceivedCount { last_received_at, .. } = sink.wait_for_count(expected, MAX_DURATION).await?;
    // The relay has its books to close.
    tokio::time::sleep(SETTLE_TIME).await;
    let (cpu_ms, peak_memory) = watch.stop().await?;
    let doubled = sink.received().messages - expected;
    if doubled > 0 {
        return Err(io::Error::other(format!("{doubled} messages were relayed twice")));
    }
    Ok(LoadFigures { result, relayed: last_received_at - begun, cpu_ms, peak_memory })
}

/// Looks at what processes use until it is stopped or dropped.
struct ResourceMonitor {
    processes: ProcessTree,
    cpu_ms: u64,
    peak: JoinHandle<MemoryUsage>,
    stop: DropGuard,
}

impl ResourceMonitor {
    fn start(processes: ProcessTree) -> Self {
        let stop = CancellationToken::new();
        let peak = tokio::spawn(sample_peak(processes, stop.clone()));
        Self { processes, cpu_ms: processes.cpu_ms(), peak, stop: stop.drop_guard() }
    }

    /// The time on the processors in milliseconds, and the most memory.
    async fn stop(self) -> io::Result<(u64, MemoryUsage)> {
        let cpu_ms = self.processes.cpu_ms() - self.cpu_ms;
        drop(self.stop);
        Ok((cpu_ms, self.peak.await?))
    }
}

/// The most memory that was in use at any look.
async fn sample_peak(tree: ProcessTree, stop: CancellationToken) -> MemoryUsage {
    let mut peak = MemoryUsage::default();
    loop {
        let now = tree.memory();
        peak.resident = peak.resident.max(now.resident);
        peak.proportional = peak.proportional.max(now.proportional);
        tokio::select! {
            () = stop.cancelled() => return peak,
            () = tokio::time::sleep(SAMPLE_INTERVAL) => {}
        }
    }
}

/// Some messages that open what is opened on first use.
fn warm_up_workload(work: Workload) -> Workload {
    Workload { messages: WARM_UP_MESSAGES.min(work.messages), sessions: work.sessions.min(10), ..work }
}

fn with_relay_output(error: io::Error, relay: &Relay) -> io::Error {
    io::Error::other(format!("{error}; the relay wrote:\n{}", relay.stderr_tail()))
}

/// Where nobody listens.
fn closed_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The nearest rank, in milliseconds.
fn percentile(waits: &[Duration], share: f64) -> f64 {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    let rank = (share * waits.len() as f64).ceil() as usize;
    waits.get(rank.saturating_sub(1)).map_or(0.0, |wait| wait.as_secs_f64() * 1000.0)
}

fn to_mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

const WARM_UP_MESSAGES: usize = 20;
/// Connections that a relay may open to an upstream that is near.
const MAX_CONNECTIONS: usize = 50;
/// Longest time for sending, and again for relaying.
const MAX_DURATION: Duration = Duration::from_secs(240);
/// Between looks at the memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// Until a relay has done what it does behind an answer.
const SETTLE_TIME: Duration = Duration::from_millis(500);
