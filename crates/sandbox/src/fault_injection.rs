use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Faults of webhooks and of the API. Default: none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultInjection {
    /// Share of webhooks that are never posted, 0.0 to 1.0.
    pub lose: f64,
    /// Seconds by which each webhook is posted later; the pace does not scale them.
    pub delay: u32,
    /// While set, no webhook is posted; what waited is when it no longer is.
    pub hold: bool,
    /// Seconds, by the sandbox's clock, by which every second event appears later in the API of events than it happened.
    pub late: u32,
    /// Requests of a minute (at Brevo: of an hour) that the API answers, those of messages aside; the others get 429. 300
    /// is what both providers grant.
    pub requests: u32,
    /// Whether Brevo's batches come as `{"items": [...]}`, and not as a list.
    pub wrap: bool,
}

impl Default for FaultInjection {
    fn default() -> Self {
        Self { lose: 0.0, delay: 0, hold: false, late: 0, requests: 300, wrap: false }
    }
}

/// Current faults, with a notification of changes.
#[derive(Debug)]
pub(crate) struct FaultInjector(watch::Sender<FaultInjection>);

impl FaultInjector {
    pub(crate) fn new(weather: FaultInjection) -> Self {
        Self(watch::Sender::new(weather))
    }

    pub(crate) fn current(&self) -> FaultInjection {
        *self.0.borrow()
    }

    pub(crate) fn set(&self, weather: FaultInjection) {
        self.0.send_replace(weather);
    }

    /// Returns when webhooks are not held back.
    pub(crate) async fn wait_released(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|weather| !weather.hold).await;
    }
}
