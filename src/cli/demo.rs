//! The whole loop on this machine: Odoo-like mails over STARTTLS, the relay, the sandbox's signed webhooks, the
//! joined trails.

use crate::cli::{Context, Trouble, config_source, sandbox_upstream, say, say_json, trace};
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

/// One mail of the demo and what is to become of it.
struct Scene {
    subject: &'static str,
    record: &'static str,
    /// Recipients, each with its expected state and the events that must be joined.
    recipients: &'static [(&'static str, &'static str, &'static [&'static str])],
}

pub async fn run(context: &Context) -> Result<(), Trouble> {
    let failed = |error: &dyn std::fmt::Display| Trouble::Failed(error.to_string());
    let directory = tempfile::tempdir().map_err(|error| failed(&error))?;
    let text = CONFIG.replace("DATA", &directory.path().display().to_string());
    let config = config_source::built_in(&text, &BTreeMap::new())?;
    let stage = sandbox_upstream::start(Sockets::default(), config, PACE, None).await?;
    if !context.json {
        say(format!(
            "mailtrail listens on {}, the sandbox stands in for Mailgun on {}, {} mails go out.\n",
            stage.daemon.smtp_addresses()[0],
            stage.understudy.sandbox.smtp_address(),
            SCENES.len()
        ));
    }
    let sent = submit(stage.daemon.smtp_addresses()[0].port(), directory.path()).await;
    let ended = match sent {
        Ok(ids) => watch(context, stage.daemon.store(), &ids).await,
        Err(error) => Err(error),
    };
    stage.daemon.stop().await;
    stage.understudy.sandbox.stop().await;
    ended
}

/// Hands the mails in as Odoo does: STARTTLS, AUTH, one after another on one connection. Returns the tracking ids.
async fn submit(port: u16, data_dir: &Path) -> Result<Vec<String>, Trouble> {
    let failed = |error: &dyn std::fmt::Display| Trouble::Failed(format!("a mail was not taken: {error}"));
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
        plan: None,
        breaker: circuit_breaker::Settings::default(),
        timeouts: Default::default(),
    };
    let connector = tls::connector(settings.ca_file.as_deref()).map_err(|error| failed(&error))?;
    let mut connection =
        Connection::open(&settings, &connector, "[127.0.0.1]").await.map_err(|error| failed(&error))?;
    let mut ids = Vec::new();
    for (number, scene) in SCENES.iter().enumerate() {
        let response = hand_in(&mut connection, number, scene).await?;
        let id = response.text.strip_prefix("Queued as ").ok_or_else(|| failed(&response))?;
        ids.push(id.to_owned());
    }
    connection.quit().await;
    Ok(ids)
}

async fn hand_in(connection: &mut Connection, number: usize, scene: &Scene) -> Result<Response, Trouble> {
    let failed = |error: &dyn std::fmt::Debug| Trouble::Failed(format!("a mail was not taken: {error:?}"));
    let recipients: Result<Vec<Mailbox>, _> = scene.recipients.iter().map(|(to, ..)| to.parse()).collect();
    let envelope = Envelope {
        sender: "bounce@example.com".parse().ok(),
        recipients: recipients.map_err(|error| failed(&error))?,
        ..Envelope::default()
    };
    let message = message(number, scene);
    let replies =
        connection.envelope(&envelope, message.len() as u64).await.map_err(|error| failed(&error))?;
    if !replies.go_ahead() {
        return Err(failed(&replies));
    }
    let pieces = futures_util::stream::iter([Ok(message.into())]);
    connection.body(pieces).await.map_err(|error| failed(&error))?;
    connection.end_of_data(None).await.map_err(|error| failed(&error))
}

/// A mail as Odoo writes it.
fn message(number: usize, scene: &Scene) -> String {
    let now = mailtrail_mail::Clock::System.now();
    let (model, id) = scene.record.split_once(',').unwrap_or((scene.record, "1"));
    let to: Vec<_> = scene.recipients.iter().map(|(to, ..)| *to).collect();
    format!(
        "Message-Id: <{:015}.{}.{:015}-openerp-{id}-{model}@demo>\r\nSubject: {}\r\nTo: {}\r\nDate: {}\r\n\
         Return-Path: bounce@example.com\r\nX-Odoo-Objects: {model}-{id}\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=\"utf-8\"\r\nFrom: \"Sales\" <sales@example.com>\r\n\r\n\
         Dear customer,\r\n\r\nthis is mail {number} of the demo.\r\n.\r\nThe line above holds one dot.\r\n",
        fastrand::u64(..1_000_000_000_000_000),
        now.seconds(),
        fastrand::u64(..1_000_000_000_000_000),
        scene.subject,
        to.join(", "),
        now.rfc5322(),
    )
}

/// Waits until every trail is complete and prints them; how it ended.
async fn watch(context: &Context, store: &Store, ids: &[String]) -> Result<(), Trouble> {
    let started = Instant::now();
    let mut trails = look(store, ids)?;
    while started.elapsed() < PATIENCE
        && !SCENES.iter().zip(&trails).all(|(scene, trail)| complete(scene, trail))
    {
        tokio::time::sleep(PAUSE).await;
        trails = look(store, ids)?;
    }
    for trail in &trails {
        if context.json {
            say_json(trail);
        } else {
            trace::print(trail, context.paint);
        }
    }
    let complete = SCENES.iter().zip(&trails).filter(|(scene, trail)| complete(scene, trail)).count();
    if complete < SCENES.len() {
        let text =
            format!("only {complete} of {} trails are complete after {} s", SCENES.len(), PATIENCE.as_secs());
        return Err(Trouble::Failed(text));
    }
    if !context.json {
        let text =
            format!("All {complete} trails are complete, after {:.1} s.", started.elapsed().as_secs_f64());
        say(context.paint.bold(&text));
    }
    Ok(())
}

fn look(store: &Store, ids: &[String]) -> Result<Vec<TrailView>, Trouble> {
    let mut trails = Vec::new();
    for id in ids {
        let found = admin::find(store, id, 1).map_err(|error| Trouble::Damaged(error.to_string()))?;
        trails.extend(found.trails);
    }
    Ok(trails)
}

/// Whether each recipient is in its state, and each event is there: relayed by us, reported by a webhook.
fn complete(scene: &Scene, trail: &TrailView) -> bool {
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

const SCENES: &[Scene] = &[
    Scene {
        subject: "Quotation S00042",
        record: "sale.order,42",
        recipients: &[("delivered@example.net", "delivered", &["accepted", "relayed", "delivered"])],
    },
    Scene {
        subject: "Invoice INV/2026/0007",
        record: "account.move,7",
        recipients: &[("bounce@example.net", "bounced", &["relayed", "bounced"])],
    },
    Scene {
        subject: "Delivery order WH/OUT/00011",
        record: "stock.picking,11",
        recipients: &[("defer-twice@example.net", "delivered", &["relayed", "deferred", "delivered"])],
    },
    Scene {
        subject: "Your order is on its way",
        record: "sale.order,43",
        recipients: &[("click@example.net", "delivered", &["delivered", "opened", "clicked"])],
    },
    Scene {
        subject: "Our newsletter",
        record: "mailing.mailing,3",
        recipients: &[("complain@example.net", "delivered", &["delivered", "complained"])],
    },
    Scene {
        subject: "Meeting on Monday",
        record: "calendar.event,5",
        recipients: &[
            ("delivered@example.org", "delivered", &["relayed", "delivered"]),
            ("reject@example.org", "bounced", &["bounced"]),
        ],
    },
    Scene {
        subject: "Reminder: INV/2026/0003",
        record: "account.move,3",
        recipients: &[("defer-smtp@example.net", "delivered", &["deferred", "relayed", "delivered"])],
    },
    Scene {
        subject: "Password reset",
        record: "res.users,8",
        recipients: &[("drop-at-dot@example.net", "delivered", &["unknown", "delivered"])],
    },
];

const CONFIG: &str = r#"
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

/// Mailgun's hours become tenths of a second, the complaint of the next day comes after four seconds.
const PACE: f64 = 0.000_05;
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
