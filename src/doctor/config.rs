use crate::config::{Config, ConfigError, HttpTls};
use crate::doctor::check_result::{CheckResult, CheckStatus};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Reports the configuration's warnings and world-readable secrets.
pub(super) fn check_config(config: &Config) -> Vec<CheckResult> {
    let mut findings: Vec<_> = config
        .warnings
        .iter()
        .map(|warning| {
            CheckResult::from_error(
                CheckStatus::Warn,
                CHECK_NAME,
                warning.key.as_str(),
                warning,
                CONFIG_REMEDY,
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(CheckResult::ok(CHECK_NAME, "", "it is good"));
    }
    let http = match &config.http_tls {
        HttpTls::Implicit(files) => files.as_ref(),
        HttpTls::None => None,
    };
    let keys = config.certificate.iter().chain(http).map(|files| &files.private_key);
    let open = config.secret_files.iter().chain(keys).filter(|path| is_world_readable(path));
    let open: Vec<_> = open.map(|path| world_readable_secret(path)).collect();
    if open.is_empty() {
        findings.push(CheckResult::ok(SECRETS_CHECK, "", "no file with a secret can be read by everybody"));
    }
    findings.extend(open);
    findings
}

/// Reports the faults of an invalid configuration.
pub fn from_config_error(faults: &ConfigError) -> Vec<CheckResult> {
    let finding = |fault| CheckResult::from_error(CheckStatus::Fail, CHECK_NAME, "", fault, CONFIG_REMEDY);
    faults.iter().map(|fault| CheckResult { subject: fault.key.clone(), ..finding(fault) }).collect()
}

/// Whether users other than owner and group may read the file.
fn is_world_readable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn world_readable_secret(path: &Path) -> CheckResult {
    let path = path.display().to_string();
    let remedy = format!("chmod o= {path}");
    CheckResult::problem(
        CheckStatus::Warn,
        SECRETS_CHECK,
        path,
        "everybody on this machine can read the secret in it",
        remedy,
    )
}

const CHECK_NAME: &str = "configuration";
const SECRETS_CHECK: &str = "secrets";
const CONFIG_REMEDY: &str = "see the shipped config/mailtrail.toml for the allowed values";
