//! HTTP and file sinks: nothing is lost, and the order is kept.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_http;
use testkit::mock_http::{HttpAction, HttpRequest};
use testkit::mock_smtp::{MockSmtpServer, SmtpScript};
use testkit::queue_harness::QueueHarness;

fn read_json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the event types of a message in order.
fn event_types_of(items: &[Value], id: &str) -> Vec<String> {
    let own = items.iter().filter(|item| item["data"]["id"] == id);
    own.map(|item| item["type"].as_str().unwrap().to_owned()).collect()
}

fn assert_each_once(items: &[Value]) {
    let mut ids: Vec<_> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[tokio::test]
async fn file_sink_has_every_event_once_in_order_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let settings = format!("[[sink]]\nkind = \"file\"\npath = {:?}", path.display().to_string());
    let mut harness = QueueHarness::new(SmtpScript::new(), &settings).await;
    // A new sink receives later events only.
    let stands = || harness.store().sink_position("file").unwrap().is_some();
    harness.wait_until("the sink", stands).await;
    let mut ids = Vec::new();
    for number in 1..=3 {
        for id in harness.enqueue_many(number * 10..number * 10 + 10).await {
            ids.push(id);
        }
        let relayed = |ids: &[_]| {
            ids.iter()
                .all(|id| harness.find_trail(*id).is_some_and(|trail| !trail.recipients[0].is_pending()))
        };
        harness.wait_until("all mail", || relayed(&ids)).await;
        harness.wait_until("all lines", || read_json_lines(&path).len() == ids.len() * 2).await;
        harness.stop().await;
        harness.start().await;
    }
    let items = read_json_lines(&path);
    assert_each_once(&items);
    for id in &ids {
        assert_eq!(event_types_of(&items, &id.to_string()), ["mail.accepted", "mail.relayed"]);
    }
    let last = &items[items.len() - 1]["data"];
    assert_eq!(
        (&last["client"], &last["upstream"], &last["recipients"][0]),
        (&"test".into(), &"up".into(), &"a@example.net".into())
    );
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn http_sink_delivers_in_order_after_outage_of_a_day() {
    let log = LogCapture::default();
    let _logging = log.install();
    let up = Arc::new(AtomicBool::new(true));
    let state = up.clone();
    let endpoint = mock_http::MockHttpServer::start(move |number, _| match state.load(Ordering::SeqCst) {
        true => HttpAction::Respond(204, String::new()),
        false if number % 2 == 0 => HttpAction::Close,
        false => HttpAction::Respond(503, String::new()),
    })
    .await;
    let settings = format!(
        "[[sink]]\nname = \"hook\"\nkind = \"http\"\nurl = \"http://{}/mail\"\nsecret = [\"{SINK_SECRET}\", \"plain text\"]\n\
         allow_private = true\nevents = [\"accepted\"]",
        endpoint.address
    );
    let server = MockSmtpServer::start(SmtpScript::new()).await;
    let mut harness = QueueHarness::with_manual_time(server, &settings).await;
    harness.wait_until("the sink", || harness.store().sink_position("hook").unwrap().is_some()).await;
    let mut ids = vec![harness.store_message(1, &["a@example.net"]).await];
    harness.wait_until("the first", || endpoint.count() == 1).await;
    up.store(false, Ordering::SeqCst);
    for number in 2..26 {
        ids.push(harness.store_message(number, &["a@example.net"]).await);
        harness.let_time_pass(Duration::from_secs(3600)).await;
    }
    assert_eq!(log.lines("alarm=\"sink\"").len(), 1, "{:#?}", log.lines("alarm="));
    let vain = endpoint.count() - 1;
    assert!(vain < 24 * 14, "{vain}");
    up.store(true, Ordering::SeqCst);
    let last = ids[24].to_string();
    let names = |request: &HttpRequest| memchr::memmem::find(&request.body, last.as_bytes()).is_some();
    harness.wait_until("the last", || endpoint.requests().iter().any(names)).await;
    let received: Vec<HttpRequest> = endpoint.requests();
    let mut taken: Vec<_> = received[..1].iter().chain(&received[1 + vain..]).collect();
    // With manual time a response may come too late; a repeated request has the same id.
    taken.dedup_by_key(|request| request.header("webhook-id").unwrap().to_owned());
    let items: Vec<Value> =
        taken.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert_each_once(&items);
    let notified: Vec<_> = items.iter().map(|item| item["data"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(notified, ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    for (request, item) in taken.iter().zip(&items) {
        assert_eq!(request.line, "POST /mail HTTP/1.1");
        assert_eq!(request.header("webhook-id"), item["id"].as_str());
        let signed = [
            request.header("webhook-id").unwrap().as_bytes(),
            request.header("webhook-timestamp").unwrap().as_bytes(),
            &request.body,
        ]
        .join(&b'.');
        let keys = [BASE64_STANDARD.decode(&SINK_SECRET[6..]).unwrap(), b"plain text".to_vec()];
        let signatures = keys.map(|key| {
            let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(&signed);
            format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
        });
        assert_eq!(request.header("webhook-signature"), Some(&*signatures.join(" ")));
    }
    let over = || log.lines("alarm=\"sink\"").last().is_some_and(|line| line.contains("alarm cleared"));
    harness.wait_until("the end of the alarm", over).await;
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rejected_event_becomes_dead_letter_and_others_continue() {
    let endpoint = mock_http::MockHttpServer::start(|_, request| {
        let poison = memchr::memmem::find(&request.body, b"poison@example.net").is_some();
        HttpAction::Respond(if poison { 400 } else { 200 }, String::new())
    })
    .await;
    let settings = format!(
        "[[sink]]\nkind = \"http\"\nurl = \"http://{}/\"\nsecret = \"s\"\nallow_private = true\n\
         events = [\"relayed\"]\ngive_up_after = \"1h\"",
        endpoint.address
    );
    let server = MockSmtpServer::start(SmtpScript::new()).await;
    let mut harness = QueueHarness::with_manual_time(server, &settings).await;
    harness.wait_until("the sink", || harness.store().sink_position("http").unwrap().is_some()).await;
    harness.enqueue(1, &["a@example.net"]).await;
    let poison = harness.enqueue(2, &["poison@example.net"]).await;
    harness.enqueue(3, &["b@example.net"]).await;
    let received = |text: &str| {
        let found = |request: &HttpRequest| memchr::memmem::find(&request.body, text.as_bytes()).is_some();
        endpoint.requests().iter().filter(|request| found(request)).count()
    };
    harness.wait_until("the last", || received("b@example.net") == 1).await;
    assert_eq!(received("\"a@example.net\""), 1);
    let refused = harness.store().sink_dead_letters("http", 10).unwrap();
    let [refused] = &refused[..] else { panic!("{refused:?}") };
    assert!(refused.reason.starts_with("given up after 3"), "{}", refused.reason);
    assert_eq!(refused.entry.as_ref().unwrap().tracking_id, Some(poison));
    harness.stop().await;
}

#[tokio::test]
async fn refuses_private_addresses_by_default() {
    let log = LogCapture::default();
    let _logging = log.install();
    let endpoint = mock_http::MockHttpServer::start(|_, _| HttpAction::Respond(200, String::new())).await;
    let port = endpoint.address.port();
    let settings = format!(
        "[[sink]]\nname = \"literal\"\nkind = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\nsecret = \"s\"\n\
         [[sink]]\nname = \"named\"\nkind = \"http\"\nurl = \"http://localhost:{port}/\"\nsecret = \"s\""
    );
    let mut harness = QueueHarness::new(SmtpScript::new(), &settings).await;
    for sink in ["literal", "named"] {
        harness.wait_until("the sink", || harness.store().sink_position(sink).unwrap().is_some()).await;
    }
    harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("both refusals", || log.lines("allow_private = true").len() >= 2).await;
    assert_eq!(endpoint.connections(), 0);
    harness.stop().await;
}

const SINK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn replay_delivers_same_events_with_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let settings = format!("[[sink]]\nkind = \"file\"\npath = {:?}", path.display().to_string());
    let mut harness = QueueHarness::new(SmtpScript::new(), &settings).await;
    harness.wait_until("the sink", || harness.store().sink_position("file").unwrap().is_some()).await;
    let start = harness.store().sink_position("file").unwrap().unwrap().0;
    harness.enqueue_many(1..=5).await;
    harness.wait_until("all lines", || read_json_lines(&path).len() == 10).await;
    let first = read_json_lines(&path);
    let stands = || harness.store().sink_position("file").unwrap().unwrap().0;
    let has_all = || {
        let (parcels, _) = harness.store().read_from(stands(), 100).unwrap();
        parcels.iter().all(|batch| batch.entries.is_empty())
    };
    harness.wait_until("its note", has_all).await;
    let before = stands();
    harness.store().request_rewind("file", start);
    harness.wait_until("all lines again", || read_json_lines(&path).len() == 20).await;
    assert_eq!(read_json_lines(&path)[10..], first[..]);
    // A sink that has everything writes nothing to the journal.
    harness.wait_until("its note", || stands() > before).await;
    let end = harness.store().log_end().unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(harness.store().log_end().unwrap(), end);
    harness.stop().await;
}
