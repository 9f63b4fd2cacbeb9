//! Polls the providers for events that their webhooks did not deliver.
//!
//! A cursor for each upstream marks the time up to which all events are recorded. It never advances beyond
//! half an hour ago, because events appear late. Each poll begins a little before the cursor and ingests
//! every page at once: a known event changes nothing. So an interrupted poll and a terminated process cost
//! requests but no event. Once a day the events of the previous day are compared as a whole.

mod decode;
mod poll;
mod source;

pub use source::{PollSettings, PollSource};

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::reconcile::poll::Poll;
use crate::reconcile::source::PollError;
use mailtrail_mail::Clock;
use mailtrail_store::Store;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Reconciles the store with the providers' events.
pub struct Reconciler {
    /// The store.
    pub store: Store,
    /// Clock.
    pub clock: Clock,
    /// Registry of active alarms, for failing polls.
    pub alarms: AlarmRegistry,
    /// Polled providers, each with its own task.
    pub sources: Vec<PollSource>,
}

impl Reconciler {
    /// Polls until shutdown.
    pub async fn run(&self, stopping: CancellationToken) {
        let all = self.sources.iter().map(|source| self.poll_loop(source));
        stopping.run_until_cancelled(futures_util::future::join_all(all)).await;
    }

    async fn poll_loop(&self, source: &PollSource) {
        let every = source.settings.interval;
        let (mut compared, mut failures, mut torn) = (None, 0, 0);
        let mut pause = INITIAL_DELAY.min(every);
        let upstream = source.api.upstream();
        loop {
            tokio::time::sleep(pause).await;
            let round = Poll {
                store: &self.store,
                now: self.clock.now(),
                source,
                settles: torn >= ALARM_AFTER_FAILURES,
            };
            pause = match round.run(&mut compared).await {
                Ok(is_whole) => {
                    failures = 0;
                    if is_whole {
                        torn = 0;
                        self.alarms.clear(AlarmKind::EventPolls, upstream);
                    } else {
                        self.alarms.raise(AlarmKind::EventPolls, upstream, SETTLED);
                    }
                    every
                }
                Err(trouble) => {
                    tracing::error!(
                        upstream,
                        error = %trouble,
                        "the provider's events cannot be asked for; nothing is lost, it is tried again"
                    );
                    failures += 1;
                    torn += u32::from(matches!(trouble, PollError::Torn(_)));
                    if failures >= ALARM_AFTER_FAILURES {
                        let text = format!("its events cannot be asked for: {trouble}");
                        self.alarms.set(AlarmKind::EventPolls, upstream, Some(text));
                    }
                    backoff_after(failures, every, &trouble)
                }
            };
        }
    }
}

/// Returns the delay after `failures` failures in a row, for a poll interval of `every`.
fn backoff_after(failures: u32, every: Duration, trouble: &PollError) -> Duration {
    let requested = match trouble {
        PollError::Api(fault) => fault.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER),
        PollError::Torn(_) | PollError::Read(_) | PollError::Commit(_) => Duration::ZERO,
    };
    let grown = INITIAL_BACKOFF.min(every).saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    grown.min(MAX_BACKOFF).max(requested)
}

/// Initial delay: lets queued work drain first and limits API calls during crash loops.
const INITIAL_DELAY: Duration = Duration::from_secs(5);
/// Delay after the first failure; doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_secs(30);
/// Number of failures in a row that raises the alarm.
const ALARM_AFTER_FAILURES: u32 = 3;
/// Alarm text while pages are torn.
const SETTLED: &str = "pages of its events could not be read whole: what can be read of them was taken in, the rest is a \
                       dead letter; see `mailtrail events dead`";
const MAX_BACKOFF: Duration = Duration::from_secs(3600);
/// Longest delay accepted from a provider's Retry-After.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_net::provider_api::ApiError;
    use mailtrail_store::CommitError;

    #[test]
    fn backoff_grows_and_respects_retry_after() {
        let busy = |wait| {
            let retry_after = Some(Duration::from_secs(wait));
            PollError::Api(ApiError::RateLimited {
                upstream: "a".into(),
                operation: "events",
                diagnostic: String::new(),
                retry_after,
            })
        };
        let every = PollSettings::default().interval;
        let waits = [1, 2, 3, 8, u32::MAX].map(|failures| backoff_after(failures, every, &busy(0)).as_secs());
        assert_eq!(waits, [30, 60, 120, 3600, 3600]);
        assert_eq!(backoff_after(1, every, &busy(7200)).as_secs(), 7200);
        assert_eq!(backoff_after(1, every, &busy(u64::MAX)), MAX_RETRY_AFTER);
        assert_eq!(backoff_after(1, every, &PollError::Commit(CommitError::ReadOnly)), INITIAL_BACKOFF);
    }
}
