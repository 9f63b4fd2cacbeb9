//! Brevo's webhooks over HTTP, against a whole relay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/inbox.rs"]
mod inbox;

use inbox::{Log, SENT, START, Scene, mark, on_a_full_disk};
use mailtrail_trail::{Kind, MarkKind, Source, State};
use serde_json::{Map, Value, json};
use std::path::Path;

#[tokio::test]
async fn every_recorded_body_has_its_effect() {
    let expectations: Map<String, Value> = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let mut joined = 0;
    for (file, expected) in &expectations {
        let scene = brevo().await;
        let hidden = expected["recipient"] == "";
        scene
            .accept(SENT, if hidden { &["ada@example.net"] } else { &["ada@example.net", "bob@example.org"] })
            .await;
        for _ in 0..2 {
            assert_eq!(scene.post_with("webhooks/up", BEARER, fixture(file)).await, 200, "{file}");
        }
        let ours = expected["message_id"] == "1789387199.4711.mt0001@mg.example.com";
        // An error is the sender's, and no bounce of the recipient's address.
        let kind = if file == "error.json" { "rejected" } else { expected["kind"].as_str().unwrap() };
        let marks = scene.marks();
        assert_eq!(marks[0], if ours { vec![(mark(kind), 1)] } else { Vec::new() }, "{file}");
        assert!(marks[1..].iter().all(Vec::is_empty), "{file}");
        if ours {
            let fact =
                scene.trail(SENT).facts.into_iter().find(|fact| fact.source == Source::Webhook).unwrap();
            assert_eq!(fact.at.millis(), expected["occurred_at_ms"].as_u64().unwrap(), "{file}");
            joined += 1;
        }
    }
    assert_eq!((expectations.len(), joined), (25, 23));
}

#[tokio::test]
async fn what_put_an_address_on_the_block_list_and_what_servers_said_is_told() {
    for (file, name, code, enhanced, state) in [
        ("blocked.json", "blocked/unsubscribed", None, None, State::Suppressed),
        ("blocked_hard_bounce.json", "blocked/blacklist", None, None, State::Suppressed),
        ("hard_bounce.json", "hard_bounce", Some(550), Some("5.1.1"), State::Bounced),
        ("error.json", "error", None, None, State::Failed),
    ] {
        let scene = brevo().await;
        scene.accept(SENT, &["ada@example.net"]).await;
        // It went out before: what waits stays as it is.
        let upstream = mailtrail_trail::Outcome {
            id: SENT.parse().unwrap(),
            at: mailtrail_mail::Timestamp::from_seconds(START),
            upstream: "up".into(),
            settled: vec![mailtrail_trail::Settled {
                recipients: vec![0],
                standing: mailtrail_trail::Standing::Relayed,
                words: mailtrail_trail::Words::default(),
            }],
            due: None,
        };
        scene.daemon.store().settle(upstream).await.unwrap();
        assert_eq!(scene.post_with("webhooks/up", BEARER, fixture(file)).await, 200, "{file}");
        let ada = &scene.recipients(SENT)[0];
        let words = &ada.failure.as_ref().unwrap().words;
        let said = (words.name.as_str(), words.code, words.enhanced.as_deref());
        assert_eq!((said, ada.state()), ((name, code, enhanced), state), "{file}");
    }
}

#[tokio::test]
async fn a_batch_is_as_many_events_each_in_its_own_words() {
    let batch: Vec<Value> = serde_json::from_slice(&fixture("batched_array.json")).unwrap();
    for wrapped in [json!(batch), json!({"items": batch}), json!({"events": batch, "more": 1})] {
        let scene = brevo().await;
        scene.accept(SENT, &["ada@example.net", "bob@example.org"]).await;
        for body in
            [wrapped.to_string(), wrapped.to_string(), json!([batch[2]]).to_string(), batch[0].to_string()]
        {
            assert_eq!(scene.post_with("webhooks/up", BEARER, body.into_bytes()).await, 200);
        }
        let [ada, bob] = &scene.marks()[..] else { unreachable!() };
        assert_eq!(*ada, [(MarkKind::By(Kind::Delivered), 1), (MarkKind::By(Kind::Opened), 1)]);
        assert_eq!(*bob, [(MarkKind::By(Kind::Bounced), 1)]);
        assert!(batch.iter().all(|event| scene.keeps(event.to_string().as_bytes())));
        assert!(!scene.keeps(wrapped.to_string().as_bytes()));
    }
}

#[tokio::test]
async fn each_way_of_proof_is_good_and_nothing_else() {
    let examples: Value = serde_json::from_slice(&fixture("auth_examples.json")).unwrap();
    let scene = |keys: &'static str| async move { Scene::at(START, "brevo", keys).await };
    for (way, keys) in [
        ("bearer", "webhook_token = [\"other\", \"test-webhook-secret\"]\n"),
        (
            "custom_header",
            "webhook_token = \"test-webhook-secret\"\nwebhook_header = \"X-Mailtrail-Token\"\n",
        ),
        ("basic_in_url", "webhook_username = \"mt\"\nwebhook_password = \"test-webhook-secret\"\n"),
    ] {
        let scene = scene(keys).await;
        for (other, example) in examples.as_object().unwrap() {
            let Some(field) = example["request_header"].as_str() else { continue };
            let field = field.split_once(": ").unwrap();
            let answer = scene.post_with("webhooks/up", &[field], fixture("click.json")).await;
            assert_eq!(answer, if way == other { 200 } else { 401 }, "{way} {other}");
        }
        assert_eq!(scene.post(fixture("click.json")).await, 401);
        assert_eq!(scene.post_with("webhooks/up/test-webhook-secret", &[], fixture("click.json")).await, 404);
    }
    // Nobody can be known: an operator has until the last repetition.
    assert_eq!(scene("").await.post(fixture("click.json")).await, 429);
}

#[tokio::test]
async fn wrong_credentials_lock_the_right_ones_out_never() {
    let log = Log::default();
    let _listening = log.listen();
    let scene = brevo().await;
    let wrong = &[("Authorization", "Bearer hunter2"), ("X-Forwarded-For", "192.0.2.7")];
    for _ in 0..50 {
        assert_eq!(scene.post_with("webhooks/up", wrong, fixture("click.json")).await, 401);
    }
    let right = &[BEARER[0], ("X-Forwarded-For", "192.0.2.7")];
    assert_eq!(scene.post_with("webhooks/up", right, fixture("click.json")).await, 200);
    assert_eq!(log.lines(&["WARN", "192.0.2.7"]).len(), 2, "{}", log.text());
    assert_eq!(log.lines(&["source=\"up\"", "address=192.0.2.7", "refused=20"]).len(), 1, "{}", log.text());
    assert!(!log.text().contains("hunter2") && !log.text().contains("test-webhook-secret"));
}

#[tokio::test]
async fn who_is_hidden_is_the_only_recipient_or_nobody() {
    let opened = |tracking: Option<&str>| {
        let mut event: Value = serde_json::from_slice(&fixture("edge_empty_email.json")).unwrap();
        if let Some(id) = tracking {
            event["message-id"] = json!("<other@example.com>");
            event["X-Mailin-custom"] = json!(format!("mailtrail={id}"));
        }
        event.to_string().into_bytes()
    };
    for tracking in [None, Some(SENT)] {
        for recipients in [&["ada@example.net"][..], &["ada@example.net", "bob@example.org"]] {
            let scene = brevo().await;
            scene.accept(SENT, recipients).await;
            assert_eq!(scene.post_with("webhooks/up", BEARER, opened(tracking)).await, 200);
            let expected = match recipients {
                [_] => vec![vec![(MarkKind::ByMachine(Kind::Opened), 1)]],
                _ => vec![Vec::new(); 2],
            };
            assert_eq!(scene.marks(), expected, "{tracking:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_kept_from_coming_again() {
    let log = Log::default();
    let _listening = log.listen();
    let scene = brevo().await;
    scene.accept(SENT, &["ada@example.net"]).await;
    let deep = format!("[{}1{}]", "[".repeat(100_000), "]".repeat(100_000));
    let many = format!("[{}1]", "1,".repeat(100_000));
    let odd = ["", "event=click", "null", "7", "[]", "[1, {}]", "{\"event\": 5}", &deep, &many];
    for body in odd {
        assert_eq!(scene.post_with("webhooks/up", BEARER, body.into()).await, 200, "{body:.80}");
    }
    assert_eq!(scene.post_with("webhooks/up", BEARER, fixture("bad_not_an_event.json")).await, 200);
    // One for each but the empty list, and two of one.
    assert_eq!(log.lines(&["cannot be understood"]).len(), odd.len() + 1, "{:.5000}", log.text());
    let mixed = format!("[1, {}]", String::from_utf8(fixture("delivered.json")).unwrap());
    assert_eq!(scene.post_with("webhooks/up", BEARER, mixed.into_bytes()).await, 200);
    assert_eq!(scene.marks(), [[(MarkKind::By(Kind::Delivered), 1)]]);
    assert_eq!(scene.post_with("webhooks/up", BEARER, vec![b' '; (4 << 20) + 1]).await, 413);
}

#[tokio::test]
async fn one_bad_event_of_a_batch_spoils_no_other() {
    let event = |address: &str, text: &[u8]| {
        let mut event: Value = serde_json::from_slice(&fixture("delivered.json")).unwrap();
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
            let scene = brevo().await;
            scene.accept(SENT, &["ada@example.net", "bob@example.org", "eve@example.org"]).await;
            let [ada, bob, eve] = [
                event("ada@example.net", br"\ud83d"),
                event("bob@example.org", b"M\xfcller\x01"),
                event("eve@example.org", b"]},{["),
            ];
            let body = [wrap[0].as_bytes(), &ada, b",", bad, b" , ", &bob, b",\n", &eve, wrap[1].as_bytes()]
                .concat();
            assert_eq!(scene.post_with("webhooks/up", BEARER, body).await, 200);
            assert_eq!(scene.marks(), vec![[(MarkKind::By(Kind::Delivered), 1)]; 3], "{number}");
            assert_eq!(scene.daemon.store().count_letters().unwrap(), (0, 1), "{number}");
            assert!(scene.keeps(bad) && scene.keeps(&bob), "{number}");
        }
    }
    let scene = brevo().await;
    scene.accept(SENT, &["ada@example.net"]).await;
    let marked = [b"\xef\xbb\xbf", &event("ada@example.net", b"\xff")[..]].concat();
    assert_eq!(scene.post_with("webhooks/up", BEARER, marked).await, 200);
    assert_eq!(scene.marks(), vec![[(MarkKind::By(Kind::Delivered), 1)]]);
}

#[tokio::test]
async fn what_cannot_be_kept_is_asked_for_again_and_never_otherwise() {
    if !on_a_full_disk("what_cannot_be_kept_is_asked_for_again_and_never_otherwise") {
        return;
    }
    let scene = brevo().await;
    scene.accept(SENT, &["ada@example.net"]).await;
    let mut delivered: Value = serde_json::from_slice(&fixture("delivered.json")).unwrap();
    delivered["padding"] = json!("x".repeat(700_000));
    let batch = |number: u64| {
        let events = (0..2).map(|event| {
            let mut delivered = delivered.clone();
            delivered["ts_epoch"] = json!((START + 2 * number + event) * 1000);
            delivered
        });
        Value::from_iter(events).to_string().into_bytes()
    };
    let mut answers = Vec::new();
    for number in 0..4 {
        let answer = scene.post_with("webhooks/up", BEARER, batch(number)).await;
        answers.push(answer);
        if answer == 429 {
            // What was kept of it is known when it comes again.
            answers.push(scene.post_with("webhooks/up", BEARER, batch(number)).await);
        }
    }
    assert_eq!(answers, [200, 200, 429, 200, 200]);
    assert_eq!(scene.recipients(SENT)[0].marks.of(Kind::Delivered).unwrap().count, 8);
}

async fn brevo() -> Scene {
    Scene::at(START, "brevo", "webhook_token = \"test-webhook-secret\"\n").await
}

fn fixture(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/brevo").join(file)).unwrap()
}

const BEARER: &[(&str, &str)] = &[("Authorization", "Bearer test-webhook-secret")];
