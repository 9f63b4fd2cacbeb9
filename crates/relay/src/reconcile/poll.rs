use crate::reconcile::decode;
use crate::reconcile::source::{PollError, PollSource};
use futures_util::{StreamExt, TryStreamExt, stream};
use mailtrail_mail::Timestamp;
use mailtrail_net::provider_api::{EventPage, PageToken, TimeRange, UnreadableItem};
use mailtrail_store::Store;
use mailtrail_trail::{DeadLetter, EventSource, PollCursor, ProviderEvent, ReceivedEvent};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// One poll.
pub(super) struct Poll<'a> {
    pub(super) store: &'a Store,
    pub(super) now: Timestamp,
    pub(super) source: &'a PollSource,
    /// Whether a torn page is settled with its readable part.
    pub(super) settles: bool,
}

/// Position in the pages of a time range.
struct Walk {
    span: TimeRange,
    next: Option<PageToken>,
    /// Consecutive torn pages without a readable event.
    futile: u32,
    is_over: bool,
    is_whole: bool,
    counts: EventCounts,
}

/// Counts by event kind: the provider's events, and those new to us.
type EventCounts = BTreeMap<&'static str, (u64, u64)>;

impl Poll<'_> {
    /// Polls; compares the previous day unless `compared` has it already. Returns whether all pages were
    /// complete.
    pub(super) async fn run(&self, compared: &mut Option<u16>) -> Result<bool, PollError> {
        let upstream = self.source.api.upstream();
        let walk = self.poll_since_cursor().await?;
        let recovered: u64 = walk.counts.values().map(|(_, new)| new).sum();
        if recovered > 0 {
            tracing::warn!(
                upstream,
                "{recovered} events recovered that no webhook brought; is the webhook registered, and does it reach us?"
            );
        }
        let yesterday = self.now.saturating_sub(COMPARISON_DELAY).day_number().saturating_sub(1);
        let mut is_whole = walk.is_whole;
        if *compared != Some(yesterday) {
            is_whole &= self.compare_day(yesterday).await?.is_whole;
            *compared = Some(yesterday);
        }
        Ok(is_whole)
    }

    /// Ingests the events since the cursor.
    async fn poll_since_cursor(&self) -> Result<Walk, PollError> {
        let upstream = self.source.api.upstream();
        // A cursor in the future comes from a wrong clock.
        let cursor = self.store.poll_cursor(upstream)?.filter(|cursor| *cursor <= self.now);
        let earliest = self.lookback_start();
        let start = cursor.map_or(earliest, |cursor| cursor.saturating_sub(CURSOR_OVERLAP)).max(earliest);
        let span = TimeRange { start, end: self.now.saturating_sub(WEBHOOK_GRACE) };
        let (all, mut cursor) = (self.now.saturating_sub(LATE_EVENT_WINDOW), cursor.unwrap_or_default());
        let mut walk = Walk::through(span);
        loop {
            let complete_until = self.take_page(&mut walk).await?;
            let until = if walk.is_over { all } else { complete_until.unwrap_or_default().min(all) };
            if until > cursor {
                cursor = until;
                self.store.set_poll_cursor(PollCursor { upstream: upstream.to_owned(), until }).await?;
            }
            if walk.is_over {
                return Ok(walk);
            }
            tokio::time::sleep(self.source.api.request_interval()).await;
        }
    }

    /// Reads a whole day again and logs the result.
    async fn compare_day(&self, day: u16) -> Result<Walk, PollError> {
        let start = Timestamp::from_secs(u64::from(day) * 86_400);
        let end = start.saturating_add(Duration::from_millis(86_399_999));
        let span = TimeRange { start: start.max(self.lookback_start()), end };
        let mut walk = Walk::through(span);
        self.take_page(&mut walk).await?;
        while !walk.is_over {
            tokio::time::sleep(self.source.api.request_interval()).await;
            self.take_page(&mut walk).await?;
        }
        self.log_summary(&start.to_string()[..10], &walk.counts);
        Ok(walk)
    }

    /// Ingests the next page; returns the time up to which everything is recorded.
    async fn take_page(&self, walk: &mut Walk) -> Result<Option<Timestamp>, PollError> {
        let page = self.source.api.fetch_events(walk.span, walk.next.as_ref()).await?;
        self.ingest(&page.events, &mut walk.counts).await?;
        if page.is_torn && !self.settles {
            return Err(PollError::Torn(self.source.api.upstream().to_owned()));
        }
        walk.pass(&page);
        self.store_dead_letters(page.unreadable).await?;
        Ok(page.complete_until)
    }

    fn log_summary(&self, day: &str, counts: &EventCounts) {
        let upstream = self.source.api.upstream();
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

    /// Returns the time before which the provider keeps no events.
    fn lookback_start(&self) -> Timestamp {
        self.now.saturating_sub(self.source.settings.lookback)
    }

    /// Ingests the new events of a page.
    async fn ingest(&self, page: &[Value], counts: &mut EventCounts) -> Result<(), PollError> {
        let mut new = Vec::with_capacity(page.len());
        for data in page {
            if let Some(event) = decode::decode_event(self.source.provider, data, self.now) {
                new.push(self.ingest_one(data, event));
            }
        }
        // As many at once as one fsync serves.
        let mut taken = stream::iter(new).buffer_unordered(INGEST_CONCURRENCY);
        while let Some((word, new)) = taken.try_next().await? {
            let (all, missed) = counts.entry(word).or_default();
            *all += 1;
            *missed += u64::from(new);
        }
        Ok(())
    }

    /// Stores unreadable events as dead letters, each once however often it is on a page.
    async fn store_dead_letters(&self, unread: Vec<UnreadableItem>) -> Result<(), PollError> {
        for UnreadableItem { raw, reason } in unread {
            let upstream = self.source.api.upstream();
            let mut body_digest = [0; 16];
            body_digest.copy_from_slice(&Sha256::digest(&raw)[..16]);
            let dead = DeadLetter {
                upstream: upstream.to_owned(),
                received_at: self.now,
                source: EventSource::Poll,
                token: None,
                body_digest,
                reason: reason.clone(),
            };
            if !self.store.has_dead_letter(&dead)? {
                tracing::error!(
                    upstream,
                    reason,
                    "an event of the provider's cannot be understood; `mailtrail events dead` lists it"
                );
                self.store.put_dead_letter(dead, raw).await?;
            }
        }
        Ok(())
    }

    /// Ingests an event if it is new; returns its kind and whether it was new.
    async fn ingest_one(
        &self,
        data: &Value,
        event: ProviderEvent,
    ) -> Result<(&'static str, bool), PollError> {
        let (upstream, word) = (self.source.api.upstream(), event.kind.as_str());
        if self.store.has_event(upstream, &event)? {
            return Ok((word, false));
        }
        let lag = self.now.duration_since(event.at);
        let notice = ReceivedEvent {
            upstream: upstream.to_owned(),
            received_at: self.now,
            source: EventSource::Poll,
            token: None,
            event,
        };
        self.store.put_event(notice, decode::to_webhook_body(self.source.provider, data)).await?;
        let upstream = upstream.to_owned();
        metrics::histogram!("mailtrail_event_lag_seconds").record(lag);
        metrics::counter!("mailtrail_recovered_events_total", "upstream" => upstream.clone()).increment(1);
        metrics::counter!("mailtrail_events_total", "upstream" => upstream, "event" => word).increment(1);
        Ok((word, true))
    }
}

impl Walk {
    fn through(span: TimeRange) -> Self {
        Self { span, next: None, futile: 0, is_over: false, is_whole: true, counts: EventCounts::new() }
    }

    /// Advances past a page. If a torn page has no link to the next, continues from its last event, or from
    /// the start in ever longer steps.
    fn pass(&mut self, page: &EventPage) {
        self.next.clone_from(&page.next);
        self.is_over = page.next.is_none();
        if page.is_torn {
            self.is_whole = false;
            self.futile = if page.events.is_empty() { self.futile + 1 } else { 0 };
            if self.is_over {
                let least = self.span.start.saturating_add(Duration::from_secs(1 << self.futile));
                self.span.start = page.complete_until.unwrap_or_default().max(least);
            }
            self.is_over = self.futile == MOST_FUTILE || self.span.start > self.span.end;
        }
    }
}

/// Age below which an event may still arrive by webhook.
const WEBHOOK_GRACE: Duration = Duration::from_secs(120);
/// Longest delay with which events appear.
const LATE_EVENT_WINDOW: Duration = Duration::from_secs(30 * 60);
/// Time before the cursor at which a poll begins, because clocks differ.
const CURSOR_OVERLAP: Duration = Duration::from_secs(300);
/// Time after the end of a day at which it is compared.
const COMPARISON_DELAY: Duration = Duration::from_secs(2 * 3600);
/// Consecutive torn pages without a readable event after which the rest of the range is skipped. The steps
/// of this number of pages are longer than any range.
const MOST_FUTILE: u32 = 22;
/// Events ingested at once.
const INGEST_CONCURRENCY: usize = 64;
