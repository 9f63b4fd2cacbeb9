//! Looks after the mail without asking who looks after it: at the store's rows, not at the queue's memory.
//!
//! What it finds is an alarm, and nothing is repaired silently: a fault here is a fault of ours.

use crate::alarms::{Alarms, Kind};
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_store::{CheckReport, Inconsistency, ReadError, Store};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What an auditor works with.
pub struct Auditor {
    /// Where the mail is.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where trouble is reported.
    pub alarms: Alarms,
    /// The age at which mail expires; of several upstreams the longest.
    pub give_up_after: Duration,
}

impl Auditor {
    /// Looks every minute until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        let mut walk = Walk::default();
        self.count().await;
        while stopping.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if let Err(error) = self.round(&mut walk).await {
                tracing::error!(%error, "the mail cannot be audited; it is tried again");
            }
            self.count().await;
        }
    }

    /// Says how many reports of providers wait for somebody, and that there are new ones nobody understands.
    async fn count(&self) {
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
                let since = self.clock.now().saturating_sub(NEW);
                let newest = newest.first().filter(|report| report.id.timestamp() >= since);
                let text = newest.map(|report| {
                    format!(
                        "a report of {} came that cannot be understood; `mailtrail events dead` lists it",
                        report.upstream
                    )
                });
                self.alarms.set(Kind::Dead, "events", text);
            }
            Err(error) => tracing::error!(%error, "dead letters cannot be looked for; it is tried again"),
        }
    }

    async fn round(&self, walk: &mut Walk) -> Result<(), ReadError> {
        let (store, now, from) = (self.store.clone(), self.clock.now(), walk.from);
        let (accepted, begun) =
            (now.saturating_sub(self.give_up_after + GRACE), now.saturating_sub(LONGEST_ATTEMPT));
        let looked = tokio::task::spawn_blocking(move || {
            let audit = store.check_queue(accepted, begun)?;
            let (sends, next) = store.check_messages(from, SENDS)?;
            Ok::<_, ReadError>((audit, sends, next))
        });
        // A look that broke off is taken again.
        let Ok(looked) = looked.await else { return Ok(()) };
        let (audit, sends, next) = looked?;
        walk.found.extend(sends.inconsistencies);
        walk.from = next;
        self.tell("deadline", &audit.overdue, "past its deadline; `mailtrail queue show` tells why");
        self.tell("attempt", &audit.stuck, "an attempt on it does not end; a restart takes it up again");
        self.tell_of_strays(&audit, walk);
        Ok(())
    }

    fn tell(&self, subject: &str, found: &[TrackingId], what: &str) {
        match found.first() {
            None => self.alarms.clear(Kind::Overdue, subject),
            Some(first) => {
                let text = format!("mail is {what}; the first is {first}");
                self.alarms.raise(Kind::Overdue, subject, text);
            }
        }
    }

    /// Of the queue's strays each round knows all; of the others a whole walk does.
    fn tell_of_strays(&self, audit: &CheckReport, walk: &mut Walk) {
        let strays = audit.inconsistencies.iter().chain(&walk.found).chain(&walk.before);
        match strays.map(Inconsistency::id).next() {
            None => self.alarms.clear(Kind::Ledger, "rows"),
            Some(first) => {
                let text = format!(
                    "the ledger contradicts itself about a mail, the first is {first}; `mailtrail store rebuild` makes \
                     it anew from the journal"
                );
                self.alarms.raise(Kind::Ledger, "rows", text);
            }
        }
        if walk.from.is_none() {
            walk.before = std::mem::take(&mut walk.found);
        }
    }
}

/// How far the walk over all sends is.
#[derive(Default)]
struct Walk {
    from: Option<TrackingId>,
    found: Vec<Inconsistency>,
    /// What the walk before found.
    before: Vec<Inconsistency>,
}

const EVERY: Duration = Duration::from_secs(60);
/// How long a dead letter is new.
const NEW: Duration = Duration::from_secs(86_400);
/// How long a message may outlive its deadline: its last attempt may be under way.
const GRACE: Duration = Duration::from_secs(30 * 60);
/// An attempt that began so long ago has been forgotten: the last reply alone may take ten minutes.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30 * 60);
/// Sends that are looked at in a round: a million in three hours.
const SENDS: usize = 6000;
