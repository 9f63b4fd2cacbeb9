//! Our suppression list and the providers' own, brought together in both directions.
//!
//! - **Whom the provider lists** is evidence here, from source `provider`, unless what is known already keeps back as
//!   much. When the provider no longer lists somebody, what was known last from its list ends; what others said stays.
//! - **Whom an operator or a file of his added here**, against all mail and without an end, is added there, where the
//!   provider has a list for the reason and a call for it. Its lists know no lanes, so what is about bulk mail only
//!   stays here: the provider would keep back invoices.
//! - **Whom an operator removed here** is taken off there, one by one, if the provider's entry is older than that. A
//!   younger one is evidence of what happened since. One that does not say how old it is is taken off unless something else
//!   is known since the removal.
//!
//! What is done follows from the two lists as they are: a sync that breaks off is made good by the next one, and one
//! that finds nothing to do writes nothing. What ends is judged only when the provider's lists were read to their end, and each
//! entry in them: one that cannot be read may be anybody's.

mod plan;
mod run;

use crate::alarms::{Alarms, Kind};
use crate::suppression_sync::run::SyncRun;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{Account, Fault};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::suppression::{Reason, SuppressionSettings};
use mailtrail_trail::{OperatorAction, OperatorActionData};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// Whoever brings the lists together.
#[derive(Clone)]
pub struct SuppressionSync(Arc<SyncInner>);

struct SyncInner {
    store: Store,
    clock: Clock,
    settings: SuppressionSettings,
    peers: Vec<SyncPeer>,
}

/// An upstream whose provider has lists.
pub struct SyncPeer {
    /// Where they are.
    pub api: Account,
    /// Whether they are brought together without being asked.
    pub automatic: bool,
    /// Held while they are.
    pub sync_lock: Mutex<()>,
}

/// How a sync is wanted.
#[derive(Clone, Debug, Default)]
pub struct SyncOptions {
    /// Who asked; empty where nobody did.
    pub operator: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// What a sync is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncUpdate {
    /// So many of the provider's entries are read.
    EntriesRead(u64),
    /// So many of them cannot be: the first of these, and why.
    EntriesUnreadable(u64, String),
    /// The provider takes no more requests for so long.
    RateLimited(Duration),
    /// That is done or, where nothing is to be done, would be.
    Changed(SyncChange),
}

/// What is done about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncChange {
    /// The address.
    pub address: String,
    /// Why it is on a list.
    pub reason: Reason,
    /// What is done.
    pub action: SyncAction,
    /// Why it cannot be, where that is so.
    pub rejection: Option<String>,
}

/// What is done about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncAction {
    /// The provider lists it: it is put on our list.
    Imported,
    /// The provider lists it no longer: it is no longer on ours.
    Expired,
    /// An operator added it here: it is put on the provider's.
    Exported,
    /// An operator removed it here: it is taken off the provider's.
    RemovedRemotely,
}

impl SyncAction {
    /// The word for tables, JSON and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imported => "taken-in",
            Self::Expired => "ended",
            Self::Exported => "added-there",
            Self::RemovedRemotely => "removed-there",
        }
    }
}

/// A sync did not come to its end. What it did before stays, and the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Nobody to ask.
    #[error(
        "upstream {0}: its provider has no lists that could be asked for: that needs provider = \"mailgun\" with domain, \
         or \"brevo\", and the account's api_key"
    )]
    NoProviderApi(String),
    /// One at a time.
    #[error("upstream {0}: a sync is under way already; it is carried out to its end")]
    InProgress(String),
    /// More than anybody has.
    #[error(
        "upstream {0}: the provider lists more than {MAX_REMOTE_ENTRIES} addresses, which are more than are compared"
    )]
    TooManyEntries(String),
    /// The provider.
    #[error(transparent)]
    Api(#[from] Fault),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A look at the store broke.
    #[error("the suppression list cannot be looked at: see the daemon's log")]
    TaskPanicked,
}

impl SyncPeer {
    /// For an account.
    pub fn new(api: Account, automatic: bool) -> Self {
        Self { api, automatic, sync_lock: Mutex::default() }
    }
}

impl SuppressionSync {
    /// Brings the lists of `partners` together with ours, of which `settings` say what it means.
    pub fn new(store: Store, clock: Clock, settings: SuppressionSettings, peers: Vec<SyncPeer>) -> Self {
        Self(Arc::new(SyncInner { store, clock, settings, peers }))
    }

    /// The upstreams that can be asked.
    pub fn upstreams(&self) -> Vec<String> {
        self.0.peers.iter().map(|partner| partner.api.upstream().to_owned()).collect()
    }

    /// Whether the lists of an upstream are brought together without being asked; `None` where they cannot be at all.
    pub fn is_automatic(&self, upstream: &str) -> Option<bool> {
        let partner = self.0.peers.iter().find(|partner| partner.api.upstream() == upstream);
        partner.map(|partner| partner.automatic)
    }

    /// Brings the lists of an upstream together with ours; `steps` hears of it while somebody listens there.
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

    /// Does it for all that want it by themselves, again and again until we stop.
    pub async fn run(self, every: Option<Duration>, alarms: Alarms, stopping: CancellationToken) {
        let Some(every) = every else { return };
        let wanted = self.0.peers.iter().filter(|partner| partner.automatic);
        let all = wanted.map(|partner| self.schedule_loop(partner.api.upstream(), every, &alarms));
        stopping.run_until_cancelled(futures_util::future::join_all(all)).await;
    }

    async fn schedule_loop(&self, upstream: &str, every: Duration, alarms: &Alarms) {
        let mut pause = INITIAL_DELAY.min(every);
        loop {
            tokio::time::sleep(pause).await;
            pause = every;
            let (steps, mut heard) = mpsc::channel(UPDATE_CHANNEL_CAPACITY);
            let order = SyncOptions::default();
            let counted = async {
                let mut acts = 0_u64;
                while let Some(step) = heard.recv().await {
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
                    alarms.clear(Kind::Sync, upstream);
                    tracing::info!(
                        upstream,
                        acts,
                        "our suppression list and the provider's are brought together"
                    );
                }
                (Err(trouble), acts) => {
                    tracing::error!(
                        upstream,
                        acts,
                        error = %trouble,
                        "our suppression list and the provider's are not brought together; it is tried again"
                    );
                    // An operator does it, and hears how it ends.
                    if !matches!(trouble, SyncError::InProgress(_)) {
                        let text =
                            format!("its suppression lists are not brought together with ours: {trouble}");
                        alarms.set(Kind::Sync, upstream, Some(text));
                    }
                    pause = RETRY_INTERVAL.min(every);
                }
            }
        }
    }
}

/// Entries of a provider's lists; each takes about 100 bytes of memory during a sync.
const MAX_REMOTE_ENTRIES: usize = 2_000_000;
/// Steps that may wait for whoever listens.
const UPDATE_CHANNEL_CAPACITY: usize = 256;
/// The first sync waits until whoever waits has come in, and a process that starts again and again asks little.
const INITIAL_DELAY: Duration = Duration::from_secs(600);
/// Pause after one that did not come to its end.
const RETRY_INTERVAL: Duration = Duration::from_secs(3600);
