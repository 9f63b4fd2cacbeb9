//! Opening of the store, and its maintenance while the relay runs.

use crate::daemon::start_error::StartError;
use crate::daemon::storage_full::Refusing;
use crate::logging::ProgressReporter;
use mailtrail_mail::{Clock, ClockWatch};
use mailtrail_store::{OpenError, OpenReport, Retention, Store};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Opens the store. Waits for a predecessor process that still has it, and until a shortage ends.
pub async fn open_store(
    data_dir: &Path,
    clock: Clock,
    refusing: &mut Refusing<'_>,
) -> Result<(Store, OpenReport), StartError> {
    let mut left = MAX_LOCK_ATTEMPTS;
    loop {
        let path = data_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let mut progress = ProgressReporter::new("replaying the journal");
            std::fs::create_dir_all(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
            Store::open_with_progress(&path, clock, &mut |step| progress.update(step.done, step.total))
        })
        .await;
        match opened {
            Ok(Err(OpenError::Locked(_))) if left > 0 => {
                left -= 1;
                tokio::time::sleep(OPEN_RETRY_INTERVAL).await;
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

/// Compacts and expires stored data until shutdown, and exports its figures as metrics.
pub async fn run_maintenance(
    store: Store,
    retention: Retention,
    watch: ClockWatch,
    clock: Clock,
    stopping: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let (store, now) = (store.clone(), clock.now());
        if let Ok(listed) = store.count_suppressed() {
            metrics::gauge!("mailtrail_suppressions").set(listed as f64);
        }
        if !watch.is_steady() {
            // With a wrong clock, data may only seem to be old.
            pause = PASS_INTERVAL;
            continue;
        }
        pause = match tokio::task::spawn_blocking(move || store.run_maintenance_step(&retention, now)).await {
            Ok(Ok(true)) => STEP_PAUSE,
            Ok(Ok(false)) => PASS_INTERVAL,
            Ok(Err(error)) => {
                tracing::error!(%error, "store maintenance failed; retrying");
                PASS_INTERVAL
            }
            Err(panic) => {
                tracing::error!(%panic, "store maintenance panicked; retrying");
                PASS_INTERVAL
            }
        };
    }
}

/// Pause between two maintenance steps, which limits their share of the machine.
const STEP_PAUSE: Duration = Duration::from_millis(50);
const PASS_INTERVAL: Duration = Duration::from_secs(60);
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(100);
const MAX_LOCK_ATTEMPTS: u32 = 30;
