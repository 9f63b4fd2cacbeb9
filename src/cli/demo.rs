//! The complete loop on this machine: messages like Odoo's over STARTTLS, the relay, signed webhooks of the sandbox,
//! correlated trails.

use crate::cli::output::print_trail;
use crate::cli::{CliError, Context, config_source, print_json, print_line, sandbox_upstream};
use crate::daemon::Sockets;
use mailtrail_mail::{Envelope, Mailbox, Secret};
use mailtrail_net::tls;
use mailtrail_net::transport::{Connection, Login, Pipelining, Security, Settings, circuit_breaker};
use mailtrail_relay::admin;
use mailtrail_relay::admin::TrailView;
use mailtrail_smtp::Response;
use mailtrail_store::Store;
use mailtrail_trail::provider::Provider;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A message of the demo and its expected result.
struct DemoMessage {
    subject: &'static str,
    record: &'static str,
    /// Recipients, each with its expected state and the events that must be correlated.
    recipients: &'static [(&'static str, &'static str, &'static [&'static str])],
}

pub async fn run(context: &Context) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Other(error.to_string());
    let directory = tempfile::tempdir().map_err(|error| failed(&error))?;
    let text = DEMO_CONFIG.replace("DATA", &directory.path().display().to_string());
    let config = config_source::parse_builtin(&text, &BTreeMap::new())?;
    let stage = sandbox_upstream::start_sandbox_relay(Sockets::default(), config, TIME_SCALE, None).await?;
    if !context.json {
        print_line(format!(
            "mailtrail listens on {}, the sandbox simulates Mailgun on {}, {} messages are sent.\n",
            stage.daemon.smtp_addresses()[0],
            stage.upstream.sandbox.smtp_address(),
            DEMO_MESSAGES.len()
        ));
    }
    let sent = submit_messages(stage.daemon.smtp_addresses()[0].port(), directory.path()).await;
    let ended = match sent {
        Ok(ids) => wait_for_trails(context, stage.daemon.store(), &ids).await,
        Err(error) => Err(error),
    };
    stage.daemon.stop().await;
    stage.upstream.sandbox.stop().await;
    ended
}

/// Submits the messages as Odoo does: STARTTLS, AUTH, all on one connection. Returns the tracking ids.
async fn submit_messages(port: u16, data_dir: &Path) -> Result<Vec<String>, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Other(format!("a mail was not taken: {error}"));
    let settings = Settings {
        name: "demo".into(),
        provider: Provider::Plain,
        domain: None,
        host: "localhost".into(),
        port,
        security: Security::StartTls,
        ca_file: Some(data_dir.join("tls/relay.pem")),
        login: Some(Login { username: "odoo".into(), password: Secret::new("demo") }),
        api: None,
        connections: 1,
        pipelining: Pipelining::Off,
        idle_timeout: Duration::from_secs(10),
        connection_age: Duration::from_secs(600),
        messages_per_connection: 100,
        rate: None,
        quota_limit: None,
        breaker: circuit_breaker::BreakerSettings::default(),
        timeouts: Default::default(),
    };
    let connector = tls::build_connector(settings.ca_file.as_deref()).map_err(|error| failed(&error))?;
    let mut connection =
        Connection::open(&settings, &connector, "[127.0.0.1]").await.map_err(|error| failed(&error))?;
    let mut ids = Vec::new();
    for (number, scene) in DEMO_MESSAGES.iter().enumerate() {
        let response = submit_message(&mut connection, number, scene).await?;
        let id = response.text.strip_prefix("Queued as ").ok_or_else(|| failed(&response))?;
        ids.push(id.to_owned());
    }
    connection.quit().await;
    Ok(ids)
}

async fn submit_message(
    connection: &mut Connection,
    number: usize,
    scene: &DemoMessage,
) -> Result<Response, CliError> {
    let failed = |error: &dyn std::fmt::Debug| CliError::Other(format!("a mail was not taken: {error:?}"));
    let recipients: Result<Vec<Mailbox>, _> = scene.recipients.iter().map(|(to, ..)| to.parse()).collect();
    let envelope = Envelope {
        sender: "bounce@example.com".parse().ok(),
        recipients: recipients.map_err(|error| failed(&error))?,
        ..Envelope::default()
    };
    let message = build_message(number, scene);
    let replies =
        connection.send_envelope(&envelope, message.len() as u64).await.map_err(|error| failed(&error))?;
    if !replies.may_send_data() {
        return Err(failed(&replies));
    }
    let pieces = futures_util::stream::iter([Ok(message.into())]);
    connection.send_body(pieces).await.map_err(|error| failed(&error))?;
    connection.finish_data(None).await.map_err(|error| failed(&error))
}

/// Builds a message in Odoo's form.
fn build_message(number: usize, scene: &DemoMessage) -> String {
    let now = mailtrail_mail::Clock::System.now();
    let (model, id) = scene.record.split_once(',').unwrap_or((scene.record, "1"));
    let to: Vec<_> = scene.recipients.iter().map(|(to, ..)| *to).collect();
    format!(
        "Message-Id: <{:015}.{}.{:015}-openerp-{id}-{model}@demo>\r\nSubject: {}\r\nTo: {}\r\nDate: {}\r\n\
         Return-Path: bounce@example.com\r\nX-Odoo-Objects: {model}-{id}\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=\"utf-8\"\r\nFrom: \"Sales\" <sales@example.com>\r\n\r\n\
         Dear customer,\r\n\r\nthis is mail {number} of the demo.\r\n.\r\nThe line above holds one dot.\r\n",
        fastrand::u64(..1_000_000_000_000_000),
        now.as_secs(),
        fastrand::u64(..1_000_000_000_000_000),
        scene.subject,
        to.join(", "),
        now.to_rfc5322(),
    )
}

/// Waits until every trail is complete and prints the trails.
async fn wait_for_trails(context: &Context, store: &Store, ids: &[String]) -> Result<(), CliError> {
    let started = Instant::now();
    let mut trails = load_trails(store, ids)?;
    while started.elapsed() < TRAIL_TIMEOUT
        && !DEMO_MESSAGES.iter().zip(&trails).all(|(scene, trail)| is_complete(scene, trail))
    {
        tokio::time::sleep(POLL_INTERVAL).await;
        trails = load_trails(store, ids)?;
    }
    for trail in &trails {
        if context.json {
            print_json(trail);
        } else {
            print_trail(trail, context.style);
        }
    }
    let complete =
        DEMO_MESSAGES.iter().zip(&trails).filter(|(scene, trail)| is_complete(scene, trail)).count();
    if complete < DEMO_MESSAGES.len() {
        let text = format!(
            "only {complete} of {} trails are complete after {} s",
            DEMO_MESSAGES.len(),
            TRAIL_TIMEOUT.as_secs()
        );
        return Err(CliError::Other(text));
    }
    if !context.json {
        let text =
            format!("All {complete} trails are complete, after {:.1} s.", started.elapsed().as_secs_f64());
        print_line(context.style.bold(&text));
    }
    Ok(())
}

fn load_trails(store: &Store, ids: &[String]) -> Result<Vec<TrailView>, CliError> {
    let mut trails = Vec::new();
    for id in ids {
        let found = admin::find_trails(store, id, 1).map_err(|error| CliError::Damaged(error.to_string()))?;
        trails.extend(found.trails);
    }
    Ok(trails)
}

/// Whether each recipient has its expected state and events.
fn is_complete(scene: &DemoMessage, trail: &TrailView) -> bool {
    scene.recipients.iter().zip(&trail.recipients).all(|((address, state, events), recipient)| {
        recipient.address == *address
            && recipient.state == *state
            && events.iter().all(|event| {
                let told = |about: &Vec<String>| about.is_empty() || about.iter().any(|one| one == address);
                trail.timeline.iter().any(|fact| fact.event == *event && told(&fact.recipients))
            })
    }) && trail.recipients.len() == scene.recipients.len()
        && trail.next_action.is_none()
}

const DEMO_MESSAGES: &[DemoMessage] = &[
    DemoMessage {
        subject: "Quotation S00042",
        record: "sale.order,42",
        recipients: &[("delivered@example.net", "delivered", &["accepted", "relayed", "delivered"])],
    },
    DemoMessage {
        subject: "Invoice INV/2026/0007",
        record: "account.move,7",
        recipients: &[("bounce@example.net", "bounced", &["relayed", "bounced"])],
    },
    DemoMessage {
        subject: "Delivery order WH/OUT/00011",
        record: "stock.picking,11",
        recipients: &[("defer-twice@example.net", "delivered", &["relayed", "deferred", "delivered"])],
    },
    DemoMessage {
        subject: "Your order is on its way",
        record: "sale.order,43",
        recipients: &[("click@example.net", "delivered", &["delivered", "opened", "clicked"])],
    },
    DemoMessage {
        subject: "Our newsletter",
        record: "mailing.mailing,3",
        recipients: &[("complain@example.net", "delivered", &["delivered", "complained"])],
    },
    DemoMessage {
        subject: "Meeting on Monday",
        record: "calendar.event,5",
        recipients: &[
            ("delivered@example.org", "delivered", &["relayed", "delivered"]),
            ("reject@example.org", "bounced", &["bounced"]),
        ],
    },
    DemoMessage {
        subject: "Reminder: INV/2026/0003",
        record: "account.move,3",
        recipients: &[("defer-smtp@example.net", "delivered", &["deferred", "relayed", "delivered"])],
    },
    DemoMessage {
        subject: "Password reset",
        record: "res.users,8",
        recipients: &[("drop-at-dot@example.net", "delivered", &["unknown", "delivered"])],
    },
];

const DEMO_CONFIG: &str = r#"
[server]
hostname = "localhost"
data_dir = "DATA"

[[listener]]
address = "127.0.0.1:0"
tls = "starttls"

[[user]]
name = "odoo"
password = "demo"

[[upstream]]
name = "mailgun"
provider = "mailgun"
username = "postmaster@sandbox.example.com"
password = "sandbox"
webhook_signing_key = "sandbox"
[upstream.retry]
first = "300ms"

[http]
address = "127.0.0.1:0"
"#;

/// Factor from Mailgun's delays to the demo's: hours become tenths of a second; a complaint after a day arrives after
/// four seconds.
const TIME_SCALE: f64 = 0.000_05;
const TRAIL_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
