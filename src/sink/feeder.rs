use super::{Delivery, Item, Outlet, Settings};
use crate::alarm::{Alarms, Kind};
use crate::clock::{Clock, Timestamp};
use crate::endpoint;
use crate::store::{Cursor, Handed, ReadError, Store};
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
                () = endpoint::too_late(&stopping) => return,
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
                self.note(end, Vec::new()).await;
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
        let (store, wants) = (self.store.clone(), self.settings.wants.clone());
        let read = tokio::task::spawn_blocking(move || {
            let (parcels, end) = store.outbox(from, PAGE)?;
            let (mut items, mut passed) = (Vec::new(), false);
            for parcel in parcels {
                passed |= !parcel.entries.is_empty();
                for (part, entry) in (0u16..).zip(parcel.entries) {
                    let trail = entry.id.map(|id| store.trail(id)).transpose()?.flatten();
                    let client = trail.as_ref().map(|trail| trail.send.client.as_str());
                    if wants.fits(entry.fact.what, client) {
                        items.push(Item { cursor: parcel.cursor, part, entry, trail });
                    }
                }
            }
            Ok::<_, ReadError>((items, passed, end))
        });
        let Ok(read) = read.await else { return Ok(LONGEST_PAUSE) };
        let (items, passed, end) = read?;
        metrics::gauge!("mailtrail_sink_backlog", "sink" => name).set(items.len() as f64);
        if items.is_empty() {
            self.stands = Some(end);
            // Our own notes are records, too: noting that one was passed would make another.
            if passed && self.noted.is_none_or(|noted| self.clock.now().since(noted) >= NOTE_EVERY) {
                self.note(end, Vec::new()).await;
            }
            return Ok(if end == from { IDLE } else { Duration::ZERO });
        }
        let delivery = self.outlet.deliver(&items).await;
        Ok(self.settle(&items, end, delivery).await)
    }

    /// Notes how far it got, and what of it was refused.
    async fn settle(&mut self, items: &[Item], end: Cursor, delivery: Delivery) -> Duration {
        let Delivery { mut done, mut refused, later } = delivery;
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
        self.count(done, &refused);
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
        // The rest of a record comes again with it.
        let until = items.get(done).map_or(end, |next| next.cursor);
        if done > 0 {
            self.stands = Some(until);
            self.note(until, refused).await;
        }
        pause
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

    fn count(&self, done: usize, refused: &[(usize, String)]) {
        for (outcome, count) in [("taken", done - refused.len()), ("refused", refused.len())] {
            let sink = self.settings.name.clone();
            metrics::counter!("mailtrail_sink_deliveries_total", "sink" => sink, "outcome" => outcome)
                .increment(count as u64);
        }
    }

    async fn note(&mut self, until: Cursor, refused: Vec<(Cursor, u16, String)>) {
        let at = self.clock.now();
        let handed = Handed { sink: self.settings.name.clone(), at, until, refused };
        self.noted = Some(at);
        if let Err(error) = self.store.hand_over(handed).await {
            tracing::error!(sink = self.settings.name, %error, "how far a sink got cannot be kept; it hears the same again");
        }
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
/// How long a dead letter is new.
const NEW: Duration = Duration::from_secs(86_400);
/// How long a sink may take nothing before that is an alarm.
const PATIENCE: Duration = Duration::from_secs(60);
