use crate::webhook_client::Target;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// To whom nothing goes for a while, because there was no answer.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<HashMap<Target, Instant>>);

impl Quiet {
    pub(crate) fn begin(&self, target: &Target, pause: Duration) {
        // Longer than any clock counts is for ever.
        let now = Instant::now();
        let end = now.checked_add(pause).unwrap_or(now + FOR_EVER);
        self.all().insert(target.clone(), end);
    }

    pub(crate) fn lasts(&self, target: &Target) -> bool {
        self.end(target).is_some()
    }

    /// Returns when it is over, however often it is begun anew meanwhile.
    pub(crate) async fn ends(&self, target: &Target) {
        while let Some(end) = self.end(target) {
            tokio::time::sleep_until(end).await;
        }
    }

    fn end(&self, target: &Target) -> Option<Instant> {
        let mut all = self.all();
        all.retain(|_, end| *end > Instant::now());
        all.get(target).copied()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Target, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_each_targets_own_and_may_begin_anew() {
        let quiet = Quiet::default();
        let (one, other) = (Target::Brevo(1), Target::Brevo(2));
        quiet.begin(&one, Duration::from_secs(600));
        assert_eq!([quiet.lasts(&one), quiet.lasts(&other)], [true, false]);
        let began = Instant::now();
        quiet.ends(&other).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::join!(quiet.ends(&one), async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            quiet.begin(&one, Duration::from_secs(600));
        });
        assert_eq!(began.elapsed().as_secs(), 900);
        quiet.begin(&one, Duration::MAX);
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert!(quiet.lasts(&one));
    }
}
