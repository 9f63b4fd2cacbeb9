//! The sockets that clients connect to.

use crate::submission::authenticator::Authenticator;
use crate::submission::connection::{ClientStream, Connection, SessionEnd, count_rejection};
use crate::submission::deduplicator::Deduplicator;
use crate::submission::proxy_protocol;
use crate::submission::quota::UserQuotas;
use crate::submission::rate_limit::RateLimiter;
use crate::submission::settings::{Listener, ListenerTls};
use crate::submission::spool::MemoryBudget;
use ipnet::IpNet;
use mailtrail_mail::{Clock, TrackingIdGenerator, descriptors};
use mailtrail_net::tls::Server;
use mailtrail_net::{Refusal, RefusalLog, tls};
use mailtrail_smtp::{Account, Limits, Reply, Session, SessionPolicy};
use mailtrail_store::Store;
use mailtrail_trail::Routing;
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::RecipientFilter;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all conversations of one listener share.
pub struct SubmissionService {
    /// What the listener asks.
    pub policy: Arc<SessionPolicy>,
    /// The bounds.
    pub limits: Limits,
    /// Where it is and whom it serves.
    pub listener: Listener,
    /// Who may log in.
    pub authenticator: Arc<Authenticator>,
    /// For STARTTLS and implicit TLS.
    pub tls: Option<Arc<Server>>,
    /// How much may be sent.
    pub rate_limiter: Arc<RateLimiter>,
    /// To how many.
    pub quotas: Arc<UserQuotas>,
    /// Where mail is kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where ids come from.
    pub id_generator: Arc<TrackingIdGenerator>,
    /// The providers that mail may go to.
    pub providers: Vec<Provider>,
    /// Which mail goes where.
    pub routing: Arc<Routing>,
    /// Which recipients are refused, if any are.
    pub recipient_filter: Option<Arc<RecipientFilter>>,
    /// Whether senders get reports.
    pub dsn_enabled: bool,
    /// The guard against duplicates, if there is one.
    pub deduplicator: Option<Arc<Deduplicator>>,
    /// For messages on their way in.
    pub memory_budget: MemoryBudget,
    /// What is said of clients that are refused.
    pub refusals: RefusalLog,
    /// Those who are here.
    pub connections: ConnectionLimiter,
    /// Set when we stop.
    pub stopping: CancellationToken,
}

impl SubmissionService {
    /// Speaks TLS with a client, and finds out whose certificate it has.
    pub async fn accept_tls<S: ClientStream + 'static>(
        &self,
        stream: S,
        peer: IpAddr,
    ) -> io::Result<(Box<dyn ClientStream>, Option<Arc<Account>>)> {
        let Some(tls) = &self.tls else { return Err(io::ErrorKind::Unsupported.into()) };
        let secured = timeout(TLS_HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await;
        let secured = secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let secured = secured.inspect_err(|error| self.log_failed_handshake(peer, error))?;
        let certificates = secured.get_ref().1.peer_certificates().unwrap_or_default();
        let certified =
            certificates.first().and_then(|own| self.authenticator.find_account_by_certificate(own));
        Ok((Box::new(secured), certified))
    }
}

impl SubmissionService {
    fn log_failed_handshake(&self, peer: IpAddr, error: &io::Error) {
        let refusal = match tls::classify_failure(error) {
            // That port begins in clear.
            Refusal::ClearOnTlsPort if self.listener.tls != ListenerTls::Implicit => Refusal::TlsHandshake,
            refusal => refusal,
        };
        self.refusals.record_refusal(peer, refusal, error);
    }

    /// Waits for the beginning of TLS; false where none came. A health check connects and leaves; a client without TLS
    /// waits for a greeting.
    async fn wait_for_client_hello(&self, stream: &TcpStream, peer: IpAddr) -> io::Result<bool> {
        let begun = Instant::now();
        let peeked = timeout(TLS_HANDSHAKE_TIMEOUT, stream.peek(&mut [0])).await;
        let peeked = peeked.unwrap_or(Ok(0))?;
        if peeked == 0 && begun.elapsed() >= HEALTH_CHECK_TIMEOUT {
            self.refusals.record_refusal(peer, Refusal::TlsTimeout, &"");
        }
        Ok(peeked > 0)
    }
}

/// The conversations of all listeners.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimiter {
    per_ip: Arc<Mutex<HashMap<IpAddr, usize>>>,
    sessions: TaskTracker,
    /// Those of them that began since [`Self::outlast`] was called last.
    recent_sessions: Arc<Mutex<TaskTracker>>,
    /// Set when we stop and no session may begin another message.
    pub(super) draining: CancellationToken,
}

/// A socket with what it serves.
pub struct BoundListener {
    /// Where clients connect.
    pub socket: TcpListener,
    /// What they find.
    pub service: SubmissionService,
    /// Whether the socket outlives this process: whoever waits there when we stop waits for the next one.
    pub inherited: bool,
}

impl BoundListener {
    /// Takes connections until `shut`; conversations go on. While we stop, whoever comes is told so; while there is no
    /// descriptor, clients wait for one up to `SHORTAGE_PATIENCE`.
    pub async fn serve(self, shut: CancellationToken) {
        let Self { socket, service, inherited } = self;
        let front = Arc::new(service);
        // Since when no connection could be taken for want of a descriptor.
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

/// Tells each client to come again, until it is dropped.
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

/// Where the client is: in front of a proxy, as that says.
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

/// Whether one of the networks holds the address.
pub fn any_contains(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

async fn reject_client(mut stream: TcpStream, reply: Reply) {
    count_rejection(&reply);
    let mut words = Vec::new();
    reply.write_to(&mut words);
    // It is told why, if it listens.
    let _ = timeout(REJECT_WRITE_TIMEOUT, stream.write_all(&words)).await;
}

impl ConnectionLimiter {
    fn spawn_session(&self, conversation: impl Future<Output = ()> + Send + 'static) {
        let latest = self.recent_sessions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.sessions.spawn(latest.track_future(conversation));
    }

    /// Waits until the sessions that are there now have ended by themselves, but no longer than `longest`. Others may
    /// begin meanwhile, which are not waited for.
    pub async fn wait_for_current(&self, longest: Duration) {
        let present =
            std::mem::take(&mut *self.recent_sessions.lock().unwrap_or_else(PoisonError::into_inner));
        present.close();
        // What is left then is for `leave`.
        let _ = timeout(longest, present.wait()).await;
    }

    /// Waits, when we stop, until all conversations have ended, but not for ever. Who is in the middle of a series may
    /// go on for a while, and afterwards end the message that it is within.
    pub async fn drain(&self) {
        self.sessions.close();
        if timeout(DRAIN_GRACE, self.sessions.wait()).await.is_err() {
            self.draining.cancel();
            let _ = timeout(DRAIN_TIMEOUT, self.sessions.wait()).await;
        }
    }

    fn acquire(&self, ip: IpAddr, limits: &Limits) -> Option<ConnectionPermit> {
        let mut connections = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = connections.values().sum();
        let here = connections.get(&ip).copied().unwrap_or_default();
        if all >= limits.max_connections || here >= limits.max_connections_per_ip {
            return None;
        }
        connections.insert(ip, here + 1);
        Some(ConnectionPermit { limiter: self.clone(), ip })
    }
}

/// Permit of one connection; released on drop.
struct ConnectionPermit {
    limiter: ConnectionLimiter,
    ip: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.limiter.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = connections.get_mut(&self.ip) {
            *here -= 1;
            if *here == 0 {
                connections.remove(&self.ip);
            }
        }
    }
}

/// Within which a health check leaves.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(3);
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long clients wait for a descriptor before they are refused. Odoo fails a refused mail for good, and gives up by
/// itself after a minute; idle connections of the HTTP listeners, which may have taken the descriptors, end after 30 s.
const SHORTAGE_PATIENCE: Duration = Duration::from_secs(45);
const REJECT_WRITE_TIMEOUT: Duration = Duration::from_millis(200);
/// For series that go on while we stop: to Odoo a session that ends in the middle is a mail that failed for good.
const DRAIN_GRACE: Duration = Duration::from_secs(20);
/// For the messages that sessions are within then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
