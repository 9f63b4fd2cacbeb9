//! mailtrail: every mail your applications send, and what became of it.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod event;
pub mod id;
pub mod ledger;
pub mod logging;
pub mod mail;
pub mod provider;
pub mod queue;
pub mod sandbox;
pub mod secret;
pub mod smtp;
pub mod store;
pub mod submission;
pub mod tls;
pub mod transport;
pub mod wakeup;
pub mod webhook;
