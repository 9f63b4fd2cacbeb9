//! Checks the ledger's invariants every minute, independently of the queue's in-memory state.
//!
//! An inconsistency raises an alarm and is not repaired silently, because it is a bug of mailtrail.

use crate::alarms::{AlarmKind, AlarmRegistry, DEAD_LETTER_ALARM_WINDOW};
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_store::{CheckReport, Inconsistency, ReadError, Store};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Periodic check of queue and messages in the ledger.
#[expect(missing_docs, reason = "the names say all")]
#[derive(Clone)]
pub struct ConsistencyChecker {
    pub store: Store,
    pub clock: Clock,
    pub alarms: AlarmRegistry,
    /// Age at which messages expire: the longest of all upstreams.
    pub max_message_age: Duration,
}

impl ConsistencyChecker {
    /// Checks every minute until shutdown.
    pub async fn run(self, stopping: CancellationToken) {
        let mut scan = ScanPosition::default();
        self.check_dead_events().await;
        while stopping.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
            if let Err(error) = self.check_pass(&mut scan).await {
                tracing::error!(%error, "cannot check consistency; retrying");
            }
            self.check_dead_events().await;
        }
    }

    /// Exports the numbers of orphans and undecodable events, and raises an alarm about new dead letters.
    async fn check_dead_events(&self) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.count_unmatched()).await {
            Ok(Ok((orphans, dead))) => {
                metrics::gauge!("mailtrail_orphan_events").set(orphans as f64);
                metrics::gauge!("mailtrail_dead_events").set(dead as f64);
            }
            Ok(Err(error)) => tracing::error!(%error, "cannot count unmatched events; retrying"),
            // The next pass repeats an interrupted count.
            Err(_) => {}
        }
        match self.store.find_dead_letters(1, |_| true) {
            Ok(newest) => {
                let since = self.clock.now().saturating_sub(DEAD_LETTER_ALARM_WINDOW);
                let newest = newest.first().filter(|event| event.id.timestamp() >= since);
                let text = newest.map(|event| {
                    format!(
                        "an event of {} cannot be decoded; `mailtrail events dead` lists it",
                        event.upstream
                    )
                });
                self.alarms.set(AlarmKind::DeadLetters, "events", text);
            }
            Err(error) => tracing::error!(%error, "cannot read dead letters; retrying"),
        }
    }

    async fn check_pass(&self, scan: &mut ScanPosition) -> Result<(), ReadError> {
        let (store, now, from) = (self.store.clone(), self.clock.now(), scan.next);
        let (accepted, begun) = (
            now.saturating_sub(self.max_message_age + DEADLINE_GRACE),
            now.saturating_sub(MAX_ATTEMPT_DURATION),
        );
        let checked = tokio::task::spawn_blocking(move || {
            let report = store.check_queue(accepted, begun)?;
            let (messages, next) = store.check_messages(from, MESSAGES_PER_PASS)?;
            Ok::<_, ReadError>((report, messages, next))
        });
        // The next pass repeats an interrupted check.
        let Ok(checked) = checked.await else { return Ok(()) };
        let (report, messages, next) = checked?;
        scan.inconsistencies.extend(messages.inconsistencies);
        scan.next = next;
        self.alarm_on(
            "deadline",
            &report.overdue,
            "past its deadline; `mailtrail queue show` has the details",
        );
        self.alarm_on("attempt", &report.stuck, "in an attempt that does not end; a restart resumes it");
        self.alarm_on_inconsistencies(&report, scan);
        Ok(())
    }

    fn alarm_on(&self, subject: &str, found: &[TrackingId], what: &str) {
        match found.first() {
            None => self.alarms.clear(AlarmKind::Overdue, subject),
            Some(first) => {
                let text = format!("message {first} is {what}");
                self.alarms.raise(AlarmKind::Overdue, subject, text);
            }
        }
    }

    /// Raises an alarm about inconsistencies. A pass checks the whole queue, but only a part of the messages: their
    /// findings last until the following scan has ended.
    fn alarm_on_inconsistencies(&self, report: &CheckReport, scan: &mut ScanPosition) {
        let found =
            report.inconsistencies.iter().chain(&scan.inconsistencies).chain(&scan.previous_inconsistencies);
        match found.map(Inconsistency::id).next() {
            None => self.alarms.clear(AlarmKind::Ledger, "rows"),
            Some(first) => {
                let text = format!(
                    "the ledger's rows about message {first} are inconsistent; `mailtrail store rebuild` rebuilds the \
                     ledger from the journal"
                );
                self.alarms.raise(AlarmKind::Ledger, "rows", text);
            }
        }
        if scan.next.is_none() {
            scan.previous_inconsistencies = std::mem::take(&mut scan.inconsistencies);
        }
    }
}

/// Progress of the scan over all messages.
#[derive(Default)]
struct ScanPosition {
    next: Option<TrackingId>,
    inconsistencies: Vec<Inconsistency>,
    /// Findings of the previous scan.
    previous_inconsistencies: Vec<Inconsistency>,
}

const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Time that a message may exceed its deadline, because its last attempt may be in progress.
const DEADLINE_GRACE: Duration = Duration::from_secs(30 * 60);
/// Age at which an attempt counts as stuck: the last reply alone may take 10 min.
const MAX_ATTEMPT_DURATION: Duration = Duration::from_secs(30 * 60);
/// Messages checked per pass: a million in three hours.
const MESSAGES_PER_PASS: usize = 6000;
