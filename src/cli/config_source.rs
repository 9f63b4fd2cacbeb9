//! Selects and loads the configuration of a command.

use crate::cli::{CliError, Context};
use crate::config;
use crate::config::Config;
use mailtrail_relay::submission::Listener;
use mailtrail_trail::suppression::SuppressionSettings;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Loads the configuration: the named file, the system's, or the sandbox's.
pub fn load_config(context: &Context) -> Result<Config, CliError> {
    let Some(path) = config_file(context) else { return sandbox_config() };
    config::load(path, &read_environment()).map_err(|faults| CliError::Configuration(faults.to_string()))
}

/// Returns the data directory and the administration socket.
pub fn resolve_paths(context: &Context) -> Result<(PathBuf, PathBuf), CliError> {
    match config_file(context) {
        Some(path) => config::read_paths(path, &read_environment())
            .map_err(|faults| CliError::Configuration(faults.to_string())),
        None => sandbox_config().map(|config| (config.data_dir, config.admin.socket)),
    }
}

/// Listeners of the relay; `None` if the configuration file is not readable for this user.
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

/// Loads the suppression settings.
pub fn load_suppression_settings(context: &Context) -> Result<SuppressionSettings, CliError> {
    match config_file(context) {
        Some(path) => config::read_suppression_settings(path, &read_environment())
            .map_err(|faults| CliError::Configuration(faults.to_string())),
        None => sandbox_config().map(|config| config.suppression),
    }
}

/// Path of the configuration file, if there is one.
pub fn config_file(context: &Context) -> Option<&Path> {
    let system = Some(Path::new(SYSTEM_CONFIG_PATH)).filter(|system| system.exists());
    context.config.as_deref().or(system)
}

/// Configuration of `serve --sandbox` without a file.
pub fn sandbox_config() -> Result<Config, CliError> {
    parse_builtin(SANDBOX_CONFIG, &read_environment())
}

/// Parses a configuration that is part of the program. Its warnings do not concern the user.
pub fn parse_builtin(text: &str, environment: &BTreeMap<String, String>) -> Result<Config, CliError> {
    let mut config = config::parse(text, Path::new("built-in"), environment)
        .map_err(|faults| CliError::Configuration(faults.to_string()))?;
    config.warnings.clear();
    Ok(config)
}

/// Environment variables that are valid UTF-8.
pub fn read_environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

const SYSTEM_CONFIG_PATH: &str = "/etc/mailtrail/mailtrail.toml";

/// Loopback only; the secrets protect nothing but the sandbox.
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
