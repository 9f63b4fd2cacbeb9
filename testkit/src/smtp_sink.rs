//! Mail server that accepts and stores everything except configured rejections. It shares no code with `crates/smtp` and
//! reads DATA by the letter of RFC 5321.

use crate::{WAIT_TIMEOUT, eventually_within, header_value};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Message as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// Address in the brackets of MAIL FROM.
    pub sender: String,
    /// Parameters of MAIL in upper case: `SIZE=1 SMTPUTF8`.
    pub parameters: Vec<String>,
    /// Accepted recipients.
    pub recipients: Vec<String>,
    /// All bytes, with dot stuffing removed.
    pub message: Vec<u8>,
    /// The verb of the greeting: EHLO, or LHLO of LMTP.
    pub hello: String,
}

impl ReceivedMessage {
    /// Returns the tracking id in the header.
    pub fn tracking_id(&self) -> &str {
        header_value(&self.message, "X-Mailtrail-Id").expect("a relayed message names its id")
    }
}

/// Behaviour of the server.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// Rejected recipients, each with its reply.
    pub rejections: HashMap<String, String>,
    /// Time between the final dot and its reply.
    pub reply_delay: Duration,
}

/// Running server.
#[derive(Clone)]
pub struct SmtpSink {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<ReceivedMessage>>>,
}

impl SmtpSink {
    /// Starts a server that accepts everything.
    pub async fn start() -> Self {
        Self::with_options(SinkOptions::default()).await
    }

    /// Starts a server with options on a free port.
    pub async fn with_options(options: SinkOptions) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), options).await
    }

    /// Starts a server with options at an address.
    pub async fn at(address: SocketAddr, options: SinkOptions) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let sink = Self { address: listener.local_addr().unwrap(), mails: Arc::default() };
        let (mails, options) = (sink.mails.clone(), Arc::new(options));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = SinkSession::new(stream, mails.clone(), options.clone());
                // A client that disconnects in a transaction leaves no message.
                tokio::spawn(async move { session.serve().await.ok() });
            }
        });
        sink
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the messages so far, in order of arrival.
    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.mails.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }

    /// Waits for this number of messages and returns all.
    pub async fn wait_for_count(&self, count: usize) -> Vec<ReceivedMessage> {
        let enough = || (self.count() >= count).then(|| self.messages());
        eventually_within(WAIT_TIMEOUT, &format!("{count} messages at the sink"), enough).await
    }

    /// Waits for the message with this tracking id.
    pub async fn wait_for_message(&self, id: &str) -> ReceivedMessage {
        let look = || self.messages().into_iter().find(|mail| mail.tracking_id() == id);
        eventually_within(WAIT_TIMEOUT, &format!("{id} at the sink"), look).await
    }
}

/// Session of one connection.
struct SinkSession {
    received: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    mails: Arc<Mutex<Vec<ReceivedMessage>>>,
    options: Arc<SinkOptions>,
}

impl SinkSession {
    fn new(stream: TcpStream, mails: Arc<Mutex<Vec<ReceivedMessage>>>, options: Arc<SinkOptions>) -> Self {
        stream.set_nodelay(true).unwrap();
        let (received, output) = stream.into_split();
        Self { received: BufReader::new(received), output, mails, options }
    }

    async fn serve(mut self) -> std::io::Result<()> {
        self.reply("220 sink.example.net ESMTP").await?;
        let (mut open, mut hello): (Option<ReceivedMessage>, _) = (None, String::new());
        loop {
            let mut line = Vec::new();
            if self.received.read_until(b'\n', &mut line).await? == 0 {
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
                    let refusal = self.options.rejections.get(&recipient).cloned();
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

    /// Reads to CRLF.CRLF; false if the client disconnects before that.
    async fn receive_message(&mut self, mut mail: ReceivedMessage) -> std::io::Result<bool> {
        let mut at_line_start = true;
        loop {
            let mut line = Vec::new();
            if self.received.read_until(b'\n', &mut line).await? == 0 {
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
        if !self.options.reply_delay.is_zero() {
            tokio::time::sleep(self.options.reply_delay).await;
        }
        self.reply("250 2.0.0 taken").await?;
        Ok(true)
    }

    async fn reply(&mut self, words: &str) -> std::io::Result<()> {
        self.output.write_all(format!("{words}\r\n").as_bytes()).await
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

/// Splits a command into the address in brackets and the rest.
fn split_path(line: &str) -> (&str, &str) {
    let (_, rest) = line.split_once('<').expect("an address stands in brackets");
    rest.rsplit_once('>').expect("an address stands in brackets")
}

const EHLO_REPLY: &str = "250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                     250-ENHANCEDSTATUSCODES\r\n250 SIZE 52428800";
