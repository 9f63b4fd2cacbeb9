//! The generic format: events from programs for providers without own support.
//!
//! A request is signed by Standard Webhooks: `webhook-signature` holds one or more `v1,<base64>`, each the HMAC-SHA256
//! of `<webhook-id>.<webhook-timestamp>.<body>`. The signature covers the body, so it cannot be replaced, and the
//! content of an event is its identity.

mod payload;
mod signature;

pub(crate) use payload::DEDUP_KEY_PREFIX;
pub use payload::decode_event;
pub use signature::{SignatureError, SignedRequest, sign_request};
