//! The load: SMTP sessions that send messages as fast as the relay answers.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Who may log in, and with what.
pub const USER: (&str, &str) = ("bench@relay.test", "secret");
/// The relay's name, in its certificate too.
pub const RELAY_NAME: &str = "relay.test";

/// What is to be sent.
#[derive(Clone, Copy)]
pub struct Work {
    /// In all.
    pub messages: usize,
    /// Bytes of one, headers included.
    pub size: usize,
    /// At once.
    pub sessions: usize,
    /// STARTTLS, then AUTH PLAIN.
    pub secure: bool,
    /// Whether a session carries more than one message.
    pub kept: bool,
}

/// What came of it: every message was accepted.
pub struct Sent {
    /// From the first connect to the last 250.
    pub took: Duration,
    /// From a message's first byte to its 250, for each message.
    pub waits: Vec<Duration>,
}

/// Sends all messages; the first that is not accepted ends it.
pub async fn send(to: SocketAddr, tls: TlsConnector, work: Work) -> io::Result<Sent> {
    let (next, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut sessions = JoinSet::new();
    for _ in 0..work.sessions {
        sessions.spawn(send_some(to, tls.clone(), work, next.clone()));
    }
    let mut waits = Vec::with_capacity(work.messages);
    while let Some(some) = sessions.join_next().await {
        waits.extend(some??);
    }
    Ok(Sent { took: begun.elapsed(), waits })
}

/// Sends messages over one session; gives their tracking ids.
pub async fn ids(to: SocketAddr, tls: &TlsConnector, messages: usize) -> io::Result<Vec<String>> {
    let (mut session, filler) = (Session::open(to, tls, false).await?, filler(1024));
    let mut ids = Vec::with_capacity(messages);
    for number in 0..messages {
        let (_, reply) = session.send(number, &filler).await?;
        ids.extend(reply.split_whitespace().last().map(str::to_owned));
    }
    session.ask("QUIT", "221").await?;
    Ok(ids)
}

/// Opens sessions, one after the other, that say no more than hello.
pub async fn open(to: SocketAddr, tls: &TlsConnector, work: Work) -> io::Result<Vec<Session>> {
    let mut sessions = Vec::with_capacity(work.sessions);
    for _ in 0..work.sessions {
        sessions.push(Session::open(to, tls, work.secure).await?);
    }
    Ok(sessions)
}

/// One session after the other, until `next` has run out.
async fn send_some(
    to: SocketAddr,
    tls: TlsConnector,
    work: Work,
    next: Arc<AtomicUsize>,
) -> io::Result<Vec<Duration>> {
    let filler = filler(work.size);
    let (mut waits, mut open) = (Vec::new(), None);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= work.messages {
            break;
        }
        let mut session = match open.take() {
            Some(session) => session,
            None => Session::open(to, &tls, work.secure).await?,
        };
        waits.push(session.send(number, &filler).await?.0);
        if work.kept {
            open = Some(session);
        } else {
            session.ask("QUIT", "221").await?;
        }
    }
    if let Some(mut session) = open {
        session.ask("QUIT", "221").await?;
    }
    Ok(waits)
}

/// A session that is open.
pub struct Session {
    stream: BufReader<Box<dyn Stream>>,
}

impl Session {
    async fn open(to: SocketAddr, tls: &TlsConnector, secure: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::new(Box::new(Prompt(stream))) };
        session.hear("220").await?;
        session.ask("EHLO load.test", "250").await?;
        if secure {
            session.ask("STARTTLS", "220").await?;
            let name = RELAY_NAME.try_into().map_err(io::Error::other)?;
            let stream = tls.connect(name, session.stream.into_inner()).await?;
            session = Self { stream: BufReader::new(Box::new(stream)) };
            session.ask("EHLO load.test", "250").await?;
            let (name, password) = USER;
            let token = STANDARD.encode(format!("\0{name}\0{password}"));
            session.ask(&format!("AUTH PLAIN {token}"), "235").await?;
        }
        Ok(session)
    }

    /// One message, its envelope pipelined; gives how long its end took, and the reply.
    async fn send(&mut self, number: usize, filler: &str) -> io::Result<(Duration, String)> {
        self.ask(
            &format!("MAIL FROM:<app@example.com>\r\nRCPT TO:<user{number}@example.net>\r\nDATA"),
            "250",
        )
        .await?;
        self.hear("250").await?;
        self.hear("354").await?;
        let message = format!(
            "From: <app@example.com>\r\nTo: <user{number}@example.net>\r\nSubject: load\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number}@load.test>\r\n\r\n{filler}."
        );
        let begun = Instant::now();
        let reply = self.ask(&message, "250").await?;
        Ok((begun.elapsed(), reply))
    }

    async fn ask(&mut self, lines: &str, expected: &str) -> io::Result<String> {
        self.stream.write_all(format!("{lines}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.hear(expected).await
    }

    /// The last line of a reply.
    async fn hear(&mut self, expected: &str) -> io::Result<String> {
        let mut line = String::new();
        while line.is_empty() || line.as_bytes().get(3) == Some(&b'-') {
            line.clear();
            if tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if line.starts_with(expected) {
            return Ok(line);
        }
        Err(io::Error::other(format!("the relay said {:?}, not {expected}", line.trim_end())))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection that delays no acknowledgement: a relay that leaves Nagle's algorithm on, as Postfix does, would wait
/// 40 ms for it in every TLS session, and that would be our doing.
struct Prompt(TcpStream);

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The kernel takes it back by itself. A closed socket refuses it; then reading says so.
        let _ = self.0.set_quickack(true);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Body lines, of which every eighth begins with a (doubled) dot.
fn filler(size: usize) -> String {
    let line = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +-=/ 42.\r\n";
    let lines = size.saturating_sub(HEADERS).div_ceil(line.len());
    (0..lines).map(|number| if number % 8 == 7 { format!("..{}", &line[2..]) } else { line.into() }).collect()
}

/// Bytes of the headers, about.
const HEADERS: usize = 150;
/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(30);
