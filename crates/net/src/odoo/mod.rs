//! A client of Odoo's external API (JSON-RPC 2.0 on `/jsonrpc`, XML-RPC where raw bytes must pass), and where people
//! find its records.
//!
//! It knows how Odoo speaks, and decides nothing about mail. Every fault says what may be done; no key, and no
//! password, is in any of them. A call that was not answered in time may have been done all the same: whoever repeats
//! it makes sure that twice does no harm.

mod action;
mod client;
mod error;
mod instance;
mod xmlrpc;

pub use action::{Action, GROUP_NAME, INBOUND, find_number, run, write_comment};
pub use client::Client;
pub use error::Fault;
pub use instance::Place;

use mailtrail_mail::Secret;
use reqwest::Url;
use std::path::PathBuf;
use std::time::Duration;

/// A database, and how to log in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where Odoo answers: scheme, host and port, and a path where a proxy puts it under one.
    pub url: Url,
    /// The database's name.
    pub database: String,
    /// The login.
    pub username: String,
    /// The login's API key, or password.
    pub key: Secret,
    /// How long an answer may take. Default 60 s: Odoo waits for its own locks.
    pub timeout: Duration,
    /// Whose certificates are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
}
