//! A mail server that takes everything (or refuses whom it is told to) and remembers it. It is a second opinion:
//! it shares no code with `crates/smtp`, and reads DATA by the letter of RFC 5321.

use crate::{WAIT_TIMEOUT, eventually_within, header_value};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// One message as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
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

impl ReceivedMessage {
    /// The tracking id it was stamped with.
    pub fn tracking_id(&self) -> &str {
        header_value(&self.message, "X-Mailtrail-Id").expect("a relayed message names its id")
    }
}

/// How the server behaves.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// Recipients that are refused, with the reply.
    pub rejections: HashMap<String, String>,
    /// Time between having a message and saying so.
    pub reply_delay: Duration,
}

/// A running server.
#[derive(Clone)]
pub struct SmtpSink {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<ReceivedMessage>>>,
}

impl SmtpSink {
    /// A server that takes everything.
    pub async fn start() -> Self {
        Self::with_options(SinkOptions::default()).await
    }

    /// A server on a free port.
    pub async fn with_options(manners: SinkOptions) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), manners).await
    }

    /// The same, at an address.
    pub async fn at(address: SocketAddr, manners: SinkOptions) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let sink = Self { address: listener.local_addr().unwrap(), mails: Arc::default() };
        let (mails, manners) = (sink.mails.clone(), Arc::new(manners));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let guest = SinkSession::new(stream, mails.clone(), manners.clone());
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
    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.mails.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }

    /// All mail, once there are so many.
    pub async fn wait_for_count(&self, count: usize) -> Vec<ReceivedMessage> {
        let enough = || (self.count() >= count).then(|| self.messages());
        eventually_within(WAIT_TIMEOUT, &format!("{count} messages at the sink"), enough).await
    }

    /// The mail with that tracking id.
    pub async fn wait_for_message(&self, id: &str) -> ReceivedMessage {
        let look = || self.messages().into_iter().find(|mail| mail.tracking_id() == id);
        eventually_within(WAIT_TIMEOUT, &format!("{id} at the sink"), look).await
    }
}

/// One connection.
struct SinkSession {
    heard: BufReader<OwnedReadHalf>,
    said: OwnedWriteHalf,
    mails: Arc<Mutex<Vec<ReceivedMessage>>>,
    manners: Arc<SinkOptions>,
}

impl SinkSession {
    fn new(stream: TcpStream, mails: Arc<Mutex<Vec<ReceivedMessage>>>, manners: Arc<SinkOptions>) -> Self {
        stream.set_nodelay(true).unwrap();
        let (heard, said) = stream.into_split();
        Self { heard: BufReader::new(heard), said, mails, manners }
    }

    async fn serve(mut self) -> std::io::Result<()> {
        self.reply("220 sink.example.net ESMTP").await?;
        let (mut open, mut hello): (Option<ReceivedMessage>, _) = (None, String::new());
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
                    self.reply(EHLO_REPLY).await?;
                }
                ("MAIL", None) => {
                    open = Some(new_message(line, &hello));
                    self.reply("250 2.1.0 fine").await?;
                }
                ("RCPT", Some(mail)) => {
                    let recipient = split_path(line).0.to_owned();
                    let refusal = self.manners.rejections.get(&recipient).cloned();
                    if refusal.is_none() {
                        mail.recipients.push(recipient);
                    }
                    self.reply(refusal.as_deref().unwrap_or("250 2.1.5 fine")).await?;
                }
                ("DATA", Some(mail)) if !mail.recipients.is_empty() => {
                    self.reply("354 go on").await?;
                    if !self.receive_message(open.take().unwrap()).await? {
                        return Ok(());
                    }
                }
                ("RSET", _) => {
                    open = None;
                    self.reply("250 2.0.0 fine").await?;
                }
                ("QUIT", _) => return self.reply("221 2.0.0 bye").await,
                _ => self.reply("503 5.5.1 not now").await?,
            }
        }
    }

    /// Reads to CRLF.CRLF; false when the client left before.
    async fn receive_message(&mut self, mut mail: ReceivedMessage) -> std::io::Result<bool> {
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
        if !self.manners.reply_delay.is_zero() {
            tokio::time::sleep(self.manners.reply_delay).await;
        }
        self.reply("250 2.0.0 taken").await?;
        Ok(true)
    }

    async fn reply(&mut self, words: &str) -> std::io::Result<()> {
        self.said.write_all(format!("{words}\r\n").as_bytes()).await
    }
}

fn new_message(line: &str, hello: &str) -> ReceivedMessage {
    let (sender, rest) = split_path(line);
    let parameters = rest.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
    ReceivedMessage {
        sender: sender.to_owned(),
        parameters,
        recipients: Vec::new(),
        message: Vec::new(),
        hello: hello.to_owned(),
    }
}

/// What is in the brackets, and what is behind them.
fn split_path(line: &str) -> (&str, &str) {
    let (_, rest) = line.split_once('<').expect("an address stands in brackets");
    rest.rsplit_once('>').expect("an address stands in brackets")
}

const EHLO_REPLY: &str = "250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                     250-ENHANCEDSTATUSCODES\r\n250 SIZE 52428800";
