//! Mailgun: the carrier of our id, the request headers, and the webhooks.
//!
//! A webhook's signature covers its timestamp and token, **not its body**. [`receive`] therefore only says
//! that the caller has seen a signature that Mailgun made. Whoever stores the event uses each token once, and
//! lets an event that matches no send change nothing.

mod api_parameters;
mod legacy_payload;
mod payload;
mod request_headers;
mod signature;
mod tracking_header;
mod webhook;

pub use api_parameters::parameters;
pub use payload::{decode, fault};
pub(crate) use request_headers::is_foreign_request;
pub use signature::{sign, verify};
pub(crate) use tracking_header::stamp;
pub use webhook::{Notice, Refused, authenticate, receive, reread};
