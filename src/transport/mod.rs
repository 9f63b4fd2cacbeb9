//! The way to an upstream: connections, logins, transactions, verdicts, and when to leave it alone.

pub mod breaker;
mod settings;

pub use settings::{Login, Pipelining, Security, Settings};
