//! Settings and shared services of the sessions of a listener.

use crate::submission::authenticator::Authenticator;
use crate::submission::client_stream::ClientStream;
use crate::submission::connection_limiter::ConnectionLimiter;
use crate::submission::deduplicator::Deduplicator;
use crate::submission::quota::UserQuotas;
use crate::submission::rate_limit::RateLimiter;
use crate::submission::settings::{Listener, ListenerTls};
use crate::submission::spool::MemoryBudget;
use ipnet::IpNet;
use mailtrail_mail::{Clock, TrackingIdGenerator};
use mailtrail_net::tls::Server;
use mailtrail_net::{Refusal, RefusalLog, tls};
use mailtrail_smtp::{Account, Limits, SessionPolicy};
use mailtrail_store::Store;
use mailtrail_trail::Routing;
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::RecipientFilter;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// What all conversations of one listener share.
pub struct SubmissionService {
    /// Requirements of the listener.
    pub policy: Arc<SessionPolicy>,
    /// Limits of a session.
    pub limits: Limits,
    /// Settings of the listener.
    pub listener: Listener,
    /// Users and their passwords.
    pub authenticator: Arc<Authenticator>,
    /// For STARTTLS and implicit TLS.
    pub tls: Option<Arc<Server>>,
    /// How much may be sent.
    pub rate_limiter: Arc<RateLimiter>,
    /// Quotas of the users.
    pub quotas: Arc<UserQuotas>,
    /// Where mail is kept.
    pub store: Store,
    /// Clock of acceptance times.
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
    /// Log of refused clients.
    pub refusals: RefusalLog,
    /// Limits of open connections.
    pub connections: ConnectionLimiter,
    /// Set when we stop.
    pub stopping: CancellationToken,
}

impl SubmissionService {
    /// Accepts TLS and identifies the account of the client certificate.
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
    pub(super) fn log_failed_handshake(&self, peer: IpAddr, error: &io::Error) {
        let refusal = match tls::classify_failure(error) {
            // That port begins in clear.
            Refusal::ClearOnTlsPort if self.listener.tls != ListenerTls::Implicit => Refusal::TlsHandshake,
            refusal => refusal,
        };
        self.refusals.record_refusal(peer, refusal, error);
    }

    /// Waits for the beginning of TLS; false where none came. A health check connects and leaves; a client without TLS
    /// waits for a greeting.
    pub async fn wait_for_client_hello(&self, stream: &TcpStream, peer: IpAddr) -> io::Result<bool> {
        let begun = Instant::now();
        let peeked = timeout(TLS_HANDSHAKE_TIMEOUT, stream.peek(&mut [0])).await;
        let peeked = peeked.unwrap_or(Ok(0))?;
        if peeked == 0 && begun.elapsed() >= HEALTH_CHECK_TIMEOUT {
            self.refusals.record_refusal(peer, Refusal::TlsTimeout, &"");
        }
        Ok(peeked > 0)
    }
}

/// Whether one of the networks holds the address.
pub fn any_contains(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

/// Within which a health check leaves.
pub const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(3);

pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
