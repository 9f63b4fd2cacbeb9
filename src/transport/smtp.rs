//! One SMTP connection to an upstream (RFC 5321 section 3), login and transactions.
//!
//! Written on the raw stream and not on a client library's connection: the next message's envelope rides behind
//! this one's final dot (RFC 2920), after STARTTLS there is no second greeting and nothing heard before counts
//! (RFC 3207), every wait has an end, and it must be known whether a failure came before or after the final dot.

use super::settings::{Login, Pipelining, Security, Settings};
use crate::mail::{BodyType, Envelope};
use crate::smtp::{Capabilities, Encoder, Response, ResponseReader, Unreadable};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustls::pki_types::ServerName;
use std::fmt::Write as _;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A logged-in connection.
pub struct Connection {
    wire: BufWriter<Box<dyn Wire>>,
    heard: Vec<u8>,
    name: String,
    capabilities: Capabilities,
    pipelining: Pipelining,
}

trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for T {}

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody there, or the way is broken.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// No answer in time.
    #[error("no answer to {what} within {} s", limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The peer closed.
    #[error("the server closed the connection")]
    Closed,
    /// The peer does not speak SMTP.
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    /// The peer refused to serve us.
    #[error("refused at {what}: {response}")]
    Refused {
        /// The step.
        what: &'static str,
        /// Its words.
        response: Response,
    },
    /// The login is wrong.
    #[error("the login was refused: {0}; check username and password of this upstream")]
    Login(Response),
    /// TLS is asked for and not to be had.
    #[error(
        "the server does not offer STARTTLS; nothing is sent in clear: check host, port and the path to it"
    )]
    NoStartTls,
    /// No mechanism that we have.
    #[error("the server offers neither AUTH PLAIN nor AUTH LOGIN")]
    NoAuth,
    /// The host's name is no name.
    #[error("{0} is not a host name that a certificate can carry")]
    HostName(String),
}

/// A connection that ends is one that was closed, whether or not TLS took leave.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// The upstream's answers to an envelope.
#[derive(Debug)]
pub struct EnvelopeReplies {
    /// To MAIL.
    pub mail: Response,
    /// To each RCPT; fewer when MAIL was refused.
    pub recipients: Vec<Response>,
    /// To DATA, if it was said.
    pub data: Option<Response>,
}

impl EnvelopeReplies {
    /// Whether the message may follow.
    pub fn go_ahead(&self) -> bool {
        let wanted = self.recipients.iter().any(Response::is_positive);
        wanted && self.mail.is_positive() && self.data.as_ref().is_some_and(Response::is_intermediate)
    }
}

/// How the sending of a message failed.
#[derive(Debug)]
pub enum ContentFault {
    /// The message itself could not be read to its end: the upstream cannot have taken it.
    Unreadable(io::Error),
    /// Before the final dot: the upstream cannot have taken it.
    Before(Fault),
    /// After it: nobody knows.
    After(Fault),
}

impl Connection {
    /// Connects, secures and logs in.
    pub async fn open(settings: &Settings, tls: &TlsConnector, hostname: &str) -> Result<Self, Fault> {
        let address = (settings.host.as_str(), settings.port);
        let stream = within(CONNECT, "connect", async { Ok(TcpStream::connect(address).await?) }).await?;
        // Without it each message waits 40 ms for the peer's delayed acknowledgement.
        stream.set_nodelay(true)?;
        let wire: Box<dyn Wire> = match settings.security {
            Security::Implicit => Box::new(secure(stream, settings, tls).await?),
            Security::StartTls | Security::None => Box::new(stream),
        };
        let mut connection = Self {
            wire: BufWriter::with_capacity(WRITE_BUFFER, wire),
            heard: Vec::new(),
            name: String::new(),
            capabilities: Capabilities::default(),
            pipelining: settings.pipelining,
        };
        connection.expect("the greeting", GREETING).await?;
        connection.hello(hostname).await?;
        if settings.security == Security::StartTls {
            connection = connection.start_tls(settings, tls, hostname).await?;
        }
        if let Some(login) = &settings.login {
            connection.log_in(login).await?;
        }
        Ok(connection)
    }

    /// What the upstream calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the upstream offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether another envelope may ride behind a final dot.
    pub fn chains(&self) -> bool {
        self.pipelining == Pipelining::Full && self.capabilities.pipelining
    }

    /// Says MAIL, the RCPTs and DATA, and reads the answers; what is grouped follows from the settings.
    pub async fn envelope(&mut self, envelope: &Envelope, size: u64) -> Result<EnvelopeReplies, Fault> {
        if self.pipelining == Pipelining::Off || !self.capabilities.pipelining {
            return self.envelope_in_steps(envelope, size).await;
        }
        let mut replies = Vec::with_capacity(envelope.recipients.len() + 2);
        // More at once could fill the buffers of both sides (RFC 2920 section 3.1).
        for group in self.commands(envelope, size).chunks(COMMANDS_AT_ONCE) {
            self.write(group.concat().as_bytes()).await?;
            self.flush().await?;
            for _ in group {
                replies.push(self.response("the envelope", DATA).await?);
            }
        }
        let data = replies.pop();
        let mut replies = replies.into_iter();
        let mail = replies.next().ok_or(Fault::Closed)?;
        Ok(EnvelopeReplies { mail, recipients: replies.collect(), data })
    }

    /// Reads the answers to an envelope that rode behind a final dot.
    pub async fn envelope_replies(&mut self, envelope: &Envelope) -> Result<EnvelopeReplies, Fault> {
        let mail = self.response("MAIL", COMMAND).await?;
        let mut recipients = Vec::with_capacity(envelope.recipients.len());
        for _ in &envelope.recipients {
            recipients.push(self.response("RCPT", COMMAND).await?);
        }
        let data = Some(self.response("DATA", DATA).await?);
        Ok(EnvelopeReplies { mail, recipients, data })
    }

    async fn envelope_in_steps(&mut self, envelope: &Envelope, size: u64) -> Result<EnvelopeReplies, Fault> {
        let commands = self.commands(envelope, size);
        let (mail, rest) = commands.split_first().ok_or(Fault::Closed)?;
        let (data, recipients) = rest.split_last().ok_or(Fault::Closed)?;
        let mut replies =
            EnvelopeReplies { mail: self.command(mail, "MAIL").await?, recipients: Vec::new(), data: None };
        if replies.mail.is_positive() {
            for recipient in recipients {
                replies.recipients.push(self.command(recipient, "RCPT").await?);
            }
        }
        if replies.recipients.iter().any(Response::is_positive) {
            replies.data = Some(self.command(data, "DATA").await?);
        }
        Ok(replies)
    }

    /// Ends a transaction whose message does not follow.
    pub async fn abandon(&mut self, replies: &EnvelopeReplies) -> Result<(), Fault> {
        if replies.data.as_ref().is_some_and(Response::is_intermediate) {
            // The server waits for a message although it took nobody (RFC 2920 section 3.1).
            self.command(".\r\n", "the end of no message").await?;
        }
        let reset = self.command("RSET\r\n", "RSET").await?;
        if reset.is_positive() { Ok(()) } else { Err(Fault::Refused { what: "RSET", response: reset }) }
    }

    /// Sends the message in `pieces`, the final dot, and the envelope of the next message behind it where the
    /// upstream can take that; reads the answer to the dot. There is no dot behind a piece that cannot be read.
    pub async fn content(
        &mut self,
        pieces: impl Stream<Item = io::Result<Bytes>>,
        next: Option<(&Envelope, u64)>,
    ) -> Result<Response, ContentFault> {
        let body = async {
            let (mut pieces, mut encoder) = (pin!(pieces), Encoder::default());
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => write_stuffed(&mut self.wire, &mut encoder, &piece).await?,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(()))
        };
        let sent = within(CONTENT, "the message", body).await.map_err(ContentFault::Before)?;
        sent.map_err(ContentFault::Unreadable)?;
        self.end_of_data(next).await.map_err(ContentFault::After)
    }

    async fn end_of_data(&mut self, next: Option<(&Envelope, u64)>) -> Result<Response, Fault> {
        self.write(b".\r\n").await?;
        if let Some((envelope, size)) = next {
            let commands = self.commands(envelope, size).concat();
            self.write(commands.as_bytes()).await?;
        }
        self.flush().await?;
        self.response("the end of data", END_OF_DATA).await
    }

    /// Says goodbye without waiting for the answer.
    pub async fn quit(mut self) {
        let bye = async {
            self.wire.write_all(b"QUIT\r\n").await?;
            self.wire.flush().await?;
            self.wire.shutdown().await
        };
        // Nothing depends on it.
        let _ = timeout(BYE, bye).await;
    }

    async fn hello(&mut self, hostname: &str) -> Result<(), Fault> {
        let lines = self.converse(&format!("EHLO {hostname}\r\n"), "EHLO").await?;
        let name = lines.first().and_then(|line| line.split_ascii_whitespace().next());
        self.name = name.unwrap_or_default().to_owned();
        let mut capabilities = Capabilities::default();
        lines.iter().skip(1).for_each(|line| capabilities.note(line));
        self.capabilities = capabilities;
        Ok(())
    }

    async fn start_tls(
        mut self,
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, Fault> {
        if !self.capabilities.starttls {
            return Err(Fault::NoStartTls);
        }
        let response = self.command("STARTTLS\r\n", "STARTTLS").await?;
        if !response.is_positive() {
            return Err(Fault::Refused { what: "STARTTLS", response });
        }
        // Whatever the peer, or somebody between us, said beyond that answer in clear is dropped with `heard`.
        let stream = secure(self.wire.into_inner(), settings, tls).await?;
        let mut connection = Self {
            wire: BufWriter::with_capacity(WRITE_BUFFER, Box::new(stream)),
            heard: Vec::new(),
            name: String::new(),
            capabilities: Capabilities::default(),
            pipelining: self.pipelining,
        };
        connection.hello(hostname).await?;
        Ok(connection)
    }

    /// Logs in with PLAIN and its initial response: Mailgun's prompt for the two-step form is not base64.
    async fn log_in(&mut self, login: &Login) -> Result<(), Fault> {
        let (user, password) = (&login.username, login.password.reveal());
        let response = if self.capabilities.auth_plain {
            let token = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
            self.command(&format!("AUTH PLAIN {token}\r\n"), "AUTH").await?
        } else if self.capabilities.auth_login {
            let prompt = self.command("AUTH LOGIN\r\n", "AUTH").await?;
            if !prompt.is_intermediate() {
                return Err(Fault::Login(prompt));
            }
            let prompt = self.command(&format!("{}\r\n", BASE64_STANDARD.encode(user)), "AUTH").await?;
            if !prompt.is_intermediate() {
                return Err(Fault::Login(prompt));
            }
            self.command(&format!("{}\r\n", BASE64_STANDARD.encode(password)), "AUTH").await?
        } else {
            return Err(Fault::NoAuth);
        };
        if response.is_positive() { Ok(()) } else { Err(Fault::Login(response)) }
    }

    /// MAIL, the RCPTs and DATA, a line each.
    fn commands(&self, envelope: &Envelope, size: u64) -> Vec<String> {
        let sender = envelope.sender.as_ref().map_or("", |sender| sender.as_str());
        let mut mail = format!("MAIL FROM:<{sender}>");
        if self.capabilities.size.is_some() {
            // Writing to a String cannot fail.
            let _ = write!(mail, " SIZE={size}");
        }
        if envelope.body == BodyType::EightBitMime && self.capabilities.eight_bit_mime {
            mail.push_str(" BODY=8BITMIME");
        }
        if envelope.smtputf8 {
            mail.push_str(" SMTPUTF8");
        }
        mail.push_str("\r\n");
        let recipients = envelope.recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>\r\n"));
        std::iter::once(mail).chain(recipients).chain(std::iter::once("DATA\r\n".to_owned())).collect()
    }

    async fn command(&mut self, line: &str, what: &'static str) -> Result<Response, Fault> {
        self.write(line.as_bytes()).await?;
        self.flush().await?;
        self.response(what, COMMAND).await
    }

    async fn expect(&mut self, what: &'static str, limit: Duration) -> Result<(), Fault> {
        let response = self.response(what, limit).await?;
        if response.is_positive() { Ok(()) } else { Err(Fault::Refused { what, response }) }
    }

    /// A command whose answer's lines matter.
    async fn converse(&mut self, line: &str, what: &'static str) -> Result<Vec<String>, Fault> {
        self.write(line.as_bytes()).await?;
        self.flush().await?;
        let mut lines = Vec::new();
        let response = self.read_response(what, COMMAND, |line| {
            lines.push(String::from_utf8_lossy(line.get(4..).unwrap_or_default()).into_owned());
        });
        let response = response.await?;
        if response.is_positive() { Ok(lines) } else { Err(Fault::Refused { what, response }) }
    }

    async fn response(&mut self, what: &'static str, limit: Duration) -> Result<Response, Fault> {
        self.read_response(what, limit, |_| {}).await
    }

    async fn read_response(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Response, Fault> {
        let mut reader = ResponseReader::default();
        within(limit, what, async {
            loop {
                while let Some(end) = memchr::memchr(b'\n', &self.heard) {
                    let line = self.heard[..end].strip_suffix(b"\r").unwrap_or(&self.heard[..end]);
                    each(line);
                    let response = reader.line(line)?;
                    self.heard.drain(..=end);
                    if let Some(response) = response {
                        return Ok(response);
                    }
                }
                if self.heard.len() > ResponseReader::LINE {
                    return Err(Unreadable::TooLong.into());
                }
                if self.wire.get_mut().read_buf(&mut self.heard).await? == 0 {
                    return Err(Fault::Closed);
                }
            }
        })
        .await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        within(COMMAND, "a command", async { Ok(self.wire.write_all(bytes).await?) }).await
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        within(COMMAND, "a command", async { Ok(self.wire.flush().await?) }).await
    }
}

async fn secure<S: Wire>(
    stream: S,
    settings: &Settings,
    tls: &TlsConnector,
) -> Result<tokio_rustls::client::TlsStream<S>, Fault> {
    let name =
        ServerName::try_from(settings.host.clone()).map_err(|_| Fault::HostName(settings.host.clone()))?;
    within(CONNECT, "the TLS handshake", async { Ok(tls.connect(name, stream).await?) }).await
}

/// Writes a piece of a message with its dots doubled.
async fn write_stuffed(
    wire: &mut BufWriter<Box<dyn Wire>>,
    encoder: &mut Encoder,
    piece: &[u8],
) -> Result<(), Fault> {
    let mut from = 0;
    for at in encoder.dots(piece) {
        wire.write_all(&piece[from..at]).await?;
        wire.write_all(b".").await?;
        from = at;
    }
    wire.write_all(&piece[from..]).await?;
    Ok(())
}

async fn within<T>(
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(limit, work).await.unwrap_or(Err(Fault::Timeout { what, limit }))
}

const WRITE_BUFFER: usize = 16 << 10;
const COMMANDS_AT_ONCE: usize = 100;
/// RFC 5321 section 4.5.3.2 asks for 5 minutes and more; a submission server that is well answers in seconds.
const CONNECT: Duration = Duration::from_secs(30);
const GREETING: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);
const DATA: Duration = Duration::from_secs(120);
const CONTENT: Duration = Duration::from_secs(600);
const END_OF_DATA: Duration = Duration::from_secs(600);
const BYE: Duration = Duration::from_secs(2);
