//! Peers, options, progress and errors of a synchronization.

use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{ApiError, ProviderApi};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::suppression::{Reason, SuppressionSettings};
use std::time::Duration;
use tokio::sync::Mutex;

pub struct SyncInner {
    pub store: Store,
    pub clock: Clock,
    pub settings: SuppressionSettings,
    pub peers: Vec<SyncPeer>,
}

/// Upstream whose provider has suppression lists.
pub struct SyncPeer {
    /// Client of the provider's API.
    pub api: ProviderApi,
    /// Whether the lists are synchronised periodically.
    pub automatic: bool,
    /// Lock held during a sync.
    pub sync_lock: Mutex<()>,
}

/// Options of a sync.
#[derive(Clone, Debug, Default)]
pub struct SyncOptions {
    /// Operator that requested it; empty for a periodic sync.
    pub operator: String,
    /// Reason given; may be empty.
    pub reason: String,
    /// Whether to report the changes without making them.
    pub dry_run: bool,
}

/// Progress of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncUpdate {
    /// Number of provider entries read so far.
    EntriesRead(u64),
    /// Number of unreadable entries, with the first one and the reason.
    EntriesUnreadable(u64, String),
    /// The provider accepts no more requests for this duration.
    RateLimited(Duration),
    /// A change that is made or, in a dry run, would be.
    Changed(SyncChange),
}

/// A change for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncChange {
    /// Address.
    pub address: String,
    /// Reason of the entry.
    pub reason: Reason,
    /// The change.
    pub action: SyncAction,
    /// Reason for which it was rejected, if it was.
    pub rejection: Option<String>,
}

/// Change for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncAction {
    /// Listed by the provider: added to our list.
    Imported,
    /// No longer listed by the provider: ended on our list.
    Expired,
    /// Added here by an operator: added to the provider's list.
    Exported,
    /// Removed here by an operator: removed from the provider's list.
    RemovedRemotely,
}

impl SyncAction {
    /// Returns the word used in tables, JSON and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imported => "taken-in",
            Self::Expired => "ended",
            Self::Exported => "added-there",
            Self::RemovedRemotely => "removed-there",
        }
    }
}

/// Error that interrupts a sync. Its changes so far stay, and the next sync continues from there.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// No provider API is configured.
    #[error(
        "upstream {0}: its provider has no lists that could be asked for: that needs provider = \"mailgun\" with domain, \
         or \"brevo\", and the account's api_key"
    )]
    NoProviderApi(String),
    /// Another sync of the upstream is in progress.
    #[error("upstream {0}: a sync is under way already; it is carried out to its end")]
    InProgress(String),
    /// The provider's lists exceed the supported size.
    #[error(
        "upstream {0}: the provider lists more than {MAX_REMOTE_ENTRIES} addresses, which are more than are compared"
    )]
    TooManyEntries(String),
    /// Error of the provider's API.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A task that reads the store panicked.
    #[error("the suppression list cannot be looked at: see the daemon's log")]
    TaskPanicked,
}

impl SyncPeer {
    /// Creates a peer for a provider's API.
    pub fn new(api: ProviderApi, automatic: bool) -> Self {
        Self { api, automatic, sync_lock: Mutex::default() }
    }
}

/// Maximum number of entries in a provider's lists; each takes about 100 bytes of memory during a sync.
pub const MAX_REMOTE_ENTRIES: usize = 2_000_000;
