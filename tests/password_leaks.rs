//! A process of its own, because it captures the log of all threads and counts with a global metrics recorder.
//!
//! Logins: the cost of a refusal, and no password in logs, metrics or files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use testkit::relay::{PASSWORD, Relay, USER};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;

static CAPTURED_LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct CaptureWriter;

impl io::Write for CaptureWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED_LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn limits_rate_per_user() {
    let sink = SmtpSink::start().await;
    let user = "[[user]]\nname = \"shop\"\npassword = \"counted\"\nrate = \"2/day\"";
    let relay = Relay::start(&sink, user).await;
    for (user, password, expected) in
        [("shop", "counted", [250, 250, 450]), (USER, PASSWORD, [250; 3]), ("shop", "counted", [450; 3])]
    {
        let client = SmtpClient::connect(relay.guarded()).await.unwrap();
        let mut client = client.start_tls(&relay.tls_connector()).await.unwrap();
        assert_eq!(
            client.command(&format!("AUTH PLAIN {}", sasl_plain(user, password))).await.unwrap().0,
            235
        );
        for code in expected {
            let (answer, text) = client.command("MAIL FROM:<a@example.com>").await.unwrap();
            assert_eq!(answer, code, "{user}: {text}");
            client.command("RSET").await.unwrap();
        }
    }
}

/// After a restart, wrong guesses come from a user's own address before the user's first login: another program
/// behind the same gateway has an old password. Odoo's mail continues.
#[tokio::test]
async fn restart_keeps_users_with_earlier_logins_from_being_locked_out() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::with_limits(&sink, "login_failures = 3");
    process.start().await;
    let guarded = process.address(0);
    let trust = mailtrail_net::tls::build_connector(Some(&process.data_dir().join("tls/relay.pem"))).unwrap();
    let mut odoo = SmtpClient::log_in(guarded, &trust).await.unwrap();
    odoo.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\n").await.unwrap();
    assert!(process.terminate().await.success());
    process.start().await;
    let mut other = SmtpClient::connect(guarded).await.unwrap().start_tls(&trust).await.unwrap();
    for (password, code) in [("old-1", 535), ("old-2", 535), ("old-3", 454)] {
        let (answer, text) =
            other.command(&format!("AUTH PLAIN {}", sasl_plain(USER, password))).await.unwrap();
        assert_eq!(answer, code, "{text}");
    }
    let mut odoo = SmtpClient::log_in(guarded, &trust).await.unwrap();
    odoo.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\n").await.unwrap();
    assert!(process.terminate().await.success());
}

/// The only one here that is refused logins in this process: log and metrics are the process's.
#[tokio::test]
async fn never_writes_passwords_and_counts_failed_logins() {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.with_writer(|| CaptureWriter).finish()).unwrap();
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "login_failures = 3").await;
    let secured = async || {
        let client = SmtpClient::connect(relay.guarded()).await.unwrap();
        client.start_tls(&relay.tls_connector()).await.unwrap()
    };
    let wrong = ["wrong-secret-1", "wrong-secret-2", "wrong-secret-3"];
    for password in [wrong[0], wrong[1], PASSWORD] {
        let (plain, [user, word]) = (sasl_plain(USER, password), [USER, password].map(encode_base64));
        let code = if password == PASSWORD { 235 } else { 535 };
        for lines in [
            &[format!("AUTH PLAIN {plain}")][..],
            &["AUTH PLAIN".to_owned(), plain.clone()],
            &[format!("AUTH LOGIN {user}"), word.clone()],
            &["AUTH LOGIN".to_owned(), user.clone(), word.clone()],
        ] {
            let mut client = secured().await;
            let mut answer = 0;
            for line in lines {
                answer = client.command(line).await.unwrap().0;
            }
            assert_eq!(answer, code, "{lines:?}");
            if code == 235 {
                client.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\n").await.unwrap();
            }
        }
    }
    // On a listener without authentication, in a form that is no login.
    let mut client = secured().await;
    for line in [format!("AUTH PLAIN {PASSWORD}"), format!("AUTH {PASSWORD}"), PASSWORD.to_owned()] {
        assert!(client.command(&line).await.unwrap().0 >= 500);
    }
    let mut open = SmtpClient::connect(relay.open()).await.unwrap();
    open.command(&format!("AUTH PLAIN {}", sasl_plain(USER, PASSWORD))).await.unwrap();
    guess_until_locked_out(&relay, &mut client, &wrong).await;
    let rendered = metrics.render();
    for line in [
        "mailtrail_smtp_logins_refused_total{reason=\"credentials\"} 8",
        "mailtrail_smtp_logins_refused_total{reason=\"locked_out\"} 4",
        "mailtrail_smtp_lockouts_total 1",
        "mailtrail_smtp_rejected_total{reason=\"535\"} 8",
        "mailtrail_smtp_rejected_total{reason=\"454\"} 4",
    ] {
        assert!(rendered.lines().any(|rendered| rendered == line), "{line} is not in\n{rendered}");
    }
    let (_store, directory) = relay.stop().await;
    let log = String::from_utf8(CAPTURED_LOG.lock().unwrap().clone()).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("wrong user name or password")).count(), 2);
    let forms: Vec<_> = wrong.into_iter().chain([PASSWORD]).flat_map(password_encodings).collect();
    for form in &forms {
        assert!(!log.contains(form), "{form} was logged");
    }
    assert_absent_in_files(directory.path(), &forms);
}

async fn guess_until_locked_out(relay: &Relay, client: &mut SmtpClient, wrong: &[&str]) {
    for password in wrong {
        let (code, _) =
            client.command(&format!("AUTH PLAIN {}", sasl_plain("nobody", password))).await.unwrap();
        assert_eq!(code, 454, "two of the user's were wrong before");
    }
    // Refused unseen, and the user that logged in rightly before is not.
    let answer = client.command(&format!("AUTH PLAIN {}", sasl_plain("nobody", PASSWORD))).await.unwrap();
    assert_eq!(answer.1, "454 4.7.0 Too many failed logins from your address, try again later");
    SmtpClient::log_in(relay.guarded(), &relay.tls_connector()).await.unwrap();
    SmtpClient::connect(relay.open()).await.unwrap();
}

fn encode_base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn sasl_plain(user: &str, password: &str) -> String {
    encode_base64(&format!("\0{user}\0{password}"))
}

/// Returns the forms of a password: plain, and encoded as in each mechanism.
fn password_encodings(password: &str) -> Vec<String> {
    vec![
        password.to_owned(),
        encode_base64(password),
        sasl_plain(USER, password),
        sasl_plain("nobody", password),
    ]
}

/// Checks that the stored files contain none of them.
fn assert_absent_in_files(directory: &Path, forms: &[String]) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_absent_in_files(&path, forms);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!forms.iter().any(|form| text.contains(form)), "in {}", path.display());
        }
    }
}
