use super::{Source, Trouble, reading};
use crate::account::{Page, Span, Unread};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::ledger::{Dead, Notice, Polled, Via};
use crate::store::Store;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// One poll.
pub(super) struct Round<'a> {
    pub(super) store: &'a Store,
    pub(super) now: Timestamp,
    pub(super) source: &'a Source,
}

/// Events by what they say happened: how many the provider has, and how many of them were new to us.
type Counts = BTreeMap<&'static str, (u64, u64)>;

impl Round<'_> {
    /// Polls; and compares the day before, unless it was `compared` already.
    pub(super) async fn run(&self, compared: &mut Option<u16>) -> Result<(), Trouble> {
        let upstream = self.source.account.upstream();
        let counts = self.poll().await?;
        let recovered: u64 = counts.values().map(|(_, new)| new).sum();
        if recovered > 0 {
            tracing::warn!(
                upstream,
                "{recovered} events recovered that no webhook brought; is the webhook registered, and does it reach us?"
            );
        }
        let yesterday = self.now.before(COMPARE_AFTER).day().saturating_sub(1);
        if *compared != Some(yesterday) {
            self.compare(yesterday).await?;
            *compared = Some(yesterday);
        }
        Ok(())
    }

    /// Takes in what happened since the cursor.
    async fn poll(&self) -> Result<Counts, Trouble> {
        let upstream = self.source.account.upstream();
        // A cursor ahead of time is from a clock that was wrong.
        let cursor = self.store.polled_until(upstream)?.filter(|cursor| *cursor <= self.now);
        let earliest = self.earliest();
        let begin = cursor.map_or(earliest, |cursor| cursor.before(OVERLAP)).max(earliest);
        let span = Span { begin, end: self.now.before(UNDER_WAY) };
        let (all, mut cursor) = (self.now.before(LATEST), cursor.unwrap_or_default());
        let (mut counts, mut next) = (Counts::new(), None);
        loop {
            let page = self.source.account.events(span, next.as_ref()).await?;
            let Page { events, unread, complete_until, next: more } = page;
            self.take(&events, &mut counts).await?;
            self.bury(unread).await?;
            let until = if more.is_none() { all } else { complete_until.unwrap_or_default().min(all) };
            if until > cursor {
                cursor = until;
                self.store.polled(Polled { upstream: upstream.to_owned(), until }).await?;
            }
            if more.is_none() {
                return Ok(counts);
            }
            next = more;
            tokio::time::sleep(self.source.account.pause()).await;
        }
    }

    /// Walks through a whole day once more, and says what it found.
    async fn compare(&self, day: u16) -> Result<(), Trouble> {
        let start = Timestamp::from_seconds(u64::from(day) * 86_400);
        let end = start.after(Duration::from_millis(86_399_999));
        let span = Span { begin: start.max(self.earliest()), end };
        let (mut counts, mut next) = (Counts::new(), None);
        loop {
            let page = self.source.account.events(span, next.as_ref()).await?;
            self.take(&page.events, &mut counts).await?;
            self.bury(page.unread).await?;
            next = page.next;
            if next.is_none() {
                break;
            }
            tokio::time::sleep(self.source.account.pause()).await;
        }
        self.tell(&start.to_string()[..10], &counts);
        Ok(())
    }

    fn tell(&self, day: &str, counts: &Counts) {
        let upstream = self.source.account.upstream();
        let all: u64 = counts.values().map(|(all, _)| all).sum();
        let missed: Vec<_> = counts
            .iter()
            .filter(|(_, (_, new))| *new > 0)
            .map(|(word, (all, new))| format!("{word} {all}, of which we had {}", all - new))
            .collect();
        if missed.is_empty() {
            tracing::info!(
                upstream,
                day,
                "the day's events are compared: all {all} of the provider's are here"
            );
        } else {
            let missed = missed.join("; ");
            tracing::warn!(
                upstream,
                day,
                "the day's events are compared: the provider has {missed}; they are taken in"
            );
        }
    }

    /// Before then the provider keeps nothing.
    fn earliest(&self) -> Timestamp {
        self.now.before(self.source.settings.reach)
    }

    /// Takes in what is new of a page.
    async fn take(&self, page: &[Value], counts: &mut Counts) -> Result<(), Trouble> {
        let mut new = Vec::with_capacity(page.len());
        for data in page {
            if let Some(event) = reading::read(self.source.provider, data, self.now) {
                new.push(self.take_one(data, event));
            }
        }
        // As many at once as one sync serves.
        let mut taken = stream::iter(new).buffer_unordered(AT_ONCE);
        while let Some((word, new)) = taken.try_next().await? {
            let (all, missed) = counts.entry(word).or_default();
            *all += 1;
            *missed += u64::from(new);
        }
        Ok(())
    }

    /// Puts aside what cannot be read, each once however often it is on a page.
    async fn bury(&self, unread: Vec<Unread>) -> Result<(), Trouble> {
        for Unread { raw, reason } in unread {
            let upstream = self.source.account.upstream();
            let mut digest = [0; 16];
            digest.copy_from_slice(&Sha256::digest(&raw)[..16]);
            let dead = Dead {
                upstream: upstream.to_owned(),
                at: self.now,
                via: Via::Poll,
                token: None,
                digest,
                reason: reason.clone(),
            };
            if !self.store.knows_dead(&dead)? {
                tracing::error!(
                    upstream,
                    reason,
                    "an event of the provider's cannot be understood; `mailtrail events dead` lists it"
                );
                self.store.bury(dead, raw).await?;
            }
        }
        Ok(())
    }

    /// Takes an event in if it is new; what it says happened, and whether it was new.
    async fn take_one(&self, data: &Value, event: Event) -> Result<(&'static str, bool), Trouble> {
        let (upstream, word) = (self.source.account.upstream(), event.kind.word());
        if self.store.knows_event(upstream, &event)? {
            return Ok((word, false));
        }
        let lag = self.now.since(event.at);
        let notice =
            Notice { upstream: upstream.to_owned(), at: self.now, via: Via::Poll, token: None, event };
        self.store.report(notice, reading::raw(self.source.provider, data)).await?;
        let upstream = upstream.to_owned();
        metrics::histogram!("mailtrail_event_lag_seconds").record(lag);
        metrics::counter!("mailtrail_recovered_events_total", "upstream" => upstream.clone()).increment(1);
        metrics::counter!("mailtrail_events_total", "upstream" => upstream, "event" => word).increment(1);
        Ok((word, true))
    }
}

/// Events of so short a time ago may still be on their way to us by webhook.
const UNDER_WAY: Duration = Duration::from_secs(120);
/// Events appear as late as this.
const LATEST: Duration = Duration::from_secs(30 * 60);
/// How far before the cursor a poll begins: clocks differ.
const OVERLAP: Duration = Duration::from_secs(300);
/// How long after its end a day is compared.
const COMPARE_AFTER: Duration = Duration::from_secs(2 * 3600);
/// Events that are taken in at once.
const AT_ONCE: usize = 64;
