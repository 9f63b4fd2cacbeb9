//! Brevo: the carrier of our id, and the webhooks.
//!
//! Brevo signs nothing: who knows the secret that was given to it when the webhook was made is believed, and the same
//! request may come again at any time. An event has no id either; what it says is its identity. Any answer but 200, 429
//! and silence makes Brevo throw the event away.

mod credentials;
mod headers;
mod payload;
mod stamp;

pub use credentials::Credentials;
pub use headers::is_foreign_request;
pub use payload::decode;
pub use stamp::{stamp, tracking};
