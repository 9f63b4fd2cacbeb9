use crate::webhook_client::WebhookTarget;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Targets that are paused after a missing response.
#[derive(Debug, Default)]
pub(crate) struct Cooldowns(Mutex<HashMap<WebhookTarget, Instant>>);

impl Cooldowns {
    pub(crate) fn start(&self, target: &WebhookTarget, pause: Duration) {
        // Longer than any clock counts is for ever.
        let now = Instant::now();
        let end = now.checked_add(pause).unwrap_or(now + MAX_COOLDOWN);
        self.lock().insert(target.clone(), end);
    }

    pub(crate) fn is_active(&self, target: &WebhookTarget) -> bool {
        self.active_until(target).is_some()
    }

    /// Returns when the pause has ended, including later extensions.
    pub(crate) async fn wait(&self, target: &WebhookTarget) {
        while let Some(end) = self.active_until(target) {
            tokio::time::sleep_until(end).await;
        }
    }

    fn active_until(&self, target: &WebhookTarget) -> Option<Instant> {
        let mut all = self.lock();
        all.retain(|_, end| *end > Instant::now());
        all.get(target).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WebhookTarget, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MAX_COOLDOWN: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn cooldown_is_per_target_and_can_be_extended() {
        let quiet = Cooldowns::default();
        let (one, other) = (WebhookTarget::Brevo(1), WebhookTarget::Brevo(2));
        quiet.start(&one, Duration::from_secs(600));
        assert_eq!([quiet.is_active(&one), quiet.is_active(&other)], [true, false]);
        let began = Instant::now();
        quiet.wait(&other).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::join!(quiet.wait(&one), async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            quiet.start(&one, Duration::from_secs(600));
        });
        assert_eq!(began.elapsed().as_secs(), 900);
        quiet.start(&one, Duration::MAX);
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert!(quiet.is_active(&one));
    }
}
