//! The daemon and, where it does not answer, the store.

use crate::config::Config;
use crate::doctor::check_result::{Finding, Status};
use mailtrail_mail::Clock;
use mailtrail_net::{error_chain, tls};
use mailtrail_relay::admin::{AlarmView, BreakerView, ProbePlace, ProbeView, Shape};
use mailtrail_store::{OpenError, Store};
use reqwest::Client;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let socket = &config.admin.socket;
    let subject = socket.display().to_string();
    match tokio::net::UnixStream::connect(socket).await {
        Ok(_) => ask(config, subject).await,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let what = "this user may not ask the daemon";
            vec![Finding::bad(Status::Unknown, CHECK, subject, what, "ask as the relay's user, or as root")]
        }
        Err(error) => {
            let what = format!("no daemon answers: {error}");
            let remedy = "start it: systemctl start mailtrail, or mailtrail serve; its log says why it ended";
            vec![Finding::bad(Status::Fail, CHECK, subject, what, remedy), store(&config.data_dir).await]
        }
    }
}

/// What it says of itself.
async fn ask(config: &Config, subject: String) -> Vec<Finding> {
    match answers(&config.admin.socket).await {
        Ok((breakers, shapes, alarms)) => {
            let mut findings = vec![Finding::ok(CHECK, subject, "it answers")];
            findings.push(queue(&shapes, config.thresholds.queue));
            findings.extend(breakers.iter().map(breaker));
            findings.extend(alarms.iter().map(alarm));
            findings
        }
        Err(error) => {
            let what = format!("it does not answer as it should: {}", error_chain::innermost(&error));
            let remedy = "its log says why; after an upgrade restart it: systemctl restart mailtrail";
            vec![Finding::bad(Status::Fail, CHECK, subject, what, remedy)]
        }
    }
}

/// What the daemon alone can answer at a path.
pub(super) async fn probe(socket: &Path, path: &str) -> Result<ProbeView, reqwest::Error> {
    let place = ProbePlace { path: path.to_owned() };
    let answer = client(socket)?.get(url("probe")).query(&place).send().await?;
    answer.error_for_status()?.json().await
}

/// The hosts that the running relay's upstreams are at, by their names, where it answers.
pub(super) async fn hosts(socket: &Path) -> BTreeMap<String, String> {
    let asked = match client(socket) {
        Ok(client) => get::<Vec<BreakerView>>(&client, "breakers").await,
        Err(error) => Err(error),
    };
    asked.unwrap_or_default().into_iter().map(|view| (view.upstream, view.host)).collect()
}

async fn answers(socket: &Path) -> Result<(Vec<BreakerView>, Vec<Shape>, Vec<AlarmView>), reqwest::Error> {
    let client = client(socket)?;
    Ok((get(&client, "breakers").await?, get(&client, "queue/shape").await?, get(&client, "alarms").await?))
}

fn client(socket: &Path) -> Result<Client, reqwest::Error> {
    let client = Client::builder().unix_socket(socket);
    // Nothing is encrypted on the socket; the client asks for TLS all the same.
    match tls::client_config(None) {
        Ok(tls) => client.tls_backend_preconfigured(tls).build(),
        Err(_) => client.build(),
    }
}

fn url(question: &str) -> String {
    format!("http://localhost/api/v1/{question}")
}

async fn get<T: DeserializeOwned>(client: &Client, question: &str) -> Result<T, reqwest::Error> {
    client.get(url(question)).send().await?.error_for_status()?.json().await
}

fn queue(shapes: &[Shape], most: u64) -> Finding {
    let waiting: u64 = shapes.iter().map(|shape| shape.total).sum();
    // The ages behind the last of the minutes.
    let old: u64 = shapes.iter().filter_map(|shape| shape.ages.get(Shape::MINUTES.len())).sum();
    let what = format!("{waiting} recipients wait, {old} of them for longer than a day");
    if waiting >= most || old > 0 {
        let remedy = "mailtrail queue shape and mailtrail queue list tell for whom and why";
        return Finding::bad(Status::Warn, "queue", "", what, remedy);
    }
    Finding::ok("queue", "", what)
}

fn breaker(view: &BreakerView) -> Finding {
    let (name, reason) = (view.upstream.as_str(), view.reason.as_deref().unwrap_or("no reason is known"));
    match (view.state.as_str(), &view.paused_until) {
        ("closed", None) => Finding::ok("breaker", name, "it is closed: mail goes"),
        ("closed", Some(until)) => {
            let what = format!("the upstream wants no mail until {until}: {reason}");
            Finding::bad(Status::Warn, "breaker", name, what, "wait, or ask the provider for a higher limit")
        }
        (state, _) => {
            let status = if state == "open" { Status::Fail } else { Status::Warn };
            let remedy = format!("mend the cause; mailtrail breaker close {name} tries at once");
            Finding::bad(status, "breaker", name, format!("it is {state}: {reason}"), remedy)
        }
    }
}

fn alarm(view: &AlarmView) -> Finding {
    let subject = format!("{} {}", view.alarm, view.subject);
    let (text, since) = (&view.text, &view.since);
    let (what, remedy) = text.rsplit_once("; ").unwrap_or((text, "the log tells more"));
    Finding::bad(Status::Warn, "alarm", subject.trim(), format!("since {since}: {what}"), remedy)
}

/// Reads the store where nobody else has it.
async fn store(data_dir: &Path) -> Finding {
    let (subject, directory) = (data_dir.display().to_string(), data_dir.to_owned());
    let open = move || Store::open_for_reading(&directory, Clock::System).map(|(_, report)| report);
    match tokio::task::spawn_blocking(open).await {
        Ok(Ok(report)) if report.damaged.is_empty() => Finding::ok(STORE, subject, "it can be read"),
        Ok(Ok(report)) => {
            let bytes: u64 = report.damaged.iter().map(|(_, _, bytes)| bytes).sum();
            let what = format!("{bytes} bytes of the journal are no records");
            Finding::bad(Status::Warn, STORE, subject, what, "look at the disk; all other records are kept")
        }
        Ok(Err(OpenError::Missing(_))) => {
            let remedy = "start the relay, which makes it";
            Finding::bad(Status::Unknown, STORE, subject, "there is none yet", remedy)
        }
        Ok(Err(error)) => Finding::error(Status::Fail, STORE, subject, &error, "look at the disk"),
        Err(error) => Finding::bad(Status::Fail, STORE, subject, error.to_string(), "report the fault"),
    }
}

const CHECK: &str = "daemon";
const STORE: &str = "store";
