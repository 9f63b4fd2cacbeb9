//! Captured mail of a real Odoo 18 (`tests/fixtures/odoo`) through a relay: submitted by the library that Odoo uses,
//! compared byte by byte at the upstream.

use mailtrail_trail::RecipientState;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::relay::{PASSWORD, Relay, USER};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{ReceivedMessage, SinkOptions, SmtpSink};

/// Captured message.
struct OdooCapture {
    name: String,
    directory: PathBuf,
    /// The message as it must be relayed, but for bare line ends.
    message: Vec<u8>,
    sender: String,
    parameters: Vec<String>,
    recipients: Vec<String>,
}

impl OdooCapture {
    fn read_all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/odoo");
        let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        let messages = files.filter(|path| path.extension().is_some_and(|extension| extension == "eml"));
        let names: BTreeSet<_> =
            messages.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.into_iter().map(|name| Self::read(&folder, name)).collect()
    }

    fn read(folder: &Path, name: String) -> Self {
        let notified = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let notified: Value = serde_json::from_str(&notified).unwrap();
        let bare = |value: &Value| value.as_str().unwrap().trim_matches(['<', '>']).to_owned();
        let words = |value: &Value| value.as_str().unwrap().split(' ').map(str::to_owned).collect();
        Self {
            directory: folder.to_owned(),
            message: std::fs::read(folder.join(format!("{name}.eml"))).unwrap(),
            sender: bare(&notified["mail_from"]),
            parameters: words(&notified["mail_params"]),
            recipients: notified["rcpt_to"].as_array().unwrap().iter().map(bare).collect(),
            name,
        }
    }

    fn to_job(&self) -> Value {
        let file = |extension: &str| self.directory.join(format!("{}.{extension}", self.name));
        let wire = Some(file("data")).filter(|path| path.exists());
        json!({"mail_from": self.sender, "options": self.parameters, "rcpts": self.recipients,
               "message": file("eml"), "wire": wire})
    }

    fn is_international(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter == "SMTPUTF8")
    }

    fn assert_arrived_unchanged(&self, mail: &ReceivedMessage) {
        let name = &self.name;
        assert_eq!((&mail.sender, &mail.recipients), (&self.sender, &self.recipients), "{name}");
        assert_eq!(mail.parameters.contains(&"SMTPUTF8".into()), self.is_international(), "{name}");
        assert_eq!(mail.parameters.contains(&"BODY=8BITMIME".into()), self.is_international(), "{name}");
        let size = format!("SIZE={}", mail.message.len());
        assert!(mail.parameters.contains(&size), "{name}: {:?}, not {size}", mail.parameters);
        let expected = remove_return_path(&decode_unsubscribe(&normalize_line_ends(&self.message)));
        let split = mail.message.len().checked_sub(expected.len());
        let (front, rest) = mail.message.split_at(split.expect("nothing else is taken away"));
        let first = rest.iter().zip(&expected).position(|(got, wanted)| got != wanted);
        assert_eq!(first, None, "{name}: the byte that differs first");
        assert_eq!(header_names(front), ["Received", "X-Mailtrail-Id"], "{name}");
    }
}

/// The names of whole header lines, folded ones counted once.
fn header_names(front: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(front).unwrap();
    let lines = text.strip_suffix("\r\n").expect("whole lines stand in front").split("\r\n");
    lines.filter(|line| !line.starts_with([' ', '\t'])).map(|line| line.split_once(':').unwrap().0).collect()
}

/// Returns the message with a readable `List-Unsubscribe`: the link in its text, without encoded words.
fn decode_unsubscribe(message: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(message.to_vec()).unwrap();
    let Some(start) = text.find("\r\nList-Unsubscribe: =?") else { return text.into_bytes() };
    let start = start + "\r\nList-Unsubscribe: ".len();
    let end = start + text[start..].find("\r\nList-Unsubscribe-Post").unwrap();
    let words = text[start..end].split("\r\n ");
    let encoded = words.map(|word| word.strip_prefix("=?utf-8?q?").unwrap().strip_suffix("?=").unwrap());
    let mut plain = encoded.collect::<String>();
    for (code, character) in [
        ("=3C", "<"),
        ("=3E", ">"),
        ("=3A", ":"),
        ("=2E", "."),
        ("=5F", "_"),
        ("=3F", "?"),
        ("=26", "&"),
        ("=25", "%"),
        ("=3D", "="),
    ] {
        plain = plain.replace(code, character);
    }
    assert!(plain.starts_with("<https://odoo.example.com/") && plain.ends_with('>'), "{plain}");
    [&text[..start], &plain, &text[end..]].concat().into_bytes()
}

/// The message without the line that names its envelope's sender: Odoo writes it into most mail, once.
fn remove_return_path(message: &[u8]) -> Vec<u8> {
    let header = memchr::memmem::find(message, b"\r\n\r\n").unwrap();
    let Some(start) = memchr::memmem::find(&message[..header], RETURN_PATH) else { return message.to_vec() };
    let start = start + 2;
    let end = start + memchr::memmem::find(&message[start..], b"\r\n").unwrap() + 2;
    [&message[..start], &message[end..]].concat()
}

const RETURN_PATH: &[u8] = b"\r\nReturn-Path:";

/// Bare CR and bare LF as CRLF.
fn normalize_line_ends(message: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(message.len());
    for (index, &byte) in message.iter().enumerate() {
        let behind_cr = index > 0 && message[index - 1] == b'\r';
        let before_lf = message.get(index + 1) == Some(&b'\n');
        match byte {
            b'\n' if !behind_cr => whole.extend_from_slice(b"\r\n"),
            b'\r' if !before_lf => whole.extend_from_slice(b"\r\n"),
            byte => whole.push(byte),
        }
    }
    whole
}

#[tokio::test]
async fn odoo_messages_arrive_unchanged() {
    let captures = OdooCapture::read_all();
    assert!(captures.len() >= 24, "{} captures", captures.len());
    for special in ["eai-and-idn-01", "attach-eml-longline-01", "mailmail-60-rcpt-01", "massmail-01"] {
        assert!(captures.iter().any(|capture| capture.name == special), "{special}");
    }
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let Some(results) = submit_captures(&relay, &captures).await else { return };
    assert_eq!(results.len(), captures.len());
    for (capture, result) in captures.iter().zip(&results) {
        let codes = |replies: &Value| replies.as_array().unwrap().iter().all(|reply| reply[0] == 250);
        assert!(result["mail"][0] == 250 && codes(&result["rcpts"]), "{}: {result}", capture.name);
        let text = result["data"][1].as_str().unwrap();
        let id = text.strip_prefix("2.0.0 Queued as ").expect("the reply names the id");
        capture.assert_arrived_unchanged(&sink.wait_for_message(id).await);
        // The trail lists the decoded field and the removed one, and no other.
        let repaired = memchr::memmem::find(&capture.message, b"List-Unsubscribe: =?").is_some();
        let trail = relay.store().load_trail(id.parse().unwrap()).unwrap().unwrap();
        let returns = memchr::memmem::find(&normalize_line_ends(&capture.message), RETURN_PATH).is_some();
        let words = repaired.then_some("List-Unsubscribe repaired").into_iter();
        let words: Vec<_> = words.chain(returns.then_some("Return-Path removed")).collect();
        let printed = Some(words.join("; ")).filter(|words| !words.is_empty());
        assert_eq!(
            (trail.message.list_unsubscribe_rewritten, &trail.events[0].diagnostic.text),
            (repaired, &printed),
            "{}",
            capture.name
        );
    }
    relay.stop().await;
    assert_eq!(sink.count(), captures.len(), "no message comes twice");
}

/// Hands all over on one connection; `None` where there is no Python.
async fn submit_captures(relay: &Relay, captures: &[OdooCapture]) -> Option<Vec<Value>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/odoo_smtplib.py");
    let address = relay.guarded();
    let mut jobs = tempfile::tempfile().unwrap();
    captures.iter().for_each(|capture| writeln!(jobs, "{}", capture.to_job()).unwrap());
    jobs.rewind().unwrap();
    let mut python = Command::new("python3");
    python.arg(script).args([&address.ip().to_string(), &address.port().to_string(), USER, PASSWORD]);
    let Some(output) = testkit::run_if_installed(python.stdin(jobs)).await else {
        println!("skipped: python3 is not here");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[tokio::test]
async fn rejected_recipient_does_not_block_other() {
    let (good, bad) = ("good@example.net", "bad@example.net");
    let refusal = "550 5.1.1 <bad@example.net>: no such user here, tell \"ada\"".to_owned();
    let options = SinkOptions { rejections: [(bad.to_owned(), refusal)].into(), ..SinkOptions::default() };
    let sink = SmtpSink::with_options(options).await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::log_in(relay.guarded(), &relay.tls_connector()).await.unwrap();
    let message = "Subject: two\r\n\r\nto two\r\n";
    let id = client.submit("a@example.com", &[bad, good], message).await.unwrap();
    let arrived = sink.wait_for_message(&id).await;
    assert_eq!(arrived.recipients, [good]);
    let store = relay.store().clone();
    let states = || {
        let trail = store.load_trail(id.parse().unwrap()).unwrap().expect("what was accepted has a trail");
        trail.next_attempt.is_none().then_some(trail.recipients)
    };
    let recipients = testkit::eventually("both recipients are settled", states).await;
    let of = |address: &str| recipients.iter().find(|known| known.address.as_str() == address).unwrap();
    assert_eq!((of(bad).state(), of(good).state()), (RecipientState::Bounced, RecipientState::Relayed));
    let words = &of(bad).diagnostic;
    assert_eq!((words.code, words.enhanced_status.as_deref()), (Some(550), Some("5.1.1")));
    assert_eq!(words.text.as_deref(), Some("<bad@example.net>: no such user here, tell \"ada\""));
    relay.stop().await;
    assert_eq!(sink.count(), 1, "exactly one copy");
}
