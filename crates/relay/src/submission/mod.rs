//! The front door: clients' sessions, from connect to the `250` that means kept.

mod authenticator;
mod cleanup;
mod client_stream;
mod connection;
mod connection_limiter;
mod deduplicator;
mod enqueue;
mod listener;
mod login_throttle;
mod message_context;
mod password;
mod proxy_protocol;
mod quota;
mod rate_limit;
mod rounds;
mod service;
mod settings;
mod spool;
mod strip;

pub use authenticator::Authenticator;
pub use cleanup::accept_message;
pub use connection_limiter::ConnectionLimiter;
pub use deduplicator::Deduplicator;
pub use listener::{BoundListener, refuse_clients};
pub use message_context::{HEADER_HEADROOM, MessageContext};
pub use password::{Password, PasswordHashError};
pub use quota::UserQuotas;
pub use rate_limit::RateLimiter;
pub use rounds::RelayHistory;
pub use service::SubmissionService;
pub use settings::{Listener, ListenerTls, LoginPolicy, User};
pub use spool::MemoryBudget;
