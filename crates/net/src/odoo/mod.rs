//! Client of Odoo's external API (JSON-RPC 2.0 on `/jsonrpc`, XML-RPC for raw bytes), and the URLs of records.
//!
//! It implements Odoo's protocols and makes no decision about mail. Every error has a remedy; none contains a key or
//! password. A call without a response may have been executed, so a caller that repeats it has to be idempotent.

mod action;
mod client;
mod error;
mod instance;
mod xmlrpc;

pub use action::{
    GROUP_NAME, INBOUND_ACTION, ServerAction, find_action_id, format_group_comment, run_action,
};
pub use client::OdooClient;
pub use error::OdooError;
pub use instance::OdooInstance;

use mailtrail_mail::Secret;
use reqwest::Url;
use std::path::PathBuf;
use std::time::Duration;

/// A database, and how to log in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooConnection {
    /// Where Odoo answers: scheme, host and port, and a path where a proxy puts it under one.
    pub url: Url,
    /// Name of the database.
    pub database: String,
    /// Login of the user.
    pub username: String,
    /// The login's API key, or password.
    pub api_key: Secret,
    /// How long an answer may take. Default 60 s: Odoo waits for its own locks.
    pub timeout: Duration,
    /// CA certificates that are trusted in addition to the public ones.
    pub ca_file: Option<PathBuf>,
}
