//! Brevo's webhooks over HTTP, against a whole relay.

use mailtrail_trail::{EventKind, MarkKind, RecipientState, TrailSource};
use serde_json::{Map, Value, json};
use std::path::Path;
use testkit::log_capture::LogCapture;
use testkit::webhook_harness::{SENT_ID, START_SECONDS, WebhookHarness, is_full_disk_child, mark_kind};
use tracing::Level;

#[tokio::test]
async fn applies_every_recorded_event() {
    let expectations: Map<String, Value> = serde_json::from_slice(&read_fixture("expected.json")).unwrap();
    let mut joined = 0;
    for (file, expected) in &expectations {
        let harness = start_brevo_relay().await;
        let hidden = expected["recipient"] == "";
        harness
            .store_message(
                SENT_ID,
                if hidden { &["ada@example.net"] } else { &["ada@example.net", "bob@example.org"] },
            )
            .await;
        for _ in 0..2 {
            assert_eq!(
                harness.post_with("webhooks/up", BEARER_HEADER, read_fixture(file)).await,
                200,
                "{file}"
            );
        }
        let ours = expected["message_id"] == "1789387199.4711.mt0001@mg.example.com";
        // An error is the sender's, and no bounce of the recipient's address.
        let kind = if file == "error.json" { "rejected" } else { expected["kind"].as_str().unwrap() };
        let marks = harness.marks();
        assert_eq!(marks[0], if ours { vec![(mark_kind(kind), 1)] } else { Vec::new() }, "{file}");
        assert!(marks[1..].iter().all(Vec::is_empty), "{file}");
        if ours {
            let fact = harness
                .load_trail(SENT_ID)
                .events
                .into_iter()
                .find(|fact| fact.source == TrailSource::Webhook)
                .unwrap();
            assert_eq!(fact.at.as_millis(), expected["occurred_at_ms"].as_u64().unwrap(), "{file}");
            joined += 1;
        }
    }
    assert_eq!((expectations.len(), joined), (25, 23));
}

#[tokio::test]
async fn records_block_reason_and_server_reply() {
    for (file, name, code, enhanced, state) in [
        ("blocked.json", "blocked/unsubscribed", None, None, RecipientState::Suppressed),
        ("blocked_hard_bounce.json", "blocked/blacklist", None, None, RecipientState::Suppressed),
        ("hard_bounce.json", "hard_bounce", Some(550), Some("5.1.1"), RecipientState::Bounced),
        ("error.json", "error", None, None, RecipientState::Failed),
    ] {
        let harness = start_brevo_relay().await;
        harness.store_message(SENT_ID, &["ada@example.net"]).await;
        // The message is relayed first, because a pending one would stay unchanged.
        let upstream = mailtrail_trail::AttemptOutcome {
            id: SENT_ID.parse().unwrap(),
            at: mailtrail_mail::Timestamp::from_secs(START_SECONDS),
            upstream: "up".into(),
            results: vec![mailtrail_trail::RecipientResult {
                recipients: vec![0],
                status: mailtrail_trail::AttemptStatus::Relayed,
                diagnostic: mailtrail_trail::Diagnostic::default(),
            }],
            next_attempt: None,
        };
        harness.daemon.store().record_attempt_outcome(upstream).await.unwrap();
        assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, read_fixture(file)).await, 200, "{file}");
        let ada = &harness.recipients(SENT_ID)[0];
        let words = &ada.reported_failure.as_ref().unwrap().diagnostic;
        let output = (words.name.as_str(), words.code, words.enhanced_status.as_deref());
        assert_eq!((output, ada.state()), ((name, code, enhanced), state), "{file}");
    }
}

#[tokio::test]
async fn splits_batch_into_events_with_their_raw_form() {
    let batch: Vec<Value> = serde_json::from_slice(&read_fixture("batched_array.json")).unwrap();
    for wrapped in [json!(batch), json!({"items": batch}), json!({"events": batch, "more": 1})] {
        let harness = start_brevo_relay().await;
        harness.store_message(SENT_ID, &["ada@example.net", "bob@example.org"]).await;
        for body in
            [wrapped.to_string(), wrapped.to_string(), json!([batch[2]]).to_string(), batch[0].to_string()]
        {
            assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, body.into_bytes()).await, 200);
        }
        let [ada, bob] = &harness.marks()[..] else { unreachable!() };
        assert_eq!(
            *ada,
            [(MarkKind::Person(EventKind::Delivered), 1), (MarkKind::Person(EventKind::Opened), 1)]
        );
        assert_eq!(*bob, [(MarkKind::Person(EventKind::Bounced), 1)]);
        assert!(batch.iter().all(|event| harness.journal_contains(event.to_string().as_bytes())));
        assert!(!harness.journal_contains(wrapped.to_string().as_bytes()));
    }
}

#[tokio::test]
async fn accepts_each_configured_authentication_and_no_other() {
    let examples: Value = serde_json::from_slice(&read_fixture("auth_examples.json")).unwrap();
    let harness =
        |keys: &'static str| async move { WebhookHarness::start_at(START_SECONDS, "brevo", keys).await };
    for (way, keys) in [
        ("bearer", "webhook_token = [\"other\", \"test-webhook-secret\"]\n"),
        (
            "custom_header",
            "webhook_token = \"test-webhook-secret\"\nwebhook_header = \"X-Mailtrail-Token\"\n",
        ),
        ("basic_in_url", "webhook_username = \"mt\"\nwebhook_password = \"test-webhook-secret\"\n"),
    ] {
        let harness = harness(keys).await;
        for (other, example) in examples.as_object().unwrap() {
            let Some(field) = example["request_header"].as_str() else { continue };
            let field = field.split_once(": ").unwrap();
            let answer = harness.post_with("webhooks/up", &[field], read_fixture("click.json")).await;
            assert_eq!(answer, if way == other { 200 } else { 401 }, "{way} {other}");
        }
        assert_eq!(harness.post(read_fixture("click.json")).await, 401);
        assert_eq!(
            harness.post_with("webhooks/up/test-webhook-secret", &[], read_fixture("click.json")).await,
            404
        );
    }
    // Without credentials no request is genuine: the operator has time until the last retry.
    assert_eq!(harness("").await.post(read_fixture("click.json")).await, 429);
}

#[tokio::test]
async fn wrong_credentials_never_lock_out_valid_ones() {
    let log = LogCapture::default();
    let _listening = log.install_at(Level::TRACE);
    let harness = start_brevo_relay().await;
    let wrong = &[("Authorization", "Bearer hunter2"), ("X-Forwarded-For", "192.0.2.7")];
    for _ in 0..50 {
        assert_eq!(harness.post_with("webhooks/up", wrong, read_fixture("click.json")).await, 401);
    }
    let right = &[BEARER_HEADER[0], ("X-Forwarded-For", "192.0.2.7")];
    assert_eq!(harness.post_with("webhooks/up", right, read_fixture("click.json")).await, 200);
    assert_eq!(log.lines_with(&["WARN", "192.0.2.7"]).len(), 2, "{}", log.text());
    assert_eq!(
        log.lines_with(&["source=\"up\"", "address=192.0.2.7", "refused=20"]).len(),
        1,
        "{}",
        log.text()
    );
    assert!(!log.text().contains("hunter2") && !log.text().contains("test-webhook-secret"));
}

#[tokio::test]
async fn event_without_address_matches_sole_recipient_only() {
    let opened = |tracking: Option<&str>| {
        let mut event: Value = serde_json::from_slice(&read_fixture("edge_empty_email.json")).unwrap();
        if let Some(id) = tracking {
            event["message-id"] = json!("<other@example.com>");
            event["X-Mailin-custom"] = json!(format!("mailtrail={id}"));
        }
        event.to_string().into_bytes()
    };
    for tracking in [None, Some(SENT_ID)] {
        for recipients in [&["ada@example.net"][..], &["ada@example.net", "bob@example.org"]] {
            let harness = start_brevo_relay().await;
            harness.store_message(SENT_ID, recipients).await;
            assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, opened(tracking)).await, 200);
            let expected = match recipients {
                [_] => vec![vec![(MarkKind::Automated(EventKind::Opened), 1)]],
                _ => vec![Vec::new(); 2],
            };
            assert_eq!(harness.marks(), expected, "{tracking:?}");
        }
    }
}

#[tokio::test]
async fn accepts_undecodable_body_as_dead_letter() {
    let log = LogCapture::default();
    let _listening = log.install_at(Level::TRACE);
    let harness = start_brevo_relay().await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let deep = format!("[{}1{}]", "[".repeat(100_000), "]".repeat(100_000));
    let many = format!("[{}1]", "1,".repeat(100_000));
    let odd = ["", "event=click", "null", "7", "[]", "[1, {}]", "{\"event\": 5}", &deep, &many];
    for body in odd {
        assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, body.into()).await, 200, "{body:.80}");
    }
    assert_eq!(
        harness.post_with("webhooks/up", BEARER_HEADER, read_fixture("bad_not_an_event.json")).await,
        200
    );
    // One line for each but the empty list, and two for one.
    assert_eq!(log.lines_with(&["cannot be understood"]).len(), odd.len() + 1, "{:.5000}", log.text());
    let mixed = format!("[1, {}]", String::from_utf8(read_fixture("delivered.json")).unwrap());
    assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, mixed.into_bytes()).await, 200);
    assert_eq!(harness.marks(), [[(MarkKind::Person(EventKind::Delivered), 1)]]);
    assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, vec![b' '; (4 << 20) + 1]).await, 413);
}

#[tokio::test]
async fn bad_event_in_batch_does_not_affect_others() {
    let event = |address: &str, text: &[u8]| {
        let mut event: Value = serde_json::from_slice(&read_fixture("delivered.json")).unwrap();
        (event["email"], event["reason"]) = (json!(address), json!("PLACE"));
        let event = event.to_string();
        let (before, behind) = event.split_once("PLACE").unwrap();
        [before.as_bytes(), text, behind.as_bytes()].concat()
    };
    let deep = format!("{{\"event\":\"delivered\",\"x\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
    let bad = [
        &b"{\"event\":\"delivered\",\"email\"}"[..],
        b"{\"event\" \"x\"}",
        b"7",
        b"{\"n\":nothing}",
        deep.as_bytes(),
    ];
    for wrap in [&["[", "]"][..], &["{\"items\":[", "]}"], &["{\"more\":\"[{\\\"\",\"events\": [ ", " ] }\n"]]
    {
        for (number, bad) in bad.iter().enumerate() {
            let harness = start_brevo_relay().await;
            harness.store_message(SENT_ID, &["ada@example.net", "bob@example.org", "eve@example.org"]).await;
            let [ada, bob, eve] = [
                event("ada@example.net", br"\ud83d"),
                event("bob@example.org", b"M\xfcller\x01"),
                event("eve@example.org", b"]},{["),
            ];
            let body = [wrap[0].as_bytes(), &ada, b",", bad, b" , ", &bob, b",\n", &eve, wrap[1].as_bytes()]
                .concat();
            assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, body).await, 200);
            assert_eq!(harness.marks(), vec![[(MarkKind::Person(EventKind::Delivered), 1)]; 3], "{number}");
            assert_eq!(harness.daemon.store().count_unmatched().unwrap(), (0, 1), "{number}");
            assert!(harness.journal_contains(bad) && harness.journal_contains(&bob), "{number}");
        }
    }
    let harness = start_brevo_relay().await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let marked = [b"\xef\xbb\xbf", &event("ada@example.net", b"\xff")[..]].concat();
    assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, marked).await, 200);
    assert_eq!(harness.marks(), vec![[(MarkKind::Person(EventKind::Delivered), 1)]]);
}

#[tokio::test]
async fn requests_retry_only_when_event_cannot_be_stored() {
    if !is_full_disk_child(module_path!(), "requests_retry_only_when_event_cannot_be_stored") {
        return;
    }
    let harness = start_brevo_relay().await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let mut delivered: Value = serde_json::from_slice(&read_fixture("delivered.json")).unwrap();
    delivered["padding"] = json!("x".repeat(700_000));
    let batch = |number: u64| {
        let events = (0..2).map(|event| {
            let mut delivered = delivered.clone();
            delivered["ts_epoch"] = json!((START_SECONDS + 2 * number + event) * 1000);
            delivered
        });
        Value::from_iter(events).to_string().into_bytes()
    };
    let mut answers = Vec::new();
    for number in 0..4 {
        let answer = harness.post_with("webhooks/up", BEARER_HEADER, batch(number)).await;
        answers.push(answer);
        if answer == 429 {
            // The stored part is a duplicate in the next request.
            answers.push(harness.post_with("webhooks/up", BEARER_HEADER, batch(number)).await);
        }
    }
    assert_eq!(answers, [200, 200, 429, 200, 200]);
    assert_eq!(harness.recipients(SENT_ID)[0].marks.get(EventKind::Delivered).unwrap().count, 8);
}

async fn start_brevo_relay() -> WebhookHarness {
    WebhookHarness::start_at(START_SECONDS, "brevo", "webhook_token = \"test-webhook-secret\"\n").await
}

fn read_fixture(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/brevo").join(file)).unwrap()
}

const BEARER_HEADER: &[(&str, &str)] = &[("Authorization", "Bearer test-webhook-secret")];
