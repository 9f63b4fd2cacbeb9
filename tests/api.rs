//! The way out over HTTP: against a server that does as it is told, and against the sandbox.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/http.rs"]
mod http;
mod support;

use bytes::Bytes;
use http::{Act, Request, Server};
use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, Timestamp, TrackingId};
use mailtrail_net::tls;
use mailtrail_sandbox;
use mailtrail_sandbox::Sandbox;
use mailtrail_trail::{
    Accepted, Event, Kind, Notice, Recipient, Rung, Send, Standing, State, Trail, Via, What, Words,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::client::Client;
use support::eventually;
use support::process::Process;
use tempfile::TempDir;

#[tokio::test]
async fn a_message_goes_out_as_it_is_kept() {
    let server = Server::start(|_, _| taken()).await;
    let scene = Scene::new(&server, "").await;
    for number in [1, LARGE] {
        let id = scene.send(number, &["a@example.net", "\"b,c\"@example.net", "bcc@example.org"]).await;
        let trail = scene.settled(id).await;
        assert_eq!(states(&trail), [State::Relayed; 3]);
        let words = &trail.recipients[2].words;
        assert_eq!(words.in_one_line().as_deref(), Some("200 Queued. Thank you. <1.2@mg.example.com>"));
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
        assert!(request.message() == [stamp.as_bytes(), message(number).as_bytes()].concat(), "{number}");
    }
    assert_eq!(server.connections(), 1, "a connection carries many messages");
}

/// As over SMTP: what cannot harm, of a client that logged in.
#[tokio::test]
async fn requests_of_users_become_parameters() {
    let server = Server::start(|_, _| taken()).await;
    let scene = Scene::new(&server, "").await;
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
    let mut client = Client::connect(scene.daemon.smtp_addresses()[1]).await.unwrap();
    // \0odoo\0lab-secret
    assert_eq!(client.ask("AUTH PLAIN AG9kb28AbGFiLXNlY3JldA==").await.unwrap().0, 235);
    let message = format!("{header}Subject: a\r\n\r\nhi\r\n");
    let id = client.submit("a@example.com", &["b@example.net"], &message).await.unwrap();
    scene.settled(id.parse().unwrap()).await;
    let request = server.requests().pop().unwrap();
    for (field, parameter, value) in fields {
        let expected: Vec<_> = Some(value.to_owned()).filter(|value| !value.is_empty()).into_iter().collect();
        assert_eq!(request.values(parameter), expected, "{field}");
    }
    assert_eq!(request.values("v:mailtrail"), [id]);
}

#[tokio::test]
async fn what_a_long_header_asks_for_goes_along() {
    let server = Server::start(|_, _| taken()).await;
    let scene = Scene::new(&server, "").await;
    scene.settled(scene.send(LONG_HEADER, &["a@example.net"]).await).await;
    assert_eq!(server.requests().pop().unwrap().values("o:tag"), ["odoo", "late"]);
}

#[tokio::test]
async fn answers_and_their_absence_decide() {
    use Standing::{Bounced, Queued, Relayed, Unknown};
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"id\"";
    for (what, act, expected) in [
        ("400", said(400, "to parameter is wrong"), &[Bounced][..]),
        ("413", said(413, "request size exceeds 52.4MiB limit"), &[Bounced]),
        // Sent whole, and no clear answer.
        ("500", said(500, "Internal Server Error"), &[Unknown, Relayed]),
        ("502", (502, "Bad Gateway".into()), &[Unknown, Relayed]),
        ("503 in HTML", (503, "<html>".into()), &[Unknown, Relayed]),
        ("504", said(504, "Gateway Timeout"), &[Unknown, Relayed]),
        ("524", (524, String::new()), &[Unknown, Relayed]),
        ("200 without an id", said(200, "Queued. Thank you."), &[Unknown, Relayed]),
        ("200 with an empty id", (200, "{\"id\":\"\"}".into()), &[Unknown, Relayed]),
        ("202 without a word", (202, String::new()), &[Unknown, Relayed]),
        ("303", (303, "+ Location: /done\n".into()), &[Unknown, Relayed]),
        // A clear no, and not for good.
        ("408", (408, String::new()), &[Queued, Relayed]),
        ("409", said(409, "Conflict"), &[Queued, Relayed]),
        ("421", said(421, "Misdirected Request"), &[Queued, Relayed]),
        ("422", said(422, "Unprocessable Content"), &[Queued, Relayed]),
        ("423", said(423, "Locked"), &[Queued, Relayed]),
        ("451", said(451, "Unavailable"), &[Queued, Relayed]),
        ("507", said(507, "Insufficient Storage"), &[Queued, Relayed]),
        ("no answer", (0, String::new()), &[Unknown, Relayed]),
        ("half an answer", (0, broken.into()), &[Unknown, Relayed]),
        ("no HTTP", (0, "220 smtp.example.net\r\n".into()), &[Unknown, Relayed]),
    ] {
        let script = move |number, _: &Request| match &act {
            _ if number > 1 => taken(),
            (0, bytes) if bytes.is_empty() => Act::Close,
            (0, bytes) => Act::Bytes(bytes.clone()),
            (status, body) => Act::Answer(*status, body.clone()),
        };
        let server = Server::start(script).await;
        let scene = Scene::new(&server, "").await;
        let trail = scene.settled(scene.send(1, &["a@example.net"]).await).await;
        assert_eq!(attempts(&trail), expected, "{what}");
        assert_eq!(server.count(), expected.len(), "{what}");
        if what == "400" {
            let words = trail.recipients[0].words.in_one_line();
            assert_eq!(words.as_deref(), Some("400 to parameter is wrong"));
        }
    }
}

#[tokio::test]
async fn a_connection_lost_before_the_end_of_the_message_is_a_temporary_failure() {
    let script = |number: usize, _: &Request, whole: bool| match (number, whole) {
        (1, false) => Some(Act::Close),
        (_, false) => None,
        (_, true) => Some(taken()),
    };
    let server = Server::hasty(script).await;
    let scene = Scene::new(&server, "").await;
    let trail = scene.settled(scene.send(LARGE, &["a@example.net"]).await).await;
    assert_eq!(attempts(&trail), [Standing::Queued, Standing::Relayed]);
    assert_eq!(trail.facts[1].words.name, "connection");
    assert!(server.requests()[1].message().ends_with(message(LARGE).as_bytes()));
}

/// Whoever answers before the end of the message did not take it.
#[tokio::test]
async fn an_answer_before_the_end_of_the_message_leaves_nothing_unknown() {
    for status in [502, 503, 200] {
        let script = move |number: usize, _: &Request, whole: bool| match (number, whole) {
            (1, false) => Some(Act::Leave(status, "early".into())),
            (_, false) => None,
            (_, true) => Some(taken()),
        };
        let server = Server::hasty(script).await;
        let scene = Scene::new(&server, "").await;
        let trail = scene.settled(scene.send(LARGE, &["a@example.net"]).await).await;
        assert_eq!(attempts(&trail), [Standing::Queued, Standing::Relayed], "{status}");
    }
}

/// An event settles what was sent whole, whatever the answer was; it is not sent again.
#[tokio::test]
async fn an_event_settles_what_was_answered_without_a_clear_no() {
    for (status, body) in [
        said(200, "Queued. Thank you."),
        (504, String::new()),
        said(409, "Conflict"),
        (429, "+ Retry-After: 1\nslow down".to_owned()),
        (302, "+ Location: /login\n".to_owned()),
    ] {
        let server = Server::start(move |number, request| {
            if !request.line.starts_with("POST") {
                // It is asked for events now and then.
                return Act::Answer(200, "{\"items\":[],\"paging\":{}}".into());
            }
            let first = request.values("to") == ["a@example.net"];
            if first && number == 1 { Act::Answer(status, body.clone()) } else { taken() }
        });
        let server = server.await;
        let scene = Scene::pausing(&server).await;
        let id = scene.send(1, &["a@example.net"]).await;
        scene.tried(id).await;
        scene.report(id, "a@example.net").await;
        let trail = scene.settled(id).await;
        assert_eq!(
            (states(&trail), trail.attempts, trail.due),
            (vec![State::Delivered], 1, None),
            "{status}"
        );
        // Mail that was accepted later goes out, and the first does not.
        scene.settled(scene.send(2, &["b@example.net"]).await).await;
        let sent = server.requests().into_iter().filter(|request| request.line.starts_with("POST"));
        assert_eq!(sent.count(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_limit_is_waited_for() {
    let until = Timestamp::from_seconds(Clock::System.now().seconds() + 3);
    let text = format!(
        "Domain mg.example.com is not allowed to send: request limit exceeded, try again after {}",
        until.rfc5322().replace("+0000", "UTC")
    );
    for (status, body) in [(429, "+ Retry-After: 3\nslow".to_owned()), said(420, &text)] {
        let server = Server::start(
            move |number, _| if number == 1 { Act::Answer(status, body.clone()) } else { taken() },
        );
        let server = server.await;
        let scene = Scene::new(&server, "").await;
        let started = Clock::System.now();
        let first = scene.send(1, &["a@example.net"]).await;
        let limited = scene.tried(first).await;
        let wish = if status == 429 { started.after(Duration::from_secs(3)) } else { until };
        assert!(limited.due >= Some(wish), "{status}: {:?}", limited.due);
        let second = scene.send(2, &["a@example.net"]).await;
        let trails = [scene.settled(first).await, scene.settled(second).await];
        assert!(Clock::System.now() >= wish, "{status}");
        assert_eq!(trails.map(|trail| trail.attempts), [2, 1], "{status}");
        assert_eq!(server.count(), 3, "{status}");
    }
}

#[tokio::test]
async fn what_is_about_the_account_holds_all_mail_and_bounces_none() {
    let magnificent = || (200, "Mailgun Magnificent API".to_owned());
    let sandboxed =
        "Domain mg.example.com is not allowed to send: Sandbox subdomains are for test purposes only.";
    for (status, body) in [
        (401, "Forbidden".to_owned()),
        said(403, "Domain mg.example.com is not allowed to send large batches yet"),
        said(404, "Domain not found: mg.example.com"),
        said(400, sandboxed),
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
        let heard = times.clone();
        let script = move |number, _: &Request| {
            heard.lock().unwrap().push(Instant::now());
            if number == 1 { Act::Answer(status, body.clone()) } else { taken() }
        };
        let server = Server::start(script).await;
        let scene = Scene::new(&server, "").await;
        let first = scene.send(1, &["a@example.net"]).await;
        let refused = scene.tried(first).await;
        assert_eq!(
            (states(&refused), attempts(&refused)),
            (vec![State::Queued], vec![Standing::Queued]),
            "{words}"
        );
        let second = scene.send(2, &["a@example.net"]).await;
        let trails = [scene.settled(first).await, scene.settled(second).await];
        assert_eq!(
            trails.clone().map(|trail| states(&trail)),
            [[State::Relayed], [State::Relayed]],
            "{words}"
        );
        assert_eq!(trails.map(|trail| trail.attempts), [2, 1], "{words}");
        let times = times.lock().unwrap().clone();
        assert!(
            times.len() == 3 && times[1] - times[0] >= LONGEST_PAUSE,
            "{words}: the breaker was not open"
        );
    }
}

#[tokio::test]
async fn nobody_there_is_a_temporary_failure_and_leaves_nothing_unknown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let scene = Scene::at(&format!("http://{address}"), "").await;
    let id = scene.send(1, &["a@example.net"]).await;
    let trail = scene.tried(id).await;
    assert!(attempts(&trail).iter().all(|standing| *standing == Standing::Queued), "{trail:?}");
    assert!(!trail.sending && trail.facts[1].words.name == "connection", "{trail:?}");
    let said = trail.facts[1].words.text.clone().unwrap();
    assert!(said.contains("Connection refused") && !said.contains("http"), "{said}");
    let server = Server::at(address, |_, _| taken()).await;
    let trail = scene.settled(id).await;
    assert_eq!((states(&trail), server.count()), (vec![State::Relayed], 1));
    assert!(!attempts(&trail).contains(&Standing::Unknown));
}

#[tokio::test]
async fn a_connection_found_dead_costs_no_attempt() {
    let server = Server::start(|_, _| Act::Leave(200, TAKEN.into())).await;
    let scene = Scene::new(&server, "connections = 1").await;
    for number in 1..=20 {
        let trail = scene.settled(scene.send(number, &["a@example.net"]).await).await;
        assert_eq!((attempts(&trail), trail.attempts), (vec![Standing::Relayed], 1), "message {number}");
    }
    assert_eq!((server.count(), server.connections()), (20, 20));
}

#[tokio::test]
async fn an_address_at_fault_is_found_among_the_others() {
    let server = Server::start(|_, request| {
        let bad = request.values("to").iter().any(|to| to.starts_with("bad"));
        let text = "'to' parameter is not a valid address. please check documentation";
        let (status, body) = if bad { said(400, text) } else { (200, TAKEN.into()) };
        Act::Answer(status, body)
    });
    let server = server.await;
    let scene = Scene::new(&server, "").await;
    let recipients =
        (0..40).map(|number| format!("{}{number}@example.net", ["a", "bad"][usize::from(number == 7)]));
    let recipients: Vec<_> = recipients.collect();
    let trail =
        scene.settled(scene.send(1, &recipients.iter().map(String::as_str).collect::<Vec<_>>()).await).await;
    for (number, state) in states(&trail).into_iter().enumerate() {
        assert_eq!(state, if number == 7 { State::Bounced } else { State::Relayed }, "{number}");
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
async fn more_recipients_than_a_request_takes_go_in_several() {
    let server =
        Server::start(|number, _| if number == 2 { Act::Answer(500, String::new()) } else { taken() }).await;
    let scene = Scene::new(&server, "").await;
    let recipients: Vec<_> = (0..2500).map(|number| format!("a{number}@example.net")).collect();
    let id = scene.send(1, &recipients.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let trail = scene.settled(id).await;
    assert_eq!(states(&trail), vec![State::Relayed; 2500]);
    let sizes: Vec<_> = server.requests().iter().map(|request| request.values("to").len()).collect();
    assert_eq!(sizes, [1000, 1000, 1000, 500]);
    let taken: Vec<_> = [0, 2, 3].iter().flat_map(|number| server.requests()[*number].values("to")).collect();
    assert_eq!(taken, recipients);
}

#[tokio::test]
async fn a_message_beyond_what_mailgun_takes_is_not_tried() {
    let server = Server::start(|_, _| taken()).await;
    let scene = Scene::new(&server, "").await;
    let trail = scene.settled(scene.send(TOO_LARGE, &["a@example.net"]).await).await;
    assert_eq!((states(&trail), server.count()), (vec![State::Failed], 0));
}

#[tokio::test]
async fn over_https_the_certificate_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let pair = tls::self_signed(directory.path(), "localhost").unwrap();
    let server = Server::secured(tls::acceptor(pair).unwrap(), |_, _| taken()).await;
    let address = format!("https://localhost:{}", server.address.port());
    let ca_file = format!("ca_file = {:?}", directory.path().join("relay.pem").display().to_string());
    let trusting = Scene::at(&address, &ca_file).await;
    let trail = trusting.settled(trusting.send(1, &["a@example.net"]).await).await;
    assert_eq!(attempts(&trail), [Standing::Relayed]);
    let careful = Scene::at(&address, "").await;
    let trail = careful.tried(careful.send(1, &["a@example.net"]).await).await;
    assert_eq!(states(&trail), [State::Queued]);
    assert!(trail.facts[1].words.text.as_ref().unwrap().contains("certificate"), "{trail:?}");
    assert_eq!(server.count(), 1, "nothing is said to a stranger");
}

/// That a message goes out is on the disk before it is out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_killed_while_it_waits_for_an_answer_knows_that_it_does_not_know() {
    let server = Server::start(|number, _| if number == 1 { Act::Hold } else { taken() }).await;
    let mut process = process(&server);
    process.start().await;
    let mut client = Client::connect(process.address(1)).await.unwrap();
    let id = client.submit("a@example.com", &["b@example.net"], &message(1)).await.unwrap();
    eventually("the request", || (server.count() == 1).then_some(())).await;
    process.kill();
    process.start().await;
    eventually("the second request", || (server.count() == 2).then_some(())).await;
    let store = process.settle().await;
    let trail = store.trail(id.parse().unwrap()).unwrap().unwrap();
    assert_eq!(attempts(&trail), [Standing::Unknown, Standing::Relayed]);
    assert_eq!(server.requests()[1].values("v:mailtrail"), [id]);
}

/// Ten messages of 25 MB at once, through the real program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_stay_within_the_stated_memory() {
    let server = Server::start(|_, _| taken()).await;
    let mut process = process(&server);
    process.start().await;
    let text = message(LARGE);
    let clients = (0..10).map(|_| {
        let (address, text) = (process.address(1), text.clone());
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
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
async fn the_sandbox_takes_mail_over_http_and_its_events_join() {
    let scene = Scene::with_sandbox().await;
    let sandbox = scene.sandbox.as_ref().unwrap();
    let id = scene.send(1, &["a@example.net", "bounce@example.net", "open@example.net"]).await;
    let expected = [State::Delivered, State::Bounced, State::Delivered];
    let trail = eventually("the events", || scene.find(id).filter(|trail| states(trail) == expected)).await;
    assert_eq!(attempts(&trail), [Standing::Relayed]);
    let rungs: Vec<_> = trail.facts.iter().filter_map(|fact| fact.rung).collect();
    assert!(rungs.len() >= 6 && rungs.iter().all(|rung| *rung == Rung::Tracking), "{rungs:?}");
    let stamp = format!("X-Mailgun-Variables: {{\"mailtrail\":\"{id}\"}}\r\n");
    let kept = sandbox.taken().pop().unwrap();
    assert!(kept.raw == [stamp.as_bytes(), message(1).as_bytes()].concat());
    assert_eq!(kept.recipients.len(), 3);
    let words = trail.recipients[0].words.text.as_deref().unwrap();
    assert_eq!(words, format!("Queued. Thank you. <{}>", kept.id.as_str()));
}

#[tokio::test]
async fn fates_before_the_message_are_the_request_s() {
    use Standing::{Bounced, Queued, Relayed, Unknown};
    let scene = Scene::with_sandbox().await;
    for (number, (recipient, state, expected)) in [
        ("reject@example.net", State::Bounced, &[Bounced][..]),
        ("defer-smtp@example.net", State::Delivered, &[Queued, Queued, Relayed]),
        ("rate-limit@example.net", State::Delivered, &[Queued, Relayed]),
        // The event settles it, and it is not sent again.
        ("drop-at-dot@example.net", State::Delivered, &[Unknown]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = scene.send(number as u64 + 1, &[recipient]).await;
        let done = || {
            scene.find(id).filter(|trail| states(trail) == [state] && trail.due.is_none() && !trail.sending)
        };
        let trail = eventually(recipient, done).await;
        assert_eq!(attempts(&trail), expected, "{recipient}");
    }
    let taken = scene.sandbox.as_ref().unwrap().tally().messages;
    let id = scene.send(LARGE, &["drop-before-dot@example.net"]).await;
    assert_eq!(attempts(&scene.settled(id).await), [Queued, Relayed]);
    assert_eq!((taken, scene.sandbox.as_ref().unwrap().tally().messages), (3, 4));
}

#[tokio::test]
async fn the_sandbox_refuses_in_mailgun_s_words() {
    let scene = Scene::with_sandbox().await;
    let address = format!("http://{}", scene.sandbox.as_ref().unwrap().api_address());
    let tls = tls::client_config(None).unwrap();
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
    let taken = scene.sandbox.as_ref().unwrap().taken();
    assert_eq!((taken.len(), taken[0].recipients.len()), (1, 2));
}

/// A relay whose upstream is an API, and the directory of its store.
struct Scene {
    daemon: Daemon,
    sandbox: Option<Sandbox>,
    _directory: TempDir,
}

impl Scene {
    async fn new(server: &Server, lines: &str) -> Self {
        Self::at(&format!("http://{}", server.address), lines).await
    }

    async fn at(base_url: &str, lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
             [[user]]\nname = \"odoo\"\npassword = \"lab-secret\"\n\
             [http]\naddress = \"127.0.0.1:0\"\n{}",
            directory.path().join("data").display().to_string(),
            upstream(base_url, lines)
        );
        let config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        Self { daemon, sandbox: None, _directory: directory }
    }

    /// One that tries again after two seconds at the earliest.
    async fn pausing(server: &Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let upstream = upstream(&format!("http://{}", server.address), "");
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
    async fn report(&self, id: TrackingId, recipient: &str) {
        let at = Clock::System.now();
        let event = Event {
            kind: Kind::Delivered,
            at,
            identity: id.to_string(),
            recipient: Some(recipient.to_owned()),
            tracking: Some(id),
            message_id: None,
            by_machine: false,
            test_mode: false,
            words: Words::default(),
        };
        let notice = Notice { upstream: "up".into(), at, via: Via::Webhook, token: None, event };
        self.daemon.store().report(notice, Bytes::new()).await.unwrap();
    }

    async fn with_sandbox() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::Settings {
            face: mailtrail_sandbox::Face::Mailgun,
            smtp: SocketAddr::from(([127, 0, 0, 1], 0)),
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key-1"),
            domain: "mg.example.com".into(),
            username: "postmaster@mg.example.com".into(),
            password: Secret::new("pw"),
            signing_key: Secret::new("signing"),
            webhook: None,
            pace: 0.0,
            weather: mailtrail_sandbox::Weather::default(),
            clock: Clock::System,
            tls: tls::self_signed(directory.path(), "localhost").unwrap(),
        });
        let sandbox = sandbox.await.unwrap();
        let base_url = format!("http://{}", sandbox.api_address());
        let scene = Self::at(&base_url, "webhook_signing_key = \"signing\"").await;
        sandbox.set_webhook(format!("http://{}/webhooks/up", scene.daemon.http_address().unwrap()));
        Self { sandbox: Some(sandbox), ..scene }
    }

    /// Puts a message into the queue.
    async fn send(&self, number: u64, recipients: &[&str]) -> TrackingId {
        let id = TrackingId::new(Clock::System.now(), u128::from(number));
        let message = message(number);
        let send = Send {
            sender: "bounces@example.com".parse().ok(),
            subject: number.to_string(),
            size: message.len() as u64,
            ..Send::new(id, "test")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        self.daemon.store().accept(Accepted { send, recipients }, Bytes::from(message)).await.unwrap();
        eventually("its trail", || self.find(id)).await;
        id
    }

    fn find(&self, id: TrackingId) -> Option<Trail> {
        self.daemon.store().trail(id).unwrap()
    }

    /// The trail once an attempt was made.
    async fn tried(&self, id: TrackingId) -> Trail {
        eventually("an attempt", || self.find(id).filter(|trail| trail.attempts > 0)).await
    }

    /// The trail when nobody waits any more.
    async fn settled(&self, id: TrackingId) -> Trail {
        let done = |trail: &Trail| !trail.recipients.iter().any(Recipient::waits) && !trail.sending;
        eventually("the end of a send", || self.find(id).filter(done)).await
    }
}

/// A relay in a process of its own whose upstream is this server.
fn process(server: &Server) -> Process {
    Process::configured(|data_dir, [_, open, _]| {
        let upstream = upstream(&format!("http://{}", server.address), "");
        format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {data_dir:?}\n[[listener]]\n\
             address = \"127.0.0.1:{open}\"\ntls = \"none\"\nauth = \"none\"\n{upstream}"
        )
    })
}

fn upstream(base_url: &str, lines: &str) -> String {
    format!(
        "[[upstream]]\nname = \"up\"\nprovider = \"mailgun\"\ntransport = \"api\"\ndomain = \"mg.example.com\"\n\
         api_key = \"key-1\"\napi_base_url = {base_url:?}\n{lines}\n[upstream.breaker]\npause = \"100ms\"\n\
         longest_pause = \"1s\"\n[upstream.retry]\nfirst = \"100ms\"\nmax = \"1s\"\n"
    )
}

/// With requests to Mailgun, and what a form could take for its own.
fn message(number: u64) -> String {
    let head = format!(
        "X-Mailgun-Variables: {{\"odoo_db\": \"prod\"}}\r\nX-Mailgun-Tag: odoo\r\nX-Mailgun-Track: no\r\n\
         Message-ID: <{number}@mg.example.com>\r\nTo: a@example.net\r\nSubject: {number}\r\n\r\n"
    );
    if number == LONG_HEADER {
        let (to, rest) = head.split_at(head.find("Subject").unwrap());
        let field = format!("X-Long: {}\r\n", "x".repeat(980)).repeat(100);
        return format!(
            "{to}{field}X-Mailgun-Tag: late\r\n{rest}{}",
            format!("{}\r\n", "x".repeat(998)).repeat(2000)
        );
    }
    let lines = match number {
        LARGE => 25_000,
        TOO_LARGE => 53_000,
        _ => return head + "--b\r\n\r\n.\r\n..\r\n--b--\r\n",
    };
    head + &format!("{}\r\n", "x".repeat(998)).repeat(lines)
}

fn taken() -> Act {
    Act::Answer(200, TAKEN.into())
}

fn said(status: u16, text: &str) -> (u16, String) {
    (status, format!("{{\"message\":\"{text}\"}}"))
}

fn states(trail: &Trail) -> Vec<State> {
    trail.recipients.iter().map(Recipient::state).collect()
}

/// What the attempts came to, oldest first.
fn attempts(trail: &Trail) -> Vec<Standing> {
    let standings = trail.facts.iter().filter_map(|fact| match fact.what {
        What::Attempted(standing) => Some(standing),
        _ => None,
    });
    standings.collect()
}

const TAKEN: &str = "{\"id\":\"<1.2@mg.example.com>\",\"message\":\"Queued. Thank you.\"}";
/// A message of 25 MB.
const LARGE: u64 = 1_000_000;
/// A large message whose header takes several pieces.
const LONG_HEADER: u64 = 3_000_000;
/// More than 52,428,800 bytes.
const TOO_LARGE: u64 = 2_000_000;
/// As [`upstream`] has it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
