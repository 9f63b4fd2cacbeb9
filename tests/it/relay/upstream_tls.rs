//! TLS to the upstream: no data to a server without a valid certificate and none in plaintext. The alarm comes at
//! once, and the mail waits until the fault is mended.

use mailtrail_net::tls;
use mailtrail_trail::{AttemptStatus, RecipientState};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::{QueueHarness, accepted_mail, attempt_results, recipient_states};
use tokio_rustls::TlsAcceptor;

#[tokio::test(start_paused = true)]
async fn sends_nothing_to_server_with_invalid_certificate() {
    let (sandbox, foreign_client) = (ServerCa::new(), ServerCa::new());
    let right = || SanType::IpAddress([127, 0, 0, 1].into());
    let wrong = SanType::DnsName("other.example.net".try_into().unwrap());
    for (what, shown) in [
        ("another name", sandbox.server_acceptor(wrong.clone(), 2040)),
        ("an unknown authority", foreign_client.server_acceptor(right(), 2040)),
        ("expired", sandbox.server_acceptor(right(), 2020)),
    ] {
        for implicit in [false, true] {
            let context = format!("{what}, implicit: {implicit}");
            let log = LogCapture::default();
            let _logging = log.install();
            let mut script = SmtpScript::new();
            script.capabilities.extend(["AUTH PLAIN", "STARTTLS"]);
            (script.tls, script.implicit_tls) = (Some(shown.clone()), implicit);
            let server = MockSmtpServer::start(script).await;
            let mut harness = QueueHarness::with_manual_time(
                server.clone(),
                &upstream_settings(implicit, Some(&sandbox.ca_file())),
            )
            .await;
            let id = harness.enqueue(1, &["a@example.net"]).await;
            harness.wait_until(&context, || log.lines("certificate cannot be trusted").len() == 1).await;
            harness.wait_until("its attempt", || harness.load_trail(id).attempts == 1).await;
            harness.let_time_pass(Duration::from_secs(600)).await;
            let trail = harness.load_trail(id);
            assert_eq!(
                (recipient_states(&trail), trail.attempts),
                (vec![RecipientState::Queued], 1),
                "{context}"
            );
            assert!(trail.next_attempt.is_some(), "{context}");
            let alarms = log.lines("ERROR");
            assert!(alarms.len() == 1 && alarms[0].contains("ca_file"), "{context}: {alarms:#?}");
            let received = server.commands();
            let harmless = |line: &String| line.contains("EHLO") || line.contains("STARTTLS");
            assert!(received.iter().all(harmless), "{context}: {received:?}");
            assert!((2..=5).contains(&server.connections()), "{context}: {}", server.connections());
            server.with_script(|script| script.tls = Some(sandbox.server_acceptor(right(), 2040)));
            let trail = harness.wait_for_result(id).await;
            assert_eq!(attempt_results(&trail), [AttemptStatus::Queued, AttemptStatus::Relayed], "{context}");
            assert!(
                log.lines("the breaker closed").len() == 1 && log.lines("hunter2").is_empty(),
                "{context}"
            );
            harness.stop().await;
        }
    }
}

/// The certificate of a server anchors trust like an authority's; without it, no server is trusted.
#[tokio::test(start_paused = true)]
async fn trusts_only_configured_ca_file() {
    let own = tempfile::tempdir().unwrap();
    let pair = tls::load_self_signed(own.path(), "localhost").unwrap();
    let itself = own.path().join("relay.pem");
    let sandbox = ServerCa::new();
    let certified = sandbox.server_acceptor(SanType::IpAddress([127, 0, 0, 1].into()), 2040);
    for (acceptor, anchor, trusted) in [
        (tls::build_acceptor(pair.clone()).unwrap(), Some(itself.clone()), true),
        (certified.clone(), Some(sandbox.ca_file()), true),
        (tls::build_acceptor(pair).unwrap(), None, false),
        (certified, Some(itself), false),
    ] {
        let mut script = SmtpScript::new();
        script.capabilities.extend(["AUTH PLAIN", "STARTTLS"]);
        script.tls = Some(acceptor);
        let text = upstream_settings(false, anchor.as_deref());
        let mut harness = QueueHarness::with_manual_time(MockSmtpServer::start(script).await, &text).await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        harness.let_time_pass(Duration::from_secs(600)).await;
        let expected = if trusted { RecipientState::Relayed } else { RecipientState::Queued };
        assert_eq!(recipient_states(&harness.load_trail(id)), [expected], "{anchor:?}");
        assert_eq!(harness.command_count("AUTH") > 0, trusted, "{anchor:?}");
        harness.stop().await;
    }
}

/// An attacker removes STARTTLS from the reply.
#[tokio::test(start_paused = true)]
async fn missing_starttls_holds_mail_and_raises_alarm() {
    let log = LogCapture::default();
    let _logging = log.install();
    let sandbox = ServerCa::new();
    let mut script = SmtpScript::new();
    script.capabilities.push("AUTH PLAIN");
    script.tls = Some(sandbox.server_acceptor(SanType::IpAddress([127, 0, 0, 1].into()), 2040));
    let mut harness = QueueHarness::with_manual_time(
        MockSmtpServer::start(script).await,
        &upstream_settings(false, Some(&sandbox.ca_file())),
    )
    .await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("the alarm", || log.lines("does not offer STARTTLS").len() == 1).await;
    assert_eq!(log.lines("ERROR").len(), 1, "{:#?}", log.lines("ERROR"));
    harness.let_time_pass(Duration::from_secs(1200)).await;
    assert_eq!(
        (recipient_states(&harness.load_trail(id)), harness.load_trail(id).attempts),
        (vec![RecipientState::Queued], 1)
    );
    assert!(
        harness.server.commands().iter().all(|line| line.contains("EHLO")),
        "{:?}",
        harness.server.commands()
    );
    harness.server.with_script(|script| script.capabilities.push("STARTTLS"));
    let trail = harness.wait_for_result(id).await;
    assert_eq!(attempt_results(&trail), [AttemptStatus::Queued, AttemptStatus::Relayed]);
    assert_eq!(harness.server.accepted(), [accepted_mail(harness.server.connections(), 1)]);
    harness.stop().await;
}

/// 535 is an operator's matter, 454 passes: no mail bounces for either.
#[tokio::test(start_paused = true)]
async fn rejected_login_holds_mail_and_temporary_one_is_retried() {
    for (answer, alarms) in [
        ("535 5.7.8 Authentication failed", 1),
        ("525 5.7.1 Unauthorized IP address", 1),
        ("454 4.7.0 Temporary authentication failure", 0),
        ("421 4.7.0 Too many connections", 0),
    ] {
        let log = LogCapture::default();
        let _logging = log.install();
        let mut script = SmtpScript::new().on(SmtpStep::Auth, [Some(SmtpAction::Reply(answer))]);
        script.capabilities.push("AUTH PLAIN");
        let text = "username = \"u\"\npassword = \"hunter2\"\nconnections = 1";
        let mut harness = QueueHarness::with_manual_time(MockSmtpServer::start(script).await, text).await;
        let began = harness.time.clock().now();
        let trail = harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
        assert_eq!(attempt_results(&trail), [AttemptStatus::Queued, AttemptStatus::Relayed], "{answer}");
        assert_eq!(log.lines("ERROR").len(), alarms, "{answer}: {:#?}", log.lines("ERROR"));
        assert!(log.lines("hunter2").is_empty());
        let waited = harness.time.clock().now().duration_since(began);
        assert_eq!(waited >= Duration::from_secs(300), alarms == 1, "{answer}: {waited:?}");
        harness.stop().await;
    }
}

fn upstream_settings(implicit: bool, anchor: Option<&Path>) -> String {
    let tls = if implicit { "implicit" } else { "starttls" };
    let anchor = anchor.map(|path| format!("ca_file = {:?}", path.display().to_string()));
    let login = "username = \"u\"\npassword = \"hunter2\"\nconnections = 1";
    format!("tls = {tls:?}\n{}\n{login}", anchor.unwrap_or_default())
}

/// An authority that certifies servers, and the file that anchors it.
struct ServerCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl ServerCa {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A server with that name, until that year.
    fn server_acceptor(&self, name: SanType, until: i32) -> TlsAcceptor {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![name];
        parameters.not_before = date_time_ymd(2019, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (chain, private) = (directory.path().join("server.pem"), directory.path().join("server.key"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        tls::build_acceptor(tls::load_certified_key(&chain, &private).unwrap()).unwrap()
    }
}
