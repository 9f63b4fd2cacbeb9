//! Checks the daemon or, if it does not respond, the store.

use crate::config::Config;
use crate::doctor::check_result::{CheckResult, CheckStatus};
use mailtrail_mail::Clock;
use mailtrail_net::{error_chain, tls};
use mailtrail_relay::admin::{AlarmView, BreakerView, ProbeChallenge, ProbeQuery, QueueShape};
use mailtrail_store::{OpenError, Store};
use reqwest::Client;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

pub(super) async fn check_daemon(config: &Config) -> Vec<CheckResult> {
    let socket = &config.admin.socket;
    let subject = socket.display().to_string();
    match tokio::net::UnixStream::connect(socket).await {
        Ok(_) => check_running_daemon(config, subject).await,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let what = "this user may not ask the daemon";
            vec![CheckResult::problem(
                CheckStatus::Unknown,
                CHECK_NAME,
                subject,
                what,
                "ask as the relay's user, or as root",
            )]
        }
        Err(error) => {
            let what = format!("no daemon responds: {error}");
            let remedy =
                "start it: systemctl start mailtrail, or mailtrail serve; its log shows why it ended";
            vec![
                CheckResult::problem(CheckStatus::Fail, CHECK_NAME, subject, what, remedy),
                check_store(&config.data_dir).await,
            ]
        }
    }
}

/// Reports the state of the running daemon.
async fn check_running_daemon(config: &Config, subject: String) -> Vec<CheckResult> {
    match fetch_state(&config.admin.socket).await {
        Ok((breakers, shapes, alarms)) => {
            let mut findings = vec![CheckResult::ok(CHECK_NAME, subject, "it answers")];
            findings.push(evaluate_queue(&shapes, config.alarm_thresholds.max_queued_messages));
            findings.extend(breakers.iter().map(evaluate_breaker));
            findings.extend(alarms.iter().map(to_result));
            findings
        }
        Err(error) => {
            let what = format!("cannot read its state: {}", error_chain::root_cause(&error));
            let remedy = "see its log; after an upgrade restart it: systemctl restart mailtrail";
            vec![CheckResult::problem(CheckStatus::Fail, CHECK_NAME, subject, what, remedy)]
        }
    }
}

/// Returns the challenge of a path, which only the running daemon can answer.
pub(super) async fn request_challenge(socket: &Path, path: &str) -> Result<ProbeChallenge, reqwest::Error> {
    let place = ProbeQuery { path: path.to_owned() };
    let answer = build_client(socket)?.get(api_url("probe")).query(&place).send().await?;
    answer.error_for_status()?.json().await
}

/// Hosts of the running relay's upstreams by name; empty without a daemon.
pub(super) async fn upstream_hosts(socket: &Path) -> BTreeMap<String, String> {
    let asked = match build_client(socket) {
        Ok(client) => get_json::<Vec<BreakerView>>(&client, "breakers").await,
        Err(error) => Err(error),
    };
    asked.unwrap_or_default().into_iter().map(|view| (view.upstream, view.host)).collect()
}

async fn fetch_state(
    socket: &Path,
) -> Result<(Vec<BreakerView>, Vec<QueueShape>, Vec<AlarmView>), reqwest::Error> {
    let client = build_client(socket)?;
    Ok((
        get_json(&client, "breakers").await?,
        get_json(&client, "queue/shape").await?,
        get_json(&client, "alarms").await?,
    ))
}

fn build_client(socket: &Path) -> Result<Client, reqwest::Error> {
    let client = Client::builder().unix_socket(socket);
    // The socket is not encrypted, but the client requires a TLS configuration.
    match tls::build_client_config(None) {
        Ok(tls) => client.tls_backend_preconfigured(tls).build(),
        Err(_) => client.build(),
    }
}

fn api_url(question: &str) -> String {
    format!("http://localhost/api/v1/{question}")
}

async fn get_json<T: DeserializeOwned>(client: &Client, question: &str) -> Result<T, reqwest::Error> {
    client.get(api_url(question)).send().await?.error_for_status()?.json().await
}

fn evaluate_queue(shapes: &[QueueShape], most: u64) -> CheckResult {
    let waiting: u64 = shapes.iter().map(|shape| shape.total).sum();
    // Messages older than the last age class in minutes.
    let old: u64 =
        shapes.iter().filter_map(|shape| shape.ages.get(QueueShape::AGE_LIMITS_MINUTES.len())).sum();
    let what = format!("{waiting} recipients are queued, {old} of them for longer than a day");
    if waiting >= most || old > 0 {
        let remedy = "see mailtrail queue shape and mailtrail queue list";
        return CheckResult::problem(CheckStatus::Warn, "queue", "", what, remedy);
    }
    CheckResult::ok("queue", "", what)
}

fn evaluate_breaker(view: &BreakerView) -> CheckResult {
    let (name, reason) = (view.upstream.as_str(), view.reason.as_deref().unwrap_or("no reason given"));
    match (view.state.as_str(), &view.paused_until) {
        ("closed", None) => CheckResult::ok("breaker", name, "it is closed: messages are sent"),
        ("closed", Some(until)) => {
            let what = format!("the upstream accepts no mail until {until}: {reason}");
            CheckResult::problem(
                CheckStatus::Warn,
                "breaker",
                name,
                what,
                "wait, or ask the provider for a higher limit",
            )
        }
        (state, _) => {
            let status = if state == "open" { CheckStatus::Fail } else { CheckStatus::Warn };
            let remedy = format!("fix the cause; `mailtrail breaker close {name}` retries at once");
            CheckResult::problem(status, "breaker", name, format!("it is {state}: {reason}"), remedy)
        }
    }
}

fn to_result(view: &AlarmView) -> CheckResult {
    let subject = format!("{} {}", view.alarm, view.subject);
    let (text, since) = (&view.text, &view.since);
    let (what, remedy) = text.rsplit_once("; ").unwrap_or((text, "see the log"));
    CheckResult::problem(CheckStatus::Warn, "alarm", subject.trim(), format!("since {since}: {what}"), remedy)
}

/// Reads the store, if no other process holds it.
async fn check_store(data_dir: &Path) -> CheckResult {
    let (subject, directory) = (data_dir.display().to_string(), data_dir.to_owned());
    let open = move || Store::open_read_only(&directory, Clock::System).map(|(_, report)| report);
    match tokio::task::spawn_blocking(open).await {
        Ok(Ok(report)) if report.corrupt_ranges.is_empty() => {
            CheckResult::ok(STORE_CHECK, subject, "it can be read")
        }
        Ok(Ok(report)) => {
            let bytes: u64 = report.corrupt_ranges.iter().map(|(_, _, bytes)| bytes).sum();
            let what = format!("{bytes} bytes of the journal are no records");
            CheckResult::problem(
                CheckStatus::Warn,
                STORE_CHECK,
                subject,
                what,
                "look at the disk; all other records are kept",
            )
        }
        Ok(Err(OpenError::Missing(_))) => {
            let remedy = "start the relay, which makes it";
            CheckResult::problem(CheckStatus::Unknown, STORE_CHECK, subject, "there is none yet", remedy)
        }
        Ok(Err(error)) => {
            CheckResult::from_error(CheckStatus::Fail, STORE_CHECK, subject, &error, "look at the disk")
        }
        Err(error) => CheckResult::problem(
            CheckStatus::Fail,
            STORE_CHECK,
            subject,
            error.to_string(),
            "report the fault",
        ),
    }
}

const CHECK_NAME: &str = "daemon";
const STORE_CHECK: &str = "store";
