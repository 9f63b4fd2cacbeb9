//! `mailtrail sendmail` as programs call it, against a real listener.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::relay::{Relay, configuration};
use testkit::smtp_sink::{ReceivedMessage, SinkOptions, SmtpSink};

const SERVER_VARIABLE: &str = "MAILTRAIL_SENDMAIL_SERVER";

/// Returns the exit code and the output.
async fn run_program(
    program: &Path,
    server: Option<SocketAddr>,
    words: &[&str],
    text: &str,
) -> (i32, String) {
    let mut command = Command::new(program);
    command.args(words).env_remove("MAILTRAIL_CONFIG").stdin(testkit::stdin_file(text.as_bytes()));
    match server {
        Some(server) => command.env(SERVER_VARIABLE, server.to_string()),
        None => command.env_remove(SERVER_VARIABLE),
    };
    let output = testkit::run_if_installed(&mut command).await.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(printed).unwrap())
}

async fn run_sendmail(server: SocketAddr, words: &[&str], text: &str) -> (i32, String) {
    let words = [&["sendmail"], words].concat();
    run_program(Path::new(env!("CARGO_BIN_EXE_mailtrail")), Some(server), &words, text).await
}

/// Returns the received message. It starts after the relay's own lines.
async fn submit_and_receive(words: &[&str], text: &str) -> (ReceivedMessage, String) {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let (code, printed) = run_sendmail(relay.open(), words, text).await;
    assert_eq!((code, printed.as_str()), (0, ""), "{words:?}");
    let mail = sink.wait_for_count(1).await.remove(0);
    relay.stop().await;
    let whole = String::from_utf8(mail.message.clone()).unwrap();
    let ours = ["Received:", "\t", "X-Mailtrail-Id:", "Message-ID: <01", "Date:"];
    let lines = whole.split_inclusive("\r\n");
    let message = lines.skip_while(|line| ours.iter().any(|start| line.starts_with(start))).collect();
    (mail, message)
}

fn current_user_address() -> String {
    format!("{}@relay.example.com", whoami::username().unwrap())
}

#[tokio::test]
async fn accepts_php_mail_with_bcc_and_dots() {
    let text = "To: Bob <bob@example.net>, \"Carol, C.\"\n <carol@example.net>\nSubject: Hi\n\
                bcc: dave@example.net,\n\teve@example.net\nX-PHP-Originating-Script: 0:a.php\n\nHi\n.\n..\nBye";
    let (mail, message) = submit_and_receive(&["-t", "-i"], text).await;
    assert_eq!(mail.sender, current_user_address());
    let all = ["bob", "carol", "dave", "eve"].map(|name| format!("{name}@example.net"));
    assert_eq!(mail.recipients, all);
    assert_eq!(
        message,
        format!(
            "From: <{}>\r\nTo: Bob <bob@example.net>, \"Carol, C.\"\r\n <carol@example.net>\r\nSubject: Hi\r\n\
             X-PHP-Originating-Script: 0:a.php\r\n\r\nHi\r\n.\r\n..\r\nBye\r\n",
            current_user_address()
        )
    );
}

#[tokio::test]
async fn qualifies_addresses_of_cron() {
    let text = "From: \"(Cron Daemon)\" <root>\nTo: root, Ops <ops>, web\nSubject: Cron\nAuto-Submitted: auto-generated\n\nout\n";
    let words = ["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"];
    let (mail, message) = submit_and_receive(&words, text).await;
    assert_eq!(mail.sender, "root@relay.example.com");
    assert_eq!(mail.recipients, ["root@relay.example.com", "ops@relay.example.com", "web@relay.example.com"]);
    // Addresses without a domain get one, as in Postfix and sendmail; all others are unchanged.
    let expected = text.replace("<root>", "<root@relay.example.com>").replace(
        "root, Ops <ops>, web\n",
        "root@relay.example.com, Ops <ops@relay.example.com>, web@relay.example.com\n",
    );
    assert_eq!(message, expected.replace('\n', "\r\n"));
}

/// As Debian's cron writes it.
#[tokio::test]
async fn qualifies_addresses_of_debian_cron() {
    let text = "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web> run-parts\n\
                Content-Type: text/plain; charset=UTF-8\nX-Cron-Env: <LOGNAME=root>\n\nout\n";
    let (mail, message) =
        submit_and_receive(&["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"], text).await;
    assert_eq!(mail.recipients, ["root@relay.example.com"]);
    let expected = text
        .replace("From: root ", "From: root@relay.example.com ")
        .replace("To: root\n", "To: root@relay.example.com\n");
    assert_eq!(message, expected.replace('\n', "\r\n"));
}

/// Symfony's default, and that of all that is built on it.
#[tokio::test]
async fn serves_smtp_on_stdin() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let talk = "EHLO [127.0.0.1]\r\nMAIL FROM:<ada@example.com>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n\
                Subject: one\r\n\r\n..\r\nhi\r\n.\r\n";
    for (words, end) in
        [(&["-bs"][..], "QUIT\r\n"), (&["-bs", "-i"], ""), (&["-f", "ada@example.com", "-bs"], "")]
    {
        let (code, printed) = run_sendmail(relay.open(), words, &format!("{talk}{end}")).await;
        assert_eq!(code, 0, "{words:?}: {printed}");
        assert!(
            printed.starts_with("220 relay.example.com ESMTP") && printed.ends_with("\r\n"),
            "{words:?}: {printed}"
        );
        assert!(printed.contains("\r\n250 2.0.0 Queued as "), "{words:?}: {printed}");
        assert_eq!(printed.contains("221 2.0.0 Bye"), !end.is_empty(), "{words:?}: {printed}");
    }
    for mail in sink.wait_for_count(3).await {
        assert_eq!(
            (&*mail.sender, &mail.recipients[..]),
            ("ada@example.com", &["bob@example.net".to_owned()][..])
        );
        assert!(mail.message.ends_with(b"\r\n\r\n.\r\nhi\r\n"));
    }
    // A message without an end is not accepted.
    let (code, _) = run_sendmail(relay.open(), &["-bs"], talk.trim_end_matches(".\r\n")).await;
    assert_eq!(code, 0);
    relay.stop().await;
    assert_eq!(sink.count(), 3);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, printed) = run_sendmail(nobody, &["-bs"], talk).await;
    assert_eq!(code, 75);
    assert!(printed.starts_with("421 4.3.2 "), "{printed}");
}

/// A client that waits for each answer before it goes on.
#[tokio::test]
async fn serves_smtp_line_by_line_on_stdin() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
    command
        .args(["sendmail", "-bs"])
        .env_remove("MAILTRAIL_CONFIG")
        .env(SERVER_VARIABLE, relay.open().to_string());
    let talk = move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut say, hear) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut lines = BufReader::new(hear).lines();
        let mut codes = vec![lines.next().unwrap().unwrap()[..3].to_owned()];
        for line in
            ["HELO web 1", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA", "hi\r\n.", "QUIT"]
        {
            say.write_all(format!("{line}\r\n").as_bytes()).unwrap();
            codes.push(lines.next().unwrap().unwrap()[..3].to_owned());
        }
        // The program exits although its input is open.
        assert!(lines.next().is_none());
        (codes, child.wait().unwrap().code())
    };
    let (codes, ended) = tokio::time::timeout(testkit::WAIT_TIMEOUT, tokio::task::spawn_blocking(talk))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((codes.join(" "), ended), ("220 250 250 250 354 250 221".to_owned(), Some(0)));
    sink.wait_for_count(1).await;
    relay.stop().await;
}

#[tokio::test]
async fn adds_header_to_text_without_one() {
    let words = ["-FJörg \"J\" A", "-B8BITMIME", "-N", "never", "-R", "hdrs", "-V", "x", "-x", "-bm", "root"];
    let (mail, message) = submit_and_receive(&words, "grüezi\n.\nnot sent\n").await;
    assert_eq!(mail.recipients, ["root@relay.example.com"]);
    assert!(mail.parameters.contains(&"BODY=8BITMIME".into()), "{:?}", mail.parameters);
    let (from, rest) = message.split_once("\r\n\r\n").unwrap();
    assert_eq!(rest, "grüezi\r\n");
    assert!(
        from.starts_with("From: =?utf-8?") && from.ends_with(&format!("<{}>", current_user_address())),
        "{from}"
    );
}

#[tokio::test]
async fn accepts_options_of_mutt_and_git_send_email() {
    let text = "From: Ada <ada@example.com>\nTo: list@example.net\nBcc: carol@example.net\n\n.\n";
    for words in [
        &["-oem", "-oi", "-f", "ada@example.com", "--", "bob@example.net", "carol@example.net"][..],
        &["-i", "-r", "<ada@example.com>", "bob@example.net", "carol@example.net", "bob@example.net"],
        &["-oi", "-fada@example.com", "Bob <bob@example.net>, carol@example.net"],
    ] {
        let (mail, message) = submit_and_receive(words, text).await;
        assert_eq!(mail.sender, "ada@example.com", "{words:?}");
        assert_eq!(mail.recipients, ["bob@example.net", "carol@example.net"], "{words:?}");
        let expected = "From: Ada <ada@example.com>\r\nTo: list@example.net\r\n\r\n.\r\n";
        assert_eq!(message, expected, "{words:?}");
    }
}

#[tokio::test]
async fn merges_resent_and_named_recipients() {
    let text = "From nobody Sat Nov 21 17:00:00 2026\nFrom: a@example.com\nTo: b@example.net\n\
                Resent-From: c@example.com\nResent-To: d@example.net\nResent-Bcc: e@example.net\n\nhi\n";
    let (mail, message) = submit_and_receive(&["-t", "-f", "<>", "\"odd name\"@example.net"], text).await;
    assert_eq!(mail.sender, "");
    assert_eq!(mail.recipients, ["\"odd name\"@example.net", "d@example.net", "e@example.net"]);
    assert!(message.starts_with("From: a@example.com\r\n") && !message.contains("Bcc"), "{message}");
}

#[tokio::test]
async fn rejected_recipient_cancels_whole_message() {
    let rejections = [("bad@example.net".to_owned(), "550 5.1.1 no such user".to_owned())].into();
    let sink = SmtpSink::with_options(SinkOptions { rejections, ..SinkOptions::default() }).await;
    let server = SocketAddr::from(([127, 0, 0, 1], sink.port()));
    let words = ["good@example.net", "bad@example.net"];
    let (code, printed) = run_sendmail(server, &words, "hi\n").await;
    assert_eq!(code, 67);
    assert!(printed.contains("bad@example.net: 550 5.1.1 no such user"), "{printed}");
    assert_eq!(run_sendmail(server, &["a b@example.net"], "hi\n").await.0, 67);
    assert_eq!(run_sendmail(server, &["good@example.net"], "hi\n").await.0, 0);
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn exit_codes_are_those_of_sysexits() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "message_size = \"1KiB\"\nrecipients = 1").await;
    for (words, code) in [
        (&["-bp"][..], 64),
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
        assert_eq!(run_sendmail(relay.open(), words, "Subject: x\n\nhi\n").await.0, code, "{words:?}");
    }
    let long = "x".repeat(2000);
    assert_eq!(run_sendmail(relay.open(), &["a@example.net"], &long).await.0, 65);
    for listener in [relay.guarded(), relay.closed()] {
        let (code, printed) = run_sendmail(listener, &["a@example.net"], "hi\n").await;
        assert_eq!(code, 69, "{printed}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(run_sendmail(nobody, &["a@example.net"], "hi\n").await.0, 75);
    relay.stop().await;
    assert_eq!(sink.count(), 0);
}

#[tokio::test]
async fn sendmail_link_finds_open_listener_in_config() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("sendmail"), folder.path().join("mailtrail.toml"));
    symlink(env!("CARGO_BIN_EXE_mailtrail"), &link).unwrap();
    let ports = [relay.guarded(), relay.open(), relay.closed()].map(|listener| listener.port());
    let text =
        configuration("data", ports, 1, "").replace("[[user]]", "[[user]]\npassword_file = \"secret\"");
    std::fs::write(&file, &text).unwrap();
    let words = ["--config", file.to_str().unwrap(), "-v", "-t"];
    let (code, printed) = run_program(&link, None, &words, "To: bob@example.net\n\nhi\n").await;
    assert_eq!(code, 0, "{printed}");
    assert!(printed.starts_with("250 2.0.0 Queued as "), "{printed}");
    sink.wait_for_count(1).await;
    std::fs::write(&file, text.replace("tls = \"none\"\nauth", "auth")).unwrap();
    let (code, printed) = run_program(&link, None, &words, "To: bob@example.net\n\nhi\n").await;
    assert_eq!(code, 78);
    assert!(printed.contains("auth = \"none\""), "{printed}");
    relay.stop().await;
}
