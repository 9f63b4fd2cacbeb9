//! Mail programs as they are: each sends one mail with TLS and a login and one with neither.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::net::SocketAddr;
use std::process::Command;
use support::relay::{PASSWORD, Relay, USER};
use support::sink::{Mail, Sink};

const FROM: &str = "ada@example.com";
const TO: &str = "bob@example.net";

#[tokio::test]
async fn swaks() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let to = |address: SocketAddr, how: &str| {
        let (server, body) = (address.to_string(), format!("by swaks {how}"));
        let mut words: Vec<_> = ["--from", FROM, "--to", TO].map(str::to_owned).into();
        words.extend(["--server".into(), server, "--body".into(), body]);
        words
    };
    let login = ["--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD];
    let mut words = to(relay.guarded(), "with a login");
    words.extend(login.map(str::to_owned));
    if !run("swaks", &words).await {
        return;
    }
    assert!(run("swaks", &to(relay.open(), "without")).await);
    arrived(relay, &sink, ["by swaks with a login", "by swaks without"]).await;
}

#[tokio::test]
async fn curl() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let folder = tempfile::tempdir().unwrap();
    let to = |address: SocketAddr, how: &str| {
        let file = folder.path().join(how);
        std::fs::write(&file, format!("Subject: curl\r\n\r\nby curl {how}\r\n")).unwrap();
        let (url, file) = (format!("smtp://{address}/client"), file.to_str().unwrap().to_owned());
        let mut words: Vec<_> = ["--silent", "--show-error", "--noproxy", "*"].map(str::to_owned).into();
        words.extend(["--mail-from", FROM, "--mail-rcpt", TO].map(str::to_owned));
        words.extend(["--url".to_owned(), url, "--upload-file".into(), file]);
        words
    };
    let (certificate, login) = (relay.certificate(), format!("{USER}:{PASSWORD}"));
    let mut words = to(relay.guarded(), "with a login");
    let secure = ["--ssl-reqd", "--cacert", certificate.to_str().unwrap(), "--user", &login];
    words.extend(secure.map(str::to_owned));
    if !run("curl", &words).await {
        return;
    }
    assert!(run("curl", &to(relay.open(), "without")).await);
    arrived(relay, &sink, ["by curl with a login", "by curl without"]).await;
}

#[tokio::test]
async fn lettre() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let certificate = Certificate::from_pem(&std::fs::read(relay.certificate()).unwrap()).unwrap();
    let trust = TlsParameters::builder("localhost".into()).add_root_certificate(certificate).build().unwrap();
    let to = |address: SocketAddr| {
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string()).port(address.port())
    };
    let login = Credentials::new(USER.into(), PASSWORD.into());
    let guarded = to(relay.guarded()).tls(Tls::Required(trust)).credentials(login).build();
    guarded.send(letter("by lettre with a login")).await.unwrap();
    to(relay.open()).build().send(letter("by lettre without")).await.unwrap();
    arrived(relay, &sink, ["by lettre with a login", "by lettre without"]).await;
}

fn letter(body: &str) -> Message {
    let mailbox = |address: &str| address.parse::<Mailbox>().unwrap();
    let letter = Message::builder().from(mailbox(FROM)).to(mailbox(TO)).subject("lettre");
    letter.body(body.to_owned()).unwrap()
}

/// Runs a program to its good end; false, with a note, where it is not installed.
async fn run(program: &str, words: &[String]) -> bool {
    let Some(output) = support::run(Command::new(program).args(words)).await else {
        println!("skipped: {program} is not here");
        return false;
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&said));
    true
}

/// One mail with a login, then one without, each with its text and nothing more.
async fn arrived(relay: Relay, sink: &Sink, texts: [&str; 2]) {
    sink.wait_for(2).await;
    relay.stop().await;
    let mails = sink.mails();
    assert_eq!(mails.len(), 2);
    for (text, protocol) in texts.into_iter().zip(["ESMTPSA", "ESMTP"]) {
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
