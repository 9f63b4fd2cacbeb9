//! What systemd is told of the relay: sd_notify(3). Whoever was started without `NOTIFY_SOCKET` tells nobody.
//!
//! A restart by SIGUSR2 keeps the process id, so the successor speaks for the same unit.

use mailtrail_store::Store;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Clients can connect, under the configuration that counts now.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Another configuration is read, or room is made for a successor; [`ready`] ends it.
pub fn reloading(status: &str) {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` wants to know when.
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
        Err(_) => tell(&[NotifyState::Reloading, NotifyState::Status(status)]),
    }
}

/// What the relay is at; it goes on working.
pub fn tell_status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Signs of life, until it is dropped.
pub struct Signs(AbortHandle);

impl Signs {
    /// While a store is opened, or let go, which may take long: the runtime answers, and asks for more time.
    pub fn of_the_runtime() -> Self {
        let (more, every) = (MORE_TIME.as_micros() as u32, every().min(MORE_TIME / 3));
        Self::given(async move {
            loop {
                tell(&[NotifyState::ExtendTimeoutUsec(more), NotifyState::Watchdog]);
                sleep(every).await;
            }
        })
    }

    /// While the relay works: the runtime answers, the journal's thread passes a question on, and the ledger's thread
    /// answers it after a sync. A thread that has ended, a disk that hangs and a deadlock hold the signs back.
    pub fn of_the_store(store: Store) -> Self {
        let every = every();
        Self::given(async move {
            loop {
                match store.answers().await {
                    Ok(()) => tell(&[NotifyState::Watchdog]),
                    Err(error) => {
                        tracing::error!(%error, "the store does not answer; a restart opens it anew")
                    }
                }
                sleep(every).await;
            }
        })
    }

    fn given(signs: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(signs).abort_handle())
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Three signs come within the time after which systemd takes us for dead.
fn every() -> Duration {
    sd_notify::watchdog_enabled().map_or(UNWATCHED, |patience| patience / 3)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told how the relay does; is NOTIFY_SOCKET its socket?");
    }
}

/// How much longer a start or a stop may take from each sign on.
const MORE_TIME: Duration = Duration::from_secs(60);
/// Time between two looks at the store where nobody waits for signs: a store that does not answer is logged.
const UNWATCHED: Duration = Duration::from_secs(60);
