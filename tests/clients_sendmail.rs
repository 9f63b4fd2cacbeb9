//! `mailtrail sendmail` as programs call it, against a real listener.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use support::relay::{Relay, configuration};
use support::sink::{Mail, Manners, Sink};

const SERVER: &str = "MAILTRAIL_SENDMAIL_SERVER";

/// Exit code and what was said.
async fn call(program: &Path, server: Option<SocketAddr>, words: &[&str], text: &str) -> (i32, String) {
    let mut command = Command::new(program);
    command.args(words).env_remove("MAILTRAIL_CONFIG").stdin(support::input(text.as_bytes()));
    match server {
        Some(server) => command.env(SERVER, server.to_string()),
        None => command.env_remove(SERVER),
    };
    let output = support::run(&mut command).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

async fn sendmail(server: SocketAddr, words: &[&str], text: &str) -> (i32, String) {
    let words = [&["sendmail"], words].concat();
    call(Path::new(env!("CARGO_BIN_EXE_mailtrail")), Some(server), &words, text).await
}

/// What arrives when it is sent; the message begins behind the relay's own lines.
async fn sent(words: &[&str], text: &str) -> (Mail, String) {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let (code, said) = sendmail(relay.open(), words, text).await;
    assert_eq!((code, said.as_str()), (0, ""), "{words:?}");
    let mail = sink.wait_for(1).await.remove(0);
    relay.stop().await;
    let whole = String::from_utf8(mail.message.clone()).unwrap();
    let ours = ["Received:", "\t", "X-Mailtrail-Id:", "Message-ID: <01", "Date:"];
    let lines = whole.split_inclusive("\r\n");
    let message = lines.skip_while(|line| ours.iter().any(|start| line.starts_with(start))).collect();
    (mail, message)
}

fn me() -> String {
    format!("{}@relay.example.com", whoami::username().unwrap())
}

#[tokio::test]
async fn php() {
    let text = "To: Bob <bob@example.net>, \"Carol, C.\"\n <carol@example.net>\nSubject: Hi\n\
                bcc: dave@example.net,\n\teve@example.net\nX-PHP-Originating-Script: 0:a.php\n\nHi\n.\n..\nBye";
    let (mail, message) = sent(&["-t", "-i"], text).await;
    assert_eq!(mail.sender, me());
    let all = ["bob", "carol", "dave", "eve"].map(|name| format!("{name}@example.net"));
    assert_eq!(mail.recipients, all);
    assert_eq!(
        message,
        format!(
            "From: <{}>\r\nTo: Bob <bob@example.net>, \"Carol, C.\"\r\n <carol@example.net>\r\nSubject: Hi\r\n\
             X-PHP-Originating-Script: 0:a.php\r\n\r\nHi\r\n.\r\n..\r\nBye\r\n",
            me()
        )
    );
}

#[tokio::test]
async fn cron() {
    let text = "From: \"(Cron Daemon)\" <root>\nTo: root, Ops <ops>, web\nSubject: Cron\nAuto-Submitted: auto-generated\n\nout\n";
    let words = ["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"];
    let (mail, message) = sent(&words, text).await;
    assert_eq!(mail.sender, "root@relay.example.com");
    assert_eq!(mail.recipients, ["root@relay.example.com", "ops@relay.example.com", "web@relay.example.com"]);
    assert_eq!(message, text.replace('\n', "\r\n"));
}

#[tokio::test]
async fn a_bare_name_and_a_text_without_a_header() {
    let words = ["-FJörg \"J\" A", "-B8BITMIME", "-N", "never", "-R", "hdrs", "-V", "x", "-x", "-bm", "root"];
    let (mail, message) = sent(&words, "grüezi\n.\nnot sent\n").await;
    assert_eq!(mail.recipients, ["root@relay.example.com"]);
    assert!(mail.parameters.contains(&"BODY=8BITMIME".into()), "{:?}", mail.parameters);
    let (from, rest) = message.split_once("\r\n\r\n").unwrap();
    assert_eq!(rest, "grüezi\r\n");
    assert!(from.starts_with("From: =?utf-8?") && from.ends_with(&format!("<{}>", me())), "{from}");
}

#[tokio::test]
async fn mutt_and_git_send_email() {
    let text = "From: Ada <ada@example.com>\nTo: list@example.net\nBcc: carol@example.net\n\n.\n";
    for words in [
        &["-oem", "-oi", "-f", "ada@example.com", "--", "bob@example.net", "carol@example.net"][..],
        &["-i", "-r", "<ada@example.com>", "bob@example.net", "carol@example.net", "bob@example.net"],
        &["-oi", "-fada@example.com", "Bob <bob@example.net>, carol@example.net"],
    ] {
        let (mail, message) = sent(words, text).await;
        assert_eq!(mail.sender, "ada@example.com", "{words:?}");
        assert_eq!(mail.recipients, ["bob@example.net", "carol@example.net"], "{words:?}");
        let expected = "From: Ada <ada@example.com>\r\nTo: list@example.net\r\n\r\n.\r\n";
        assert_eq!(message, expected, "{words:?}");
    }
}

#[tokio::test]
async fn resent_fields_and_named_recipients_count_beside_the_header() {
    let text = "From nobody Sat Nov 21 17:00:00 2026\nFrom: a@example.com\nTo: b@example.net\n\
                Resent-From: c@example.com\nResent-To: d@example.net\nResent-Bcc: e@example.net\n\nhi\n";
    let (mail, message) = sent(&["-t", "-f", "<>", "\"odd name\"@example.net"], text).await;
    assert_eq!(mail.sender, "");
    assert_eq!(mail.recipients, ["\"odd name\"@example.net", "d@example.net", "e@example.net"]);
    assert!(message.starts_with("From: a@example.com\r\n") && !message.contains("Bcc"), "{message}");
}

#[tokio::test]
async fn a_refused_recipient_means_that_nobody_gets_it() {
    let refused = [("bad@example.net".to_owned(), "550 5.1.1 no such user".to_owned())].into();
    let sink = Sink::with(Manners { refused, ..Manners::default() }).await;
    let server = SocketAddr::from(([127, 0, 0, 1], sink.port()));
    let words = ["good@example.net", "bad@example.net"];
    let (code, said) = sendmail(server, &words, "hi\n").await;
    assert_eq!(code, 67);
    assert!(said.contains("bad@example.net: 550 5.1.1 no such user"), "{said}");
    assert_eq!(sendmail(server, &["a b@example.net"], "hi\n").await.0, 67);
    assert_eq!(sendmail(server, &["good@example.net"], "hi\n").await.0, 0);
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn exit_codes_are_those_of_sysexits() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "message_size = \"1KiB\"\nrecipients = 1").await;
    for (words, code) in [
        (&["-bs"][..], 64),
        (&["-bp"], 64),
        (&["-q"], 64),
        (&["-q15m", "a@example.net"], 64),
        (&["-bd"], 64),
        (&[], 64),
        (&["-t"], 64),
        (&["--nonsense", "a@example.net"], 64),
        (&["--server", "nowhere", "a@example.net"], 64),
        (&["-f", "a b", "a@example.net"], 64),
        (&["a@example.net", "b@example.net"], 75),
        (&["a@"], 67),
    ] {
        assert_eq!(sendmail(relay.open(), words, "Subject: x\n\nhi\n").await.0, code, "{words:?}");
    }
    let long = "x".repeat(2000);
    assert_eq!(sendmail(relay.open(), &["a@example.net"], &long).await.0, 65);
    for door in [relay.guarded(), relay.closed()] {
        let (code, said) = sendmail(door, &["a@example.net"], "hi\n").await;
        assert_eq!(code, 69, "{said}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(sendmail(nobody, &["a@example.net"], "hi\n").await.0, 75);
    relay.stop().await;
    assert_eq!(sink.count(), 0);
}

#[tokio::test]
async fn a_link_called_sendmail_finds_the_open_listener_in_the_configuration() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("sendmail"), folder.path().join("mailtrail.toml"));
    symlink(env!("CARGO_BIN_EXE_mailtrail"), &link).unwrap();
    let ports = [relay.guarded(), relay.open(), relay.closed()].map(|door| door.port());
    let text =
        configuration("data", ports, 1, "").replace("[[user]]", "[[user]]\npassword_file = \"secret\"");
    std::fs::write(&file, &text).unwrap();
    let words = ["--config", file.to_str().unwrap(), "-v", "-t"];
    let (code, said) = call(&link, None, &words, "To: bob@example.net\n\nhi\n").await;
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("250 2.0.0 Queued as "), "{said}");
    sink.wait_for(1).await;
    std::fs::write(&file, text.replace("tls = \"none\"\nauth", "auth")).unwrap();
    let (code, said) = call(&link, None, &words, "To: bob@example.net\n\nhi\n").await;
    assert_eq!(code, 78);
    assert!(said.contains("auth = \"none\""), "{said}");
    relay.stop().await;
}
