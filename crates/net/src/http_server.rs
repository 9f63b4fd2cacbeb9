//! HTTP server on a listener, with a maximum number of connections and a timeout for the first request. Further
//! connections wait in the kernel's backlog.

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mailtrail_mail::descriptors;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// What connections are taken from.
pub trait HttpListener: Send + 'static {
    /// Accepted stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Information about the peer.
    type Peer: Send;

    /// Accepts the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl HttpListener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.accept().await?;
        // No answer waits for the acknowledgement of the one before. A socket that refuses is closed already.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }
}

impl HttpListener for UnixListener {
    type Stream = UnixStream;
    type Peer = Option<UCred>;

    async fn accept(&self) -> io::Result<(UnixStream, Option<UCred>)> {
        let (stream, _) = self.accept().await?;
        let peer = stream.peer_cred().ok();
        Ok((stream, peer))
    }
}

/// Serves `listener` until `quiet`; requests in progress are completed. Each request carries the result of `introduce`
/// for its peer.
pub async fn serve<L: HttpListener, I: Clone + Send + Sync + 'static>(
    listener: L,
    most: usize,
    router: Router,
    introduce: impl Fn(L::Peer) -> I + Send,
    quiet: CancellationToken,
) {
    let (places, connections) = (Arc::new(Semaphore::new(most)), TaskTracker::new());
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let Some((place, accepted)) = quiet.run_until_cancelled(next).await else { break };
        match accepted {
            Ok((stream, peer)) => {
                let answering = serve_connection(stream, router.clone(), introduce(peer), quiet.clone());
                connections.spawn(async move {
                    let _place = place;
                    answering.await;
                });
            }
            Err(error) => descriptors::backoff_after_accept_error(&error).await,
        }
    }
    // Closed at once, so that waiting clients see the end of the listener.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection<I: Clone + Send + Sync + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    introduction: I,
    quiet: CancellationToken,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(introduction.clone());
        router.clone().oneshot(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = quiet.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke off");
    }
}

/// For the head of a request, and between two requests.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a connection's buffer, which a request's head must fit into.
const MAX_HEADER_BYTES: usize = 64 << 10;
