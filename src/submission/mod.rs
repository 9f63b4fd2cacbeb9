//! The front door: clients' sessions, from connect to the `250` that means kept.

mod acceptance;
mod accounts;
mod conversation;
mod duplicates;
mod listener;
mod proxy;
mod settings;
mod spool;

pub use accounts::Accounts;
pub use duplicates::Duplicates;
pub use listener::{Crowd, Door, Front};
pub use settings::{Listener, ListenerTls, Password, User};
pub use spool::Memory;
