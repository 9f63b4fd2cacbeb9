//! Which configuration a command works with.

use crate::cli::{CliError, Context};
use crate::config;
use crate::config::Config;
use mailtrail_relay::submission::Listener;
use mailtrail_trail::suppression::SuppressionSettings;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The configuration of this call: the named file, the system's, or the sandbox's.
pub fn load_config(context: &Context) -> Result<Config, CliError> {
    let Some(path) = config_file(context) else { return sandbox_config() };
    config::load(path, &read_environment()).map_err(|faults| CliError::Configuration(faults.to_string()))
}

/// Where the relay of this call keeps its data and answers questions.
pub fn resolve_paths(context: &Context) -> Result<(PathBuf, PathBuf), CliError> {
    match config_file(context) {
        Some(path) => config::read_paths(path, &read_environment())
            .map_err(|faults| CliError::Configuration(faults.to_string())),
        None => sandbox_config().map(|config| (config.data_dir, config.admin.socket)),
    }
}

/// Where the relay of this call takes mail; `None` where its file is not for the eyes of whoever calls.
pub fn load_listeners(context: &Context) -> Result<Option<Vec<Listener>>, CliError> {
    let path = context.config.as_deref().unwrap_or(Path::new(SYSTEM_CONFIG_PATH));
    match File::open(path).map_err(|error| error.kind()) {
        Err(ErrorKind::PermissionDenied) => Ok(None),
        Err(ErrorKind::NotFound) if context.config.is_none() => {
            sandbox_config().map(|config| Some(config.listeners))
        }
        _ => config::read_listeners(path, &read_environment())
            .map(Some)
            .map_err(|faults| CliError::Configuration(faults.to_string())),
    }
}

/// Which addresses the relay of this call sends no mail.
pub fn load_suppression_settings(context: &Context) -> Result<SuppressionSettings, CliError> {
    match config_file(context) {
        Some(path) => config::read_suppression_settings(path, &read_environment())
            .map_err(|faults| CliError::Configuration(faults.to_string())),
        None => sandbox_config().map(|config| config.suppression),
    }
}

/// The configuration file of this call, if there is one.
pub fn config_file(context: &Context) -> Option<&Path> {
    let system = Some(Path::new(SYSTEM_CONFIG_PATH)).filter(|system| system.exists());
    context.config.as_deref().or(system)
}

/// What `serve --sandbox` runs with when nothing is configured.
pub fn sandbox_config() -> Result<Config, CliError> {
    parse_builtin(SANDBOX_CONFIG, &read_environment())
}

/// A configuration that the program brings along. It is not the user's to be warned about.
pub fn parse_builtin(text: &str, environment: &BTreeMap<String, String>) -> Result<Config, CliError> {
    let mut config = config::parse(text, Path::new("built-in"), environment)
        .map_err(|faults| CliError::Configuration(faults.to_string()))?;
    config.warnings.clear();
    Ok(config)
}

/// The environment, as far as it is text.
pub fn read_environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

const SYSTEM_CONFIG_PATH: &str = "/etc/mailtrail/mailtrail.toml";

/// Loopback only; the secrets guard nothing but the sandbox.
const SANDBOX_CONFIG: &str = r#"
[server]
hostname = "localhost"
data_dir = "mailtrail-sandbox"

[[listener]]
address = "127.0.0.1:2525"
tls = "starttls"

[[listener]]
address = "127.0.0.1:2526"
tls = "none"
auth = "none"

[[user]]
name = "odoo"
password = "odoo"

[[upstream]]
name = "mailgun"
provider = "mailgun"
domain = "sandbox.example.com"
username = "postmaster@sandbox.example.com"
password = "sandbox"
webhook_signing_key = "sandbox"

[http]
address = "127.0.0.1:8080"
[admin]
address = "127.0.0.1:8025"
token = "sandbox-operator"
"#;
