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
pub const LOGIN: (&str, &str) = ("bench@relay.test", "secret");
/// The relay's name, in its certificate too.
pub const RELAY_NAME: &str = "relay.test";

/// What is to be sent.
#[derive(Clone, Copy)]
pub struct Workload {
    /// In all.
    pub messages: usize,
    /// Bytes of one, headers included.
    pub size: usize,
    /// At once.
    pub sessions: usize,
    /// STARTTLS, then AUTH PLAIN.
    pub use_tls: bool,
    /// Whether a session carries more than one message.
    pub keep_sessions: bool,
}

/// What came of it: every message was accepted.
pub struct LoadResult {
    /// From the first connect to the last 250.
    pub duration: Duration,
    /// From a message's first byte to its 250, for each message.
    pub latencies: Vec<Duration>,
}

/// Sends all messages; the first that is not accepted ends it.
pub async fn run_workload(to: SocketAddr, tls: TlsConnector, work: Workload) -> io::Result<LoadResult> {
    let (next, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut sessions = JoinSet::new();
    for _ in 0..work.sessions {
        sessions.spawn(run_session(to, tls.clone(), work, next.clone()));
    }
    let mut latencies = Vec::with_capacity(work.messages);
    while let Some(some) = sessions.join_next().await {
        latencies.extend(some??);
    }
    Ok(LoadResult { duration: begun.elapsed(), latencies })
}

/// Sends messages over one session; gives their tracking ids.
pub async fn send_for_ids(to: SocketAddr, tls: &TlsConnector, messages: usize) -> io::Result<Vec<String>> {
    let (mut session, filler) = (SmtpSession::open(to, tls, false).await?, body_text(1024));
    let mut ids = Vec::with_capacity(messages);
    for number in 0..messages {
        let (_, reply) = session.send_message(number, &filler).await?;
        ids.extend(reply.split_whitespace().last().map(str::to_owned));
    }
    session.exchange("QUIT", "221").await?;
    Ok(ids)
}

/// Opens sessions, one after the other, that say no more than hello.
pub async fn open_sessions(
    to: SocketAddr,
    tls: &TlsConnector,
    work: Workload,
) -> io::Result<Vec<SmtpSession>> {
    let mut sessions = Vec::with_capacity(work.sessions);
    for _ in 0..work.sessions {
        sessions.push(SmtpSession::open(to, tls, work.use_tls).await?);
    }
    Ok(sessions)
}

/// One session after the other, until `next` has run out.
async fn run_session(
    to: SocketAddr,
    tls: TlsConnector,
    work: Workload,
    next: Arc<AtomicUsize>,
) -> io::Result<Vec<Duration>> {
    let filler = body_text(work.size);
    let (mut waits, mut open) = (Vec::new(), None);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= work.messages {
            break;
        }
        let mut session = match open.take() {
            Some(session) => session,
            None => SmtpSession::open(to, &tls, work.use_tls).await?,
        };
        waits.push(session.send_message(number, &filler).await?.0);
        if work.keep_sessions {
            open = Some(session);
        } else {
            session.exchange("QUIT", "221").await?;
        }
    }
    if let Some(mut session) = open {
        session.exchange("QUIT", "221").await?;
    }
    Ok(waits)
}

/// A session that is open.
pub struct SmtpSession {
    stream: BufReader<Box<dyn SmtpStream>>,
}

impl SmtpSession {
    async fn open(to: SocketAddr, tls: &TlsConnector, secure: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::new(Box::new(QuickAckStream(stream))) };
        session.read_reply("220").await?;
        session.exchange("EHLO load.test", "250").await?;
        if secure {
            session.exchange("STARTTLS", "220").await?;
            let name = RELAY_NAME.try_into().map_err(io::Error::other)?;
            let stream = tls.connect(name, session.stream.into_inner()).await?;
            session = Self { stream: BufReader::new(Box::new(stream)) };
            session.exchange("EHLO load.test", "250").await?;
            let (name, password) = LOGIN;
            let token = STANDARD.encode(format!("\0{name}\0{password}"));
            session.exchange(&format!("AUTH PLAIN {token}"), "235").await?;
        }
        Ok(session)
    }

    /// One message, its envelope pipelined; gives how long its end took, and the reply.
    async fn send_message(&mut self, number: usize, filler: &str) -> io::Result<(Duration, String)> {
        self.exchange(
            &format!("MAIL FROM:<app@example.com>\r\nRCPT TO:<user{number}@example.net>\r\nDATA"),
            "250",
        )
        .await?;
        self.read_reply("250").await?;
        self.read_reply("354").await?;
        let message = format!(
            "From: <app@example.com>\r\nTo: <user{number}@example.net>\r\nSubject: load\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number}@load.test>\r\n\r\n{filler}."
        );
        let begun = Instant::now();
        let reply = self.exchange(&message, "250").await?;
        Ok((begun.elapsed(), reply))
    }

    async fn exchange(&mut self, lines: &str, expected: &str) -> io::Result<String> {
        self.stream.write_all(format!("{lines}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.read_reply(expected).await
    }

    /// The last line of a reply.
    async fn read_reply(&mut self, expected: &str) -> io::Result<String> {
        let mut line = String::new();
        while line.is_empty() || line.as_bytes().get(3) == Some(&b'-') {
            line.clear();
            if tokio::time::timeout(REPLY_TIMEOUT, self.stream.read_line(&mut line)).await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if line.starts_with(expected) {
            return Ok(line);
        }
        Err(io::Error::other(format!("the relay said {:?}, not {expected}", line.trim_end())))
    }
}

trait SmtpStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> SmtpStream for T {}

/// A connection that delays no acknowledgement: a relay that leaves Nagle's algorithm on, as Postfix does, would wait
/// 40 ms for it in every TLS session, and that would be our doing.
struct QuickAckStream(TcpStream);

impl AsyncRead for QuickAckStream {
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

impl AsyncWrite for QuickAckStream {
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
fn body_text(size: usize) -> String {
    let line = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +-=/ 42.\r\n";
    let lines = size.saturating_sub(HEADER_BYTES).div_ceil(line.len());
    (0..lines).map(|number| if number % 8 == 7 { format!("..{}", &line[2..]) } else { line.into() }).collect()
}

/// Bytes of the headers, about.
const HEADER_BYTES: usize = 150;
/// Longest wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
