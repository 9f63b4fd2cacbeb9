//! TLS as clients see it: certificates that log in, certificates that change, versions.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::tls::{certificate_identities, self_signed_files};
use metrics_exporter_prometheus::PrometheusBuilder;
use rcgen::{KeyPair, SanType};
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeMap;
use std::io::{self};
use std::net::SocketAddr;
use tempfile::TempDir;
use testkit::log_capture::LogCapture;
use testkit::relay::{PASSWORD, USER};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;
use testkit::test_ca::{TestCa, client_hello, dns_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A relay with a certificate of `authority`'s and two doors, STARTTLS and implicit TLS.
struct TlsTestRelay {
    daemon: Daemon,
    directory: TempDir,
}

impl TlsTestRelay {
    async fn start(authority: &TestCa, sink: &SmtpSink, users: &str, clock: Clock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        authority.issue(dns_name("localhost")).write(directory.path());
        std::fs::write(directory.path().join("clients.pem"), authority.0.pem()).unwrap();
        let text = format!(
            r#"
[server]
hostname = "relay.example.com"
data_dir = "data"
[[listener]]
address = "127.0.0.1:0"
client_ca_file = "clients.pem"
[[listener]]
address = "127.0.0.1:0"
tls = "implicit"
client_ca_file = "clients.pem"
[tls]
certificate = "relay.pem"
private_key = "relay.key"
[[user]]
name = "{USER}"
password = "{PASSWORD}"
{users}
[[upstream]]
name = "sink"
provider = "plain"
host = "127.0.0.1"
port = {}
tls = "none"
"#,
            sink.port()
        );
        let path = directory.path().join("mailtrail.toml");
        let config = config::parse(&text, &path, &BTreeMap::new()).unwrap();
        Self { daemon: Daemon::start(&config, clock, None).await.unwrap(), directory }
    }

    fn implicit(&self) -> SocketAddr {
        self.daemon.smtp_addresses()[1]
    }

    /// A client at each of the two doors.
    async fn connect_both(&self, connector: &TlsConnector) -> io::Result<[SmtpClient; 2]> {
        let plain = SmtpClient::connect(self.daemon.smtp_addresses()[0]).await?;
        let first = plain.start_tls(connector).await?;
        Ok([first, SmtpClient::connect_tls(self.implicit(), connector).await?])
    }

    /// The user that a message came from.
    async fn submitting_user(&self, client: &mut SmtpClient) -> Option<String> {
        let id = client.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\n").await.unwrap();
        let id = id.parse().unwrap();
        testkit::eventually("the ledger knows it", || self.daemon.store().load_message(id).unwrap())
            .await
            .user
    }
}

#[tokio::test]
async fn client_certificate_authenticates() {
    let (authority, sink) = (TestCa::generate(), SmtpSink::start().await);
    let (named, mailed, marked, unknown) = (
        authority.issue(dns_name("shop.example.com")),
        authority.issue(SanType::Rfc822Name("till@example.com".try_into().unwrap())),
        authority.issue(dns_name("some.example.com")),
        authority.issue(dns_name("other.example.com")),
    );
    let users = format!(
        "[[user]]\nname = \"shop\"\ncertificates = [\"Shop.example.com\"]\n\
         [[user]]\nname = \"till\"\ncertificates = [\"till@example.com\"]\n\
         [[user]]\nname = \"crm\"\ncertificates = [{:?}]\n",
        certificate_identities(&marked.certificate)[0]
    );
    let harness = TlsTestRelay::start(&authority, &sink, &users, Clock::System).await;
    let password = BASE64_STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
    for (identity, user) in [(&named, "shop"), (&mailed, "till"), (&marked, "crm")] {
        let connector = authority.connector(Some(identity));
        // The second time the session is resumed.
        for _ in 0..2 {
            for mut client in harness.connect_both(&connector).await.unwrap() {
                assert_eq!(harness.submitting_user(&mut client).await.as_deref(), Some(user), "without AUTH");
                assert_eq!(client.command("AUTH EXTERNAL =").await.unwrap().0, 235);
                assert_eq!(harness.submitting_user(&mut client).await.as_deref(), Some(user));
            }
        }
        for mut client in harness.connect_both(&connector).await.unwrap() {
            assert_eq!(client.command(&format!("AUTH PLAIN {password}")).await.unwrap().0, 235);
            assert_eq!(
                harness.submitting_user(&mut client).await.as_deref(),
                Some(USER),
                "a password goes first"
            );
        }
    }
    for identity in [None, Some(&unknown)] {
        for mut client in harness.connect_both(&authority.connector(identity)).await.unwrap() {
            assert_eq!(client.command("AUTH EXTERNAL =").await.unwrap().0, 504);
            assert_eq!(client.command("MAIL FROM:<a@example.com>").await.unwrap().0, 530);
            assert_eq!(client.command(&format!("AUTH PLAIN {password}")).await.unwrap().0, 235);
            assert_eq!(harness.submitting_user(&mut client).await.as_deref(), Some(USER));
        }
    }
}

#[tokio::test]
async fn rejects_client_certificate_of_other_ca() {
    let (authority, foreign_client, sink) = (TestCa::generate(), TestCa::generate(), SmtpSink::start().await);
    let users = "[[user]]\nname = \"shop\"\ncertificates = [\"shop.example.com\"]\n";
    let harness = TlsTestRelay::start(&authority, &sink, users, Clock::System).await;
    let forged = foreign_client.issue(dns_name("shop.example.com"));
    assert!(harness.connect_both(&authority.connector(Some(&forged))).await.is_err());
    assert!(harness.connect_both(&authority.connector(None)).await.is_ok());
}

/// The certificate that new connections are shown.
async fn peer_certificate(
    address: SocketAddr,
    connector: &TlsConnector,
) -> io::Result<CertificateDer<'static>> {
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, TcpStream::connect(address).await?).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    Ok(certificates[0].clone().into_owned())
}

#[tokio::test]
async fn uses_new_certificate_for_new_connections_and_ignores_bad_one() {
    let (authority, sink) = (TestCa::generate(), SmtpSink::start().await);
    let mut harness = TlsTestRelay::start(&authority, &sink, "", Clock::System).await;
    let trust = || authority.connector(None);
    let before = peer_certificate(harness.implicit(), &trust()).await.unwrap();
    let mut sessions = harness.connect_both(&trust()).await.unwrap();
    let fresh = authority.issue(dns_name("localhost"));
    fresh.write(harness.directory.path());
    harness.daemon.reload(harness.daemon.config().clone()).unwrap();
    assert_ne!(before, fresh.certificate);
    assert_eq!(peer_certificate(harness.implicit(), &trust()).await.unwrap(), fresh.certificate);
    std::fs::write(harness.directory.path().join("relay.key"), KeyPair::generate().unwrap().serialize_pem())
        .unwrap();
    let refused = harness.daemon.reload(harness.daemon.config().clone()).unwrap_err().to_string();
    assert!(refused.contains("give the key that belongs to the first certificate"), "{refused}");
    assert_eq!(peer_certificate(harness.implicit(), &trust()).await.unwrap(), fresh.certificate);
    let password = BASE64_STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
    for session in &mut sessions {
        assert_eq!(session.command(&format!("AUTH PLAIN {password}")).await.unwrap().0, 235, "it goes on");
        assert_eq!(harness.submitting_user(session).await.as_deref(), Some(USER));
    }
}

#[tokio::test]
async fn reload_uses_new_certificate() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let other = tempfile::tempdir().unwrap();
    let fresh = self_signed_files(other.path(), "localhost").unwrap();
    let trust = mailtrail_net::tls::build_connector(Some(&fresh.certificate)).unwrap();
    assert!(SmtpClient::log_in(process.address(0), &trust).await.is_err());
    for name in ["relay.pem", "relay.key"] {
        std::fs::copy(other.path().join(name), process.data_dir().join("tls").join(name)).unwrap();
    }
    process.send_sighup().await;
    let started = std::time::Instant::now();
    while SmtpClient::log_in(process.address(0), &trust).await.is_err() {
        // Well within the minute after which it would look by itself.
        assert!(started.elapsed() < testkit::WAIT_TIMEOUT);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn exports_and_logs_certificate_expiry() {
    let log = LogCapture::default();
    let _logging = log.install();
    let recorder = PrometheusBuilder::new().build_recorder();
    let (metrics, _counting) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let (authority, sink) = (TestCa::generate(), SmtpSink::start().await);
    let before = Timestamp::from_secs(EXPIRY_SECONDS - 12 * 86_400 - 3600);
    let harness = TlsTestRelay::start(&authority, &sink, "", Clock::tokio_time(before)).await;
    let path = harness.directory.path().join("relay.pem").display().to_string();
    let line =
        format!("mailtrail_tls_certificate_expiry_timestamp_seconds{{file={path:?}}} {EXPIRY_SECONDS}");
    testkit::eventually("the expiry is measured", || metrics.render().contains(&line).then_some(())).await;
    let output = |text: &&str| text.contains("expires soon") && text.contains(&path);
    testkit::eventually("it is announced", || log.text().lines().any(|line| output(&line)).then_some(()))
        .await;
    let text = log.text();
    let output: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(output.len(), 1, "the authority lasts: {output:?}");
    assert!(output[0].contains("expiry=2027-01-02T00:00:00.000Z days=12"), "{}", output[0]);
}

/// 2027-01-02, in Unix seconds.
const EXPIRY_SECONDS: u64 = 1_798_848_000;

#[tokio::test]
async fn rejects_versions_below_tls_1_2() {
    let (authority, sink) = (TestCa::generate(), SmtpSink::start().await);
    let harness = TlsTestRelay::start(&authority, &sink, "", Clock::System).await;
    for (minor, expected) in
        [(1, PROTOCOL_VERSION_ALERT), (2, PROTOCOL_VERSION_ALERT), (3, SERVER_HELLO_RECORD)]
    {
        let mut stream = TcpStream::connect(harness.implicit()).await.unwrap();
        stream.write_all(&client_hello(minor)).await.unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.unwrap();
        // The type is followed by version and length of the record.
        let seen = if answer[0] == 0x15 { [answer[0], answer[6]] } else { [answer[0], answer[5]] };
        assert_eq!(seen, expected, "TLS 1.{}", minor - 1);
    }
}

/// An alert (RFC 8446 section 6) with its description.
const PROTOCOL_VERSION_ALERT: [u8; 2] = [0x15, 70];
/// A handshake record with its first message.
const SERVER_HELLO_RECORD: [u8; 2] = [0x16, 2];
