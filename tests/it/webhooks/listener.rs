//! Webhook listener with too many, too slow or unauthenticated clients.

use futures_util::future::join_all;
use mailtrail_mail::Secret;
use mailtrail_trail::provider::{generic, mailgun};
use serde_json::json;
use testkit::log_capture::LogCapture;
use testkit::webhook_harness::{START_SECONDS, WebhookHarness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::Level;

#[tokio::test]
async fn rate_limits_address_after_repeated_rejections() {
    let log = LogCapture::default();
    let _listening = log.install_at(Level::TRACE);
    let harness = start_with_all_sources("").await;
    let from = |address: &'static str| [("X-Forwarded-For", address)];
    for (source, refused) in [("up", 406), ("other", 401)] {
        let path = format!("webhooks/{source}");
        let good = |number: &str| signed_event(source, number);
        for number in 0..100 {
            let answer = harness.post_with(&path, &from("192.0.2.7"), b"x=y".to_vec()).await;
            assert_eq!(answer, if number < 20 { refused } else { 429 }, "{source} {number}");
        }
        let (fields, body) = good("1");
        let fields_from = |address| {
            fields.iter().map(|(name, value)| (*name, &**value)).chain(from(address)).collect::<Vec<_>>()
        };
        assert_eq!(harness.post_with(&path, &fields_from("192.0.2.7"), body.clone()).await, 429, "{source}");
        // Other clients, other paths and direct connections from a proxy are served.
        assert_eq!(harness.post_with(&path, &fields_from("192.0.2.8"), body.clone()).await, 200, "{source}");
        assert_eq!(harness.post_with("webhooks/nobody", &from("192.0.2.7"), body).await, 404);
        assert_eq!(
            log.lines_with(&["WARN", "192.0.2.7", &format!("source=\"{source}\"")]).len(),
            2,
            "{}",
            log.text()
        );
        assert_eq!(
            log.lines_with(&["address=192.0.2.7", "refused=20", &format!("source=\"{source}\"")]).len(),
            1
        );
    }
    for _ in 0..50 {
        assert_eq!(harness.post(b"x=y".to_vec()).await, 406);
    }
    assert_eq!(harness.post(signed_event("up", "2").1).await, 200);
}

#[tokio::test]
async fn over_limit_client_gets_provider_specific_retry_status() {
    let harness = start_with_all_sources("\n[http]\nconnections = 2\n").await;
    let mut held = [connect_http(&harness).await, connect_http(&harness).await];
    for stream in &mut held {
        assert_eq!(send_request(stream, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await, 200);
    }
    for (path, answer) in [
        ("/webhooks/up", 503),
        ("/webhooks/brevo", 429),
        ("/webhooks/other", 503),
        ("/webhooks/campaigns/the-secret-of-the-campaigns", 503),
        ("/webhooks/nobody", 404),
    ] {
        let mut stream = connect_http(&harness).await;
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nx=y");
        assert_eq!(send_request(&mut stream, &request).await, answer, "{path}");
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0, "{path}");
    }
    let [first, mut second] = held;
    drop(first);
    // The place is free as soon as the relay has seen that.
    let (_, body) = signed_event("up", "1");
    while harness.post(body.clone()).await != 200 {}
    assert_eq!(send_request(&mut second, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await, 200);
}

/// Time advances at once while no task is active.
#[tokio::test(start_paused = true)]
async fn slow_requests_time_out() {
    let harness = start_with_all_sources("").await;
    for begun in ["", "POST /webhooks/up HTTP/1.1\r\nHost: x\r\n", "GET /healthz HTTP/1.1\r\nHost"] {
        let mut stream = connect_http(&harness).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{begun}");
    }
    for (path, field, answer) in [("up", "X: y", 503), ("brevo", "Authorization: Bearer brevo-secret", 429)] {
        for body in ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"] {
            let mut stream = connect_http(&harness).await;
            let request = format!("POST /webhooks/{path} HTTP/1.1\r\nHost: x\r\n{field}\r\n{body}");
            assert_eq!(send_request(&mut stream, &request).await, answer, "{path}");
        }
    }
    // A connection that is kept and not used is no better.
    let mut stream = connect_http(&harness).await;
    assert_eq!(send_request(&mut stream, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await, 200);
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}

#[tokio::test]
async fn limits_header_and_body_size() {
    let harness = start_with_all_sources("").await;
    let mut stream = connect_http(&harness).await;
    let request = format!("POST /webhooks/up HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(send_request(&mut stream, &request).await, 431);
    // With any declared length.
    let mut stream = connect_http(&harness).await;
    stream
        .write_all(b"POST /webhooks/up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let piece = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    stream.write_all(&piece).await.unwrap();
    assert_eq!(send_request(&mut stream, "1\r\nx\r\n0\r\n\r\n").await, 413);
}

#[tokio::test]
async fn accepts_trailing_slash_and_warns_once_about_wrong_paths() {
    let harness = start_with_all_sources("").await;
    assert_eq!(harness.post_to("webhooks/up/", signed_event("up", "1").1).await, 200);
    assert_eq!(harness.post_to("webhooks/up/?a=b", signed_event("up", "2").1).await, 200);
    assert_eq!(
        harness.post_to("webhooks/campaigns/the-secret-of-the-campaigns/", b"type=open".to_vec()).await,
        200
    );
    for (path, right) in [
        ("/webhooks/up", "the path is /webhooks/up"),
        ("webhooks//up", "the path is /webhooks/up"),
        ("webhooks/up//", "the path is /webhooks/up"),
        ("Webhooks/Up", "the path is /webhooks/up"),
        ("mail/webhooks/other", "the path is /webhooks/other"),
        ("webhooks/up%2F", "the path is /webhooks/up"),
        ("webhooks/up/extra", "the path is /webhooks/up"),
        ("up", "the path is /webhooks/up"),
        ("inbound/UP/Mime", "the path is /inbound/up/mime"),
        ("webhooks//campaigns/the-secret-of-the-campaigns", "the path is /webhooks/campaigns/<secret>"),
        ("WEBHOOKS/CAMPAIGNS/the-secret-of-the-campaigns", "the path is /webhooks/campaigns/<secret>"),
        (
            "webhooks/mailgun",
            "paths: /webhooks/up /webhooks/brevo /webhooks/other /webhooks/campaigns/<secret>",
        ),
        ("", "paths: /webhooks/up"),
    ] {
        let log = LogCapture::default();
        let _listening = log.install_at(Level::TRACE);
        // A relay of its own: a minute is long.
        let harness = self::start_with_all_sources("").await;
        for _ in 0..3 {
            assert_eq!(harness.post_to(path, signed_event("up", "1").1).await, 404, "{path}");
        }
        let warnings = log.lines_with(&[" WARN "]);
        assert!(warnings.len() == 1 && warnings[0].contains(right), "{path}: {warnings:#?}");
        assert!(!log.text().contains("the-secret-of"), "{}", log.text());
    }
}

#[tokio::test]
async fn rejects_invalid_http_with_400_and_compression_with_415() {
    let harness = start_with_all_sources("").await;
    let brevo = "Authorization: Bearer brevo-secret";
    for (path, field) in [
        ("webhooks/up", "A: b"),
        ("webhooks/brevo", brevo),
        ("webhooks/other", "A: b"),
        ("webhooks/campaigns/the-secret-of-the-campaigns", "A: b"),
    ] {
        let request = |rest: &str| format!("POST /{path} HTTP/1.1\r\nHost: x\r\n{field}\r\n{rest}");
        for rest in [
            "Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
            "Content-Length: abc\r\n\r\nx",
            "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "Broken field\r\n\r\n",
        ] {
            let mut stream = connect_http(&harness).await;
            assert_eq!(send_request(&mut stream, &request(rest)).await, 400, "{path} {rest}");
        }
        for coding in ["Content-Encoding: gzip\r\n", "content-encoding: identity, br\r\n"] {
            let mut stream = connect_http(&harness).await;
            let rest = format!("{coding}Content-Length: 3\r\n\r\nx=y");
            assert_eq!(send_request(&mut stream, &request(&rest)).await, 415, "{path} {coding}");
        }
        let fields: Vec<_> = field.split_once(": ").into_iter().collect();
        assert_eq!(harness.post_with(path, &fields, b"\x1f\x8b\x08\x00".to_vec()).await, 415, "{path}");
    }
    let mut stream = connect_http(&harness).await;
    let body = String::from_utf8(signed_event("up", "1").1).unwrap();
    let request = format!(
        "POST /webhooks/up HTTP/1.1\r\nHost: x\r\nContent-Encoding: identity\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(send_request(&mut stream, &request).await, 200);
}

#[tokio::test]
async fn logs_wrong_protocol_once_with_remedy() {
    for (words, remedy) in [
        (&b"\x16\x03\x01\x00\x05hello"[..], "see `tls` in [http]"),
        (b"EHLO client\r\n\r\n", "a request that is not HTTP"),
        (b"POST /webhooks/up HTTP/1.1\r\nContent-Length: x\r\n\r\n", "a request that is not HTTP"),
        (b"PUT /webhooks/up HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "another method than POST"),
    ] {
        let log = LogCapture::default();
        let _listening = log.install_at(Level::TRACE);
        let harness = start_with_all_sources("").await;
        for _ in 0..3 {
            let mut stream = connect_http(&harness).await;
            stream.write_all(words).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        let warnings = log.lines_with(&[" WARN "]);
        assert!(warnings.len() == 1 && warnings[0].contains(remedy), "{warnings:#?}");
    }
}

#[tokio::test]
async fn stores_every_event_of_a_burst() {
    let harness = start_with_all_sources("").await;
    for some in 0..8 {
        let posts = (0..250).map(async |number: u32| {
            let (_, body) = signed_event("up", &(some * 250 + number).to_string());
            harness.post(body).await
        });
        assert!(join_all(posts).await.iter().all(|answer| *answer == 200));
    }
    assert!((0..2000).all(|number| harness.journal_contains(format!("\"id\":\"{number}\"").as_bytes())));
}

#[tokio::test]
async fn stop_answers_requests_in_progress() {
    let harness = start_with_all_sources("").await;
    let (_, body) = signed_event("up", "1");
    let mut stream = connect_http(&harness).await;
    let head = format!("POST /webhooks/up HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let (first, rest) = body.split_at(10);
    stream.write_all(first).await.unwrap();
    // The request is in progress once the one after it has its response.
    assert_eq!(harness.post(signed_event("up", "2").1).await, 200);
    let WebhookHarness { daemon, .. } = harness;
    let stopped = tokio::spawn(daemon.stop());
    stream.write_all(rest).await.unwrap();
    assert_eq!(send_request(&mut stream, "").await, 200);
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    stopped.await.unwrap();
}

/// Starts a relay with Mailgun as upstream and all other sources.
async fn start_with_all_sources(http: &str) -> WebhookHarness {
    let more = format!(
        "webhook_signing_key = \"key\"\n\n\
         [[upstream]]\nname = \"brevo\"\nprovider = \"brevo\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\n\
         username = \"u\"\npassword = \"p\"\nwebhook_token = \"brevo-secret\"\n\
         [[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = \"the-secret-of-the-other-one\"\n\
         [[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\nsecret = \"the-secret-of-the-campaigns\"\n{http}"
    );
    WebhookHarness::start_at(START_SECONDS, "mailgun", &more).await
}

type HeaderFields = Vec<(&'static str, String)>;

/// An event of that number, as the source signs it.
fn signed_event(source: &str, number: &str) -> (HeaderFields, Vec<u8>) {
    let at = START_SECONDS.to_string();
    if source == "up" {
        let signature = mailgun::sign_webhook(&Secret::new("key"), &at, number);
        let signature = json!({"timestamp": at, "token": number, "signature": signature});
        let data = json!({"event": "delivered", "id": number, "timestamp": START_SECONDS});
        return (Vec::new(), json!({"signature": signature, "event-data": data}).to_string().into_bytes());
    }
    let body = json!({"event": "delivered"}).to_string().into_bytes();
    let made =
        generic::sign_request(&Secret::new("the-secret-of-the-other-one"), number, &at, &body).unwrap();
    (vec![("webhook-id", number.to_owned()), ("webhook-timestamp", at), ("webhook-signature", made)], body)
}

async fn connect_http(harness: &WebhookHarness) -> TcpStream {
    TcpStream::connect(harness.daemon.http_address().unwrap()).await.unwrap()
}

/// Sends a request; reads the head of the response and the body `ok` or `ready`.
async fn send_request(stream: &mut TcpStream, request: &str) -> u16 {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        (body.len() >= length.unwrap_or(0)).then(|| head[9..12].parse().unwrap())
    };
    loop {
        if let Some(status) = whole(&answer) {
            return status;
        }
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed before an answer");
    }
}
