//! The connections that reports come over.

use crate::webhook::connection_limit::{HttpConnectionLimiter, HttpConnectionPermit};
use crate::webhook::peer::Peer;
use crate::webhook::router::router;
use crate::webhook::service::WebhookService;
use crate::webhook::settings::WebhookSettings;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mailtrail_mail::descriptors;
use mailtrail_net::tls::{Server, classify_failure};
use mailtrail_net::{Refusal, RefusalLog};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Protocols offered in TLS, by their ALPN names (RFC 7301).
pub const ALPN_PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// Serves `socket` until `quiet`, with TLS if there is a server for it. Requests in progress are completed. Connections
/// up to the limit may last as long as they like. Some more are accepted, answered with a rejection that their source
/// understands, and closed; the others wait in the kernel's backlog. For an address over its own limit, a few more are
/// rejected, and the others closed at once.
pub async fn serve(
    socket: TcpListener,
    inbox: WebhookService,
    settings: WebhookSettings,
    tls: Option<Arc<Server>>,
    quiet: CancellationToken,
) {
    let refusals = inbox.refusal_log.clone();
    let host =
        ConnectionHandler { router: router(inbox), tls, refusals: refusals.clone(), shutdown: quiet.clone() };
    let (places, spare) =
        (Arc::new(Semaphore::new(settings.connections)), Arc::new(Semaphore::new(OVERFLOW_CONNECTIONS)));
    let connections = Arc::new(HttpConnectionLimiter::new(settings));
    let conversations = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = quiet.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                descriptors::backoff_after_accept_error(&error).await;
                continue;
            }
        };
        let Some(seat) = connections.acquire(peer.ip()) else {
            refusals.record_refusal(peer.ip(), Refusal::TooManyHttpConnections, &"");
            continue;
        };
        let place = if seat.is_over_limit { None } else { places.clone().try_acquire_owned().ok() };
        let peer = Peer { address: peer.ip(), is_over_limit: place.is_none() };
        let place = match place {
            Some(place) => place,
            None => tokio::select! {
                biased;
                () = quiet.cancelled() => break,
                Ok(place) = spare.clone().acquire_owned() => place,
            },
        };
        conversations.spawn(host.clone().handle(stream, peer, (place, seat)));
    }
    // Closed at once, so that waiting clients see the end of the listener.
    drop(socket);
    conversations.close();
    conversations.wait().await;
}

/// State shared by the connections.
#[derive(Clone)]
struct ConnectionHandler {
    router: Router,
    tls: Option<Arc<Server>>,
    refusals: RefusalLog,
    shutdown: CancellationToken,
}

impl ConnectionHandler {
    async fn handle(
        self,
        stream: TcpStream,
        peer: Peer,
        _place: (OwnedSemaphorePermit, HttpConnectionPermit),
    ) {
        // No answer waits for the acknowledgement of the one before. A socket that refuses is closed already.
        let _ = stream.set_nodelay(true);
        let Some(first) = self.wait_for_first_byte(&stream, peer).await else { return };
        let ended = match &self.tls {
            None if first == TLS_HANDSHAKE_RECORD => {
                return self.refusals.record_refusal(peer.address, Refusal::TlsOnHttpPort, &"");
            }
            None => self.serve_http(stream, peer).await,
            Some(tls) => match self.accept_tls(tls, stream, peer).await {
                Some(secured) => self.serve_http(secured, peer).await,
                None => return,
            },
        };
        if let Err(error) = ended {
            if error.is_parse() {
                self.refusals.record_refusal(peer.address, Refusal::HttpFraming, &error);
            }
            tracing::debug!(peer = %peer.address, %error, "a connection of the webhook listener broke off");
        }
    }

    /// The first byte that comes; `None` where none does.
    async fn wait_for_first_byte(&self, stream: &TcpStream, peer: Peer) -> Option<u8> {
        let patience = match &self.tls {
            _ if peer.is_over_limit => OVERFLOW_TIMEOUT,
            Some(_) => TLS_HANDSHAKE_TIMEOUT,
            None => HEADER_TIMEOUT,
        };
        let mut first = [0];
        tokio::select! {
            peeked = timeout(patience, stream.peek(&mut first)) => {
                peeked.ok()?.ok().filter(|read| *read > 0).map(|_| first[0])
            }
            () = self.shutdown.cancelled() => None,
        }
    }

    /// Accepts a TLS connection. Returns `None` after a failure, which is logged, and on shutdown: no request has been
    /// received yet.
    async fn accept_tls(&self, tls: &Server, stream: TcpStream, peer: Peer) -> Option<TlsStream<TcpStream>> {
        let patience = if peer.is_over_limit { OVERFLOW_TIMEOUT } else { TLS_HANDSHAKE_TIMEOUT };
        let secured = tokio::select! {
            secured = timeout(patience, tls.acceptor().accept(stream)) => secured,
            () = self.shutdown.cancelled() => return None,
        };
        let failed = |error: &io::Error| match classify_failure(error) {
            Refusal::ClearOnTlsPort => Refusal::HttpOnTlsPort,
            Refusal::TlsTimeout => Refusal::HttpsTimeout,
            refusal => refusal,
        };
        let secured = secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        secured.inspect_err(|error| self.refusals.record_refusal(peer.address, failed(error), error)).ok()
    }

    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Peer,
    ) -> hyper::Result<()> {
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            self.router.clone().oneshot(request)
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(if peer.is_over_limit {
            OVERFLOW_TIMEOUT
        } else {
            HEADER_TIMEOUT
        });
        builder.max_buf_size(READ_BUFFER_BYTES).keep_alive(!peer.is_over_limit);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }
}

/// Connections above the limit that are still accepted, to be answered with a rejection.
pub const OVERFLOW_CONNECTIONS: usize = 64;
/// The first byte of TLS, a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
/// For the beginning of TLS.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the head of a request, and between two requests: longer than web servers keep connections to us (nginx: 60 s),
/// so that none of their requests meets a closing one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Timeout of header and idle connection above the limit.
const OVERFLOW_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a connection's buffer; a request's head may have no more, or as much again where it comes in one piece.
const READ_BUFFER_BYTES: usize = 16 << 10;
