//! The front door: clients' sessions, from connect to the `250` that means kept.

mod acceptance;
mod accounts;
mod conversation;
mod listener;
mod settings;
mod spool;

#[cfg(fuzzing)]
pub use acceptance::{Circumstances, HEADROOM, accept};
pub use accounts::Accounts;
pub use listener::{Crowd, Door, Front};
pub use settings::{Listener, ListenerTls, Password, User};
pub use spool::Memory;
