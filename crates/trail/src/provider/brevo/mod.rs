//! Brevo: tracking header, webhook authentication and payloads.
//!
//! Brevo signs nothing: the secret given at registration authenticates a request, which may be repeated at any time. An
//! event has no id either, so its content is its identity. After any response but 200 and 429, Brevo discards the
//! event.

mod headers;
mod payload;
mod tracking_header;
mod webhook_auth;

pub(crate) use headers::is_forbidden_request;
pub use payload::decode_event;
pub(crate) use tracking_header::tracking_header;
pub use webhook_auth::WebhookAuth;
