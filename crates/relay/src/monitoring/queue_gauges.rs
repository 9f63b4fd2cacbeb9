//! Refreshes the gauges of the queue and the store.
//!
//! A pass reads queue keys, not messages, and uses at most 1 % of the time: a long queue makes the figures older, not
//! the relay slower. No decision depends on them.

use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::transport::UpstreamSelection;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::QueueKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Collector of the queue gauges.
#[expect(missing_docs, reason = "the names say all")]
#[derive(Clone)]
pub struct QueueGauges {
    pub store: Store,
    pub clock: Clock,
    /// Selection of the upstream that a queued message is counted for.
    pub routes: Arc<UpstreamSelection>,
    /// Names of all upstreams.
    pub upstreams: Vec<String>,
}

/// Number of messages by state and upstream; held messages have an empty upstream.
type QueueCounts = BTreeMap<(&'static str, String), u64>;

/// Counts of one pass.
#[derive(Debug, PartialEq, Eq)]
struct QueueSnapshot {
    counts: QueueCounts,
    oldest: Option<Timestamp>,
}

impl QueueGauges {
    /// Refreshes the gauges until shutdown.
    pub async fn run(self, stopping: CancellationToken) {
        let (gauges, mut known) = (Arc::new(self), QueueCounts::new());
        let mut pause = Duration::ZERO;
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let (counting, begun) = (gauges.clone(), Instant::now());
            match tokio::task::spawn_blocking(move || {
                counting.export_store_gauges();
                counting.collect_snapshot()
            })
            .await
            {
                Ok(Ok(found)) => gauges.export_snapshot(&found, &mut known),
                Ok(Err(error)) => tracing::error!(%error, "cannot count queued messages; retrying"),
                // The next pass repeats an interrupted count.
                Err(_) => {}
            }
            pause = MIN_INTERVAL.max(begun.elapsed() * 100);
        }
    }

    fn collect_snapshot(&self) -> Result<QueueSnapshot, ReadError> {
        let mut counts: QueueCounts = self
            .upstreams
            .iter()
            .flat_map(|name| UPSTREAM_STATES.map(|state| ((state, name.clone()), 0)))
            .collect();
        counts.insert((STATE_HELD, String::new()), 0);
        let mut oldest = None;
        for (waits, waiting) in self.store.queue_depths()? {
            *counts.entry(self.classify(&waits)).or_default() += waiting.messages;
            if waits != QueueKey::Held {
                oldest = oldest.into_iter().chain([waiting.oldest]).min();
            }
        }
        // A message keeps its queue row until its attempt has a recorded outcome.
        for begun in self.store.interrupted_attempts()? {
            let waits = self.store.queue_key(begun.id)?.map(|waits| self.classify(&waits));
            if let Some(count) = waits.and_then(|place| counts.get_mut(&place)) {
                *count = count.saturating_sub(1);
                *counts.entry((STATE_SENDING, begun.upstream)).or_default() += 1;
            }
        }
        Ok(QueueSnapshot { counts, oldest })
    }

    fn classify(&self, waits: &QueueKey) -> (&'static str, String) {
        match waits {
            QueueKey::Held => (STATE_HELD, String::new()),
            waits => (STATE_QUEUED, self.routes.preferred(waits).unwrap_or_default().to_owned()),
        }
    }

    fn export_store_gauges(&self) {
        match self.store.disk_usage() {
            Ok(size) => {
                for (part, bytes) in [("journal", size.journal_bytes), ("ledger", size.ledger_bytes)] {
                    metrics::gauge!("mailtrail_store_bytes", "part" => part).set(bytes as f64);
                }
                metrics::gauge!("mailtrail_disk_free_bytes").set(size.free_bytes as f64);
            }
            Err(error) => tracing::error!(%error, "cannot measure the store's files; retrying"),
        }
    }

    fn export_snapshot(&self, found: &QueueSnapshot, known: &mut QueueCounts) {
        // Series of removed upstreams are set to 0.
        known.values_mut().for_each(|count| *count = 0);
        known.extend(found.counts.clone());
        for ((state, upstream), count) in known.iter() {
            metrics::gauge!("mailtrail_queue_messages", "state" => *state, "upstream" => upstream.clone())
                .set(*count as f64);
        }
        let age = found.oldest.map_or(Duration::ZERO, |oldest| self.clock.now().duration_since(oldest));
        metrics::gauge!("mailtrail_queue_oldest_seconds").set(age.as_secs_f64());
    }
}

const STATE_QUEUED: &str = "queued";
const STATE_SENDING: &str = "sending";
const STATE_HELD: &str = "held";
const UPSTREAM_STATES: [&str; 2] = [STATE_QUEUED, STATE_SENDING];
const MIN_INTERVAL: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mailtrail_mail::TrackingId;
    use mailtrail_trail::{AcceptedMessage, AttemptStarted, Message};

    #[tokio::test]
    async fn counts_messages_by_state_and_upstream() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let mut ids = Vec::new();
        for second in 1..=5 {
            let id = TrackingId::new(Timestamp::from_secs(1_789_387_200 + second), 1);
            let accepted = AcceptedMessage {
                message: Message::new(id, "test"),
                recipients: vec!["a@example.net".parse().unwrap()],
            };
            store.put_message_applied(accepted, Bytes::from_static(b"A: b\r\n\r\n")).await.unwrap();
            ids.push(id);
        }
        store
            .record_attempt_start(AttemptStarted {
                id: ids[0],
                at: Clock::System.now(),
                upstream: "b".into(),
            })
            .await
            .unwrap();
        store.checkpoint().await;
        let upstreams = vec!["a".to_owned(), "b".to_owned()];
        let ways = UpstreamSelection::new(upstreams.iter().map(|name| (name.clone(), false)).collect(), &[]);
        let gauges =
            QueueGauges { store: store.clone(), clock: Clock::System, routes: Arc::new(ways), upstreams };
        let found = gauges.collect_snapshot().unwrap();
        let expected = [
            ((STATE_HELD, ""), 0),
            ((STATE_QUEUED, "a"), 4),
            ((STATE_QUEUED, "b"), 0),
            ((STATE_SENDING, "a"), 0),
            ((STATE_SENDING, "b"), 1),
        ];
        let counts: Vec<_> =
            found.counts.iter().map(|((state, name), count)| ((*state, &**name), *count)).collect();
        assert_eq!(counts, expected);
        assert_eq!(found.oldest, Some(ids[0].timestamp()));
        let size = store.disk_usage().unwrap();
        let written = std::fs::read_dir(directory.path().join("journal")).unwrap();
        let written: u64 = written.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(size.journal_bytes, written);
        assert!(size.ledger_bytes > 0 && size.free_bytes > 0);
    }
}
