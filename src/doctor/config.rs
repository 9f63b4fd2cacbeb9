use crate::config::{Config, Faults, HttpTls};
use crate::doctor::check_result::{Finding, Status};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What is allowed and should be known, and who else can read the secrets.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<_> = config
        .warnings
        .iter()
        .map(|warning| Finding::error(Status::Warn, CHECK, warning.key.as_str(), warning, KEYS))
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "", "it is good"));
    }
    let http = match &config.http_tls {
        HttpTls::Implicit(files) => files.as_ref(),
        HttpTls::None => None,
    };
    let keys = config.certificate.iter().chain(http).map(|files| &files.private_key);
    let open = config.secret_files.iter().chain(keys).filter(|path| is_open(path));
    let open: Vec<_> = open.map(|path| finding(path)).collect();
    if open.is_empty() {
        findings.push(Finding::ok(SECRETS, "", "no file with a secret can be read by everybody"));
    }
    findings.extend(open);
    findings
}

/// What is said of a configuration with faults.
pub fn faulty(faults: &Faults) -> Vec<Finding> {
    let finding = |fault| Finding::error(Status::Fail, CHECK, "", fault, KEYS);
    faults.iter().map(|fault| Finding { subject: fault.key.clone(), ..finding(fault) }).collect()
}

/// Whether others than its owner and its group may read it.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn finding(path: &Path) -> Finding {
    let path = path.display().to_string();
    let remedy = format!("chmod o= {path}");
    Finding::bad(Status::Warn, SECRETS, path, "everybody on this machine can read the secret in it", remedy)
}

const CHECK: &str = "configuration";
const SECRETS: &str = "secrets";
const KEYS: &str = "the shipped config/mailtrail.toml says of each key what it may be";
