//! Inbound mail while its target is down: nothing is lost, the order is kept, and old mail expires.

use mailtrail_mail::{MessageId, TrackingId};
use mailtrail_trail::{InboundReceived, InboundState, InboundStep, TrailEventKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_http;
use testkit::mock_http::{HttpAction, HttpRequest};
use testkit::mock_smtp::{MockSmtpServer, SmtpScript};
use testkit::queue_harness::QueueHarness;

#[tokio::test(start_paused = true)]
async fn delivers_in_order_after_target_outage_of_a_day() {
    let log = LogCapture::default();
    let _logging = log.install();
    let up = Arc::new(AtomicBool::new(false));
    let state = up.clone();
    let endpoint = mock_http::MockHttpServer::start(move |number, _| match state.load(Ordering::SeqCst) {
        true => HttpAction::Respond(204, String::new()),
        false if number % 2 == 0 => HttpAction::Close,
        false => HttpAction::Respond(503, String::new()),
    })
    .await;
    let mut harness = start_harness(&endpoint, "").await;
    for number in 0..24 {
        put_inbound_message(&harness, number, "1h").await;
        harness.let_time_pass(Duration::from_secs(3600)).await;
    }
    assert!(!log.lines("alarm=\"inbound\"").is_empty());
    let vain = endpoint.count();
    assert!((24..24 * 14).contains(&vain), "{vain}");
    up.store(true, Ordering::SeqCst);
    let delivered =
        || harness.store().find_inbound(100, |mail| mail.state == InboundState::Delivered).unwrap().len();
    harness.wait_until("the last", || delivered() == 24).await;
    let mut taken: Vec<_> = endpoint.requests()[vain..].iter().map(message_number).collect();
    // With manual time a response may come too late; a repeated request has the same id.
    taken.dedup();
    assert_eq!(taken, (0..24).collect::<Vec<_>>());
    let over = || log.lines("alarm=\"inbound\"").last().is_some_and(|line| line.contains("alarm cleared"));
    harness.wait_until("the end of the alarm", over).await;
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rejected_mail_blocks_no_other_and_expires() {
    let endpoint = mock_http::MockHttpServer::start(|_, request| {
        let poison = message_number(request) == 1;
        HttpAction::Respond(if poison { 500 } else { 200 }, String::new())
    })
    .await;
    let mut harness = start_harness(&endpoint, "give_up_after = \"6h\"\n").await;
    for number in 0..4 {
        put_inbound_message(&harness, number, "1h").await;
    }
    let stands = |leg| harness.store().find_inbound(10, |mail| mail.state == leg).unwrap();
    harness.wait_until("the others", || stands(InboundState::Delivered).len() == 3).await;
    harness.wait_until("the end", || stands(InboundState::DeadLetter).len() == 1).await;
    let dead = stands(InboundState::DeadLetter).remove(0);
    assert!(dead.diagnostic.starts_with("given up after 6 h: it answers 500"), "{}", dead.diagnostic);
    let tries = endpoint.requests().iter().filter(|request| message_number(request) == 1).count();
    // After 1, 2, 4, ... minutes and then each hour.
    assert!((10..=14).contains(&tries), "{tries}");
    let segments = harness.store().log_segments().unwrap().into_iter();
    let facts: Vec<_> =
        segments.flat_map(|(segment, _)| harness.store().log_in_segment(segment).unwrap()).collect();
    let deferred =
        facts.iter().filter(|entry| entry.event.kind == TrailEventKind::Inbound(InboundStep::Deferred));
    assert_eq!(deferred.count(), tries - 1);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn same_mail_within_window_is_duplicate() {
    let endpoint = mock_http::MockHttpServer::start(|_, _| HttpAction::Respond(200, String::new())).await;
    let mut harness = start_harness(&endpoint, "").await;
    let legs = || -> Vec<_> {
        let mails = harness.store().find_inbound(10, |_| true).unwrap();
        mails.iter().rev().map(|mail| (mail.state, mail.diagnostic.clone())).collect()
    };
    let first = put_inbound_message(&harness, 7, "1h").await;
    harness.let_time_pass(Duration::from_secs(3599)).await;
    put_inbound_message(&harness, 7, "1h").await;
    assert_eq!(legs()[1], (InboundState::Duplicate, format!("the same as {first}")));
    harness.let_time_pass(Duration::from_secs(2)).await;
    put_inbound_message(&harness, 7, "1h").await;
    put_inbound_message(&harness, 7, "0s").await;
    let delivered = || legs().iter().filter(|(leg, _)| *leg == InboundState::Delivered).count();
    harness.wait_until("the others", || delivered() == 3).await;
    assert_eq!(endpoint.count(), 3);
    harness.stop().await;
}

/// A relay with that endpoint as its target.
async fn start_harness(endpoint: &mock_http::MockHttpServer, more: &str) -> QueueHarness {
    let settings = format!(
        "[[inbound.target]]\nname = \"in\"\ndeliver = \"http\"\nurl = \"http://{}/\"\nsecret = \"s\"\n\
         allow_private = true\n{more}",
        endpoint.address
    );
    QueueHarness::with_manual_time(MockSmtpServer::start(SmtpScript::new()).await, &settings).await
}

/// A mail as the listener keeps one.
async fn put_inbound_message(harness: &QueueHarness, number: u128, window: &str) -> TrackingId {
    let id = TrackingId::new(harness.time.clock().now(), fastrand::u128(..));
    let message = format!("Message-ID: <{number}@example.net>\r\n\r\nmail {number}.\r\n");
    let arrival = InboundReceived {
        id,
        upstream: "up".into(),
        token: None,
        sender: None,
        recipient: "info@example.com".parse().unwrap(),
        message_id: MessageId::parse(&format!("{number}@example.net")),
        subject: String::new(),
        size: message.len() as u64,
        dedup_window: if window == "1h" { Duration::from_secs(3600) } else { Duration::ZERO },
        quarantine_reason: None,
        missing_files: 0,
    };
    harness.store().put_inbound(arrival, bytes::Bytes::from(message)).await.unwrap();
    id
}

fn message_number(request: &HttpRequest) -> u64 {
    let text = String::from_utf8(request.body.clone()).unwrap();
    let (_, rest) = text.split_once("mail ").unwrap();
    rest.split('.').next().unwrap().parse().unwrap()
}
