//! Every webhook body that Mailgun is known to send, against what a receiver should make of it.

use super::expected_events::event_kind;
use mailtrail_mail::{Secret, Timestamp};
use mailtrail_trail::ProviderEvent;
use mailtrail_trail::provider::mailgun::{
    VerifiedEvent, WebhookError, decode_event, sign_webhook, verify_and_decode,
};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::PathBuf;

#[test]
fn decodes_every_recorded_body_as_expected() {
    let mut seen = 0;
    for (file, expected) in read_expectations() {
        let body = read_fixture(&file);
        match verify_and_decode(&body, &signing_keys(), clock_for(&file, &expected)) {
            Ok(notice) if file.starts_with("legacy") => {
                assert_legacy_event_as_expected(&file, &notice, &expected)
            }
            Ok(notice) => assert_event_as_expected(&file, &notice, &expected),
            Err(WebhookError::InboundMessage) => assert_eq!(expected["kind"], "inbound", "{file}"),
            Err(refused) => {
                assert_eq!(expected["answer"], 406, "{file}: {refused}");
                assert!(refused.is_permanent(), "{file}: {refused}");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 42);
}

#[test]
fn errors_name_the_fault() {
    let refused = |file: &str| {
        verify_and_decode(&read_fixture(file), &signing_keys(), Timestamp::from_secs(BASE_SECONDS))
            .unwrap_err()
    };
    assert!(matches!(refused("bad_not_json.json"), WebhookError::Malformed(_)));
    assert!(matches!(refused("bad_no_signature.json"), WebhookError::Unsigned));
    assert!(matches!(refused("bad_empty_signature.json"), WebhookError::Unsigned));
    for file in ["bad_wrong_key.json", "bad_timestamp_changed.json", "bad_truncated_signature.json"] {
        assert!(matches!(refused(file), WebhookError::BadSignature), "{file}");
    }
}

#[test]
fn dedup_key_is_equal_for_same_event_only() {
    let now = Timestamp::from_secs(BASE_SECONDS + 3600);
    let notice = |file: &str| verify_and_decode(&read_fixture(file), &signing_keys(), now).unwrap();
    let first = notice("webhook_delivered.json");
    assert_eq!(first, notice("webhook_dup_same_token.json"));
    let again = notice("webhook_dup_same_event_new_token.json");
    assert_eq!(first.event.dedup_key, again.event.dedup_key);
    assert_ne!(first.token, again.token);
    let foreign = notice("good_signature_foreign_body.json");
    assert_eq!(first.token, foreign.token);
    assert_ne!(first.event.dedup_key, foreign.event.dedup_key);

    let expected = read_expectations();
    let ids: HashSet<_> = expected.values().filter_map(|expected| expected["event_id"].as_str()).collect();
    let accepted = expected.iter().filter(|(_, expected)| expected["answer"] == 200);
    let identities: HashSet<_> = accepted
        .map(|(file, expected)| {
            verify_and_decode(&read_fixture(file), &signing_keys(), clock_for(file, expected))
                .unwrap()
                .event
                .dedup_key
        })
        .collect();
    assert_eq!(identities.len(), ids.len());
}

#[test]
fn matches_signing_vectors() {
    let vectors: Value = serde_json::from_slice(&read_fixture("signing_vectors.json")).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 4);
    for vector in vectors {
        let [key, timestamp, token] =
            ["key", "timestamp", "token"].map(|name| vector[name].as_str().unwrap());
        assert_eq!(sign_webhook(&Secret::new(key), timestamp, token), vector["signature"]);
    }
}

#[test]
fn accepts_parent_account_signature() {
    let mut body: Value = serde_json::from_slice(&read_fixture("webhook_delivered.json")).unwrap();
    let text = |name: &str| body["signature"][name].as_str().unwrap().to_owned();
    let parent = Secret::new("test-parent-signing-key");
    body["signature"]["parent-signature"] = json!(sign_webhook(&parent, &text("timestamp"), &text("token")));
    let now = Timestamp::from_secs(BASE_SECONDS);
    assert!(verify_and_decode(body.to_string().as_bytes(), std::slice::from_ref(&parent), now).is_ok());
    let plain = read_fixture("webhook_delivered.json");
    assert!(matches!(verify_and_decode(&plain, &[parent], now), Err(WebhookError::BadSignature)));
}

#[test]
fn rejects_truncated_bodies() {
    for file in ["webhook_failed_permanent_bounce.json", "webhook_clicked.json"] {
        let body = read_fixture(file);
        let whole = body.trim_ascii_end();
        for end in 0..whole.len() {
            let cut = verify_and_decode(&whole[..end], &signing_keys(), Timestamp::from_secs(BASE_SECONDS));
            // With its signature whole it is genuine, and still no event.
            assert!(
                matches!(cut, Err(WebhookError::Malformed(_) | WebhookError::Unreadable { .. })),
                "{file} up to {end}"
            );
        }
    }
}

#[test]
fn corrupted_bodies_never_panic() {
    let mut random = fastrand::Rng::with_seed(4711);
    for file in read_expectations().keys() {
        let body = read_fixture(file);
        for _ in 0..500 {
            let mut damaged = body.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..damaged.len());
                damaged[at] = random.u8(..);
            }
            let _ = verify_and_decode(&damaged, &signing_keys(), Timestamp::from_secs(BASE_SECONDS))
                .map(assert_bounded);
        }
    }
}

/// Every value of every body in turn becomes each of the shapes that a careless sender might write there.
#[test]
fn tolerates_values_of_any_type() {
    let shapes =
        [json!(null), json!([]), json!({}), json!(""), json!("\r\nx"), json!(-1), json!(1e300), json!(true)];
    for (file, expected) in read_expectations() {
        if expected["answer"] != 200 {
            continue;
        }
        let body: Value = serde_json::from_slice(&read_fixture(&file)).unwrap();
        for path in json_pointers(&body["event-data"]) {
            for shape in &shapes {
                let mut data = body["event-data"].clone();
                *data.pointer_mut(&path).unwrap() = shape.clone();
                assert_bounded_event(&decode_event(&(&data).into(), Timestamp::from_secs(BASE_SECONDS)));
            }
        }
    }
}

fn assert_event_as_expected(file: &str, notice: &VerifiedEvent, expected: &Value) {
    assert_eq!(expected["answer"], 200, "{file}");
    assert_eq!(notice.signed_at.as_secs(), expected["signature_timestamp"], "{file}");
    let event = &notice.event;
    assert_eq!((event.kind, event.automated), event_kind(expected["kind"].as_str().unwrap()), "{file}");
    assert_eq!(event.recipient.as_deref(), expected["recipient"].as_str(), "{file}");
    assert_eq!(event.message_id.as_ref().map(|id| id.as_str()), expected["message_id"].as_str(), "{file}");
    assert!(event.dedup_key.ends_with(&format!("/{}", expected["event_id"].as_str().unwrap())), "{file}");
    assert_eq!(event.at.as_millis(), expected["occurred_at_ms"], "{file}");
    assert_eq!(event.diagnostic.code.map(u64::from), expected["smtp_code"].as_u64(), "{file}");
    assert_eq!(event.test_mode, expected["test_mode"], "{file}");
    assert_eq!(event.tracking_id.map(|id| id.to_string()).as_deref(), expected_tracking_id(file), "{file}");
}

fn assert_legacy_event_as_expected(file: &str, notice: &VerifiedEvent, expected: &Value) {
    let event = &notice.event;
    assert_eq!((event.kind, event.automated), event_kind(expected["kind"].as_str().unwrap()), "{file}");
    assert_eq!(event.recipient.as_deref(), expected["recipient"].as_str(), "{file}");
    assert_eq!(
        event.tracking_id.map(|id| id.to_string()).as_deref(),
        Some("01K54Z8Q3V7N5X9B2C6D8F0GHJ"),
        "{file}"
    );
    let message_id = event.message_id.as_ref().map(|id| id.as_str());
    assert_eq!(message_id, Some("1789387199.4711.mt0001@mg.example.com"), "{file}");
    assert_eq!(event.at.as_secs(), 1_789_387_201, "{file}");
    assert!(event.dedup_key.starts_with("mailgun/mg.example.com/"), "{file}: {}", event.dedup_key);
}

/// Returns the tracking id in the body: one for all bodies with our variable.
fn expected_tracking_id(file: &str) -> Option<&'static str> {
    let body = String::from_utf8(read_fixture(file)).unwrap();
    body.contains(r#""mailtrail""#).then_some("01K54Z8Q3V7N5X9B2C6D8F0GHJ")
}

fn assert_bounded(notice: VerifiedEvent) {
    assert_bounded_event(&notice.event);
}

fn assert_bounded_event(event: &ProviderEvent) {
    let words = &event.diagnostic;
    let texts = [&words.enhanced_status, &words.text, &words.host, &words.url, &event.recipient];
    let texts = texts.into_iter().flatten().chain([&words.name, &event.dedup_key]);
    for text in texts {
        assert!(text.len() <= 2048 && !text.contains(char::is_control), "{text:?}");
    }
}

/// The JSON pointer of every value below this one.
fn json_pointers(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, child)| (name.clone(), child)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect()
        }
        _ => Vec::new(),
    };
    let below = |(name, child): (String, &Value)| {
        let inner = json_pointers(child).into_iter().map(|path| format!("/{name}{path}")).collect::<Vec<_>>();
        std::iter::once(format!("/{name}")).chain(inner)
    };
    children.into_iter().flat_map(below).collect()
}

fn clock_for(file: &str, expected: &Value) -> Timestamp {
    if file == "webhook_retry_8h_late_same_signature.json" {
        return Timestamp::from_secs(BASE_SECONDS + 28_807);
    }
    Timestamp::from_secs(expected["signature_timestamp"].as_u64().unwrap_or(BASE_SECONDS + 60))
}

fn read_expectations() -> Map<String, Value> {
    serde_json::from_slice(&read_fixture("expected.json")).unwrap()
}

fn read_fixture(file: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/mailgun").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn signing_keys() -> [Secret; 2] {
    ["test-webhook-signing-key", "test-parent-signing-key"].map(Secret::new)
}

/// 2026-09-14T12:00:00Z, in Unix seconds.
const BASE_SECONDS: u64 = 1_789_387_200;
