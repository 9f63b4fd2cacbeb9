//! The front door: clients' sessions, from connect to the `250` that means kept.

mod acceptance;
mod accounts;
mod cleanup;
mod conversation;
mod duplicates;
mod guard;
mod keeping;
mod listener;
mod password;
mod proxy;
mod quota;
mod rate;
mod rounds;
mod settings;
mod spool;

#[cfg(fuzzing)]
pub use acceptance::{Circumstances, HEADROOM, accept};
pub use accounts::Accounts;
pub use duplicates::Duplicates;
pub use listener::{Crowd, Door, Front, refuse_clients};
pub use password::{HashFault, Password, PasswordHash};
pub use quota::Quotas;
pub use rate::Rates;
#[cfg(fuzzing)]
pub use rounds::Rounds;
pub use settings::{Listener, ListenerTls, Policy, User};
pub use spool::Memory;
