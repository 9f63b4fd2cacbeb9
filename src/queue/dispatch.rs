//! Brings what is due to the workers: the first lane first, to the first upstream of its route that takes mail.

use super::outlet::{Outlet, Outward};
use super::worker::SETTLE_AGAIN;
use crate::alarm::Alarms;
use crate::clock::{Clock, Timestamp};
use crate::event::Words;
use crate::ledger::{Begun, Outcome, Recipient, Settled, Standing, Trail, Waits};
use crate::store::{Queued, ReadError, Store};
use crate::transport::{Health, Room, Ways};
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
    /// Where trouble is reported.
    pub alarms: Alarms,
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
    known: Vec<Queued>,
    looked: Timestamp,
    turn: usize,
    next_expiry: Timestamp,
    stopping: CancellationToken,
}

impl Queue {
    /// A queue at rest.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, clock, hostname, upstreams, ways, alarms, stopping } = parts;
        let outlet =
            |outward| Arc::new(Outlet::new(outward, &store, clock, &hostname, &alarms, stopping.clone()));
        Self {
            outlets: upstreams.into_iter().map(outlet).collect(),
            store,
            clock,
            ways,
            known: Vec::new(),
            looked: Timestamp::default(),
            turn: 0,
            next_expiry: Timestamp::default(),
            stopping,
        }
    }

    /// For looking at the upstreams.
    pub fn health(&self) -> Vec<Arc<Health>> {
        self.outlets.iter().map(|outlet| outlet.health.clone()).collect()
    }

    /// Works until we stop; then lets the attempts under way end.
    pub async fn run(mut self) {
        self.outlets.iter().for_each(|outlet| outlet.remember());
        self.recover().await;
        while !self.stopping.is_cancelled() {
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
        let interrupted = match self.store.interrupted() {
            Ok(interrupted) => interrupted,
            Err(error) => {
                tracing::error!(%error, "interrupted attempts cannot be read");
                return;
            }
        };
        for Begun { id, upstream, .. } in interrupted {
            let Ok(Some(trail)) = self.store.trail(id) else { continue };
            let Some(grip) = self.store.take(id) else { continue };
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

    /// Hands out what is due, ends what is overdue, and returns how long to wait for more.
    fn round(&mut self) -> Result<Duration, ReadError> {
        let now = self.clock.now();
        let mut rooms: Vec<_> = self.outlets.iter().map(|outlet| outlet.room(now)).collect();
        let mut wake = now.after(LONGEST_PAUSE);
        let fresh = now.since(self.looked) >= GLANCE || self.known.is_empty();
        if fresh {
            self.look(now)?;
        }
        self.hand_out(now, &mut rooms, &mut wake)?;
        if !fresh && rooms.iter().any(|room| matches!(room, Room::For(_))) {
            self.look(now)?;
            self.hand_out(now, &mut rooms, &mut wake)?;
        }
        if now >= self.next_expiry {
            self.expire(now)?;
            self.next_expiry = now.after(BETWEEN_EXPIRIES);
        }
        Ok(wake.since(now).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
    }

    /// Finds out which queues there are. Within a lane each has its turn to be the first.
    fn look(&mut self, now: Timestamp) -> Result<(), ReadError> {
        self.known = self.store.queues()?;
        self.looked = now;
        self.turn = self.turn.wrapping_add(1);
        for lane in self.known.chunk_by_mut(|one, next| one.lane == next.lane) {
            lane.rotate_left(self.turn % lane.len());
        }
        Ok(())
    }

    fn hand_out(&self, now: Timestamp, rooms: &mut [Room], wake: &mut Timestamp) -> Result<(), ReadError> {
        for queue in &self.known {
            for place in self.ways.of(&queue.waits) {
                match rooms[place] {
                    Room::Away(until) => *wake = until.map_or(*wake, |until| until.min(*wake)),
                    Room::Soon(at) => {
                        *wake = at.map_or(*wake, |at| at.min(*wake));
                        break;
                    }
                    Room::For(room) => {
                        let (taken, next) = self.store.take_due(queue, now, room)?;
                        let all = taken.len() < room;
                        if !taken.is_empty() {
                            self.outlets[place].start(taken, now);
                            rooms[place] = self.outlets[place].room(now);
                        }
                        *wake = next.map_or(*wake, |next| next.min(*wake));
                        if all || !matches!(rooms[place], Room::Away(_)) {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
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
                let settled =
                    vec![settle(&trail, Recipient::is_open, Standing::Expired, ("deadline", &text))];
                let upstream = outlet.settings.name.clone();
                outlet.settle_held(grip, Outcome { id, at: now, upstream, settled, due: None });
            }
        }
        Ok(())
    }
}

/// What becomes of those recipients of a send that `which` tells.
fn settle(
    trail: &Trail,
    which: impl Fn(&Recipient) -> bool,
    standing: Standing,
    (name, text): (&str, &str),
) -> Settled {
    let recipients = (0u16..).zip(&trail.recipients).filter(|(_, recipient)| which(recipient));
    let words = Words { name: name.to_owned(), text: Some(text.to_owned()), ..Words::default() };
    Settled { recipients: recipients.map(|(place, _)| place).collect(), standing, words }
}

const TAKEN: (&str, &str) =
    ("restart", "mailtrail ended meanwhile; the provider's event says that it was taken");
const LOST: (&str, &str) =
    ("restart", "mailtrail ended while the message was being sent: nobody knows whether it arrived");
/// Longest time without a look into the store: a lost wake-up costs no more.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long attempts under way may take to end when we stop.
const FAREWELL: Duration = Duration::from_secs(20);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// While there is more to do than upstreams take, new queues are looked for no more often than this.
const GLANCE: Duration = Duration::from_millis(50);
/// Time between two looks for what is overdue.
const BETWEEN_EXPIRIES: Duration = Duration::from_secs(10);
/// Messages of a queue that expire in one go.
const EXPIRE_AT_ONCE: usize = 500;
