//! Two-way synchronisation of our suppression list with the providers' lists.
//!
//! - **Listed by the provider**: becomes evidence here, from source `provider`, unless existing evidence
//!   already suppresses as much. When the provider no longer lists an address, evidence last seen on its
//!   list ends; evidence of other sources stays.
//! - **Added here by an operator or an imported file**, for all mail and without an expiry: is added there,
//!   if the provider has a list for the reason and an API call for it. Its lists have no lanes, so an entry
//!   for bulk mail only stays here: the provider would withhold invoices.
//! - **Removed here by an operator**: is removed there, one by one, if the provider's entry is older than
//!   the removal. A younger entry is evidence of later events. An entry without a time is removed unless
//!   there is other evidence since the removal.
//!
//! The changes follow from the current state of both lists: the next sync repairs an interrupted one, and a
//! sync without differences writes nothing. Evidence is ended only if the provider's lists were read
//! completely, including each entry: an unreadable entry may belong to any address.

mod plan;
mod run;

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::suppression_sync::run::SyncRun;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{ApiError, ProviderApi};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::suppression::{Reason, SuppressionSettings};
use mailtrail_trail::{OperatorAction, OperatorActionData};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// Synchroniser of the lists. Clones share the state.
#[derive(Clone)]
pub struct SuppressionSync(Arc<SyncInner>);

struct SyncInner {
    store: Store,
    clock: Clock,
    settings: SuppressionSettings,
    peers: Vec<SyncPeer>,
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

impl SuppressionSync {
    /// Creates the synchronisation of `peers` with our list; `settings` define the meaning of our entries.
    pub fn new(store: Store, clock: Clock, settings: SuppressionSettings, peers: Vec<SyncPeer>) -> Self {
        Self(Arc::new(SyncInner { store, clock, settings, peers }))
    }

    /// Returns the upstreams that can be synchronised.
    pub fn upstreams(&self) -> Vec<String> {
        self.0.peers.iter().map(|partner| partner.api.upstream().to_owned()).collect()
    }

    /// Returns whether an upstream is synchronised periodically; `None` if it cannot be synchronised.
    pub fn is_automatic(&self, upstream: &str) -> Option<bool> {
        let partner = self.0.peers.iter().find(|partner| partner.api.upstream() == upstream);
        partner.map(|partner| partner.automatic)
    }

    /// Synchronises an upstream's lists with ours. Progress goes to `steps` while the receiver is open.
    pub async fn sync_upstream(
        &self,
        upstream: &str,
        options: &SyncOptions,
        updates: &mpsc::Sender<SyncUpdate>,
    ) -> Result<(), SyncError> {
        let partner = self.0.peers.iter().find(|partner| partner.api.upstream() == upstream);
        let partner = partner.ok_or_else(|| SyncError::NoProviderApi(upstream.to_owned()))?;
        let _busy = partner.sync_lock.try_lock().map_err(|_| SyncError::InProgress(upstream.to_owned()))?;
        let SyncInner { store, clock, settings, .. } = &*self.0;
        if !options.dry_run && !options.operator.is_empty() {
            let data = OperatorActionData::SuppressSync { upstream: upstream.to_owned() };
            let (operator, reason) = (options.operator.clone(), options.reason.clone());
            store.record_operator_action(OperatorAction { at: clock.now(), data, operator, reason }).await?;
        }
        SyncRun { store, clock: *clock, settings, api: &partner.api, options, updates }.run().await
    }

    /// Synchronises all automatic upstreams periodically until shutdown.
    pub async fn run(self, every: Option<Duration>, alarms: AlarmRegistry, stopping: CancellationToken) {
        let Some(every) = every else { return };
        let wanted = self.0.peers.iter().filter(|partner| partner.automatic);
        let all = wanted.map(|partner| self.schedule_loop(partner.api.upstream(), every, &alarms));
        stopping.run_until_cancelled(futures_util::future::join_all(all)).await;
    }

    async fn schedule_loop(&self, upstream: &str, every: Duration, alarms: &AlarmRegistry) {
        let mut pause = INITIAL_DELAY.min(every);
        loop {
            tokio::time::sleep(pause).await;
            pause = every;
            let (steps, mut received) = mpsc::channel(UPDATE_CHANNEL_CAPACITY);
            let order = SyncOptions::default();
            let counted = async {
                let mut acts = 0_u64;
                while let Some(step) = received.recv().await {
                    acts +=
                        u64::from(matches!(step, SyncUpdate::Changed(SyncChange { rejection: None, .. })));
                }
                acts
            };
            let synced = async {
                let synced = self.sync_upstream(upstream, &order, &steps).await;
                drop(steps);
                synced
            };
            match tokio::join!(synced, counted) {
                (Ok(()), acts) => {
                    alarms.clear(AlarmKind::SuppressionSync, upstream);
                    tracing::info!(upstream, acts, "synchronised suppression lists with the provider");
                }
                (Err(trouble), acts) => {
                    tracing::error!(
                        upstream,
                        acts,
                        error = %trouble,
                        "cannot synchronise suppression lists with the provider; retrying"
                    );
                    // An operator runs it and sees its result.
                    if !matches!(trouble, SyncError::InProgress(_)) {
                        let text =
                            format!("its suppression lists are not brought together with ours: {trouble}");
                        alarms.set(AlarmKind::SuppressionSync, upstream, Some(text));
                    }
                    pause = RETRY_INTERVAL.min(every);
                }
            }
        }
    }
}

/// Maximum number of entries in a provider's lists; each takes about 100 bytes of memory during a sync.
const MAX_REMOTE_ENTRIES: usize = 2_000_000;
/// Capacity of the progress channel.
const UPDATE_CHANNEL_CAPACITY: usize = 256;
/// Initial delay: lets queued work drain first and limits API calls during crash loops.
const INITIAL_DELAY: Duration = Duration::from_secs(600);
/// Delay after an incomplete sync.
const RETRY_INTERVAL: Duration = Duration::from_secs(3600);
