//! The configuration: what the TOML file and the environment say, checked, and made of each module's own settings.
//!
//! One run reports every fault, each with its key, line, value and what is allowed there. A secret's value appears
//! in no fault, no warning and no output. Nothing here reads the process environment by itself.

mod diagnostic;
mod diff;
mod document;
mod keywords;
mod load;
mod parse_context;
mod render;
mod secrets;
mod section;
mod sections;
mod settings;
mod unique_names;
mod units;
mod validators;

pub use diagnostic::ConfigError;
pub(crate) use diagnostic::{Diagnostic, Location};
pub use load::{load, parse};
pub(crate) use load::{read_listeners, read_paths, read_suppression_settings};
pub use settings::Config;
pub(crate) use settings::{CertificateFiles, HttpTls, Upstream};
pub(crate) use validators::is_loopback;
