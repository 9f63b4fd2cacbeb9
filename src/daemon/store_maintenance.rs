//! The store's upkeep while the relay runs, and its opening.

use crate::daemon::StartError;
use crate::daemon::storage_full::Refusing;
use crate::logging::Progress;
use mailtrail_mail::{Clock, ClockWatch};
use mailtrail_store::{OpenError, OpenReport, Retention, Store};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Opens the store; a process that is just leaving it is waited for, and so is a shortage.
pub async fn open_store(
    data_dir: &Path,
    clock: Clock,
    refusing: &mut Refusing<'_>,
) -> Result<(Store, OpenReport), StartError> {
    let mut left = LOCK_LOOKS;
    loop {
        let path = data_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let mut progress = Progress::new("replaying the journal");
            std::fs::create_dir_all(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
            Store::open_watched(&path, clock, &mut |step| progress.show(step.done, step.total))
        })
        .await;
        match opened {
            Ok(Err(OpenError::Locked(_))) if left > 0 => {
                left -= 1;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => refusing.wait(error.into()).await?,
            Err(panic) => {
                let source = io::Error::other(panic);
                return Err(OpenError::Io { path: data_dir.to_owned(), source }.into());
            }
        }
    }
}

/// Keeps the store small until we stop, and tells the metrics of it.
pub async fn keep(
    store: Store,
    retention: Retention,
    watch: ClockWatch,
    clock: Clock,
    stopping: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let (store, now) = (store.clone(), clock.now());
        if let Ok(listed) = store.listed() {
            metrics::gauge!("mailtrail_suppressions").set(listed as f64);
        }
        if !watch.is_steady() {
            // What seems old may not be.
            pause = BETWEEN_ROUNDS;
            continue;
        }
        pause = match tokio::task::spawn_blocking(move || store.maintain(&retention, now)).await {
            Ok(Ok(true)) => BETWEEN_STEPS,
            Ok(Ok(false)) => BETWEEN_ROUNDS,
            Ok(Err(error)) => {
                tracing::error!(%error, "the store could not be kept small; it is tried again");
                BETWEEN_ROUNDS
            }
            Err(panic) => {
                tracing::error!(%panic, "keeping the store small broke off; it is tried again");
                BETWEEN_ROUNDS
            }
        };
    }
}

/// Pause between two steps of upkeep, so that it takes no more than a part of the machine.
const BETWEEN_STEPS: Duration = Duration::from_millis(50);
const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(100);
const LOCK_LOOKS: u32 = 30;
