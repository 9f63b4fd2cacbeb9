use crate::host_addresses::HostAddresses;
use crate::transport::circuit_breaker::{BreakerState, CircuitBreaker};
use crate::transport::pipelining::PipeliningLevel;
use crate::transport::quota::Quota;
use crate::transport::settings::Settings;
use crate::transport::throttle::Throttle;
use mailtrail_mail::Timestamp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How an upstream does: what the queue goes by, and what an operator may look at.
#[derive(Debug)]
pub struct UpstreamHealth {
    name: String,
    host: String,
    max_connections: usize,
    breaker: Mutex<CircuitBreaker>,
    pipelining: Mutex<PipeliningLevel>,
    throttle: Mutex<Throttle>,
    quota: Mutex<Option<Quota>>,
    connections: AtomicUsize,
    slow_reason: Mutex<Option<String>>,
    addresses: Arc<HostAddresses>,
}

/// What an upstream may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many messages, at least one.
    Available(usize),
    /// Nothing now, and soon again: at that time, or when something that is under way has ended.
    Busy(Option<Timestamp>),
    /// Nothing for a while, until then if that is known: another may be sent its mail.
    Unavailable(Option<Timestamp>),
    /// So many messages that no other upstream takes: it is slow, or replies to single messages speak against it.
    LastResort(usize),
}

/// What an upstream has at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Messages under way.
    pub in_flight: usize,
    /// Whether a probe is among them, and is no longer in being answered than usual.
    pub is_probing: bool,
    /// Those whose answers are long in coming; each has a connection of its own.
    pub stuck: usize,
}

impl UpstreamHealth {
    /// An upstream that is taken to be well.
    pub fn new(settings: &Settings) -> Self {
        Self {
            name: settings.name.clone(),
            host: settings.destination_host().to_owned(),
            max_connections: settings.connections,
            breaker: Mutex::new(CircuitBreaker::new(settings.breaker.clone())),
            pipelining: Mutex::new(PipeliningLevel::new(settings.pipelining)),
            throttle: Mutex::new(Throttle::new(settings.rate)),
            quota: Mutex::default(),
            connections: AtomicUsize::new(0),
            slow_reason: Mutex::default(),
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
    pub fn capacity(&self, now: Timestamp, load: Load, per_connection: usize) -> Capacity {
        if let Some(again) = self.quota().as_mut().and_then(|quota| quota.exhausted_until(now)) {
            return Capacity::Unavailable(Some(again));
        }
        let mut breaker = self.breaker();
        breaker.try_half_open(now);
        let (most, reluctant) = match breaker.state() {
            BreakerState::Closed if self.is_slow(load.stuck) => {
                let answering = self.max_connections.saturating_sub(load.stuck);
                (load.stuck + answering * per_connection, true)
            }
            BreakerState::Closed => (self.max_connections * per_connection, false),
            // One message finds out, and the others need not wait for it.
            BreakerState::HalfOpen if load.is_probing => return Capacity::Unavailable(None),
            // What hangs since before it opened finds nothing out.
            BreakerState::HalfOpen => (load.in_flight + 1, false),
            BreakerState::Open { until } => match breaker.early_probe_at() {
                Some(at) if now >= at => (load.in_flight + 1, true),
                at => return Capacity::Unavailable(Some(at.map_or(until, |at| at.min(until)))),
            },
            BreakerState::ForcedOpen => return Capacity::Unavailable(None),
        };
        drop(breaker);
        match self.throttle().available(now) {
            (0, next) => Capacity::Busy(next),
            (room, _) => match room.min(most.saturating_sub(load.in_flight)) {
                0 if reluctant => Capacity::Unavailable(None),
                0 => Capacity::Busy(None),
                room if reluctant => Capacity::LastResort(room),
                room => Capacity::Available(room),
            },
        }
    }

    /// Whether so many connections whose answers are long in coming make the upstream a slow one: half of them, and two
    /// where there may be two.
    pub fn is_slow(&self, stuck: usize) -> bool {
        stuck >= self.max_connections.min(2) && stuck * 2 >= self.connections()
    }

    /// What is known about its addresses.
    pub fn addresses(&self) -> &Arc<HostAddresses> {
        &self.addresses
    }

    /// Why it counts as slow, if it does.
    pub fn slow_reason(&self) -> Option<String> {
        self.slow_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that it is slow and why, or no longer.
    pub fn set_slow_reason(&self, why: Option<&str>) {
        *self.slow_reason.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
    }

    /// The clock was set back by so much: nothing waits longer for that.
    pub fn on_clock_set_back(&self, back: Duration) {
        self.breaker().on_clock_set_back(back);
        self.throttle().on_clock_set_back(back);
    }

    /// The breaker's state.
    pub fn breaker_state(&self) -> BreakerState {
        self.breaker().state()
    }

    /// The breaker itself.
    pub fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How its commands are grouped.
    pub fn pipelining(&self) -> MutexGuard<'_, PipeliningLevel> {
        self.pipelining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How fast it is sent mail.
    pub fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn add_connection(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// One connection less.
    pub fn remove_connection(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
