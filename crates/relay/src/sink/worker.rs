use crate::alarms::{Alarms, Kind};
use crate::sink::event::Item;
use crate::sink::{Delivery, Outlet, Settings, Wants};
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::webhook_client;
use mailtrail_store::{Cursor, Delayed, Entry, Handed, ReadError, Store};
use mailtrail_trail::Trail;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Brings a sink what happens.
pub struct Feeder {
    store: Store,
    clock: Clock,
    alarms: Alarms,
    settings: Settings,
    outlet: Outlet,
    /// Where it stands, which may be behind what is noted.
    stands: Option<Cursor>,
    noted: Option<Timestamp>,
    /// Why and since when it takes nothing.
    stuck: Option<(String, Timestamp)>,
    pause: Duration,
    /// Whether it was found ready once.
    probed: bool,
}

impl Feeder {
    /// A feeder at rest.
    pub fn new(store: Store, clock: Clock, alarms: Alarms, settings: Settings) -> Self {
        let outlet = Outlet::new(&settings.kind, clock);
        Self {
            store,
            clock,
            alarms,
            settings,
            outlet,
            stands: None,
            noted: None,
            stuck: None,
            pause: FIRST_PAUSE,
            probed: false,
        }
    }

    /// Feeds until we stop.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.round() => pause,
                // Nobody knows then whether the sink has it: it gets it again.
                () = webhook_client::too_late(&stopping) => return,
            };
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Offers the next items; says how long to wait for more.
    async fn round(&mut self) -> Duration {
        match self.step().await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(sink = self.settings.name, %error, "a sink cannot be fed; it is tried again");
                LONGEST_PAUSE
            }
        }
    }

    async fn step(&mut self) -> Result<Duration, ReadError> {
        let name = self.settings.name.clone();
        if let Some(wished) = self.store.take_rewind(&name) {
            self.stands = Some(wished);
        }
        let from = match (self.stands, self.store.handed(&name)?) {
            (Some(stands), _) => stands,
            (None, Some((handed, _))) => handed,
            (None, None) => {
                // One that is new hears of what happens from now on.
                let end = self.store.log_end()?;
                self.note(Noted::until(end)).await;
                end
            }
        };
        self.stands = Some(from);
        if !self.probed {
            if let Err(why) = self.outlet.probe().await {
                let waited = self.stick(&why);
                return Ok(self.ill(&why, waited));
            }
            self.probed = true;
            self.well();
        }
        self.outlet.tend().await;
        let reading = Reading {
            store: self.store.clone(),
            sink: name.clone(),
            wants: self.settings.wants.clone(),
            heeds_newer_sends: self.outlet.heeds_newer_sends(),
            now: self.clock.now(),
        };
        let Ok(page) = tokio::task::spawn_blocking(move || reading.page(from)).await else {
            return Ok(LONGEST_PAUSE);
        };
        let page = page?;
        let new = page.items.iter().filter(|item| item.delayed.is_none()).count();
        metrics::gauge!("mailtrail_sink_backlog", "sink" => name.clone()).set(new as f64);
        metrics::gauge!("mailtrail_sink_delayed", "sink" => name).set(page.all_delayed as f64);
        if page.items.is_empty() && page.gone.is_empty() {
            self.stands = Some(page.end);
            // Our own notes are records, too: noting that one was passed would make another.
            if page.passed && self.noted.is_none_or(|noted| self.clock.now().since(noted) >= NOTE_EVERY) {
                self.note(Noted::until(page.end)).await;
            }
            return Ok(if page.end == from { IDLE } else { Duration::ZERO });
        }
        let delivery = self.outlet.deliver(&page.items).await;
        Ok(self.settle(page, delivery).await)
    }

    /// Notes how far it got, what of it was refused, and what is to come again alone.
    async fn settle(&mut self, page: Page, delivery: Delivery) -> Duration {
        let Delivery { mut done, mut refused, delayed, mut later } = delivery;
        let now = self.clock.now();
        let delayed = self.still_delayed(&page, delayed, &mut refused, &mut done, &mut later);
        let pause = match later {
            None => {
                self.well();
                Duration::ZERO
            }
            Some(why) => {
                if done > 0 {
                    self.well();
                }
                let waited = self.stick(&why);
                if self.settings.give_up_after.is_some_and(|patience| waited >= patience) {
                    refused.push((done, format!("given up after {} s: {why}", waited.as_secs())));
                    done += 1;
                    self.stuck = None;
                    Duration::ZERO
                } else {
                    self.ill(&why, waited)
                }
            }
        };
        self.count(done, &refused, delayed.len());
        // The rest of a record comes again with it.
        let next = page.items[done..].iter().find(|item| item.delayed.is_none());
        let until = next.map_or(page.end, |next| next.cursor);
        let due = |item: &Item| now.after(now.since(item.entry.written).clamp(FIRST_DELAY, LONGEST_DELAY));
        let delayed = delayed.into_iter().map(|index| &page.items[index]);
        let delayed = delayed
            .filter(|item| item.cursor < until || item.delayed.is_some())
            .map(|item| Delayed { due: due(item), cursor: item.cursor, part: item.part });
        let resumed = page.items[..done].iter().filter_map(Item::as_delayed).chain(page.gone.iter().copied());
        let noted = Noted {
            until,
            refused: self.name_refused(&page.items, refused),
            delayed: delayed.collect(),
            resumed: resumed.collect(),
        };
        if done > 0 || !page.gone.is_empty() {
            self.stands = Some(until);
            self.note(noted).await;
        }
        pause
    }

    /// Those of the delayed items that are offered again; the rest is refused, or stops the sink.
    fn still_delayed(
        &self,
        page: &Page,
        delayed: Vec<(usize, String)>,
        refused: &mut Vec<(usize, String)>,
        done: &mut usize,
        later: &mut Option<String>,
    ) -> Vec<usize> {
        let (now, mut room) = (self.clock.now(), MAX_DELAYED.saturating_sub(page.all_delayed));
        let mut still = Vec::new();
        for (index, why) in delayed {
            let item = &page.items[index];
            let waited = now.since(item.entry.written);
            if self.settings.give_up_after.is_some_and(|patience| waited >= patience) {
                refused.push((index, format!("given up after {} s: {why}", waited.as_secs())));
                continue;
            }
            if item.delayed.is_none() {
                if room == 0 {
                    // It and everything after it come again together.
                    *done = index;
                    *later = Some(format!("{MAX_DELAYED} items are delayed already: {why}"));
                    refused.retain(|(refused, _)| *refused < index);
                    break;
                }
                room -= 1;
            }
            tracing::debug!(sink = self.settings.name, item = item.id(), why, "an item is delayed");
            still.push(index);
        }
        refused.sort_by_key(|(index, _)| *index);
        still
    }

    /// The refused items as they are noted; says so.
    fn name_refused(&self, items: &[Item], refused: Vec<(usize, String)>) -> Vec<(Cursor, u16, String)> {
        let refused = refused.into_iter().map(|(index, why)| {
            let item = &items[index];
            tracing::error!(sink = self.settings.name, item = item.id(), why, "refused for good");
            (item.cursor, item.part, why)
        });
        let refused: Vec<_> = refused.collect();
        if !refused.is_empty() {
            let name = &self.settings.name;
            let text = format!("it refused for good what happened; `mailtrail sink dead {name}` lists it");
            self.alarms.note(Kind::Dead, &format!("sink {name}"), &text, NEW);
        }
        refused
    }

    fn well(&mut self) {
        self.pause = FIRST_PAUSE;
        self.stuck = None;
        self.alarms.clear(Kind::Sink, &self.settings.name);
    }

    /// It takes nothing, and that is why; for how long already.
    fn stick(&mut self, why: &str) -> Duration {
        let now = self.clock.now();
        let since = self.stuck.as_ref().map_or(now, |(_, since)| *since);
        self.stuck = Some((why.to_owned(), since));
        now.since(since)
    }

    fn ill(&mut self, why: &str, waited: Duration) -> Duration {
        if waited >= PATIENCE {
            let text = format!("takes nothing: {why}; what happens meanwhile waits in the journal");
            self.alarms.set(Kind::Sink, &self.settings.name, Some(text));
        }
        tracing::warn!(sink = self.settings.name, why, "a sink takes nothing for now");
        let pause = self.pause.mul_f64(1.0 + fastrand::f64() / 4.0);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }

    fn count(&self, done: usize, refused: &[(usize, String)], delayed: usize) {
        let taken = done.saturating_sub(refused.len() + delayed);
        for (outcome, count) in [("taken", taken), ("refused", refused.len()), ("delayed", delayed)] {
            let sink = self.settings.name.clone();
            metrics::counter!("mailtrail_sink_deliveries_total", "sink" => sink, "outcome" => outcome)
                .increment(count as u64);
        }
    }

    async fn note(&mut self, noted: Noted) {
        let at = self.clock.now();
        let Noted { until, refused, delayed, resumed } = noted;
        let handed = Handed { sink: self.settings.name.clone(), at, until, refused, delayed, resumed };
        self.noted = Some(at);
        if let Err(error) = self.store.hand_over(handed).await {
            tracing::error!(sink = self.settings.name, %error, "how far a sink got cannot be kept; it hears the same again");
        }
    }
}

/// What is noted of a delivery.
struct Noted {
    until: Cursor,
    refused: Vec<(Cursor, u16, String)>,
    delayed: Vec<Delayed>,
    resumed: Vec<Delayed>,
}

impl Noted {
    /// Nothing but how far it got.
    fn until(until: Cursor) -> Self {
        Self { until, refused: Vec::new(), delayed: Vec::new(), resumed: Vec::new() }
    }
}

/// What a sink is offered at once: delayed items that are due, and new ones behind them.
struct Page {
    items: Vec<Item>,
    /// Delayed items that the journal has no longer.
    gone: Vec<Delayed>,
    /// How many items are delayed, due or not.
    all_delayed: usize,
    /// Whether there was anything new, wanted or not.
    passed: bool,
    end: Cursor,
}

/// What is needed to read a page.
struct Reading {
    store: Store,
    sink: String,
    wants: Wants,
    heeds_newer_sends: bool,
    now: Timestamp,
}

impl Reading {
    fn page(&self, from: Cursor) -> Result<Page, ReadError> {
        let (mut items, mut gone, mut passed) = (Vec::new(), Vec::new(), false);
        for delayed in self.store.delayed(&self.sink, self.now, PAGE)? {
            match self.store.entry(delayed.cursor, delayed.part)? {
                Some(entry) => {
                    let item = self.item(delayed.cursor, delayed.part, entry)?;
                    items.push(Item { delayed: Some(delayed.due), ..item });
                }
                None => gone.push(delayed),
            }
        }
        let (parcels, end) = self.store.outbox(from, PAGE)?;
        for parcel in parcels {
            passed |= !parcel.entries.is_empty();
            for (part, entry) in (0u16..).zip(parcel.entries) {
                let item = self.item(parcel.cursor, part, entry)?;
                let client = item.trail.as_ref().map(|trail| trail.send.client.as_str());
                if self.wants.fits(item.entry.fact.what, client) {
                    items.push(item);
                }
            }
        }
        let all_delayed = self.store.count_delayed(&self.sink)?;
        Ok(Page { items, gone, all_delayed, passed, end })
    }

    fn item(&self, cursor: Cursor, part: u16, entry: Entry) -> Result<Item, ReadError> {
        let trail = entry.id.map(|id| self.store.trail(id)).transpose()?.flatten();
        let superseded = match &trail {
            Some(trail) if self.heeds_newer_sends => self.superseded(trail)?,
            _ => Vec::new(),
        };
        Ok(Item { cursor, part, entry, trail, superseded, delayed: None })
    }

    /// The recipients of a send that a newer one of the same message went to.
    fn superseded(&self, trail: &Trail) -> Result<Vec<u16>, ReadError> {
        let mut superseded = Vec::new();
        for (place, recipient) in (0u16..).zip(&trail.recipients) {
            if self.store.is_sent_again(&trail.send, &recipient.address)? {
                superseded.push(place);
            }
        }
        Ok(superseded)
    }
}

/// Records that are read at a time.
const PAGE: usize = 500;
/// Time between two notes of what a sink did not want to hear of.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Time between two looks for something new.
const IDLE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long an item is delayed: as long as it is old, within these.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// Items of one sink that are delayed at a time.
const MAX_DELAYED: usize = 10_000;
/// How long a dead letter is new.
const NEW: Duration = Duration::from_secs(86_400);
/// How long a sink may take nothing before that is an alarm.
const PATIENCE: Duration = Duration::from_secs(60);
