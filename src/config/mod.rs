//! The configuration: what the TOML file and the environment say, checked, and made of each module's own settings.
//!
//! One run reports every fault, each with its key, line, value and what is allowed there. A secret's value appears
//! in no fault, no warning and no output. Nothing here reads the process environment by itself.

mod account;
mod alarms;
mod change;
mod claims;
mod cleanup;
mod document;
mod endpoint;
mod fault;
mod inbound;
mod listener;
mod load;
mod names;
mod odoo;
mod quantity;
mod reader;
mod routing;
mod secrets;
mod sections;
mod settings;
mod show;
mod sink;
mod source;
mod suppression;
mod upstream;
mod user;
mod words;

pub use fault::{Faults, Finding, Place};
pub use load::{listeners, load, parse, suppression_rules, whereabouts};
pub use names::is_loopback;
pub use settings::{Admin, CertificateFiles, Config, HttpTls, Log, Upstream};
