use crate::suppression_sync::plan::{Fate, Known, added, ended, list, reason, scope};
use crate::suppression_sync::{Act, Deed, ENTRIES, Order, Step, Trouble};
use futures_util::{StreamExt, TryStreamExt, stream};
use mailtrail_mail::{Clock, Mailbox, Timestamp, fold_address};
use mailtrail_net::provider_api::{Account, Entry, Fault, List, Unread};
use mailtrail_store::{Filed, ReadError, Store};
use mailtrail_trail::suppression::{Change, Listing, Mark, Reason, Scope, Settings};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One sync of one upstream.
pub(super) struct Round<'a> {
    pub(super) store: &'a Store,
    pub(super) clock: Clock,
    pub(super) settings: &'a Settings,
    pub(super) account: &'a Account,
    pub(super) order: &'a Order,
    pub(super) steps: &'a mpsc::Sender<Step>,
}

/// Whom the provider lists, by list and address (in lower case), and which mail it keeps back.
type Theirs = HashMap<(List, String), Scope>;

/// Somebody who is to be listed here, in the provider's words or until now.
type Taking = (Mailbox, Reason, Mark);

/// What a page of our own list asks for.
#[derive(Default)]
struct Ours {
    ended: Vec<Taking>,
    added: Vec<(List, Entry)>,
    /// Behind it, if there is more.
    next: Option<(String, String)>,
}

impl Round<'_> {
    pub(super) async fn run(&self) -> Result<(), Trouble> {
        let (theirs, removals, is_whole) = self.read_theirs().await?;
        let additions = self.read_ours(theirs, is_whole).await?;
        for (list, address) in removals {
            if !self.order.dry_run {
                self.rest().await;
                self.patiently(|| self.account.remove(list, &address)).await?;
            }
            self.done(address, reason(list), Deed::Removed).await;
        }
        if self.account.takes_entries() {
            for list in List::ALL {
                let entries = additions.iter().filter(|(of, _)| *of == list).map(|(_, entry)| entry.clone());
                self.add(list, entries.collect()).await?;
            }
        }
        Ok(())
    }

    /// Takes in whom the provider lists, page by page; and says all whom it lists, who is to be taken off there, and whether
    /// all entries could be read. None is taken off while the lists are read: the pages would shift.
    async fn read_theirs(&self) -> Result<(Theirs, Vec<(List, String)>, bool), Trouble> {
        let (mut theirs, mut removals, mut place) = (Theirs::new(), Vec::new(), None);
        let mut unread: Vec<Unread> = Vec::new();
        loop {
            let page = self.patiently(|| self.account.listed(place.as_ref())).await?;
            for (list, entry) in &page.entries {
                let key = (*list, fold_address(&entry.address));
                let known = theirs.entry(key).or_insert(Scope::Bulk);
                *known = scope(*list, entry).max(*known);
            }
            if theirs.len() > ENTRIES {
                return Err(Trouble::TooMany(self.account.upstream().to_owned()));
            }
            unread.extend(page.unread);
            let (taken, removed) = self.weigh(page.entries).await?;
            self.take_in(taken, Deed::TakenIn).await?;
            removals.extend(removed);
            self.tell(Step::Read(theirs.len() as u64)).await;
            place = page.next;
            if place.is_none() {
                self.tell_unread(&unread).await;
                return Ok((theirs, removals, unread.is_empty()));
            }
            self.rest().await;
        }
    }

    /// Says which entries are passed over.
    async fn tell_unread(&self, unread: &[Unread]) {
        let Some(first) = unread.first() else { return };
        let raw: String = String::from_utf8_lossy(&first.raw).chars().take(SHOWN).collect();
        let text = format!("{}: {}", first.reason, raw.replace(char::is_control, " "));
        tracing::warn!(
            upstream = self.account.upstream(),
            entries = unread.len(),
            first = text,
            "entries of the provider's suppression lists cannot be read; nothing is ended"
        );
        self.tell(Step::Unread(unread.len() as u64, text)).await;
    }

    /// What becomes of the entries of a page.
    async fn weigh(&self, page: Vec<(List, Entry)>) -> Result<(Vec<Taking>, Vec<(List, String)>), Trouble> {
        let (settings, now) = (self.settings.clone(), self.clock.now());
        let (store, upstream) = (self.store.clone(), self.account.upstream().to_owned());
        let weighed = tokio::task::spawn_blocking(move || {
            let (mut taken, mut removed) = (Vec::new(), Vec::new());
            for (list, entry) in page {
                // What is no address for us gets no mail of ours either.
                let Ok(address) = entry.address.parse::<Mailbox>() else { continue };
                let own = store.dossier(&address.folded(), &upstream)?.unwrap_or_default();
                let everywhere = store.dossier(&address.folded(), "")?.unwrap_or_default();
                match (Known { own: &own, everywhere: &everywhere }).weigh(list, &entry, &settings, now) {
                    Fate::Left => {}
                    Fate::TakenIn(mark) => taken.push((address, reason(list), mark)),
                    Fate::Removed => removed.push((list, entry.address)),
                }
            }
            Ok::<_, ReadError>((taken, removed))
        });
        Ok(weighed.await.map_err(|_| Trouble::Broken)??)
    }

    /// Ends what is no longer on the provider's lists, and says what is to be added there.
    async fn read_ours(&self, theirs: Theirs, is_whole: bool) -> Result<Vec<(List, Entry)>, Trouble> {
        let (theirs, mut additions, mut after) = (Arc::new(theirs), Vec::new(), None);
        loop {
            let (store, settings, theirs) = (self.store.clone(), self.settings.clone(), theirs.clone());
            let (upstream, now) = (self.account.upstream().to_owned(), self.clock.now());
            let read = tokio::task::spawn_blocking(move || {
                ours(&store, &upstream, &settings, &theirs, after.as_ref(), now)
            });
            let page = read.await.map_err(|_| Trouble::Broken)??;
            if is_whole {
                self.take_in(page.ended, Deed::Ended).await?;
            }
            additions.extend(page.added);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        // Who stands on our own list of the upstream and on the one of all is added once.
        additions.sort_by(|one, other| (one.0, &one.1.address).cmp(&(other.0, &other.1.address)));
        additions.dedup_by(|one, other| (one.0, &one.1.address) == (other.0, &other.1.address));
        Ok(additions)
    }

    /// Notes evidence on our list.
    async fn take_in(&self, takings: Vec<Taking>, deed: Deed) -> Result<(), Trouble> {
        let one = |(address, reason, mark): Taking| async move {
            let name = address.folded();
            if !self.order.dry_run {
                let listing = Listing {
                    address,
                    list: Some(self.account.upstream().to_owned()),
                    at: self.clock.now(),
                    operator: self.order.operator.clone(),
                    change: Change::Add { reason, marks: vec![mark] },
                };
                self.store.list(listing).await?;
            }
            self.done(name, reason, deed).await;
            Ok::<_, Trouble>(())
        };
        let taken = stream::iter(takings).map(one).buffered(AT_ONCE);
        taken.try_collect().await
    }

    /// Adds entries to a list of the provider's. It takes all of a request or none, so one that it refuses is halved until
    /// it is known whom it does not take.
    async fn add(&self, list: List, entries: Vec<Entry>) -> Result<(), Trouble> {
        let mut waiting: Vec<_> = entries.chunks(Account::MOST_ENTRIES).map(<[_]>::to_vec).collect();
        waiting.reverse();
        while let Some(mut some) = waiting.pop() {
            if !self.order.dry_run {
                self.rest().await;
                match self.patiently(|| self.account.add(list, &some)).await {
                    Ok(()) => {}
                    Err(Fault::Refused { status: 400, .. }) if some.len() > 1 => {
                        let half = some.split_off(some.len() / 2);
                        waiting.extend([half, some]);
                        continue;
                    }
                    Err(fault @ Fault::Refused { status: 400, .. }) => {
                        let address = some.pop().map(|entry| entry.address).unwrap_or_default();
                        let (reason, refused) = (reason(list), Some(fault.to_string()));
                        let act = Act { address, reason, deed: Deed::Added, refused };
                        self.tell(Step::Done(act)).await;
                        continue;
                    }
                    Err(fault) => return Err(fault.into()),
                }
            }
            for entry in some {
                self.done(entry.address, reason(list), Deed::Added).await;
            }
        }
        Ok(())
    }

    /// Asks again when the provider takes no more requests for a while.
    async fn patiently<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        for _ in 0..TRIES {
            match ask().await {
                Err(Fault::Busy { wait, .. }) => {
                    let wait = wait.unwrap_or(WAIT).min(LONGEST_WAIT);
                    self.tell(Step::Waiting(wait)).await;
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
        ask().await
    }

    async fn rest(&self) {
        tokio::time::sleep(self.account.pause()).await;
    }

    async fn done(&self, address: String, reason: Reason, deed: Deed) {
        if !self.order.dry_run {
            let upstream = self.account.upstream().to_owned();
            metrics::counter!("mailtrail_suppression_sync_total", "upstream" => upstream, "act" => deed.word())
                .increment(1);
        }
        self.tell(Step::Done(Act { address, reason, deed, refused: None })).await;
    }

    async fn tell(&self, step: Step) {
        // It goes on when nobody listens any more.
        let _ = self.steps.send(step).await;
    }
}

/// A page of our list.
fn ours(
    store: &Store,
    upstream: &str,
    settings: &Settings,
    theirs: &Theirs,
    after: Option<&(String, String)>,
    now: Timestamp,
) -> Result<Ours, ReadError> {
    let filed = store.dossiers(after.map(|(address, list)| (&**address, &**list)), PAGE)?;
    let last = filed.last().filter(|_| filed.len() == PAGE);
    let mut page =
        Ours { next: last.map(|last| (last.address.clone(), last.list.clone())), ..Ours::default() };
    let ours = filed.iter().filter(|one| one.list == upstream || one.list.is_empty());
    for one in ours.filter(|one| !one.is_erased()) {
        for (reason, live) in one.dossier.live() {
            let Some(list) = list(reason) else { continue };
            let there = theirs.get(&(list, one.address.clone()));
            if there.is_none() && one.list == upstream {
                page.ended.extend(ended(live, now).and_then(|mark| Some((address(one)?, reason, mark))));
            }
            if there != Some(&Scope::All) {
                page.added.extend(added(one, reason, live, settings, now));
            }
        }
    }
    Ok(page)
}

fn address(filed: &Filed) -> Option<Mailbox> {
    filed.address.parse().ok()
}

/// Dossiers that are looked at at a time.
const PAGE: usize = 2000;
/// Entries that are written at a time: they share syncs.
const AT_ONCE: usize = 1024;
/// How often in a row the provider may say that it is too much.
const TRIES: usize = 5;
/// How long it is left alone then, where it does not say.
const WAIT: Duration = Duration::from_secs(60);
/// Characters of an entry that are shown.
const SHOWN: usize = 200;
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
