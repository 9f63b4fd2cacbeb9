//! The sandbox over real sockets: Mailgun's words, its events, its retries.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox;
use mailtrail_sandbox::{Face, Fate, Sandbox, Settings, Weather};
use mailtrail_trail::Kind;
use mailtrail_trail::provider::mailgun;
use rustls::pki_types::ServerName;
use serde_json::Value;
use sha2::Sha256;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const KEY: &str = "the-signing-key";
const LOGIN: &str = "AUTH PLAIN AHBvc3RtYXN0ZXJAbWcuZXhhbXBsZS5jb20AcHc=";

/// A sandbox, a client's trust in it, and the directory of its certificate.
struct Scene {
    sandbox: Sandbox,
    connector: TlsConnector,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn new(pace: f64, webhook: Option<String>) -> Self {
        Self::of(Face::Mailgun, pace, webhook).await
    }

    async fn of(face: Face, pace: f64, webhook: Option<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pair = tls::self_signed(directory.path(), "localhost").unwrap();
        let connector = tls::connector(Some(&directory.path().join("relay.pem"))).unwrap();
        let settings = Settings {
            face,
            smtp: SocketAddr::from(([127, 0, 0, 1], 0)),
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key"),
            domain: "mg.example.com".into(),
            username: match face {
                Face::Mailgun => "postmaster@mg.example.com".into(),
                Face::Brevo => "a00001@smtp-brevo.com".into(),
            },
            password: Secret::new("pw"),
            signing_key: Secret::new(KEY),
            webhook,
            pace,
            weather: Weather::default(),
            clock: Clock::System,
            tls: pair,
        };
        Self { sandbox: mailtrail_sandbox::start(settings).await.unwrap(), connector, _directory: directory }
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.sandbox.smtp_address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: Box::new(stream), piece: usize::MAX }
    }

    /// Logged in and ready for MAIL.
    async fn login(&self) -> Client {
        let mut client = self.connect().await;
        client.expect("220 Mailgun Influx ready").await;
        client.send("STARTTLS\r\n").await;
        client.expect("220 Go ahead").await;
        client = client.secure(&self.connector).await;
        client.send(&format!("{LOGIN}\r\n")).await;
        client.expect("235 Authentication successful").await;
        client
    }

    /// Sends one message in one go and returns everything that was said up to the end of the connection.
    async fn submit(&self, recipients: &[&str], id: &str) -> Vec<String> {
        let mut client = self.login().await;
        client.send(&transaction(recipients, id)).await;
        client.send("QUIT\r\n").await;
        client.rest().await
    }
}

fn transaction(recipients: &[&str], id: &str) -> String {
    let mut lines = "MAIL FROM:<bounces@mg.example.com>\r\n".to_owned();
    recipients.iter().for_each(|to| lines.push_str(&format!("RCPT TO:<{to}>\r\n")));
    lines + "DATA\r\n" + &message(id) + ".\r\n"
}

fn message(id: &str) -> String {
    format!(
        "Message-Id: <{id}@example.com>\r\nFrom: Sales <sales@example.com>\r\nTo: a@example.net\r\n\
         Subject: Order\r\nX-Mailgun-Variables: {{\"odoo_db\": \"prod\"}}\r\n\
         X-Mailgun-Variables: {{\"mailtrail\": \"01K54Z8Q3V7N5X9B2C6D8F0GHJ\"}}\r\n\r\nText\r\n"
    )
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Client {
    stream: Box<dyn Stream>,
    /// Bytes sent at once.
    piece: usize,
}

impl Client {
    async fn send(&mut self, text: &str) {
        for piece in text.as_bytes().chunks(self.piece) {
            // What the server no longer wants to hear is seen by what it said.
            if self.stream.write_all(piece).await.is_err() || self.stream.flush().await.is_err() {
                return;
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.stream.read_u8().await.ok()?);
        }
        line.truncate(line.len() - 2);
        Some(String::from_utf8(line).unwrap())
    }

    async fn expect(&mut self, text: &str) {
        assert_eq!(self.line().await.as_deref(), Some(text));
    }

    async fn rest(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }

    async fn secure(self, connector: &TlsConnector) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, self.stream).await.unwrap();
        Self { stream: Box::new(stream), piece: self.piece }
    }
}

/// Listens for webhooks and answers the n-th with what `answer` says.
struct Hook {
    url: String,
    bodies: UnboundedReceiver<Bytes>,
    server: JoinHandle<()>,
}

type Answers = Arc<dyn Fn(&Value) -> u16 + Send + Sync>;

impl Hook {
    async fn new(answer: impl Fn(&Value) -> u16 + Send + Sync + 'static) -> Self {
        let (sender, bodies) = unbounded_channel();
        let state: (UnboundedSender<Bytes>, Answers) = (sender, Arc::new(answer));
        let router = Router::new().route("/hook", post(take)).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, bodies, server }
    }

    /// The next event; its signature is right, and the relay understands it.
    async fn event(&mut self) -> Value {
        let body = self.bodies.recv().await.unwrap();
        let notice = mailgun::receive(&body, &[Secret::new(KEY)], Clock::System.now()).unwrap();
        assert!(notice.event.kind != Kind::Unknown && notice.event.tracking.is_some(), "{notice:?}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = |field: &str| body["signature"][field].as_str().unwrap().to_owned();
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
        mac.update(text("timestamp").as_bytes());
        mac.update(text("token").as_bytes());
        let expected: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((text("signature"), text("token").len()), (expected, 50));
        body["event-data"].clone()
    }

    async fn words(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        for _ in 0..count {
            words.push(word(&self.event().await));
        }
        words
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State((sender, answer)): State<(UnboundedSender<Bytes>, Answers)>, body: Bytes) -> StatusCode {
    let status = answer(&serde_json::from_slice(&body).unwrap());
    sender.send(body).ok();
    StatusCode::from_u16(status).unwrap()
}

/// An event in short: its name, and for a failure severity and code.
fn word(event: &Value) -> String {
    let name = event["event"].as_str().unwrap();
    match event["severity"].as_str() {
        Some(severity) => format!("{name}/{severity}/{}", event["delivery-status"]["code"]),
        None => name.to_owned(),
    }
}

/// Plays a dialogue of `C:` and `S:` lines, sending so many bytes at once.
async fn play(face: Face, file: &str, piece: usize) {
    let scene = Scene::of(face, 0.0, None).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    let mut client = scene.connect().await;
    client.piece = piece;
    for line in std::fs::read_to_string(path).unwrap().lines() {
        match line.split_at_checked(3) {
            Some(("S: ", text)) => client.expect(text).await,
            Some(("C: ", "<message>")) => client.send(&said(face)).await,
            Some(("C: ", text)) => client.send(&format!("{text}\r\n")).await,
            _ if line == "** TLS **" => client = client.secure(&scene.connector).await,
            _ => assert_eq!(client.line().await, None, "{line}"),
        }
    }
}

#[tokio::test]
async fn it_says_what_mailgun_was_seen_to_say() {
    for file in ["smtp_ok.txt", "smtp_auth_failed.txt", "smtp_relaying_denied.txt"] {
        for piece in [usize::MAX, 7, 1] {
            play(Face::Mailgun, &format!("mailgun/{file}"), piece).await;
        }
    }
}

#[tokio::test]
async fn as_brevo_it_says_what_brevo_was_seen_to_say() {
    for file in ["smtp_ok.txt", "smtp_auth_failed.txt"] {
        for piece in [usize::MAX, 7, 1] {
            play(Face::Brevo, &format!("brevo/{file}"), piece).await;
        }
    }
}

/// The message of a dialogue.
fn said(face: Face) -> String {
    match face {
        Face::Mailgun => message("1"),
        Face::Brevo => "Message-ID: <1789387199.4711.mt0001@mg.example.com>\r\n\r\nText\r\n".into(),
    }
}

#[tokio::test]
async fn what_is_sent_behind_the_final_dot_is_answered_too() {
    let scene = Scene::new(0.0, None).await;
    let mut client = scene.login().await;
    let one = transaction(&["a@example.net", "b@example.net"], "1");
    client.send(&format!("{one}{}RSET\r\nQUIT\r\n", transaction(&["c@example.net"], "2"))).await;
    let codes: Vec<_> = client.rest().await.iter().map(|line| line[..3].to_owned()).collect();
    assert_eq!(codes.join(" "), "250 250 250 354 250 250 250 354 250 250 221");
    let taken = scene.sandbox.taken();
    assert_eq!(taken.iter().map(|one| one.recipients.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&taken[0].raw[..], taken[1].id.as_str()), (message("1").as_bytes(), "2@example.com"));
    assert_eq!((scene.sandbox.tally().messages, scene.sandbox.tally().recipients), (2, 3));
}

#[tokio::test]
async fn each_fate_has_its_events_in_order() {
    let mut hook = Hook::new(|_| 200).await;
    let scene = Scene::new(1e-6, Some(hook.url.clone())).await;
    let bounced = "failed/permanent/550";
    for (fate, expected) in [
        (Fate::Delivered, &["accepted", "delivered"][..]),
        (Fate::Bounce, &["accepted", bounced]),
        (Fate::LateBounce, &["accepted", "delivered", bounced]),
        (Fate::DeferTwice, &["accepted", "failed/temporary/452", "failed/temporary/451", "delivered"]),
        (Fate::Complain, &["accepted", "delivered", "complained"]),
        (Fate::Open, &["accepted", "delivered", "opened"]),
        (Fate::BotOpen, &["accepted", "delivered", "opened"]),
        (Fate::Click, &["accepted", "delivered", "opened", "clicked"]),
        (Fate::Unsubscribe, &["accepted", "delivered", "unsubscribed"]),
        (Fate::Silent, &[]),
        (Fate::Suppressed, &["accepted", "failed/permanent/605"]),
        (Fate::Slow, &["accepted", "delivered"]),
    ] {
        let said = scene.submit(&[&format!("{}7@example.net", fate.word())], "1").await;
        assert!(said.contains(&"250 Great success".to_owned()), "{fate:?}: {said:?}");
        assert_eq!(hook.words(expected.len()).await, expected, "{fate:?}");
    }
    scene.sandbox.stop().await;
    assert!(hook.bodies.try_recv().is_err());
}

#[tokio::test]
async fn events_have_mailguns_shape() {
    let mut hook = Hook::new(|_| 200).await;
    let scene = Scene::new(0.0, Some(hook.url.clone())).await;
    scene.submit(&["bot-open@example.net"], "1").await;
    let (accepted, delivered, opened) = (hook.event().await, hook.event().await, hook.event().await);
    for event in [&accepted, &delivered, &opened] {
        assert_eq!(event["user-variables"]["mailtrail"], "01K54Z8Q3V7N5X9B2C6D8F0GHJ");
        assert_eq!(event["user-variables"]["odoo_db"], "prod");
        assert_eq!(event["message"]["headers"]["message-id"], "1@example.com");
        assert_eq!(
            (&event["recipient"], &event["domain"]["name"]),
            (&"bot-open@example.net".into(), &"mg.example.com".into())
        );
    }
    assert_eq!((&accepted["method"], &accepted["originating-ip"]), (&"smtp".into(), &"127.0.0.1".into()));
    assert_eq!(delivered["message"]["headers"]["from"], "Sales <sales@example.com>");
    assert_eq!(opened["message"]["headers"].as_object().unwrap().len(), 1);
    assert_eq!(opened["client-info"]["bot"], "apple");
    assert_eq!(opened["delivered-at"], delivered["timestamp"]);
    assert!(accepted["timestamp"].as_f64() < delivered["timestamp"].as_f64());

    scene.submit(&["late-bounce@example.net"], "2").await;
    let late = [hook.event().await, hook.event().await, hook.event().await];
    assert_eq!(late[2]["flags"]["is-delayed-bounce"], true);
    assert_eq!(late[2]["envelope"], serde_json::json!({}));
}

#[tokio::test]
async fn fates_are_per_recipient() {
    let mut hook = Hook::new(|_| 200).await;
    let scene = Scene::new(0.0, None).await;
    scene.sandbox.set_webhook(hook.url.clone());
    let said = scene.submit(&["a@example.net", "reject@example.net", "bounce@example.net"], "1").await;
    assert_eq!(said[2], "550 5.1.1 <reject@example.net>: Recipient address rejected");
    let mut events = Vec::new();
    for _ in 0..4 {
        let event = hook.event().await;
        events.push(format!("{} {}", event["recipient"].as_str().unwrap(), word(&event)));
    }
    events.sort();
    let expected = [
        "a@example.net accepted",
        "a@example.net delivered",
        "bounce@example.net accepted",
        "bounce@example.net failed/permanent/550",
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn a_drop_at_the_dot_has_taken_the_message() {
    let mut hook = Hook::new(|_| 200).await;
    let scene = Scene::new(0.0, Some(hook.url.clone())).await;
    let said = scene.submit(&["drop-at-dot@example.net"], "1").await;
    assert_eq!(said.last().map(String::as_str), Some("354 Continue"));
    assert_eq!(hook.words(2).await, ["accepted", "delivered"]);
    assert_eq!(scene.sandbox.tally().messages, 1);
    let said = scene.submit(&["drop-at-dot@example.net"], "1").await;
    assert!(said.contains(&"250 Great success".to_owned()));
    assert_eq!(hook.words(2).await, ["accepted", "delivered"]);
    assert_eq!(scene.sandbox.tally().messages, 2);
}

#[tokio::test]
async fn a_drop_before_the_dot_has_not() {
    let scene = Scene::new(0.0, None).await;
    let said = scene.submit(&["drop-before-dot@example.net"], "1").await;
    assert_eq!(said.last().map(String::as_str), Some("354 Continue"));
    assert_eq!(scene.sandbox.tally().messages, 0);
    let said = scene.submit(&["drop-before-dot@example.net"], "1").await;
    assert!(said.contains(&"250 Great success".to_owned()));
    assert_eq!(scene.sandbox.tally().messages, 1);
}

#[tokio::test]
async fn a_rate_limit_names_its_end() {
    let scene = Scene::new(0.0, None).await;
    let said = scene.submit(&["rate-limit@example.net"], "1").await;
    let text = "421 Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after ";
    let date = said.last().and_then(|line| line.strip_prefix(text)).unwrap();
    assert!(date.ends_with(" UTC") && mailtrail_mail::Timestamp::parse_rfc5322(date).is_some(), "{date}");
    let said = scene.submit(&["rate-limit@example.net"], "1").await;
    assert!(said.contains(&"250 Great success".to_owned()));
}

#[tokio::test]
async fn what_was_406_never_comes_again_and_what_was_500_does() {
    let failed = std::sync::atomic::AtomicBool::new(false);
    let mut hook = Hook::new(move |body| match body["event-data"]["event"].as_str() {
        Some("accepted") => 406,
        _ if !failed.swap(true, std::sync::atomic::Ordering::Relaxed) => 500,
        _ => 200,
    })
    .await;
    // A refused event's retry would come before that of the next event.
    let scene = Scene::new(1e-4, Some(hook.url.clone())).await;
    scene.submit(&["a@example.net"], "1").await;
    let bodies = [hook.bodies.recv().await, hook.bodies.recv().await, hook.bodies.recv().await];
    assert_ne!(bodies[0], bodies[1]);
    assert_eq!(bodies[1], bodies[2], "a retry carries the same event with the same signature");
    scene.sandbox.stop().await;
    assert!(hook.bodies.try_recv().is_err());
}

#[tokio::test]
async fn an_event_is_posted_seven_times_at_most() {
    let mut hook =
        Hook::new(|body| if body["event-data"]["recipient"] == "a@example.net" { 503 } else { 200 }).await;
    let scene = Scene::new(0.0, Some(hook.url.clone())).await;
    scene.submit(&["a@example.net"], "1").await;
    let mut words = hook.words(14).await;
    words.sort();
    assert_eq!(words, [vec!["accepted"; 7], vec!["delivered"; 7]].concat());
    scene.submit(&["b@example.net"], "2").await;
    let mut others = [hook.event().await, hook.event().await].map(|event| event["recipient"].clone());
    others.sort_by_key(Value::to_string);
    assert_eq!(others, ["b@example.net", "b@example.net"]);
}
