//! The sockets: reads lines and messages, writes replies together when nothing is left to read, switches to TLS.

use crate::message_facts::Origin;
use crate::scenario::Fate;
use crate::smtp::session;
use crate::smtp::session::{Dialogue, Step};
use crate::state::House;
use bytes::{Buf, Bytes, BytesMut};
use mailtrail_mail::Envelope;
use mailtrail_smtp::{Decoder, Fed, Limits};
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
pub(crate) async fn listen<S>(
    house: Arc<House>,
    listener: TcpListener,
    session: impl Fn(TcpStream, IpAddr) -> S + Send,
) where
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(seat) = seats.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let session = session(stream, peer.ip());
                house.tasks.spawn(async move {
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

/// Speaks SMTP on one connection.
pub(crate) async fn serve(
    house: Arc<House>,
    stream: TcpStream,
    peer: IpAddr,
    acceptor: TlsAcceptor,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut plain = Connection::new(house.clone(), stream, peer, false);
    plain.say(house.face.texts().greeting);
    if let Ended::StartTls = plain.run().await? {
        // What was sent in clear behind STARTTLS goes away with its buffer.
        let stream = timeout(IDLE, acceptor.accept(plain.stream)).await??;
        Connection::new(house, stream, peer, true).run().await?;
    }
    Ok(())
}

/// Why a session ended.
enum Ended {
    Closed,
    StartTls,
}

/// Whether a session goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Close,
}

struct Connection<S> {
    house: Arc<House>,
    stream: S,
    peer: IpAddr,
    dialogue: Dialogue,
    input: BytesMut,
    output: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(house: Arc<House>, stream: S, peer: IpAddr, secured: bool) -> Self {
        let dialogue = Dialogue::new(house.face.texts(), house.login.clone(), secured);
        Self { house, stream, peer, dialogue, input: BytesMut::new(), output: Vec::new() }
    }

    async fn run(&mut self) -> io::Result<Ended> {
        while let Some(line) = self.line().await? {
            let flow = match self.dialogue.line(&line, &self.house.memory) {
                Step::Say(text) => {
                    self.say(&text);
                    Flow::On
                }
                Step::StartTls(text) => {
                    self.say(text);
                    self.flush().await?;
                    return Ok(Ended::StartTls);
                }
                Step::Receive(text, envelope) => {
                    self.say(text);
                    self.receive(envelope).await?
                }
                Step::RateLimited => self.close(&self.house.rate_limited_reply()).await?,
                Step::Close(text) => self.close(text).await?,
                Step::Drop => {
                    self.flush().await?;
                    Flow::Close
                }
            };
            if flow == Flow::Close {
                break;
            }
        }
        Ok(Ended::Closed)
    }

    /// The next line without its line end; `None` when no more will come.
    async fn line(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(end) = memchr(b'\n', &self.input) {
                let line = self.input.split_to(end + 1).freeze();
                let text = line.trim_ascii_end().len();
                return Ok(Some(line.slice(..text)));
            }
            if self.input.len() > Limits::COMMAND_LINE {
                self.close(session::LINE_TOO_LONG).await?;
                return Ok(None);
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads a message, and answers it as its recipients' fates have it.
    async fn receive(&mut self, envelope: Envelope) -> io::Result<Flow> {
        let (mut decoder, mut raw) = (Decoder::new(self.house.face.texts().message_size), Vec::new());
        let mut may_drop = has(&envelope, Fate::DropBeforeDot);
        loop {
            let fed = decoder.feed(&self.input, &mut raw);
            let ended = fed != Fed::All;
            if may_drop && (ended || memmem::find(&raw, b"\r\n\r\n").is_some()) {
                may_drop = false;
                if self.house.is_first(&envelope, &raw, Fate::DropBeforeDot) {
                    self.flush().await?;
                    return Ok(Flow::Close);
                }
            }
            match fed {
                Fed::End(used) => {
                    self.input.advance(used);
                    break;
                }
                Fed::All => self.input.clear(),
            }
            if !self.fill().await? {
                return Ok(Flow::Close);
            }
        }
        if decoder.overflowed() {
            self.say(self.house.face.texts().too_large);
            return Ok(Flow::On);
        }
        self.take(envelope, raw).await
    }

    async fn take(&mut self, envelope: Envelope, raw: Vec<u8>) -> io::Result<Flow> {
        let slow = has(&envelope, Fate::Slow);
        let drop_at_dot = self.house.is_first(&envelope, &raw, Fate::DropAtDot);
        let Some(id) = self.house.take(envelope, raw.into(), Origin::Smtp(self.peer)) else {
            self.say(session::BUSY);
            return Ok(Flow::On);
        };
        // What was said to earlier commands is not taken back.
        if drop_at_dot {
            self.flush().await?;
            return Ok(Flow::Close);
        }
        if slow {
            self.flush().await?;
            self.house.pace.wait(SLOW).await;
        }
        self.say(&self.house.face.texts().taken.replace("{}", id.as_str()));
        Ok(Flow::On)
    }

    fn say(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn close(&mut self, text: &str) -> io::Result<Flow> {
        self.say(text);
        self.flush().await?;
        timeout(IDLE, self.stream.shutdown()).await??;
        // A socket closed over unread bytes is reset, and the client may never see what was said last.
        self.input.clear();
        let drain = async {
            while self.stream.read_buf(&mut self.input).await.is_ok_and(|read| read > 0) {
                self.input.clear();
            }
        };
        timeout(LINGER, drain).await.ok();
        Ok(Flow::Close)
    }

    /// Writes what is to be said, then reads more; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        self.flush().await?;
        self.input.reserve(READ);
        Ok(timeout(IDLE, self.stream.read_buf(&mut self.input)).await?? > 0)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            timeout(IDLE, self.stream.write_all(&self.output)).await??;
            timeout(IDLE, self.stream.flush()).await??;
            self.output.clear();
        }
        Ok(())
    }
}

fn has(envelope: &Envelope, fate: Fate) -> bool {
    envelope.recipients.iter().any(|recipient| Fate::of(recipient) == fate)
}

/// Sessions at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 256;
/// Longest pause of a client.
const IDLE: Duration = Duration::from_secs(600);
/// Longest wait for a client to close its side.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes asked for in one read.
const READ: usize = 16 << 10;
/// Mailgun's seconds that the reply to a slow message takes.
pub(crate) const SLOW: u32 = 30;
