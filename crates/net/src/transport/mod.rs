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

pub use circuit_breaker::BreakerState;
pub use error::{DataError, TransportError};
pub use health::{Capacity, Load, UpstreamHealth};
pub use mailgun_api::{ApiResponse, MailgunClient, RequestError};
pub use quota::{Quota, QuotaLimit, QuotaPeriod};
pub use reply_policy::{
    ApiVerdict, Certainty, ReplyClass, Step, classify_api_response, classify_reply, is_for_next_transaction,
    is_too_many_recipients, is_upstream_limit,
};
pub use settings::{Api, Login, Pipelining, Security, Settings, Timeouts};
pub use smtp::{Connection, EnvelopeReplies, Protocol};
pub use upstream_selection::UpstreamSelection;
