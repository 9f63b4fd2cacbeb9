//! Delivery over HTTP, to a scripted server and to the sandbox.

use bytes::Bytes;
use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, Timestamp, TrackingId};
use mailtrail_net::tls;
use mailtrail_sandbox::Sandbox;
use mailtrail_trail::{
    AcceptedMessage, AttemptStatus, CorrelatedBy, Diagnostic, EventKind, EventSource, Message, ProviderEvent,
    ReceivedEvent, Recipient, RecipientState, Trail, TrailEventKind,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::eventually;
use testkit::mock_http::{HttpAction, HttpRequest, MockHttpServer};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;

#[tokio::test]
async fn sends_stored_message_unchanged() {
    let server = MockHttpServer::start(|_, _| accepted_response()).await;
    let harness = ApiTestRelay::new(&server, "").await;
    for number in [1, LARGE_MESSAGE] {
        let id = harness.enqueue(number, &["a@example.net", "\"b,c\"@example.net", "bcc@example.org"]).await;
        let trail = harness.wait_settled(id).await;
        assert_eq!(recipient_states(&trail), [RecipientState::Relayed; 3]);
        let words = &trail.recipients[2].diagnostic;
        assert_eq!(words.to_line().as_deref(), Some("200 Queued. Thank you. <1.2@mg.example.com>"));
        let request = server.requests().pop().unwrap();
        assert_eq!(request.line, "POST /v3/mg.example.com/messages.mime HTTP/1.1");
        assert_eq!(request.header("authorization"), Some("Basic YXBpOmtleS0x"));
        assert_eq!(request.values("to"), ["a@example.net", "\"b,c\"@example.net", "bcc@example.org"]);
        assert_eq!(request.values("v:mailtrail"), [id.to_string()]);
        assert_eq!(request.values("v:odoo_db"), ["prod"]);
        assert_eq!(
            (request.values("o:tag"), request.values("o:tracking")),
            (vec!["odoo".into()], vec!["no".into()])
        );
        let stamp = format!("X-Mailgun-Variables: {{\"mailtrail\":\"{id}\"}}\r\n");
        assert!(
            request.message() == [stamp.as_bytes(), sample_message(number).as_bytes()].concat(),
            "{number}"
        );
    }
    assert_eq!(server.connections(), 1, "a connection carries many messages");
}

/// As over SMTP: what cannot harm, of a client that logged in.
#[tokio::test]
async fn maps_mailgun_headers_to_api_parameters() {
    let server = MockHttpServer::start(|_, _| accepted_response()).await;
    let harness = ApiTestRelay::new(&server, "").await;
    let fields = [
        ("X-Mailgun-Tag: spring", "o:tag", "spring"),
        ("X-Mailgun-Track-Opens: no", "o:tracking-opens", "no"),
        ("X-Mailgun-Require-TLS: yes", "o:require-tls", "yes"),
        ("X-Mailgun-Dkim: no", "o:dkim", ""),
        ("X-Mailgun-Drop-Message: yes", "o:testmode", ""),
        ("X-Mailgun-Variables: {\"odoo_db\": \"prod\"}", "v:odoo_db", "prod"),
        ("X-Mailgun-Variables: {\"mailtrail\": \"forged\", \"more\": 1}", "v:more", ""),
    ];
    let header: String = fields.iter().map(|(field, ..)| format!("{field}\r\n")).collect();
    let mut client = SmtpClient::connect(harness.daemon.smtp_addresses()[1]).await.unwrap();
    // \0odoo\0lab-secret
    assert_eq!(client.command("AUTH PLAIN AG9kb28AbGFiLXNlY3JldA==").await.unwrap().0, 235);
    let message = format!("{header}Subject: a\r\n\r\nhi\r\n");
    let id = client.submit("a@example.com", &["b@example.net"], &message).await.unwrap();
    harness.wait_settled(id.parse().unwrap()).await;
    let request = server.requests().pop().unwrap();
    for (field, parameter, value) in fields {
        let expected: Vec<_> = Some(value.to_owned()).filter(|value| !value.is_empty()).into_iter().collect();
        assert_eq!(request.values(parameter), expected, "{field}");
    }
    assert_eq!(request.values("v:mailtrail"), [id]);
}

#[tokio::test]
async fn maps_parameters_from_long_header() {
    let server = MockHttpServer::start(|_, _| accepted_response()).await;
    let harness = ApiTestRelay::new(&server, "").await;
    harness.wait_settled(harness.enqueue(LONG_HEADER_MESSAGE, &["a@example.net"]).await).await;
    assert_eq!(server.requests().pop().unwrap().values("o:tag"), ["odoo", "late"]);
}

#[tokio::test]
async fn classifies_responses_and_missing_responses() {
    use AttemptStatus::{Bounced, Queued, Relayed, Unknown};
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"id\"";
    for (what, act, expected) in [
        ("400", json_response(400, "to parameter is wrong"), &[Bounced][..]),
        ("413", json_response(413, "request size exceeds 52.4MiB limit"), &[Bounced]),
        // Sent whole, and no clear answer.
        ("500", json_response(500, "Internal Server Error"), &[Unknown, Relayed]),
        ("502", (502, "Bad Gateway".into()), &[Unknown, Relayed]),
        ("503 in HTML", (503, "<html>".into()), &[Unknown, Relayed]),
        ("504", json_response(504, "Gateway Timeout"), &[Unknown, Relayed]),
        ("524", (524, String::new()), &[Unknown, Relayed]),
        ("200 without an id", json_response(200, "Queued. Thank you."), &[Unknown, Relayed]),
        ("200 with an empty id", (200, "{\"id\":\"\"}".into()), &[Unknown, Relayed]),
        ("202 without a word", (202, String::new()), &[Unknown, Relayed]),
        ("303", (303, "+ Location: /done\n".into()), &[Unknown, Relayed]),
        // A clear rejection, but a temporary one.
        ("408", (408, String::new()), &[Queued, Relayed]),
        ("409", json_response(409, "Conflict"), &[Queued, Relayed]),
        ("421", json_response(421, "Misdirected Request"), &[Queued, Relayed]),
        ("422", json_response(422, "Unprocessable Content"), &[Queued, Relayed]),
        ("423", json_response(423, "Locked"), &[Queued, Relayed]),
        ("451", json_response(451, "Unavailable"), &[Queued, Relayed]),
        ("507", json_response(507, "Insufficient Storage"), &[Queued, Relayed]),
        ("no answer", (0, String::new()), &[Unknown, Relayed]),
        ("half an answer", (0, broken.into()), &[Unknown, Relayed]),
        ("no HTTP", (0, "220 smtp.example.net\r\n".into()), &[Unknown, Relayed]),
    ] {
        let script = move |number, _: &HttpRequest| match &act {
            _ if number > 1 => accepted_response(),
            (0, bytes) if bytes.is_empty() => HttpAction::Close,
            (0, bytes) => HttpAction::RespondRaw(bytes.clone()),
            (status, body) => HttpAction::Respond(*status, body.clone()),
        };
        let server = MockHttpServer::start(script).await;
        let harness = ApiTestRelay::new(&server, "").await;
        let trail = harness.wait_settled(harness.enqueue(1, &["a@example.net"]).await).await;
        assert_eq!(attempt_statuses(&trail), expected, "{what}");
        assert_eq!(server.count(), expected.len(), "{what}");
        if what == "400" {
            let words = trail.recipients[0].diagnostic.to_line();
            assert_eq!(words.as_deref(), Some("400 to parameter is wrong"));
        }
    }
}

#[tokio::test]
async fn connection_lost_before_end_of_message_is_temporary_failure() {
    let script = |number: usize, _: &HttpRequest, whole: bool| match (number, whole) {
        (1, false) => Some(HttpAction::Close),
        (_, false) => None,
        (_, true) => Some(accepted_response()),
    };
    let server = MockHttpServer::start_early(script).await;
    let harness = ApiTestRelay::new(&server, "").await;
    let trail = harness.wait_settled(harness.enqueue(LARGE_MESSAGE, &["a@example.net"]).await).await;
    assert_eq!(attempt_statuses(&trail), [AttemptStatus::Queued, AttemptStatus::Relayed]);
    assert_eq!(trail.events[1].diagnostic.name, "connection");
    assert!(server.requests()[1].message().ends_with(sample_message(LARGE_MESSAGE).as_bytes()));
}

/// A response before the end of the message accepts nothing.
#[tokio::test]
async fn early_response_is_temporary_failure() {
    for status in [502, 503, 200] {
        let script = move |number: usize, _: &HttpRequest, whole: bool| match (number, whole) {
            (1, false) => Some(HttpAction::RespondAndClose(status, "early".into())),
            (_, false) => None,
            (_, true) => Some(accepted_response()),
        };
        let server = MockHttpServer::start_early(script).await;
        let harness = ApiTestRelay::new(&server, "").await;
        let trail = harness.wait_settled(harness.enqueue(LARGE_MESSAGE, &["a@example.net"]).await).await;
        assert_eq!(attempt_statuses(&trail), [AttemptStatus::Queued, AttemptStatus::Relayed], "{status}");
    }
}

/// An event settles a completely sent message after any response; the message is not sent again.
#[tokio::test]
async fn event_settles_unclear_response() {
    for (status, body) in [
        json_response(200, "Queued. Thank you."),
        (504, String::new()),
        json_response(409, "Conflict"),
        (429, "+ Retry-After: 1\nslow down".to_owned()),
        (302, "+ Location: /login\n".to_owned()),
    ] {
        let server = MockHttpServer::start(move |number, request| {
            if !request.line.starts_with("POST") {
                // The relay polls for events at intervals.
                return HttpAction::Respond(200, "{\"items\":[],\"paging\":{}}".into());
            }
            let first = request.values("to") == ["a@example.net"];
            if first && number == 1 { HttpAction::Respond(status, body.clone()) } else { accepted_response() }
        });
        let server = server.await;
        let harness = ApiTestRelay::with_slow_retry(&server).await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        harness.wait_attempted(id).await;
        harness.report_delivered(id, "a@example.net").await;
        let trail = harness.wait_settled(id).await;
        assert_eq!(
            (recipient_states(&trail), trail.attempts, trail.next_attempt),
            (vec![RecipientState::Delivered], 1, None),
            "{status}"
        );
        // Mail that was accepted later goes out, and the first does not.
        harness.wait_settled(harness.enqueue(2, &["b@example.net"]).await).await;
        let sent = server.requests().into_iter().filter(|request| request.line.starts_with("POST"));
        assert_eq!(sent.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn waits_for_rate_limit() {
    let until = Timestamp::from_secs(Clock::System.now().as_secs() + 3);
    let text = format!(
        "Domain mg.example.com is not allowed to send: request limit exceeded, try again after {}",
        until.to_rfc5322().replace("+0000", "UTC")
    );
    for (status, body) in [(429, "+ Retry-After: 3\nslow".to_owned()), json_response(420, &text)] {
        let server = MockHttpServer::start(move |number, _| {
            if number == 1 { HttpAction::Respond(status, body.clone()) } else { accepted_response() }
        });
        let server = server.await;
        let harness = ApiTestRelay::new(&server, "").await;
        let started = Clock::System.now();
        let first = harness.enqueue(1, &["a@example.net"]).await;
        let limited = harness.wait_attempted(first).await;
        let wish = if status == 429 { started.saturating_add(Duration::from_secs(3)) } else { until };
        assert!(limited.next_attempt >= Some(wish), "{status}: {:?}", limited.next_attempt);
        let second = harness.enqueue(2, &["a@example.net"]).await;
        let trails = [harness.wait_settled(first).await, harness.wait_settled(second).await];
        assert!(Clock::System.now() >= wish, "{status}");
        assert_eq!(trails.map(|trail| trail.attempts), [2, 1], "{status}");
        assert_eq!(server.count(), 3, "{status}");
    }
}

#[tokio::test]
async fn account_error_holds_all_mail_and_bounces_none() {
    let magnificent = || (200, "Mailgun Magnificent API".to_owned());
    let sandboxed =
        "Domain mg.example.com is not allowed to send: Sandbox subdomains are for test purposes only.";
    for (status, body) in [
        (401, "Forbidden".to_owned()),
        json_response(403, "Domain mg.example.com is not allowed to send large batches yet"),
        json_response(404, "Domain not found: mg.example.com"),
        json_response(400, sandboxed),
        magnificent(),
        (307, "+ Location: /elsewhere\n".to_owned()),
        (406, "Not Acceptable".to_owned()),
        (410, "Gone".to_owned()),
        (411, "Length Required".to_owned()),
        (415, "Unsupported Media Type".to_owned()),
        (501, "Not Implemented".to_owned()),
        (511, "Network Authentication Required".to_owned()),
    ] {
        let (words, times) = (body.clone(), Arc::new(Mutex::new(Vec::new())));
        let received = times.clone();
        let script = move |number, _: &HttpRequest| {
            received.lock().unwrap().push(Instant::now());
            if number == 1 { HttpAction::Respond(status, body.clone()) } else { accepted_response() }
        };
        let server = MockHttpServer::start(script).await;
        let harness = ApiTestRelay::new(&server, "").await;
        let first = harness.enqueue(1, &["a@example.net"]).await;
        let refused = harness.wait_attempted(first).await;
        assert_eq!(
            (recipient_states(&refused), attempt_statuses(&refused)),
            (vec![RecipientState::Queued], vec![AttemptStatus::Queued]),
            "{words}"
        );
        let second = harness.enqueue(2, &["a@example.net"]).await;
        let trails = [harness.wait_settled(first).await, harness.wait_settled(second).await];
        assert_eq!(
            trails.clone().map(|trail| recipient_states(&trail)),
            [[RecipientState::Relayed], [RecipientState::Relayed]],
            "{words}"
        );
        assert_eq!(trails.map(|trail| trail.attempts), [2, 1], "{words}");
        let times = times.lock().unwrap().clone();
        assert!(
            times.len() == 3 && times[1] - times[0] >= MAX_RETRY_DELAY,
            "{words}: the breaker was not open"
        );
    }
}

#[tokio::test]
async fn refused_connection_is_temporary_failure() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let harness = ApiTestRelay::start_at(&format!("http://{address}"), "").await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    let trail = harness.wait_attempted(id).await;
    assert!(attempt_statuses(&trail).iter().all(|standing| *standing == AttemptStatus::Queued), "{trail:?}");
    assert!(!trail.is_sending && trail.events[1].diagnostic.name == "connection", "{trail:?}");
    let output = trail.events[1].diagnostic.text.clone().unwrap();
    assert!(output.contains("Connection refused") && !output.contains("http"), "{output}");
    let server = MockHttpServer::start_at(address, |_, _| accepted_response()).await;
    let trail = harness.wait_settled(id).await;
    assert_eq!((recipient_states(&trail), server.count()), (vec![RecipientState::Relayed], 1));
    assert!(!attempt_statuses(&trail).contains(&AttemptStatus::Unknown));
}

#[tokio::test]
async fn stale_connection_costs_no_attempt() {
    let server = MockHttpServer::start(|_, _| HttpAction::RespondAndClose(200, ACCEPTED_BODY.into())).await;
    let harness = ApiTestRelay::new(&server, "connections = 1").await;
    for number in 1..=20 {
        let trail = harness.wait_settled(harness.enqueue(number, &["a@example.net"]).await).await;
        assert_eq!(
            (attempt_statuses(&trail), trail.attempts),
            (vec![AttemptStatus::Relayed], 1),
            "message {number}"
        );
    }
    assert_eq!((server.count(), server.connections()), (20, 20));
}

#[tokio::test]
async fn bisects_request_to_find_invalid_address() {
    let server = MockHttpServer::start(|_, request| {
        let bad = request.values("to").iter().any(|to| to.starts_with("bad"));
        let text = "'to' parameter is not a valid address. please check documentation";
        let (status, body) = if bad { json_response(400, text) } else { (200, ACCEPTED_BODY.into()) };
        HttpAction::Respond(status, body)
    });
    let server = server.await;
    let harness = ApiTestRelay::new(&server, "").await;
    let recipients =
        (0..40).map(|number| format!("{}{number}@example.net", ["a", "bad"][usize::from(number == 7)]));
    let recipients: Vec<_> = recipients.collect();
    let trail = harness
        .wait_settled(harness.enqueue(1, &recipients.iter().map(String::as_str).collect::<Vec<_>>()).await)
        .await;
    for (number, state) in recipient_states(&trail).into_iter().enumerate() {
        assert_eq!(
            state,
            if number == 7 { RecipientState::Bounced } else { RecipientState::Relayed },
            "{number}"
        );
    }
    let taken: Vec<_> = server.requests().iter().map(|request| request.values("to")).collect();
    let mut taken: Vec<_> =
        taken.into_iter().filter(|to| !to.iter().any(|to| to.starts_with("bad"))).flatten().collect();
    taken.sort();
    let mut expected: Vec<_> = recipients.into_iter().filter(|to| !to.starts_with("bad")).collect();
    expected.sort();
    assert_eq!((taken, trail.attempts), (expected, 1), "each of the others once");
    assert!(server.count() < 20, "{}", server.count());
}

#[tokio::test]
async fn splits_recipients_over_several_requests() {
    let server = MockHttpServer::start(|number, _| {
        if number == 2 { HttpAction::Respond(500, String::new()) } else { accepted_response() }
    })
    .await;
    let harness = ApiTestRelay::new(&server, "").await;
    let recipients: Vec<_> = (0..2500).map(|number| format!("a{number}@example.net")).collect();
    let id = harness.enqueue(1, &recipients.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let trail = harness.wait_settled(id).await;
    assert_eq!(recipient_states(&trail), vec![RecipientState::Relayed; 2500]);
    let sizes: Vec<_> = server.requests().iter().map(|request| request.values("to").len()).collect();
    assert_eq!(sizes, [1000, 1000, 1000, 500]);
    let taken: Vec<_> = [0, 2, 3].iter().flat_map(|number| server.requests()[*number].values("to")).collect();
    assert_eq!(taken, recipients);
}

#[tokio::test]
async fn fails_oversized_message_without_request() {
    let server = MockHttpServer::start(|_, _| accepted_response()).await;
    let harness = ApiTestRelay::new(&server, "").await;
    let trail = harness.wait_settled(harness.enqueue(OVERSIZED_MESSAGE, &["a@example.net"]).await).await;
    assert_eq!((recipient_states(&trail), server.count()), (vec![RecipientState::Failed], 0));
}

#[tokio::test]
async fn verifies_https_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let pair = tls::load_self_signed(directory.path(), "localhost").unwrap();
    let server =
        MockHttpServer::start_tls(tls::build_acceptor(pair).unwrap(), |_, _| accepted_response()).await;
    let address = format!("https://localhost:{}", server.address.port());
    let ca_file = format!("ca_file = {:?}", directory.path().join("relay.pem").display().to_string());
    let trusting = ApiTestRelay::start_at(&address, &ca_file).await;
    let trail = trusting.wait_settled(trusting.enqueue(1, &["a@example.net"]).await).await;
    assert_eq!(attempt_statuses(&trail), [AttemptStatus::Relayed]);
    let careful = ApiTestRelay::start_at(&address, "").await;
    let trail = careful.wait_attempted(careful.enqueue(1, &["a@example.net"]).await).await;
    assert_eq!(recipient_states(&trail), [RecipientState::Queued]);
    assert!(trail.events[1].diagnostic.text.as_ref().unwrap().contains("certificate"), "{trail:?}");
    assert_eq!(server.count(), 1, "nothing is said to a stranger");
}

/// That a message goes out is on the disk before it is out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_request_leaves_status_unknown() {
    let server =
        MockHttpServer::start(|number, _| if number == 1 { HttpAction::Hang } else { accepted_response() })
            .await;
    let mut process = start_process(&server);
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = client.submit("a@example.com", &["b@example.net"], &sample_message(1)).await.unwrap();
    eventually("the request", || (server.count() == 1).then_some(())).await;
    process.kill();
    process.start().await;
    eventually("the second request", || (server.count() == 2).then_some(())).await;
    let store = process.drain().await;
    let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
    assert_eq!(attempt_statuses(&trail), [AttemptStatus::Unknown, AttemptStatus::Relayed]);
    assert_eq!(server.requests()[1].values("v:mailtrail"), [id]);
}

/// Ten messages of 25 MB at once, through the real program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_stay_within_memory_limit() {
    let server = MockHttpServer::start(|_, _| accepted_response()).await;
    let mut process = start_process(&server);
    process.start().await;
    let text = sample_message(LARGE_MESSAGE);
    let clients = (0..10).map(|_| {
        let (address, text) = (process.address(1), text.clone());
        tokio::spawn(async move {
            let mut client = SmtpClient::connect(address).await.unwrap();
            client.submit("a@example.com", &["b@example.net"], &text).await.unwrap();
        })
    });
    futures_util::future::join_all(clients).await.into_iter().for_each(|sent| sent.unwrap());
    eventually("all messages", || (server.count() >= 10).then_some(())).await;
    // The tag is taken out at the door: this client may not set one.
    let (_, kept) = text.split_once("Message-ID").unwrap();
    assert!(server.requests().iter().all(|request| request.message().ends_with(kept.as_bytes())));
    let peak = process.peak_memory();
    println!("10 messages of {} bytes at once: peak of resident memory {} MiB", text.len(), peak >> 20);
    assert!(peak < 96 << 20, "{} MiB", peak >> 20);
}

#[tokio::test]
async fn correlates_events_of_sandbox_over_http() {
    let harness = ApiTestRelay::with_sandbox().await;
    let sandbox = harness.sandbox.as_ref().unwrap();
    let id = harness.enqueue(1, &["a@example.net", "bounce@example.net", "open@example.net"]).await;
    let expected = [RecipientState::Delivered, RecipientState::Bounced, RecipientState::Delivered];
    let trail = eventually("the events", || {
        harness.find_trail(id).filter(|trail| recipient_states(trail) == expected)
    })
    .await;
    assert_eq!(attempt_statuses(&trail), [AttemptStatus::Relayed]);
    let rungs: Vec<_> = trail.events.iter().filter_map(|fact| fact.correlated_by).collect();
    assert!(rungs.len() >= 6 && rungs.iter().all(|rung| *rung == CorrelatedBy::TrackingId), "{rungs:?}");
    let stamp = format!("X-Mailgun-Variables: {{\"mailtrail\":\"{id}\"}}\r\n");
    let kept = sandbox.captured().pop().unwrap();
    assert!(kept.raw == [stamp.as_bytes(), sample_message(1).as_bytes()].concat());
    assert_eq!(kept.recipients.len(), 3);
    let words = trail.recipients[0].diagnostic.text.as_deref().unwrap();
    assert_eq!(words, format!("Queued. Thank you. <{}>", kept.id.as_str()));
}

#[tokio::test]
async fn applies_rcpt_scenarios_to_whole_request() {
    use AttemptStatus::{Bounced, Queued, Relayed, Unknown};
    let harness = ApiTestRelay::with_sandbox().await;
    for (number, (recipient, state, expected)) in [
        ("reject@example.net", RecipientState::Bounced, &[Bounced][..]),
        ("defer-smtp@example.net", RecipientState::Delivered, &[Queued, Queued, Relayed]),
        ("rate-limit@example.net", RecipientState::Delivered, &[Queued, Relayed]),
        // The event settles it, and it is not sent again.
        ("drop-at-dot@example.net", RecipientState::Delivered, &[Unknown]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = harness.enqueue(number as u64 + 1, &[recipient]).await;
        let done = || {
            harness.find_trail(id).filter(|trail| {
                recipient_states(trail) == [state] && trail.next_attempt.is_none() && !trail.is_sending
            })
        };
        let trail = eventually(recipient, done).await;
        assert_eq!(attempt_statuses(&trail), expected, "{recipient}");
    }
    let taken = harness.sandbox.as_ref().unwrap().counters().messages;
    let id = harness.enqueue(LARGE_MESSAGE, &["drop-before-dot@example.net"]).await;
    assert_eq!(attempt_statuses(&harness.wait_settled(id).await), [Queued, Relayed]);
    assert_eq!((taken, harness.sandbox.as_ref().unwrap().counters().messages), (3, 4));
}

#[tokio::test]
async fn sandbox_rejects_with_mailgun_error_texts() {
    let harness = ApiTestRelay::with_sandbox().await;
    let address = format!("http://{}", harness.sandbox.as_ref().unwrap().api_address());
    let tls = tls::build_client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let ask = async |path: &str, key: &str, form: &str| {
        let request = client.post(format!("{address}{path}")).basic_auth("api", Some(key));
        let request = request.header("content-type", "multipart/form-data; boundary=b").body(form.to_owned());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let part =
        |head: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
    let (to, mime) =
        (part("name=\"to\"", "A <a@example.net>, b@example.net"), "name=\"message\"; filename=\"m\"");
    let many = (0..1001).map(|number| format!("a{number}@example.net")).collect::<Vec<_>>().join(",");
    let good = "/v3/mg.example.com/messages.mime";
    for (path, key, form, status, text) in [
        ("/v3/messages.mime", "key-1", String::new(), 200, "Mailgun Magnificent API"),
        (good, "key-2", String::new(), 401, "Forbidden"),
        (
            "/v3/other.example.com/messages.mime",
            "key-1",
            String::new(),
            404,
            "Domain not found: other.example.com",
        ),
        (good, "key-1", part(mime, "A: b\r\n\r\n"), 400, "to parameter is missing"),
        (
            good,
            "key-1",
            to.clone() + &part("name=\"message\"", "A: b"),
            400,
            "'message' parameter is not a file",
        ),
        (good, "key-1", part("name=\"to\"", "nobody") + &part(mime, "A: b"), 400, "is not a valid address"),
        (
            good,
            "key-1",
            part("name=\"to\"", &many) + &part(mime, "A: b"),
            400,
            "Too many recipients, max is 1000",
        ),
        (good, "key-1", part("name=\"v:a\"", &"x".repeat(20_000)), 400, "are limited to 16 kB total"),
        (good, "key-1", "nothing".to_owned(), 400, "malformed multipart/form-data request"),
        (good, "key-1", to.clone() + &part(mime, "A: b\r\n\r\n"), 200, "Queued. Thank you."),
    ] {
        let form = if form == "nothing" { form } else { form + "--b--\r\n" };
        let answer = ask(path, key, &form).await;
        assert!(answer.0 == status && answer.1.contains(text), "{text}: {answer:?}");
    }
    let taken = harness.sandbox.as_ref().unwrap().captured();
    assert_eq!((taken.len(), taken[0].recipients.len()), (1, 2));
}

/// Relay with an API upstream, and the directory of its store.
struct ApiTestRelay {
    daemon: Daemon,
    sandbox: Option<Sandbox>,
    _directory: TempDir,
}

impl ApiTestRelay {
    async fn new(server: &MockHttpServer, lines: &str) -> Self {
        Self::start_at(&format!("http://{}", server.address), lines).await
    }

    async fn start_at(base_url: &str, lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
             [[user]]\nname = \"odoo\"\npassword = \"lab-secret\"\n\
             [http]\naddress = \"127.0.0.1:0\"\n{}",
            directory.path().join("data").display().to_string(),
            upstream_config(base_url, lines)
        );
        let config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        Self { daemon, sandbox: None, _directory: directory }
    }

    /// Starts a relay that retries after two seconds at the earliest.
    async fn with_slow_retry(server: &MockHttpServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let upstream = upstream_config(&format!("http://{}", server.address), "");
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n[[listener]]\n\
             address = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n{}",
            directory.path().join("data").display().to_string(),
            upstream.replace("first = \"100ms\"\nmax = \"1s\"", "first = \"2s\"\nmax = \"2s\"")
        );
        let config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        Self { daemon, sandbox: None, _directory: directory }
    }

    /// The provider reports that a send arrived, by our id.
    async fn report_delivered(&self, id: TrackingId, recipient: &str) {
        let received_at = Clock::System.now();
        let event = ProviderEvent {
            kind: EventKind::Delivered,
            at: received_at,
            dedup_key: id.to_string(),
            recipient: Some(recipient.to_owned()),
            tracking_id: Some(id),
            message_id: None,
            automated: false,
            test_mode: false,
            diagnostic: Diagnostic::default(),
        };
        let notice = ReceivedEvent {
            upstream: "up".into(),
            received_at,
            source: EventSource::Webhook,
            token: None,
            event,
        };
        self.daemon.store().put_event(notice, Bytes::new()).await.unwrap();
    }

    async fn with_sandbox() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
            profile: mailtrail_sandbox::ProviderProfile::Mailgun,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key-1"),
            domain: "mg.example.com".into(),
            username: "postmaster@mg.example.com".into(),
            password: Secret::new("pw"),
            signing_key: Secret::new("signing"),
            webhook_url: None,
            time_scale: 0.0,
            faults: mailtrail_sandbox::FaultInjection::default(),
            clock: Clock::System,
            tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
        });
        let sandbox = sandbox.await.unwrap();
        let base_url = format!("http://{}", sandbox.api_address());
        let harness = Self::start_at(&base_url, "webhook_signing_key = \"signing\"").await;
        sandbox.set_webhook_url(format!("http://{}/webhooks/up", harness.daemon.http_address().unwrap()));
        Self { sandbox: Some(sandbox), ..harness }
    }

    /// Puts a message into the queue.
    async fn enqueue(&self, number: u64, recipients: &[&str]) -> TrackingId {
        let id = TrackingId::new(Clock::System.now(), u128::from(number));
        let message = sample_message(number);
        let send = Message {
            sender: "bounces@example.com".parse().ok(),
            subject: number.to_string(),
            size: message.len() as u64,
            ..Message::new(id, "test")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        self.daemon
            .store()
            .put_message(AcceptedMessage { message: send, recipients }, Bytes::from(message))
            .await
            .unwrap();
        eventually("its trail", || self.find_trail(id)).await;
        id
    }

    fn find_trail(&self, id: TrackingId) -> Option<Trail> {
        self.daemon.store().load_trail(id).unwrap()
    }

    /// The trail once an attempt was made.
    async fn wait_attempted(&self, id: TrackingId) -> Trail {
        eventually("an attempt", || self.find_trail(id).filter(|trail| trail.attempts > 0)).await
    }

    /// Waits until no recipient is pending and returns the trail.
    async fn wait_settled(&self, id: TrackingId) -> Trail {
        let done = |trail: &Trail| !trail.recipients.iter().any(Recipient::is_pending) && !trail.is_sending;
        eventually("the end of a send", || self.find_trail(id).filter(done)).await
    }
}

/// Starts a relay in a process of its own with this server as upstream.
fn start_process(server: &MockHttpServer) -> RelayProcess {
    RelayProcess::with_configuration(|data_dir, [_, open, _]| {
        let upstream = upstream_config(&format!("http://{}", server.address), "");
        format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {data_dir:?}\n[[listener]]\n\
             address = \"127.0.0.1:{open}\"\ntls = \"none\"\nauth = \"none\"\n{upstream}"
        )
    })
}

fn upstream_config(base_url: &str, lines: &str) -> String {
    format!(
        "[[upstream]]\nname = \"up\"\nprovider = \"mailgun\"\ntransport = \"api\"\ndomain = \"mg.example.com\"\n\
         api_key = \"key-1\"\napi_base_url = {base_url:?}\n{lines}\n[upstream.breaker]\npause = \"100ms\"\n\
         longest_pause = \"1s\"\n[upstream.retry]\nfirst = \"100ms\"\nmax = \"1s\"\n"
    )
}

/// With requests to Mailgun, and what a form could take for its own.
fn sample_message(number: u64) -> String {
    let head = format!(
        "X-Mailgun-Variables: {{\"odoo_db\": \"prod\"}}\r\nX-Mailgun-Tag: odoo\r\nX-Mailgun-Track: no\r\n\
         Message-ID: <{number}@mg.example.com>\r\nTo: a@example.net\r\nSubject: {number}\r\n\r\n"
    );
    if number == LONG_HEADER_MESSAGE {
        let (to, rest) = head.split_at(head.find("Subject").unwrap());
        let field = format!("X-Long: {}\r\n", "x".repeat(980)).repeat(100);
        return format!(
            "{to}{field}X-Mailgun-Tag: late\r\n{rest}{}",
            format!("{}\r\n", "x".repeat(998)).repeat(2000)
        );
    }
    let lines = match number {
        LARGE_MESSAGE => 25_000,
        OVERSIZED_MESSAGE => 53_000,
        _ => return head + "--b\r\n\r\n.\r\n..\r\n--b--\r\n",
    };
    head + &format!("{}\r\n", "x".repeat(998)).repeat(lines)
}

fn accepted_response() -> HttpAction {
    HttpAction::Respond(200, ACCEPTED_BODY.into())
}

fn json_response(status: u16, text: &str) -> (u16, String) {
    (status, format!("{{\"message\":\"{text}\"}}"))
}

fn recipient_states(trail: &Trail) -> Vec<RecipientState> {
    trail.recipients.iter().map(Recipient::state).collect()
}

/// Returns the results of the attempts, oldest first.
fn attempt_statuses(trail: &Trail) -> Vec<AttemptStatus> {
    let standings = trail.events.iter().filter_map(|fact| match fact.kind {
        TrailEventKind::Attempted(standing) => Some(standing),
        _ => None,
    });
    standings.collect()
}

const ACCEPTED_BODY: &str = "{\"id\":\"<1.2@mg.example.com>\",\"message\":\"Queued. Thank you.\"}";
/// A message of 25 MB.
const LARGE_MESSAGE: u64 = 1_000_000;
/// Number of a large message whose header spans several chunks.
const LONG_HEADER_MESSAGE: u64 = 3_000_000;
/// More than 52,428,800 bytes.
const OVERSIZED_MESSAGE: u64 = 2_000_000;
/// As [`upstream`] has it.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
