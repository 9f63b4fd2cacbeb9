//! Brings what is due to the workers: the first lane first, to the first upstream of its route that takes mail.

use crate::alarms::Alarms;
use crate::monitoring::Pulse;
use crate::queue::attempt::said;
use crate::queue::smtp_worker::SETTLE_AGAIN;
use crate::queue::upstream_pool::{Office, Outlet, Outward};
use mailtrail_mail::{Clock, ClockWatch, Timestamp, TrackingId};
use mailtrail_net::transport::{Health, Room, Ways};
use mailtrail_store::{Grip, Queued, ReadError, Store};
use mailtrail_trail::{Begun, Outcome, Recipient, Settled, Standing, Trail, Waits, suppression};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What a queue needs.
pub struct Parts {
    /// Where the mail is.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Our name for EHLO.
    pub hostname: String,
    /// The upstreams, in the order of preference; at least one.
    pub upstreams: Vec<Outward>,
    /// Which of them mail goes to.
    pub ways: Ways,
    /// Who gets no mail.
    pub suppression: suppression::Settings,
    /// Where trouble is reported.
    pub alarms: Alarms,
    /// Where it is noted what goes out.
    pub pulse: Pulse,
    /// What knows whether the clock was set.
    pub watch: ClockWatch,
    /// Set when we stop.
    pub stopping: CancellationToken,
}

/// The queue.
pub struct Queue {
    store: Store,
    clock: Clock,
    outlets: Vec<Arc<Outlet>>,
    ways: Ways,
    /// The queues that held mail when they were looked at last.
    known: Arc<[Queued]>,
    looked: Timestamp,
    /// In which turn each was handed out from last.
    served: HashMap<Queued, u64>,
    turn: u64,
    next_expiry: Timestamp,
    shown: Timestamp,
    watch: ClockWatch,
    /// The steps of the clock that were seen to.
    steps: (u64, i64),
    /// Whether mail may wait whose wait began at a time that is still to come.
    looks_ahead: bool,
    next_pull: Timestamp,
    stopping: CancellationToken,
}

impl Queue {
    /// A queue at rest.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, clock, hostname, upstreams, ways, suppression, alarms, pulse, watch, stopping } =
            parts;
        let office = Office {
            store: store.clone(),
            clock,
            hostname,
            ways: Arc::new(ways.clone()),
            suppression: Arc::new(suppression),
            alarms,
            pulse,
            watch: watch.clone(),
        };
        let outlet = |outward| Arc::new(Outlet::new(outward, office.clone(), stopping.clone()));
        Self {
            outlets: upstreams.into_iter().map(outlet).collect(),
            store,
            clock,
            ways,
            known: Arc::default(),
            looked: Timestamp::default(),
            served: HashMap::new(),
            turn: 0,
            next_expiry: Timestamp::default(),
            shown: Timestamp::default(),
            steps: watch.steps(),
            watch,
            looks_ahead: true,
            next_pull: Timestamp::default(),
            stopping,
        }
    }

    /// For looking at the upstreams.
    pub fn health(&self) -> Vec<Arc<Health>> {
        self.outlets.iter().map(|outlet| outlet.health.clone()).collect()
    }

    /// Works until we stop; then lets the attempts under way end.
    pub async fn run(mut self) {
        self.stopping.run_until_cancelled(self.store.opened()).await;
        self.outlets.iter().for_each(|outlet| outlet.remember());
        self.recover().await;
        while !self.stopping.is_cancelled() {
            self.store.at_rest().await;
            let pause = self.round().unwrap_or_else(|error| {
                tracing::error!(%error, "the queue cannot be read");
                SETTLE_AGAIN
            });
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = self.store.due_bell().heard(pause) => {}
            }
        }
        // An upstream that hangs does not hold us: what is left is unknown to the next queue, which must find nobody
        // at work.
        let workers = || futures_util::future::join_all(self.outlets.iter().map(|outlet| outlet.retire()));
        if timeout(FAREWELL, workers()).await.is_err() {
            self.outlets.iter().for_each(|outlet| outlet.send_away());
            workers().await;
        }
        for outlet in &self.outlets {
            outlet.settled().await;
        }
    }

    /// Attempts that the end of the process cut off: nobody knows what became of them.
    async fn recover(&self) {
        let Some(interrupted) = self.read(|| self.store.interrupted()).await else { return };
        for Begun { id, upstream, .. } in interrupted {
            let Some(grip) = self.wait_for(id).await else { return };
            let Some(trail) = self.read(|| self.store.trail(id)).await else { return };
            let Some(trail) = trail else { continue };
            let now = self.clock.now();
            let outlet = self.outlets.iter().find(|outlet| outlet.settings.name == upstream);
            let Some(outlet) = outlet.or(self.outlets.first()) else { continue };
            let settled = [
                settle(&trail, |one| one.waits() && one.is_reported(), Standing::Relayed, TAKEN),
                settle(&trail, |one| one.waits() && !one.is_reported(), Standing::Unknown, LOST),
            ];
            let settled = settled.into_iter().filter(|settled| !settled.recipients.is_empty()).collect();
            tracing::warn!(%id, upstream, "an attempt was cut off");
            outlet.settle_held(
                grip,
                Outcome { id, at: now, upstream, settled, due: Some(now.after(outlet.unknown_wait)) },
            );
            outlet.settled().await;
        }
    }

    /// Whoever has the send has it for a moment only; `None` when we stop meanwhile.
    async fn wait_for(&self, id: TrackingId) -> Option<Grip> {
        loop {
            if let Some(grip) = self.store.take(id) {
                return Some(grip);
            }
            self.stopping.run_until_cancelled(tokio::time::sleep(IN_OTHER_HANDS)).await?;
        }
    }

    /// What `look` finds, however long that takes: a cut-off attempt that is passed over would be made again. `None` when
    /// we stop.
    async fn read<T>(&self, look: impl Fn() -> Result<T, ReadError>) -> Option<T> {
        loop {
            match look() {
                Ok(found) => return Some(found),
                Err(error) => {
                    tracing::error!(%error, "attempts that were cut off cannot be read; nothing is sent")
                }
            }
            self.stopping.run_until_cancelled(tokio::time::sleep(SETTLE_AGAIN)).await?;
        }
    }

    /// Hands out what is due, ends what is overdue, and returns how long to wait for more.
    fn round(&mut self) -> Result<Duration, ReadError> {
        let now = self.clock.now();
        self.heed_clock(now)?;
        let mut rooms: Vec<_> = self.outlets.iter().map(|outlet| outlet.room(now)).collect();
        let mut wake = now.after(LONGEST_PAUSE);
        let fresh = now.since(self.looked) >= GLANCE || self.known.is_empty();
        if fresh {
            self.look(now)?;
        }
        self.hand_out(now, &mut rooms, &mut wake)?;
        if !fresh && rooms.iter().any(|room| matches!(room, Room::For(_) | Room::Reluctant(_))) {
            let before = self.known.clone();
            self.look(now)?;
            if self.known.iter().any(|queue| !before.contains(queue)) {
                self.hand_out(now, &mut rooms, &mut wake)?;
            }
        }
        if now.since(self.shown) >= BETWEEN_SHOWS {
            self.outlets.iter().for_each(|outlet| outlet.show());
            self.shown = now;
        }
        if now >= self.next_expiry && self.watch.is_steady() {
            self.expire(now)?;
            self.next_expiry = now.after(BETWEEN_EXPIRIES);
        }
        Ok(wake.since(now).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
    }

    /// What waits does not wait longer because the clock was set back, or was ahead before the start.
    fn heed_clock(&mut self, now: Timestamp) -> Result<(), ReadError> {
        let (steps, moved) = self.watch.steps();
        if steps != self.steps.0 {
            let back = Duration::from_millis(u64::try_from(self.steps.1 - moved).unwrap_or_default());
            self.outlets.iter().for_each(|outlet| outlet.health.set_back(back));
            (self.looked, self.shown, self.next_expiry, self.next_pull) = Default::default();
            self.steps = (steps, moved);
        }
        // An attempt that ended before the step may be noted after it.
        if now >= self.next_pull && (self.looks_ahead || !self.watch.is_steady()) {
            self.looks_ahead = self.pull_in(now)?;
            self.next_pull = if self.looks_ahead { now } else { now.after(BETWEEN_EXPIRIES) };
        }
        Ok(())
    }

    /// Has mail wait from now on that began to wait at a time that is still to come; true when there may be more.
    fn pull_in(&self, now: Timestamp) -> Result<bool, ReadError> {
        let mut may_be_more = false;
        for queue in self.store.queues()?.into_iter().filter(|queue| queue.waits != Waits::Held) {
            let outlet = self.ways.of(&queue.waits).first().and_then(|place| self.outlets.get(*place));
            let Some(outlet) = outlet.or(self.outlets.first()) else { continue };
            let ahead = self.store.queued_ahead(&queue, now, PULL_IN_AT_ONCE)?;
            if let Some((first, _)) = ahead.first() {
                tracing::warn!(%first, mails = ahead.len(), "mail waited longer because the clock was ahead; it waits no longer");
            }
            may_be_more |= ahead.len() == PULL_IN_AT_ONCE;
            for (id, wait) in ahead {
                let Some(grip) = self.store.take(id) else { continue };
                let (upstream, due) = (outlet.settings.name.clone(), Some(now.after(wait)));
                outlet.settle_held(grip, Outcome { id, at: now, upstream, settled: Vec::new(), due });
            }
        }
        Ok(may_be_more)
    }

    /// Finds out which queues there are. Within a lane the one comes first that was handed out from least lately.
    fn look(&mut self, now: Timestamp) -> Result<(), ReadError> {
        let mut known = self.store.queues()?;
        self.looked = now;
        known.sort_by_key(|queue| (queue.lane, self.served.get(queue).copied()));
        self.known = known.into();
        Ok(())
    }

    fn hand_out(
        &mut self,
        now: Timestamp,
        rooms: &mut [Room],
        wake: &mut Timestamp,
    ) -> Result<(), ReadError> {
        let mut again = Vec::new();
        for queue in &*self.known.clone() {
            let mut reluctant = None;
            for place in self.ways.of(&queue.waits) {
                match rooms[place] {
                    Room::Away(until) => *wake = until.map_or(*wake, |until| until.min(*wake)),
                    Room::Soon(at) => {
                        *wake = at.map_or(*wake, |at| at.min(*wake));
                        reluctant = None;
                        break;
                    }
                    Room::Reluctant(_) => reluctant = reluctant.or(Some(place)),
                    Room::For(_) => {
                        let found = self.hand_out_to(place, queue, now, rooms, wake)?;
                        again.extend(found.again.then(|| (place, queue.clone())));
                        if found.all || !matches!(rooms[place], Room::Away(_) | Room::Reluctant(_)) {
                            reluctant = None;
                            break;
                        }
                    }
                }
            }
            if let Some(place) = reluctant {
                let found = self.hand_out_to(place, queue, now, rooms, wake)?;
                again.extend(found.again.then(|| (place, queue.clone())));
            }
            self.hand_out_unable(queue, now, rooms, wake)?;
        }
        // Nothing else was due: the message that probed last does so again.
        for (place, queue) in again {
            if matches!(rooms[place], Room::For(_) | Room::Reluctant(_)) {
                let (taken, _) = self.store.take_due(&queue, now, 1)?;
                self.start(place, &queue, taken, now, rooms);
            }
        }
        Ok(())
    }

    /// Hands mail out to upstreams that were not able to take it, where they may be by now.
    fn hand_out_unable(
        &mut self,
        queue: &Queued,
        now: Timestamp,
        rooms: &mut [Room],
        wake: &mut Timestamp,
    ) -> Result<(), ReadError> {
        for place in self.ways.unable(&queue.waits) {
            let Room::For(room) = rooms[place] else { continue };
            let outlet = &self.outlets[place];
            let (taken, next) = self.store.take_due(queue, outlet.offers_again(now), room)?;
            *wake = next.map_or(*wake, |next| next.after(outlet.retry.max).min(*wake));
            if !taken.is_empty() {
                self.start(place, queue, taken, now, rooms);
            }
        }
        Ok(())
    }

    /// Hands out of a queue what an upstream has room for; but not its last probe, which waits until others had a turn.
    fn hand_out_to(
        &mut self,
        place: usize,
        queue: &Queued,
        now: Timestamp,
        rooms: &mut [Room],
        wake: &mut Timestamp,
    ) -> Result<Found, ReadError> {
        let (Room::For(room) | Room::Reluctant(room)) = rooms[place] else { return Ok(Found::default()) };
        let last = self.outlets[place].last_probe();
        let (mut taken, next) =
            self.store.take_due(queue, now, room.saturating_add(usize::from(last.is_some())))?;
        let before = taken.len();
        taken.retain(|grip| Some(grip.id()) != last);
        let again = taken.len() < before;
        taken.truncate(room);
        let all = taken.len() < room;
        self.start(place, queue, taken, now, rooms);
        *wake = next.map_or(*wake, |next| next.min(*wake));
        Ok(Found { all, again })
    }

    fn start(&mut self, place: usize, queue: &Queued, taken: Vec<Grip>, now: Timestamp, rooms: &mut [Room]) {
        if !taken.is_empty() {
            self.turn += 1;
            self.served.insert(queue.clone(), self.turn);
            self.outlets[place].start(taken, now);
            rooms[place] = self.outlets[place].room(now);
        }
    }

    /// The deadline holds wherever a message waits: for an upstream that is away, or for an operator.
    fn expire(&self, now: Timestamp) -> Result<(), ReadError> {
        for queue in self.store.queues()? {
            let outlet = self.ways.of(&queue.waits).first().map_or(0, |place| *place);
            let Some(outlet) = self.outlets.get(outlet) else { continue };
            let age = outlet.retry.give_up_after;
            let overdue =
                self.store.queued_since(&queue, |accepted| now.since(accepted) >= age, EXPIRE_AT_ONCE)?;
            for id in overdue {
                let Some(grip) = self.store.take(id) else { continue };
                let Some(trail) = self.store.trail(id)? else { continue };
                let why =
                    if queue.waits == Waits::Held { "it was held until then" } else { "no upstream took it" };
                let text = format!("given up at its age of {} s: {why}", age.as_secs());
                let expired = settle(&trail, Recipient::is_open, Standing::Expired, ("deadline", &text));
                if expired.recipients.is_empty() {
                    continue;
                }
                let settled = vec![expired];
                let upstream = outlet.settings.name.clone();
                outlet.settle_held(grip, Outcome { id, at: now, upstream, settled, due: None });
            }
        }
        Ok(())
    }
}

/// What an upstream was handed of a queue.
#[derive(Debug, Default)]
struct Found {
    /// Whether that was all that was due.
    all: bool,
    /// Whether its last probe is due.
    again: bool,
}

/// What becomes of those recipients of a send that `which` tells.
fn settle(
    trail: &Trail,
    which: impl Fn(&Recipient) -> bool,
    standing: Standing,
    (name, text): (&str, &str),
) -> Settled {
    let recipients = (0u16..).zip(&trail.recipients).filter(|(_, recipient)| which(recipient));
    Settled { recipients: recipients.map(|(place, _)| place).collect(), standing, words: said(name, text) }
}

const TAKEN: (&str, &str) =
    ("restart", "mailtrail ended meanwhile; the provider's event says that it was taken");
const LOST: (&str, &str) =
    ("restart", "mailtrail ended while the message was being sent: nobody knows whether it arrived");
/// Longest time without a look into the store: a lost wake-up costs no more.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long attempts under way may take to end when we stop.
const FAREWELL: Duration = Duration::from_secs(20);
/// Pause between two tries to take a send that somebody has.
const IN_OTHER_HANDS: Duration = Duration::from_millis(50);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// While there is more to do than upstreams take, new queues are looked for no more often than this.
const GLANCE: Duration = Duration::from_millis(50);
/// Time between two looks for what is overdue.
const BETWEEN_EXPIRIES: Duration = Duration::from_secs(10);
/// How old the metrics of upstreams may be, beside [`LONGEST_PAUSE`].
const BETWEEN_SHOWS: Duration = Duration::from_secs(1);
/// Messages of a queue that expire in one go.
const EXPIRE_AT_ONCE: usize = 500;
/// Messages of a queue that are looked after at once when the clock was set back.
const PULL_IN_AT_ONCE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::retry::Retry;
    use bytes::Bytes;
    use mailtrail_mail::{Moment, Rate};
    use mailtrail_net::tls;
    use mailtrail_net::transport::{Pipelining, Security, Settings, circuit_breaker};
    use mailtrail_trail::provider::Provider;
    use mailtrail_trail::{Accepted, Begun, Send, What};

    /// An upstream where nobody is.
    fn outward(rate: Option<Rate>) -> Outward {
        let settings = Settings {
            name: "up".into(),
            provider: Provider::Plain,
            domain: None,
            host: "127.0.0.1".into(),
            port: 1,
            security: Security::None,
            ca_file: None,
            login: None,
            api: None,
            connections: 20,
            pipelining: Pipelining::Full,
            idle_timeout: Duration::from_secs(60),
            connection_age: Duration::from_secs(600),
            messages_per_connection: 1000,
            rate,
            plan: None,
            breaker: circuit_breaker::Settings::default(),
            timeouts: Default::default(),
        };
        let tls = tls::connector(None).unwrap();
        let lists = suppression::Lists::default();
        Outward { settings, retry: Retry::default(), unknown_wait: Duration::ZERO, tls, lists }
    }

    fn queue(store: &Store, clock: Clock, outward: Outward) -> Queue {
        let ways = Ways::new(vec![(outward.settings.name.clone(), false)], &[]);
        Queue::new(Parts {
            store: store.clone(),
            clock,
            hostname: "relay.example.com".into(),
            upstreams: vec![outward],
            ways,
            suppression: suppression::Settings::default(),
            alarms: Alarms::new(clock),
            pulse: Pulse::default(),
            watch: ClockWatch::new(clock),
            stopping: CancellationToken::new(),
        })
    }

    async fn accept(store: &Store, clock: Clock, route: Option<&str>) -> TrackingId {
        let id = TrackingId::new(clock.now(), fastrand::u128(..));
        let send = Send { route: route.map(Into::into), ..Send::new(id, "test") };
        let accepted = Accepted { send, recipients: vec!["a@example.net".parse().unwrap()] };
        store.accept_and_apply(accepted, Bytes::from_static(b"A: b\r\n\r\n")).await.unwrap();
        id
    }

    /// A token comes every second; in between other things ring.
    #[tokio::test]
    async fn the_queues_of_a_lane_take_turns_however_often_they_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        for looks in 1..5 {
            let moment: &Moment = Box::leak(Box::default());
            let (clock, begun) = (Clock::Set(moment), Timestamp::from_seconds(1_789_387_200));
            moment.set(begun);
            let folder = directory.path().join(looks.to_string());
            std::fs::create_dir(&folder).unwrap();
            let (store, _) = Store::open(&folder, clock).unwrap();
            let mut sends = [Vec::new(), Vec::new(), Vec::new()];
            for (number, sends) in sends.iter_mut().enumerate() {
                for _ in 0..9 {
                    sends.push(accept(&store, clock, [None, Some("news"), Some("shop")][number]).await);
                }
            }
            let rate = Rate { messages: 1, time: Duration::from_secs(1) };
            let mut queue = queue(&store, clock, outward(Some(rate)));
            for second in 0..9 {
                for look in 0..looks {
                    moment.set(begun.after(Duration::from_millis(second * 1000 + look * 200)));
                    queue.round().unwrap();
                }
            }
            let begun = sends.map(|ids| ids.iter().filter(|id| store.take(**id).is_none()).count());
            assert_eq!(begun, [3; 3], "{looks} looks a second");
        }
    }

    #[tokio::test]
    async fn an_attempt_that_was_cut_off_is_unknown_whoever_has_its_send() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::System;
        let (store, _) = Store::open(directory.path(), clock).unwrap();
        let id = accept(&store, clock, None).await;
        store.begin(Begun { id, at: clock.now(), upstream: "up".into() }).await.unwrap();
        store.settle_down().await;
        let grip = store.take(id).unwrap();
        let queue = queue(&store, clock, outward(None));
        let stopping = queue.stopping.clone();
        let work = tokio::spawn(queue.run());
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(grip);
        let trail = loop {
            store.due_bell().ring();
            let trail = store.trail(id).unwrap().unwrap();
            if trail.facts.len() > 1 {
                break trail;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        stopping.cancel();
        work.await.unwrap();
        assert_eq!(trail.facts[1].what, What::Attempted(Standing::Unknown));
    }
}
