//! Receives webhooks: verifies them, commits their events, and only then answers.
//!
//! Each source gets the status codes that it understands (`SourceKind`). Memory is bounded by the number of connections
//! and by the bytes of the bodies in progress; requests over the limit are answered with 503 or 429. A client with too
//! many invalid webhooks is rejected for a minute without a check. Paths and headers may contain secrets and are never
//! logged.

mod body;
mod client_address;
mod connection_limit;
mod hint_suppression;
pub mod inbound;
mod listener;
mod loopback_probe;
mod outcome;
mod peer;
mod router;
mod service;
mod settings;
mod source;

pub use inbound::InboundRules;
pub use listener::{ALPN_PROTOCOLS, OVERFLOW_CONNECTIONS, serve};
pub use service::WebhookService;
pub use settings::WebhookSettings;
pub use source::{HintSuppression, SourceKind, WebhookSource};
