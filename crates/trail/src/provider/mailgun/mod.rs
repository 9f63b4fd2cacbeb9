//! Mailgun: tracking header, request headers, webhook signatures and payloads.
//!
//! The signature of a webhook covers its timestamp and token, **not its body**. Verification therefore only shows that
//! Mailgun made the signature. The store accepts each token once, and an event without a matching message changes
//! nothing.

mod api_parameters;
mod legacy_payload;
mod payload;
mod request_headers;
mod signature;
mod tracking_header;
mod webhook;

pub use api_parameters::api_parameters;
pub use payload::{decode_event, validate_payload};
pub(crate) use request_headers::is_forbidden_request;
pub use signature::{sign_webhook, verify_signature};
pub(crate) use tracking_header::tracking_header;
pub use webhook::{VerifiedEvent, WebhookError, decode_raw, verify_and_decode, verify_form};
