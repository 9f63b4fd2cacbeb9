//! The way to an upstream: connections, logins, transactions, verdicts, and when to leave it alone.

pub mod api;
pub mod breaker;
mod fault;
mod grouping;
mod health;
mod pace;
mod quota;
mod settings;
mod smtp;
mod suspicion;
mod verdict;
mod ways;
mod wire;

pub use fault::{ContentFault, Fault};
pub use grouping::Grouping;
pub use health::{Health, Load, Room};
pub use pace::Pace;
pub use quota::{Period, Plan, Quota};
pub use settings::{Api, Login, Pipelining, Security, Settings, Timeouts};
pub use smtp::{Connection, Dialect, EnvelopeReplies};
pub use verdict::{
    Certainty, Step, Verdict, Weighed, is_for_next_transaction, is_own_limit, is_too_many_recipients,
    verdict, verdict_of_answer,
};
pub use ways::Ways;
