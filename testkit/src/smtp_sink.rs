//! A mail server that takes everything (or refuses whom it is told to) and remembers it. It is a second opinion:
//! it shares no code with `crates/smtp`, and reads DATA by the letter of RFC 5321.

use crate::{PATIENCE, eventually_within, header};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// One message as it arrived.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Between the brackets of MAIL FROM.
    pub sender: String,
    /// What stood behind, in capitals: `SIZE=1 SMTPUTF8`.
    pub parameters: Vec<String>,
    /// Those that were taken.
    pub recipients: Vec<String>,
    /// Without the doubled dots; otherwise every byte.
    pub message: Vec<u8>,
    /// The verb of the greeting: EHLO, or LHLO of LMTP.
    pub hello: String,
}

impl Mail {
    /// The tracking id it was stamped with.
    pub fn id(&self) -> &str {
        header(&self.message, "X-Mailtrail-Id").expect("a relayed message names its id")
    }
}

/// How the server behaves.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Recipients that are refused, with the reply.
    pub refused: HashMap<String, String>,
    /// Time between having a message and saying so.
    pub thinking: Duration,
}

/// A running server.
#[derive(Clone)]
pub struct Sink {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
}

impl Sink {
    /// A server that takes everything.
    pub async fn start() -> Self {
        Self::with(Manners::default()).await
    }

    /// A server on a free port.
    pub async fn with(manners: Manners) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), manners).await
    }

    /// The same, at an address.
    pub async fn at(address: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let sink = Self { address: listener.local_addr().unwrap(), mails: Arc::default() };
        let (mails, manners) = (sink.mails.clone(), Arc::new(manners));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let guest = Guest::new(stream, mails.clone(), manners.clone());
                // Who leaves in the middle has left nothing.
                tokio::spawn(async move { guest.serve().await.ok() });
            }
        });
        sink
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What arrived so far, in the order of its arrival.
    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }

    /// All mail, once there are so many.
    pub async fn wait_for(&self, count: usize) -> Vec<Mail> {
        let enough = || (self.count() >= count).then(|| self.mails());
        eventually_within(PATIENCE, &format!("{count} messages at the sink"), enough).await
    }

    /// The mail with that tracking id.
    pub async fn arrival(&self, id: &str) -> Mail {
        let look = || self.mails().into_iter().find(|mail| mail.id() == id);
        eventually_within(PATIENCE, &format!("{id} at the sink"), look).await
    }
}

/// One connection.
struct Guest {
    heard: BufReader<OwnedReadHalf>,
    said: OwnedWriteHalf,
    mails: Arc<Mutex<Vec<Mail>>>,
    manners: Arc<Manners>,
}

impl Guest {
    fn new(stream: TcpStream, mails: Arc<Mutex<Vec<Mail>>>, manners: Arc<Manners>) -> Self {
        stream.set_nodelay(true).unwrap();
        let (heard, said) = stream.into_split();
        Self { heard: BufReader::new(heard), said, mails, manners }
    }

    async fn serve(mut self) -> std::io::Result<()> {
        self.say("220 sink.example.net ESMTP").await?;
        let (mut open, mut hello): (Option<Mail>, _) = (None, String::new());
        loop {
            let mut line = Vec::new();
            if self.heard.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            let line = String::from_utf8(line).expect("commands are UTF-8");
            let line = line.strip_suffix("\r\n").expect("commands end with CRLF");
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            match (verb.as_str(), &mut open) {
                ("EHLO" | "LHLO", _) => {
                    hello = verb;
                    self.say(HELLO).await?;
                }
                ("MAIL", None) => {
                    open = Some(begin(line, &hello));
                    self.say("250 2.1.0 fine").await?;
                }
                ("RCPT", Some(mail)) => {
                    let recipient = path(line).0.to_owned();
                    let refusal = self.manners.refused.get(&recipient).cloned();
                    if refusal.is_none() {
                        mail.recipients.push(recipient);
                    }
                    self.say(refusal.as_deref().unwrap_or("250 2.1.5 fine")).await?;
                }
                ("DATA", Some(mail)) if !mail.recipients.is_empty() => {
                    self.say("354 go on").await?;
                    if !self.take(open.take().unwrap()).await? {
                        return Ok(());
                    }
                }
                ("RSET", _) => {
                    open = None;
                    self.say("250 2.0.0 fine").await?;
                }
                ("QUIT", _) => return self.say("221 2.0.0 bye").await,
                _ => self.say("503 5.5.1 not now").await?,
            }
        }
    }

    /// Reads to CRLF.CRLF; false when the client left before.
    async fn take(&mut self, mut mail: Mail) -> std::io::Result<bool> {
        let mut at_line_start = true;
        loop {
            let mut line = Vec::new();
            if self.heard.read_until(b'\n', &mut line).await? == 0 {
                return Ok(false);
            }
            if at_line_start && line == b".\r\n" {
                break;
            }
            let stuffed = at_line_start && line.starts_with(b".");
            mail.message.extend_from_slice(&line[usize::from(stuffed)..]);
            at_line_start = line.ends_with(b"\r\n");
        }
        self.mails.lock().unwrap().push(mail);
        if !self.manners.thinking.is_zero() {
            tokio::time::sleep(self.manners.thinking).await;
        }
        self.say("250 2.0.0 taken").await?;
        Ok(true)
    }

    async fn say(&mut self, words: &str) -> std::io::Result<()> {
        self.said.write_all(format!("{words}\r\n").as_bytes()).await
    }
}

fn begin(line: &str, hello: &str) -> Mail {
    let (sender, rest) = path(line);
    let parameters = rest.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
    Mail {
        sender: sender.to_owned(),
        parameters,
        recipients: Vec::new(),
        message: Vec::new(),
        hello: hello.to_owned(),
    }
}

/// What is in the brackets, and what is behind them.
fn path(line: &str) -> (&str, &str) {
    let (_, rest) = line.split_once('<').expect("an address stands in brackets");
    rest.rsplit_once('>').expect("an address stands in brackets")
}

const HELLO: &str = "250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                     250-ENHANCEDSTATUSCODES\r\n250 SIZE 52428800";
