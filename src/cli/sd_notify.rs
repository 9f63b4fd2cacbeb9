//! What systemd is told of the relay: sd_notify(3). Whoever was started without `NOTIFY_SOCKET` tells nobody.
//!
//! A restart by SIGUSR2 keeps the process id, so the successor speaks for the same unit.

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
        // `Type=notify-reload` wants to know when.
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
        Err(_) => notify(&[NotifyState::Reloading, NotifyState::Status(status)]),
    }
}

/// What the relay is at; it goes on working.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The end has begun.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Signs of life, until it is dropped.
pub struct Watchdog(AbortHandle);

impl Watchdog {
    /// While a store is opened, or let go, which may take long: the runtime answers, and asks for more time.
    pub fn for_startup() -> Self {
        let (more, every) = (EXTEND_TIMEOUT.as_micros() as u32, ping_interval().min(EXTEND_TIMEOUT / 3));
        Self::spawn(async move {
            loop {
                notify(&[NotifyState::ExtendTimeoutUsec(more), NotifyState::Watchdog]);
                sleep(every).await;
            }
        })
    }

    /// While the relay works: the runtime answers, the journal's thread passes a question on, and the ledger's thread
    /// answers it after a sync. A thread that has ended, a disk that hangs and a deadlock hold the signs back.
    pub fn for_store(store: Store) -> Self {
        let every = ping_interval();
        Self::spawn(async move {
            loop {
                match store.ping().await {
                    Ok(()) => notify(&[NotifyState::Watchdog]),
                    Err(error) => {
                        tracing::error!(%error, "the store does not answer; a restart opens it anew")
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

/// Three signs come within the time after which systemd takes us for dead.
fn ping_interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(STORE_CHECK_INTERVAL, |patience| patience / 3)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told how the relay does; is NOTIFY_SOCKET its socket?");
    }
}

/// How much longer a start or a stop may take from each sign on.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at the store where nobody waits for signs: a store that does not answer is logged.
const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
