use std::time::Duration;

/// How fast Mailgun's time runs here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeScale(f64);

impl TimeScale {
    /// A factor of 0 or more.
    pub(crate) fn new(factor: f64) -> Option<Self> {
        (factor.is_finite() && factor >= 0.0).then_some(Self(factor))
    }

    /// How long so many of Mailgun's seconds take; what no clock can count takes as long as one can.
    pub(crate) fn scale(self, seconds: u32) -> Duration {
        Duration::try_from_secs_f64(f64::from(seconds) * self.0).unwrap_or(Duration::MAX)
    }

    /// Lets so many of Mailgun's seconds pass.
    pub(crate) async fn sleep(self, seconds: u32) {
        let time = self.scale(seconds);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }
}
