//! Asks the providers for what their webhooks did not bring.
//!
//! A cursor for each upstream says up to when everything is in. It never passes half an hour ago, because events appear
//! late; each poll begins a little before it and takes every page in at once: an event that is known changes nothing. So
//! a poll that breaks off, and a process that ends, cost requests and no event. Once a day the events of the day before
//! are compared as a whole.

mod decode;
mod poll;

use crate::alarms::{Alarms, Kind};
use crate::reconcile::poll::Poll;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{Account, Fault};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::provider::Provider;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How a provider is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollSettings {
    /// Time from one poll to the next. Default 10 min, 1 min to 1 day.
    pub interval: Duration,
    /// How far back the first poll begins, and any poll at most: what the provider's plan keeps. Default 3 days, 1 h to
    /// 30 days.
    pub lookback: Duration,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(600), lookback: Duration::from_secs(3 * 86_400) }
    }
}

/// One provider that is asked.
#[derive(Debug)]
pub struct PollSource {
    /// Whom.
    pub api: Account,
    /// Whose events they are.
    pub provider: Provider,
    /// How.
    pub settings: PollSettings,
}

/// What a reconciler works with.
pub struct Reconciler {
    /// Where events are kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where it is said that one cannot be asked.
    pub alarms: Alarms,
    /// Who is asked, each on its own.
    pub sources: Vec<PollSource>,
}

/// A poll broke off. What it took in before stays.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Api(#[from] Fault),
    /// A page may be whole when it is asked for again.
    #[error("upstream {0}: events: a page cannot be read: its brackets or quotes do not fit together")]
    Torn(String),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Reconciler {
    /// Polls until we stop.
    pub async fn run(self, stopping: CancellationToken) {
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
                        self.alarms.clear(Kind::Polls, upstream);
                    } else {
                        self.alarms.raise(Kind::Polls, upstream, SETTLED);
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
                        self.alarms.set(Kind::Polls, upstream, Some(text));
                    }
                    backoff_after(failures, every, &trouble)
                }
            };
        }
    }
}

/// How long to wait after so many failures in a row, where polls come `every` so often.
fn backoff_after(failures: u32, every: Duration, trouble: &PollError) -> Duration {
    let wish = match trouble {
        PollError::Api(fault) => fault.wait().unwrap_or_default().min(MAX_RETRY_AFTER),
        PollError::Torn(_) | PollError::Read(_) | PollError::Commit(_) => Duration::ZERO,
    };
    let grown = INITIAL_BACKOFF.min(every).saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    grown.min(MAX_BACKOFF).max(wish)
}

/// The first poll comes when whoever waits has come in, and a process that starts again and again asks little.
const INITIAL_DELAY: Duration = Duration::from_secs(5);
/// Pause after a failure; doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_secs(30);
/// Failures in a row from which on they are no accident.
const ALARM_AFTER_FAILURES: u32 = 3;
/// The alarm while pages are torn.
const SETTLED: &str = "pages of its events could not be read whole: what can be read of them was taken in, the rest is a \
                       dead letter; see `mailtrail events dead`";
const MAX_BACKOFF: Duration = Duration::from_secs(3600);
/// What a provider may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_respects_retry_after() {
        let busy = |wait| {
            let wait = Some(Duration::from_secs(wait));
            PollError::Api(Fault::Busy { upstream: "a".into(), what: "events", words: String::new(), wait })
        };
        let every = PollSettings::default().interval;
        let waits = [1, 2, 3, 8, u32::MAX].map(|failures| backoff_after(failures, every, &busy(0)).as_secs());
        assert_eq!(waits, [30, 60, 120, 3600, 3600]);
        assert_eq!(backoff_after(1, every, &busy(7200)).as_secs(), 7200);
        assert_eq!(backoff_after(1, every, &busy(u64::MAX)), MAX_RETRY_AFTER);
        assert_eq!(backoff_after(1, every, &PollError::Commit(CommitError::ReadOnly)), INITIAL_BACKOFF);
    }
}
