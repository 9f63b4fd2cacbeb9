//! Configuration: its keys, words, defaults and environment, and where its faults are.

use crate::check::{check, check_all, directory};
use crate::program::Place;
use serde_json::Value;
use std::fmt::Write;

/// The shipped file as it is and with everything that it has commented out, and the shortest file with all defaults.
#[test]
fn configuration_is_shown_as_ever() {
    let shipped = std::fs::read_to_string(directory().join("../../config/mailtrail.toml")).unwrap();
    check_all(&[
        ("config-shipped.txt", show(&shipped)),
        ("config-full.txt", show(&without_comments(&shipped))),
        ("config-defaults.txt", show(SHORTEST)),
    ]);
}

#[test]
fn keys_and_words_of_the_shipped_file_are_as_ever() {
    let shipped = std::fs::read_to_string(directory().join("../../config/mailtrail.toml")).unwrap();
    let lines = shipped.lines().filter_map(|line| {
        let start = line.trim_start_matches(['#', ' ']);
        let name = start.split(" = ").next().unwrap();
        let is_key =
            start.contains(" = ") && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
        let code = start.split(" # ").next().unwrap().trim_end();
        (is_key || start.starts_with('[') && code.ends_with(']')).then(|| format!("{code}\n"))
    });
    check("config-keys.txt", &lines.collect::<String>());
}

/// Keys and lines; `tests/fixtures/config-faults.txt` has the words, too.
#[test]
fn faults_are_at_the_same_keys_and_lines() {
    let cases = std::fs::read_to_string(directory().join("../fixtures/config-faults.txt")).unwrap();
    let mut said = String::new();
    for case in cases.split("\n=== ").skip(1) {
        let (title, case) = case.split_once('\n').unwrap();
        let (input, _) = case.split_once("---\n").unwrap();
        let (mut text, mut behind, mut environment) = (String::new(), String::new(), Vec::new());
        for line in input.lines() {
            if let Some((name, value)) = line.strip_prefix("$ ").and_then(|line| line.split_once('=')) {
                environment.push((name, value));
            } else if let Some(sections) = line.strip_prefix("+ ") {
                sections.split(' ').for_each(|section| behind += good(section));
            } else {
                text += &format!("{line}\n");
            }
        }
        let place = Place::new(&(text + &behind));
        let output = place.command(&["--json", "config", "check"]).envs(environment).output().unwrap();
        writeln!(said, "{title}: exit {}", output.status.code().unwrap()).unwrap();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let fault: Value = serde_json::from_str(line).unwrap();
            let [severity, key, line, variable] =
                ["severity", "key", "line", "variable"].map(|name| &fault[name]);
            writeln!(said, "    {severity} {key} {line} {variable}").unwrap();
        }
    }
    check("config-faults.txt", &said);
}

/// The environment names a key, a file, and what is masked stays masked.
#[test]
fn environment_overrides_keys() {
    let place = Place::new(SHORTEST);
    std::fs::rename(place.path().join("mailtrail.toml"), place.path().join("other.toml")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mailtrail"));
    command.args(["config", "show"]).current_dir(place.path()).env_clear();
    command.env("MAILTRAIL_CONFIG", "other.toml").env("MAILTRAIL_SERVER__HOSTNAME", "other.example.com");
    let output = command.env("MAILTRAIL_LIMITS__MESSAGE_SIZE", "2MiB").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for line in ["hostname = \"other.example.com\"", "message_size = \"2MiB\""] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
}

/// `config show`, as text and as JSON.
fn show(text: &str) -> String {
    let place = Place::new(text);
    for file in FILES.split_whitespace() {
        let path = place.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("secret-{file}\n")).unwrap();
    }
    let shown = place.transcript("config show") + &place.transcript("--json config show");
    shown.replace(place.path().to_str().unwrap(), "DIRECTORY")
}

/// With all keys and sections that stand behind `# `.
fn without_comments(shipped: &str) -> String {
    let is_setting = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        let sections = ["[[sink", "[[route", "[[source", "[[inbound", "[heartbeat"];
        sections.iter().any(|start| line.starts_with(start))
            || (line.contains(" = ") && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()))
    };
    let lines =
        shipped.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line));
    lines.map(|line| format!("{line}\n")).collect()
}

fn good(section: &str) -> &'static str {
    match section {
        "server" => "[server]\nhostname = \"relay.example.com\"\n",
        "listener" => "[[listener]]\naddress = \"127.0.0.1:2525\"\n",
        "user" => "[[user]]\nname = \"odoo\"\npassword = \"hunter2\"\n",
        "upstream" => "[[upstream]]\nname = \"plain\"\nprovider = \"plain\"\nhost = \"smtp.example.com\"\n",
        other => panic!("no good {other}"),
    }
}

const SHORTEST: &str = "[server]\nhostname = \"relay.example.com\"\n[[listener]]\naddress = \"127.0.0.1:2525\"\n\
                        [[user]]\nname = \"odoo\"\npassword = \"hunter2\"\n\
                        [[upstream]]\nname = \"plain\"\nprovider = \"plain\"\nhost = \"smtp.example.com\"\n";

/// What the shipped file names.
const FILES: &str = "alarm-secret odoo-api-key certs/odoo.pem mail-password certs/mail.pem hook-secret odoo-password
    mailgun-smtp-password mailgun-signing-key mailgun-api-key brevo-token brevo-webhook-password campaigns-secret
    contacts-secret certs/relay.pem certs/relay.key certs/clients.pem certs/http.pem certs/http.key admin-token";
