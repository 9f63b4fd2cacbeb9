use crate::suppression_sync::plan::{
    LocalEvidence, RemoteEntryAction, expire_evidence, export_entry, list_for, reason_of, scope_of,
};
use crate::suppression_sync::sync::{
    MAX_REMOTE_ENTRIES, SyncAction, SyncChange, SyncError, SyncOptions, SyncUpdate,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use mailtrail_mail::{Clock, Mailbox, Timestamp, fold_address};
use mailtrail_net::provider_api::{ApiError, ProviderApi, SuppressionEntry, SuppressionList, UnreadableItem};
use mailtrail_store::{AddressEvidence, ReadError, Store};
use mailtrail_trail::suppression::{
    EvidenceItem, Reason, Scope, SuppressionChange, SuppressionChangeKind, SuppressionSettings,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One sync of one upstream.
pub(super) struct SyncRun<'a> {
    pub(super) store: &'a Store,
    pub(super) clock: Clock,
    pub(super) settings: &'a SuppressionSettings,
    pub(super) api: &'a ProviderApi,
    pub(super) options: &'a SyncOptions,
    pub(super) updates: &'a mpsc::Sender<SyncUpdate>,
}

/// The provider's entries by list and address (in lower case), with the scope of the withheld mail.
type RemoteEntries = HashMap<(SuppressionList, String), Scope>;

/// Evidence to add here, with the provider's text or expiring now.
type PendingImport = (Mailbox, Reason, EvidenceItem);

/// Result of reading a page of our own list.
#[derive(Default)]
struct LocalPage {
    expired: Vec<PendingImport>,
    exports: Vec<(SuppressionList, SuppressionEntry)>,
    /// Start of the next page, if there is more.
    next: Option<(String, String)>,
}

impl SyncRun<'_> {
    pub(super) async fn run(&self) -> Result<(), SyncError> {
        let (theirs, removals, is_whole) = self.read_remote().await?;
        let additions = self.read_local(theirs, is_whole).await?;
        for (list, address) in removals {
            if !self.options.dry_run {
                self.pace_requests().await;
                self.with_retry(|| self.api.remove_suppression(list, &address)).await?;
            }
            self.record_change(address, reason_of(list), SyncAction::RemovedRemotely).await;
        }
        if self.api.can_add_suppressions() {
            for list in SuppressionList::ALL {
                let entries = additions.iter().filter(|(of, _)| *of == list).map(|(_, entry)| entry.clone());
                self.export_entries(list, entries.collect()).await?;
            }
        }
        Ok(())
    }

    /// Imports the provider's entries page by page. Returns all its entries, those to remove there, and
    /// whether all entries were readable. None is removed while the lists are read: the pages would shift.
    async fn read_remote(&self) -> Result<(RemoteEntries, Vec<(SuppressionList, String)>, bool), SyncError> {
        let (mut theirs, mut removals, mut place) = (RemoteEntries::new(), Vec::new(), None);
        let mut unread: Vec<UnreadableItem> = Vec::new();
        loop {
            let page = self.with_retry(|| self.api.fetch_suppressions(place.as_ref())).await?;
            for (list, entry) in &page.entries {
                let key = (*list, fold_address(&entry.address));
                let known = theirs.entry(key).or_insert(Scope::Bulk);
                *known = scope_of(*list, entry).max(*known);
            }
            if theirs.len() > MAX_REMOTE_ENTRIES {
                return Err(SyncError::TooManyEntries(self.api.upstream().to_owned()));
            }
            unread.extend(page.unreadable);
            let (taken, removed) = self.plan_page(page.entries).await?;
            self.record_evidence(taken, SyncAction::Imported).await?;
            removals.extend(removed);
            self.send_update(SyncUpdate::EntriesRead(theirs.len() as u64)).await;
            place = page.next;
            if place.is_none() {
                self.log_unreadable(&unread).await;
                return Ok((theirs, removals, unread.is_empty()));
            }
            self.pace_requests().await;
        }
    }

    /// Reports skipped unreadable entries.
    async fn log_unreadable(&self, unread: &[UnreadableItem]) {
        let Some(first) = unread.first() else { return };
        let raw: String = String::from_utf8_lossy(&first.raw).chars().take(MAX_SHOWN_CHARS).collect();
        let text = format!("{}: {}", first.reason, raw.replace(char::is_control, " "));
        tracing::warn!(
            upstream = self.api.upstream(),
            entries = unread.len(),
            first = text,
            "unreadable entries in provider's suppression lists; none is ended"
        );
        self.send_update(SyncUpdate::EntriesUnreadable(unread.len() as u64, text)).await;
    }

    /// Plans the actions for the entries of a page.
    async fn plan_page(
        &self,
        page: Vec<(SuppressionList, SuppressionEntry)>,
    ) -> Result<(Vec<PendingImport>, Vec<(SuppressionList, String)>), SyncError> {
        let (settings, now) = (self.settings.clone(), self.clock.now());
        let (store, upstream) = (self.store.clone(), self.api.upstream().to_owned());
        let planned = tokio::task::spawn_blocking(move || {
            let (mut taken, mut removed) = (Vec::new(), Vec::new());
            for (list, entry) in page {
                // An entry that is no valid address here never gets mail from us either.
                let Ok(address) = entry.address.parse::<Mailbox>() else { continue };
                let own = store.suppression_evidence(&address.to_folded(), &upstream)?.unwrap_or_default();
                let everywhere = store.suppression_evidence(&address.to_folded(), "")?.unwrap_or_default();
                match (LocalEvidence { upstream: &own, global: &everywhere })
                    .plan_remote_entry(list, &entry, &settings, now)
                {
                    RemoteEntryAction::Ignore => {}
                    RemoteEntryAction::Import(mark) => taken.push((address, reason_of(list), mark)),
                    RemoteEntryAction::RemoveRemotely => removed.push((list, entry.address)),
                }
            }
            Ok::<_, ReadError>((taken, removed))
        });
        Ok(planned.await.map_err(|_| SyncError::TaskPanicked)??)
    }

    /// Ends evidence no longer on the provider's lists, and returns the entries to add there.
    async fn read_local(
        &self,
        theirs: RemoteEntries,
        is_whole: bool,
    ) -> Result<Vec<(SuppressionList, SuppressionEntry)>, SyncError> {
        let (theirs, mut additions, mut after) = (Arc::new(theirs), Vec::new(), None);
        loop {
            let (store, settings, theirs) = (self.store.clone(), self.settings.clone(), theirs.clone());
            let (upstream, now) = (self.api.upstream().to_owned(), self.clock.now());
            let read = tokio::task::spawn_blocking(move || {
                read_local_page(&store, &upstream, &settings, &theirs, after.as_ref(), now)
            });
            let page = read.await.map_err(|_| SyncError::TaskPanicked)??;
            if is_whole {
                self.record_evidence(page.expired, SyncAction::Expired).await?;
            }
            additions.extend(page.exports);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        // An address on both our upstream list and our global list is added once.
        additions.sort_by(|one, other| (one.0, &one.1.address).cmp(&(other.0, &other.1.address)));
        additions.dedup_by(|one, other| (one.0, &one.1.address) == (other.0, &other.1.address));
        Ok(additions)
    }

    /// Records evidence on our list.
    async fn record_evidence(
        &self,
        imports: Vec<PendingImport>,
        action: SyncAction,
    ) -> Result<(), SyncError> {
        let one = |(address, reason, mark): PendingImport| async move {
            let name = address.to_folded();
            if !self.options.dry_run {
                let listing = SuppressionChange {
                    address,
                    list: Some(self.api.upstream().to_owned()),
                    at: self.clock.now(),
                    operator: self.options.operator.clone(),
                    kind: SuppressionChangeKind::Add { reason, items: vec![mark] },
                };
                self.store.change_suppression(listing).await?;
            }
            self.record_change(name, reason, action).await;
            Ok::<_, SyncError>(())
        };
        let taken = stream::iter(imports).map(one).buffered(WRITE_CONCURRENCY);
        taken.try_collect().await
    }

    /// Adds entries to a provider's list. The provider accepts a request completely or not at all. So a
    /// rejected request is halved until the rejected addresses are found.
    async fn export_entries(
        &self,
        list: SuppressionList,
        entries: Vec<SuppressionEntry>,
    ) -> Result<(), SyncError> {
        let mut waiting: Vec<_> =
            entries.chunks(ProviderApi::MAX_ENTRIES_PER_REQUEST).map(<[_]>::to_vec).collect();
        waiting.reverse();
        while let Some(mut some) = waiting.pop() {
            if !self.options.dry_run {
                self.pace_requests().await;
                match self.with_retry(|| self.api.add_suppressions(list, &some)).await {
                    Ok(()) => {}
                    Err(ApiError::Rejected { status: 400, .. }) if some.len() > 1 => {
                        let half = some.split_off(some.len() / 2);
                        waiting.extend([half, some]);
                        continue;
                    }
                    Err(fault @ ApiError::Rejected { status: 400, .. }) => {
                        let address = some.pop().map(|entry| entry.address).unwrap_or_default();
                        let (reason, rejection) = (reason_of(list), Some(fault.to_string()));
                        let act = SyncChange { address, reason, action: SyncAction::Exported, rejection };
                        self.send_update(SyncUpdate::Changed(act)).await;
                        continue;
                    }
                    Err(fault) => return Err(fault.into()),
                }
            }
            for entry in some {
                self.record_change(entry.address, reason_of(list), SyncAction::Exported).await;
            }
        }
        Ok(())
    }

    /// Retries while the provider returns rate limits.
    async fn with_retry<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        for _ in 0..MAX_ATTEMPTS {
            match ask().await {
                Err(ApiError::RateLimited { retry_after, .. }) => {
                    let wait = retry_after.unwrap_or(DEFAULT_RETRY_AFTER).min(MAX_RETRY_AFTER);
                    self.send_update(SyncUpdate::RateLimited(wait)).await;
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
        ask().await
    }

    async fn pace_requests(&self) {
        tokio::time::sleep(self.api.request_interval()).await;
    }

    async fn record_change(&self, address: String, reason: Reason, action: SyncAction) {
        if !self.options.dry_run {
            let upstream = self.api.upstream().to_owned();
            metrics::counter!("mailtrail_suppression_sync_total", "upstream" => upstream, "act" => action.as_str())
                .increment(1);
        }
        self.send_update(SyncUpdate::Changed(SyncChange { address, reason, action, rejection: None })).await;
    }

    async fn send_update(&self, step: SyncUpdate) {
        // The sync continues after the receiver is closed.
        let _ = self.updates.send(step).await;
    }
}

/// Reads a page of our list.
fn read_local_page(
    store: &Store,
    upstream: &str,
    settings: &SuppressionSettings,
    theirs: &RemoteEntries,
    after: Option<&(String, String)>,
    now: Timestamp,
) -> Result<LocalPage, ReadError> {
    let filed = store.list_evidence(after.map(|(address, list)| (&**address, &**list)), PAGE_SIZE)?;
    let last = filed.last().filter(|_| filed.len() == PAGE_SIZE);
    let mut page = LocalPage {
        next: last.map(|last| (last.address.clone(), last.list.clone())),
        ..LocalPage::default()
    };
    let ours = filed.iter().filter(|one| one.list == upstream || one.list.is_empty());
    for one in ours.filter(|one| !one.is_erased()) {
        for (reason, live) in one.evidence.active() {
            let Some(list) = list_for(reason) else { continue };
            let there = theirs.get(&(list, one.address.clone()));
            if there.is_none() && one.list == upstream {
                page.expired.extend(
                    expire_evidence(live, now).and_then(|mark| Some((parse_address(one)?, reason, mark))),
                );
            }
            if there != Some(&Scope::All) {
                page.exports.extend(export_entry(one, reason, live, settings, now));
            }
        }
    }
    Ok(page)
}

fn parse_address(filed: &AddressEvidence) -> Option<Mailbox> {
    filed.address.parse().ok()
}

/// Suppression records read per page.
const PAGE_SIZE: usize = 2000;
/// Entries written at a time: they share fsyncs.
const WRITE_CONCURRENCY: usize = 1024;
/// Maximum number of consecutive rate-limit replies.
const MAX_ATTEMPTS: usize = 5;
/// Delay after a rate limit without Retry-After.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Maximum length of a displayed entry in characters.
const MAX_SHOWN_CHARS: usize = 200;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
