//! Webhooks over TLS without a web server in front: protocols, changed certificates, and clients that are too many,
//! too slow or too large.

use mailtrail_mail::Secret;
use mailtrail_trail::provider::mailgun;
use metrics_exporter_prometheus::PrometheusBuilder;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use testkit::log_capture::LogCapture;
use testkit::relay_process::RelayProcess;
use testkit::test_ca::{TestCa, client_hello, dns_name};
use testkit::webhook_harness::{START_SECONDS, WebhookHarness};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::Level;

#[tokio::test]
async fn serves_http_1_1_over_tls_only() {
    let (authority, harness) = (TestCa::generate(), TlsWebhookRelay::new("").await);
    let harness = harness.start_with_certificate(&authority).await;
    for (protocols, spoken) in
        [(&[][..], None), (&["http/1.1"], Some(&b"http/1.1"[..])), (&["h2", "http/1.1"], Some(b"http/1.1"))]
    {
        let mut stream =
            connect_tls(harness.address(), &authority.connector_with_alpn(protocols)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), spoken);
        assert_eq!(send_request(&mut stream, HEALTH_REQUEST).await, 200);
        assert_eq!(
            send_request(&mut stream, &webhook_request("up", &signed_event("1"))).await,
            200,
            "on the same connection"
        );
    }
    let refused = connect_tls(harness.address(), &authority.connector_with_alpn(&["h2"])).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let mut clear = TcpStream::connect(harness.address()).await.unwrap();
    clear.write_all(HEALTH_REQUEST.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The connection may be reset.
    let _ = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn failed_handshake_logs_one_warning_with_remedy_and_is_counted() {
    let authority = TestCa::generate();
    let foreign_client = mailtrail_net::tls::build_connector(None).unwrap();
    let namesake = TestCa::generate().connector_with_alpn(&[]);
    for (client, reason, remedy) in [
        (
            &Handshake::Clear(HEALTH_REQUEST.as_bytes()),
            "clear-on-tls-port",
            "begin the provider's address with https://",
        ),
        (&Handshake::Clear(b"EHLO client\r\n"), "clear-on-tls-port", "or see `tls` in [http]"),
        (&Handshake::Old(1), "tls-version", "it needs TLS 1.2"),
        (&Handshake::Old(2), "tls-version", "it needs TLS 1.2"),
        (
            &Handshake::Distrustful(&foreign_client),
            "certificate-distrusted",
            "`certificate` in [tls] or [http]",
        ),
        (&Handshake::Distrustful(&namesake), "certificate-distrusted", "`certificate` in [tls] or [http]"),
        (&Handshake::Broken, "tls-left", "`certificate` in [tls] or [http]"),
    ] {
        let log = LogCapture::default();
        let _listening = log.install_at(Level::TRACE);
        let recorder = PrometheusBuilder::new().build_recorder();
        let _counting = metrics::set_default_local_recorder(&recorder);
        // A relay of its own: a minute is long.
        let harness = TlsWebhookRelay::new("").await.start_with_certificate(&authority).await;
        for _ in 0..3 {
            client.fail(harness.address()).await;
        }
        let counted = format!("mailtrail_client_refusals_total{{reason=\"{reason}\"}} 3");
        testkit::eventually(&counted, || recorder.handle().render().contains(&counted).then_some(())).await;
        let warnings = log.lines_with(&[" WARN "]);
        assert!(warnings.len() == 1 && warnings[0].contains(remedy), "{reason}: {warnings:#?}");
        assert!(warnings[0].contains("peer=127.0.0.1"), "{warnings:#?}");
        // The others are served.
        let mut stream = connect_tls(harness.address(), &authority.connector_with_alpn(&[])).await.unwrap();
        assert_eq!(send_request(&mut stream, HEALTH_REQUEST).await, 200, "{reason}");
    }
}

/// Client that fails to connect with TLS.
enum Handshake<'a> {
    /// Another protocol.
    Clear(&'a [u8]),
    /// At most TLS 1.0, or 1.1.
    Old(u8),
    /// An authority that did not certify the relay.
    Distrustful(&'a TlsConnector),
    /// The client disconnects in the handshake.
    Broken,
}

impl Handshake<'_> {
    async fn fail(&self, address: SocketAddr) {
        let hello = client_hello(3);
        let begun = match self {
            Self::Distrustful(trust) => {
                let error = connect_tls(address, trust).await.unwrap_err().to_string();
                return assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
            }
            Self::Clear(words) => words.to_vec(),
            Self::Old(minor) => client_hello(*minor),
            Self::Broken => hello[..hello.len() / 2].to_vec(),
        };
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&begun).await.unwrap();
        if matches!(self, Self::Broken) {
            stream.shutdown().await.unwrap();
        }
        // The connection may be reset.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

/// Time advances at once while no task is active.
#[tokio::test(start_paused = true)]
async fn slow_handshakes_and_requests_time_out() {
    let log = LogCapture::default();
    let _listening = log.install_at(Level::TRACE);
    let authority = TestCa::generate();
    let harness = TlsWebhookRelay::new("").await.start_with_certificate(&authority).await;
    // The record of a ClientHello with its length, and no more.
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut stream = TcpStream::connect(harness.address()).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let started = tokio::time::Instant::now();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let waited = started.elapsed();
        assert!((Duration::from_secs(25)..Duration::from_secs(60)).contains(&waited), "{waited:?}");
    }
    let warnings = log.lines_with(&[" WARN "]);
    assert!(
        warnings.len() == 1 && warnings[0].contains("no whole TLS handshake came in time"),
        "{warnings:#?}"
    );
    let trust = authority.connector_with_alpn(&[]);
    for begun in ["", "POST /webhooks/up HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A connection that times out gets no close notification.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{begun}");
    }
    let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
    let request = "POST /webhooks/up HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    assert_eq!(send_request(&mut stream, request).await, 503);
}

#[tokio::test]
async fn silent_connection_counts_against_limit() {
    let authority = TestCa::generate();
    let harness = TlsWebhookRelay::new("connections = 2\n").await.start_with_certificate(&authority).await;
    let trust = authority.connector_with_alpn(&[]);
    let silent = [(); 2].map(|()| TcpStream::connect(harness.address()));
    let [one, two] = silent;
    let silent = [one.await.unwrap(), two.await.unwrap()];
    let mut third = connect_tls(harness.address(), &trust).await.unwrap();
    assert_eq!(send_request(&mut third, &webhook_request("up", &signed_event("1"))).await, 503);
    assert_eq!(third.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    drop(silent);
    // The places are free as soon as the relay has seen that.
    let again = async {
        loop {
            let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
            if send_request(&mut stream, &webhook_request("up", &signed_event("2"))).await == 200 {
                break;
            }
        }
    };
    tokio::time::timeout(testkit::WAIT_TIMEOUT, again).await.unwrap();
}

#[tokio::test]
async fn limits_connections_per_address_except_for_proxies() {
    for (proxies, fourth) in [("[]", 503), ("[\"127.0.0.1\"]", 200)] {
        let authority = TestCa::generate();
        let limits = format!("proxies = {proxies}\nconnections_per_ip = 3\n");
        let harness = TlsWebhookRelay::new(&limits).await.start_with_certificate(&authority).await;
        let trust = authority.connector_with_alpn(&[]);
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
            assert_eq!(send_request(&mut stream, HEALTH_REQUEST).await, 200);
            held.push(stream);
        }
        let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
        assert_eq!(
            send_request(&mut stream, &webhook_request("up", &signed_event("1"))).await,
            fourth,
            "{proxies}"
        );
        for stream in &mut held {
            assert_eq!(send_request(stream, HEALTH_REQUEST).await, 200, "those who are here go on");
        }
    }
}

#[tokio::test]
async fn limits_header_and_body_size() {
    let authority = TestCa::generate();
    let harness = TlsWebhookRelay::new("").await.start_with_certificate(&authority).await;
    let trust = authority.connector_with_alpn(&[]);
    let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
    let head = format!("POST /webhooks/up HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(send_request(&mut stream, &head).await, 431);
    let mut stream = connect_tls(harness.address(), &trust).await.unwrap();
    let long = "POST /webhooks/up HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n";
    assert_eq!(send_request(&mut stream, long).await, 413);
}

#[tokio::test(start_paused = true)]
async fn reloads_changed_certificate_within_a_minute() {
    let authority = TestCa::generate();
    let harness = TlsWebhookRelay::new("").await.start_with_certificate(&authority).await;
    let trust = authority.connector_with_alpn(&[]);
    let before = peer_certificate(harness.address(), &trust).await.unwrap();
    let fresh = authority.issue(dns_name("localhost"));
    fresh.write(harness.files.path());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_ne!(before, fresh.certificate);
    assert_eq!(peer_certificate(harness.address(), &trust).await.unwrap(), fresh.certificate);
    // An unusable certificate changes nothing.
    std::fs::write(harness.files.path().join("relay.key"), KeyPair::generate().unwrap().serialize_pem())
        .unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(peer_certificate(harness.address(), &trust).await.unwrap(), fresh.certificate);
}

#[tokio::test]
async fn reload_uses_new_certificate_and_finishes_open_requests() {
    let authority = TestCa::generate();
    let mut process = RelayProcess::with_configuration(|data_dir, [http, listener, _]| {
        format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {data_dir:?}\n\
             [[listener]]\naddress = \"127.0.0.1:{listener}\"\ntls = \"none\"\nauth = \"none\"\n\
             [tls]\ncertificate = \"relay.pem\"\nprivate_key = \"relay.key\"\n\
             [http]\naddress = \"127.0.0.1:{http}\"\ntls = \"implicit\"\n\
             [[upstream]]\nname = \"up\"\nprovider = \"mailgun\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\n\
             username = \"u\"\npassword = \"p\"\nwebhook_signing_key = \"key\"\n"
        )
    });
    authority.issue(dns_name("localhost")).write(process.directory());
    process.start().await;
    let (address, trust) = (process.address(0), authority.connector_with_alpn(&[]));
    let mut under_way = connect_tls(address, &trust).await.unwrap();
    let body = signed_event_at(mailtrail_mail::Clock::System.now().as_secs(), "1");
    let request = webhook_request("up", &body);
    let (first, rest) = request.split_at(request.len() - 10);
    under_way.write_all(first.as_bytes()).await.unwrap();
    // The request is in progress once the one after it has its response.
    assert_eq!(send_request(&mut connect_tls(address, &trust).await.unwrap(), HEALTH_REQUEST).await, 200);
    let fresh = authority.issue(dns_name("localhost"));
    fresh.write(process.directory());
    process.send_sighup().await;
    let started = std::time::Instant::now();
    while peer_certificate(address, &trust).await.unwrap() != fresh.certificate {
        // Well within the minute after which it would look by itself.
        assert!(started.elapsed() < testkit::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(send_request(&mut under_way, rest).await, 200);
    assert!(process.terminate().await.success());
}

/// A relay in this process that takes webhooks over TLS.
struct TlsWebhookRelay {
    relay: Option<WebhookHarness>,
    limits: String,
    files: TempDir,
}

impl TlsWebhookRelay {
    async fn new(limits: &str) -> Self {
        Self { relay: None, limits: limits.to_owned(), files: tempfile::tempdir().unwrap() }
    }

    async fn start_with_certificate(mut self, authority: &TestCa) -> Self {
        authority.issue(dns_name("localhost")).write(self.files.path());
        let file = |name: &str| self.files.path().join(name).display().to_string();
        let more = format!(
            "webhook_signing_key = \"key\"\n\n[http]\ntls = \"implicit\"\ncertificate = {:?}\nprivate_key = {:?}\n{}",
            file("relay.pem"),
            file("relay.key"),
            self.limits
        );
        self.relay = Some(WebhookHarness::start_at(START_SECONDS, "mailgun", &more).await);
        self
    }

    fn address(&self) -> SocketAddr {
        self.relay.as_ref().unwrap().daemon.http_address().unwrap()
    }
}

async fn connect_tls(address: SocketAddr, trust: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    trust.connect(name, TcpStream::connect(address).await?).await
}

/// The certificate that new connections are shown.
async fn peer_certificate(address: SocketAddr, trust: &TlsConnector) -> io::Result<CertificateDer<'static>> {
    let stream = connect_tls(address, trust).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Sends a request; reads the head of the response and the body `ok`.
async fn send_request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> u16 {
    // A client that is rejected early may find its connection closed.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lengths = head.lines().filter_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|length| length.parse::<usize>().unwrap())
            });
            if body.len() >= lengths.next().unwrap_or(0) {
                return head[9..12].parse().unwrap();
            }
        }
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed before an answer");
    }
}

fn webhook_request(source: &str, body: &str) -> String {
    format!("POST /webhooks/{source} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn signed_event(number: &str) -> String {
    signed_event_at(START_SECONDS, number)
}

/// An event of that number, as Mailgun signs it.
fn signed_event_at(at: u64, number: &str) -> String {
    let signature = mailgun::sign_webhook(&Secret::new("key"), &at.to_string(), number);
    let signature = json!({"timestamp": at.to_string(), "token": number, "signature": signature});
    let data = json!({"event": "delivered", "id": number, "timestamp": at});
    json!({"signature": signature, "event-data": data}).to_string()
}

const HEALTH_REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
