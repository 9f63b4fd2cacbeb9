//! The way to an upstream: connections, logins, transactions, verdicts, and when to leave it alone.

pub mod api;
pub mod breaker;
mod health;
mod settings;
mod smtp;
mod verdict;

pub use health::Health;
pub use settings::{Api, Login, Pipelining, Security, Settings};
pub use smtp::{Connection, ContentFault, EnvelopeReplies, Fault};
pub use verdict::{Verdict, Weighed, verdict, verdict_of_answer};
