//! Alarm notifications: by webhook and by mail, once per alarm, with their resolution.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, Lane, Timestamp, TrackingId};
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox};
use mailtrail_trail::suppression;
use mailtrail_trail::suppression::{EvidenceItem, Reason, Scope, SuppressionChange, SuppressionChangeKind};
use mailtrail_trail::{DeadLetter, EventSource, InboundReceived, RecipientState};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sha2::Sha256;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::{QueueHarness, recipient_states};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;
use testkit::{mock_http, relay_process};

/// Returns the notifications of a receiver, each once: with manual time a response may come too late.
fn notifications_of(receiver: &mock_http::MockHttpServer) -> Vec<Value> {
    let mut requests = receiver.requests();
    requests.dedup_by_key(|request| request.header("webhook-id").unwrap().to_owned());
    requests.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

/// Alarm, subject and state of each.
fn alarm_lines(message: &Value) -> Vec<String> {
    let alarms = message["data"]["alarms"].as_array().unwrap().iter();
    let words =
        |alarm: &Value| ["alarm", "subject", "state"].map(|key| alarm[key].as_str().unwrap().to_owned());
    alarms.map(|alarm| words(alarm).join(" ")).collect()
}

fn assert_standard_webhooks_signature(request: &mock_http::HttpRequest) {
    let signed = [
        request.header("webhook-id").unwrap().as_bytes(),
        request.header("webhook-timestamp").unwrap().as_bytes(),
        &request.body,
    ]
    .join(&b'.');
    let key = BASE64_STANDARD.decode(&WEBHOOK_SECRET[6..]).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(&signed).finalize();
    let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.into_bytes()));
    assert_eq!(request.header("webhook-signature"), Some(&*signature));
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(request.header("webhook-id"), body["id"].as_str());
}

/// Returns `[alarms]` with a webhook, as the end of a configuration.
fn alarm_webhook_config(receiver: SocketAddr) -> String {
    format!(
        "[alarms]\nwebhook_url = \"http://{receiver}/alarms\"\nwebhook_secret = \"{WEBHOOK_SECRET}\"\nallow_private = true\n"
    )
}

/// Returns an upstream whose breaker opens at the first failure, followed by another.
fn two_upstream_config(second: &MockSmtpServer) -> String {
    format!(
        "host = \"127.0.0.1\"\ntls = \"none\"\n[upstream.breaker]\nfailures = 1\nsuccesses = 1\n\
         [[upstream]]\nname = \"other\"\nprovider = \"plain\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n",
        second.address.port()
    )
}

fn body_text_of(message: &[u8]) -> String {
    let parsed = mail_parser::MessageParser::default().parse(message).unwrap();
    parsed.body_text(0).unwrap().into_owned()
}

#[tokio::test(start_paused = true)]
async fn mails_open_breaker_and_its_end_through_other_upstream() {
    let _logging = LogCapture::default().install();
    let away =
        MockSmtpServer::start(SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 9999]))
            .await;
    let other = MockSmtpServer::start(SmtpScript::new()).await;
    let settings = two_upstream_config(&other)
        + "[alarms]\nmail_to = [\"ops@example.com\", \"boss@example.net\"]\nmail_from = \"alarms@example.com\"\n\
           mail_upstream = \"up\"\n";
    let mut harness = QueueHarness::with_manual_time(away.clone(), &settings).await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("both mails", || other.accepted().len() == 2).await;
    let mut taken = other.accepted();
    taken.sort_by_key(|taken| taken.recipients.len());
    let [mail, alarm] = &taken[..] else { panic!("{taken:?}") };
    assert_eq!(
        (&*mail.recipients, recipient_states(&harness.wait_for_result(id).await)),
        (&["a@example.net".to_owned()][..], vec![RecipientState::Relayed])
    );
    assert_eq!(alarm.recipients, ["ops@example.com", "boss@example.net"]);
    let header = |name| testkit::header_value(&alarm.message, name).unwrap().to_owned();
    assert_eq!(header("Subject"), "[mailtrail relay.example.com] alarm: breaker up");
    assert_eq!(header("Auto-Submitted"), "auto-generated");
    assert!(header("From").contains("alarms@example.com"), "{}", header("From"));
    let text = body_text_of(&alarm.message);
    for part in
        ["ALARM: breaker up", "the breaker opened, mail waits: ", "Remedy: ", "mailtrail breaker close"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // The ledger has it like all mail, without a request for a DSN.
    let id: TrackingId = header("X-Mailtrail-Id").parse().unwrap();
    let send = harness.load_trail(id).message;
    assert_eq!(
        (send.route.as_deref(), send.wants_dsn, &*send.client),
        (Some("first other"), false, "mailtrail")
    );
    // Nothing new, nothing more: an hour, with a mail now and then.
    for number in 2..8 {
        harness.enqueue(number, &["a@example.net"]).await;
        harness.let_time_pass(Duration::from_secs(600)).await;
    }
    let alarms = |server: &MockSmtpServer| -> Vec<String> {
        let taken = server.accepted().into_iter().filter(|taken| taken.recipients.len() == 2);
        taken.map(|taken| testkit::header_value(&taken.message, "Subject").unwrap().to_owned()).collect()
    };
    assert_eq!(alarms(&other).len(), 1);
    // The first upstream is back and carries the resolution, because it is preferred and healthy.
    away.with_script(|script| script.take_pending(SmtpStep::Banner));
    harness.enqueue(9, &["a@example.net"]).await;
    harness
        .wait_until("the end", || alarms(&away) == ["[mailtrail relay.example.com] over: breaker up"])
        .await;
    let over = away.accepted().into_iter().find(|taken| taken.recipients.len() == 2).unwrap();
    let text = body_text_of(&over.message);
    assert!(text.contains("OVER: breaker up") && text.contains("Active from 2026-09-14T12:0"), "{text}");
    assert!(text.contains(" (1 h ") && !text.contains("Remedy"), "{text}");
    assert_eq!(alarms(&other).len(), 1);
    harness.stop().await;
}

/// A receiver that is down at first gets all notifications in order, each with one id for all attempts.
#[tokio::test(start_paused = true)]
async fn retries_notifications_in_order_until_receiver_is_up() {
    let log = LogCapture::default();
    let _logging = log.install();
    let vain = Arc::new(AtomicUsize::new(0));
    let count = vain.clone();
    let receiver = mock_http::MockHttpServer::start(move |number, _| match number {
        1..=20 => {
            count.fetch_add(1, Ordering::SeqCst);
            if number % 2 == 0 {
                mock_http::HttpAction::Close
            } else {
                mock_http::HttpAction::Respond(503, String::new())
            }
        }
        _ => mock_http::HttpAction::Respond(204, String::new()),
    })
    .await;
    let server =
        MockSmtpServer::start(SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 9999]))
            .await;
    let settings = two_upstream_config(&MockSmtpServer::start(SmtpScript::new()).await)
        + &alarm_webhook_config(receiver.address);
    let mut harness = QueueHarness::with_manual_time(server, &settings).await;
    harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("it is heard", || receiver.count() > 20).await;
    let requests = receiver.requests();
    requests.iter().for_each(assert_standard_webhooks_signature);
    let ids: Vec<_> = requests[..21].iter().map(|request| request.header("webhook-id").unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && id.starts_with("alarms-")), "{ids:?}");
    assert_eq!(requests[0].line, "POST /alarms HTTP/1.1");
    let message = &notifications_of(&receiver)[0];
    assert_eq!(
        (alarm_lines(message), &message["type"]),
        (vec!["breaker up alarm".to_owned()], &"alarms".into())
    );
    assert_eq!(message["data"]["host"], "relay.example.com");
    assert!(message["text"].as_str().unwrap().contains("ALARM: breaker up"), "{message}");
    assert!(message["data"]["alarms"][0]["remedy"].as_str().unwrap().contains("mailtrail breaker close"));
    let complaints = log.lines("alarm notification failed");
    assert_eq!(complaints.len(), 1, "{:#?}", log.lines(""));
    assert_eq!(log.lines("alarm notification given up"), [""; 0]);
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logs_undeliverable_notification_once() {
    let log = LogCapture::default();
    let _logging = log.install();
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(500, String::new())).await;
    let server =
        MockSmtpServer::start(SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 9999]))
            .await;
    let settings =
        alarm_webhook_config(receiver.address) + "queue = 3\nrepeat = \"30d\"\nsilence = \"off\"\n";
    let mut harness = QueueHarness::with_manual_time(server, &settings).await;
    for number in 1..=4 {
        harness.store_message(number, &["a@example.net"]).await;
    }
    harness.let_time_pass(Duration::from_secs(23 * 3600)).await;
    assert_eq!(log.lines("alarm notification given up"), [""; 0]);
    harness.wait_until("it is given up", || !log.lines("alarm notification given up").is_empty()).await;
    let output = &log.lines("alarm notification given up")[0];
    assert!(output.contains("breaker up") && output.contains("way=\"webhook\""), "{output}");
    assert!(receiver.count() < 400 * log.lines("alarm=").len(), "{}", receiver.count());
    harness.stop().await;
}

/// Several alarms at once are one notification; lasting alarms are repeated.
#[tokio::test(start_paused = true)]
async fn groups_alarms_and_repeats_while_they_last() {
    let _logging = LogCapture::default().install();
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let server = MockSmtpServer::start(SmtpScript::new()).await;
    let settings = alarm_webhook_config(receiver.address)
        + "disk = \"1024GiB\"\nrepeat = \"6h\"\n"
        + "[[inbound.target]]\ndeliver = \"http\"\nurl = \"http://127.0.0.1:9/\"\nsecret = \"s\"\nallow_private = true\n\
           recipients = [\"*@other.example\"]\n";
    let mut harness = QueueHarness::with_manual_time(server, &settings).await;
    let now = harness.time.clock().now();
    let dead = DeadLetter {
        upstream: "up".into(),
        received_at: now,
        source: EventSource::Webhook,
        token: None,
        body_digest: [7; 16],
        reason: "no JSON".into(),
    };
    harness.store().put_dead_letter(dead, bytes::Bytes::from_static(b"?")).await.unwrap();
    put_unroutable_inbound_message(&harness).await;
    harness.wait_until("the first message", || !notifications_of(&receiver).is_empty()).await;
    assert_eq!(alarm_lines(&notifications_of(&receiver)[0])[0], "disk data_dir alarm");
    let reports =
        || notifications_of(&receiver).iter().flat_map(alarm_lines).any(|one| one == "dead events alarm");
    harness.wait_until("the dead letter", reports).await;
    let begun = notifications_of(&receiver).len();
    harness.let_time_pass(Duration::from_secs(5 * 3600)).await;
    assert_eq!(notifications_of(&receiver).len(), begun);
    harness.wait_until("they last", || notifications_of(&receiver).len() > begun).await;
    let all = ["disk data_dir still on", "dead events still on", "dead inbound still on"];
    assert_eq!(alarm_lines(&notifications_of(&receiver)[begun]), all);
    // A day after the last one dead letters are not new.
    let over =
        || notifications_of(&receiver).iter().flat_map(alarm_lines).any(|one| one == "dead events over");
    harness.wait_until("the end", over).await;
    assert!(harness.time.clock().now().duration_since(now) >= Duration::from_secs(86_400));
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raises_certificate_alarm_until_renewal() {
    let _logging = LogCapture::default().install();
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["relay.pem", "relay.key"].map(|name| folder.path().join(name));
    // The scene begins in September 2026.
    write_certificate_and_key(&certificate, &key, (2026, 9, 25));
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let settings = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[user]]\nname = \"odoo\"\npassword = \"odoo\"\n\
         [tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}\n{}",
        alarm_webhook_config(receiver.address)
    );
    let mut harness =
        QueueHarness::with_manual_time(MockSmtpServer::start(SmtpScript::new()).await, &settings).await;
    let received = |state: &str| {
        let line = format!("certificate {} {state}", certificate.display());
        notifications_of(&receiver).into_iter().find(|message| alarm_lines(message).contains(&line))
    };
    harness.wait_until("the alarm", || received("alarm").is_some()).await;
    let text = received("alarm").unwrap()["data"]["alarms"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.contains("the certificate expires 2026-09-25T00:00:00.000Z"), "{text}");
    write_certificate_and_key(&certificate, &key, (2027, 9, 25));
    harness.wait_until("its end", || received("over").is_some()).await;
    harness.stop().await;
}

fn write_certificate_and_key(certificate: &Path, key: &Path, (year, month, day): (i32, u8, u8)) {
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(year, month, day);
    let pair = KeyPair::generate().unwrap();
    std::fs::write(key, pair.serialize_pem()).unwrap();
    std::fs::write(certificate, parameters.self_signed(&pair).unwrap().pem()).unwrap();
}

/// A mail from outside that no target takes.
async fn put_unroutable_inbound_message(harness: &QueueHarness) {
    let arrival = InboundReceived {
        id: TrackingId::new(harness.time.clock().now(), fastrand::u128(..)),
        upstream: "up".into(),
        token: None,
        sender: None,
        recipient: "info@example.com".parse().unwrap(),
        message_id: None,
        subject: String::new(),
        size: 9,
        dedup_window: Duration::ZERO,
        quarantine_reason: None,
        missing_files: 0,
    };
    harness.store().put_inbound(arrival, bytes::Bytes::from_static(b"A: b\r\n\r\n.")).await.unwrap();
}

/// Alarm mail is no reason to miss events: neither to raise an alarm nor to mail about it.
#[tokio::test(start_paused = true)]
async fn alarm_mail_raises_no_alarm() {
    let mut script = SmtpScript::new();
    script.capabilities.push("AUTH PLAIN");
    let server = MockSmtpServer::start(script).await;
    let settings = "username = \"u\"\npassword = \"p\"\nwebhook_signing_key = \"key\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                    [alarms]\ndisk = \"1024GiB\"\nrepeat = \"1h\"\nmail_to = [\"ops@example.com\"]\n\
                    mail_from = \"alarms@example.com\"\n";
    let log = LogCapture::default();
    let _logging = log.install();
    let mut harness = QueueHarness::manual_time_with_provider("mailgun", server.clone(), settings).await;
    harness.wait_until("a day of mails", || server.accepted().len() == 24).await;
    let begun: Vec<_> = log.lines("alarm=");
    assert!(begun.len() == 1 && begun[0].contains("alarm=\"disk\""), "{begun:#?}");
    // A user's message is missing its event.
    harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("the alarm", || log.lines("alarm=\"silence\"").len() == 1).await;
    assert!(log.lines("alarm=\"silence\"")[0].contains("1 messages were relayed"));
    harness.stop().await;
}

/// Its API is away; then it is back.
#[tokio::test(start_paused = true)]
async fn raises_polls_alarm_until_provider_api_answers() {
    let _logging = LogCapture::default().install();
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let api = SocketAddr::from(([127, 0, 0, 1], relay_process::free_port()));
    let settings = format!(
        "domain = \"mg.example.com\"\nusername = \"u\"\npassword = \"p\"\napi_key = \"key-1\"\n\
         api_base_url = \"http://{api}\"\n{}disk = \"16MiB\"\nrepeat = \"30d\"\n",
        alarm_webhook_config(receiver.address)
    );
    let mut harness = QueueHarness::manual_time_with_provider(
        "mailgun",
        MockSmtpServer::start(SmtpScript::new()).await,
        &settings,
    )
    .await;
    let received = |line: &str| {
        let of = |message: &Value| {
            let place = alarm_lines(message).iter().position(|one| one == line)?;
            Some(message["data"]["alarms"][place]["text"].as_str().unwrap().to_owned())
        };
        notifications_of(&receiver).iter().find_map(of)
    };
    for (alarm, words) in [
        ("polls", "its events cannot be asked for: upstream up: events: "),
        ("sync", "its suppression lists are not brought together with ours: upstream up: bounces: "),
    ] {
        harness.wait_until(alarm, || received(&format!("{alarm} up alarm")).is_some()).await;
        let text = received(&format!("{alarm} up alarm")).unwrap();
        assert!(text.starts_with(words) && text.contains("cannot be reached"), "{text}");
        assert_eq!(received(&format!("{alarm} up over")), None);
    }
    let folder = tempfile::tempdir().unwrap();
    let provider = start_sandbox(api, harness.time.clock(), folder.path()).await;
    for alarm in ["polls", "sync"] {
        harness.wait_until(alarm, || received(&format!("{alarm} up over")).is_some()).await;
    }
    harness.stop().await;
    provider.stop().await;
}

/// Starts a sandbox with its API at this address.
async fn start_sandbox(api_address: SocketAddr, clock: Clock, folder: &Path) -> Sandbox {
    let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
        profile: ProviderProfile::Mailgun,
        smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_address,
        api_key: Secret::new("key-1"),
        domain: "mg.example.com".into(),
        username: "u".into(),
        password: Secret::new("p"),
        signing_key: Secret::new("signing"),
        webhook_url: None,
        time_scale: 0.0,
        faults: FaultInjection::default(),
        clock,
        tls: mailtrail_net::tls::load_self_signed(folder, "localhost").unwrap(),
    });
    sandbox.await.unwrap()
}

/// An invoice that is not sent is seen; a mailing is not worth an alarm.
#[tokio::test(start_paused = true)]
async fn raises_alarm_for_suppressed_transactional_mail_with_count() {
    let log = LogCapture::default();
    let _logging = log.install();
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let settings = format!("{}disk = \"16MiB\"\nrepeat = \"1h\"\n", alarm_webhook_config(receiver.address));
    let mut harness =
        QueueHarness::with_manual_time(MockSmtpServer::start(SmtpScript::new()).await, &settings).await;
    for address in ["a@example.net", "b@example.net"] {
        let mark = EvidenceItem {
            at: harness.time.clock().now(),
            scope: Scope::All,
            source: suppression::EvidenceSource::Webhook,
            expires_at: None,
            diagnostic: "550 5.1.1 no such user".into(),
        };
        let listing = SuppressionChange {
            address: address.parse().unwrap(),
            list: None,
            at: mark.at,
            operator: String::new(),
            kind: SuppressionChangeKind::Add { reason: Reason::HardBounce, items: vec![mark] },
        };
        harness.store().change_suppression(listing).await.unwrap();
    }
    let mailing = harness.store_in_lane(1, Lane::Bulk).await;
    harness.wait_until("the mailing", || harness.find_trail(mailing).is_some()).await;
    assert_eq!(recipient_states(&harness.wait_for_result(mailing).await), [RecipientState::Suppressed]);
    assert_eq!(log.lines("alarm=\"withheld\""), [""; 0]);
    for (number, recipients) in
        [(2, &["a@example.net", "b@example.net", "c@example.net"][..]), (3, &["b@example.net"])]
    {
        let id = harness.enqueue(number, recipients).await;
        harness.wait_for_result(id).await;
    }
    let told_of =
        |text: &str| notifications_of(&receiver).iter().any(|message| message.to_string().contains(text));
    harness
        .wait_until("the alarm", || {
            notifications_of(&receiver)
                .iter()
                .any(|message| alarm_lines(message).contains(&"withheld up alarm".into()))
        })
        .await;
    assert!(log.lines("alarm=\"withheld\"")[0].contains("2 transactional mails were not sent"));
    harness.wait_until("the count", || told_of("3 transactional mails were not sent")).await;
    harness
        .wait_until("its end", || {
            notifications_of(&receiver)
                .iter()
                .any(|message| alarm_lines(message).contains(&"withheld up over".into()))
        })
        .await;
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn raises_sink_dead_letter_alarm_for_one_day() {
    let _logging = LogCapture::default().install();
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let endpoint =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(400, String::new())).await;
    let settings = format!(
        "{}disk = \"16MiB\"\nrepeat = \"30d\"\n[[sink]]\nname = \"hook\"\nkind = \"http\"\nurl = \"http://{}/\"\n\
         secret = \"s\"\nallow_private = true\nevents = [\"relayed\"]\ngive_up_after = \"1h\"\n",
        alarm_webhook_config(receiver.address),
        endpoint.address
    );
    let mut harness =
        QueueHarness::with_manual_time(MockSmtpServer::start(SmtpScript::new()).await, &settings).await;
    harness.wait_until("the sink", || harness.store().sink_position("hook").unwrap().is_some()).await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    let received = |line: &str| {
        notifications_of(&receiver)
            .into_iter()
            .find(|message| alarm_lines(message).contains(&line.to_owned()))
    };
    harness.wait_until("the dead letter", || received("dead sink hook alarm").is_some()).await;
    let refused = || harness.store().sink_dead_letters("hook", 10).unwrap();
    harness.wait_until("its note", || !refused().is_empty()).await;
    assert_eq!(refused()[0].entry.as_ref().unwrap().tracking_id, Some(id));
    let notified = received("dead sink hook alarm").unwrap().to_string();
    assert!(notified.contains("`mailtrail sink dead hook` lists it"), "{notified}");
    harness.wait_until("its end", || received("dead sink hook over").is_some()).await;
    let over = received("dead sink hook over").unwrap()["data"]["alarms"].as_array().unwrap().clone();
    let over = over.into_iter().find(|alarm| alarm["subject"] == "sink hook").unwrap();
    let [since, until] =
        ["since", "until"].map(|key| Timestamp::parse_rfc3339(over[key].as_str().unwrap()).unwrap());
    assert!(until.duration_since(since) >= Duration::from_secs(86_400), "{over}");
    harness.stop().await;
}

/// The real program: a threshold that every disk is below, a receiver, a recipient; then a reload that mends it.
#[tokio::test]
async fn notifies_by_webhook_and_mail_and_resolves_after_reload() {
    let sink = SmtpSink::start().await;
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let alarms = |disk: &str| {
        format!(
            "{}after = \"0s\"\ndisk = \"{disk}\"\nmail_to = [\"ops@example.com\"]\nmail_from = \"alarms@example.com\"\n",
            alarm_webhook_config(receiver.address)
        )
    };
    let mut process = RelayProcess::new(&sink);
    let usual = process.configuration(sink.port(), "");
    process.write_configuration(&(usual.clone() + &alarms("1024GiB")));
    let shown = process.run_command(&["config", "show"]).await;
    assert!(
        shown.stdout.contains("webhook_secret = [\"******\"]") && !shown.stdout.contains(WEBHOOK_SECRET),
        "{}",
        shown.stdout
    );
    process.start().await;
    testkit::eventually("both are told", || {
        (receiver.count() == 1 && sink.messages().len() == 1).then_some(())
    })
    .await;
    assert_standard_webhooks_signature(&receiver.requests()[0]);
    assert_eq!(alarm_lines(&notifications_of(&receiver)[0]), ["disk data_dir alarm"]);
    let doctor = process.run_command(&["doctor"]).await;
    assert!(doctor.stdout.contains("disk data_dir"), "{}", doctor.stdout);
    process.write_configuration(&(usual + &alarms("16MiB")));
    process.send_sighup().await;
    testkit::eventually("the ends", || (receiver.count() == 2 && sink.messages().len() == 2).then_some(()))
        .await;
    assert_eq!(alarm_lines(&notifications_of(&receiver)[1]), ["disk data_dir over"]);
    assert!(!process.log().contains(WEBHOOK_SECRET));
    assert!(process.terminate().await.success());
}

/// A breaker that opened is no alarm of a queue that never tried: the reload ends it, and the mail goes.
#[tokio::test]
async fn reload_that_fixes_upstream_clears_its_alarms() {
    let sink = SmtpSink::start().await;
    let receiver =
        mock_http::MockHttpServer::start(|_, _| mock_http::HttpAction::Respond(200, String::new())).await;
    let mut process = RelayProcess::new(&sink);
    let configuration = |port| {
        let alarms = alarm_webhook_config(receiver.address) + "after = \"0s\"\ndisk = \"16MiB\"\n";
        process.configuration(port, "") + "[upstream.breaker]\nfailures = 1\npause = \"5min\"\n" + &alarms
    };
    let (nowhere, good) = (configuration(relay_process::free_port()), configuration(sink.port()));
    process.write_configuration(&nowhere);
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    client.submit("app@example.com", &["a@example.net"], "Subject: hello\r\n\r\nhi\r\n").await.unwrap();
    testkit::eventually("the alarm", || (receiver.count() == 1).then_some(())).await;
    assert_eq!(alarm_lines(&notifications_of(&receiver)[0]), ["breaker sink alarm"]);
    process.write_configuration(&good);
    process.send_sighup().await;
    sink.wait_for_count(1).await;
    testkit::eventually("its end", || (receiver.count() == 2).then_some(())).await;
    assert_eq!(alarm_lines(&notifications_of(&receiver)[1]), ["breaker sink over"]);
    assert!(process.terminate().await.success());
}

const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
