//! Looks after the mail without asking who looks after it: at the store's rows, not at the queue's memory.
//!
//! What it finds is an alarm, and nothing is repaired silently: a fault here is a fault of ours.

use crate::alarms::{AlarmKind, AlarmRegistry};
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_store::{CheckReport, Inconsistency, ReadError, Store};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What an auditor works with.
pub struct ConsistencyChecker {
    /// Where the mail is.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where trouble is reported.
    pub alarms: AlarmRegistry,
    /// The age at which mail expires; of several upstreams the longest.
    pub max_message_age: Duration,
}

impl ConsistencyChecker {
    /// Looks every minute until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        let mut walk = ScanPosition::default();
        self.check_dead_events().await;
        while stopping.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
            if let Err(error) = self.check_pass(&mut walk).await {
                tracing::error!(%error, "the mail cannot be audited; it is tried again");
            }
            self.check_dead_events().await;
        }
    }

    /// Says how many reports of providers wait for somebody, and that there are new ones nobody understands.
    async fn check_dead_events(&self) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.count_unmatched()).await {
            Ok(Ok((orphans, dead))) => {
                metrics::gauge!("mailtrail_orphan_events").set(orphans as f64);
                metrics::gauge!("mailtrail_dead_events").set(dead as f64);
            }
            Ok(Err(error)) => tracing::error!(%error, "the reports cannot be counted; it is tried again"),
            // A look that broke off is taken again.
            Err(_) => {}
        }
        match self.store.find_dead_letters(1, |_| true) {
            Ok(newest) => {
                let since = self.clock.now().saturating_sub(DEAD_LETTER_ALARM_WINDOW);
                let newest = newest.first().filter(|report| report.id.timestamp() >= since);
                let text = newest.map(|report| {
                    format!(
                        "a report of {} came that cannot be understood; `mailtrail events dead` lists it",
                        report.upstream
                    )
                });
                self.alarms.set(AlarmKind::DeadLetters, "events", text);
            }
            Err(error) => tracing::error!(%error, "dead letters cannot be looked for; it is tried again"),
        }
    }

    async fn check_pass(&self, walk: &mut ScanPosition) -> Result<(), ReadError> {
        let (store, now, from) = (self.store.clone(), self.clock.now(), walk.next);
        let (accepted, begun) = (
            now.saturating_sub(self.max_message_age + DEADLINE_GRACE),
            now.saturating_sub(MAX_ATTEMPT_DURATION),
        );
        let looked = tokio::task::spawn_blocking(move || {
            let audit = store.check_queue(accepted, begun)?;
            let (sends, next) = store.check_messages(from, MESSAGES_PER_PASS)?;
            Ok::<_, ReadError>((audit, sends, next))
        });
        // A look that broke off is taken again.
        let Ok(looked) = looked.await else { return Ok(()) };
        let (audit, sends, next) = looked?;
        walk.inconsistencies.extend(sends.inconsistencies);
        walk.next = next;
        self.alarm_on("deadline", &audit.overdue, "past its deadline; `mailtrail queue show` tells why");
        self.alarm_on("attempt", &audit.stuck, "an attempt on it does not end; a restart takes it up again");
        self.alarm_on_inconsistencies(&audit, walk);
        Ok(())
    }

    fn alarm_on(&self, subject: &str, found: &[TrackingId], what: &str) {
        match found.first() {
            None => self.alarms.clear(AlarmKind::Overdue, subject),
            Some(first) => {
                let text = format!("mail is {what}; the first is {first}");
                self.alarms.raise(AlarmKind::Overdue, subject, text);
            }
        }
    }

    /// Of the queue's strays each round knows all; of the others a whole walk does.
    fn alarm_on_inconsistencies(&self, audit: &CheckReport, walk: &mut ScanPosition) {
        let strays =
            audit.inconsistencies.iter().chain(&walk.inconsistencies).chain(&walk.previous_inconsistencies);
        match strays.map(Inconsistency::id).next() {
            None => self.alarms.clear(AlarmKind::Ledger, "rows"),
            Some(first) => {
                let text = format!(
                    "the ledger contradicts itself about a mail, the first is {first}; `mailtrail store rebuild` makes \
                     it anew from the journal"
                );
                self.alarms.raise(AlarmKind::Ledger, "rows", text);
            }
        }
        if walk.next.is_none() {
            walk.previous_inconsistencies = std::mem::take(&mut walk.inconsistencies);
        }
    }
}

/// How far the walk over all sends is.
#[derive(Default)]
struct ScanPosition {
    next: Option<TrackingId>,
    inconsistencies: Vec<Inconsistency>,
    /// What the walk before found.
    previous_inconsistencies: Vec<Inconsistency>,
}

const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a dead letter is new.
const DEAD_LETTER_ALARM_WINDOW: Duration = Duration::from_secs(86_400);
/// How long a message may outlive its deadline: its last attempt may be under way.
const DEADLINE_GRACE: Duration = Duration::from_secs(30 * 60);
/// An attempt that began so long ago has been forgotten: the last reply alone may take ten minutes.
const MAX_ATTEMPT_DURATION: Duration = Duration::from_secs(30 * 60);
/// Sends that are looked at in a round: a million in three hours.
const MESSAGES_PER_PASS: usize = 6000;
