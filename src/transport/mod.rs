//! The way to an upstream: connections, logins, transactions, verdicts, and when to leave it alone.

pub mod breaker;
mod fault;
mod grouping;
mod health;
mod settings;
mod smtp;
mod verdict;
mod wire;

pub use fault::{ContentFault, Fault};
pub use grouping::Grouping;
pub use health::Health;
pub use settings::{Login, Pipelining, Security, Settings};
pub use smtp::{Connection, EnvelopeReplies};
pub use verdict::{Verdict, verdict};
