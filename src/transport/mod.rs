//! The way to an upstream: connections, logins, transactions, verdicts, and when to leave it alone.

pub mod breaker;
mod health;
mod pace;
mod quota;
mod settings;
mod smtp;
mod verdict;
mod ways;

pub use health::{Health, Room};
pub use pace::Pace;
pub use quota::{Period, Plan, Quota};
pub use settings::{Login, Pipelining, Security, Settings};
pub use smtp::{Connection, ContentFault, EnvelopeReplies, Fault};
pub use verdict::{Verdict, verdict};
pub use ways::Ways;
