//! The sandbox over real sockets: Mailgun's words, its events, its retries.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox, SandboxSettings, Scenario};
use mailtrail_trail::EventKind;
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

const SIGNING_KEY: &str = "the-signing-key";
const AUTH_COMMAND: &str = "AUTH PLAIN AHBvc3RtYXN0ZXJAbWcuZXhhbXBsZS5jb20AcHc=";

/// A sandbox, a client's trust in it, and the directory of its certificate.
struct SandboxScene {
    sandbox: Sandbox,
    connector: TlsConnector,
    _directory: tempfile::TempDir,
}

impl SandboxScene {
    async fn new(pace: f64, webhook: Option<String>) -> Self {
        Self::with_profile(ProviderProfile::Mailgun, pace, webhook).await
    }

    async fn with_profile(profile: ProviderProfile, time_scale: f64, webhook_url: Option<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pair = tls::load_self_signed(directory.path(), "localhost").unwrap();
        let connector = tls::build_connector(Some(&directory.path().join("relay.pem"))).unwrap();
        let settings = SandboxSettings {
            profile,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key"),
            domain: "mg.example.com".into(),
            username: match profile {
                ProviderProfile::Mailgun => "postmaster@mg.example.com".into(),
                ProviderProfile::Brevo => "a00001@smtp-brevo.com".into(),
            },
            password: Secret::new("pw"),
            signing_key: Secret::new(SIGNING_KEY),
            webhook_url,
            time_scale,
            faults: FaultInjection::default(),
            clock: Clock::System,
            tls: pair,
        };
        Self { sandbox: mailtrail_sandbox::start(settings).await.unwrap(), connector, _directory: directory }
    }

    async fn connect_client(&self) -> SandboxClient {
        let stream = TcpStream::connect(self.sandbox.smtp_address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        SandboxClient { stream: Box::new(stream), chunk_size: usize::MAX }
    }

    /// Logged in and ready for MAIL.
    async fn connect_and_log_in(&self) -> SandboxClient {
        let mut client = self.connect_client().await;
        client.expect_line("220 Mailgun Influx ready").await;
        client.write_text("STARTTLS\r\n").await;
        client.expect_line("220 Go ahead").await;
        client = client.start_tls(&self.connector).await;
        client.write_text(&format!("{AUTH_COMMAND}\r\n")).await;
        client.expect_line("235 Authentication successful").await;
        client
    }

    /// Sends one message in one write; returns all replies until the connection ends.
    async fn submit_pipelined(&self, recipients: &[&str], id: &str) -> Vec<String> {
        let mut client = self.connect_and_log_in().await;
        client.write_text(&smtp_transaction(recipients, id)).await;
        client.write_text("QUIT\r\n").await;
        client.read_to_end().await
    }
}

fn smtp_transaction(recipients: &[&str], id: &str) -> String {
    let mut lines = "MAIL FROM:<bounces@mg.example.com>\r\n".to_owned();
    recipients.iter().for_each(|to| lines.push_str(&format!("RCPT TO:<{to}>\r\n")));
    lines + "DATA\r\n" + &sample_message(id) + ".\r\n"
}

fn sample_message(id: &str) -> String {
    format!(
        "Message-Id: <{id}@example.com>\r\nFrom: Sales <sales@example.com>\r\nTo: a@example.net\r\n\
         Subject: Order\r\nX-Mailgun-Variables: {{\"odoo_db\": \"prod\"}}\r\n\
         X-Mailgun-Variables: {{\"mailtrail\": \"01K54Z8Q3V7N5X9B2C6D8F0GHJ\"}}\r\n\r\nText\r\n"
    )
}

trait SmtpStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> SmtpStream for S {}

struct SandboxClient {
    stream: Box<dyn SmtpStream>,
    /// Bytes sent at once.
    chunk_size: usize,
}

impl SandboxClient {
    async fn write_text(&mut self, text: &str) {
        for piece in text.as_bytes().chunks(self.chunk_size) {
            // The replies show which bytes the server did not accept.
            if self.stream.write_all(piece).await.is_err() || self.stream.flush().await.is_err() {
                return;
            }
        }
    }

    async fn read_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.stream.read_u8().await.ok()?);
        }
        line.truncate(line.len() - 2);
        Some(String::from_utf8(line).unwrap())
    }

    async fn expect_line(&mut self, text: &str) {
        assert_eq!(self.read_line().await.as_deref(), Some(text));
    }

    async fn read_to_end(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.read_line().await {
            lines.push(line);
        }
        lines
    }

    async fn start_tls(self, connector: &TlsConnector) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, self.stream).await.unwrap();
        Self { stream: Box::new(stream), chunk_size: self.chunk_size }
    }
}

/// Server that receives webhooks and responds to the n-th with the status from `answer`.
struct WebhookReceiver {
    url: String,
    bodies: UnboundedReceiver<Bytes>,
    server: JoinHandle<()>,
}

type WebhookAnswer = Arc<dyn Fn(&Value) -> u16 + Send + Sync>;

impl WebhookReceiver {
    async fn new(answer: impl Fn(&Value) -> u16 + Send + Sync + 'static) -> Self {
        let (sender, bodies) = unbounded_channel();
        let state: (UnboundedSender<Bytes>, WebhookAnswer) = (sender, Arc::new(answer));
        let router = Router::new().route("/hook", post(receive_webhook)).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, bodies, server }
    }

    /// The next event; its signature is right, and the relay understands it.
    async fn next_event(&mut self) -> Value {
        let body = self.bodies.recv().await.unwrap();
        let notice =
            mailgun::verify_and_decode(&body, &[Secret::new(SIGNING_KEY)], Clock::System.now()).unwrap();
        assert!(notice.event.kind != EventKind::Unknown && notice.event.tracking_id.is_some(), "{notice:?}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = |field: &str| body["signature"][field].as_str().unwrap().to_owned();
        let mut mac = Hmac::<Sha256>::new_from_slice(SIGNING_KEY.as_bytes()).unwrap();
        mac.update(text("timestamp").as_bytes());
        mac.update(text("token").as_bytes());
        let expected: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((text("signature"), text("token").len()), (expected, 50));
        body["event-data"].clone()
    }

    async fn next_summaries(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        for _ in 0..count {
            words.push(event_summary(&self.next_event().await));
        }
        words
    }
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive_webhook(
    State((sender, answer)): State<(UnboundedSender<Bytes>, WebhookAnswer)>,
    body: Bytes,
) -> StatusCode {
    let status = answer(&serde_json::from_slice(&body).unwrap());
    sender.send(body).ok();
    StatusCode::from_u16(status).unwrap()
}

/// An event in short: its name, and for a failure severity and code.
fn event_summary(event: &Value) -> String {
    let name = event["event"].as_str().unwrap();
    match event["severity"].as_str() {
        Some(severity) => format!("{name}/{severity}/{}", event["delivery-status"]["code"]),
        None => name.to_owned(),
    }
}

/// Runs a dialogue of `C:` and `S:` lines in writes of `piece` bytes.
async fn play_dialogue(face: ProviderProfile, file: &str, piece: usize) {
    let harness = SandboxScene::with_profile(face, 0.0, None).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(file);
    let mut client = harness.connect_client().await;
    client.chunk_size = piece;
    for line in std::fs::read_to_string(path).unwrap().lines() {
        match line.split_at_checked(3) {
            Some(("S: ", text)) => client.expect_line(text).await,
            Some(("C: ", "<message>")) => client.write_text(&expected_message(face)).await,
            Some(("C: ", text)) => client.write_text(&format!("{text}\r\n")).await,
            _ if line == "** TLS **" => client = client.start_tls(&harness.connector).await,
            _ => assert_eq!(client.read_line().await, None, "{line}"),
        }
    }
}

#[tokio::test]
async fn mailgun_smtp_replies_match_recordings() {
    for file in ["smtp_ok.txt", "smtp_auth_failed.txt", "smtp_relaying_denied.txt"] {
        for piece in [usize::MAX, 7, 1] {
            play_dialogue(ProviderProfile::Mailgun, &format!("mailgun/{file}"), piece).await;
        }
    }
}

#[tokio::test]
async fn brevo_smtp_replies_match_recordings() {
    for file in ["smtp_ok.txt", "smtp_auth_failed.txt"] {
        for piece in [usize::MAX, 7, 1] {
            play_dialogue(ProviderProfile::Brevo, &format!("brevo/{file}"), piece).await;
        }
    }
}

/// The message of a dialogue.
fn expected_message(face: ProviderProfile) -> String {
    match face {
        ProviderProfile::Mailgun => sample_message("1"),
        ProviderProfile::Brevo => {
            "Message-ID: <1789387199.4711.mt0001@mg.example.com>\r\n\r\nText\r\n".into()
        }
    }
}

#[tokio::test]
async fn answers_commands_pipelined_after_data() {
    let harness = SandboxScene::new(0.0, None).await;
    let mut client = harness.connect_and_log_in().await;
    let one = smtp_transaction(&["a@example.net", "b@example.net"], "1");
    client.write_text(&format!("{one}{}RSET\r\nQUIT\r\n", smtp_transaction(&["c@example.net"], "2"))).await;
    let codes: Vec<_> = client.read_to_end().await.iter().map(|line| line[..3].to_owned()).collect();
    assert_eq!(codes.join(" "), "250 250 250 354 250 250 250 354 250 250 221");
    let taken = harness.sandbox.captured();
    assert_eq!(taken.iter().map(|one| one.recipients.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&taken[0].raw[..], taken[1].id.as_str()), (sample_message("1").as_bytes(), "2@example.com"));
    assert_eq!((harness.sandbox.counters().messages, harness.sandbox.counters().recipients), (2, 3));
}

#[tokio::test]
async fn each_scenario_sends_its_events_in_order() {
    let mut hook = WebhookReceiver::new(|_| 200).await;
    let harness = SandboxScene::new(1e-6, Some(hook.url.clone())).await;
    let bounced = "failed/permanent/550";
    for (outcome, expected) in [
        (Scenario::Delivered, &["accepted", "delivered"][..]),
        (Scenario::Bounce, &["accepted", bounced]),
        (Scenario::LateBounce, &["accepted", "delivered", bounced]),
        (Scenario::DeferTwice, &["accepted", "failed/temporary/452", "failed/temporary/451", "delivered"]),
        (Scenario::Complain, &["accepted", "delivered", "complained"]),
        (Scenario::Open, &["accepted", "delivered", "opened"]),
        (Scenario::BotOpen, &["accepted", "delivered", "opened"]),
        (Scenario::Click, &["accepted", "delivered", "opened", "clicked"]),
        (Scenario::Unsubscribe, &["accepted", "delivered", "unsubscribed"]),
        (Scenario::Silent, &[]),
        (Scenario::Suppressed, &["accepted", "failed/permanent/605"]),
        (Scenario::Slow, &["accepted", "delivered"]),
    ] {
        let output = harness.submit_pipelined(&[&format!("{}7@example.net", outcome.as_str())], "1").await;
        assert!(output.contains(&"250 Great success".to_owned()), "{outcome:?}: {output:?}");
        assert_eq!(hook.next_summaries(expected.len()).await, expected, "{outcome:?}");
    }
    harness.sandbox.stop().await;
    assert!(hook.bodies.try_recv().is_err());
}

#[tokio::test]
async fn events_have_mailgun_form() {
    let mut hook = WebhookReceiver::new(|_| 200).await;
    let harness = SandboxScene::new(0.0, Some(hook.url.clone())).await;
    harness.submit_pipelined(&["bot-open@example.net"], "1").await;
    let (accepted, delivered, opened) =
        (hook.next_event().await, hook.next_event().await, hook.next_event().await);
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

    harness.submit_pipelined(&["late-bounce@example.net"], "2").await;
    let late = [hook.next_event().await, hook.next_event().await, hook.next_event().await];
    assert_eq!(late[2]["flags"]["is-delayed-bounce"], true);
    assert_eq!(late[2]["envelope"], serde_json::json!({}));
}

#[tokio::test]
async fn scenarios_apply_per_recipient() {
    let mut hook = WebhookReceiver::new(|_| 200).await;
    let harness = SandboxScene::new(0.0, None).await;
    harness.sandbox.set_webhook_url(hook.url.clone());
    let output =
        harness.submit_pipelined(&["a@example.net", "reject@example.net", "bounce@example.net"], "1").await;
    assert_eq!(output[2], "550 5.1.1 <reject@example.net>: Recipient address rejected");
    let mut events = Vec::new();
    for _ in 0..4 {
        let event = hook.next_event().await;
        events.push(format!("{} {}", event["recipient"].as_str().unwrap(), event_summary(&event)));
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
async fn drop_at_dot_accepts_message() {
    let mut hook = WebhookReceiver::new(|_| 200).await;
    let harness = SandboxScene::new(0.0, Some(hook.url.clone())).await;
    let output = harness.submit_pipelined(&["drop-at-dot@example.net"], "1").await;
    assert_eq!(output.last().map(String::as_str), Some("354 Continue"));
    assert_eq!(hook.next_summaries(2).await, ["accepted", "delivered"]);
    assert_eq!(harness.sandbox.counters().messages, 1);
    let output = harness.submit_pipelined(&["drop-at-dot@example.net"], "1").await;
    assert!(output.contains(&"250 Great success".to_owned()));
    assert_eq!(hook.next_summaries(2).await, ["accepted", "delivered"]);
    assert_eq!(harness.sandbox.counters().messages, 2);
}

#[tokio::test]
async fn drop_before_dot_does_not_accept_message() {
    let harness = SandboxScene::new(0.0, None).await;
    let output = harness.submit_pipelined(&["drop-before-dot@example.net"], "1").await;
    assert_eq!(output.last().map(String::as_str), Some("354 Continue"));
    assert_eq!(harness.sandbox.counters().messages, 0);
    let output = harness.submit_pipelined(&["drop-before-dot@example.net"], "1").await;
    assert!(output.contains(&"250 Great success".to_owned()));
    assert_eq!(harness.sandbox.counters().messages, 1);
}

#[tokio::test]
async fn rate_limit_reply_states_its_end() {
    let harness = SandboxScene::new(0.0, None).await;
    let output = harness.submit_pipelined(&["rate-limit@example.net"], "1").await;
    let text = "421 Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after ";
    let date = output.last().and_then(|line| line.strip_prefix(text)).unwrap();
    assert!(date.ends_with(" UTC") && mailtrail_mail::Timestamp::parse_rfc5322(date).is_some(), "{date}");
    let output = harness.submit_pipelined(&["rate-limit@example.net"], "1").await;
    assert!(output.contains(&"250 Great success".to_owned()));
}

#[tokio::test]
async fn retries_webhook_after_500_but_not_406() {
    let failed = std::sync::atomic::AtomicBool::new(false);
    let mut hook = WebhookReceiver::new(move |body| match body["event-data"]["event"].as_str() {
        Some("accepted") => 406,
        _ if !failed.swap(true, std::sync::atomic::Ordering::Relaxed) => 500,
        _ => 200,
    })
    .await;
    // A refused event's retry would come before that of the next event.
    let harness = SandboxScene::new(1e-4, Some(hook.url.clone())).await;
    harness.submit_pipelined(&["a@example.net"], "1").await;
    let bodies = [hook.bodies.recv().await, hook.bodies.recv().await, hook.bodies.recv().await];
    assert_ne!(bodies[0], bodies[1]);
    assert_eq!(bodies[1], bodies[2], "a retry carries the same event with the same signature");
    harness.sandbox.stop().await;
    assert!(hook.bodies.try_recv().is_err());
}

#[tokio::test]
async fn posts_each_event_at_most_seven_times() {
    let mut hook =
        WebhookReceiver::new(
            |body| if body["event-data"]["recipient"] == "a@example.net" { 503 } else { 200 },
        )
        .await;
    let harness = SandboxScene::new(0.0, Some(hook.url.clone())).await;
    harness.submit_pipelined(&["a@example.net"], "1").await;
    let mut words = hook.next_summaries(14).await;
    words.sort();
    assert_eq!(words, [vec!["accepted"; 7], vec!["delivered"; 7]].concat());
    harness.submit_pipelined(&["b@example.net"], "2").await;
    let mut others =
        [hook.next_event().await, hook.next_event().await].map(|event| event["recipient"].clone());
    others.sort_by_key(Value::to_string);
    assert_eq!(others, ["b@example.net", "b@example.net"]);
}
