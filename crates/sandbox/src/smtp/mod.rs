//! The SMTP server of the fake providers.

mod connection;
mod session;

pub(crate) use connection::{SLOW, listen, serve};
pub(crate) use session::{Login, MESSAGE_SIZE};
