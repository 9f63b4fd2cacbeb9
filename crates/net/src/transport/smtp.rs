//! SMTP connection to an upstream (RFC 5321 section 3): login and transactions.
//!
//! Implemented on the raw stream instead of a client library, because the envelope of the next message follows the
//! final dot of the current one (RFC 2920), plaintext before STARTTLS must be discarded without a second greeting (RFC
//! 3207), every wait needs a timeout, and a failure before the final dot must be distinguished from one after it.

use crate::host_addresses::HostAddresses;
use crate::transport::error::{DataError, TransportError};
use crate::transport::settings::{Login, Pipelining, Security, Settings, Timeouts};
use crate::transport::tcp::{TransportStream, establish, upgrade_tls, with_timeout};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use mailtrail_mail::{BodyType, Envelope};
use mailtrail_smtp::{Capabilities, DotStuffer, Response, ResponseError, ResponseReader};
use mailtrail_trail::provider::Provider;
use std::fmt::Write as _;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Connection after the login.
pub struct Connection {
    stream: BufWriter<Box<dyn TransportStream>>,
    read_buffer: Vec<u8>,
    name: String,
    capabilities: Capabilities,
    pipelining: Pipelining,
    protocol: Protocol,
    timeouts: Timeouts,
}

/// Protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    Smtp,
    /// LMTP (RFC 2033): the message is answered once for each recipient, so it may have one only.
    Lmtp,
}

/// The upstream's answers to an envelope.
#[derive(Debug)]
pub struct EnvelopeReplies {
    /// Reply to MAIL.
    pub mail: Response,
    /// To each RCPT; fewer when MAIL was refused, or when the conversation ended.
    pub recipients: Vec<Response>,
    /// Reply to DATA, if it was sent; a 421 stands for all missing replies.
    pub data: Option<Response>,
    /// Error of the connection after these replies, if there was one.
    pub error: Option<TransportError>,
}

impl EnvelopeReplies {
    /// Whether the message may follow.
    pub fn may_send_data(&self) -> bool {
        let wanted = self.recipients.iter().any(Response::is_positive);
        wanted && self.mail.is_positive() && self.data.as_ref().is_some_and(Response::is_intermediate)
    }

    /// Returns whether all recipients got the same reply.
    pub fn has_same_recipient_replies(&self) -> bool {
        self.recipients.windows(2).all(|two| two[0].code == two[1].code)
    }

    /// Returns whether MAIL, or a RCPT after an accepted MAIL, was not understood: data may have been lost.
    pub fn has_command_errors(&self) -> bool {
        let recipients = self.recipients.iter().filter(|_| self.mail.is_positive());
        std::iter::once(&self.mail).chain(recipients).any(Response::is_command_error)
    }

    /// Returns whether a reused connection may be the cause of these replies: it is closing, broke, or lost data.
    pub fn is_stale_connection(&self) -> bool {
        self.mail.code == 421 || self.error.is_some() || self.has_command_errors()
    }

    /// Assigns replies to the commands of an envelope: MAIL, the RCPTs, DATA.
    fn from_replies(
        mut replies: Vec<Response>,
        commands: usize,
        error: Option<TransportError>,
    ) -> Result<Self, TransportError> {
        let farewell = replies.last().is_some_and(|last| last.code == 421);
        let data = match (replies.len() == commands || farewell, replies.len()) {
            (true, 1) => replies.last().cloned(),
            (true, 2..) => replies.pop(),
            _ => None,
        };
        let mut replies = replies.into_iter();
        match replies.next() {
            Some(mail) => Ok(Self { mail, recipients: replies.collect(), data, error }),
            None => Err(error.unwrap_or(TransportError::Closed)),
        }
    }
}

impl Connection {
    /// Connects, secures and logs in.
    pub async fn open(
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, TransportError> {
        Self::open_with(Protocol::Smtp, &HostAddresses::default(), settings, tls, hostname).await
    }

    /// Like `open`, with a protocol and the recent results of the host's addresses. If an address accepts the
    /// connection but fails afterwards, the others are tried.
    pub async fn open_with(
        dialect: Protocol,
        addresses: &HostAddresses,
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, TransportError> {
        let (limit, host) = (settings.timeouts.connect, &settings.host);
        let found = async { Ok(addresses.resolve(host, settings.port).await?) };
        let mut left = with_timeout(limit, "the look-up of its address", found).await?;
        loop {
            let connected = async { Ok(addresses.connect(&left).await?) };
            let stream = with_timeout(limit, "connect", connected).await?;
            let ip = stream.peer_addr()?.ip();
            match Self::establish(dialect, stream, settings, tls, hostname).await {
                Ok(connection) => {
                    addresses.record_success(ip);
                    return Ok(connection);
                }
                Err(fault) if fault.is_network() => {
                    addresses.record_failure(ip);
                    left.retain(|address| address.ip() != ip);
                    if left.is_empty() {
                        return Err(fault);
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn establish(
        protocol: Protocol,
        stream: TcpStream,
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, TransportError> {
        let wire = establish(stream, settings, tls).await?;
        let mut connection = Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER_BYTES, wire),
            read_buffer: Vec::new(),
            name: String::new(),
            capabilities: Capabilities::default(),
            pipelining: settings.pipelining,
            protocol,
            timeouts: settings.timeouts,
        };
        connection.expect_positive("the greeting", settings.timeouts.command).await?;
        connection.ehlo_or_helo(settings, hostname).await?;
        if settings.security == Security::StartTls {
            connection = connection.start_tls(settings, tls, hostname).await?;
        }
        if let Some(login) = &settings.login {
            connection.log_in(login, settings.provider).await?;
        }
        Ok(connection)
    }

    /// Name in the server's greeting.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Extensions that the server offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Groups commands no more boldly than that.
    pub fn cap_pipelining(&mut self, pipelining: Pipelining) {
        self.pipelining = self.pipelining.max(pipelining);
    }

    /// Pipelining in use: as configured, if the server offers it.
    pub fn pipelining(&self) -> Pipelining {
        if self.capabilities.pipelining { self.pipelining } else { Pipelining::Off }
    }

    /// Sends MAIL, the RCPTs and DATA, and reads the replies; grouped according to [`Self::pipelining`].
    pub async fn send_envelope(
        &mut self,
        envelope: &Envelope,
        size: u64,
    ) -> Result<EnvelopeReplies, TransportError> {
        self.send_envelope_with(self.pipelining(), envelope, size).await
    }

    /// Like `send_envelope`, one command at a time, so that each reply certainly belongs to its command.
    pub async fn send_envelope_sequentially(
        &mut self,
        envelope: &Envelope,
        size: u64,
    ) -> Result<EnvelopeReplies, TransportError> {
        self.send_envelope_with(Pipelining::Off, envelope, size).await
    }

    async fn send_envelope_with(
        &mut self,
        pipelining: Pipelining,
        envelope: &Envelope,
        size: u64,
    ) -> Result<EnvelopeReplies, TransportError> {
        self.check_no_pending_input().await?;
        let commands = self.envelope_commands(envelope, size);
        let mut replies = Vec::with_capacity(commands.len());
        let broken = match pipelining {
            Pipelining::Off => self.exchange_sequentially(&commands, &mut replies).await,
            Pipelining::Full | Pipelining::Group => self.exchange_pipelined(&commands, &mut replies).await,
        };
        collect_replies(pipelining, replies, commands.len(), broken.err())
    }

    /// Reads the replies to an envelope that was sent with the final dot.
    pub async fn read_envelope_replies(
        &mut self,
        envelope: &Envelope,
    ) -> Result<EnvelopeReplies, TransportError> {
        let commands = envelope.recipients.len() + 2;
        let mut replies = Vec::with_capacity(commands);
        let broken = self.read_envelope_responses(0..commands, commands, &mut replies).await;
        collect_replies(Pipelining::Full, replies, commands, broken.err())
    }

    async fn exchange_pipelined(
        &mut self,
        commands: &[String],
        replies: &mut Vec<Response>,
    ) -> Result<(), TransportError> {
        // More at once could fill the buffers of both sides (RFC 2920 section 3.1).
        for group in commands.chunks(MAX_PIPELINED_COMMANDS) {
            let first = replies.len();
            self.write(group.concat().as_bytes()).await?;
            self.flush().await?;
            self.read_envelope_responses(first..first + group.len(), commands.len(), replies).await?;
            if replies.last().is_some_and(|last| last.code == 421) {
                break;
            }
        }
        Ok(())
    }

    async fn exchange_sequentially(
        &mut self,
        commands: &[String],
        replies: &mut Vec<Response>,
    ) -> Result<(), TransportError> {
        for (number, command) in commands.iter().enumerate() {
            let is_data = number + 1 == commands.len();
            if is_data && !replies.iter().skip(1).any(Response::is_positive) {
                break;
            }
            self.write(command.as_bytes()).await?;
            self.flush().await?;
            self.read_envelope_responses(number..number + 1, commands.len(), replies).await?;
            let refused = number == 0 && !replies.iter().all(Response::is_positive);
            if refused || replies.last().is_some_and(|last| last.code == 421) {
                break;
            }
        }
        Ok(())
    }

    /// Reads the replies to the commands with these indexes; none follows a 421.
    async fn read_envelope_responses(
        &mut self,
        numbers: std::ops::Range<usize>,
        commands: usize,
        replies: &mut Vec<Response>,
    ) -> Result<(), TransportError> {
        for number in numbers {
            let is_data = number + 1 == commands;
            let (what, limit) = match number {
                0 => ("MAIL", self.timeouts.command),
                _ if is_data => ("DATA", self.timeouts.data),
                _ => ("RCPT", self.timeouts.command),
            };
            let response = self.read_reply(what, limit).await?;
            // Only DATA is answered with 354, and never with 2yz.
            if response.is_intermediate() != is_data && !response.is_negative() {
                return Err(TransportError::Desynchronized(response));
            }
            let farewell = response.code == 421;
            replies.push(response);
            if farewell {
                break;
            }
        }
        Ok(())
    }

    /// Ends a transaction without a message, and verifies that all its replies have arrived.
    pub async fn abort_transaction(&mut self, replies: &EnvelopeReplies) -> Result<(), TransportError> {
        if replies.data.as_ref().is_some_and(Response::is_intermediate) {
            // The server waits for a message although it accepted no recipient (RFC 2920 section 3.1).
            self.send_command(".\r\n", "the end of no message").await?;
        }
        let reset = self.send_command("RSET\r\n", "RSET").await?;
        match reset.code {
            200..300 => Ok(()),
            // The answer to DATA comes only now: an answer too many came before.
            300..400 => Err(TransportError::Desynchronized(reset)),
            _ if reset.is_command_error() && self.pipelining() != Pipelining::Off => {
                Err(TransportError::Desynchronized(reset))
            }
            _ => Err(TransportError::Refused { step: "RSET", response: reset }),
        }
    }

    /// Sends the message in `pieces`; it is not accepted before its final dot.
    pub async fn send_body(
        &mut self,
        pieces: impl Stream<Item = io::Result<Bytes>>,
    ) -> Result<(), DataError> {
        let (mut pieces, mut encoder, part) = (pin!(pieces), DotStuffer::default(), self.timeouts.data_block);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(DataError::BodyUnreadable)?;
            for block in piece.chunks(BODY_BLOCK_BYTES) {
                let written = write_dot_stuffed(&mut self.stream, &mut encoder, block);
                if let Err(fault) = with_timeout(part, "a part of the message", written).await {
                    return Err(self.read_early_reply(fault).await);
                }
            }
        }
        Ok(())
    }

    /// Sends the final dot, followed by the envelope of the next message if the server supports it. Reads the reply to
    /// the dot.
    pub async fn finish_data(&mut self, next: Option<(&Envelope, u64)>) -> Result<Response, DataError> {
        if let Err(fault) = self.check_no_pending_input().await {
            return Err(self.read_early_reply(fault).await);
        }
        let mut end = ".\r\n".to_owned();
        if let Some((envelope, size)) = next {
            end.extend(self.envelope_commands(envelope, size));
        }
        let said = async {
            self.write(end.as_bytes()).await?;
            self.flush().await
        };
        match said.await {
            // The dot comes last: what could not be written whole lacks it.
            Err(fault) if next.is_none() => return Err(self.read_early_reply(fault).await),
            said => said.map_err(DataError::AfterEnd)?,
        }
        let response = self
            .read_reply("the end of data", self.timeouts.end_of_data)
            .await
            .map_err(DataError::AfterEnd)?;
        if response.is_intermediate() {
            return Err(DataError::AfterEnd(TransportError::Desynchronized(response)));
        }
        Ok(response)
    }

    /// Returns the cause of a message that ended before its dot: the server's reply if it sent one.
    async fn read_early_reply(&mut self, fault: TransportError) -> DataError {
        let heard = match fault {
            TransportError::UnsolicitedReply(response) => Ok(response),
            TransportError::Io(_) => {
                self.read_reply("the message", EARLY_REPLY_TIMEOUT).await.map_err(|_| fault)
            }
            fault => Err(fault),
        };
        match heard {
            Ok(response) if response.is_negative() => DataError::Rejected(response),
            Ok(response) => DataError::BeforeEnd(TransportError::Desynchronized(response)),
            Err(fault) => DataError::BeforeEnd(fault),
        }
    }

    /// Checks, without waiting, whether the server has closed or sent an unsolicited reply, which would be taken for
    /// the next one.
    async fn check_no_pending_input(&mut self) -> Result<(), TransportError> {
        if self.read_buffer.is_empty() {
            match self.stream.get_mut().read_buf(&mut self.read_buffer).now_or_never() {
                None => return Ok(()),
                Some(Ok(0)) => return Err(TransportError::Closed),
                Some(read) => read?,
            };
        }
        Err(TransportError::UnsolicitedReply(self.read_reply("nothing", EARLY_REPLY_TIMEOUT).await?))
    }

    /// Sends QUIT without waiting for the reply.
    pub async fn quit(mut self) {
        let bye = async {
            self.stream.write_all(b"QUIT\r\n").await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        };
        // Nothing depends on it.
        let _ = timeout(QUIT_TIMEOUT, bye).await;
    }

    /// Sends EHLO, or HELO if the server does not know it (RFC 5321 section 3.2). Such a server has no extensions, so
    /// neither STARTTLS nor a login may be required.
    async fn ehlo_or_helo(&mut self, settings: &Settings, hostname: &str) -> Result<(), TransportError> {
        let plain = settings.security != Security::StartTls && settings.login.is_none();
        match self.send_ehlo(hostname).await {
            Err(TransportError::Refused { response, .. })
                if plain && self.protocol == Protocol::Smtp && response.code >= 500 =>
            {
                self.send_hello("HELO", hostname).await
            }
            said => said,
        }
    }

    async fn send_ehlo(&mut self, hostname: &str) -> Result<(), TransportError> {
        let verb = match self.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        self.send_hello(verb, hostname).await
    }

    async fn send_hello(&mut self, verb: &'static str, hostname: &str) -> Result<(), TransportError> {
        let lines = self.send_command_for_lines(&format!("{verb} {hostname}\r\n"), verb).await?;
        let name = lines.first().and_then(|line| line.split_ascii_whitespace().next());
        self.name = name.unwrap_or_default().to_owned();
        let mut capabilities = Capabilities::default();
        lines.iter().skip(1).for_each(|line| capabilities.add_ehlo_line(line));
        self.capabilities = capabilities;
        Ok(())
    }

    async fn start_tls(
        mut self,
        settings: &Settings,
        tls: &TlsConnector,
        hostname: &str,
    ) -> Result<Self, TransportError> {
        if !self.capabilities.starttls {
            return Err(TransportError::NoStartTls);
        }
        let response = self.send_command("STARTTLS\r\n", "STARTTLS").await?;
        if !response.is_positive() {
            return Err(TransportError::Refused { step: "STARTTLS", response });
        }
        // Plaintext after that reply, from the server or an attacker, is discarded with `heard`.
        let stream = upgrade_tls(self.stream.into_inner(), settings, tls).await?;
        let mut connection = Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER_BYTES, Box::new(stream)),
            read_buffer: Vec::new(),
            name: String::new(),
            capabilities: Capabilities::default(),
            pipelining: self.pipelining,
            protocol: self.protocol,
            timeouts: self.timeouts,
        };
        connection.send_ehlo(hostname).await?;
        Ok(connection)
    }

    /// Logs in with PLAIN and its initial response: Mailgun's prompt for the two-step form is not base64.
    async fn log_in(&mut self, login: &Login, provider: Provider) -> Result<(), TransportError> {
        let (user, password) = (&login.username, login.password.expose());
        let response = if self.capabilities.auth_plain {
            let token = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
            self.send_command(&format!("AUTH PLAIN {token}\r\n"), "AUTH").await?
        } else if self.capabilities.auth_login {
            let prompt = self.send_command("AUTH LOGIN\r\n", "AUTH").await?;
            if !prompt.is_intermediate() {
                return Err(login_error(prompt, provider).unwrap_or(TransportError::NoAuthMechanism));
            }
            let prompt = self.send_command(&format!("{}\r\n", BASE64_STANDARD.encode(user)), "AUTH").await?;
            if !prompt.is_intermediate() {
                return Err(login_error(prompt, provider).unwrap_or(TransportError::NoAuthMechanism));
            }
            self.send_command(&format!("{}\r\n", BASE64_STANDARD.encode(password)), "AUTH").await?
        } else {
            return Err(TransportError::NoAuthMechanism);
        };
        login_error(response, provider).map_or(Ok(()), Err)
    }

    /// MAIL, the RCPTs and DATA, a line each.
    fn envelope_commands(&self, envelope: &Envelope, size: u64) -> Vec<String> {
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

    async fn send_command(&mut self, line: &str, what: &'static str) -> Result<Response, TransportError> {
        self.write(line.as_bytes()).await?;
        self.flush().await?;
        self.read_reply(what, self.timeouts.command).await
    }

    async fn expect_positive(&mut self, step: &'static str, limit: Duration) -> Result<(), TransportError> {
        let response = self.read_reply(step, limit).await?;
        if response.is_positive() { Ok(()) } else { Err(TransportError::Refused { step, response }) }
    }

    /// Sends a command and returns the lines of its reply.
    async fn send_command_for_lines(
        &mut self,
        line: &str,
        step: &'static str,
    ) -> Result<Vec<String>, TransportError> {
        self.write(line.as_bytes()).await?;
        self.flush().await?;
        let mut lines = Vec::new();
        let response = self.read_reply_lines(step, self.timeouts.command, |line| {
            lines.push(String::from_utf8_lossy(line.get(4..).unwrap_or_default()).into_owned());
        });
        let response = response.await?;
        if response.is_positive() { Ok(lines) } else { Err(TransportError::Refused { step, response }) }
    }

    async fn read_reply(&mut self, what: &'static str, limit: Duration) -> Result<Response, TransportError> {
        self.read_reply_lines(what, limit, |_| {}).await
    }

    async fn read_reply_lines(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Response, TransportError> {
        let mut reader = ResponseReader::default();
        with_timeout(limit, what, async {
            loop {
                while let Some(end) = memchr::memchr(b'\n', &self.read_buffer) {
                    let line =
                        self.read_buffer[..end].strip_suffix(b"\r").unwrap_or(&self.read_buffer[..end]);
                    each(line);
                    let response = reader.push_line(line)?;
                    self.read_buffer.drain(..=end);
                    if let Some(response) = response {
                        return Ok(response);
                    }
                }
                if self.read_buffer.len() > ResponseReader::MAX_LINE_BYTES {
                    return Err(ResponseError::TooLong.into());
                }
                if self.stream.get_mut().read_buf(&mut self.read_buffer).await? == 0 {
                    return Err(TransportError::Closed);
                }
            }
        })
        .await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        with_timeout(self.timeouts.command, "a command", async { Ok(self.stream.write_all(bytes).await?) })
            .await
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        with_timeout(self.timeouts.command, "a command", async { Ok(self.stream.flush().await?) }).await
    }
}

/// Collects replies in order, whatever happened afterwards. Without pipelining, all but the last are in order.
fn collect_replies(
    pipelining: Pipelining,
    replies: Vec<Response>,
    commands: usize,
    broken: Option<TransportError>,
) -> Result<EnvelopeReplies, TransportError> {
    match broken {
        Some(fault) if !fault.is_network() && pipelining != Pipelining::Off => Err(fault),
        broken => {
            let replies = EnvelopeReplies::from_replies(replies, commands, broken)?;
            let recipient = replies.recipients.iter().find(|reply| reply.is_positive());
            match recipient {
                // A recipient cannot be accepted without MAIL, so there was an extra reply before.
                Some(recipient) if !replies.mail.is_positive() => {
                    Err(TransportError::Desynchronized(recipient.clone()))
                }
                _ => Ok(replies),
            }
        }
    }
}

/// Classifies the reply to a login: a transient reply is no wrong password (RFC 4954 section 6).
fn login_error(response: Response, provider: Provider) -> Option<TransportError> {
    match response.code {
        200..300 => None,
        300..400 => Some(TransportError::Desynchronized(response)),
        400..500 => Some(TransportError::Refused { step: "AUTH", response }),
        _ => Some(TransportError::LoginRefused { response, provider }),
    }
}

/// Writes a piece of a message with its dots doubled.
async fn write_dot_stuffed(
    wire: &mut BufWriter<Box<dyn TransportStream>>,
    encoder: &mut DotStuffer,
    piece: &[u8],
) -> Result<(), TransportError> {
    let mut from = 0;
    for at in encoder.positions(piece) {
        wire.write_all(&piece[from..at]).await?;
        wire.write_all(b".").await?;
        from = at;
    }
    wire.write_all(&piece[from..]).await?;
    Ok(())
}

const WRITE_BUFFER_BYTES: usize = 16 << 10;
const MAX_PIPELINED_COMMANDS: usize = 100;
/// Bytes of a message per write.
const BODY_BLOCK_BYTES: usize = 64 << 10;
/// Timeout for the rest of a reply that has begun.
const EARLY_REPLY_TIMEOUT: Duration = Duration::from_secs(2);
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
