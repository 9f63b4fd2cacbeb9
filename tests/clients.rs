//! Mail programs as they are: each sends one mail through each kind of listener.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use support::relay::{PASSWORD, Relay, USER};
use support::sink::{Mail, Sink};

const FROM: &str = "ada@example.com";
const TO: &str = "bob@example.net";

/// How a client gets in.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// STARTTLS and a login.
    StartTls,
    /// TLS from the first byte and a login.
    Implicit,
    /// Neither.
    Open,
}

impl Way {
    const ALL: [Self; 3] = [Self::StartTls, Self::Implicit, Self::Open];

    fn word(self) -> &'static str {
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

    /// What the Received line says (RFC 3848).
    fn protocol(self) -> &'static str {
        if self == Self::Open { "ESMTP" } else { "ESMTPSA" }
    }
}

#[tokio::test]
async fn swaks() {
    each_way("swaks", |way, address, _| {
        let mut swaks = Command::new("swaks");
        swaks.args(["--from", FROM, "--to", TO, "--server", &address.to_string(), "--body", way.word()]);
        match way {
            Way::StartTls => swaks.arg("--tls"),
            Way::Implicit => swaks.arg("--tls-on-connect"),
            Way::Open => return swaks,
        };
        swaks.args(["--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD]);
        swaks
    })
    .await;
}

#[tokio::test]
async fn curl() {
    let folder = tempfile::tempdir().unwrap();
    each_way("curl", |way, address, certificate| {
        let file = folder.path().join(way.word());
        std::fs::write(&file, format!("Subject: curl\r\n\r\n{}\r\n", way.word())).unwrap();
        let scheme = if way == Way::Implicit { "smtps" } else { "smtp" };
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--mail-from", FROM, "--mail-rcpt", TO]);
        curl.args(["--url", &format!("{scheme}://{address}/client")]).arg("--upload-file").arg(file);
        if way != Way::Open {
            curl.args(["--ssl-reqd", "--user", &format!("{USER}:{PASSWORD}")])
                .arg("--cacert")
                .arg(certificate);
        }
        curl
    })
    .await;
}

#[tokio::test]
async fn msmtp() {
    each_way("msmtp", |way, address, certificate| {
        let mut msmtp = Command::new("msmtp");
        msmtp.args(["--file=/dev/null", "--host=localhost", &format!("--port={}", address.port())]);
        msmtp
            .args([&format!("--from={FROM}"), TO])
            .stdin(input(&format!("Subject: msmtp\n\n{}\n", way.word())));
        if way != Way::Open {
            let starttls = if way == Way::StartTls { "on" } else { "off" };
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
async fn python() {
    each_way("python3", script("python3", "smtplib_client.py")).await;
}

#[tokio::test]
async fn node() {
    each_way("node", script("node", "node_client.js")).await;
}

#[tokio::test]
async fn java() {
    each_way("java", script("java", "JavaClient.java")).await;
}

#[tokio::test]
async fn lettre() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let certificate = Certificate::from_pem(&std::fs::read(relay.certificate()).unwrap()).unwrap();
    let trust = TlsParameters::builder("localhost".into()).add_root_certificate(certificate).build().unwrap();
    for way in Way::ALL {
        let address = way.address(&relay);
        let to = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string());
        let tls = match way {
            Way::StartTls => Tls::Required(trust.clone()),
            Way::Implicit => Tls::Wrapper(trust.clone()),
            Way::Open => Tls::None,
        };
        let mut to = to.port(address.port()).tls(tls);
        if way != Way::Open {
            to = to.credentials(Credentials::new(USER.into(), PASSWORD.into()));
        }
        to.build().send(letter(way.word())).await.unwrap();
    }
    arrived(relay, &sink).await;
}

fn letter(body: &str) -> Message {
    let mailbox = |address: &str| address.parse::<Mailbox>().unwrap();
    let letter = Message::builder().from(mailbox(FROM)).to(mailbox(TO)).subject("lettre");
    letter.body(body.to_owned()).unwrap()
}

/// A program of `tests/clients`: WAY HOST PORT USER PASSWORD CERTIFICATE FROM TO; the way is its text.
fn script(program: &str, file: &str) -> impl Fn(Way, SocketAddr, &Path) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file);
    move |way, address, certificate| {
        let mut command = Command::new(program);
        command.arg(&file).args([way.word(), "localhost", &address.port().to_string(), USER, PASSWORD]);
        command.arg(certificate).args([FROM, TO]);
        command
    }
}

/// Runs a program to its good end, once for each way; a note, where it is not installed.
async fn each_way(program: &str, command: impl Fn(Way, SocketAddr, &Path) -> Command) {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    for way in Way::ALL {
        let mut command = command(way, way.address(&relay), &relay.certificate());
        let Some(output) = support::run(&mut command).await else {
            println!("skipped: {program} is not here");
            return;
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{program}, {}: {}", way.word(), String::from_utf8_lossy(&said));
    }
    arrived(relay, &sink).await;
}

fn input(text: &str) -> Stdio {
    support::input(text.as_bytes()).into()
}

/// One mail by each way, each with its text and nothing more.
async fn arrived(relay: Relay, sink: &Sink) {
    sink.wait_for(Way::ALL.len()).await;
    relay.stop().await;
    let mails = sink.mails();
    assert_eq!(mails.len(), Way::ALL.len());
    for way in Way::ALL {
        let (text, protocol) = (way.word(), way.protocol());
        let mail = mails.iter().find(|mail| body(mail).trim_end() == text).expect("its text is whole");
        assert_eq!(
            (mail.sender.as_str(), mail.recipients.as_slice()),
            (FROM, &[TO.to_owned()][..]),
            "{text}"
        );
        let received = String::from_utf8_lossy(&mail.message);
        assert!(received.contains(&format!(" with {protocol} id {} for <{TO}>", mail.id())), "{received}");
    }
}

fn body(mail: &Mail) -> String {
    let text = String::from_utf8(mail.message.clone()).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}
