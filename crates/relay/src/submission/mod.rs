//! The front door: clients' sessions, from connect to the `250` that means kept.

mod authenticator;
mod cleanup;
mod connection;
mod deduplicator;
mod enqueue;
mod listener;
mod login_throttle;
mod password;
mod proxy_protocol;
mod quota;
mod rate_limit;
mod rounds;
mod settings;
mod spool;
mod strip;

pub use authenticator::Authenticator;
pub use cleanup::{HEADER_HEADROOM, MessageContext, accept_message};
pub use deduplicator::Deduplicator;
pub use listener::{BoundListener, ConnectionLimiter, SubmissionService, refuse_clients};
pub use password::{Password, PasswordHashError};
pub use quota::UserQuotas;
pub use rate_limit::RateLimiter;
pub use rounds::RelayHistory;
pub use settings::{Listener, ListenerTls, LoginPolicy, User};
pub use spool::MemoryBudget;
