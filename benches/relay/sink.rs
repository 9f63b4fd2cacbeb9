//! The upstream: accepts every message at once and forgets it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An SMTP server on loopback; dropping it ends it.
pub struct BenchSink {
    /// Where it listens.
    pub address: SocketAddr,
    received: watch::Receiver<ReceivedCount>,
    _serving: JoinSet<()>,
}

/// Messages that had their 250.
#[derive(Clone, Copy)]
pub struct ReceivedCount {
    /// How many.
    pub messages: usize,
    /// When the last was taken.
    pub last_received_at: Instant,
}

impl BenchSink {
    /// A sink on a free port.
    pub async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (sender, received) =
            watch::channel(ReceivedCount { messages: 0, last_received_at: Instant::now() });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                sessions.spawn(async move { serve_session(stream, &sender).await });
                while sessions.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, received, _serving: serving })
    }

    /// Waits until so many messages were taken since it was opened.
    pub async fn wait_for_count(&mut self, messages: usize, patience: Duration) -> io::Result<ReceivedCount> {
        let enough = self.received.wait_for(|taken| taken.messages >= messages);
        if let Ok(reached) = tokio::time::timeout(patience, enough).await {
            return reached.map(|taken| *taken).map_err(io::Error::other);
        }
        let taken = self.received().messages;
        Err(io::Error::other(format!("{taken} of {messages} messages were relayed in {patience:?}")))
    }

    /// What was taken so far.
    pub fn received(&self) -> ReceivedCount {
        *self.received.borrow()
    }
}

/// One session. Commands may come in a batch, also right behind a message; their replies leave together.
async fn serve_session(stream: TcpStream, taken: &watch::Sender<ReceivedCount>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    let (mut line, mut replies) = (Vec::new(), b"220 sink.test ESMTP\r\n".to_vec());
    let mut in_message = false;
    loop {
        if stream.buffer().is_empty() && !replies.is_empty() {
            stream.write_all(&replies).await?;
            replies.clear();
        }
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let ends = in_message && line == b".\r\n";
        if ends {
            taken.send_modify(|taken| {
                *taken = ReceivedCount { messages: taken.messages + 1, last_received_at: Instant::now() }
            });
        }
        if !in_message || ends {
            let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
            in_message = verb == b"DATA";
            replies.extend_from_slice(match verb.as_slice() {
                b"EHLO" => b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n",
                b"DATA" => b"354 go on\r\n",
                b"QUIT" => b"221 bye\r\n",
                _ => b"250 ok\r\n",
            });
        }
    }
}

const BUFFER_BYTES: usize = 64 * 1024;
