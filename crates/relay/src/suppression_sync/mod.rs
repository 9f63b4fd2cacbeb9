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
mod sync;

pub use sync::{SyncAction, SyncChange, SyncError, SyncOptions, SyncPeer, SyncUpdate};

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::suppression_sync::run::SyncRun;
use crate::suppression_sync::sync::SyncInner;
use mailtrail_mail::Clock;
use mailtrail_store::Store;
use mailtrail_trail::suppression::SuppressionSettings;
use mailtrail_trail::{OperatorAction, OperatorActionData};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Synchroniser of the lists. Clones share the state.
#[derive(Clone)]
pub struct SuppressionSync(Arc<SyncInner>);

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

/// Capacity of the progress channel.
const UPDATE_CHANNEL_CAPACITY: usize = 256;
/// Initial delay: lets queued work drain first and limits API calls during crash loops.
const INITIAL_DELAY: Duration = Duration::from_secs(600);
/// Delay after an incomplete sync.
const RETRY_INTERVAL: Duration = Duration::from_secs(3600);
