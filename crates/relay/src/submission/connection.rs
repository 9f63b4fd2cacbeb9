//! The one place where a client's socket is read and written.

use crate::submission::authenticator::LoginResult;
use crate::submission::client_stream::ClientStream;
use crate::submission::enqueue::ClientInfo;
use crate::submission::service::{SubmissionService, any_contains};
use crate::submission::spool::{READ_CHUNK_BYTES, Spool, SpooledMessage};
use bytes::BufMut;
use mailtrail_mail::{Envelope, Mailbox};
use mailtrail_net::Refusal;
use mailtrail_smtp::{Action, Authentication, Decoder, FeedResult, Limits, Reply, Session, XClient};
use mailtrail_trail::suppression::Reason;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ClientStream for T {}

/// SMTP connection of a client.
pub struct Connection {
    stream: Box<dyn ClientStream>,
    /// Address of the client, in front of all trusted proxies.
    peer: IpAddr,
    service: Arc<SubmissionService>,
    session: Session,
    input: ReadBuffer,
    output: Vec<u8>,
    /// The message that comes in chunks.
    incoming: Option<Incoming>,
    activity: SessionActivity,
    /// When it must be over.
    deadline: Instant,
}

/// The messages that came in this session.
#[derive(Default)]
struct SessionActivity {
    messages: u32,
    last_message_at: Option<Instant>,
}

impl SessionActivity {
    fn record_message(&mut self) {
        (self.messages, self.last_message_at) = (self.messages.saturating_add(1), Some(Instant::now()));
    }

    /// Idle timeout during shutdown; `None` for a client within a series of messages, such as Odoo's queue run, which
    /// keeps the whole grace period.
    fn shutdown_idle_timeout(&self) -> Option<Duration> {
        let goes_on =
            self.messages >= 2 && self.last_message_at.is_some_and(|last| last.elapsed() < MAX_BURST_GAP);
        (!goes_on).then_some(SHUTDOWN_IDLE_TIMEOUT)
    }
}

/// A message on its way in.
struct Incoming {
    decoder: Decoder,
    spool: Spool,
}

/// Input that has been read but not used.
#[derive(Default)]
struct ReadBuffer {
    bytes: Vec<u8>,
    consumed: usize,
    /// The rest of a line that is too long is thrown away.
    discarding_line: bool,
}

/// How a conversation ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// By QUIT, or because the client left: whenever it likes.
    ByClient,
    /// Closed by the server, with a reply.
    ByServer,
}

enum Flow {
    Continue,
    End(SessionEnd),
}

impl Connection {
    /// Greets a client.
    pub fn new(
        stream: Box<dyn ClientStream>,
        peer: SocketAddr,
        service: Arc<SubmissionService>,
        session: Session,
    ) -> Self {
        let (peer, deadline) = (peer.ip().to_canonical(), Instant::now() + service.limits.session_timeout);
        let (input, output, incoming) = (ReadBuffer::default(), Vec::new(), None);
        Self {
            stream,
            peer,
            service,
            session,
            input,
            output,
            incoming,
            activity: SessionActivity::default(),
            deadline,
        }
    }

    /// Talks until one of the two leaves; ends the stream properly, within TLS too (RFC 8446 section 6.1).
    pub async fn run(mut self) -> io::Result<SessionEnd> {
        let end = self.run_commands().await?;
        // A client that is gone already does not mind.
        let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
        if matches!(end, SessionEnd::ByServer) {
            let _ = timeout(LINGER_TIMEOUT, self.drain_input()).await;
        }
        Ok(end)
    }

    /// Reads and discards further input. Unread input would reset the connection, and the client might not see the last
    /// replies, for example a 250.
    async fn drain_input(&mut self) {
        self.input.clear();
        while self.stream.read_buf(&mut self.input.bytes).await.is_ok_and(|read| read > 0) {
            self.input.clear();
        }
    }

    async fn run_commands(&mut self) -> io::Result<SessionEnd> {
        self.session.greeting_reply().write_to(&mut self.output);
        let mut patience = ReadDeadline::new(self.command_timeout());
        let mut is_first = true;
        loop {
            while let Some(line) = self.input.next_line() {
                if self.service.connections.draining.is_cancelled() && !self.session.is_in_transaction() {
                    return self.close_silently().await;
                }
                if let Flow::End(end) = self.handle_line(line).await? {
                    return Ok(end);
                }
                if self.output.len() >= OUTPUT_FLUSH_BYTES {
                    self.flush().await?;
                }
                patience = ReadDeadline::new(self.command_timeout());
            }
            self.flush().await?;
            if Instant::now() >= self.deadline && !self.session.is_in_transaction() {
                return self.close_with(&Reply::SessionTooLong).await;
            }
            match self.read_more(patience).await? {
                ReadEvent::Data
                    if std::mem::take(&mut is_first)
                        && self.input.unread().first() == Some(&TLS_HANDSHAKE_RECORD) =>
                {
                    self.service.refusals.record_refusal(self.peer, Refusal::TlsOnClearPort, &"");
                    return Ok(SessionEnd::ByServer);
                }
                ReadEvent::Data => {}
                ReadEvent::Eof => return Ok(SessionEnd::ByClient),
                ReadEvent::TimedOut => return self.close_with(&Reply::TimedOut).await,
                ReadEvent::ShuttingDown => return self.close_silently().await,
            }
        }
    }

    /// Timeout of the next command; shorter before a required login.
    fn command_timeout(&self) -> Duration {
        let usual = self.service.limits.command_timeout;
        let is_stranger = self.service.policy.authentication == Authentication::Required
            && self.session.account().is_none();
        if is_stranger { usual.min(LOGIN_TIMEOUT) } else { usual }
    }

    async fn handle_line(&mut self, line: InputLine) -> io::Result<Flow> {
        let step = match line {
            InputLine::Complete(line) => self.session.on_line(&self.input.bytes[line]),
            InputLine::TooLong => self.session.on_line_too_long(),
        };
        if !self.session.is_receiving_chunks() {
            self.incoming = None;
        }
        match step {
            Action::StartTls(reply) => self.start_tls(&reply).await?,
            Action::OpenTransaction { size } => {
                let reply = self.check_limits(size).err().unwrap_or(Reply::SenderOk);
                self.queue_reply(&reply);
            }
            Action::Authenticate(credentials) => {
                let reply = match self.service.authenticator.log_in(credentials, self.peer).await {
                    LoginResult::Accepted(account) => self.session.on_authenticated(account),
                    LoginResult::Rejected => Reply::AuthFailed,
                    LoginResult::LockedOut => Reply::TooManyFailedLogins,
                };
                return self.queue_counted_reply(reply).await;
            }
            Action::CheckRecipient(recipient) => {
                let reply = self.check_suppression(&recipient);
                return self.queue_counted_reply(reply).await;
            }
            Action::ApplyXclient(introduction) => return self.apply_xclient(introduction).await,
            Action::ReceiveData(reply) => {
                self.queue_reply(&reply);
                self.flush().await?;
                return self.receive_data().await;
            }
            Action::ReceiveChunk { size, last, rejection } => {
                return self.receive_bdat_chunk(size, last, rejection).await;
            }
            Action::Reply(reply) => self.queue_reply(&reply),
            Action::Close(reply) => {
                let end = if reply == Reply::Closing { SessionEnd::ByClient } else { SessionEnd::ByServer };
                self.close_with(&reply).await?;
                return Ok(Flow::End(end));
            }
        }
        Ok(Flow::Continue)
    }

    /// Queues a reply that the session does not produce itself; the session counts errors and may end.
    async fn queue_counted_reply(&mut self, reply: Reply) -> io::Result<Flow> {
        match self.session.reply_counted(reply) {
            Action::Close(reply) => self.close_with(&reply).await.map(Flow::End),
            Action::Reply(reply) => {
                self.queue_reply(&reply);
                Ok(Flow::Continue)
            }
            _ => Ok(Flow::Continue),
        }
    }

    /// Applies the client address that a trusted proxy has sent.
    async fn apply_xclient(&mut self, introduction: XClient) -> io::Result<Flow> {
        let account = match &introduction.user {
            None => None,
            Some(user) => match self.service.authenticator.find_account(user) {
                Some(account) => Some(account),
                None => {
                    self.service.refusals.record_refusal(self.peer, Refusal::ProxiedUser, user);
                    return self.queue_counted_reply(Reply::AuthFailed).await;
                }
            },
        };
        if let Some(address) = introduction.address.map(|address| address.to_canonical()) {
            self.peer = address;
        }
        if !any_contains(&self.service.listener.allow, self.peer) {
            self.service.refusals.record_refusal(self.peer, Refusal::ProxiedNetwork, &"");
            return self.close_with(&Reply::ClientNotAllowed).await.map(Flow::End);
        }
        let reply = self.session.apply_xclient(account);
        self.queue_reply(&reply);
        Ok(Flow::Continue)
    }

    /// Switches to TLS. Plaintext that the client has pipelined after STARTTLS is discarded (RFC 3207 section 4.2).
    async fn start_tls(&mut self, reply: &Reply) -> io::Result<()> {
        self.queue_reply(reply);
        self.flush().await?;
        self.input = ReadBuffer::default();
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (stream, certified) = self.service.accept_tls(clear, self.peer).await?;
        self.stream = stream;
        self.session.on_tls();
        certified.into_iter().for_each(|account| self.session.on_client_certificate(account));
        Ok(())
    }

    /// Rejects a recipient that is suppressed for every upstream, if configured. If the store cannot be read, the
    /// recipient is accepted: the queue checks again before it sends.
    fn check_suppression(&mut self, recipient: &Mailbox) -> Reply {
        let Some(screen) = &self.service.recipient_filter else { return Reply::RecipientOk };
        let (address, now) = (recipient.to_folded(), self.service.clock.now());
        match screen.evaluate(now, |list| self.service.store.suppression_evidence(&address, list)) {
            Ok(None) => Reply::RecipientOk,
            Ok(Some(verdict)) => {
                tracing::info!(peer = %self.peer, %recipient, reason = verdict.reason.as_str(), "a suppressed recipient was refused");
                self.session.reject_last_recipient();
                Reply::RecipientSuppressed(suppression_text(verdict.reason))
            }
            Err(error) => {
                tracing::error!(%error, "the suppression list cannot be read");
                Reply::RecipientOk
            }
        }
    }

    /// Checks the free disk space and the rates before the message is received.
    fn check_limits(&mut self, size: Option<u64>) -> Result<(), Reply> {
        let peer = self.peer;
        let user = self.session.account().map(|account| account.name.as_str());
        let refusal = if !self.service.store.has_free_space(size.unwrap_or(0)) {
            tracing::warn!(%peer, user, "a message was refused: the disk is full");
            Reply::StorageFull
        } else if let Some(used_up) = user.and_then(|user| self.service.quotas.check_exhausted(user)) {
            tracing::warn!(%peer, user, "a message was refused: the quota is used up");
            used_up
        } else if !self.service.rate_limiter.try_acquire(user, peer, Instant::now()) {
            tracing::warn!(%peer, user, "a message was refused: the rate is used up");
            Reply::RateLimited
        } else {
            return Ok(());
        };
        self.session.take_envelope();
        Err(refusal)
    }

    /// Receives a message, commits it, and only then answers 250.
    async fn receive_data(&mut self) -> io::Result<Flow> {
        let mut decoder = Decoder::new(self.service.policy.max_message_bytes);
        let mut spool = Spool::new(self.service.memory_budget.clone(), self.service.store.clone());
        let mut patience = ReadDeadline::new(self.service.limits.message_timeout);
        loop {
            let fed = decoder.feed(self.input.unread(), spool.buffer());
            if let FeedResult::Complete(used) = fed {
                self.input.consumed += used;
                break;
            }
            self.input.clear();
            spool = spool.reserve().await;
            if let Some(end) = self.read_more_of_message(&mut patience).await? {
                return Ok(Flow::End(end));
            }
        }
        self.finish_message(Incoming { decoder, spool }).await?;
        Ok(Flow::Continue)
    }

    /// Receives a chunk (RFC 3030); the bytes of a rejected chunk are read and discarded.
    async fn receive_bdat_chunk(
        &mut self,
        size: u64,
        last: bool,
        refused: Option<Reply>,
    ) -> io::Result<Flow> {
        let limit = self.service.policy.max_message_bytes;
        let mut incoming = self.incoming.take().unwrap_or_else(|| Incoming {
            decoder: Decoder::for_bdat(limit),
            spool: Spool::new(self.service.memory_budget.clone(), self.service.store.clone()),
        });
        let mut patience = ReadDeadline::new(self.service.limits.message_timeout);
        let mut left = size;
        loop {
            let here = self.input.unread().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = &self.input.unread()[..here];
            if refused.is_none() {
                incoming.decoder.feed(piece, incoming.spool.buffer());
                incoming.spool = incoming.spool.reserve().await;
            }
            self.input.consumed += here;
            left -= here as u64;
            if left == 0 {
                break;
            }
            if let Some(end) = self.read_more_of_message(&mut patience).await? {
                return Ok(Flow::End(end));
            }
        }
        if let Some(refusal) = refused {
            return self.queue_counted_reply(refusal).await;
        }
        if last {
            incoming.decoder.finish(incoming.spool.buffer());
            self.finish_message(incoming).await?;
        } else if incoming.decoder.is_over_limit() {
            self.session.take_envelope();
            return self.queue_counted_reply(Reply::MessageTooLarge { limit }).await;
        } else {
            self.incoming = Some(incoming);
            self.queue_reply(&Reply::ChunkOk);
        }
        Ok(Flow::Continue)
    }

    /// Reads on within a message; `Some` when the client has gone, or is too slow.
    async fn read_more_of_message(&mut self, patience: &mut ReadDeadline) -> io::Result<Option<SessionEnd>> {
        self.flush().await?;
        patience.idle = self.service.limits.data_timeout;
        match self.read_more(*patience).await? {
            ReadEvent::Data | ReadEvent::ShuttingDown => Ok(None),
            // Odoo's connection test leaves here: nothing was promised, nothing is wrong.
            ReadEvent::Eof => Ok(Some(SessionEnd::ByClient)),
            ReadEvent::TimedOut => self.close_with(&Reply::TimedOut).await.map(Some),
        }
    }

    /// Keeps a message that has come in.
    async fn finish_message(&mut self, incoming: Incoming) -> io::Result<()> {
        let Incoming { decoder, spool } = incoming;
        let spooled = if decoder.is_over_limit() {
            Err(Reply::MessageTooLarge { limit: self.service.policy.max_message_bytes })
        } else {
            spool.finish().await
        };
        let reply = match (self.session.take_envelope(), spooled) {
            (Some(envelope), Ok(spooled)) => self.enqueue_message(envelope, spooled).await,
            (_, Err(refusal)) => refusal,
            (None, Ok(_)) => Reply::LocalError,
        };
        self.queue_reply(&reply);
        Ok(())
    }

    async fn enqueue_message(&mut self, envelope: Envelope, spooled: SpooledMessage) -> Reply {
        let SpooledMessage { head, tail, permits: _taken } = spooled;
        let visitor = ClientInfo {
            peer: self.peer,
            client_name: self.session.client_name(),
            protocol: self.session.protocol(),
            account: self.session.account().map(|account| &**account),
            dsn_allowed: true,
        };
        let reply = self.service.enqueue(&visitor, envelope, head, tail).await;
        if matches!(reply, Reply::Queued(_)) {
            self.session.on_message_accepted();
            self.activity.record_message();
        }
        reply
    }

    fn queue_reply(&mut self, reply: &Reply) {
        count_rejection(reply);
        if let Some(refusal) = self.refusal_of(reply) {
            let user = self.session.account().map_or("", |account| &*account.name);
            self.service.refusals.record_refusal(self.peer, refusal, &user);
        }
        reply.write_to(&mut self.output);
    }

    /// Returns the refusal to count if the client's settings do not fit the listener.
    fn refusal_of(&self, reply: &Reply) -> Option<Refusal> {
        match reply {
            Reply::TlsRequired | Reply::EncryptionRequired => Some(Refusal::BeforeTls),
            Reply::AuthRequired => Some(Refusal::BeforeLogin),
            Reply::AuthNotOffered => Some(Refusal::LoginNotOffered),
            Reply::TlsNotOffered if !self.service.policy.offer_starttls => Some(Refusal::TlsNotOffered),
            Reply::SenderNotAllowed => Some(Refusal::SenderNotAllowed),
            Reply::ProxyOnly => Some(Refusal::XclientNotAllowed),
            Reply::NotSmtp => Some(Refusal::NotSmtp),
            _ => None,
        }
    }

    async fn close_with(&mut self, reply: &Reply) -> io::Result<SessionEnd> {
        self.queue_reply(reply);
        self.flush().await?;
        Ok(SessionEnd::ByServer)
    }

    /// Ends a session between two messages during shutdown, without a reply: a 421 would answer the next command, and
    /// Odoo would fail the next message permanently.
    async fn close_silently(&mut self) -> io::Result<SessionEnd> {
        self.flush().await?;
        Ok(SessionEnd::ByServer)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let writing = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        timeout(WRITE_TIMEOUT, writing).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.output.clear();
        Ok(())
    }

    /// Reads more input. During shutdown, a session between two messages ends after its grace period, or earlier if it
    /// is idle outside of a series; a session within a message may finish it.
    async fn read_more(&mut self, patience: ReadDeadline) -> io::Result<ReadEvent> {
        let until = patience.total.min(Instant::now() + patience.idle);
        self.input.compact();
        let mut room = (&mut self.input.bytes).limit(READ_CHUNK_BYTES);
        let (front, quiet) = (self.service.clone(), self.activity.shutdown_idle_timeout());
        let dismissed = async {
            front.stopping.cancelled().await;
            match quiet {
                Some(quiet) => drop(timeout(quiet, front.connections.draining.cancelled()).await),
                None => front.connections.draining.cancelled().await,
            }
        };
        tokio::select! {
            biased;
            read = timeout_at(until, self.stream.read_buf(&mut room)) => match read {
                Ok(Ok(0)) => Ok(ReadEvent::Eof),
                Ok(Ok(_)) => Ok(ReadEvent::Data),
                // A client that goes without a goodbye (or without TLS's) has gone, that is all.
                Ok(Err(_)) => Ok(ReadEvent::Eof),
                Err(_) => Ok(ReadEvent::TimedOut),
            },
            () = dismissed, if !self.session.is_in_transaction() => Ok(ReadEvent::ShuttingDown),
        }
    }
}

/// How long a client may take.
#[derive(Clone, Copy)]
struct ReadDeadline {
    /// Until nothing more comes.
    idle: Duration,
    /// When the whole must be here, however steadily it comes.
    total: Instant,
}

impl ReadDeadline {
    /// Deadline for a complete unit of input.
    fn new(whole: Duration) -> Self {
        Self { idle: whole, total: Instant::now() + whole }
    }
}

/// Text of the reply for a suppressed recipient.
const fn suppression_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Complaint => "The recipient is suppressed: it reported earlier mail as spam",
        Reason::HardBounce => "The recipient is suppressed: earlier mail to it was refused for good",
        Reason::Manual => "The recipient is suppressed by the administrator",
        Reason::Unsubscribe => "The recipient is suppressed: it unsubscribed",
        Reason::SoftBounce => "The recipient is suppressed for now: too much mail to it failed lately",
    }
}

/// Counts a rejected command by reply code.
pub fn count_rejection(reply: &Reply) {
    if reply.is_rejection() {
        metrics::counter!("mailtrail_smtp_rejected_total", "reason" => reply.code().to_string()).increment(1);
    }
}

enum ReadEvent {
    Data,
    Eof,
    TimedOut,
    ShuttingDown,
}

/// A line of input.
enum InputLine {
    /// Range of the line, without its line end.
    Complete(Range<usize>),
    /// It is longer than any command.
    TooLong,
}

impl ReadBuffer {
    /// Returns the next line. A line that is too long is reported once, as early as possible.
    fn next_line(&mut self) -> Option<InputLine> {
        loop {
            let Some(length) = memchr::memchr(b'\n', self.unread()) else {
                if self.unread().len() < Limits::MAX_COMMAND_LINE_BYTES {
                    return None;
                }
                self.clear();
                let known = std::mem::replace(&mut self.discarding_line, true);
                return (!known).then_some(InputLine::TooLong);
            };
            let line = self.consumed..self.consumed + length;
            self.consumed = line.end + 1;
            if std::mem::take(&mut self.discarding_line) {
                continue;
            }
            if length >= Limits::MAX_COMMAND_LINE_BYTES {
                return Some(InputLine::TooLong);
            }
            let end = if self.bytes[line.clone()].ends_with(b"\r") { line.end - 1 } else { line.end };
            return Some(InputLine::Complete(line.start..end));
        }
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.consumed = 0;
    }

    fn compact(&mut self) {
        if self.consumed == self.bytes.len() {
            self.clear();
        } else if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.bytes.reserve(READ_CHUNK_BYTES);
    }
}

/// Bytes of replies from which on they are sent before more commands are answered.
const OUTPUT_FLUSH_BYTES: usize = 16 << 10;
/// The first byte of TLS, a handshake record (RFC 8446 section 5.1); no command begins so.
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Command timeout before a required login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a client is listened to that was sent away.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Silence after which a session ends while we stop, unless it is in the middle of a series.
const SHUTDOWN_IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a message by which a series is over.
const MAX_BURST_GAP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::AlarmRegistry;
    use crate::submission::authenticator::Authenticator;
    use crate::submission::connection_limiter::ConnectionLimiter;
    use crate::submission::quota::UserQuotas;
    use crate::submission::rate_limit::RateLimiter;
    use crate::submission::settings::{Listener, ListenerTls, LoginPolicy};
    use crate::submission::spool::MemoryBudget;
    use mailtrail_mail::Clock;
    use mailtrail_net::RefusalLog;
    use mailtrail_smtp::{Authentication, SessionPolicy};
    use mailtrail_store::Store;
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::sync::CancellationToken;

    fn test_service(store: Store, limits: Limits) -> SubmissionService {
        let rules = SessionPolicy {
            hostname: "relay.example.com".into(),
            offer_starttls: false,
            require_tls: false,
            authentication: Authentication::None,
            max_message_bytes: 1 << 20,
            max_recipients: 10,
        };
        let listener = Listener {
            address: ([127, 0, 0, 1], 0).into(),
            tls: ListenerTls::None,
            require_tls: false,
            authentication: Authentication::None,
            allow: Vec::new(),
            proxy_protocol_from: Vec::new(),
            xclient_from: Vec::new(),
            client_ca: None,
            cleanup: mailtrail_mail::HeaderCleanup::default(),
        };
        SubmissionService {
            policy: Arc::new(rules),
            limits,
            listener,
            authenticator: Arc::new(Authenticator::new(Vec::new(), &LoginPolicy::default(), Clock::System)),
            rate_limiter: Arc::new(RateLimiter::new(&[], None)),
            quotas: Arc::new(UserQuotas::new(&[], &store, AlarmRegistry::new(Clock::System), Clock::System)),
            tls: None,
            store,
            clock: Clock::System,
            id_generator: Arc::default(),
            providers: Vec::new(),
            routing: Arc::default(),
            deduplicator: None,
            dsn_enabled: false,
            recipient_filter: None,
            memory_budget: MemoryBudget::default(),
            refusals: RefusalLog::default(),
            connections: ConnectionLimiter::default(),
            stopping: CancellationToken::new(),
        }
    }

    /// Sends `first`, then `again` every ten seconds. Returns the last reply and its time.
    async fn drip_input(limits: &Limits, first: &str, again: &str) -> (String, Duration) {
        drip_input_with(Authentication::None, limits, first, again).await
    }

    async fn drip_input_with(
        authentication: Authentication,
        limits: &Limits,
        first: &str,
        again: &str,
    ) -> (String, Duration) {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let mut front = test_service(store, limits.clone());
        front.policy = Arc::new(SessionPolicy { authentication, ..(*front.policy).clone() });
        let front = Arc::new(front);
        let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 16);
        let session = Session::new(front.policy.clone(), false, false);
        let talk = Connection::new(Box::new(ours), ([127, 0, 0, 1], 1).into(), front, session).run();
        let (mut hear, mut say) = tokio::io::split(theirs);
        let started = Instant::now();
        let dripping = async {
            let mut said = say.write_all(first.as_bytes()).await;
            while said.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
                said = say.write_all(again.as_bytes()).await;
            }
            said
        };
        let ended = tokio::select! {
            ended = talk => ended,
            said = dripping => said.map(|()| SessionEnd::ByClient),
        };
        assert!(matches!(ended, Ok(SessionEnd::ByServer)), "{ended:?}");
        let after = started.elapsed();
        let mut heard = String::new();
        hear.read_to_string(&mut heard).await.unwrap();
        (heard.lines().last().unwrap_or_default().to_owned(), after)
    }

    const TIMED_OUT_REPLY: &str = "421 4.4.2 Nothing heard for too long, closing";

    #[tokio::test(start_paused = true)]
    async fn slow_input_does_not_extend_timeouts() {
        let usual = Limits::default();
        let envelope = "EHLO a\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<a@b.c>\r\n";
        for (first, again, expected, limit) in [
            ("", "E", TIMED_OUT_REPLY, usual.command_timeout),
            (&format!("{envelope}DATA\r\n"), "a", TIMED_OUT_REPLY, usual.message_timeout),
            (&format!("{envelope}BDAT 100000 LAST\r\n"), "a", TIMED_OUT_REPLY, usual.message_timeout),
        ] {
            let (reply, after) = drip_input(&usual, first, again).await;
            assert_eq!(reply, expected, "{first}");
            assert!(after >= limit && after < limit + Duration::from_secs(20), "{first}: {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closes_session_that_does_not_authenticate_in_time() {
        let usual = Limits::default();
        let (reply, after) = drip_input_with(Authentication::Required, &usual, "EHLO a\r\n", "N").await;
        assert_eq!(reply, TIMED_OUT_REPLY);
        assert!(after >= LOGIN_TIMEOUT && after < LOGIN_TIMEOUT + Duration::from_secs(20), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn closes_session_without_messages() {
        let usual = Limits::default();
        let (reply, _) = drip_input(&usual, "EHLO a\r\n", "NOOP\r\n").await;
        assert_eq!(reply, "421 4.7.0 Too many commands without a message, closing");
        let short = Limits { session_timeout: Duration::from_secs(600), ..usual };
        let (reply, after) = drip_input(&short, "EHLO a\r\n", "NOOP\r\n").await;
        assert_eq!(reply, "421 4.4.2 This session has lasted long enough, connect again");
        assert!(after >= short.session_timeout, "{after:?}");
    }
}
