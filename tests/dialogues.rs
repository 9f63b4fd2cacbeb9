//! Whole conversations with the front door, written down in `tests/dialogues/*.txt`.
//!
//! Each is held three times on a real socket: *whole* (everything up to TLS or the end in one write, then all
//! replies), *line by line*, and *byte by byte*. Each time the messages at the server behind the relay, what the
//! store holds, and what was logged are compared too: what a dialogue does not mention must not happen.
//!
//! The first lines of a file say `listener: guarded|open|closed|proxied` (see `support::relay::configuration`) and maybe
//! `only: whole`. Then, in this order of talk:
//!
//! ```text
//! C: text          the client says this line
//! c: bytes         the client says exactly this, without a line end
//! S: text          the relay says exactly this line; `...` at the end: it begins so
//! ** TLS **        both speak TLS from here on
//! ** drop **       the client closes without a goodbye
//! ** closed **     the relay has said everything and closed
//! ** arrives: T ** (at the end) a message arrives that ends with T, in the order of the dialogue
//! ** warns: T **   (at the end) a warning is logged that contains T
//! ```
//!
//! `C:`, `c:` and `arrives:` know `\r`, `\n`, `\t`, `\0`, `\\`, `\xNN` and `{x*100}`, a hundred times x.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use rustls::pki_types::ServerName;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::client::Wire;
use support::relay::{Relay, all_sends};
use support::sink::Sink;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

macro_rules! dialogues {
    ($($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            hold(include_str!(concat!("dialogues/", stringify!($name), ".txt"))).await;
        })*

        #[test]
        fn every_dialogue_is_held() {
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
const LIMITS: &str = "message_size = \"2KiB\"\nrecipients = 3\nlogin_failures = 3\nrate_per_ip = \"5/day\"";

/// How the client's bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    Whole,
    Lines,
    Bytes,
}

struct Dialogue {
    listener: String,
    cuts: Vec<Cut>,
    turns: Vec<Turn>,
    arrivals: Vec<Vec<u8>>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
enum Turn {
    Say(Vec<u8>),
    Hear(String),
    Tls,
    Drop,
    Closed,
}

async fn hold(text: &str) {
    let dialogue = Dialogue::parse(text);
    for cut in &dialogue.cuts {
        dialogue.hold(*cut).await;
    }
}

impl Dialogue {
    fn parse(text: &str) -> Self {
        let (mut listener, mut cuts) = (String::new(), vec![Cut::Whole, Cut::Lines, Cut::Bytes]);
        let (mut turns, mut arrivals, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(said) = line.strip_prefix("C: ") {
                turns.push(Turn::Say([unescape(said), b"\r\n".to_vec()].concat()));
            } else if let Some(said) = line.strip_prefix("c: ") {
                turns.push(Turn::Say(unescape(said)));
            } else if let Some(heard) = line.strip_prefix("S: ") {
                turns.push(Turn::Hear(heard.to_owned()));
            } else if let Some(name) = line.strip_prefix("listener: ") {
                listener = name.to_owned();
            } else if line == "only: whole" {
                cuts = vec![Cut::Whole];
            } else {
                let inner = line.strip_prefix("** ").and_then(|rest| rest.strip_suffix(" **"));
                match inner.unwrap_or_else(|| panic!("not a line of a dialogue: {line}")) {
                    "TLS" => turns.push(Turn::Tls),
                    "drop" => turns.push(Turn::Drop),
                    "closed" => turns.push(Turn::Closed),
                    other => match other.split_once(": ") {
                        Some(("arrives", end)) => arrivals.push(unescape(end)),
                        Some(("warns", text)) => warnings.push(text.to_owned()),
                        _ => panic!("no such direction: {line}"),
                    },
                }
            }
        }
        assert!(matches!(turns.last(), Some(Turn::Drop | Turn::Closed)), "a dialogue ends");
        Self { listener, cuts, turns, arrivals, warnings }
    }

    async fn hold(&self, cut: Cut) {
        let log = Log::default();
        let _logging = log.listen();
        let sink = Sink::start().await;
        let relay = Relay::start(&sink, LIMITS).await;
        let address = match self.listener.as_str() {
            "guarded" => relay.guarded(),
            "open" => relay.open(),
            "closed" => relay.closed(),
            "proxied" => relay.proxied(),
            other => panic!("no listener {other}"),
        };
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut talk = Talk { wire: BufReader::new(Box::new(stream)), cut, ids: Vec::new() };
        for turn in in_order(&self.turns, cut) {
            talk = talk.take(&turn, &relay).await;
        }
        let Talk { wire, ids, .. } = talk;
        drop(wire);
        assert_eq!(ids.len(), self.arrivals.len(), "{cut:?}: messages promised");
        for (id, end) in ids.iter().zip(&self.arrivals) {
            let (mail, end) = (sink.arrival(id).await, end.escape_ascii().to_string());
            let message = mail.message.escape_ascii().to_string();
            assert!(message.ends_with(&end), "{cut:?}: {id} is\n{message}\nand not\n{end}");
        }
        let (store, _directory) = relay.stop().await;
        assert_eq!(all_sends(&store).len(), self.arrivals.len(), "{cut:?}: messages kept");
        assert_eq!(sink.count(), self.arrivals.len(), "{cut:?}: messages relayed");
        log.check(&self.warnings, cut);
    }
}

/// In one piece everything is said first and heard afterwards, from one change of the connection to the next.
fn in_order(turns: &[Turn], cut: Cut) -> Vec<Turn> {
    if cut != Cut::Whole {
        return turns.to_vec();
    }
    let mut ordered = Vec::new();
    for part in turns.split_inclusive(|turn| matches!(turn, Turn::Tls | Turn::Drop | Turn::Closed)) {
        let (said, rest): (Vec<_>, Vec<_>) =
            part.iter().cloned().partition(|turn| matches!(turn, Turn::Say(_)));
        let said = said.iter().flat_map(|turn| match turn {
            Turn::Say(bytes) => bytes.as_slice(),
            _ => &[],
        });
        ordered.push(Turn::Say(said.copied().collect()));
        ordered.extend(rest);
    }
    ordered
}

/// The client's side of a conversation.
struct Talk {
    wire: BufReader<Box<dyn Wire>>,
    cut: Cut,
    /// Tracking ids that were heard.
    ids: Vec<String>,
}

impl Talk {
    async fn take(mut self, turn: &Turn, relay: &Relay) -> Self {
        match turn {
            Turn::Say(bytes) => self.say(bytes).await.unwrap(),
            Turn::Hear(expected) => {
                let heard = self.hear().await;
                let fits = match expected.strip_suffix("...") {
                    Some(beginning) => heard.starts_with(beginning),
                    None => heard == *expected,
                };
                assert!(fits, "{:?}: heard {heard:?} and not {expected:?}", self.cut);
                self.ids.extend(heard.strip_prefix("250 2.0.0 Queued as ").map(str::to_owned));
            }
            Turn::Tls => {
                assert!(self.wire.buffer().is_empty(), "{:?}: said in clear behind STARTTLS", self.cut);
                let name = ServerName::try_from("localhost").unwrap();
                let secured = relay.trust().connect(name, self.wire.into_inner()).await.unwrap();
                self.wire = BufReader::new(Box::new(secured));
            }
            Turn::Drop => {
                assert!(self.wire.buffer().is_empty(), "{:?}: more was said", self.cut);
                self.wire = BufReader::new(Box::new(tokio::io::empty()));
            }
            Turn::Closed => {
                let mut rest = Vec::new();
                let read = timeout(support::PATIENCE, self.wire.read_to_end(&mut rest)).await;
                // Within TLS the end is an error unless the relay says goodbye there too.
                read.expect("the relay closes").unwrap();
                assert_eq!(rest.escape_ascii().to_string(), "", "{:?}: more was said", self.cut);
            }
        }
        self
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = if self.cut == Cut::Bytes { 1 } else { bytes.len().max(1) };
        for piece in bytes.chunks(size) {
            self.wire.write_all(piece).await?;
            self.wire.flush().await?;
            // Lets the relay read before the next piece.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn hear(&mut self) -> String {
        let mut line = Vec::new();
        let reading = async {
            while !line.ends_with(b"\r\n") {
                match self.wire.read_u8().await {
                    Ok(byte) => line.push(byte),
                    Err(error) => panic!("{error} behind {:?}", line.escape_ascii().to_string()),
                }
            }
        };
        timeout(support::PATIENCE, reading).await.expect("the relay answers");
        String::from_utf8(line).unwrap().trim_end_matches("\r\n").to_owned()
    }
}

/// What was logged on this thread, on which everything but the store's own work happens.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn check(&self, warnings: &[String], cut: Cut) {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        for warning in warnings {
            let found = lines.iter().position(|line| line.contains(" WARN ") && line.contains(warning));
            lines.remove(found.unwrap_or_else(|| panic!("{cut:?}: no warning {warning:?} in\n{text}")));
        }
        assert!(lines.is_empty(), "{cut:?}: logged\n{}", lines.join("\n"));
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let used = match (first, rest.as_bytes().get(1)) {
            ('\\', Some(b'x')) => {
                bytes.push(u8::from_str_radix(&rest[2..4], 16).unwrap());
                4
            }
            ('\\', Some(letter)) => {
                let escapes = [(b'r', b'\r'), (b'n', b'\n'), (b't', b'\t'), (b'0', 0), (b'\\', b'\\')];
                bytes.push(escapes.iter().find(|(known, _)| known == letter).unwrap().1);
                2
            }
            ('{', _) => {
                let (inner, _) = rest[1..].split_once('}').unwrap();
                let (unit, times) = inner.split_once('*').unwrap();
                bytes.extend(unescape(unit).repeat(times.parse().unwrap()));
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
