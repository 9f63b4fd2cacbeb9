//! The sandbox as Brevo, with a whole relay or alone: webhooks and their retries, batches, statistics, blocked
//! contacts.

use bytes::Bytes;
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, ManualClock, MessageId, Timestamp, TrackingId};
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox, Scenario};
use mailtrail_trail::{
    AcceptedMessage, EventKind, MarkKind, Message, Recipient, RecipientState, TrailEventKind,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use testkit::eventually;
use testkit::log_capture::LogCapture;
use testkit::mock_http::{HttpAction, MockHttpServer};
use testkit::webhook_harness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn every_scenario_ends_in_expected_state() {
    let by = MarkKind::Person;
    let expectations = [
        (Scenario::Delivered, RecipientState::Delivered, Some(by(EventKind::Accepted))),
        (Scenario::Bounce, RecipientState::Bounced, Some(by(EventKind::Bounced))),
        (Scenario::LateBounce, RecipientState::Bounced, Some(by(EventKind::Delivered))),
        (Scenario::DeferTwice, RecipientState::Delivered, Some(by(EventKind::Deferred))),
        (Scenario::DeferSmtp, RecipientState::Delivered, Some(by(EventKind::Delivered))),
        (Scenario::Complain, RecipientState::Delivered, Some(by(EventKind::Complained))),
        (Scenario::Open, RecipientState::Delivered, Some(by(EventKind::Opened))),
        (Scenario::BotOpen, RecipientState::Delivered, Some(MarkKind::Automated(EventKind::Opened))),
        (Scenario::Click, RecipientState::Delivered, Some(by(EventKind::Clicked))),
        (Scenario::Unsubscribe, RecipientState::Delivered, Some(by(EventKind::Unsubscribed))),
        (Scenario::Suppressed, RecipientState::Suppressed, Some(by(EventKind::Suppressed))),
        (Scenario::Reject, RecipientState::Bounced, None),
        (Scenario::DropAtDot, RecipientState::Delivered, Some(by(EventKind::Delivered))),
        (Scenario::DropBeforeDot, RecipientState::Delivered, Some(by(EventKind::Delivered))),
        (Scenario::Slow, RecipientState::Delivered, Some(by(EventKind::Delivered))),
        (Scenario::Silent, RecipientState::Relayed, None),
        (Scenario::InvalidEmail, RecipientState::Bounced, Some(by(EventKind::Bounced))),
        (Scenario::UnverifiedSender, RecipientState::Failed, Some(by(EventKind::Rejected))),
        (Scenario::UnauthorizedIp, RecipientState::Delivered, Some(by(EventKind::Delivered))),
    ];
    let others = Scenario::ALL.into_iter().filter(|outcome| *outcome != Scenario::RateLimit);
    assert!(others.eq(expectations.iter().map(|(outcome, ..)| *outcome)));
    // Each on its own: some of them make the relay careful with the whole upstream.
    let case = |(outcome, state, mark): (Scenario, RecipientState, Option<MarkKind>)| async move {
        let harness = BrevoSandboxRelay::new(Clock::System, WEBHOOK_KEYS).await;
        let id = harness.enqueue("1@example.com", &[&format!("{}@example.net", outcome.as_str())]).await;
        let has_ended = || {
            let recipient = harness.first_recipient(id);
            let marked = mark.is_none_or(|mark| recipient.marks.iter().any(|(kind, _)| *kind == mark));
            (recipient.state() == state && marked).then_some(())
        };
        eventually(outcome.as_str(), has_ended).await;
        // A message that was lost at its last dot may be sent twice, where its event comes late.
        let most = if outcome == Scenario::DropAtDot { 2 } else { 1 };
        let taken = harness.sandbox.counters().messages;
        assert!(
            (u64::from(outcome != Scenario::Reject)..=most).contains(&taken),
            "{}: {taken}",
            outcome.as_str()
        );
        harness.daemon.stop().await;
    };
    // Each relay is too much for a stack that all share.
    futures_util::future::join_all(expectations.map(|expected| Box::pin(case(expected)))).await;
}

#[tokio::test]
async fn rate_limit_throttles_relay() {
    let log = LogCapture::default();
    let _listening = log.install();
    let (moment, clock) = manual_clock();
    let harness = BrevoSandboxRelay::new(clock, WEBHOOK_KEYS).await;
    let id = harness.enqueue("1@example.com", &["rate-limit@example.net"]).await;
    eventually("the limit", || log.lines("it is sent less").pop()).await;
    eventually("the end of the attempt", || {
        (harness.first_recipient(id).state() == RecipientState::Queued).then_some(())
    })
    .await;
    moment.advance_to(START_TIME.saturating_add(ONE_MINUTE * 3));
    let delivered = || {
        harness.daemon.store().queue_wakeup().notify();
        (harness.first_recipient(id).state() == RecipientState::Delivered).then_some(())
    };
    eventually("the delivery", delivered).await;
    assert_eq!(harness.sandbox.counters().messages, 1);
    harness.daemon.stop().await;
}

#[tokio::test]
async fn unauthorized_ip_holds_mail_without_loss() {
    let log = LogCapture::default();
    let _listening = log.install();
    let harness = BrevoSandboxRelay::new(Clock::System, &format!("connections = 1\n{WEBHOOK_KEYS}")).await;
    let first = harness.enqueue("1@example.com", &["unauthorized-ip@example.net"]).await;
    let refusal = eventually("the refusal", || log.lines("525 5.7.1 Unauthorized IP address").pop()).await;
    assert!(refusal.contains("mail waits") && refusal.contains("authorised addresses"), "{refusal}");
    let second = harness.enqueue("2@example.com", &["b@example.net"]).await;
    for id in [first, second] {
        eventually("the delivery", || {
            (harness.first_recipient(id).state() == RecipientState::Delivered).then_some(())
        })
        .await;
    }
    assert_eq!(harness.sandbox.counters().messages, 2);
    harness.daemon.stop().await;
}

#[tokio::test]
async fn webhooks_and_polls_yield_same_events() {
    let (moment, clock) = manual_clock();
    let harness = BrevoSandboxRelay::new(clock, POLLING_KEYS).await;
    let everybody = ["a@example.net", "bounce@example.net", "click@example.net", "complain@example.net"];
    let first = harness.enqueue("1@example.com", &everybody).await;
    eventually("the webhooks", || (harness.sandbox.counters().accepted_events == 11).then_some(())).await;
    let kinds = [
        (EventKind::Accepted, 4),
        (EventKind::Delivered, 3),
        (EventKind::Bounced, 1),
        (EventKind::Opened, 1),
        (EventKind::Clicked, 1),
        (EventKind::Complained, 1),
    ];
    let by = |source: &'static str| kinds.map(|(kind, count)| ((kind, source), count)).into();
    assert_eq!(harness.count_events(first), by("webhook"));
    // Polls find them all, and nothing new.
    let later = START_TIME.saturating_add(ONE_MINUTE * 3);
    moment.advance_to(later);
    harness.wait_polled(later).await;
    assert_eq!(harness.count_events(first), by("webhook"));

    // Without webhooks the polls bring what happens, which are blocks of those on the list.
    harness.sandbox.set_faults(FaultInjection { lose: 1.0, ..no_rate_limit() });
    let second = harness.enqueue("2@example.com", &everybody).await;
    eventually("the events", || (harness.sandbox.counters().events == 21).then_some(())).await;
    let later = later.saturating_add(ONE_MINUTE * 3);
    moment.advance_to(later);
    harness.wait_polled(later).await;
    let expected = BTreeMap::from([
        ((EventKind::Accepted, "poll"), 4),
        ((EventKind::Delivered, "poll"), 2),
        ((EventKind::Suppressed, "poll"), 2),
        ((EventKind::Opened, "poll"), 1),
        ((EventKind::Clicked, "poll"), 1),
    ]);
    assert_eq!(harness.count_events(second), expected);
    assert_eq!(harness.sandbox.counters().lost_events, 10);
    harness.daemon.stop().await;
}

#[tokio::test]
async fn webhooks_after_poll_change_nothing() {
    let (moment, clock) = manual_clock();
    let harness = BrevoSandboxRelay::new(clock, POLLING_KEYS).await;
    harness.sandbox.set_faults(FaultInjection { hold: true, ..no_rate_limit() });
    let everybody = ["a@example.net", "invalid-email@example.net", "bot-open@example.net"];
    let id = harness.enqueue("1@example.com", &everybody).await;
    eventually("the events", || (harness.sandbox.counters().events == 7).then_some(())).await;
    let later = START_TIME.saturating_add(ONE_MINUTE * 3);
    moment.advance_to(later);
    harness.wait_polled(later).await;
    let expected = BTreeMap::from([
        ((EventKind::Accepted, "poll"), 3),
        ((EventKind::Delivered, "poll"), 2),
        ((EventKind::Bounced, "poll"), 1),
        ((EventKind::Opened, "poll"), 1),
    ]);
    assert_eq!(harness.count_events(id), expected);
    harness.sandbox.set_faults(no_rate_limit());
    eventually("the webhooks", || (harness.sandbox.counters().accepted_events == 7).then_some(())).await;
    assert_eq!(harness.count_events(id), expected);
    let counts = harness
        .recipients(id)
        .into_iter()
        .flat_map(|recipient| recipient.marks.iter().map(|(_, mark)| mark.count).collect::<Vec<_>>());
    assert_eq!(counts.collect::<BTreeSet<_>>(), BTreeSet::from([1]));
    harness.daemon.stop().await;
}

#[tokio::test]
async fn batch_is_one_authenticated_request() {
    for wrap in [false, true] {
        let keys = "webhook_token = \"token-1\"\nwebhook_header = \"X-Mailtrail-Token\"\n";
        let harness = BrevoSandboxRelay::without_webhooks(Clock::System, keys).await;
        harness.sandbox.set_faults(FaultInjection { hold: true, wrap, ..no_rate_limit() });
        let made = json!({
            "type": "transactional",
            "url": harness.webhook_url(),
            "events": ["sent", "delivered", "hardBounce", "click", "uniqueOpened"],
            "headers": [{ "key": "X-Mailtrail-Token", "value": "token-1" }],
            "batched": true,
        });
        assert_eq!(request_api(&harness.sandbox, Method::POST, "/v3/webhooks", Some(made)).await.0, 201);
        let ids = [
            harness.enqueue("1@example.com", &["a@example.net", "bounce@example.net"]).await,
            harness.enqueue("2@example.com", &["click@example.net", "complain@example.net"]).await,
        ];
        eventually("the events", || (harness.sandbox.counters().events == 11).then_some(())).await;
        harness.sandbox.set_faults(FaultInjection { wrap, ..no_rate_limit() });
        // No webhook subscribes to complaints.
        eventually("the batch", || (harness.sandbox.counters().accepted_events == 10).then_some(())).await;
        assert_eq!(harness.sandbox.counters().webhook_requests, 1);
        let states = ids.map(|id| harness.recipients(id).iter().map(Recipient::state).collect::<Vec<_>>());
        assert_eq!(
            states,
            [
                [RecipientState::Delivered, RecipientState::Bounced],
                [RecipientState::Delivered, RecipientState::Delivered]
            ]
        );
        harness.daemon.stop().await;
    }
}

#[tokio::test]
async fn sends_basic_auth_from_webhook_url() {
    let keys = "webhook_username = \"mt\"\nwebhook_password = \"secret-of-the-webhook\"\n";
    let harness = BrevoSandboxRelay::without_webhooks(Clock::System, keys).await;
    harness.sandbox.set_webhook_url(harness.webhook_url());
    harness.enqueue("1@example.com", &["a@example.net"]).await;
    eventually("the refusals", || (harness.sandbox.counters().rejected_events == 2).then_some(())).await;
    harness
        .sandbox
        .set_webhook_url(harness.webhook_url().replace("http://", "http://mt:secret-of-the-webhook@"));
    harness.enqueue("2@example.com", &["a@example.net"]).await;
    eventually("the webhooks", || (harness.sandbox.counters().accepted_events == 2).then_some(())).await;
    assert_eq!(harness.sandbox.counters().webhook_requests, 4);
    harness.daemon.stop().await;
}

#[tokio::test]
async fn retries_event_that_cannot_be_stored() {
    if !webhook_harness::is_full_disk_child(module_path!(), "retries_event_that_cannot_be_stored") {
        return;
    }
    let harness = BrevoSandboxRelay::new(Clock::System, WEBHOOK_KEYS).await;
    // Each mail, and each event of it, takes a sixth of the file.
    let tag = format!("X-Mailin-Tag: {}\r\n", "x".repeat(700_000));
    let ids = [
        harness.enqueue_with_header(&tag, "1@example.com", &["a@example.net"]).await,
        harness.enqueue_with_header(&tag, "2@example.com", &["b@example.net"]).await,
    ];
    eventually("the webhooks", || (harness.sandbox.counters().accepted_events == 4).then_some(())).await;
    let tally = harness.sandbox.counters();
    assert!(tally.webhook_requests > 4 && tally.rejected_events == 0, "{tally:?}");
    for id in ids {
        let by = |kind| ((kind, "webhook"), 1);
        assert_eq!(
            harness.count_events(id),
            BTreeMap::from([by(EventKind::Accepted), by(EventKind::Delivered)])
        );
    }
    harness.daemon.stop().await;
}

#[tokio::test]
async fn retries_only_after_429_and_no_response() {
    for status in [400, 401, 404, 406, 410, 413, 500, 503] {
        let hook = MockHttpServer::start(move |_, _| HttpAction::Respond(status, String::new())).await;
        let (sandbox, _directory) = start_sandbox(Clock::System, 0.0).await;
        sandbox.set_webhook_url(format!("http://{}/hook", hook.address));
        submit_to_sandbox(&sandbox, "a@example.net").await;
        eventually("the end", || (sandbox.counters().rejected_events == 2).then_some(())).await;
        sandbox.stop().await;
        assert_eq!(hook.count(), 2, "{status}");
    }
    for silent in [false, true] {
        let hook = MockHttpServer::start(move |number, _| match (number, silent) {
            (1, true) => HttpAction::Close,
            (1, false) => HttpAction::Respond(429, String::new()),
            _ => HttpAction::Respond(200, String::new()),
        });
        let hook = hook.await;
        let (sandbox, _directory) = start_sandbox(Clock::System, 1e-5).await;
        sandbox.set_webhook_url(format!("http://{}/hook", hook.address));
        submit_to_sandbox(&sandbox, "a@example.net").await;
        eventually("the webhooks", || (sandbox.counters().accepted_events == 2).then_some(())).await;
        let requests = hook.requests();
        assert!(requests.iter().all(|request| request.header("authorization") == Some("Bearer token")));
        let bodies: Vec<_> = requests.into_iter().map(|request| request.body).collect();
        assert_eq!(bodies.len(), 3);
        let first = bodies.iter().filter(|body| **body == bodies[0]).count();
        assert_eq!((first, sandbox.counters().rejected_events), (2, 0));
    }
    let hook = MockHttpServer::start(|_, _| HttpAction::Respond(429, String::new())).await;
    let (sandbox, _directory) = start_sandbox(Clock::System, 0.0).await;
    sandbox.set_webhook_url(format!("http://{}/hook", hook.address));
    submit_to_sandbox(&sandbox, "a@example.net").await;
    eventually("the end", || (sandbox.counters().lost_events == 2).then_some(())).await;
    assert_eq!(hook.count(), 10, "each five times");
}

#[tokio::test]
async fn api_matches_recorded_brevo_responses() {
    let (sandbox, _directory) = start_sandbox(Clock::System, 0.0).await;
    let get = async |path: &str| request_api(&sandbox, Method::GET, path, None).await;
    assert_eq!(get("/v3/smtp/statistics/events").await, (200, json!({})));
    assert_eq!(get("/v3/smtp/blockedContacts").await, (200, json!({ "count": 0, "contacts": [] })));
    for to in ["a@example.net", "bounce@example.net", "unsubscribe@example.net", "Complain@example.net"] {
        submit_to_sandbox(&sandbox, to).await;
    }
    eventually("the events", || (sandbox.counters().events == 10).then_some(())).await;

    let (_, all) = get("/v3/smtp/statistics/events?sort=asc").await;
    assert_eq!(member_names(&all), member_names(&read_fixture("api_statistics_events.json")));
    let words: Vec<_> = all["events"].as_array().unwrap().iter().map(|event| &event["event"]).collect();
    let seen: BTreeSet<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(seen, BTreeSet::from(["requests", "delivered", "hardBounces", "unsubscribed", "spam"]));
    for (query, count) in [
        ("days=1", 10),
        ("limit=4&offset=8", 2),
        ("event=bounces", 1),
        ("event=requests&email=A@example.net", 1),
        ("messageId=%3C1@example.com%3E", 10),
        ("messageId=other", 0),
        ("startDate=2020-01-01&endDate=2020-01-02", 0),
    ] {
        let (_, page) = get(&format!("/v3/smtp/statistics/events?{query}")).await;
        assert_eq!(page["events"].as_array().map_or(0, Vec::len), count, "{query}");
    }

    let (_, blocked) = get("/v3/smtp/blockedContacts?limit=2&sort=asc").await;
    let recorded = read_fixture("api_blocked_contacts.json");
    assert_eq!((member_names(&blocked), &blocked["count"]), (member_names(&recorded), &json!(3)));
    assert_eq!(member_names(&blocked["contacts"][0]), member_names(&recorded["contacts"][0]));
    assert_eq!(blocked["contacts"].as_array().unwrap().len(), 2);
    let remove = async || {
        request_api(&sandbox, Method::DELETE, "/v3/smtp/blockedContacts/complain@example.net", None).await.0
    };
    assert_eq!([remove().await, remove().await], [204, 404]);

    for path in [
        "smtp/statistics/events?limit=5001",
        "smtp/statistics/events?startDate=2026-09-14",
        "smtp/statistics/events?startDate=2026-09-14&endDate=soon",
        "smtp/statistics/events?startDate=2026-09-14&endDate=2026-09-13",
        "smtp/statistics/events?days=91",
        "smtp/statistics/events?event=request",
        "smtp/blockedContacts?limit=101",
        "smtp/blockedContacts?endDate=2026-09-14",
    ] {
        assert_eq!(get(&format!("/v3/{path}")).await.0, 400, "{path}");
    }
    let (_, account) = get("/v3/account").await;
    assert_eq!(account["relay"]["data"]["userName"], "a00001@smtp-brevo.com");
    let (_, domains) = get("/v3/senders/domains").await;
    let domain = &domains["domains"][0];
    assert_eq!((&domain["domain_name"], &domain["authenticated"]), (&json!("example.com"), &json!(true)));
    assert_eq!(get("/v3/contacts").await.0, 404);
}

#[tokio::test]
async fn rate_limited_response_states_reset_time() {
    let (sandbox, _directory) = start_sandbox(Clock::System, 0.0).await;
    let url = format!("http://{}/v3/account", sandbox.api_address());
    let wrong = http_client().get(&url).header("api-key", "other").send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert_eq!(wrong.json::<Value>().await.unwrap(), read_fixture("api_error_401.json"));
    sandbox.set_faults(FaultInjection { requests: 1, ..FaultInjection::default() });
    for (status, remaining) in [(200, 0), (429, 0)] {
        let answer = http_client().get(&url).header("api-key", "xkeysib-1").send().await.unwrap();
        let number = |name: &str| -> u64 {
            let field = answer.headers()[format!("x-sib-ratelimit-{name}")].to_str().unwrap();
            field.parse().unwrap()
        };
        assert_eq!((number("limit"), number("remaining")), (1, remaining));
        assert!((1..=3600).contains(&number("reset")));
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn creates_updates_and_deletes_webhooks() {
    let (sandbox, _directory) = start_sandbox(Clock::System, 0.0).await;
    let ask = async |method, path: &str, body| request_api(&sandbox, method, path, body).await;
    let url = "http://127.0.0.1:9/hook";
    let made = json!({ "url": url, "description": "ours", "events": ["delivered"] });
    assert_eq!(ask(Method::POST, "/v3/webhooks", Some(made.clone())).await, (201, json!({ "id": 1 })));
    let change = json!({ "events": ["spam", "invalid"], "auth": { "type": "bearer", "token": "t" } });
    assert_eq!(ask(Method::PUT, "/v3/webhooks/1", Some(change)).await, (204, Value::Null));
    let (_, hook) = ask(Method::GET, "/v3/webhooks/1", None).await;
    assert_eq!(hook["events"], json!(["spam", "invalid"]));
    assert_eq!((&hook["url"], &hook["auth"]["token"]), (&json!(url), &json!("t")));
    for (query, expected) in
        [("?type=transactional", json!([hook])), ("", json!([hook])), ("?type=marketing", json!([]))]
    {
        let listed = ask(Method::GET, &format!("/v3/webhooks{query}"), None).await;
        assert_eq!(listed, (200, json!({ "webhooks": expected })), "{query}");
    }
    for bad in [
        json!({ "url": url }),
        json!({ "url": url, "events": ["hard_bounce"] }),
        json!({ "url": "ftp://example.com", "events": ["spam"] }),
        json!({ "url": url, "events": ["spam"], "type": "marketing" }),
        json!({ "url": url, "events": ["spam"], "auth": { "type": "basic" } }),
    ] {
        assert_eq!(ask(Method::POST, "/v3/webhooks", Some(bad.clone())).await.0, 400, "{bad}");
    }
    for id in 2..=40 {
        assert_eq!(ask(Method::POST, "/v3/webhooks", Some(made.clone())).await.1, json!({ "id": id }));
    }
    assert_eq!(ask(Method::POST, "/v3/webhooks", Some(made)).await.0, 400);
    assert_eq!(ask(Method::DELETE, "/v3/webhooks/1", None).await.0, 204);
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(ask(method, "/v3/webhooks/1", None).await.0, 404);
    }
    assert_eq!(ask(Method::PUT, "/v3/webhooks/1", Some(json!({}))).await.0, 404);
}

/// Relay with the sandbox as its provider.
struct BrevoSandboxRelay {
    sandbox: Sandbox,
    daemon: Daemon,
    clock: Clock,
    _directories: [tempfile::TempDir; 2],
}

impl BrevoSandboxRelay {
    /// With webhooks to the relay, which has these keys of an upstream.
    async fn new(clock: Clock, keys: &str) -> Self {
        let harness = Self::without_webhooks(clock, keys).await;
        harness.sandbox.set_webhook_url(harness.webhook_url());
        harness
    }

    /// Starts a relay and a sandbox without webhooks.
    async fn without_webhooks(clock: Clock, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (sandbox, of_sandbox) = start_sandbox(clock, 0.0).await;
        sandbox.set_faults(no_rate_limit());
        let keys = keys.replace("API", &format!("http://{}", sandbox.api_address()));
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[upstream]]\nname = \"up\"\nprovider = \"brevo\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n\
             username = \"a00001@smtp-brevo.com\"\npassword = \"pw\"\n{keys}\
             [upstream.retry]\nfirst = \"100ms\"\nmax = \"1s\"\nunknown_wait = \"1s\"\n[upstream.breaker]\npause = \"100ms\"\n\
             longest_pause = \"1s\"\n\
             [suppression]\npolicy = \"off\"\n[http]\naddress = \"127.0.0.1:0\"\n",
            directory.path().join("data").display().to_string(),
            sandbox.smtp_address().port(),
        );
        let mut config: Config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        if let Some(reconcile) = &mut config.upstreams[0].reconcile {
            // Real time, of which the test has little.
            reconcile.interval = Duration::from_millis(50);
        }
        let daemon = Daemon::start(&config, clock, None).await.unwrap();
        Self { sandbox, daemon, clock, _directories: [directory, of_sandbox] }
    }

    /// Returns the URL of the relay's webhook.
    fn webhook_url(&self) -> String {
        format!("http://{}/webhooks/up", self.daemon.http_address().unwrap())
    }

    async fn enqueue(&self, message_id: &str, recipients: &[&str]) -> TrackingId {
        self.enqueue_with_header("", message_id, recipients).await
    }

    /// Puts a mail with these header lines into the queue.
    async fn enqueue_with_header(&self, header: &str, message_id: &str, recipients: &[&str]) -> TrackingId {
        let id = TrackingId::new(self.clock.now(), fastrand::u128(..));
        let message = format!(
            "{header}Message-ID: <{message_id}>\r\nFrom: a@example.com\r\nSubject: x\r\n\r\nText\r\n"
        );
        let send = Message {
            sender: "bounces@example.com".parse().ok(),
            message_id: MessageId::parse(message_id),
            size: message.len() as u64,
            ..Message::new(id, "test")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        let accepted = AcceptedMessage { message: send, recipients };
        self.daemon.store().put_message_applied(accepted, Bytes::from(message)).await.unwrap();
        self.daemon.store().queue_wakeup().notify();
        id
    }

    fn recipients(&self, id: TrackingId) -> Vec<Recipient> {
        self.daemon.store().load_trail(id).unwrap().unwrap().recipients
    }

    fn first_recipient(&self, id: TrackingId) -> Recipient {
        self.recipients(id).remove(0)
    }

    /// Waits until a poll that began at this time has ended.
    async fn wait_polled(&self, now: Timestamp) {
        let end = now.saturating_sub(ONE_MINUTE * 30);
        let cursor = || self.daemon.store().poll_cursor("up").unwrap();
        eventually("the poll", || (cursor() == Some(end)).then_some(())).await;
    }

    /// Counts the events in a trail by kind and source.
    fn count_events(&self, id: TrackingId) -> BTreeMap<(EventKind, &'static str), u64> {
        let mut reports: BTreeMap<(EventKind, &'static str), u64> = BTreeMap::new();
        for fact in self.daemon.store().load_trail(id).unwrap().unwrap().events {
            if let TrailEventKind::EventReceived(kind) = fact.kind {
                *reports.entry((kind, fact.source.as_str())).or_default() += 1;
            }
        }
        reports
    }
}

async fn start_sandbox(clock: Clock, time_scale: f64) -> (Sandbox, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
        profile: ProviderProfile::Brevo,
        smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_key: Secret::new("xkeysib-1"),
        domain: "example.com".into(),
        username: "a00001@smtp-brevo.com".into(),
        password: Secret::new("pw"),
        signing_key: Secret::new("token"),
        webhook_url: None,
        time_scale,
        faults: FaultInjection::default(),
        clock,
        tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
    });
    (sandbox.await.unwrap(), directory)
}

/// Hands a mail to the sandbox without a relay.
async fn submit_to_sandbox(sandbox: &Sandbox, recipient: &str) {
    let mut stream = TcpStream::connect(sandbox.smtp_address()).await.unwrap();
    let output = format!(
        "EHLO a\r\nAUTH PLAIN AGEwMDAwMUBzbXRwLWJyZXZvLmNvbQBwdw==\r\nMAIL FROM:<a@example.com>\r\n\
         RCPT TO:<{recipient}>\r\nDATA\r\nMessage-ID: <1@example.com>\r\nFrom: a@example.com\r\nSubject: s\r\n\
         X-Mailin-Tag: odoo\r\n\r\nText\r\n.\r\nQUIT\r\n"
    );
    stream.write_all(output.as_bytes()).await.unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    assert!(received.contains("250 2.0.0 OK: queued as <1@example.com>"), "{received}");
}

/// Asks the sandbox's API; the status and the body, if there is one.
async fn request_api(sandbox: &Sandbox, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("http://{}{path}", sandbox.api_address());
    let mut request = http_client().request(method, url).header("api-key", "xkeysib-1");
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

fn http_client() -> reqwest::Client {
    let tls = tls::build_client_config(None).unwrap();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

fn member_names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn read_fixture(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/brevo").join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A clock that the test sets.
fn manual_clock() -> (&'static ManualClock, Clock) {
    let moment: &'static ManualClock = Box::leak(Box::default());
    moment.advance_to(START_TIME);
    (moment, Clock::Manual(moment))
}

/// Returns faults without rate limits.
fn no_rate_limit() -> FaultInjection {
    FaultInjection { requests: u32::MAX, ..FaultInjection::default() }
}

const WEBHOOK_KEYS: &str = "webhook_token = \"token\"\n";
const POLLING_KEYS: &str = "webhook_token = \"token\"\napi_key = \"xkeysib-1\"\napi_base_url = \"API\"\n";
const START_TIME: Timestamp = Timestamp::from_millis(1_789_387_200_179);
const ONE_MINUTE: Duration = Duration::from_secs(60);
