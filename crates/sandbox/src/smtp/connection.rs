//! The sockets: reads lines and messages, writes replies together when nothing is left to read, switches to TLS.

use crate::message_facts::SubmissionOrigin;
use crate::scenario::Scenario;
use crate::smtp::session;
use crate::smtp::session::{SessionAction, SmtpSession};
use crate::state::SandboxState;
use bytes::{Buf, Bytes, BytesMut};
use mailtrail_mail::Envelope;
use mailtrail_smtp::{Decoder, FeedResult, Limits};
use memchr::{memchr, memmem};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Accepts connections for as long as the sandbox runs.
pub(crate) async fn accept_connections<S>(
    state: Arc<SandboxState>,
    listener: TcpListener,
    session: impl Fn(TcpStream, IpAddr) -> S + Send,
) where
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(seat) = seats.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let session = session(stream, peer.ip());
                state.tasks.spawn(async move {
                    if let Err(error) = session.await {
                        tracing::debug!(%peer, %error, "sandbox session broke off");
                    }
                    drop(seat);
                });
            }
            // Out of file descriptors, as a rule; sessions that end give some back.
            Err(error) => {
                tracing::warn!(%error, "the sandbox cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection.
pub(crate) async fn serve_smtp(
    state: Arc<SandboxState>,
    stream: TcpStream,
    peer: IpAddr,
    acceptor: TlsAcceptor,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut plain = Connection::new(state.clone(), stream, peer, false);
    plain.queue_reply(state.profile.smtp_texts().greeting);
    if let SessionEnd::StartTls = plain.run_session().await? {
        // Plaintext after STARTTLS is discarded with its buffer.
        let stream = timeout(IDLE_TIMEOUT, acceptor.accept(plain.stream)).await??;
        Connection::new(state, stream, peer, true).run_session().await?;
    }
    Ok(())
}

/// Reason for which a session ended.
enum SessionEnd {
    Closed,
    StartTls,
}

/// Whether a session goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    Close,
}

struct Connection<S> {
    state: Arc<SandboxState>,
    stream: S,
    peer: IpAddr,
    session: SmtpSession,
    read_buffer: BytesMut,
    write_buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(state: Arc<SandboxState>, stream: S, peer: IpAddr, secured: bool) -> Self {
        let session = SmtpSession::new(state.profile.smtp_texts(), state.credentials.clone(), secured);
        Self { state, stream, peer, session, read_buffer: BytesMut::new(), write_buffer: Vec::new() }
    }

    async fn run_session(&mut self) -> io::Result<SessionEnd> {
        while let Some(line) = self.read_line().await? {
            let flow = match self.session.handle_line(&line, &self.state.seen_counter) {
                SessionAction::Reply(text) => {
                    self.queue_reply(&text);
                    Flow::Continue
                }
                SessionAction::StartTls(text) => {
                    self.queue_reply(text);
                    self.flush().await?;
                    return Ok(SessionEnd::StartTls);
                }
                SessionAction::ReceiveMessage(text, envelope) => {
                    self.queue_reply(text);
                    self.receive_message(envelope).await?
                }
                SessionAction::RateLimited => self.close_with_reply(&self.state.rate_limit_reply()).await?,
                SessionAction::Close(text) => self.close_with_reply(text).await?,
                SessionAction::Disconnect => {
                    self.flush().await?;
                    Flow::Close
                }
            };
            if flow == Flow::Close {
                break;
            }
        }
        Ok(SessionEnd::Closed)
    }

    /// The next line without its line end; `None` when no more will come.
    async fn read_line(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(end) = memchr(b'\n', &self.read_buffer) {
                let line = self.read_buffer.split_to(end + 1).freeze();
                let text = line.trim_ascii_end().len();
                return Ok(Some(line.slice(..text)));
            }
            if self.read_buffer.len() > Limits::MAX_COMMAND_LINE_BYTES {
                self.close_with_reply(session::LINE_TOO_LONG).await?;
                return Ok(None);
            }
            if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads a message, and answers it as its recipients' fates have it.
    async fn receive_message(&mut self, envelope: Envelope) -> io::Result<Flow> {
        let (mut decoder, mut raw) =
            (Decoder::new(self.state.profile.smtp_texts().max_message_bytes), Vec::new());
        let mut may_drop = has_scenario(&envelope, Scenario::DropBeforeDot);
        loop {
            let fed = decoder.feed(&self.read_buffer, &mut raw);
            let ended = fed != FeedResult::NeedMore;
            if may_drop && (ended || memmem::find(&raw, b"\r\n\r\n").is_some()) {
                may_drop = false;
                if self.state.is_first_attempt(&envelope, &raw, Scenario::DropBeforeDot) {
                    self.flush().await?;
                    return Ok(Flow::Close);
                }
            }
            match fed {
                FeedResult::Complete(used) => {
                    self.read_buffer.advance(used);
                    break;
                }
                FeedResult::NeedMore => self.read_buffer.clear(),
            }
            if !self.read_more().await? {
                return Ok(Flow::Close);
            }
        }
        if decoder.is_over_limit() {
            self.queue_reply(self.state.profile.smtp_texts().message_too_large);
            return Ok(Flow::Continue);
        }
        self.accept_message(envelope, raw).await
    }

    async fn accept_message(&mut self, envelope: Envelope, raw: Vec<u8>) -> io::Result<Flow> {
        let slow = has_scenario(&envelope, Scenario::Slow);
        let drop_at_dot = self.state.is_first_attempt(&envelope, &raw, Scenario::DropAtDot);
        let Some(id) = self.state.accept_message(envelope, raw.into(), SubmissionOrigin::Smtp(self.peer))
        else {
            self.queue_reply(session::TEMPORARILY_UNAVAILABLE);
            return Ok(Flow::Continue);
        };
        // Replies to earlier commands are not affected.
        if drop_at_dot {
            self.flush().await?;
            return Ok(Flow::Close);
        }
        if slow {
            self.flush().await?;
            self.state.time_scale.sleep(SLOW_REPLY_SECONDS).await;
        }
        self.queue_reply(&self.state.profile.smtp_texts().message_accepted.replace("{}", id.as_str()));
        Ok(Flow::Continue)
    }

    fn queue_reply(&mut self, text: &str) {
        self.write_buffer.extend_from_slice(text.as_bytes());
        self.write_buffer.extend_from_slice(b"\r\n");
    }

    async fn close_with_reply(&mut self, text: &str) -> io::Result<Flow> {
        self.queue_reply(text);
        self.flush().await?;
        timeout(IDLE_TIMEOUT, self.stream.shutdown()).await??;
        // Closing a socket with unread input resets it, and the client might lose the last replies.
        self.read_buffer.clear();
        let drain = async {
            while self.stream.read_buf(&mut self.read_buffer).await.is_ok_and(|read| read > 0) {
                self.read_buffer.clear();
            }
        };
        timeout(LINGER_TIMEOUT, drain).await.ok();
        Ok(Flow::Close)
    }

    /// Writes pending replies, then reads; false at the end.
    async fn read_more(&mut self) -> io::Result<bool> {
        self.flush().await?;
        self.read_buffer.reserve(READ_CHUNK_BYTES);
        Ok(timeout(IDLE_TIMEOUT, self.stream.read_buf(&mut self.read_buffer)).await?? > 0)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.write_buffer.is_empty() {
            timeout(IDLE_TIMEOUT, self.stream.write_all(&self.write_buffer)).await??;
            timeout(IDLE_TIMEOUT, self.stream.flush()).await??;
            self.write_buffer.clear();
        }
        Ok(())
    }
}

fn has_scenario(envelope: &Envelope, scenario: Scenario) -> bool {
    envelope.recipients.iter().any(|recipient| Scenario::for_recipient(recipient) == scenario)
}

/// Sessions at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 256;
/// Longest pause of a client.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for a client to close its side.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes asked for in one read.
const READ_CHUNK_BYTES: usize = 16 << 10;
/// Mailgun's seconds that the reply to a slow message takes.
pub(crate) const SLOW_REPLY_SECONDS: u32 = 30;
