//! The SMTP server of the fake providers.

mod connection;
mod session;

pub(crate) use connection::{SLOW_REPLY_SECONDS, accept_connections, serve_smtp};
pub(crate) use session::{Credentials, MAX_MESSAGE_BYTES};
