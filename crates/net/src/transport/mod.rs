//! The way to an upstream: connections, logins, transactions, verdicts, and when to leave it alone.

pub mod circuit_breaker;
mod error;
mod health;
mod mailgun_api;
mod pipelining;
mod quota;
mod reply_policy;
mod settings;
mod smtp;
mod suspicion;
mod tcp;
mod throttle;
mod upstream_selection;

pub use circuit_breaker::State;
pub use error::{ContentFault, Fault};
pub use health::{Health, Load, Room};
pub use mailgun_api::{Answer, Client, Unanswered};
pub use quota::{Period, Plan, Quota};
pub use reply_policy::{
    Certainty, Step, Verdict, Weighed, is_for_next_transaction, is_own_limit, is_too_many_recipients,
    verdict, verdict_of_answer,
};
pub use settings::{Api, Login, Pipelining, Security, Settings, Timeouts};
pub use smtp::{Connection, Dialect, EnvelopeReplies};
pub use upstream_selection::Ways;
