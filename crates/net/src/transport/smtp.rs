//! One SMTP connection to an upstream (RFC 5321 section 3), login and transactions.
//!
//! Written on the raw stream and not on a client library's connection: the next message's envelope rides behind
//! this one's final dot (RFC 2920), after STARTTLS there is no second greeting and nothing heard before counts
//! (RFC 3207), every wait has an end, and it must be known whether a failure came before or after the final dot.

use crate::host_addresses::Addresses;
use crate::transport::error::{ContentFault, Fault};
use crate::transport::settings::{Login, Pipelining, Security, Settings, Timeouts};
use crate::transport::tcp::{Wire, begin, secure, within};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use mailtrail_mail::{BodyType, Envelope};
use mailtrail_smtp::{Capabilities, Encoder, Response, ResponseReader, Unreadable};
use mailtrail_trail::provider::Provider;
use std::fmt::Write as _;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
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
    dialect: Dialect,
    timeouts: Timeouts,
}

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SMTP (RFC 5321).
    Smtp,
    /// LMTP (RFC 2033): the message is answered once for each recipient, so it may have one only.
    Lmtp,
}

/// The upstream's answers to an envelope.
#[derive(Debug)]
pub struct EnvelopeReplies {
    /// To MAIL.
    pub mail: Response,
    /// To each RCPT; fewer when MAIL was refused, or when the conversation ended.
    pub recipients: Vec<Response>,
    /// To DATA, if it was said; a farewell (421) stands for all answers that did not come.
    pub data: Option<Response>,
    /// How the connection broke behind these answers, if it did.
    pub broken: Option<Fault>,
}

impl EnvelopeReplies {
    /// Whether the message may follow.
    pub fn go_ahead(&self) -> bool {
        let wanted = self.recipients.iter().any(Response::is_positive);
        wanted && self.mail.is_positive() && self.data.as_ref().is_some_and(Response::is_intermediate)
    }

    /// Whether all recipients got the same reply.
    pub fn are_alike(&self) -> bool {
        self.recipients.windows(2).all(|two| two[0].code == two[1].code)
    }

    /// Whether MAIL, or a RCPT behind a MAIL that was taken, was not understood: a part may have been lost on the way.
    pub fn is_confused(&self) -> bool {
        let recipients = self.recipients.iter().filter(|_| self.mail.is_positive());
        std::iter::once(&self.mail).chain(recipients).any(Response::is_confused)
    }

    /// Whether these answers may be the fault of a connection that carried others before: it is closing, broke, or
    /// lost a part of what was said.
    pub fn is_of_the_connection(&self) -> bool {
        self.mail.code == 421 || self.broken.is_some() || self.is_confused()
    }

    /// Sorts the answers that came to an envelope of so many commands: MAIL, the RCPTs, DATA.
    fn sort(mut replies: Vec<Response>, commands: usize, broken: Option<Fault>) -> Result<Self, Fault> {
        let farewell = replies.last().is_some_and(|last| last.code == 421);
        let data = match (replies.len() == commands || farewell, replies.len()) {
            (true, 1) => replies.last().cloned(),
            (true, 2..) => replies.pop(),
            _ => None,
        };
        let mut replies = replies.into_iter();
        match replies.next() {
            Some(mail) => Ok(Self { mail, recipients: replies.collect(), data, broken }),
            None => Err(broken.unwrap_or(Fault::Closed)),
        }
    }
}

impl Connection {
    /// Connects, secures and logs in.
    pub async fn open(settings: &Settings, tls: &TlsConnector, hostname: &str) -> Result<Self, Fault> {
        Self::open_as(Dialect::Smtp, &Addresses::default(), settings, tls, hostname).await
    }

    /// The same in a dialect, with what is known about the host's addresses. One that takes the connection and does not
    /// serve it leaves the others to be tried.
    pub async fn open_as(
        dialect: Dialect,
        addresses: &Addresses,
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, Fault> {
        let (limit, host) = (settings.timeouts.connect, &settings.host);
        let found = async { Ok(addresses.look_up(host, settings.port).await?) };
        let mut left = within(limit, "the look-up of its address", found).await?;
        loop {
            let connected = async { Ok(addresses.connect(&left).await?) };
            let stream = within(limit, "connect", connected).await?;
            let ip = stream.peer_addr()?.ip();
            match Self::begin(dialect, stream, settings, tls, hostname).await {
                Ok(connection) => {
                    addresses.worked(ip);
                    return Ok(connection);
                }
                Err(fault) if fault.is_of_the_path() => {
                    addresses.failed(ip);
                    left.retain(|address| address.ip() != ip);
                    if left.is_empty() {
                        return Err(fault);
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn begin(
        dialect: Dialect,
        stream: TcpStream,
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, Fault> {
        let wire = begin(stream, settings, tls).await?;
        let mut connection = Self {
            wire: BufWriter::with_capacity(WRITE_BUFFER, wire),
            heard: Vec::new(),
            name: String::new(),
            capabilities: Capabilities::default(),
            pipelining: settings.pipelining,
            dialect,
            timeouts: settings.timeouts,
        };
        connection.expect("the greeting", settings.timeouts.command).await?;
        connection.introduce(settings, hostname).await?;
        if settings.security == Security::StartTls {
            connection = connection.start_tls(settings, tls, hostname).await?;
        }
        if let Some(login) = &settings.login {
            connection.log_in(login, settings.provider).await?;
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

    /// Groups commands no more boldly than that.
    pub fn limit(&mut self, pipelining: Pipelining) {
        self.pipelining = self.pipelining.max(pipelining);
    }

    /// How commands are grouped: what is allowed, where the upstream offers it.
    pub fn pipelining(&self) -> Pipelining {
        if self.capabilities.pipelining { self.pipelining } else { Pipelining::Off }
    }

    /// Says MAIL, the RCPTs and DATA, and reads the answers; what is grouped follows from [`Self::pipelining`].
    pub async fn envelope(&mut self, envelope: &Envelope, size: u64) -> Result<EnvelopeReplies, Fault> {
        self.envelope_in(self.pipelining(), envelope, size).await
    }

    /// The same, one command at a time: each reply is surely its command's.
    pub async fn envelope_one_by_one(
        &mut self,
        envelope: &Envelope,
        size: u64,
    ) -> Result<EnvelopeReplies, Fault> {
        self.envelope_in(Pipelining::Off, envelope, size).await
    }

    async fn envelope_in(
        &mut self,
        pipelining: Pipelining,
        envelope: &Envelope,
        size: u64,
    ) -> Result<EnvelopeReplies, Fault> {
        self.expect_silence().await?;
        let commands = self.commands(envelope, size);
        let mut replies = Vec::with_capacity(commands.len());
        let broken = match pipelining {
            Pipelining::Off => self.say_one_by_one(&commands, &mut replies).await,
            Pipelining::Full | Pipelining::Group => self.say_in_groups(&commands, &mut replies).await,
        };
        sorted(pipelining, replies, commands.len(), broken.err())
    }

    /// Reads the answers to an envelope that rode behind a final dot.
    pub async fn envelope_replies(&mut self, envelope: &Envelope) -> Result<EnvelopeReplies, Fault> {
        let commands = envelope.recipients.len() + 2;
        let mut replies = Vec::with_capacity(commands);
        let broken = self.envelope_responses(0..commands, commands, &mut replies).await;
        sorted(Pipelining::Full, replies, commands, broken.err())
    }

    async fn say_in_groups(&mut self, commands: &[String], replies: &mut Vec<Response>) -> Result<(), Fault> {
        // More at once could fill the buffers of both sides (RFC 2920 section 3.1).
        for group in commands.chunks(COMMANDS_AT_ONCE) {
            let first = replies.len();
            self.write(group.concat().as_bytes()).await?;
            self.flush().await?;
            self.envelope_responses(first..first + group.len(), commands.len(), replies).await?;
            if replies.last().is_some_and(|last| last.code == 421) {
                break;
            }
        }
        Ok(())
    }

    async fn say_one_by_one(
        &mut self,
        commands: &[String],
        replies: &mut Vec<Response>,
    ) -> Result<(), Fault> {
        for (number, command) in commands.iter().enumerate() {
            let is_data = number + 1 == commands.len();
            if is_data && !replies.iter().skip(1).any(Response::is_positive) {
                break;
            }
            self.write(command.as_bytes()).await?;
            self.flush().await?;
            self.envelope_responses(number..number + 1, commands.len(), replies).await?;
            let refused = number == 0 && !replies.iter().all(Response::is_positive);
            if refused || replies.last().is_some_and(|last| last.code == 421) {
                break;
            }
        }
        Ok(())
    }

    /// Reads the answers to the commands with these numbers, of so many; none is expected behind a farewell.
    async fn envelope_responses(
        &mut self,
        numbers: std::ops::Range<usize>,
        commands: usize,
        replies: &mut Vec<Response>,
    ) -> Result<(), Fault> {
        for number in numbers {
            let is_data = number + 1 == commands;
            let (what, limit) = match number {
                0 => ("MAIL", self.timeouts.command),
                _ if is_data => ("DATA", self.timeouts.data),
                _ => ("RCPT", self.timeouts.command),
            };
            let response = self.response(what, limit).await?;
            // Only DATA is answered with 354, and never with 2yz.
            if response.is_intermediate() != is_data && !response.is_negative() {
                return Err(Fault::OutOfStep(response));
            }
            let farewell = response.code == 421;
            replies.push(response);
            if farewell {
                break;
            }
        }
        Ok(())
    }

    /// Ends a transaction whose message does not follow; finds out as well whether all its answers had come.
    pub async fn abandon(&mut self, replies: &EnvelopeReplies) -> Result<(), Fault> {
        if replies.data.as_ref().is_some_and(Response::is_intermediate) {
            // The server waits for a message although it took nobody (RFC 2920 section 3.1).
            self.command(".\r\n", "the end of no message").await?;
        }
        let reset = self.command("RSET\r\n", "RSET").await?;
        match reset.code {
            200..300 => Ok(()),
            // The answer to DATA comes only now: an answer too many came before.
            300..400 => Err(Fault::OutOfStep(reset)),
            _ if reset.is_confused() && self.pipelining() != Pipelining::Off => Err(Fault::OutOfStep(reset)),
            _ => Err(Fault::Refused { what: "RSET", response: reset }),
        }
    }

    /// Sends the message in `pieces`; the upstream has not taken it before its dot is said.
    pub async fn body(&mut self, pieces: impl Stream<Item = io::Result<Bytes>>) -> Result<(), ContentFault> {
        let (mut pieces, mut encoder, part) = (pin!(pieces), Encoder::default(), self.timeouts.part);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(ContentFault::Unreadable)?;
            for block in piece.chunks(BLOCK) {
                let written = write_stuffed(&mut self.wire, &mut encoder, block);
                if let Err(fault) = within(part, "a part of the message", written).await {
                    return Err(self.interrupted(fault).await);
                }
            }
        }
        Ok(())
    }

    /// Says the final dot, with the envelope of the next message behind it where the upstream can take that; reads the
    /// answer to the dot.
    pub async fn end_of_data(&mut self, next: Option<(&Envelope, u64)>) -> Result<Response, ContentFault> {
        if let Err(fault) = self.expect_silence().await {
            return Err(self.interrupted(fault).await);
        }
        let mut end = ".\r\n".to_owned();
        if let Some((envelope, size)) = next {
            end.extend(self.commands(envelope, size));
        }
        let said = async {
            self.write(end.as_bytes()).await?;
            self.flush().await
        };
        match said.await {
            // The dot comes last: what could not be written whole lacks it.
            Err(fault) if next.is_none() => return Err(self.interrupted(fault).await),
            said => said.map_err(ContentFault::After)?,
        }
        let response =
            self.response("the end of data", self.timeouts.end_of_data).await.map_err(ContentFault::After)?;
        if response.is_intermediate() {
            return Err(ContentFault::After(Fault::OutOfStep(response)));
        }
        Ok(response)
    }

    /// What stopped a message before its dot: the upstream's own words where it left any.
    async fn interrupted(&mut self, fault: Fault) -> ContentFault {
        let heard = match fault {
            Fault::Unasked(response) => Ok(response),
            Fault::Io(_) => self.response("the message", LAST_WORDS).await.map_err(|_| fault),
            fault => Err(fault),
        };
        match heard {
            Ok(response) if response.is_negative() => ContentFault::Refused(response),
            Ok(response) => ContentFault::Before(Fault::OutOfStep(response)),
            Err(fault) => ContentFault::Before(fault),
        }
    }

    /// Finds out, without waiting, whether the upstream closed or said something that it was not asked for: answers
    /// would be taken for those to come.
    async fn expect_silence(&mut self) -> Result<(), Fault> {
        if self.heard.is_empty() {
            match self.wire.get_mut().read_buf(&mut self.heard).now_or_never() {
                None => return Ok(()),
                Some(Ok(0)) => return Err(Fault::Closed),
                Some(read) => read?,
            };
        }
        Err(Fault::Unasked(self.response("nothing", LAST_WORDS).await?))
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

    /// Says EHLO, and HELO where the server does not know that (RFC 5321 section 3.2): such a server offers nothing, so
    /// neither STARTTLS nor a login may be asked for.
    async fn introduce(&mut self, settings: &Settings, hostname: &str) -> Result<(), Fault> {
        let plain = settings.security != Security::StartTls && settings.login.is_none();
        match self.hello(hostname).await {
            Err(Fault::Refused { response, .. })
                if plain && self.dialect == Dialect::Smtp && response.code >= 500 =>
            {
                self.greet("HELO", hostname).await
            }
            said => said,
        }
    }

    async fn hello(&mut self, hostname: &str) -> Result<(), Fault> {
        let verb = match self.dialect {
            Dialect::Smtp => "EHLO",
            Dialect::Lmtp => "LHLO",
        };
        self.greet(verb, hostname).await
    }

    async fn greet(&mut self, verb: &'static str, hostname: &str) -> Result<(), Fault> {
        let lines = self.converse(&format!("{verb} {hostname}\r\n"), verb).await?;
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
            dialect: self.dialect,
            timeouts: self.timeouts,
        };
        connection.hello(hostname).await?;
        Ok(connection)
    }

    /// Logs in with PLAIN and its initial response: Mailgun's prompt for the two-step form is not base64.
    async fn log_in(&mut self, login: &Login, provider: Provider) -> Result<(), Fault> {
        let (user, password) = (&login.username, login.password.reveal());
        let response = if self.capabilities.auth_plain {
            let token = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
            self.command(&format!("AUTH PLAIN {token}\r\n"), "AUTH").await?
        } else if self.capabilities.auth_login {
            let prompt = self.command("AUTH LOGIN\r\n", "AUTH").await?;
            if !prompt.is_intermediate() {
                return Err(login_fault(prompt, provider).unwrap_or(Fault::NoAuth));
            }
            let prompt = self.command(&format!("{}\r\n", BASE64_STANDARD.encode(user)), "AUTH").await?;
            if !prompt.is_intermediate() {
                return Err(login_fault(prompt, provider).unwrap_or(Fault::NoAuth));
            }
            self.command(&format!("{}\r\n", BASE64_STANDARD.encode(password)), "AUTH").await?
        } else {
            return Err(Fault::NoAuth);
        };
        login_fault(response, provider).map_or(Ok(()), Err)
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
        self.response(what, self.timeouts.command).await
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
        let response = self.read_response(what, self.timeouts.command, |line| {
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
        within(self.timeouts.command, "a command", async { Ok(self.wire.write_all(bytes).await?) }).await
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        within(self.timeouts.command, "a command", async { Ok(self.wire.flush().await?) }).await
    }
}

/// Answers that came in their order are kept, whatever happened behind them. One by one they do, but for the last.
fn sorted(
    pipelining: Pipelining,
    replies: Vec<Response>,
    commands: usize,
    broken: Option<Fault>,
) -> Result<EnvelopeReplies, Fault> {
    match broken {
        Some(fault) if !fault.is_of_the_path() && pipelining != Pipelining::Off => Err(fault),
        broken => {
            let replies = EnvelopeReplies::sort(replies, commands, broken)?;
            let recipient = replies.recipients.iter().find(|reply| reply.is_positive());
            match recipient {
                // Nobody takes a recipient of nothing: an answer too many came before.
                Some(recipient) if !replies.mail.is_positive() => Err(Fault::OutOfStep(recipient.clone())),
                _ => Ok(replies),
            }
        }
    }
}

/// What is wrong with the answer to a login: a refusal for now is no wrong password (RFC 4954 section 6).
fn login_fault(response: Response, provider: Provider) -> Option<Fault> {
    match response.code {
        200..300 => None,
        300..400 => Some(Fault::OutOfStep(response)),
        400..500 => Some(Fault::Refused { what: "AUTH", response }),
        _ => Some(Fault::Login { response, provider }),
    }
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

const WRITE_BUFFER: usize = 16 << 10;
const COMMANDS_AT_ONCE: usize = 100;
/// What is written of a message in one go, in bytes.
const BLOCK: usize = 64 << 10;
/// For the rest of a reply of which something was heard already.
const LAST_WORDS: Duration = Duration::from_secs(2);
const BYE: Duration = Duration::from_secs(2);
