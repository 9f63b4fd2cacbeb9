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

/// Health of an upstream, used by the queue and shown to operators.
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

/// Capacity of an upstream at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// Accepts this number of messages, at least one.
    Available(usize),
    /// Accepts none for the moment: until a time, or until an attempt in progress ends.
    Busy(Option<Timestamp>),
    /// Accepts none for longer, until a time if known; another upstream may get its messages.
    Unavailable(Option<Timestamp>),
    /// Accepts this number of messages that no other upstream accepts: it is slow, or replies to single messages
    /// indicate a failure.
    LastResort(usize),
}

/// Current load of an upstream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Messages in progress.
    pub in_flight: usize,
    /// Whether a probe is among them, and is no longer in being answered than usual.
    pub is_probing: bool,
    /// Messages with a slow reply; each occupies a connection.
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

    /// Name of the upstream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host that its mail goes to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the capacity besides the load, with a maximum number of messages per connection.
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

    /// Returns whether this number of stuck connections makes the upstream slow: half of them, and at least two where
    /// two are allowed.
    pub fn is_slow(&self, stuck: usize) -> bool {
        stuck >= self.max_connections.min(2) && stuck * 2 >= self.connections()
    }

    /// Recent results of its addresses.
    pub fn addresses(&self) -> &Arc<HostAddresses> {
        &self.addresses
    }

    /// Reason for which it counts as slow, if it does.
    pub fn slow_reason(&self) -> Option<String> {
        self.slow_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or clears the reason for slowness.
    pub fn set_slow_reason(&self, why: Option<&str>) {
        *self.slow_reason.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
    }

    /// Moves all times back after the clock was set back.
    pub fn on_clock_set_back(&self, back: Duration) {
        self.breaker().on_clock_set_back(back);
        self.throttle().on_clock_set_back(back);
    }

    /// State of the breaker.
    pub fn breaker_state(&self) -> BreakerState {
        self.breaker().state()
    }

    /// Locks the breaker.
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

    /// Locks the usage of the quota, if there is one.
    pub fn quota(&self) -> MutexGuard<'_, Option<Quota>> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections open or being opened.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Counts a new connection.
    pub fn add_connection(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a closed connection.
    pub fn remove_connection(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
