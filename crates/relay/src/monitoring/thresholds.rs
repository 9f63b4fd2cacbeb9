//! Raises threshold alarms: missing provider events, signature failures, clock skew, queue depth, relay latency,
//! delivery, bounce and complaint rates, free disk space, file descriptors, errors of journal and ledger, certificate
//! expiry.

use crate::alarms::{AlarmKind, AlarmRegistry, MACHINE_SUBJECT};
use crate::monitoring::upstream_activity::{ActivityStats, UpstreamActivity};
use mailtrail_mail::{Clock, ClockStep, ClockWatch, Timestamp, descriptors};
use mailtrail_net::tls::Server;
use mailtrail_store::{LOW_BYTES, LOW_INODES, ReadError, Store};
use mailtrail_trail::{DeliveryStats, StatsGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Limits that raise an alarm when crossed.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Time without provider events although messages are relayed. Default: 30 min; `None` disables the alarm.
    pub event_silence: Option<Duration>,
    /// Queued messages. Default: 10,000.
    pub max_queued_messages: u64,
    /// 95th percentile of the time from our `250` to the upstream's. Default: 5 s.
    pub max_relay_latency: Duration,
    /// Age of the oldest message in the rates. Default: 24 h.
    pub rate_window: Duration,
    /// Minimum number of recipients for the rates of a sender domain. Default: 200.
    pub min_recipients: u64,
    /// Fraction of hard bounces. Default: 0.05.
    pub max_bounce_rate: f64,
    /// Fraction of complaints. Default: 0.001.
    pub max_complaint_rate: f64,
    /// Fraction of deliveries. Default: 0.95.
    pub min_delivery_rate: f64,
    /// Free bytes on the data directory's disk. Default: 1 GiB.
    pub min_free_disk_bytes: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            event_silence: Some(Duration::from_secs(30 * 60)),
            max_queued_messages: 10_000,
            max_relay_latency: Duration::from_secs(5),
            rate_window: Duration::from_secs(24 * 3600),
            min_recipients: 200,
            max_bounce_rate: 0.05,
            max_complaint_rate: 0.001,
            min_delivery_rate: 0.95,
            min_free_disk_bytes: LOW_BYTES,
        }
    }
}

/// Monitor that compares measurements with thresholds.
#[expect(missing_docs, reason = "the names say all")]
#[derive(Clone)]
pub struct ThresholdMonitor {
    pub store: Store,
    pub clock: Clock,
    pub alarms: AlarmRegistry,
    pub upstream_activity: UpstreamActivity,
    pub clock_watch: ClockWatch,
    /// Names of the upstreams, each with whether its provider sends events.
    pub upstreams: Vec<(String, bool)>,
    /// TLS servers, for the expiry of their certificates.
    pub tls_servers: Vec<Arc<Server>>,
    pub thresholds: Thresholds,
}

impl ThresholdMonitor {
    /// Checks all thresholds until shutdown.
    pub async fn run(self, stopping: CancellationToken) {
        tokio::join!(
            stopping.run_until_cancelled(self.watch_journal_errors()),
            stopping.run_until_cancelled(self.watch_ledger_errors()),
            stopping.run_until_cancelled(self.watch_descriptor_shortages()),
            stopping.run_until_cancelled(self.watch_clock_steps()),
            self.run_checks(stopping.clone())
        );
    }

    /// Raises an alarm as soon as a journal write fails.
    async fn watch_journal_errors(&self) {
        let Some(mut trouble) = self.store.write_errors() else { return };
        loop {
            let text = trouble.borrow_and_update().as_ref().map(|why| {
                format!("the journal cannot be written, and no mail is accepted (452): {why}; check the disk")
            });
            self.alarms.set(AlarmKind::Journal, "journal", text);
            if trouble.changed().await.is_err() {
                return;
            }
        }
    }

    /// Raises an alarm as soon as a ledger write fails. The ledger is closed while it cannot be written.
    async fn watch_ledger_errors(&self) {
        let Some(mut closed) = self.store.ledger_closed() else { return };
        loop {
            let text = closed.borrow_and_update().as_ref().map(|why| {
                format!(
                    "the ledger cannot be written, and no mail is accepted (452) or sent: {why}; free space or fix the \
                     cause, writing resumes by itself"
                )
            });
            self.alarms.set(AlarmKind::Ledger, "ledger", text);
            if closed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Raises an alarm within a second of a clock step.
    async fn watch_clock_steps(&self) {
        loop {
            self.set_alarm(
                AlarmKind::Clock,
                MACHINE_SUBJECT,
                self.clock_watch.recent_step().and_then(clock_step_text),
            );
            tokio::time::sleep(CLOCK_CHECK_INTERVAL).await;
        }
    }

    /// Raises an alarm as soon as a connection finds no file descriptor.
    async fn watch_descriptor_shortages(&self) {
        let mut shortages = descriptors::subscribe_shortages();
        while shortages.changed().await.is_ok() {
            self.alarms.raise_for(
                AlarmKind::Descriptors,
                PROCESS_SUBJECT,
                DESCRIPTORS_EXHAUSTED_TEXT,
                SHORTAGE_ALARM_DURATION,
            );
        }
    }

    fn check_descriptors(&self) {
        let Some((open, allowed)) = descriptors::open_and_allowed() else { return };
        if open >= allowed / 10 * 9 {
            let text = format!(
                "{open} of {allowed} file descriptors are in use; raise LimitNOFILE, or lower `connections` in [limits], \
                 [http] or [[upstream]]"
            );
            self.alarms.raise_for(AlarmKind::Descriptors, PROCESS_SUBJECT, &text, SHORTAGE_ALARM_DURATION);
        }
    }

    async fn run_checks(&self, stopping: CancellationToken) {
        let (mut domains, mut counted) = (BTreeSet::new(), None);
        self.check_disk_and_certificates().await;
        while stopping.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
            let now = self.clock.now();
            self.alarms.clear_expired();
            self.check_disk_and_certificates().await;
            for (upstream, reports) in &self.upstreams {
                self.check_upstream(upstream, *reports, now);
            }
            if counted.is_none_or(|counted| now.duration_since(counted) >= RATE_CHECK_INTERVAL) {
                counted = Some(now);
                if let Err(error) = self.check_rates(now, &mut domains).await {
                    tracing::error!(%error, "cannot count messages for rates; retrying");
                }
            }
        }
    }

    async fn check_disk_and_certificates(&self) {
        self.check_certificates(self.clock.now());
        self.check_descriptors();
        let store = self.store.clone();
        let text = match tokio::task::spawn_blocking(move || store.free_space()).await {
            Ok(Ok(free)) if free.check_available(0).is_err() => Some(
                "the data directory's disk is full, and no mail is accepted (452); free space".to_owned(),
            ),
            Ok(Ok(free)) if free.is_low(self.thresholds.min_free_disk_bytes) => Some(format!(
                "the data directory's disk is nearly full: less than {} MiB or {LOW_INODES} inodes are free; free space",
                self.thresholds.min_free_disk_bytes >> 20
            )),
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                return tracing::error!(%error, "cannot read free disk space; retrying");
            }
            // The next pass repeats an interrupted check.
            Err(_) => return,
        };
        self.set_alarm(AlarmKind::DiskSpace, "data_dir", text);
    }

    fn check_certificates(&self, now: Timestamp) {
        let ends = self.tls_servers.iter().flat_map(|server| server.expiries());
        let ends: BTreeMap<_, _> = ends.map(|(path, end)| (path.display().to_string(), end)).collect();
        self.alarms.clear_unknown_subjects(AlarmKind::Certificate, |file| ends.contains_key(file));
        for (file, end) in ends {
            let text = if end <= now {
                Some(format!(
                    "the certificate expired {end}, and clients that verify it do not connect; renew it"
                ))
            } else {
                (end < now.saturating_add(CERTIFICATE_WARNING))
                    .then(|| format!("the certificate expires {end}; renew it"))
            };
            self.set_alarm(AlarmKind::Certificate, &file, text);
        }
    }

    /// Raises or clears an alarm; unlike [`AlarmRegistry::set`], a changed text is logged.
    fn set_alarm(&self, kind: AlarmKind, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.alarms.raise(kind, subject, text),
            None => self.alarms.clear(kind, subject),
        }
    }

    fn check_upstream(&self, upstream: &str, reports: bool, now: Timestamp) {
        let stats = self.upstream_activity.snapshot(upstream);
        self.alarms.set(
            AlarmKind::MissingEvents,
            upstream,
            self.silence_text(&stats, now).filter(|_| reports),
        );
        self.alarms.set(AlarmKind::Signature, upstream, signature_failure_text(&stats));
        self.alarms.set(AlarmKind::Clock, upstream, clock_lag_text(&stats, now));
        let slow = stats
            .relay_latency_p95(now.saturating_sub(RECENT_WINDOW))
            .filter(|time| *time > self.thresholds.max_relay_latency);
        let slow = slow.map(|time| {
            format!(
                "one message in twenty waits {} s or longer for the upstream; see `mailtrail queue shape` and `mailtrail \
                 breaker status`",
                time.as_secs()
            )
        });
        self.alarms.set(AlarmKind::RelayLatency, upstream, slow);
    }

    fn silence_text(&self, stats: &ActivityStats, now: Timestamp) -> Option<String> {
        let (mails, since) = stats.relayed_without_event?;
        let quiet = now.duration_since(since);
        (quiet >= self.thresholds.event_silence?).then(|| {
            let cause = if stats.signature_failures.is_some() {
                "its webhooks arrive with invalid signatures"
            } else {
                "no webhook is registered, its URL does not reach this relay, or the provider holds the messages"
            };
            format!("{mails} messages were relayed since {since} without an event; likely {cause}")
        })
    }

    async fn check_rates(&self, now: Timestamp, known: &mut BTreeSet<String>) -> Result<(), ReadError> {
        let (store, since) = (self.store.clone(), now.saturating_sub(self.thresholds.rate_window));
        let most =
            usize::try_from(self.thresholds.max_queued_messages).unwrap_or(usize::MAX).saturating_add(1);
        let counted = tokio::task::spawn_blocking(move || {
            let (_, domains) = store.delivery_stats(since, now, StatsGroup::Domain)?;
            Ok::<_, ReadError>((store.queued_ids(most)?.len() as u64, domains))
        });
        // The next pass repeats an interrupted count.
        let Ok(counted) = counted.await else { return Ok(()) };
        let (queued, domains) = counted?;
        let full = (queued > self.thresholds.max_queued_messages).then(|| {
            format!(
                "more than {} messages are queued; see `mailtrail queue shape`",
                self.thresholds.max_queued_messages
            )
        });
        self.alarms.set(AlarmKind::Backlog, "queue", full);
        for gone in known.iter().filter(|domain| !domains.contains_key(*domain)) {
            self.evaluate_domain(gone, &DeliveryStats::default());
        }
        for (domain, tally) in &domains {
            self.evaluate_domain(domain, tally);
        }
        *known = domains.into_keys().collect();
        Ok(())
    }

    /// Evaluates the rates of a sender domain.
    fn evaluate_domain(&self, domain: &str, tally: &DeliveryStats) {
        let limits = &self.thresholds;
        let enough = |whole: u64| whole >= limits.min_recipients;
        let ended = tally.delivered + tally.bounced + tally.failed;
        let over = |rate: Option<f64>, limit: f64| rate.filter(|rate| *rate > limit);
        let bounces = over(tally.bounce_rate(), limits.max_bounce_rate).filter(|_| enough(tally.sent()));
        let complaints =
            over(tally.complaint_rate(), limits.max_complaint_rate).filter(|_| enough(tally.delivered));
        let deliveries =
            tally.delivery_rate().filter(|rate| *rate < limits.min_delivery_rate && enough(ended));
        let text = |what: &str, rate: f64, limit: f64, advice: &str| {
            format!("{what} are {:.2} %, the limit is {:.2} %; {advice}", rate * 100.0, limit * 100.0)
        };
        let bounces =
            bounces.map(|rate| text("hard bounces", rate, limits.max_bounce_rate, BOUNCE_RATE_ADVICE));
        let complaints = complaints
            .map(|rate| text("spam complaints", rate, limits.max_complaint_rate, COMPLAINT_RATE_ADVICE));
        let deliveries =
            deliveries.map(|rate| text("deliveries", rate, limits.min_delivery_rate, DELIVERY_RATE_ADVICE));
        self.alarms.set(AlarmKind::BounceRate, domain, bounces);
        self.alarms.set(AlarmKind::ComplaintRate, domain, complaints);
        self.alarms.set(AlarmKind::DeliveryRate, domain, deliveries);
    }
}

fn signature_failure_text(stats: &ActivityStats) -> Option<String> {
    let (count, since) = stats.signature_failures.filter(|(count, _)| *count >= MIN_SIGNATURE_FAILURES)?;
    Some(format!(
        "the last {count} webhooks, all since {since}, had invalid signatures; likely the key changed at the provider: \
         compare webhook_signing_key or webhook_token"
    ))
}

/// Returns the alarm text of a clock step; `None` for an old store, which is no fault.
fn clock_step_text(step: ClockStep) -> Option<String> {
    let what = match step {
        ClockStep::Forward(by) => format!("this machine's clock was set forward by {} s", by.as_secs()),
        ClockStep::Backward(by) => format!("this machine's clock was set back by {} s", by.as_secs()),
        ClockStep::StoredAhead(by) => {
            format!("the store has mail that was accepted {} s ahead of this machine's clock", by.as_secs())
        }
        ClockStep::StoredTooOld(_) => return None,
        ClockStep::VeryOld(age) => format!(
            "the newest mail in the store is {} days old: the relay was off, or this machine's clock is ahead",
            age.as_secs() / 86_400
        ),
    };
    Some(format!(
        "{what}; no mail expires and nothing is deleted during this alarm: correct the clock, preferably by NTP"
    ))
}

fn clock_lag_text(stats: &ActivityStats, now: Timestamp) -> Option<String> {
    let lag = stats
        .clock_lag(now.saturating_sub(RECENT_WINDOW))
        .filter(|lag| lag.unsigned_abs() > MAX_CLOCK_SKEW_MS)?;
    let seconds = lag.unsigned_abs() / 1000;
    Some(if lag > 0 {
        format!(
            "webhooks arrive {seconds} s after they were signed: this machine's clock is ahead, or they are delayed"
        )
    } else {
        format!(
            "webhooks are signed {seconds} s ahead of this machine's clock: correct it, preferably by NTP"
        )
    })
}

const CHECK_INTERVAL: Duration = Duration::from_secs(60);
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Subject of alarms about this process.
const PROCESS_SUBJECT: &str = "process";
const DESCRIPTORS_EXHAUSTED_TEXT: &str = "a connection found no file descriptor left; raise LimitNOFILE, or lower `connections` in [limits], \
                         [http] or [[upstream]]";
/// Time that a descriptor alarm lasts after the last shortage.
const SHORTAGE_ALARM_DURATION: Duration = Duration::from_secs(120);
/// Time before its expiry at which a certificate raises an alarm.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);
/// Interval of the rates; each check reads all messages of the window.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// Age limit of samples for latency and clock skew.
const RECENT_WINDOW: Duration = Duration::from_secs(900);
/// Consecutive failures that raise an alarm; fewer may be accidents.
const MIN_SIGNATURE_FAILURES: u64 = 5;
const MAX_CLOCK_SKEW_MS: u64 = 60_000;
const BOUNCE_RATE_ADVICE: &str =
    "providers block senders that continue; `mailtrail log --status bounced` shows the addresses to remove";
const COMPLAINT_RATE_ADVICE: &str =
    "`mailtrail log --status complained` shows the recipients, `mailtrail stats --by tag` the mailing";
const DELIVERY_RATE_ADVICE: &str = "`mailtrail log --status bounced` and `--status failed` show the reasons";
