//! The store of one data directory.

use crate::inner::StoreInner;
use crate::journal::LocalDisk;
use crate::open::OpenOptions;
use crate::open_error::OpenError;
use crate::replay::{OpenReport, ReplayProgress};
use mailtrail_mail::Clock;
use std::path::Path;
use std::sync::Arc;

/// Store of one data directory.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<StoreInner>);

impl Store {
    /// Opens the store of a data directory for reading and writing.
    pub fn open(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        Self::open_with_progress(data_dir, clock, &mut |_| {})
    }

    /// Opens the store like [`Self::open`] and reports the progress of the journal replay to `on_progress`.
    pub fn open_with_progress(
        data_dir: &Path,
        clock: Clock,
        on_progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(Self, OpenReport), OpenError> {
        let disk = Arc::<LocalDisk>::default();
        Self::open_with(OpenOptions { data_dir, clock, writable: true, disk, on_progress })
    }

    /// Opens the store for lookups only; the journal is not written.
    pub fn open_read_only(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        let (disk, on_progress) = (Arc::<LocalDisk>::default(), &mut |_| {});
        Self::open_with(OpenOptions { data_dir, clock, writable: false, disk, on_progress })
    }

    pub(crate) fn open_with(options: OpenOptions<'_>) -> Result<(Self, OpenReport), OpenError> {
        let (inner, report) = options.open()?;
        Ok((Self(inner), report))
    }
}
