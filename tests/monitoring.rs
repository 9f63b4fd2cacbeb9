//! A process of its own, because its time bounds fail while other tests use the processors.
//!
//! Monitoring of mail: the consistency checker and the heartbeat.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::Bytes;
use mailtrail_mail::{Secret, TrackingId};
use mailtrail_trail::provider::mailgun;
use mailtrail_trail::{Diagnostic, EventKind, EventSource, ProviderEvent, ReceivedEvent, RecipientState};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::{QueueHarness, recipient_states};

/// The queue does not expire a message whose lock is held; the consistency checker finds it in the store.
#[tokio::test(start_paused = true)]
async fn raises_alarm_for_mail_past_deadline_until_finished() {
    let log = LogCapture::default();
    let _logging = log.install();
    let recorder = PrometheusBuilder::new().build_recorder();
    let (metrics, _counting) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let server =
        MockSmtpServer::start(SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 9999]))
            .await;
    let mut harness =
        QueueHarness::with_manual_time(server, "[upstream.retry]\ngive_up_after = \"1h\"").await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    let mut lock = None;
    harness
        .wait_until("nobody to hold it", || {
            lock = harness.store().try_lock(id);
            lock.is_some()
        })
        .await;
    for number in 2..8 {
        harness.store_message(number, &["a@example.net"]).await;
    }
    // Open, and nothing else for an hour.
    harness
        .wait_until("the breaker", || metrics.render().contains("mailtrail_breaker_state{upstream=\"up\"} 2"))
        .await;
    harness.let_time_pass(Duration::from_secs(80 * 60)).await;
    assert!(log.lines("alarm=\"overdue\"").is_empty(), "{:#?}", log.lines("alarm"));
    harness.wait_until("the alarm", || !log.lines("alarm=\"overdue\"").is_empty()).await;
    assert!(log.lines(&id.to_string())[0].contains("past its deadline"));
    let alarm = "mailtrail_alarm{alarm=\"overdue\",subject=\"deadline\"}";
    assert!(metrics.render().contains(&format!("{alarm} 1")));
    drop(lock);
    harness
        .wait_until("its end", || recipient_states(&harness.load_trail(id)) == [RecipientState::Expired])
        .await;
    harness.wait_until("the end of the alarm", || log.lines("alarm=\"overdue\"").len() == 2).await;
    assert!(metrics.render().contains(&format!("{alarm} 0")));
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raises_alarm_for_heartbeat_without_events() {
    let log = LogCapture::default();
    let _logging = log.install();
    let server = MockSmtpServer::start(SmtpScript::new()).await;
    let settings = "[heartbeat]\nto = \"canary@example.net\"\nfrom = \"relay@example.com\"\nevery = \"1h\"";
    let mut harness = QueueHarness::with_manual_time(server.clone(), settings).await;
    harness.wait_until("the alarm", || log.lines("alarm=\"heartbeat\"").len() == 1).await;
    let output = log.lines("alarm=\"heartbeat\"");
    assert!(output[0].contains("the test mail is relayed without an event within 900 s"), "{output:#?}");
    // The next one is reported on.
    harness.wait_until("the next test mail", || server.accepted().len() == 2).await;
    let message = String::from_utf8(server.accepted()[1].message.clone()).unwrap();
    let id = message.lines().find_map(|line| line.strip_prefix("X-Mailtrail-Id: ")).unwrap();
    put_event(&harness, id.parse().unwrap(), "canary@example.net", EventKind::Delivered).await;
    harness.wait_until("the end of the alarm", || log.lines("alarm=\"heartbeat\"").len() == 2).await;
    assert!(log.lines("alarm=\"heartbeat\"")[1].contains("alarm cleared"));
    harness.stop().await;
}

/// The heartbeat uses the route of other mail to its recipient.
#[tokio::test(start_paused = true)]
async fn heartbeat_follows_its_route() {
    let _logging = LogCapture::default().install();
    let (first, other) =
        (MockSmtpServer::start(SmtpScript::new()).await, MockSmtpServer::start(SmtpScript::new()).await);
    let settings = format!(
        "host = \"127.0.0.1\"\ntls = \"none\"\n[[upstream]]\nname = \"other\"\nprovider = \"plain\"\n\
         host = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n[[route]]\nname = \"canaries\"\nupstreams = [\"other\"]\n\
         recipients = [\"canary@example.net\"]\n[heartbeat]\nto = \"canary@example.net\"\nfrom = \"relay@example.com\"\n",
        other.address.port()
    );
    let mut harness = QueueHarness::with_manual_time(first.clone(), &settings).await;
    harness.wait_until("the test mail", || first.accepted().len() + other.accepted().len() == 1).await;
    let taken = other.accepted().pop().expect("its route leads to the other upstream");
    let message = String::from_utf8(taken.message).unwrap();
    let id = message.lines().find_map(|line| line.strip_prefix("X-Mailtrail-Id: ")).unwrap();
    let send = harness.wait_for_result(id.parse().unwrap()).await.message;
    assert_eq!(
        (send.route.as_deref(), &*send.client, &*send.subject, send.wants_dsn),
        (Some("canaries"), "mailtrail", "mailtrail heartbeat", false)
    );
    harness.stop().await;
}

/// The provider reports on a recipient.
async fn put_event(harness: &QueueHarness, id: TrackingId, recipient: &str, kind: EventKind) {
    let now = harness.time.clock().now();
    let event = ProviderEvent {
        kind,
        at: now,
        dedup_key: format!("{id}/{}", kind.as_str()),
        recipient: Some(recipient.into()),
        tracking_id: Some(id),
        message_id: None,
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic::default(),
    };
    let notice = ReceivedEvent {
        upstream: "up".into(),
        received_at: now,
        source: EventSource::Webhook,
        token: None,
        event,
    };
    harness.store().put_event(notice, Bytes::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn raises_alarms_for_bounce_complaint_and_delivery_rates() {
    let log = LogCapture::default();
    let _logging = log.install();
    let server = MockSmtpServer::start(SmtpScript::new()).await;
    let settings = "[alarms]\ndisk = \"16MiB\"\nleast = 20\nbounce_rate = \"10%\"\ncomplaint_rate = \"5%\"\ndelivery_rate = \"80%\"";
    let mut harness = QueueHarness::with_manual_time(server.clone(), settings).await;
    let ids = harness.enqueue_many(1..=30).await;
    harness.wait_until("all mail", || server.accepted().len() == 30).await;
    for (number, id) in ids.iter().enumerate() {
        let kind = if number < 3 { EventKind::Bounced } else { EventKind::Delivered };
        put_event(&harness, *id, "a@example.net", kind).await;
    }
    harness.let_time_pass(Duration::from_secs(30 * 60)).await;
    assert_eq!(log.lines("alarm="), [""; 0], "three of thirty are ten percent, not more");
    for id in &ids[3..8] {
        put_event(&harness, *id, "a@example.net", EventKind::Bounced).await;
        put_event(&harness, *id, "a@example.net", EventKind::Complained).await;
    }
    put_event(&harness, ids[8], "a@example.net", EventKind::Complained).await;
    put_event(&harness, ids[9], "a@example.net", EventKind::Complained).await;
    harness.wait_until("the alarms", || log.lines("alarm=").len() == 3).await;
    for (kind, words) in [
        ("bounces", "hard bounces are 26.67 %, the limit is 10.00 %"),
        ("complaints", "spam complaints are 31.82 %, the limit is 5.00 %"),
        ("deliveries", "deliveries are 73.33 %, the limit is 80.00 %"),
    ] {
        let output = log.lines(&format!("alarm=\"{kind}\" subject=\"example.com\""));
        assert!(output.len() == 1 && output[0].contains(words), "{:#?}", log.lines("alarm="));
    }
    // A day later nothing of it counts.
    harness.wait_until("the ends of the alarms", || log.lines("alarm=").len() == 6).await;
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raises_backlog_alarm() {
    let log = LogCapture::default();
    let _logging = log.install();
    let server =
        MockSmtpServer::start(SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 9999]))
            .await;
    let mut harness = QueueHarness::with_manual_time(server, "[alarms]\nqueue = 5").await;
    for number in 1..=6 {
        harness.store_message(number, &["a@example.net"]).await;
    }
    harness.wait_until("the alarm", || !log.lines("alarm=\"backlog\"").is_empty()).await;
    assert!(log.lines("alarm=\"backlog\"")[0].contains("more than 5 messages are queued"));
    harness.stop().await;
}

/// Posts a signed webhook to the relay; gives the answer's status.
async fn post_signed_webhook(
    harness: &QueueHarness,
    id: TrackingId,
    event: &str,
    key: &str,
    ahead: u64,
) -> u16 {
    let now = harness.time.clock().now().as_millis() / 1000;
    let (timestamp, token) = ((now + ahead).to_string(), format!("{event}-{id}-{now}-{ahead}"));
    let signature = mailgun::sign_webhook(&Secret::new(key), &timestamp, &token);
    let body = serde_json::json!({
        "signature": { "timestamp": timestamp, "token": token, "signature": signature },
        "event-data": {
            "event": event, "id": token, "timestamp": now, "recipient": "a@example.net",
            "user-variables": { "mailtrail": id.to_string() },
        },
    });
    let url = format!("http://{}/webhooks/up", harness.http_address());
    let tls = mailtrail_net::tls::build_client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let posted = client.post(url).body(body.to_string()).send();
    let mut posted = std::pin::pin!(posted);
    loop {
        tokio::select! {
            answer = &mut posted => return answer.unwrap().status().as_u16(),
            // Time does not pass by itself.
            () = harness.let_time_pass(Duration::from_millis(100)) => {}
        }
    }
}

async fn start_with_webhooks() -> (MockSmtpServer, QueueHarness) {
    let mut script = SmtpScript::new();
    script.capabilities.push("AUTH PLAIN");
    let server = MockSmtpServer::start(script).await;
    let settings = "username = \"u\"\npassword = \"p\"\nwebhook_signing_key = \"key\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                    [alarms]\ndisk = \"16MiB\"";
    let harness = QueueHarness::manual_time_with_provider("mailgun", server.clone(), settings).await;
    (server, harness)
}

#[tokio::test(start_paused = true)]
async fn raises_silence_alarm_with_likely_cause() {
    let log = LogCapture::default();
    let _logging = log.install();
    let (server, mut harness) = start_with_webhooks().await;
    let first = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("the mail", || server.accepted().len() == 1).await;
    harness.let_time_pass(Duration::from_secs(25 * 60)).await;
    assert_eq!(log.lines("alarm="), [""; 0]);
    harness.wait_until("the alarm", || log.lines("alarm=\"silence\"").len() == 1).await;
    assert!(log.lines("alarm=\"silence\"")[0].contains("no webhook is registered"));
    assert_eq!(post_signed_webhook(&harness, first, "delivered", "key", 0).await, 200);
    harness.wait_until("the end of the alarm", || log.lines("alarm=\"silence\"").len() == 2).await;
    // Nothing is sent, so nothing is missed.
    harness.let_time_pass(Duration::from_secs(3600)).await;
    assert_eq!(log.lines("alarm=\"silence\"").len(), 2);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raises_signature_alarm_until_one_is_valid() {
    let log = LogCapture::default();
    let _logging = log.install();
    let (_, mut harness) = start_with_webhooks().await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    for number in 0..5 {
        assert_eq!(
            post_signed_webhook(&harness, id, &format!("opened{number}"), "another key", 0).await,
            406
        );
    }
    harness.wait_until("the alarm", || log.lines("alarm=\"signature\"").len() == 1).await;
    assert!(log.lines("alarm=\"signature\"")[0].contains("webhook_signing_key"));
    assert_eq!(post_signed_webhook(&harness, id, "delivered", "key", 0).await, 200);
    harness.wait_until("the end of the alarm", || log.lines("alarm=\"signature\"").len() == 2).await;
    assert_eq!(recipient_states(&harness.load_trail(id)), [RecipientState::Delivered]);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raises_alarm_for_lagging_clock() {
    let log = LogCapture::default();
    let _logging = log.install();
    let (_, mut harness) = start_with_webhooks().await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    for number in 0..20 {
        assert_eq!(post_signed_webhook(&harness, id, &format!("opened{number}"), "key", 300).await, 200);
    }
    harness.wait_until("the alarm", || log.lines("alarm=\"clock\"").len() == 1).await;
    assert!(log.lines("alarm=\"clock\"")[0].contains("ahead of this machine's clock"));
    harness.stop().await;
}
