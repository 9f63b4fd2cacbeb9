//! The one place where a client's socket is read and written.

use crate::submission::authenticator::Login;
use crate::submission::enqueue::Visitor;
use crate::submission::listener::{Front, contains};
use crate::submission::spool::{Spool, Spooled};
use bytes::BufMut;
use mailtrail_mail::{Envelope, Mailbox};
use mailtrail_net::Refusal;
use mailtrail_smtp::{Authentication, Decoder, Fed, Introduction, Limits, Reply, Session, Step};
use mailtrail_trail::suppression::Reason;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// A client's stream, in clear or within TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One client's conversation.
pub struct Conversation {
    stream: Box<dyn Stream>,
    /// Where the client is, in front of all proxies that say so.
    peer: IpAddr,
    front: Arc<Front>,
    session: Session,
    input: Input,
    output: Vec<u8>,
    /// The message that comes in chunks.
    incoming: Option<Incoming>,
    series: Series,
    /// When it must be over.
    end: Instant,
}

/// The messages that came in this session.
#[derive(Default)]
struct Series {
    messages: u32,
    last: Option<Instant>,
}

impl Series {
    fn count(&mut self) {
        (self.messages, self.last) = (self.messages.saturating_add(1), Some(Instant::now()));
    }

    /// How long the client may say nothing while we stop; `None`: as long as any session may last then, for it is in the
    /// middle of a series, such as Odoo's queue run.
    fn quiet(&self) -> Option<Duration> {
        let goes_on = self.messages >= 2 && self.last.is_some_and(|last| last.elapsed() < SERIES_PAUSE);
        (!goes_on).then_some(QUIET)
    }
}

/// A message on its way in.
struct Incoming {
    decoder: Decoder,
    spool: Spool,
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
    pub fn new(stream: Box<dyn Stream>, peer: SocketAddr, front: Arc<Front>, session: Session) -> Self {
        let (peer, end) = (peer.ip().to_canonical(), Instant::now() + front.limits.session_timeout);
        let (input, output, incoming) = (Input::default(), Vec::new(), None);
        Self { stream, peer, front, session, input, output, incoming, series: Series::default(), end }
    }

    /// Talks until one of the two leaves; ends the stream properly, within TLS too (RFC 8446 section 6.1).
    pub async fn run(mut self) -> io::Result<End> {
        let end = self.talk().await?;
        // A client that is gone already does not mind.
        let _ = timeout(WRITE, self.stream.shutdown()).await;
        if matches!(end, End::Closed) {
            let _ = timeout(LINGER, self.ignore()).await;
        }
        Ok(end)
    }

    /// Reads and drops what the client still says. Unread it would reset the connection, and the client might never
    /// see our last replies, one of which may say that we keep its message.
    async fn ignore(&mut self) {
        self.input.clear();
        while self.stream.read_buf(&mut self.input.bytes).await.is_ok_and(|read| read > 0) {
            self.input.clear();
        }
    }

    async fn talk(&mut self) -> io::Result<End> {
        self.session.greeting().write(&mut self.output);
        let mut patience = Patience::new(self.command_timeout());
        let mut is_first = true;
        loop {
            while let Some(line) = self.input.line() {
                if self.front.crowd.closing.is_cancelled() && !self.session.is_in_transaction() {
                    return self.leave().await;
                }
                if let Next::End(end) = self.line(line).await? {
                    return Ok(end);
                }
                if self.output.len() >= OUTPUT {
                    self.flush().await?;
                }
                patience = Patience::new(self.command_timeout());
            }
            self.flush().await?;
            if Instant::now() >= self.end && !self.session.is_in_transaction() {
                return self.close(&Reply::SessionTooLong).await;
            }
            match self.more(patience).await? {
                Heard::Bytes
                    if std::mem::take(&mut is_first) && self.input.rest().first() == Some(&TLS_RECORD) =>
                {
                    self.front.refusals.note(self.peer, Refusal::TlsOnClearPort, &"");
                    return Ok(End::Closed);
                }
                Heard::Bytes => {}
                Heard::End => return Ok(End::Left),
                Heard::Nothing => return self.close(&Reply::TimedOut).await,
                Heard::Stop => return self.leave().await,
            }
        }
    }

    /// Who is to log in first does not hold a connection for long without.
    fn command_timeout(&self) -> Duration {
        let usual = self.front.limits.command_timeout;
        let is_stranger =
            self.front.rules.authentication == Authentication::Required && self.session.account().is_none();
        if is_stranger { usual.min(LOGIN) } else { usual }
    }

    async fn line(&mut self, line: Line) -> io::Result<Next> {
        let step = match line {
            Line::Whole(line) => self.session.line(&self.input.bytes[line]),
            Line::TooLong => self.session.line_too_long(),
        };
        if !self.session.is_in_chunks() {
            self.incoming = None;
        }
        match step {
            Step::StartTls(reply) => self.start_tls(&reply).await?,
            Step::Open { size } => {
                let reply = self.admit(size).err().unwrap_or(Reply::SenderOk);
                self.say(&reply);
            }
            Step::Authenticate(credentials) => {
                let reply = match self.front.accounts.log_in(credentials, self.peer).await {
                    Login::Right(account) => self.session.logged_in(account),
                    Login::Wrong => Reply::AuthFailed,
                    Login::LockedOut => Reply::LockedOut,
                };
                return self.answer(reply).await;
            }
            Step::Recipient(recipient) => {
                let reply = self.screen(&recipient);
                return self.answer(reply).await;
            }
            Step::Introduce(introduction) => return self.introduce(introduction).await,
            Step::Receive(reply) => {
                self.say(&reply);
                self.flush().await?;
                return self.receive().await;
            }
            Step::Chunk { size, last, refused } => return self.chunk(size, last, refused).await,
            Step::Reply(reply) => self.say(&reply),
            Step::Close(reply) => {
                let end = if reply == Reply::Bye { End::Left } else { End::Closed };
                self.close(&reply).await?;
                return Ok(Next::End(end));
            }
        }
        Ok(Next::Continue)
    }

    /// Says what was found outside of the session, which may have had enough.
    async fn answer(&mut self, reply: Reply) -> io::Result<Next> {
        match self.session.count(reply) {
            Step::Close(reply) => self.close(&reply).await.map(Next::End),
            Step::Reply(reply) => {
                self.say(&reply);
                Ok(Next::Continue)
            }
            _ => Ok(Next::Continue),
        }
    }

    /// A trusted proxy told us whose connection this is.
    async fn introduce(&mut self, introduction: Introduction) -> io::Result<Next> {
        let account = match &introduction.user {
            None => None,
            Some(user) => match self.front.accounts.account(user) {
                Some(account) => Some(account),
                None => {
                    self.front.refusals.note(self.peer, Refusal::ProxiedUser, user);
                    return self.answer(Reply::AuthFailed).await;
                }
            },
        };
        if let Some(address) = introduction.address.map(|address| address.to_canonical()) {
            self.peer = address;
        }
        if !contains(&self.front.listener.allow, self.peer) {
            self.front.refusals.note(self.peer, Refusal::ProxiedNetwork, &"");
            return self.close(&Reply::NotAllowed).await.map(Next::End);
        }
        let reply = self.session.introduced(account);
        self.say(&reply);
        Ok(Next::Continue)
    }

    /// Speaks TLS from here on. What the client sent in clear behind STARTTLS is dropped (RFC 3207 section 4.2).
    async fn start_tls(&mut self, reply: &Reply) -> io::Result<()> {
        self.say(reply);
        self.flush().await?;
        self.input = Input::default();
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (stream, certified) = self.front.secure(clear, self.peer).await?;
        self.stream = stream;
        self.session.secured();
        certified.into_iter().for_each(|account| self.session.certified(account));
        Ok(())
    }

    /// Refuses a recipient that no upstream could be sent any mail for, where that is to be refused. A store that cannot
    /// be read refuses nobody: there is another look before anything is sent.
    fn screen(&mut self, recipient: &Mailbox) -> Reply {
        let Some(screen) = &self.front.screen else { return Reply::RecipientOk };
        let (address, now) = (recipient.folded(), self.front.clock.now());
        match screen.judge(now, |list| self.front.store.dossier(&address, list)) {
            Ok(None) => Reply::RecipientOk,
            Ok(Some(verdict)) => {
                tracing::info!(peer = %self.peer, %recipient, reason = verdict.reason.word(), "a suppressed recipient was refused");
                self.session.refuse_recipient();
                Reply::Suppressed(refusal(verdict.reason))
            }
            Err(error) => {
                tracing::error!(%error, "the suppression list cannot be read");
                Reply::RecipientOk
            }
        }
    }

    /// Looks whether the disk has room for a message, before its text comes, and counts it against the rates.
    fn admit(&mut self, size: Option<u64>) -> Result<(), Reply> {
        let peer = self.peer;
        let user = self.session.account().map(|account| account.name.as_str());
        let refusal = if !self.front.store.has_room(size.unwrap_or(0)) {
            tracing::warn!(%peer, user, "a message was refused: the disk is full");
            Reply::StoreFull
        } else if let Some(used_up) = user.and_then(|user| self.front.quotas.used_up(user)) {
            tracing::warn!(%peer, user, "a message was refused: the quota is used up");
            used_up
        } else if !self.front.rates.admits(user, peer, Instant::now()) {
            tracing::warn!(%peer, user, "a message was refused: the rate is used up");
            Reply::TooFast
        } else {
            return Ok(());
        };
        self.session.take_envelope();
        Err(refusal)
    }

    /// Reads a message, keeps it, and only then says so.
    async fn receive(&mut self) -> io::Result<Next> {
        let mut decoder = Decoder::new(self.front.rules.message_size);
        let mut spool = Spool::new(self.front.memory.clone(), self.front.store.clone());
        let mut patience = Patience::new(self.front.limits.message_timeout);
        loop {
            let fed = decoder.feed(self.input.rest(), spool.buffer());
            if let Fed::End(used) = fed {
                self.input.used += used;
                break;
            }
            self.input.clear();
            spool = spool.make_room().await;
            if let Some(end) = self.more_of_message(&mut patience).await? {
                return Ok(Next::End(end));
            }
        }
        self.finish(Incoming { decoder, spool }).await?;
        Ok(Next::Continue)
    }

    /// Reads a chunk (RFC 3030); what is refused is read and dropped.
    async fn chunk(&mut self, size: u64, last: bool, refused: Option<Reply>) -> io::Result<Next> {
        let limit = self.front.rules.message_size;
        let mut incoming = self.incoming.take().unwrap_or_else(|| Incoming {
            decoder: Decoder::of_chunks(limit),
            spool: Spool::new(self.front.memory.clone(), self.front.store.clone()),
        });
        let mut patience = Patience::new(self.front.limits.message_timeout);
        let mut left = size;
        loop {
            let here = self.input.rest().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = &self.input.rest()[..here];
            if refused.is_none() {
                incoming.decoder.feed(piece, incoming.spool.buffer());
                incoming.spool = incoming.spool.make_room().await;
            }
            self.input.used += here;
            left -= here as u64;
            if left == 0 {
                break;
            }
            if let Some(end) = self.more_of_message(&mut patience).await? {
                return Ok(Next::End(end));
            }
        }
        if let Some(refusal) = refused {
            return self.answer(refusal).await;
        }
        if last {
            incoming.decoder.finish(incoming.spool.buffer());
            self.finish(incoming).await?;
        } else if incoming.decoder.overflowed() {
            self.session.take_envelope();
            return self.answer(Reply::TooLarge { limit }).await;
        } else {
            self.incoming = Some(incoming);
            self.say(&Reply::ChunkOk);
        }
        Ok(Next::Continue)
    }

    /// Reads on within a message; `Some` when the client has gone, or is too slow.
    async fn more_of_message(&mut self, patience: &mut Patience) -> io::Result<Option<End>> {
        self.flush().await?;
        patience.pause = self.front.limits.data_timeout;
        match self.more(*patience).await? {
            Heard::Bytes | Heard::Stop => Ok(None),
            // Odoo's connection test leaves here: nothing was promised, nothing is wrong.
            Heard::End => Ok(Some(End::Left)),
            Heard::Nothing => self.close(&Reply::TimedOut).await.map(Some),
        }
    }

    /// Keeps a message that has come in.
    async fn finish(&mut self, incoming: Incoming) -> io::Result<()> {
        let Incoming { decoder, spool } = incoming;
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
        Ok(())
    }

    async fn keep(&mut self, envelope: Envelope, spooled: Spooled) -> Reply {
        let Spooled { first, rest, taken: _taken } = spooled;
        let visitor = Visitor {
            peer: self.peer,
            client_name: self.session.client_name(),
            protocol: self.session.protocol(),
            account: self.session.account().map(|account| &**account),
            reports: true,
        };
        let reply = self.front.keep(&visitor, envelope, first, rest).await;
        if matches!(reply, Reply::Queued(_)) {
            self.session.kept();
            self.series.count();
        }
        reply
    }

    fn say(&mut self, reply: &Reply) {
        tally(reply);
        if let Some(refusal) = self.refusal(reply) {
            let user = self.session.account().map_or("", |account| &*account.name);
            self.front.refusals.note(self.peer, refusal, &user);
        }
        reply.write(&mut self.output);
    }

    /// What a reply says of the client's settings, where they do not fit the listener.
    fn refusal(&self, reply: &Reply) -> Option<Refusal> {
        match reply {
            Reply::TlsRequired | Reply::EncryptionRequired => Some(Refusal::BeforeTls),
            Reply::AuthRequired => Some(Refusal::BeforeLogin),
            Reply::AuthNotOffered => Some(Refusal::LoginNotOffered),
            Reply::TlsNotOffered if !self.front.rules.starttls => Some(Refusal::TlsNotOffered),
            Reply::SenderRefused => Some(Refusal::Sender),
            Reply::NotTrusted => Some(Refusal::Xclient),
            Reply::NotSmtp => Some(Refusal::NotSmtp),
            _ => None,
        }
    }

    async fn close(&mut self, reply: &Reply) -> io::Result<End> {
        self.say(reply);
        self.flush().await?;
        Ok(End::Closed)
    }

    /// Ends a session between two messages because we stop. It is not told so: a 421 would answer its next command, and
    /// Odoo then fails the next mail for good as well.
    async fn leave(&mut self) -> io::Result<End> {
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

    /// Reads on. While we stop, the session of a client between two messages ends when it has had all the time it gets, or
    /// earlier where it sends no series and says nothing for a while; one within a message may end it.
    async fn more(&mut self, patience: Patience) -> io::Result<Heard> {
        let until = patience.end.min(Instant::now() + patience.pause);
        self.input.compact();
        let mut room = (&mut self.input.bytes).limit(READ);
        let (front, quiet) = (self.front.clone(), self.series.quiet());
        let dismissed = async {
            front.stopping.cancelled().await;
            match quiet {
                Some(quiet) => drop(timeout(quiet, front.crowd.closing.cancelled()).await),
                None => front.crowd.closing.cancelled().await,
            }
        };
        tokio::select! {
            biased;
            read = timeout_at(until, self.stream.read_buf(&mut room)) => match read {
                Ok(Ok(0)) => Ok(Heard::End),
                Ok(Ok(_)) => Ok(Heard::Bytes),
                // A client that goes without a goodbye (or without TLS's) has gone, that is all.
                Ok(Err(_)) => Ok(Heard::End),
                Err(_) => Ok(Heard::Nothing),
            },
            () = dismissed, if !self.session.is_in_transaction() => Ok(Heard::Stop),
        }
    }
}

/// How long a client may take.
#[derive(Clone, Copy)]
struct Patience {
    /// Until nothing more comes.
    pause: Duration,
    /// When the whole must be here, however steadily it comes.
    end: Instant,
}

impl Patience {
    /// For what must be whole in that time.
    fn new(whole: Duration) -> Self {
        Self { pause: whole, end: Instant::now() + whole }
    }
}

/// What a client is told about a suppressed recipient.
const fn refusal(reason: Reason) -> &'static str {
    match reason {
        Reason::Complaint => "The recipient is suppressed: it reported earlier mail as spam",
        Reason::HardBounce => "The recipient is suppressed: earlier mail to it was refused for good",
        Reason::Manual => "The recipient is suppressed by the administrator",
        Reason::Unsubscribe => "The recipient is suppressed: it unsubscribed",
        Reason::SoftBounce => "The recipient is suppressed for now: too much mail to it failed lately",
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
/// Bytes of replies from which on they are sent before more commands are answered.
const OUTPUT: usize = 16 << 10;
/// The first byte of TLS, a handshake record (RFC 8446 section 5.1); no command begins so.
const TLS_RECORD: u8 = 0x16;
const WRITE: Duration = Duration::from_secs(60);
/// Longest time before a command of who has not logged in where that is required.
const LOGIN: Duration = Duration::from_secs(120);
/// How long a client is listened to that was sent away.
const LINGER: Duration = Duration::from_secs(2);
/// Silence after which a session ends while we stop, unless it is in the middle of a series.
const QUIET: Duration = Duration::from_secs(3);
/// Pause after a message by which a series is over.
const SERIES_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::Alarms;
    use crate::submission::authenticator::Accounts;
    use crate::submission::listener::Crowd;
    use crate::submission::quota::Quotas;
    use crate::submission::rate_limit::Rates;
    use crate::submission::settings::{Listener, ListenerTls, Policy};
    use crate::submission::spool::Memory;
    use mailtrail_mail::Clock;
    use mailtrail_net::RefusalLog;
    use mailtrail_smtp::{Authentication, Rules};
    use mailtrail_store::Store;
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::sync::CancellationToken;

    fn front(store: Store, limits: Limits) -> Front {
        let rules = Rules {
            hostname: "relay.example.com".into(),
            starttls: false,
            require_tls: false,
            authentication: Authentication::None,
            message_size: 1 << 20,
            recipients: 10,
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
        Front {
            rules: Arc::new(rules),
            limits,
            listener,
            accounts: Arc::new(Accounts::new(Vec::new(), &Policy::default(), Clock::System)),
            rates: Arc::new(Rates::new(&[], None)),
            quotas: Arc::new(Quotas::new(&[], &store, Alarms::new(Clock::System), Clock::System)),
            tls: None,
            store,
            clock: Clock::System,
            mint: Arc::default(),
            providers: Vec::new(),
            routing: Arc::default(),
            duplicates: None,
            reports: false,
            screen: None,
            memory: Memory::default(),
            refusals: RefusalLog::default(),
            crowd: Crowd::default(),
            stopping: CancellationToken::new(),
        }
    }

    /// Says `first`, then `again` every ten seconds; returns the last reply and after how long it came.
    async fn drip(limits: &Limits, first: &str, again: &str) -> (String, Duration) {
        drip_at(Authentication::None, limits, first, again).await
    }

    async fn drip_at(
        authentication: Authentication,
        limits: &Limits,
        first: &str,
        again: &str,
    ) -> (String, Duration) {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let mut front = front(store, limits.clone());
        front.rules = Arc::new(Rules { authentication, ..(*front.rules).clone() });
        let front = Arc::new(front);
        let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 16);
        let session = Session::new(front.rules.clone(), false, false);
        let talk = Conversation::new(Box::new(ours), ([127, 0, 0, 1], 1).into(), front, session).run();
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
            said = dripping => said.map(|()| End::Left),
        };
        assert!(matches!(ended, Ok(End::Closed)), "{ended:?}");
        let after = started.elapsed();
        let mut heard = String::new();
        hear.read_to_string(&mut heard).await.unwrap();
        (heard.lines().last().unwrap_or_default().to_owned(), after)
    }

    const TIMED_OUT: &str = "421 4.4.2 Nothing heard for too long, closing";

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_hold_a_session() {
        let usual = Limits::default();
        let envelope = "EHLO a\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<a@b.c>\r\n";
        for (first, again, expected, limit) in [
            ("", "E", TIMED_OUT, usual.command_timeout),
            (&format!("{envelope}DATA\r\n"), "a", TIMED_OUT, usual.message_timeout),
            (&format!("{envelope}BDAT 100000 LAST\r\n"), "a", TIMED_OUT, usual.message_timeout),
        ] {
            let (reply, after) = drip(&usual, first, again).await;
            assert_eq!(reply, expected, "{first}");
            assert!(after >= limit && after < limit + Duration::from_secs(20), "{first}: {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_to_log_in_does_not_hold_a_connection_without() {
        let usual = Limits::default();
        let (reply, after) = drip_at(Authentication::Required, &usual, "EHLO a\r\n", "N").await;
        assert_eq!(reply, TIMED_OUT);
        assert!(after >= LOGIN && after < LOGIN + Duration::from_secs(20), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_only_talks_ends() {
        let usual = Limits::default();
        let (reply, _) = drip(&usual, "EHLO a\r\n", "NOOP\r\n").await;
        assert_eq!(reply, "421 4.7.0 Too many commands without a message, closing");
        let short = Limits { session_timeout: Duration::from_secs(600), ..usual };
        let (reply, after) = drip(&short, "EHLO a\r\n", "NOOP\r\n").await;
        assert_eq!(reply, "421 4.4.2 This session has lasted long enough, connect again");
        assert!(after >= short.session_timeout, "{after:?}");
    }
}
