//! The configuration: what the TOML file and the environment say, checked, and made of each module's own settings.
//!
//! One run reports every fault, each with its key, line, value and what is allowed there. A secret's value appears
//! in no fault, no warning and no output. Nothing here reads the process environment by itself.

mod diagnostic;
mod diff;
mod document;
mod keywords;
mod load;
mod render;
mod secrets;
mod section;
mod sections;
mod settings;
mod uniqueness;
mod units;
mod validators;

pub use diagnostic::Faults;
pub(crate) use diagnostic::{Finding, Place};
pub(crate) use load::{listeners, suppression_rules, whereabouts};
pub use load::{load, parse};
pub use settings::Config;
pub(crate) use settings::{CertificateFiles, HttpTls, Upstream};
pub(crate) use validators::is_loopback;
