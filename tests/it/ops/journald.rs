//! The relay's log in the journal: the real program, and a socket that listens as journald does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use tokio::net::TcpSocket;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_fields_with_redacted_addresses() {
    for (addresses, address) in [("full", "ada@example.net"), ("domain", "~@example.net"), ("hidden", "~")] {
        let mut harness = JournaldHarness::new(addresses);
        harness.start_relay().await;
        let ready = harness.wait_for_event("ready").await;
        assert_eq!(ready["PRIORITY"], "6");
        assert_eq!(ready["SYSLOG_IDENTIFIER"], "mailtrail");
        assert!(ready["TARGET"].starts_with("mailtrail::"), "{ready:?}");
        let output = harness
            .process
            .run_command(&["suppress", "add", "ada@example.net", "--reason", "complaint"])
            .await;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let mut client = SmtpClient::connect(harness.process.address(1)).await.unwrap();
        client.command("MAIL FROM:<a@example.com>").await.unwrap();
        assert_eq!(client.command("RCPT TO:<ada@example.net>").await.unwrap().0, 550);
        client.command("RSET").await.unwrap();
        let refused = harness.wait_for_event("a suppressed recipient was refused").await;
        // The code is another in each run.
        let without_code = |text: &str| {
            let (before, behind) = text.split_once('~').unwrap_or((text, ""));
            let behind = behind.trim_start_matches(|c: char| c.is_ascii_hexdigit());
            if text.contains('~') { format!("{before}~{behind}") } else { before.to_owned() }
        };
        assert_eq!(without_code(&refused["MAILTRAIL_RECIPIENT"]), address);
        assert_eq!(
            without_code(&refused["MESSAGE"]),
            format!(
                "a suppressed recipient was refused peer=127.0.0.1 recipient={address} reason=\"complaint\""
            )
        );
        assert_eq!((&*refused["MAILTRAIL_PEER"], &*refused["MAILTRAIL_REASON"]), ("127.0.0.1", "complaint"));
        assert_eq!(refused["PRIORITY"], "6");
        // No upstream listens.
        client.submit("a@example.com", &["b@example.net"], "Subject: x\r\n\r\nbody\r\n").await.unwrap();
        let away = harness.wait_for_event("the upstream cannot be used").await;
        assert_eq!((&*away["PRIORITY"], &*away["MAILTRAIL_UPSTREAM"]), ("4", "sink"));
        let shown = harness.all.iter().flat_map(|event| event.values()).any(|value| value.contains("ada@"));
        assert_eq!(shown, addresses == "full", "{:?}", harness.all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn falls_back_to_stderr_when_journald_fails() {
    let mut harness = JournaldHarness::new("hidden");
    harness.start_relay().await;
    harness.wait_for_event("ready").await;
    // A restarted journald listens on a new socket at the same path.
    std::fs::remove_file(&harness.path).unwrap();
    harness.provoke_log_line(2).await;
    let errors = harness.relay.as_mut().unwrap().stderr.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut errors, mut line) = (BufReader::new(errors), String::new());
        errors.read_line(&mut line).map(|_| (errors, line))
    });
    let (mut errors, line) = timeout(testkit::WAIT_TIMEOUT, reading).await.unwrap().unwrap().unwrap();
    harness.journal = UnixDatagram::bind(&harness.path).unwrap();
    harness.provoke_log_line(3).await;
    harness.wait_for_event("outside the allowed networks").await;
    let mut child = harness.relay.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut more = String::new();
    errors.read_to_string(&mut more).unwrap();
    assert_eq!(more, "");
    assert!(line.contains("outside the allowed networks") && line.contains("peer="), "{line}");
    assert!(line.contains("(cannot write to journald: "), "{line}");
    // Without a socket at the start, the setting has no effect.
    std::fs::remove_file(&harness.path).unwrap();
    harness.process.start().await;
    assert!(harness.process.log().contains("no journald listens; the log goes to standard error"));
}

/// A relay that logs to a journal, and that.
struct JournaldHarness {
    process: RelayProcess,
    path: PathBuf,
    journal: UnixDatagram,
    relay: Option<Child>,
    /// Every event so far.
    all: Vec<JournaldEvent>,
}

type JournaldEvent = BTreeMap<String, String>;

impl JournaldHarness {
    fn new(addresses: &str) -> Self {
        let process = RelayProcess::with_upstream_port(free_port(), "");
        let path = process.directory().join("journal.socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let text = process.configuration(free_port(), "");
        process.write_configuration(&format!(
            "{text}[suppression]\npolicy = \"reject\"\n[log]\nformat = \"journald\"\naddresses = \"{addresses}\"\n\
             journal = \"journal.socket\"\n"
        ));
        Self { process, path, journal, relay: None, all: Vec::new() }
    }

    async fn start_relay(&mut self) {
        self.relay = Some(self.process.command(&["serve"]).stderr(Stdio::piped()).spawn().unwrap());
    }

    /// Makes the relay log a line and waits for it. A line about one address appears once a minute.
    async fn provoke_log_line(&self, last: u8) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        let stream = socket.connect(self.process.address(2)).await.unwrap();
        // The client is rejected after the line in the log.
        assert!(SmtpClient::from_stream(stream).await.is_err());
    }

    /// Returns the next event with this text.
    async fn wait_for_event(&mut self, words: &str) -> JournaldEvent {
        loop {
            let mut datagram = vec![0; 1 << 18];
            self.journal.set_read_timeout(Some(testkit::WAIT_TIMEOUT)).unwrap();
            let length =
                self.journal.recv(&mut datagram).unwrap_or_else(|error| unreachable!("{words}: {error}"));
            let event = parse_native_protocol(&datagram[..length]);
            self.all.push(event.clone());
            if event["MESSAGE"].contains(words) {
                return event;
            }
        }
    }
}

impl Drop for JournaldHarness {
    fn drop(&mut self) {
        if let Some(relay) = &mut self.relay {
            let _ = relay.kill();
            let _ = relay.wait();
        }
    }
}

/// As <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/> has it.
fn parse_native_protocol(mut datagram: &[u8]) -> JournaldEvent {
    let mut event = JournaldEvent::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').unwrap();
        let line = std::str::from_utf8(&datagram[..end]).unwrap();
        datagram = &datagram[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let (length, rest) = datagram.split_at(8);
                let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
                let value = String::from_utf8(rest[..length].to_vec()).unwrap();
                assert_eq!(rest[length], b'\n');
                datagram = &rest[length + 1..];
                (line, value)
            }
        };
        let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(fits), "{name}");
        assert_eq!(event.insert(name.to_owned(), value), None, "{name} comes twice");
    }
    event
}
