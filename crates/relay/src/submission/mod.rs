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

pub use authenticator::Accounts;
pub use cleanup::{Circumstances, HEADROOM, accept};
pub use deduplicator::Duplicates;
pub use listener::{Crowd, Door, Front, refuse_clients};
pub use password::{HashFault, Password};
pub use quota::Quotas;
pub use rate_limit::Rates;
pub use rounds::Rounds;
pub use settings::{Listener, ListenerTls, Policy, User};
pub use spool::Memory;
