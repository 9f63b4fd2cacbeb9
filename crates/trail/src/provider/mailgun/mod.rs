//! Mailgun: the carrier of our id, the request headers, and the webhooks.
//!
//! A webhook's signature covers its timestamp and token, **not its body**. `receive` therefore only says
//! that the caller has seen a signature that Mailgun made. Whoever stores the event uses each token once, and
//! lets an event that matches no send change nothing.

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
