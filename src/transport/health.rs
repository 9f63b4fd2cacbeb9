use super::breaker::{Breaker, State};
use super::{Grouping, Settings};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How an upstream does: what the queue goes by, and what an operator may look at.
#[derive(Debug)]
pub struct Health {
    name: String,
    breaker: Mutex<Breaker>,
    grouping: Mutex<Grouping>,
    connections: AtomicUsize,
}

impl Health {
    /// An upstream that is taken to be well.
    pub fn new(settings: &Settings) -> Self {
        Self {
            name: settings.name.clone(),
            breaker: Mutex::new(Breaker::new(settings.breaker.clone())),
            grouping: Mutex::new(Grouping::new(settings.pipelining)),
            connections: AtomicUsize::new(0),
        }
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.name
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
