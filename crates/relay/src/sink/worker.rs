use crate::alarms::{AlarmKind, AlarmRegistry, DEAD_LETTER_ALARM_WINDOW};
use crate::sink::backend::SinkBackend;
use crate::sink::delivery_result::DeliveryResult;
use crate::sink::event::SinkEvent;
use crate::sink::settings::{SinkFilter, SinkSettings};
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::webhook_client;
use mailtrail_store::{DelayedDelivery, LogCursor, LogEntry, ReadError, SinkAck, Store};
use mailtrail_trail::Trail;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Worker that delivers events to one sink.
pub struct SinkWorker {
    store: Store,
    clock: Clock,
    alarms: AlarmRegistry,
    settings: SinkSettings,
    backend: SinkBackend,
    /// Position in the journal; the stored one may be older.
    position: Option<LogCursor>,
    position_saved_at: Option<Timestamp>,
    /// Reason and start of the sink's outage.
    down_since: Option<(String, Timestamp)>,
    backoff: Duration,
    /// Whether the sink has been found ready once.
    is_ready: bool,
}

impl SinkWorker {
    /// Creates a worker that has not started.
    pub fn new(store: Store, clock: Clock, alarms: AlarmRegistry, settings: SinkSettings) -> Self {
        let backend = SinkBackend::new(&settings.kind, clock);
        Self {
            store,
            clock,
            alarms,
            settings,
            backend,
            position: None,
            position_saved_at: None,
            down_since: None,
            backoff: INITIAL_BACKOFF,
            is_ready: false,
        }
    }

    /// Delivers events until shutdown.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.tick() => pause,
                // Whether the sink has the events is unknown then: they are delivered again.
                () = webhook_client::shutdown_grace_elapsed(&stopping) => return,
            };
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Delivers the next events; returns the delay before the next tick.
    async fn tick(&mut self) -> Duration {
        match self.deliver_next().await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(sink = self.settings.name, %error, "cannot read events for sink; retrying");
                MAX_BACKOFF
            }
        }
    }

    async fn deliver_next(&mut self) -> Result<Duration, ReadError> {
        let name = self.settings.name.clone();
        if let Some(wished) = self.store.take_rewind_request(&name) {
            self.position = Some(wished);
        }
        let from = match (self.position, self.store.sink_position(&name)?) {
            (Some(stands), _) => stands,
            (None, Some((handed, _))) => handed,
            (None, None) => {
                // A new sink receives events from now on.
                let end = self.store.log_end()?;
                self.save_position(SinkProgress::until(end)).await;
                end
            }
        };
        self.position = Some(from);
        if !self.is_ready {
            if let Err(why) = self.backend.check_readiness().await {
                let waited = self.mark_stuck(&why);
                return Ok(self.mark_down(&why, waited));
            }
            self.is_ready = true;
            self.mark_up();
        }
        self.backend.run_periodic().await;
        let reading = PageReader {
            store: self.store.clone(),
            sink: name.clone(),
            filter: self.settings.filter.clone(),
            checks_superseded: self.backend.checks_superseded(),
            now: self.clock.now(),
        };
        let Ok(page) = tokio::task::spawn_blocking(move || reading.read_page(from)).await else {
            return Ok(MAX_BACKOFF);
        };
        let page = page?;
        let new = page.events.iter().filter(|item| item.delayed.is_none()).count();
        metrics::gauge!("mailtrail_sink_backlog", "sink" => name.clone()).set(new as f64);
        metrics::gauge!("mailtrail_sink_delayed", "sink" => name).set(page.delayed_count as f64);
        if page.events.is_empty() && page.missing_delayed.is_empty() {
            self.position = Some(page.end);
            // Saved positions are journal records, too: recording that one was passed would add another.
            if page.has_new
                && self
                    .position_saved_at
                    .is_none_or(|noted| self.clock.now().duration_since(noted) >= SAVE_INTERVAL)
            {
                self.save_position(SinkProgress::until(page.end)).await;
            }
            return Ok(if page.end == from { POLL_INTERVAL } else { Duration::ZERO });
        }
        let delivery = self.backend.deliver(&page.events).await;
        Ok(self.record_delivery(page, delivery).await)
    }

    /// Records the new position, the rejected events and the delayed ones.
    async fn record_delivery(&mut self, page: EventPage, delivery: DeliveryResult) -> Duration {
        let DeliveryResult { processed: mut done, rejected: mut refused, delayed, retry_reason: mut later } =
            delivery;
        let now = self.clock.now();
        let delayed = self.select_delayed(&page, delayed, &mut refused, &mut done, &mut later);
        let pause = match later {
            None => {
                self.mark_up();
                Duration::ZERO
            }
            Some(why) => {
                if done > 0 {
                    self.mark_up();
                }
                let waited = self.mark_stuck(&why);
                if self.settings.give_up_after.is_some_and(|patience| waited >= patience) {
                    refused.push((done, format!("given up after {} s: {why}", waited.as_secs())));
                    done += 1;
                    self.down_since = None;
                    Duration::ZERO
                } else {
                    self.mark_down(&why, waited)
                }
            }
        };
        self.count_deliveries(done, &refused, delayed.len());
        // The rest of a record comes again with it.
        let next = page.events[done..].iter().find(|item| item.delayed.is_none());
        let until = next.map_or(page.end, |next| next.cursor);
        let due = |item: &SinkEvent| {
            now.saturating_add(now.duration_since(item.entry.recorded_at).clamp(MIN_DELAY, MAX_DELAY))
        };
        let delayed = delayed.into_iter().map(|index| &page.events[index]);
        let delayed = delayed
            .filter(|item| item.cursor < until || item.delayed.is_some())
            .map(|item| DelayedDelivery { retry_at: due(item), cursor: item.cursor, index: item.index });
        let resumed = page.events[..done]
            .iter()
            .filter_map(SinkEvent::to_delayed)
            .chain(page.missing_delayed.iter().copied());
        let noted = SinkProgress {
            until,
            dead_letters: self.dead_letter_rejected(&page.events, refused),
            delayed: delayed.collect(),
            resumed: resumed.collect(),
        };
        if done > 0 || !page.missing_delayed.is_empty() {
            self.position = Some(until);
            self.save_position(noted).await;
        }
        pause
    }

    /// Selects the delayed events that are offered again; the rest is rejected, or stops the sink.
    fn select_delayed(
        &self,
        page: &EventPage,
        delayed: Vec<(usize, String)>,
        refused: &mut Vec<(usize, String)>,
        done: &mut usize,
        later: &mut Option<String>,
    ) -> Vec<usize> {
        let (now, mut capacity) = (self.clock.now(), MAX_DELAYED.saturating_sub(page.delayed_count));
        let mut still = Vec::new();
        for (index, why) in delayed {
            let item = &page.events[index];
            let waited = now.duration_since(item.entry.recorded_at);
            if self.settings.give_up_after.is_some_and(|patience| waited >= patience) {
                refused.push((index, format!("given up after {} s: {why}", waited.as_secs())));
                continue;
            }
            if item.delayed.is_none() {
                if capacity == 0 {
                    // This event and all later ones come again together.
                    *done = index;
                    *later = Some(format!("{MAX_DELAYED} items are delayed already: {why}"));
                    refused.retain(|(refused, _)| *refused < index);
                    break;
                }
                capacity -= 1;
            }
            tracing::debug!(sink = self.settings.name, item = item.id(), why, "event delayed");
            still.push(index);
        }
        refused.sort_by_key(|(index, _)| *index);
        still
    }

    /// Returns the rejected events as dead letters, and logs them.
    fn dead_letter_rejected(
        &self,
        items: &[SinkEvent],
        refused: Vec<(usize, String)>,
    ) -> Vec<(LogCursor, u16, String)> {
        let refused = refused.into_iter().map(|(index, why)| {
            let item = &items[index];
            tracing::error!(sink = self.settings.name, item = item.id(), why, "refused for good");
            (item.cursor, item.index, why)
        });
        let refused: Vec<_> = refused.collect();
        if !refused.is_empty() {
            let name = &self.settings.name;
            let text = format!("it refused for good what happened; `mailtrail sink dead {name}` lists it");
            self.alarms.raise_for(
                AlarmKind::DeadLetters,
                &format!("sink {name}"),
                &text,
                DEAD_LETTER_ALARM_WINDOW,
            );
        }
        refused
    }

    fn mark_up(&mut self) {
        self.backoff = INITIAL_BACKOFF;
        self.down_since = None;
        self.alarms.clear(AlarmKind::Sink, &self.settings.name);
    }

    /// Marks the sink as down for this reason; returns the duration of the outage.
    fn mark_stuck(&mut self, why: &str) -> Duration {
        let now = self.clock.now();
        let since = self.down_since.as_ref().map_or(now, |(_, since)| *since);
        self.down_since = Some((why.to_owned(), since));
        now.duration_since(since)
    }

    fn mark_down(&mut self, why: &str, waited: Duration) -> Duration {
        if waited >= DOWN_ALARM_AFTER {
            let text = format!("takes nothing: {why}; what happens meanwhile waits in the journal");
            self.alarms.set(AlarmKind::Sink, &self.settings.name, Some(text));
        }
        tracing::warn!(sink = self.settings.name, why, "a sink takes nothing for now");
        let pause = self.backoff.mul_f64(1.0 + fastrand::f64() / 4.0);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        pause
    }

    fn count_deliveries(&self, done: usize, refused: &[(usize, String)], delayed: usize) {
        let taken = done.saturating_sub(refused.len() + delayed);
        for (outcome, count) in [("taken", taken), ("refused", refused.len()), ("delayed", delayed)] {
            let sink = self.settings.name.clone();
            metrics::counter!("mailtrail_sink_deliveries_total", "sink" => sink, "outcome" => outcome)
                .increment(count as u64);
        }
    }

    async fn save_position(&mut self, noted: SinkProgress) {
        let at = self.clock.now();
        let SinkProgress { until: position, dead_letters, delayed, resumed } = noted;
        let handed =
            SinkAck { sink: self.settings.name.clone(), at, position, dead_letters, delayed, resumed };
        self.position_saved_at = Some(at);
        if let Err(error) = self.store.ack_sink(handed).await {
            tracing::error!(sink = self.settings.name, %error, "cannot store sink position; events will repeat");
        }
    }
}

/// Progress recorded after a delivery.
struct SinkProgress {
    until: LogCursor,
    dead_letters: Vec<(LogCursor, u16, String)>,
    delayed: Vec<DelayedDelivery>,
    resumed: Vec<DelayedDelivery>,
}

impl SinkProgress {
    /// Progress that consists of a new position only.
    fn until(until: LogCursor) -> Self {
        Self { until, dead_letters: Vec::new(), delayed: Vec::new(), resumed: Vec::new() }
    }
}

/// Events offered to a sink at once: delayed ones that are due, then new ones.
struct EventPage {
    events: Vec<SinkEvent>,
    /// Delayed events that are no longer in the journal.
    missing_delayed: Vec<DelayedDelivery>,
    /// Number of delayed events, due or not.
    delayed_count: usize,
    /// Whether the page has new events, filtered or not.
    has_new: bool,
    end: LogCursor,
}

/// Inputs for reading a page.
struct PageReader {
    store: Store,
    sink: String,
    filter: SinkFilter,
    checks_superseded: bool,
    now: Timestamp,
}

impl PageReader {
    fn read_page(&self, from: LogCursor) -> Result<EventPage, ReadError> {
        let (mut events, mut missing_delayed, mut has_new) = (Vec::new(), Vec::new(), false);
        for delayed in self.store.due_deliveries(&self.sink, self.now, RECORDS_PER_PAGE)? {
            match self.store.log_entry(delayed.cursor, delayed.index)? {
                Some(entry) => {
                    let item = self.build_event(delayed.cursor, delayed.index, entry)?;
                    events.push(SinkEvent { delayed: Some(delayed.retry_at), ..item });
                }
                None => missing_delayed.push(delayed),
            }
        }
        let (records, end) = self.store.read_from(from, RECORDS_PER_PAGE)?;
        for record in records {
            has_new |= !record.entries.is_empty();
            for (part, entry) in (0u16..).zip(record.entries) {
                let item = self.build_event(record.cursor, part, entry)?;
                let client = item.trail.as_ref().map(|trail| trail.message.client.as_str());
                if self.filter.matches(item.entry.event.kind, client) {
                    events.push(item);
                }
            }
        }
        let delayed_count = self.store.count_delayed(&self.sink)?;
        Ok(EventPage { events, missing_delayed, delayed_count, has_new, end })
    }

    fn build_event(&self, cursor: LogCursor, index: u16, entry: LogEntry) -> Result<SinkEvent, ReadError> {
        let trail = entry.tracking_id.map(|id| self.store.load_trail(id)).transpose()?.flatten();
        let superseded = match &trail {
            Some(trail) if self.checks_superseded => self.superseded_recipients(trail)?,
            _ => Vec::new(),
        };
        Ok(SinkEvent { cursor, index, entry, trail, superseded, delayed: None })
    }

    /// Returns the recipients of a message that a newer one with the same Message-ID went to.
    fn superseded_recipients(&self, trail: &Trail) -> Result<Vec<u16>, ReadError> {
        let mut superseded = Vec::new();
        for (place, recipient) in (0u16..).zip(&trail.recipients) {
            if self.store.is_resubmitted(&trail.message, &recipient.address)? {
                superseded.push(place);
            }
        }
        Ok(superseded)
    }
}

/// Records read at a time.
const RECORDS_PER_PAGE: usize = 500;
/// Interval between saved positions while all events are filtered out.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between two checks for new events.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Bounds of an event's delay, which equals the event's age.
const MIN_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(300);
/// Maximum number of delayed events of one sink.
const MAX_DELAYED: usize = 10_000;
/// Duration of an outage that raises an alarm.
const DOWN_ALARM_AFTER: Duration = Duration::from_secs(60);
