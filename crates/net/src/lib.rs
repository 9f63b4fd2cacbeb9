//! Everything that opens a connection: TLS, the SMTP and HTTP transports, the providers' management APIs, Odoo and
//! signed webhooks.
//!
//! Functions here do I/O and report what happened. They decide nothing about mail: policy lives in `mailtrail-trail`
//! and `mailtrail-relay`.

mod bounded_map;
mod client_network;
pub mod error_chain;
mod host_addresses;
pub mod http_server;
pub mod odoo;
pub mod provider_api;
mod refusals;
pub mod tls;
pub mod transport;
pub mod webhook_client;

pub use bounded_map::{BoundedMap, Expires};
pub use client_network::ClientNetwork;
pub use host_addresses::HostAddresses;
pub use refusals::{Refusal, RefusalLog};
pub use webhook_client::{WebhookClient, WebhookEndpoint, WebhookSigner};
