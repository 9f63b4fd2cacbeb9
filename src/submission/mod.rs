//! The front door: clients' sessions, from connect to the `250` that means kept.

mod settings;

pub use settings::{Listener, ListenerTls, Password, User};
