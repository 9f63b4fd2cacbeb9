//! Programs that report in mailtrail's own words, for providers that it does not know.
//!
//! A request is signed as Standard Webhooks has it: `webhook-signature` holds one or more `v1,<base64>`, each the
//! HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>`. The signature covers the body, so nobody can put another
//! one in its place, and what an event says is its identity.

mod payload;
mod signature;

pub(crate) use payload::DEDUP_KEY_PREFIX;
pub use payload::decode_event;
pub use signature::{SignatureError, SignedRequest, sign_request};
