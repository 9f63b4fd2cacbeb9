//! The one place where a client's socket is read and written.

use super::acceptance::{self, Circumstances};
use super::accounts::Login;
use super::listener::Front;
use super::spool::{Spool, Spooled};
use crate::mail::Envelope;
use crate::smtp::{Account, Decoder, Fed, Limits, Reply, Session, Step};
use crate::store::CommitError;
use bytes::BufMut;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

/// A client's stream, in clear or within TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One client's conversation.
pub struct Conversation {
    stream: Box<dyn Stream>,
    peer: SocketAddr,
    front: Arc<Front>,
    session: Session,
    input: Input,
    output: Vec<u8>,
}

/// What was read and not yet used.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    used: usize,
    /// The rest of a line that is too long is thrown away.
    skipping: bool,
}

/// How a conversation ended.
#[derive(Debug)]
pub enum End {
    /// By QUIT, or because the client left: whenever it likes.
    Left,
    /// We closed it, and said why.
    Closed,
}

enum Next {
    Continue,
    End(End),
}

impl Conversation {
    /// Greets a client whose stream is ready to talk.
    pub fn new(stream: Box<dyn Stream>, peer: SocketAddr, front: Arc<Front>) -> Self {
        let session = Session::new(front.rules.clone(), false);
        Self { stream, peer, front, session, input: Input::default(), output: Vec::new() }
    }

    /// Greets a client with whom TLS is on, maybe with a certificate of this user's.
    pub fn secured(
        stream: Box<dyn Stream>,
        certified: Option<Arc<Account>>,
        peer: SocketAddr,
        front: Arc<Front>,
    ) -> Self {
        let mut conversation = Self::new(stream, peer, front);
        conversation.session.secured();
        certified.into_iter().for_each(|account| conversation.session.certified(account));
        conversation
    }

    /// Talks until one of the two leaves; ends the stream properly, within TLS too (RFC 8446 section 6.1).
    pub async fn run(mut self) -> io::Result<End> {
        let end = self.talk().await?;
        // A client that is gone already does not mind.
        let _ = timeout(WRITE, self.stream.shutdown()).await;
        Ok(end)
    }

    async fn talk(&mut self) -> io::Result<End> {
        self.session.greeting().write(&mut self.output);
        loop {
            while let Some(line) = self.input.line() {
                if let Next::End(end) = self.line(line).await? {
                    return Ok(end);
                }
            }
            self.flush().await?;
            match self.more(self.front.limits.command_timeout).await? {
                Heard::Bytes => {}
                Heard::End => return Ok(End::Left),
                Heard::Nothing => return self.close(&Reply::TimedOut).await,
                Heard::Stop => return self.close(&Reply::Stopping).await,
            }
        }
    }

    async fn line(&mut self, line: Line) -> io::Result<Next> {
        let step = match line {
            Line::Whole(line) => self.session.line(&self.input.bytes[line]),
            Line::TooLong => self.session.line_too_long(),
        };
        match step {
            Step::Reply(reply) => self.say(&reply),
            Step::Close(reply) => {
                self.say(&reply);
                self.flush().await?;
                return Ok(Next::End(if reply == Reply::Bye { End::Left } else { End::Closed }));
            }
            Step::StartTls(reply) => self.start_tls(&reply).await?,
            Step::Open(reply) => {
                let reply = self.admit().map_or_else(|refusal| refusal, |()| reply);
                self.say(&reply);
            }
            Step::Authenticate(credentials) => {
                let peer = self.peer.ip().to_canonical();
                let reply = match self.front.accounts.log_in(credentials, peer).await {
                    Login::Right(account) => self.session.logged_in(account),
                    Login::Wrong => Reply::AuthFailed,
                    Login::LockedOut => return self.close(&Reply::LockedOut).await.map(Next::End),
                };
                match self.session.count(reply) {
                    Step::Close(reply) => return self.close(&reply).await.map(Next::End),
                    Step::Reply(reply) => self.say(&reply),
                    _ => {}
                }
            }
            Step::Receive(reply) => {
                self.say(&reply);
                self.flush().await?;
                return self.receive().await;
            }
        }
        Ok(Next::Continue)
    }

    /// Speaks TLS from here on. What the client sent in clear behind STARTTLS is dropped (RFC 3207 section 4.2).
    async fn start_tls(&mut self, reply: &Reply) -> io::Result<()> {
        self.say(reply);
        self.flush().await?;
        self.input = Input::default();
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (stream, certified) = self.front.secure(clear).await?;
        self.stream = stream;
        self.session.secured();
        certified.into_iter().for_each(|account| self.session.certified(account));
        Ok(())
    }

    /// Counts a message against the rates.
    fn admit(&mut self) -> Result<(), Reply> {
        let peer = self.peer.ip().to_canonical();
        let user = self.session.account().map(|account| account.name.as_str());
        if self.front.rates.admits(user, peer, Instant::now()) {
            return Ok(());
        }
        tracing::warn!(%peer, user, "a message was refused: the rate is used up");
        self.session.take_envelope();
        Err(Reply::TooFast)
    }

    /// Reads a message, keeps it, and only then says so.
    async fn receive(&mut self) -> io::Result<Next> {
        let mut decoder = Decoder::new(self.front.rules.message_size);
        let mut spool = Spool::new(self.front.memory.clone(), self.front.store.clone());
        loop {
            let fed = decoder.feed(self.input.rest(), spool.buffer());
            if let Fed::End(used) = fed {
                self.input.used += used;
                break;
            }
            self.input.clear();
            spool = spool.make_room().await;
            match self.more(self.front.limits.data_timeout).await? {
                Heard::Bytes => {}
                // Odoo's connection test leaves here: nothing was promised, nothing is wrong.
                Heard::End => return Ok(Next::End(End::Left)),
                Heard::Nothing => return self.close(&Reply::TimedOut).await.map(Next::End),
                Heard::Stop => {}
            }
        }
        let spooled = if decoder.overflowed() {
            Err(Reply::TooLarge { limit: self.front.rules.message_size })
        } else {
            spool.finish().await
        };
        let reply = match (self.session.take_envelope(), spooled) {
            (Some(envelope), Ok(spooled)) => self.keep(envelope, spooled).await,
            (_, Err(refusal)) => refusal,
            (None, Ok(_)) => Reply::LocalError,
        };
        self.say(&reply);
        Ok(Next::Continue)
    }

    async fn keep(&mut self, envelope: Envelope, spooled: Spooled) -> Reply {
        let Spooled { first, rest, taken: _taken } = spooled;
        let now = self.front.clock.now();
        let circumstances = Circumstances {
            id: self.front.mint.next(now, fastrand::u128(..)),
            now,
            hostname: &self.front.rules.hostname,
            peer: self.peer.ip().to_canonical(),
            client_name: self.session.client_name(),
            protocol: self.session.protocol(),
            account: self.session.account().map(|account| &**account),
            providers: &self.front.providers,
        };
        let (accepted, message) = match acceptance::accept(&circumstances, envelope, first, rest) {
            Ok(accepted) => accepted,
            Err(refusal) => return refusal,
        };
        let (id, client) = (accepted.send.id, accepted.send.client.clone());
        match self.front.store.accept(accepted, message).await {
            Ok(()) => {
                self.session.kept();
                metrics::counter!("mailtrail_smtp_accepted_total", "client" => client).increment(1);
                Reply::Queued(id)
            }
            Err(error) => {
                tracing::error!(%id, %error, "a message was not taken");
                match error {
                    CommitError::Disk(_) => Reply::StoreFull,
                    CommitError::ReadOnly => Reply::LocalError,
                }
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        tally(reply);
        reply.write(&mut self.output);
    }

    async fn close(&mut self, reply: &Reply) -> io::Result<End> {
        self.say(reply);
        self.flush().await?;
        Ok(End::Closed)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let writing = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        timeout(WRITE, writing).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.output.clear();
        Ok(())
    }

    /// Reads on. While we stop, a client between two messages is sent away; one within a message may end it.
    async fn more(&mut self, limit: Duration) -> io::Result<Heard> {
        self.input.compact();
        let mut room = (&mut self.input.bytes).limit(READ);
        let stopping = self.front.stopping.clone();
        tokio::select! {
            biased;
            read = timeout(limit, self.stream.read_buf(&mut room)) => match read {
                Ok(Ok(0)) => Ok(Heard::End),
                Ok(Ok(_)) => Ok(Heard::Bytes),
                // A client that goes without a goodbye (or without TLS's) has gone, that is all.
                Ok(Err(_)) => Ok(Heard::End),
                Err(_) => Ok(Heard::Nothing),
            },
            () = stopping.cancelled(), if !self.session.is_in_transaction() => Ok(Heard::Stop),
        }
    }
}

/// Counts a refusal.
pub fn tally(reply: &Reply) {
    if reply.is_refusal() {
        metrics::counter!("mailtrail_smtp_rejected_total", "reason" => reply.code().to_string()).increment(1);
    }
}

enum Heard {
    Bytes,
    End,
    Nothing,
    Stop,
}

/// What the client said in one line.
enum Line {
    /// Where it stands, without its line end.
    Whole(Range<usize>),
    /// It is longer than any command.
    TooLong,
}

impl Input {
    /// The next line; one that is too long is said to be so once, as soon as that is certain.
    fn line(&mut self) -> Option<Line> {
        loop {
            let Some(length) = memchr::memchr(b'\n', self.rest()) else {
                if self.rest().len() < Limits::COMMAND_LINE {
                    return None;
                }
                self.clear();
                let known = std::mem::replace(&mut self.skipping, true);
                return (!known).then_some(Line::TooLong);
            };
            let line = self.used..self.used + length;
            self.used = line.end + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if length >= Limits::COMMAND_LINE {
                return Some(Line::TooLong);
            }
            let end = if self.bytes[line.clone()].ends_with(b"\r") { line.end - 1 } else { line.end };
            return Some(Line::Whole(line.start..end));
        }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.used = 0;
    }

    fn compact(&mut self) {
        if self.used == self.bytes.len() {
            self.clear();
        } else if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.reserve(READ);
    }
}

/// Bytes read at a time.
pub const READ: usize = 16 << 10;
const WRITE: Duration = Duration::from_secs(60);
