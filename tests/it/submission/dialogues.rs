//! SMTP sessions as text, in `tests/dialogues/*.txt`.
//!
//! Each runs three times on a real socket: *whole* (everything up to TLS or the end in one write, then all replies),
//! *line by line*, and *byte by byte*. The messages at the upstream, the store and the log are compared each time. An
//! effect that the dialogue does not list is a failure.
//!
//! The first lines of a file are `listener: guarded|open|closed|proxied` (see `testkit::relay::configuration`) and
//! optionally `only: whole`. The steps follow in order:
//!
//! ```text
//! C: text          the client sends this line
//! c: bytes         the client sends exactly these bytes, without a line end
//! S: text          the relay sends exactly this line; with `...` at the end, a line with this start
//! ** TLS **        both sides start TLS
//! ** drop **       the client closes without QUIT
//! ** closed **     the relay has sent everything and closed
//! ** arrives: T ** (at the end) a message arrives that ends with T, in the order of the dialogue
//! ** warns: T **   (at the end) a warning is logged that contains T
//! ```
//!
//! `C:`, `c:` and `arrives:` expand `\r`, `\n`, `\t`, `\0`, `\\`, `\xNN` and `{x*100}`, a hundred times x.

use rustls::pki_types::ServerName;
use std::io;
use std::path::Path;
use testkit::log_capture::LogCapture;
use testkit::relay::{Relay, all_message_ids};
use testkit::smtp_client::ByteStream;
use testkit::smtp_sink::SmtpSink;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

macro_rules! dialogues {
    ($($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            run_dialogue(include_str!(concat!("../../dialogues/", stringify!($name), ".txt"))).await;
        })*

        #[test]
        fn every_dialogue_file_runs() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
            let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
            files.sort();
            assert_eq!(files, [$(concat!(stringify!($name), ".txt")),*]);
        }
    };
}

dialogues! {
    auth_cancelled
    auth_login
    auth_malformed
    auth_not_offered
    auth_plain
    auth_refused
    bare_line_ends
    before_login
    before_tls
    chunks
    chunks_refused
    chunks_too_large
    dots
    dsn
    hello_guarded
    hello_open
    international
    legacy_addresses
    legacy_greetings
    locked_out
    mail_loop
    network_not_allowed
    no_header
    not_smtp
    nul
    odd_but_tolerated
    odoo_test_connection
    order
    overlong_line
    overlong_login
    pipelined_transactions
    proxy_missing
    proxy_not_allowed
    proxy_v1
    proxy_v2
    rate_used_up
    recipients_limit
    reset
    sender_not_allowed
    size_after_the_dot
    size_at_mail
    smuggling_cr_dot_cr
    smuggling_crlf_dot_cr
    smuggling_crlf_dot_lf
    smuggling_lf_dot_crlf
    smuggling_lf_dot_lf
    starttls_injection
    syntax
    too_many_errors
    xclient
    xclient_refused
}

/// Small, so that dialogues are short.
const TEST_LIMITS: &str =
    "message_size = \"2KiB\"\nrecipients = 3\nlogin_failures = 3\nrate_per_ip = \"5/day\"";

/// Division of the client's bytes into writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WriteMode {
    AllAtOnce,
    LineByLine,
    ByteByByte,
}

struct Dialogue {
    listener: String,
    write_modes: Vec<WriteMode>,
    steps: Vec<DialogueStep>,
    expected_messages: Vec<Vec<u8>>,
    expected_warnings: Vec<String>,
}

#[derive(Clone, Debug)]
enum DialogueStep {
    Send(Vec<u8>),
    Expect(String),
    StartTls,
    Disconnect,
    ExpectClose,
}

async fn run_dialogue(text: &str) {
    let dialogue = Dialogue::parse(text);
    for cut in &dialogue.write_modes {
        dialogue.run_in_mode(*cut).await;
    }
}

impl Dialogue {
    fn parse(text: &str) -> Self {
        let (mut listener, mut write_modes) =
            (String::new(), vec![WriteMode::AllAtOnce, WriteMode::LineByLine, WriteMode::ByteByByte]);
        let (mut steps, mut expected_messages, mut expected_warnings) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(output) = line.strip_prefix("C: ") {
                steps.push(DialogueStep::Send([unescape_text(output), b"\r\n".to_vec()].concat()));
            } else if let Some(output) = line.strip_prefix("c: ") {
                steps.push(DialogueStep::Send(unescape_text(output)));
            } else if let Some(received) = line.strip_prefix("S: ") {
                steps.push(DialogueStep::Expect(received.to_owned()));
            } else if let Some(name) = line.strip_prefix("listener: ") {
                listener = name.to_owned();
            } else if line == "only: whole" {
                write_modes = vec![WriteMode::AllAtOnce];
            } else {
                let inner = line.strip_prefix("** ").and_then(|rest| rest.strip_suffix(" **"));
                match inner.unwrap_or_else(|| panic!("not a line of a dialogue: {line}")) {
                    "TLS" => steps.push(DialogueStep::StartTls),
                    "drop" => steps.push(DialogueStep::Disconnect),
                    "closed" => steps.push(DialogueStep::ExpectClose),
                    other => match other.split_once(": ") {
                        Some(("arrives", end)) => expected_messages.push(unescape_text(end)),
                        Some(("warns", text)) => expected_warnings.push(text.to_owned()),
                        _ => panic!("no such direction: {line}"),
                    },
                }
            }
        }
        assert!(
            matches!(steps.last(), Some(DialogueStep::Disconnect | DialogueStep::ExpectClose)),
            "a dialogue ends"
        );
        Self { listener, write_modes, steps, expected_messages, expected_warnings }
    }

    async fn run_in_mode(&self, write_mode: WriteMode) {
        let log = LogCapture::default();
        let _logging = log.install_at(tracing::Level::WARN);
        let sink = SmtpSink::start().await;
        let relay = Relay::start(&sink, TEST_LIMITS).await;
        let address = match self.listener.as_str() {
            "guarded" => relay.guarded(),
            "open" => relay.open(),
            "closed" => relay.closed(),
            "proxied" => relay.proxied(),
            other => panic!("no listener {other}"),
        };
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut talk =
            DialogueClient { stream: BufReader::new(Box::new(stream)), write_mode, ids: Vec::new() };
        for turn in order_steps(&self.steps, write_mode) {
            talk = talk.run_step(&turn, &relay).await;
        }
        let DialogueClient { stream: wire, ids, .. } = talk;
        drop(wire);
        assert_eq!(ids.len(), self.expected_messages.len(), "{write_mode:?}: messages promised");
        for (id, end) in ids.iter().zip(&self.expected_messages) {
            let (mail, end) = (sink.wait_for_message(id).await, end.escape_ascii().to_string());
            let message = mail.message.escape_ascii().to_string();
            assert!(message.ends_with(&end), "{write_mode:?}: {id} is\n{message}\nand not\n{end}");
        }
        let (store, _directory) = relay.stop().await;
        assert_eq!(
            all_message_ids(&store).len(),
            self.expected_messages.len(),
            "{write_mode:?}: messages kept"
        );
        assert_eq!(sink.count(), self.expected_messages.len(), "{write_mode:?}: messages relayed");
        assert_warnings(&log, &self.expected_warnings, write_mode);
    }
}

/// Orders the steps: in one piece, the client writes everything before it reads, between two changes of the
/// connection.
fn order_steps(turns: &[DialogueStep], cut: WriteMode) -> Vec<DialogueStep> {
    if cut != WriteMode::AllAtOnce {
        return turns.to_vec();
    }
    let mut ordered = Vec::new();
    for part in turns.split_inclusive(|turn| {
        matches!(turn, DialogueStep::StartTls | DialogueStep::Disconnect | DialogueStep::ExpectClose)
    }) {
        let (output, rest): (Vec<_>, Vec<_>) =
            part.iter().cloned().partition(|turn| matches!(turn, DialogueStep::Send(_)));
        let output = output.iter().flat_map(|turn| match turn {
            DialogueStep::Send(bytes) => bytes.as_slice(),
            _ => &[],
        });
        ordered.push(DialogueStep::Send(output.copied().collect()));
        ordered.extend(rest);
    }
    ordered
}

/// The client's side of a conversation.
struct DialogueClient {
    stream: BufReader<Box<dyn ByteStream>>,
    write_mode: WriteMode,
    /// Received tracking ids.
    ids: Vec<String>,
}

impl DialogueClient {
    async fn run_step(mut self, turn: &DialogueStep, relay: &Relay) -> Self {
        match turn {
            DialogueStep::Send(bytes) => self.write_bytes(bytes).await.unwrap(),
            DialogueStep::Expect(expected) => {
                let received = self.read_line().await;
                let fits = match expected.strip_suffix("...") {
                    Some(beginning) => received.starts_with(beginning),
                    None => received == *expected,
                };
                assert!(fits, "{:?}: heard {received:?} and not {expected:?}", self.write_mode);
                self.ids.extend(received.strip_prefix("250 2.0.0 Queued as ").map(str::to_owned));
            }
            DialogueStep::StartTls => {
                assert!(
                    self.stream.buffer().is_empty(),
                    "{:?}: said in clear behind STARTTLS",
                    self.write_mode
                );
                let name = ServerName::try_from("localhost").unwrap();
                let secured = relay.tls_connector().connect(name, self.stream.into_inner()).await.unwrap();
                self.stream = BufReader::new(Box::new(secured));
            }
            DialogueStep::Disconnect => {
                assert!(self.stream.buffer().is_empty(), "{:?}: more was said", self.write_mode);
                self.stream = BufReader::new(Box::new(tokio::io::empty()));
            }
            DialogueStep::ExpectClose => {
                let mut rest = Vec::new();
                let read = timeout(testkit::WAIT_TIMEOUT, self.stream.read_to_end(&mut rest)).await;
                // In TLS, the end of the stream is an error without a close notification.
                read.expect("the relay closes").unwrap();
                assert_eq!(rest.escape_ascii().to_string(), "", "{:?}: more was said", self.write_mode);
            }
        }
        self
    }

    async fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = if self.write_mode == WriteMode::ByteByByte { 1 } else { bytes.len().max(1) };
        for piece in bytes.chunks(size) {
            self.stream.write_all(piece).await?;
            self.stream.flush().await?;
            // Lets the relay read before the next piece.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        let reading = async {
            while !line.ends_with(b"\r\n") {
                match self.stream.read_u8().await {
                    Ok(byte) => line.push(byte),
                    Err(error) => panic!("{error} behind {:?}", line.escape_ascii().to_string()),
                }
            }
        };
        timeout(testkit::WAIT_TIMEOUT, reading).await.expect("the relay answers");
        String::from_utf8(line).unwrap().trim_end_matches("\r\n").to_owned()
    }
}

fn assert_warnings(log: &LogCapture, warnings: &[String], cut: WriteMode) {
    let text = log.text();
    let mut lines: Vec<_> = text.lines().collect();
    for warning in warnings {
        let found = lines.iter().position(|line| line.contains(" WARN ") && line.contains(warning));
        lines.remove(found.unwrap_or_else(|| panic!("{cut:?}: no warning {warning:?} in\n{text}")));
    }
    assert!(lines.is_empty(), "{cut:?}: logged\n{}", lines.join("\n"));
}

fn unescape_text(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let used = match (first, rest.as_bytes().get(1)) {
            ('\\', Some(b'x')) => {
                bytes.push(u8::from_str_radix(&rest[2..4], 16).unwrap());
                4
            }
            ('\\', Some(character)) => {
                let escapes = [(b'r', b'\r'), (b'n', b'\n'), (b't', b'\t'), (b'0', 0), (b'\\', b'\\')];
                bytes.push(escapes.iter().find(|(known, _)| known == character).unwrap().1);
                2
            }
            ('{', _) => {
                let (inner, _) = rest[1..].split_once('}').unwrap();
                let (unit, times) = inner.split_once('*').unwrap();
                bytes.extend(unescape_text(unit).repeat(times.parse().unwrap()));
                inner.len() + 2
            }
            _ => {
                bytes.extend_from_slice(first.to_string().as_bytes());
                first.len_utf8()
            }
        };
        rest = &rest[used..];
    }
    bytes
}
