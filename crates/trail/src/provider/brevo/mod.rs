//! Brevo: the carrier of our id, and the webhooks.
//!
//! Brevo signs nothing: who knows the secret that was given to it when the webhook was made is believed, and the same
//! request may come again at any time. An event has no id either; what it says is its identity. Any answer but 200, 429
//! and silence makes Brevo throw the event away.

mod headers;
mod payload;
mod tracking_header;
mod webhook_auth;

pub(crate) use headers::is_forbidden_request;
pub use payload::decode_event;
pub(crate) use tracking_header::tracking_header;
pub use webhook_auth::WebhookAuth;
