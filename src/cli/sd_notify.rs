//! Notifies systemd of the relay's state: sd_notify(3). Does nothing without `NOTIFY_SOCKET`.
//!
//! A restart by SIGUSR2 keeps the process id, so the successor notifies for the same unit.

use mailtrail_store::Store;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Clients can connect, under the configuration that counts now.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Another configuration is read, or room is made for a successor; [`ready`] ends it.
pub fn notify_reloading(status: &str) {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` requires the time of the reload (`MONOTONIC_USEC`).
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
        Err(_) => notify(&[NotifyState::Reloading, NotifyState::Status(status)]),
    }
}

/// Sets the status line; the state of the unit does not change.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

pub fn notify_stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Sends watchdog notifications until it is dropped.
pub struct Watchdog(AbortHandle);

impl Watchdog {
    /// For opening or closing a store, which may take long: sends the watchdog signal and extends the timeout.
    pub fn for_startup() -> Self {
        let (more, every) = (EXTEND_TIMEOUT.as_micros() as u32, ping_interval().min(EXTEND_TIMEOUT / 3));
        Self::spawn(async move {
            loop {
                notify(&[NotifyState::ExtendTimeoutUsec(more), NotifyState::Watchdog]);
                sleep(every).await;
            }
        })
    }

    /// For normal operation: the runtime responds, the journal thread forwards the request, and the ledger thread
    /// answers after a sync. A dead thread, a hanging disk or a deadlock stops the notifications.
    pub fn for_store(store: Store) -> Self {
        let every = ping_interval();
        Self::spawn(async move {
            loop {
                match store.ping().await {
                    Ok(()) => notify(&[NotifyState::Watchdog]),
                    Err(error) => {
                        tracing::error!(%error, "store does not respond; restart the relay")
                    }
                }
                sleep(every).await;
            }
        })
    }

    fn spawn(signs: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(signs).abort_handle())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A third of systemd's watchdog timeout.
fn ping_interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(STORE_CHECK_INTERVAL, |patience| patience / 3)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd; check NOTIFY_SOCKET");
    }
}

/// Extension of the start or stop timeout with each notification.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of the store check without a watchdog; a store that does not respond is logged.
const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
