//! The API and the metrics by their documents, which other tests hold to the code; the names that other systems look up.

use crate::check::{check, directory};
use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

/// Paths, methods, parameters, statuses, fields and words of `docs/openapi.json`, without its texts for people.
#[test]
fn api_has_the_same_names() {
    let text = std::fs::read_to_string(directory().join("../../docs/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let mut said = String::new();
    for part in ["openapi", "security", "paths", "components"] {
        list(&document[part], part, &mut said);
    }
    check("openapi.txt", &said);
}

/// A line for each value, with its place.
fn list(value: &Value, place: &str, said: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let is_text = matches!(&**name, "description" | "summary" | "example" | "examples")
                    && !value.is_object();
                if !is_text {
                    list(value, &format!("{place} {name}"), said);
                }
            }
        }
        Value::Array(values) if values.iter().any(|value| value.is_object() || value.is_array()) => {
            for (index, value) in values.iter().enumerate() {
                list(value, &format!("{place} [{index}]"), said);
            }
        }
        _ => writeln!(said, "{place}: {value}").unwrap(),
    }
}

/// Name, kind and labels of each metric, and all words that its section quotes, of which the labels' values are some.
#[test]
fn metrics_have_the_same_names() {
    let document = std::fs::read_to_string(directory().join("../../docs/metrics.md")).unwrap();
    let quoted = Regex::new("`([^`]+)`").unwrap();
    let mut said = String::new();
    for section in document.split("\n### ").skip(1) {
        let mut lines = section.lines().filter(|line| !line.is_empty());
        let (name, kind) = (lines.next().unwrap(), lines.next().unwrap());
        writeln!(said, "{name} {kind}").unwrap();
        let text = lines.collect::<Vec<_>>().join(" ");
        quoted.captures_iter(&text).for_each(|word| writeln!(said, "    {}", &word[1]).unwrap());
    }
    check("metrics.txt", &said);
}

/// Names that Odoo, systemd, providers and receivers of a relay know it by, as texts of the product's code; the code of the
/// server actions by its digest.
#[test]
fn names_for_other_systems_are_as_ever() {
    let (mut code, mut actions) = (String::new(), Vec::new());
    let root = directory().join("../..");
    for folder in ["src", "crates"] {
        read(&root.join(folder), &mut code, &mut actions);
    }
    let missing: Vec<_> = NAMES.lines().filter(|name| !code.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "the code has no text {missing:#?}");
    actions.sort();
    check("odoo-actions.txt", &actions.concat());
}

/// Collects the code of the product without its unit tests, and the Python files.
fn read(folder: &Path, code: &mut String, actions: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            read(&path, code, actions);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            *code += text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        } else if name.ends_with(".py") {
            let digest = Sha256::digest(std::fs::read(&path).unwrap());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            actions.push(format!("{name} {digest}\n"));
        }
    }
}

const NAMES: &str = "mailtrail: what became of the mail
mailtrail: mail from outside
mailtrail: tells what became of the mail
Made by `mailtrail setup odoo`, which finds its server actions here: 
LISTEN_FDNAMES
mailtrail-own
mailtrail-lent
x-mailtrail-probe
x-mailtrail-sender
x-mailtrail-recipient
damaged
erasing
journal
ledger
lock
relay.pem
relay.key
locked out after too many failed logins
PRIORITY
SYSLOG_IDENTIFIER
TARGET
MAILTRAIL_CONFIG
MAILTRAIL_SENDMAIL_SERVER
MAILTRAIL_SANDBOX_API_KEY
MAILTRAIL_SANDBOX_PASSWORD
MAILTRAIL_SANDBOX_SIGNING_KEY
/sandbox/weather
/sandbox/contacts";
