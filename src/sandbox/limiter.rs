use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts requests a minute.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<Option<(Instant, u32)>>);

impl Limiter {
    /// Counts one; whether it is within `most` of this minute.
    pub(super) fn admits(&self, most: u32) -> bool {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match minute.as_mut().filter(|(since, _)| now < *since + MINUTE) {
            Some((_, count)) => {
                *count = count.saturating_add(1);
                *count <= most
            }
            None => {
                *minute = Some((now, 1));
                most > 0
            }
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_minute_begins_anew() {
        let limiter = Limiter::default();
        assert_eq!([0; 3].map(|_| limiter.admits(2)), [true, true, false]);
        tokio::time::advance(MINUTE).await;
        assert_eq!([limiter.admits(2), limiter.admits(0)], [true, false]);
    }
}
