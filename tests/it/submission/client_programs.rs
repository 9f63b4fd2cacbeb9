//! Mail programs as they are: each sends one mail through each kind of listener.

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::relay::{PASSWORD, Relay, USER};
use testkit::smtp_sink::{ReceivedMessage, SmtpSink};

const SENDER: &str = "ada@example.com";
const RECIPIENT: &str = "bob@example.net";

/// Way in which a client connects.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    /// STARTTLS and a login.
    StartTls,
    /// TLS from the first byte and a login.
    Implicit,
    /// Neither TLS nor authentication.
    Open,
}

impl Access {
    const ALL: [Self; 3] = [Self::StartTls, Self::Implicit, Self::Open];

    fn as_str(self) -> &'static str {
        match self {
            Self::StartTls => "starttls",
            Self::Implicit => "implicit",
            Self::Open => "open",
        }
    }

    fn address(self, relay: &Relay) -> SocketAddr {
        match self {
            Self::StartTls => relay.guarded(),
            Self::Implicit => relay.implicit(),
            Self::Open => relay.open(),
        }
    }

    /// Protocol in the Received line (RFC 3848).
    fn protocol(self) -> &'static str {
        if self == Self::Open { "ESMTP" } else { "ESMTPSA" }
    }
}

#[tokio::test]
async fn swaks_submits_over_each_listener() {
    run_each_access("swaks", |way, address, _| {
        let mut swaks = Command::new("swaks");
        swaks.args([
            "--from",
            SENDER,
            "--to",
            RECIPIENT,
            "--server",
            &address.to_string(),
            "--body",
            way.as_str(),
        ]);
        match way {
            Access::StartTls => swaks.arg("--tls"),
            Access::Implicit => swaks.arg("--tls-on-connect"),
            Access::Open => return swaks,
        };
        swaks.args(["--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD]);
        swaks
    })
    .await;
}

#[tokio::test]
async fn curl_submits_over_each_listener() {
    let folder = tempfile::tempdir().unwrap();
    run_each_access("curl", |way, address, certificate| {
        let file = folder.path().join(way.as_str());
        std::fs::write(&file, format!("Subject: curl\r\n\r\n{}\r\n", way.as_str())).unwrap();
        let scheme = if way == Access::Implicit { "smtps" } else { "smtp" };
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--mail-from",
            SENDER,
            "--mail-rcpt",
            RECIPIENT,
        ]);
        curl.args(["--url", &format!("{scheme}://{address}/client")]).arg("--upload-file").arg(file);
        if way != Access::Open {
            curl.args(["--ssl-reqd", "--user", &format!("{USER}:{PASSWORD}")])
                .arg("--cacert")
                .arg(certificate);
        }
        curl
    })
    .await;
}

#[tokio::test]
async fn msmtp_submits_over_each_listener() {
    run_each_access("msmtp", |way, address, certificate| {
        let mut msmtp = Command::new("msmtp");
        msmtp.args(["--file=/dev/null", "--host=localhost", &format!("--port={}", address.port())]);
        msmtp
            .args([&format!("--from={SENDER}"), RECIPIENT])
            .stdin(stdin_of(&format!("Subject: msmtp\n\n{}\n", way.as_str())));
        if way != Access::Open {
            let starttls = if way == Access::StartTls { "on" } else { "off" };
            msmtp.args(["--tls=on", &format!("--tls-starttls={starttls}")]);
            msmtp.arg(format!("--tls-trust-file={}", certificate.display()));
            msmtp.args([
                "--auth=plain",
                &format!("--user={USER}"),
                &format!("--passwordeval=echo {PASSWORD}"),
            ]);
        }
        msmtp
    })
    .await;
}

#[tokio::test]
async fn python_smtplib_submits_over_each_listener() {
    run_each_access("python3", client_script("python3", "smtplib_client.py")).await;
}

#[tokio::test]
async fn node_client_submits_over_each_listener() {
    run_each_access("node", client_script("node", "node_client.js")).await;
}

#[tokio::test]
async fn java_client_submits_over_each_listener() {
    run_each_access("java", client_script("java", "JavaClient.java")).await;
}

#[tokio::test]
async fn lettre_submits_over_each_listener() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let certificate = Certificate::from_pem(&std::fs::read(relay.certificate()).unwrap()).unwrap();
    let trust = TlsParameters::builder("localhost".into()).add_root_certificate(certificate).build().unwrap();
    for way in Access::ALL {
        let address = way.address(&relay);
        let to = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string());
        let tls = match way {
            Access::StartTls => Tls::Required(trust.clone()),
            Access::Implicit => Tls::Wrapper(trust.clone()),
            Access::Open => Tls::None,
        };
        let mut to = to.port(address.port()).tls(tls);
        if way != Access::Open {
            to = to.credentials(Credentials::new(USER.into(), PASSWORD.into()));
        }
        to.build().send(build_message(way.as_str())).await.unwrap();
    }
    assert_one_mail_per_access(relay, &sink).await;
}

fn build_message(body: &str) -> Message {
    let mailbox = |address: &str| address.parse::<Mailbox>().unwrap();
    let email = Message::builder().from(mailbox(SENDER)).to(mailbox(RECIPIENT)).subject("lettre");
    email.body(body.to_owned()).unwrap()
}

/// A program of `tests/clients`: WAY HOST PORT USER PASSWORD CERTIFICATE FROM TO; the way is its text.
fn client_script(program: &str, file: &str) -> impl Fn(Access, SocketAddr, &Path) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file);
    move |way, address, certificate| {
        let mut command = Command::new(program);
        command.arg(&file).args([way.as_str(), "localhost", &address.port().to_string(), USER, PASSWORD]);
        command.arg(certificate).args([SENDER, RECIPIENT]);
        command
    }
}

/// Runs a program to its good end, once for each way; a note, where it is not installed.
async fn run_each_access(program: &str, command: impl Fn(Access, SocketAddr, &Path) -> Command) {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    for way in Access::ALL {
        let mut command = command(way, way.address(&relay), &relay.certificate());
        let Some(output) = testkit::run_if_installed(&mut command).await else {
            println!("skipped: {program} is not here");
            return;
        };
        let printed = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{program}, {}: {}",
            way.as_str(),
            String::from_utf8_lossy(&printed)
        );
    }
    assert_one_mail_per_access(relay, &sink).await;
}

fn stdin_of(text: &str) -> Stdio {
    testkit::stdin_file(text.as_bytes()).into()
}

/// Checks for one message for each way of access, with its text and nothing more.
async fn assert_one_mail_per_access(relay: Relay, sink: &SmtpSink) {
    sink.wait_for_count(Access::ALL.len()).await;
    relay.stop().await;
    let mails = sink.messages();
    assert_eq!(mails.len(), Access::ALL.len());
    for way in Access::ALL {
        let (text, protocol) = (way.as_str(), way.protocol());
        let mail = mails.iter().find(|mail| body_of(mail).trim_end() == text).expect("its text is whole");
        assert_eq!(
            (mail.sender.as_str(), mail.recipients.as_slice()),
            (SENDER, &[RECIPIENT.to_owned()][..]),
            "{text}"
        );
        let received = String::from_utf8_lossy(&mail.message);
        assert!(
            received.contains(&format!(" with {protocol} id {} for <{RECIPIENT}>", mail.tracking_id())),
            "{received}"
        );
    }
}

fn body_of(mail: &ReceivedMessage) -> String {
    let text = String::from_utf8(mail.message.clone()).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}
