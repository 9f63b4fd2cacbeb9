//! The sockets that clients connect to.

use crate::submission::connection::{Connection, SessionEnd, count_rejection};
use crate::submission::proxy_protocol;
use crate::submission::service::{SubmissionService, TLS_HANDSHAKE_TIMEOUT, any_contains};
use crate::submission::settings::{Listener, ListenerTls};
use mailtrail_mail::descriptors;
use mailtrail_net::Refusal;
use mailtrail_smtp::{Reply, Session};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A bound socket and its service.
pub struct BoundListener {
    /// Listening socket.
    pub socket: TcpListener,
    /// Service for its clients.
    pub service: SubmissionService,
    /// Whether the socket outlives this process, so that waiting clients reach the successor.
    pub inherited: bool,
}

impl BoundListener {
    /// Accepts connections until `shut`; sessions continue. During shutdown, new clients get 421. Without a free file
    /// descriptor, clients wait for up to `SHORTAGE_PATIENCE`.
    pub async fn serve(self, shut: CancellationToken) {
        let Self { socket, service, inherited } = self;
        let front = Arc::new(service);
        // Time since which no connection can be accepted for lack of a descriptor.
        let mut short_since = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shut.cancelled() => return,
                () = front.stopping.cancelled(), if inherited => return,
                accepted = socket.accept() => accepted,
            };
            if accepted.is_ok() {
                short_since = None;
            }
            match accepted {
                Ok((stream, _)) if front.stopping.is_cancelled() => {
                    front.connections.spawn_session(reject_client(stream, Reply::ShuttingDown));
                }
                Ok((stream, peer)) => {
                    front.connections.spawn_session(accept_client(stream, peer, front.clone()))
                }
                Err(error) => {
                    let is_long = descriptors::is_descriptor_shortage(&error)
                        && short_since.get_or_insert_with(Instant::now).elapsed() >= SHORTAGE_PATIENCE;
                    let refuse = |stream| reject_client(stream, Reply::Unavailable);
                    if !(is_long && descriptors::refuse_one(&socket, refuse).await) {
                        descriptors::backoff_after_accept_error(&error).await;
                    }
                }
            }
        }
    }
}

/// Answers every client with 421, until it is dropped.
pub async fn refuse_clients(socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => reject_client(stream, Reply::Unavailable).await,
            Err(error) => descriptors::backoff_after_accept_error(&error).await,
        }
    }
}

/// Lets a client in, if it may and there is room.
async fn accept_client(mut stream: TcpStream, peer: SocketAddr, front: Arc<SubmissionService>) {
    let peer = match client_address(&mut stream, peer, &front.listener).await {
        Ok(client) => client,
        Err(error) => {
            return front.refusals.record_refusal(peer.ip(), Refusal::ProxyHeader, &error);
        }
    };
    let ip = peer.ip().to_canonical();
    if !any_contains(&front.listener.allow, ip) {
        front.refusals.record_refusal(ip, Refusal::Network, &"");
        return reject_client(stream, Reply::ClientNotAllowed).await;
    }
    let Some(_place) = front.connections.acquire(ip, &front.limits) else {
        front.refusals.record_refusal(ip, Refusal::TooManyConnections, &"");
        return reject_client(stream, Reply::TooManyConnections).await;
    };
    metrics::gauge!("mailtrail_smtp_sessions").increment(1);
    if let Err(error) = run_session(stream, peer, front).await {
        tracing::debug!(%peer, %error, "a conversation broke off");
    }
    metrics::gauge!("mailtrail_smtp_sessions").decrement(1);
}

/// Returns the client's address: from the PROXY header of a trusted proxy, otherwise the peer's.
async fn client_address(
    stream: &mut TcpStream,
    peer: SocketAddr,
    listener: &Listener,
) -> io::Result<SocketAddr> {
    if !any_contains(&listener.proxy_protocol_from, peer.ip().to_canonical()) {
        return Ok(peer);
    }
    let client = timeout(TLS_HANDSHAKE_TIMEOUT, proxy_protocol::read_client_address(stream)).await;
    Ok(client.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.unwrap_or(peer))
}

async fn run_session(
    stream: TcpStream,
    peer: SocketAddr,
    front: Arc<SubmissionService>,
) -> io::Result<SessionEnd> {
    stream.set_nodelay(true)?;
    let trusted = any_contains(&front.listener.xclient_from, peer.ip().to_canonical());
    let mut session = Session::new(front.policy.clone(), false, trusted);
    if front.listener.tls != ListenerTls::Implicit {
        return Connection::new(Box::new(stream), peer, front, session).run().await;
    }
    let ip = peer.ip().to_canonical();
    if !front.wait_for_client_hello(&stream, ip).await? {
        return Ok(SessionEnd::ByClient);
    }
    let (stream, certified) = front.accept_tls(stream, ip).await?;
    session.on_tls();
    certified.into_iter().for_each(|account| session.on_client_certificate(account));
    Connection::new(stream, peer, front, session).run().await
}

async fn reject_client(mut stream: TcpStream, reply: Reply) {
    count_rejection(&reply);
    let mut words = Vec::new();
    reply.write_to(&mut words);
    // The client may not be reading.
    let _ = timeout(REJECT_WRITE_TIMEOUT, stream.write_all(&words)).await;
}

/// Time that clients wait for a descriptor before they are rejected. Odoo fails a rejected message permanently, and
/// times out after a minute. Idle connections of the HTTP listeners, which may hold the descriptors, end after 30 s.
const SHORTAGE_PATIENCE: Duration = Duration::from_secs(45);
const REJECT_WRITE_TIMEOUT: Duration = Duration::from_millis(200);
