//! Mailgun: the carrier of our id, the request headers, and the webhooks.
//!
//! A webhook's signature covers its timestamp and token, **not its body**. [`receive`] therefore only says
//! that the caller has seen a signature that Mailgun made. Whoever stores the event uses each token once, and
//! lets an event that matches no send change nothing.

mod headers;
mod legacy;
mod parameters;
mod payload;
mod signature;
mod stamp;
mod webhook;

pub use headers::is_foreign_request;
pub use parameters::parameters;
pub use payload::{decode, fault};
pub use signature::{sign, verify};
pub use stamp::stamp;
pub use webhook::{MAX_AGE, MAX_AHEAD, Notice, Refused, authenticate, receive, reread};
