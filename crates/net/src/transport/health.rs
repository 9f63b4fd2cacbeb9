use crate::host_addresses::Addresses;
use crate::transport::circuit_breaker::{Breaker, State};
use crate::transport::pipelining::Grouping;
use crate::transport::quota::Quota;
use crate::transport::settings::Settings;
use crate::transport::throttle::Pace;
use mailtrail_mail::Timestamp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How an upstream does: what the queue goes by, and what an operator may look at.
#[derive(Debug)]
pub struct Health {
    name: String,
    host: String,
    most_connections: usize,
    breaker: Mutex<Breaker>,
    grouping: Mutex<Grouping>,
    pace: Mutex<Pace>,
    quota: Mutex<Option<Quota>>,
    connections: AtomicUsize,
    slow: Mutex<Option<String>>,
    addresses: Arc<Addresses>,
}

/// What an upstream may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many messages, at least one.
    For(usize),
    /// Nothing now, and soon again: at that time, or when something that is under way has ended.
    Soon(Option<Timestamp>),
    /// Nothing for a while, until then if that is known: another may be sent its mail.
    Away(Option<Timestamp>),
    /// So many messages that no other upstream takes: it is slow, or replies to single messages speak against it.
    Reluctant(usize),
}

/// What an upstream has at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Messages under way.
    pub under_way: usize,
    /// Whether a probe is among them, and is no longer in being answered than usual.
    pub probing: bool,
    /// Those whose answers are long in coming; each has a connection of its own.
    pub stuck: usize,
}

impl Health {
    /// An upstream that is taken to be well.
    pub fn new(settings: &Settings) -> Self {
        Self {
            name: settings.name.clone(),
            host: settings.destination().to_owned(),
            most_connections: settings.connections,
            breaker: Mutex::new(Breaker::new(settings.breaker.clone())),
            grouping: Mutex::new(Grouping::new(settings.pipelining)),
            pace: Mutex::new(Pace::new(settings.rate)),
            quota: Mutex::default(),
            connections: AtomicUsize::new(0),
            slow: Mutex::default(),
            addresses: Arc::default(),
        }
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host that its mail goes to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What it may be sent beside its load, with so many messages for each connection at most.
    pub fn room(&self, now: Timestamp, load: Load, per_connection: usize) -> Room {
        if let Some(again) = self.quota().as_mut().and_then(|quota| quota.used_up_until(now)) {
            return Room::Away(Some(again));
        }
        let mut breaker = self.breaker();
        breaker.probe(now);
        let (most, reluctant) = match breaker.state() {
            State::Closed if self.is_slow(load.stuck) => {
                let answering = self.most_connections.saturating_sub(load.stuck);
                (load.stuck + answering * per_connection, true)
            }
            State::Closed => (self.most_connections * per_connection, false),
            // One message finds out, and the others need not wait for it.
            State::HalfOpen if load.probing => return Room::Away(None),
            // What hangs since before it opened finds nothing out.
            State::HalfOpen => (load.under_way + 1, false),
            State::Open { until } => match breaker.check_at() {
                Some(at) if now >= at => (load.under_way + 1, true),
                at => return Room::Away(Some(at.map_or(until, |at| at.min(until)))),
            },
            State::Forced => return Room::Away(None),
        };
        drop(breaker);
        match self.pace().room(now) {
            (0, next) => Room::Soon(next),
            (room, _) => match room.min(most.saturating_sub(load.under_way)) {
                0 if reluctant => Room::Away(None),
                0 => Room::Soon(None),
                room if reluctant => Room::Reluctant(room),
                room => Room::For(room),
            },
        }
    }

    /// Whether so many connections whose answers are long in coming make the upstream a slow one: half of them, and two
    /// where there may be two.
    pub fn is_slow(&self, stuck: usize) -> bool {
        stuck >= self.most_connections.min(2) && stuck * 2 >= self.connections()
    }

    /// What is known about its addresses.
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// Why it counts as slow, if it does.
    pub fn slow(&self) -> Option<String> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that it is slow and why, or no longer.
    pub fn set_slow(&self, why: Option<&str>) {
        *self.slow.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
    }

    /// The clock was set back by so much: nothing waits longer for that.
    pub fn set_back(&self, back: Duration) {
        self.breaker().set_back(back);
        self.pace().set_back(back);
    }

    /// The breaker's state.
    pub fn state(&self) -> State {
        self.breaker().state()
    }

    /// The breaker itself.
    pub fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How its commands are grouped.
    pub fn grouping(&self) -> MutexGuard<'_, Grouping> {
        self.grouping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How fast it is sent mail.
    pub fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is used of its plan, where there is one.
    pub fn quota(&self) -> MutexGuard<'_, Option<Quota>> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections open or being opened.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// One connection more.
    pub fn connecting(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// One connection less.
    pub fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
