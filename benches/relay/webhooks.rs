//! A provider that reports: signed webhooks over kept connections, each posted when the last was answered.

use crate::load::LoadResult;
use mailtrail_mail::Secret;
use mailtrail_trail::provider::mailgun;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// With what the provider signs.
pub const SIGNING_KEY: &str = "bench-signing-key";
/// The upstream that reports, which is the last part of its path.
pub const UPSTREAM_NAME: &str = "reporter";

/// What is to be reported.
pub struct WebhookLoad {
    /// In all.
    pub events: usize,
    /// Connections at once.
    pub clients: usize,
    /// Tracking ids of the mails that they are about, in turn; with none they are about mail of others.
    pub message_ids: Vec<String>,
}

/// Posts events, which are written and signed before the time begins; the first that is not taken ends it.
pub async fn post_webhooks(to: SocketAddr, reports: WebhookLoad) -> io::Result<LoadResult> {
    let requests: Vec<_> =
        (0..reports.events).map(|number| build_request(number, &reports.message_ids)).collect();
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let (begun, mut posting) = (Instant::now(), JoinSet::new());
    for _ in 0..reports.clients {
        posting.spawn(run_client(to, requests.clone(), next.clone()));
    }
    let mut latencies = Vec::with_capacity(reports.events);
    while let Some(some) = posting.join_next().await {
        latencies.extend(some??);
    }
    Ok(LoadResult { duration: begun.elapsed(), latencies })
}

async fn run_client(
    to: SocketAddr,
    requests: Arc<Vec<String>>,
    next: Arc<AtomicUsize>,
) -> io::Result<Vec<Duration>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (mut stream, mut waits) = (stream, Vec::new());
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        tokio::time::timeout(RESPONSE_TIMEOUT, read_response(&mut stream)).await??;
        waits.push(begun.elapsed());
    }
    Ok(waits)
}

/// The answer, which has no body.
async fn read_response(stream: &mut TcpStream) -> io::Result<()> {
    let (mut answer, mut length) = ([0; 4096], 0);
    while !answer[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut answer[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
    }
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(&answer[..length]);
    Err(io::Error::other(format!("a webhook was answered with {answer:?}")))
}

/// What became of a mail, as Mailgun reports it, in [`BODY`] bytes.
fn build_request(number: usize, about: &[String]) -> String {
    let (mail, turn) = (number % about.len().max(1), number / about.len().max(1));
    let recipient = format!("user{}@example.net", if about.is_empty() { number } else { mail });
    let mailtrail = about.get(mail).map_or_else(|| json!({}), |id| json!({ "mailtrail": id }));
    let event =
        if about.is_empty() { EVENT_SEQUENCE[0] } else { EVENT_SEQUENCE[turn.min(EVENT_SEQUENCE.len() - 1)] };
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let (timestamp, token) = (now.as_secs().to_string(), format!("{:050x}", fastrand::u128(..)));
    let mut body = json!({
        "signature": {
            "timestamp": timestamp,
            "token": token,
            "signature": mailgun::sign_webhook(&Secret::new(SIGNING_KEY), &timestamp, &token),
        },
        "event-data": {
            "event": event,
            "id": format!("bench-{number}-{token}"),
            "timestamp": now.as_secs_f64(),
            "log-level": "info",
            "method": "SMTP",
            "recipient": recipient,
            "recipient-domain": "example.net",
            "message": {
                "headers": {
                    "message-id": format!("{number}@elsewhere.test"),
                    "from": "app@example.com",
                    "to": recipient,
                    "subject": "load",
                },
                "size": 4096,
                "attachments": [],
            },
            "delivery-status": {
                "attempt-no": 1,
                "code": 250,
                "message": "OK",
                "description": "",
                "mx-host": "mx.example.net",
                "session-seconds": 0.5,
                "tls": true,
                "certificate-verified": true,
            },
            "envelope": {
                "transport": "smtp",
                "sender": "app@example.com",
                "sending-ip": "192.0.2.1",
                "targets": recipient,
            },
            "flags": { "is-authenticated": true, "is-routed": false, "is-system-test": false, "is-test-mode": false },
            "tags": ["bench"],
            "user-variables": mailtrail,
            "storage": { "key": token, "url": "https://storage.example.net/v3/" },
        },
    });
    let length = body.to_string().len();
    body["event-data"]["storage"]["url"] =
        format!("https://storage.example.net/v3/{}", "x".repeat(BODY_BYTES.saturating_sub(length))).into();
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /webhooks/{UPSTREAM_NAME} HTTP/1.1\r\nHost: relay.test\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Bytes of a body; Mailgun's have about as many.
const BODY_BYTES: usize = 2048;
/// What becomes of a mail, one after the other; it is opened again and again.
const EVENT_SEQUENCE: [&str; 4] = ["accepted", "delivered", "clicked", "opened"];
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
