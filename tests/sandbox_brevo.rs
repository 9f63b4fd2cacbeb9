//! The sandbox as Brevo, behind a whole relay: bearer webhooks, statistics, blocked contacts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use bytes::Bytes;
use mailtrail::clock::{Clock, Moment, Timestamp};
use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail::event::Kind;
use mailtrail::id::TrackingId;
use mailtrail::ledger::{Accepted, Send, What};
use mailtrail::mail::MessageId;
use mailtrail::sandbox::{self, Face, Sandbox, Weather};
use mailtrail::secret::Secret;
use mailtrail::tls;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use support::eventually;

#[tokio::test]
async fn webhooks_and_polls_tell_the_same_story() {
    let moment: &'static Moment = Box::leak(Box::default());
    let start = Timestamp::from_millis(1_789_387_200_179);
    moment.set(start);
    let directory = tempfile::tempdir().unwrap();
    let sandbox = start_sandbox(directory.path(), Clock::Set(moment)).await;
    let text = format!(
        "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
         [[upstream]]\nname = \"up\"\nprovider = \"brevo\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n\
         username = \"a00001@smtp-brevo.com\"\npassword = \"pw\"\nwebhook_token = \"token\"\napi_key = \"xkeysib-1\"\n\
         api_base_url = \"http://{}\"\n[http]\naddress = \"127.0.0.1:0\"\n[suppression]\npolicy = \"off\"\n",
        directory.path().join("data").display().to_string(),
        sandbox.smtp_address().port(),
        sandbox.api_address(),
    );
    let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
    config.upstreams[0].reconcile.as_mut().unwrap().every = Duration::from_millis(50);
    let daemon = Daemon::start(&config, Clock::Set(moment), None).await.unwrap();
    sandbox.set_webhook(format!("http://{}/webhooks/up", daemon.http_address().unwrap()));

    let everybody = ["a@example.net", "bounce@example.net", "click@example.net", "complain@example.net"];
    let first = send(&daemon, start, "1@example.com", &everybody).await;
    eventually("the webhooks", || (sandbox.tally().taken_events == 11).then_some(())).await;
    let kinds = [
        (Kind::Accepted, 4),
        (Kind::Delivered, 3),
        (Kind::Bounced, 1),
        (Kind::Opened, 1),
        (Kind::Clicked, 1),
        (Kind::Complained, 1),
    ];
    let by = |source: &'static str| kinds.map(|(kind, count)| ((kind, source), count)).into();
    assert_eq!(reports(&daemon, first), by("webhook"));
    // Polls find them all, and nothing new.
    let later = start.after(Duration::from_secs(180));
    moment.set(later);
    polled(&daemon, later).await;
    assert_eq!(reports(&daemon, first), by("webhook"));

    // Without webhooks the polls bring what happens, which are blocks of those on the list.
    sandbox.set_weather(Weather { lose: 1.0, ..Weather::default() });
    let second = send(&daemon, later, "2@example.com", &everybody).await;
    eventually("the events", || (sandbox.tally().events == 21).then_some(())).await;
    let later = later.after(Duration::from_secs(180));
    moment.set(later);
    polled(&daemon, later).await;
    let expected = BTreeMap::from([
        ((Kind::Accepted, "poll"), 4),
        ((Kind::Delivered, "poll"), 2),
        ((Kind::Suppressed, "poll"), 2),
        ((Kind::Opened, "poll"), 1),
        ((Kind::Clicked, "poll"), 1),
    ]);
    assert_eq!(reports(&daemon, second), expected);
    daemon.stop().await;
}

#[tokio::test]
async fn its_api_has_brevos_shapes() {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = start_sandbox(directory.path(), Clock::System).await;
    let tls = tls::client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let ask = |path: &'static str, key: &'static str| {
        let request = client.get(format!("http://{}{path}", sandbox.api_address())).header("api-key", key);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    let key = "xkeysib-1";
    assert_eq!(ask("/v3/smtp/statistics/events", key).await, (200, json!({})));
    assert_eq!(ask("/v3/smtp/blockedContacts", key).await, (200, json!({ "count": 0, "contacts": [] })));
    let unknown = json!({ "code": "unauthorized", "message": "Key not found" });
    assert_eq!(ask("/v3/account", "other").await, (401, unknown));
    for path in [
        "/v3/smtp/statistics/events?limit=5001",
        "/v3/smtp/statistics/events?startDate=2026-09-14",
        "/v3/smtp/statistics/events?startDate=2026-09-14&endDate=soon",
        "/v3/smtp/blockedContacts?limit=101",
    ] {
        assert_eq!(ask(path, key).await.0, 400, "{path}");
    }
    sandbox.set_weather(Weather { requests: 0, ..Weather::default() });
    assert_eq!(ask("/v3/account", key).await.0, 429);
}

async fn start_sandbox(directory: &Path, clock: Clock) -> Sandbox {
    let sandbox = sandbox::start(sandbox::Settings {
        face: Face::Brevo,
        smtp: SocketAddr::from(([127, 0, 0, 1], 0)),
        api: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_key: Secret::new("xkeysib-1"),
        domain: "example.com".into(),
        username: "a00001@smtp-brevo.com".into(),
        password: Secret::new("pw"),
        signing_key: Secret::new("token"),
        webhook: None,
        pace: 0.0,
        weather: Weather::default(),
        clock,
        tls: tls::self_signed(directory, "localhost").unwrap(),
    });
    sandbox.await.unwrap()
}

async fn send(daemon: &Daemon, now: Timestamp, message_id: &str, recipients: &[&str]) -> TrackingId {
    let id = TrackingId::new(now, fastrand::u128(..));
    let message = format!("Message-ID: <{message_id}>\r\nFrom: a@example.com\r\nSubject: x\r\n\r\nText\r\n");
    let send = Send {
        sender: "bounces@example.com".parse().ok(),
        message_id: MessageId::parse(message_id),
        size: message.len() as u64,
        ..Send::new(id, "test")
    };
    let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
    let accepted = Accepted { send, recipients };
    daemon.store().accept_and_apply(accepted, Bytes::from(message)).await.unwrap();
    daemon.store().due_bell().ring();
    id
}

/// Waits until a poll that began at this time has ended.
async fn polled(daemon: &Daemon, now: Timestamp) {
    let end = now.before(Duration::from_secs(1800));
    let cursor = || daemon.store().polled_until("up").unwrap();
    eventually("the poll", || (cursor() == Some(end)).then_some(())).await;
}

/// What was reported in a trail, and how it came.
fn reports(daemon: &Daemon, id: TrackingId) -> BTreeMap<(Kind, &'static str), u64> {
    let mut reports: BTreeMap<(Kind, &'static str), u64> = BTreeMap::new();
    for fact in daemon.store().trail(id).unwrap().unwrap().facts {
        if let What::Reported(kind) = fact.what {
            *reports.entry((kind, fact.source.word())).or_default() += 1;
        }
    }
    reports
}
