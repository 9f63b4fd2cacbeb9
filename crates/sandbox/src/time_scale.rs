use std::time::Duration;

/// How fast Mailgun's time runs here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeScale(f64);

impl TimeScale {
    /// A factor of 0 or more.
    pub(crate) fn new(factor: f64) -> Option<Self> {
        (factor.is_finite() && factor >= 0.0).then_some(Self(factor))
    }

    /// Scales the provider's seconds; durations out of range get the maximum.
    pub(crate) fn scale(self, seconds: u32) -> Duration {
        Duration::try_from_secs_f64(f64::from(seconds) * self.0).unwrap_or(Duration::MAX)
    }

    /// Sleeps for scaled seconds.
    pub(crate) async fn sleep(self, seconds: u32) {
        let time = self.scale(seconds);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }
}
