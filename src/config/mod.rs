//! Configuration: reads the TOML file and the environment, validates them and builds the settings of each module.
//!
//! One run reports every fault, each with key, line, value and allowed values. No fault, warning or output contains the
//! value of a secret. The environment is always passed in, never read here.

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
