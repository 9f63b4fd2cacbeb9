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
use crate::suppression_sync::run::Round;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{Account, Fault};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::suppression::{Reason, Settings};
use mailtrail_trail::{Errand, Ordered};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// Whoever brings the lists together.
#[derive(Clone)]
pub struct Syncer(Arc<Parts>);

struct Parts {
    store: Store,
    clock: Clock,
    settings: Settings,
    partners: Vec<Partner>,
}

/// An upstream whose provider has lists.
pub struct Partner {
    /// Where they are.
    pub account: Account,
    /// Whether they are brought together without being asked.
    pub by_itself: bool,
    /// Held while they are.
    pub busy: Mutex<()>,
}

/// How a sync is wanted.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Who asked; empty where nobody did.
    pub operator: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// What a sync is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many of the provider's entries are read.
    Read(u64),
    /// So many of them cannot be: the first of these, and why.
    Unread(u64, String),
    /// The provider takes no more requests for so long.
    Waiting(Duration),
    /// That is done or, where nothing is to be done, would be.
    Done(Act),
}

/// What is done about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// The address.
    pub address: String,
    /// Why it is on a list.
    pub reason: Reason,
    /// What is done.
    pub deed: Deed,
    /// Why it cannot be, where that is so.
    pub refused: Option<String>,
}

/// What is done about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// The provider lists it: it is put on our list.
    TakenIn,
    /// The provider lists it no longer: it is no longer on ours.
    Ended,
    /// An operator added it here: it is put on the provider's.
    Added,
    /// An operator removed it here: it is taken off the provider's.
    Removed,
}

impl Deed {
    /// The word for tables, JSON and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::TakenIn => "taken-in",
            Self::Ended => "ended",
            Self::Added => "added-there",
            Self::Removed => "removed-there",
        }
    }
}

/// A sync did not come to its end. What it did before stays, and the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody to ask.
    #[error(
        "upstream {0}: its provider has no lists that could be asked for: that needs provider = \"mailgun\" with domain, \
         or \"brevo\", and the account's api_key"
    )]
    NoAccount(String),
    /// One at a time.
    #[error("upstream {0}: a sync is under way already; it is carried out to its end")]
    UnderWay(String),
    /// More than anybody has.
    #[error(
        "upstream {0}: the provider lists more than {ENTRIES} addresses, which are more than are compared"
    )]
    TooMany(String),
    /// The provider.
    #[error(transparent)]
    Account(#[from] Fault),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A look at the store broke.
    #[error("the suppression list cannot be looked at: see the daemon's log")]
    Broken,
}

impl Partner {
    /// For an account.
    pub fn new(account: Account, by_itself: bool) -> Self {
        Self { account, by_itself, busy: Mutex::default() }
    }
}

impl Syncer {
    /// Brings the lists of `partners` together with ours, of which `settings` say what it means.
    pub fn new(store: Store, clock: Clock, settings: Settings, partners: Vec<Partner>) -> Self {
        Self(Arc::new(Parts { store, clock, settings, partners }))
    }

    /// The upstreams that can be asked.
    pub fn upstreams(&self) -> Vec<String> {
        self.0.partners.iter().map(|partner| partner.account.upstream().to_owned()).collect()
    }

    /// Whether the lists of an upstream are brought together without being asked; `None` where they cannot be at all.
    pub fn is_by_itself(&self, upstream: &str) -> Option<bool> {
        let partner = self.0.partners.iter().find(|partner| partner.account.upstream() == upstream);
        partner.map(|partner| partner.by_itself)
    }

    /// Brings the lists of an upstream together with ours; `steps` hears of it while somebody listens there.
    pub async fn sync(
        &self,
        upstream: &str,
        order: &Order,
        steps: &mpsc::Sender<Step>,
    ) -> Result<(), Trouble> {
        let partner = self.0.partners.iter().find(|partner| partner.account.upstream() == upstream);
        let partner = partner.ok_or_else(|| Trouble::NoAccount(upstream.to_owned()))?;
        let _busy = partner.busy.try_lock().map_err(|_| Trouble::UnderWay(upstream.to_owned()))?;
        let Parts { store, clock, settings, .. } = &*self.0;
        if !order.dry_run && !order.operator.is_empty() {
            let errand = Errand::SuppressSync { upstream: upstream.to_owned() };
            let (operator, reason) = (order.operator.clone(), order.reason.clone());
            store.order(Ordered { at: clock.now(), errand, operator, reason }).await?;
        }
        Round { store, clock: *clock, settings, account: &partner.account, order, steps }.run().await
    }

    /// Does it for all that want it by themselves, again and again until we stop.
    pub async fn run(self, every: Option<Duration>, alarms: Alarms, stopping: CancellationToken) {
        let Some(every) = every else { return };
        let wanted = self.0.partners.iter().filter(|partner| partner.by_itself);
        let all = wanted.map(|partner| self.watch(partner.account.upstream(), every, &alarms));
        stopping.run_until_cancelled(futures_util::future::join_all(all)).await;
    }

    async fn watch(&self, upstream: &str, every: Duration, alarms: &Alarms) {
        let mut pause = FIRST.min(every);
        loop {
            tokio::time::sleep(pause).await;
            pause = every;
            let (steps, mut heard) = mpsc::channel(STEPS);
            let order = Order::default();
            let counted = async {
                let mut acts = 0_u64;
                while let Some(step) = heard.recv().await {
                    acts += u64::from(matches!(step, Step::Done(Act { refused: None, .. })));
                }
                acts
            };
            let synced = async {
                let synced = self.sync(upstream, &order, &steps).await;
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
                    if !matches!(trouble, Trouble::UnderWay(_)) {
                        let text =
                            format!("its suppression lists are not brought together with ours: {trouble}");
                        alarms.set(Kind::Sync, upstream, Some(text));
                    }
                    pause = AGAIN.min(every);
                }
            }
        }
    }
}

/// Entries of a provider's lists; each takes about 100 bytes of memory during a sync.
const ENTRIES: usize = 2_000_000;
/// Steps that may wait for whoever listens.
const STEPS: usize = 256;
/// The first sync waits until whoever waits has come in, and a process that starts again and again asks little.
const FIRST: Duration = Duration::from_secs(600);
/// Pause after one that did not come to its end.
const AGAIN: Duration = Duration::from_secs(3600);
