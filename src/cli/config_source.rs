//! Which configuration a command works with.

use crate::cli::{Context, Trouble};
use crate::config;
use crate::config::Config;
use mailtrail_relay::submission::Listener;
use mailtrail_trail::suppression::Settings;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The configuration of this call: the named file, the system's, or the sandbox's.
pub fn load(context: &Context) -> Result<Config, Trouble> {
    let Some(path) = file(context) else { return sandbox() };
    config::load(path, &environment()).map_err(|faults| Trouble::Configuration(faults.to_string()))
}

/// Where the relay of this call keeps its data and answers questions.
pub fn whereabouts(context: &Context) -> Result<(PathBuf, PathBuf), Trouble> {
    match file(context) {
        Some(path) => config::whereabouts(path, &environment())
            .map_err(|faults| Trouble::Configuration(faults.to_string())),
        None => sandbox().map(|config| (config.data_dir, config.admin.socket)),
    }
}

/// Where the relay of this call takes mail; `None` where its file is not for the eyes of whoever calls.
pub fn listeners(context: &Context) -> Result<Option<Vec<Listener>>, Trouble> {
    let path = context.config.as_deref().unwrap_or(Path::new(SYSTEM));
    match File::open(path).map_err(|error| error.kind()) {
        Err(ErrorKind::PermissionDenied) => Ok(None),
        Err(ErrorKind::NotFound) if context.config.is_none() => {
            sandbox().map(|config| Some(config.listeners))
        }
        _ => config::listeners(path, &environment())
            .map(Some)
            .map_err(|faults| Trouble::Configuration(faults.to_string())),
    }
}

/// Which addresses the relay of this call sends no mail.
pub fn suppression(context: &Context) -> Result<Settings, Trouble> {
    match file(context) {
        Some(path) => config::suppression_rules(path, &environment())
            .map_err(|faults| Trouble::Configuration(faults.to_string())),
        None => sandbox().map(|config| config.suppression),
    }
}

/// The configuration file of this call, if there is one.
pub fn file(context: &Context) -> Option<&Path> {
    let system = Some(Path::new(SYSTEM)).filter(|system| system.exists());
    context.config.as_deref().or(system)
}

/// What `serve --sandbox` runs with when nothing is configured.
pub fn sandbox() -> Result<Config, Trouble> {
    built_in(SANDBOX, &environment())
}

/// A configuration that the program brings along. It is not the user's to be warned about.
pub fn built_in(text: &str, environment: &BTreeMap<String, String>) -> Result<Config, Trouble> {
    let mut config = config::parse(text, Path::new("built-in"), environment)
        .map_err(|faults| Trouble::Configuration(faults.to_string()))?;
    config.warnings.clear();
    Ok(config)
}

/// The environment, as far as it is text.
pub fn environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

const SYSTEM: &str = "/etc/mailtrail/mailtrail.toml";

/// Loopback only; the secrets guard nothing but the sandbox.
const SANDBOX: &str = r#"
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
