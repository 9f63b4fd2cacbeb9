//! Webhooks over HTTP, against a whole relay.

use mailtrail_mail::Secret;
use mailtrail_trail::provider::mailgun;
use mailtrail_trail::{EventKind, RecipientState, TrailSource};
use serde_json::{Map, Value, json};
use std::path::Path;
use testkit::webhook_harness::{
    SENT_ID, START_SECONDS, WebhookHarness, is_full_disk_child, mark_kind, wait_until,
};

#[tokio::test]
async fn answers_and_applies_every_recorded_body() {
    let expectations: Map<String, Value> = serde_json::from_slice(&read_fixture("expected.json")).unwrap();
    let mut joined = 0;
    for (file, expected) in &expectations {
        let signed = expected["signature_timestamp"].as_u64().unwrap_or(START_SECONDS);
        let late = if file.contains("8h_late") { 8 * 3600 } else { 30 };
        let harness = start_mailgun_relay_at(signed + late, SIGNING_KEY).await;
        harness.store_message(SENT_ID, &["ada@example.net", "bob@example.org"]).await;
        let answer = harness.post(read_fixture(file)).await;
        let inbound = expected["kind"] == "inbound";
        // Forms have none there. A mail is no event: Mailgun is to keep it until it has a better place.
        let otherwise = if inbound { 503 } else { 200 };
        assert_eq!(u64::from(answer), expected["answer"].as_u64().unwrap_or(otherwise), "{file}");
        let ours = answer == 200 && !file.contains("foreign");
        for recipient in harness.recipients(SENT_ID) {
            let marked: Vec<_> = recipient.marks.iter().map(|(kind, mark)| (*kind, mark.count)).collect();
            if ours && expected["recipient"] == recipient.address.as_str() {
                assert_eq!(marked, [(mark_kind(expected["kind"].as_str().unwrap()), 1)], "{file}");
                joined += 1;
            } else {
                assert_eq!(marked, [], "{file}");
            }
        }
    }
    assert!(joined > 30, "{joined}");
}

#[tokio::test]
async fn accepts_duplicate_without_effect() {
    let harness = start_mailgun_relay_at(START_SECONDS + 3600, SIGNING_KEY).await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    for file in [
        "webhook_delivered.json",
        "webhook_delivered.json",
        "webhook_dup_same_token.json",
        "webhook_dup_same_event_new_token.json",
    ] {
        assert_eq!(harness.post(read_fixture(file)).await, 200, "{file}");
    }
    // The signature does not cover the body: a second use with another body is not genuine.
    assert_eq!(harness.post(read_fixture("good_signature_foreign_body.json")).await, 406);
    let opened = read_fixture("webhook_opened.json");
    let at_once = futures_util::future::join_all((0..8).map(|_| harness.post(opened.clone()))).await;
    assert_eq!(at_once, [200; 8]);
    let ada = &harness.recipients(SENT_ID)[0];
    let counts = [EventKind::Delivered, EventKind::Opened].map(|kind| ada.marks.get(kind).unwrap().count);
    assert_eq!((counts, ada.marks.iter().count(), ada.state()), ([1, 1], 2, RecipientState::Delivered));
    let facts = harness.daemon.store().load_trail(SENT_ID.parse().unwrap()).unwrap().unwrap().events;
    assert_eq!(facts.iter().filter(|fact| fact.source == TrailSource::Webhook).count(), 2);
}

#[tokio::test]
async fn accepts_late_retry_but_not_stale_signature() {
    for (age, answer) in [(8 * 3600, 200), (24 * 3600 - 60, 200), (24 * 3600 + 5, 406)] {
        let harness = start_mailgun_relay_at(START_SECONDS + age, SIGNING_KEY).await;
        assert_eq!(
            harness.post(signed_webhook(SIGNING_KEY, START_SECONDS, "token", delivered_event("1"))).await,
            answer,
            "{age}"
        );
    }
    // Our own clock is wrong, maybe: worth a repetition.
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    assert_eq!(
        harness.post(signed_webhook(SIGNING_KEY, START_SECONDS + 3600, "token", delivered_event("1"))).await,
        503
    );
}

#[tokio::test]
async fn accepts_both_signing_keys_during_rotation() {
    let harness = start_mailgun_relay_at(START_SECONDS, "[\"old\", \"new\"]").await;
    for (key, answer) in [("old", 200), ("new", 200), ("other", 406), ("", 406)] {
        assert_eq!(
            harness.post(signed_webhook(key, START_SECONDS, key, delivered_event(key))).await,
            answer,
            "{key}"
        );
    }
}

#[tokio::test]
async fn unknown_source_and_oversized_body_are_rejected() {
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    let good = signed_webhook(SIGNING_KEY, START_SECONDS, "token", delivered_event("1"));
    for path in ["webhooks/nobody", "webhooks/", "webhooks/up/x", "nothing", "webhooks/%ff"] {
        let status = harness.post_to(path, good.clone()).await;
        assert!(status == 404 || (path.contains("%ff") && status == 400), "{path}: {status}");
    }
    let padded = |length: usize| {
        let empty =
            signed_webhook(SIGNING_KEY, START_SECONDS, "token", json!({"event": "delivered", "padding": ""}))
                .len();
        let padding = "x".repeat(length - empty);
        signed_webhook(SIGNING_KEY, START_SECONDS, "token", json!({"event": "delivered", "padding": padding}))
    };
    assert_eq!(harness.post(padded((1 << 20) + 1)).await, 413);
    assert_eq!(harness.post(vec![b'x'; 5 << 20]).await, 413);
    assert_eq!(harness.post(padded(1 << 20)).await, 200);
    let got = harness.client.get(harness.url("webhooks/up")).send().await.unwrap();
    assert_eq!(got.status(), 405);
    for path in ["healthz", "readyz"] {
        let got = harness.client.get(harness.url(path)).send().await.unwrap();
        assert_eq!(got.status(), 200);
    }
}

#[tokio::test]
async fn garbage_never_causes_server_error() {
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let mut random = fastrand::Rng::with_seed(3);
    let genuine = read_fixture("webhook_delivered.json");
    for round in 0..300 {
        let body = match round % 3 {
            0 => (0..random.usize(..400)).map(|_| random.u8(..)).collect(),
            1 => genuine[..random.usize(..genuine.len())].to_vec(),
            _ => {
                let mut body = genuine.clone();
                (0..random.usize(1..6)).for_each(|_| body[random.usize(..genuine.len())] = random.u8(..));
                body
            }
        };
        let status = harness.post(body.clone()).await;
        assert!(status == 200 || status == 406, "{status}: {:?}", String::from_utf8_lossy(&body));
    }
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    for body in [deep("[", "]"), deep("{\"a\":", "}"), "1e999".into(), "9".repeat(500_000), String::new()] {
        assert_eq!(harness.post(body.into_bytes()).await, 406);
    }
    // Signed garbage.
    let long = "x".repeat(100_000);
    let odd =
        ["null", "[]", "0", "-1", "1e308", "18446744073709551615", "\"\"", "\"\\u0000\"", "{\"a\":[[[[]]]]}"];
    let mut token = 0;
    for field in [
        "id",
        "timestamp",
        "event",
        "recipient",
        "message",
        "user-variables",
        "delivery-status",
        "flags",
        "url",
    ] {
        for value in odd.iter().map(|text| serde_json::from_str(text).unwrap()).chain([json!(long)]) {
            let mut data = delivered_event("odd");
            data[field] = value;
            token += 1;
            let status = harness
                .post(signed_webhook(SIGNING_KEY, START_SECONDS, &token.to_string(), data.clone()))
                .await;
            assert_eq!(status, 200, "{field}: {:.80}", data[field].to_string());
        }
    }
    let nested = signed_webhook(SIGNING_KEY, START_SECONDS, "nested", json!({"event": "PLACE"}));
    let nested = String::from_utf8(nested).unwrap().replace("\"PLACE\"", &deep("[", "]"));
    // Signed, so it is put aside.
    assert_eq!(harness.post(nested.into_bytes()).await, 200);
    assert_eq!(
        harness.post(signed_webhook(SIGNING_KEY, START_SECONDS, "last", delivered_event("last"))).await,
        200
    );
}

#[tokio::test]
async fn decodes_multipart_form() {
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let form = mailtrail_trail::provider::Form::parse(&read_fixture("legacy_bounced.form")).unwrap();
    let part = |name: &str, value: &str| {
        format!("--x-1\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n")
    };
    let mut parts: Vec<_> =
        form.iter().map(|(name, value)| part(&format!("name=\"{name}\""), value)).collect();
    parts.insert(3, part("name=\"attachment-1\"; filename=\"a.eml\"", "timestamp=1"));
    let body = parts.concat() + "--x-1--\r\n";
    assert_eq!(harness.post(body.clone().into_bytes()).await, 200);
    assert_eq!(harness.post(body.into_bytes()).await, 200);
    // Our own attempt ends when it likes.
    wait_until("its end", || harness.recipients(SENT_ID)[0].state() == RecipientState::Bounced).await;
    let ada = &harness.recipients(SENT_ID)[0];
    assert_eq!(ada.marks.get(EventKind::Bounced).unwrap().count, 1);
    let words = &ada.reported_failure.as_ref().unwrap().diagnostic;
    assert_eq!((words.code, words.enhanced_status.as_deref()), (Some(550), Some("5.1.1")));
    assert_eq!(harness.post(read_fixture("route_forward_parsed_attachments.multipart")).await, 503);
}

#[tokio::test]
async fn signed_body_without_event_becomes_dead_letter() {
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    let mut body: Value =
        serde_json::from_slice(&signed_webhook(SIGNING_KEY, START_SECONDS, "token", delivered_event("1")))
            .unwrap();
    let genuine = body.to_string().into_bytes();
    body["event-data"] = json!([]);
    for _ in 0..2 {
        assert_eq!(harness.post(body.to_string().into_bytes()).await, 200);
    }
    assert_eq!(harness.daemon.store().count_unmatched().unwrap(), (0, 1));
    // With a used signature it is not genuine.
    assert_eq!(harness.post(genuine).await, 406);
}

/// With a valid signature, a body is decoded as far as possible, and nothing of it is lost.
#[tokio::test]
async fn signed_webhook_is_decoded_leniently_or_dead_lettered() {
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let plain = |token: &str| {
        let mut data = delivered_event(token);
        data["delivery-status"] = json!({"message": "PLACE"});
        String::from_utf8(signed_webhook(SIGNING_KEY, START_SECONDS, token, data)).unwrap()
    };
    let with = |token: &str, text: &[u8]| {
        let body = plain(token);
        let (before, behind) = body.split_once("PLACE").unwrap();
        [before.as_bytes(), text, behind.as_bytes()].concat()
    };
    let wide: Vec<u8> =
        "\u{feff}".encode_utf16().chain(plain("utf-16").encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let good = [
        with("high", br"so \ud83d long"),
        with("low", br"so \ude00 long"),
        with("both", br"\ude00\ud83d\ud83d\ude00"),
        with("escaped", br"\\ud83d \\\ud83d"),
        [b"\xef\xbb\xbf", plain("mark").as_bytes()].concat(),
        with("controls", b"a\tb\nc\r\n\x00\x01\x1b[0m"),
        with("latin", b"M\xfcller refused"),
        with("cut", b"M\xc3"),
        wide,
        plain("not-a-number").replace("\"event\"", "\"x\":NaN,\"y\":-Infinity,\"event\"").into_bytes(),
        plain("huge").replace("\"event\"", "\"x\":1e999,\"event\"").into_bytes(),
    ];
    for (number, body) in good.iter().enumerate() {
        assert_eq!(harness.post(body.clone()).await, 200, "{}", String::from_utf8_lossy(body));
        let marks =
            harness.recipients(SENT_ID)[0].marks.get(EventKind::Delivered).map(|mark| mark.count as usize);
        assert_eq!(marks, Some(number + 1), "{}", String::from_utf8_lossy(body));
        assert_eq!(harness.post(body.clone()).await, 200, "once more");
    }
    assert_eq!(harness.daemon.store().count_unmatched().unwrap(), (0, 0));
    // A body that is still undecodable is stored unchanged.
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let unreadable = [
        plain("deep").replace("\"PLACE\"", &deep),
        plain("half").split_once("PLACE").unwrap().0.to_owned(),
        plain("more") + "}",
    ];
    for (number, body) in unreadable.iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(harness.post(body.clone().into_bytes()).await, 200, "{body:.300}");
            assert_eq!(
                harness.daemon.store().count_unmatched().unwrap(),
                (0, number as u64 + 1),
                "{body:.300}"
            );
        }
        assert!(harness.journal_contains(body.as_bytes()), "{body:.300}");
    }
    // Bodies that are not genuine are rejected as before.
    for body in &unreadable {
        let foreign = body.replace("\"token\":\"", "\"token\":\"1");
        assert_eq!(harness.post(foreign.into_bytes()).await, 406);
    }
}

/// Our own id and one recipient: the id identifies the message for any spelling of the address.
#[tokio::test]
async fn correlates_event_with_any_recipient_spelling() {
    for (sent_to, reported) in [
        ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "Ada@B\u{dc}CHER.example"),
        ("ada@bu\u{308}cher.example", "ada@b\u{fc}cher.example."),
        ("\"ada\"@example.net", "ada@example.net"),
        ("ada@example.net", "ada@EXAMPLE.net."),
        ("u\u{308}@example.net", "\u{fc}@example.net"),
        // The provider rewrote it.
        ("ada+tag@example.net", "ada@example.net"),
        ("ada+tag@example.net", "a.da@example.org"),
        ("ada+j\u{f6}rg@example.net", "ada+j\u{fffd}rg@example.net"),
    ] {
        let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
        harness.store_message(SENT_ID, &[sent_to]).await;
        let mut data = delivered_event("1");
        data["recipient"] = json!(reported);
        assert_eq!(harness.post(signed_webhook(SIGNING_KEY, START_SECONDS, "1", data.clone())).await, 200);
        assert_eq!(
            harness.recipients(SENT_ID)[0].marks.get(EventKind::Delivered).map(|mark| mark.count),
            Some(1),
            "{sent_to} {reported}"
        );
        if sent_to.contains('+') {
            continue;
        }
        // By Message-ID, and among others.
        let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
        harness.store_message(SENT_ID, &["bob@example.org", sent_to]).await;
        data["user-variables"] = json!({});
        data["message"] = json!({"headers": {"message-id": "1789387199.4711.mt0001@mg.example.com"}});
        assert_eq!(harness.post(signed_webhook(SIGNING_KEY, START_SECONDS, "1", data)).await, 200);
        let marks: Vec<_> = harness.recipients(SENT_ID).iter().map(|one| one.marks.iter().count()).collect();
        assert_eq!(marks, [0, 1], "{sent_to} {reported}");
        for address in [sent_to, reported] {
            assert_eq!(
                harness.daemon.store().find_by_recipient(address, 9).unwrap(),
                [SENT_ID.parse().unwrap()],
                "{address}"
            );
        }
    }
    // With several recipients the id alone does not identify one.
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    harness.store_message(SENT_ID, &["ada+tag@example.net", "bob@example.org"]).await;
    assert_eq!(
        harness.post(signed_webhook(SIGNING_KEY, START_SECONDS, "1", delivered_event("1"))).await,
        200
    );
    assert_eq!(harness.marks(), vec![Vec::new(); 2]);
}

/// Any form of a Message-ID, in the message and in the event.
#[tokio::test]
async fn correlates_message_id_in_every_form() {
    let harness = start_mailgun_relay_at(START_SECONDS + 60, SIGNING_KEY).await;
    let shapes = [
        ("a1@example.com", "<a1@example.com>"),
        ("a2@example.com", "  <a2@example.com>\t\r\n"),
        ("a3@example.com", "\"<a3@example.com>\""),
        ("\"a4\"@example.com", "a4@example.com"),
        ("a5.b@example.com", "<\"a5.b\"@example.com>"),
        ("a6.long\r\n @example.com", "a6.long@example.com"),
        ("a7@example.com", "<a7\r\n @example.com>"),
        ("a8@example.com", "< a8@example.com >"),
        ("a9@example.com", "&lt;a9@example.com&gt;"),
        ("a10@example.com", "<<a10@example.com>>"),
        ("a11@example.com", "<a11@example.com> (a comment)"),
    ];
    for (written, reported) in shapes {
        let id = harness.submit(written, &["ada@example.net"]).await;
        wait_until("the mail", || harness.daemon.store().load_trail(id.parse().unwrap()).unwrap().is_some())
            .await;
        let data = json!({
            "event": "delivered", "id": written, "timestamp": START_SECONDS + 61, "recipient": "ada@example.net",
            "message": {"headers": {"message-id": reported}}
        });
        assert_eq!(harness.post(signed_webhook(SIGNING_KEY, START_SECONDS + 60, written, data)).await, 200);
        assert!(harness.recipients(&id)[0].marks.get(EventKind::Delivered).is_some(), "{written} {reported}");
    }
}

#[tokio::test]
async fn early_event_is_correlated_when_its_mail_arrives() {
    let harness = start_mailgun_relay_at(START_SECONDS + 60, SIGNING_KEY).await;
    let data = |recipient: &str, event: &str| {
        json!({
            "event": event, "id": recipient, "timestamp": START_SECONDS, "recipient": recipient, "severity": "permanent",
            "message": {"headers": {"message-id": "early@example.com"}}
        })
    };
    for (recipient, event) in
        [("ada@example.net", "delivered"), ("bob@example.org", "failed"), ("eve@example.net", "delivered")]
    {
        assert_eq!(
            harness.post(signed_webhook(SIGNING_KEY, START_SECONDS, recipient, data(recipient, event))).await,
            200
        );
    }
    let id = harness.submit("early@example.com", &["Ada@example.net", "bob@example.org"]).await;
    wait_until("the mail", || harness.daemon.store().load_trail(id.parse().unwrap()).unwrap().is_some())
        .await;
    let marked = |kinds: &[EventKind]| {
        let recipients = harness.recipients(&id);
        assert!(
            recipients.iter().zip(kinds).all(|(recipient, kind)| recipient.marks.get(*kind).is_some()),
            "{recipients:?}"
        );
    };
    marked(&[EventKind::Delivered, EventKind::Bounced]);
    // The event for another recipient waits.
    let id = harness.submit("early@example.com", &["eve@example.net"]).await;
    wait_until("the mail", || harness.daemon.store().load_trail(id.parse().unwrap()).unwrap().is_some())
        .await;
    assert!(harness.recipients(&id)[0].marks.get(EventKind::Delivered).is_some());
}

#[tokio::test]
async fn requests_retry_when_event_cannot_be_stored() {
    if !is_full_disk_child(module_path!(), "requests_retry_when_event_cannot_be_stored") {
        return;
    }
    let harness = start_mailgun_relay_at(START_SECONDS, SIGNING_KEY).await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let mut answers = Vec::new();
    for number in 0..6 {
        let mut data = delivered_event(&number.to_string());
        data["padding"] = json!("x".repeat(900_000));
        let body = signed_webhook(SIGNING_KEY, START_SECONDS, &number.to_string(), data);
        answers.push(harness.post(body.clone()).await);
        if answers.last() == Some(&503) {
            let kept = harness.recipients(SENT_ID)[0].marks.get(EventKind::Delivered).unwrap();
            assert_eq!(kept.count, number);
            answers.push(harness.post(body).await);
        }
    }
    assert_eq!(answers, [200, 200, 200, 200, 503, 200, 200]);
    assert_eq!(harness.recipients(SENT_ID)[0].marks.get(EventKind::Delivered).unwrap().count, 6);
}

/// A relay with an upstream that Mailgun reports on; `keys` is the signing key, or a list of them as TOML writes it.
async fn start_mailgun_relay_at(seconds: u64, keys: &str) -> WebhookHarness {
    let keys = if keys.starts_with('[') { keys.to_owned() } else { format!("{keys:?}") };
    WebhookHarness::start_at(seconds, "mailgun", &format!("webhook_signing_key = {keys}\n")).await
}

/// An event of the send [`SENT`].
fn delivered_event(id: &str) -> Value {
    json!({
        "event": "delivered", "id": id, "timestamp": START_SECONDS, "recipient": "ada@example.net",
        "user-variables": {"mailtrail": SENT_ID}
    })
}

fn signed_webhook(key: &str, timestamp: u64, token: &str, data: Value) -> Vec<u8> {
    let timestamp = timestamp.to_string();
    let signature = mailgun::sign_webhook(&Secret::new(key), &timestamp, token);
    let signature = json!({"timestamp": timestamp, "token": token, "signature": signature});
    json!({"signature": signature, "event-data": data}).to_string().into_bytes()
}

fn read_fixture(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mailgun").join(file)).unwrap()
}

const SIGNING_KEY: &str = "test-webhook-signing-key";
