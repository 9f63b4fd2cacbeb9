//! The connections that reports come over.

use super::{Inbox, router};
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address of the connection.
    pub address: IpAddr,
    /// Whether there are as many connections as may be: it is told to come again.
    pub is_one_too_many: bool,
}

/// Answers what comes over `socket` until it is to be `quiet`; requests under way are answered to their end. Of
/// `connections` at once each may go on as long as it likes. Some more are told to come again, each source in the way
/// that it understands, and closed; the rest waits in the kernel's queue.
pub async fn serve(socket: TcpListener, inbox: Inbox, connections: usize, quiet: CancellationToken) {
    let router = router(inbox);
    let (places, spare) = (Arc::new(Semaphore::new(connections)), Arc::new(Semaphore::new(SPARE)));
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
                tracing::error!(%error, "a connection cannot be taken");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let place = places.clone().try_acquire_owned().ok();
        let peer = Peer { address: peer.ip(), is_one_too_many: place.is_none() };
        let place = match place {
            Some(place) => place,
            None => tokio::select! {
                biased;
                () = quiet.cancelled() => break,
                Ok(place) = spare.clone().acquire_owned() => place,
            },
        };
        conversations.spawn(converse(stream, peer, router.clone(), quiet.clone(), place));
    }
    // Who waits there is not to wait for us.
    drop(socket);
    conversations.close();
    conversations.wait().await;
}

async fn converse(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    quiet: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    // No answer waits for the acknowledgement of the one before. A socket that refuses is closed already.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(if peer.is_one_too_many { SHORT } else { HEAD });
    builder.max_buf_size(BUFFER).keep_alive(!peer.is_one_too_many);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = quiet.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, %error, "a connection of the webhook listener broke off");
    }
}

/// Connections beyond those that may be, which are told so.
const SPARE: usize = 64;
/// For the head of a request, and between two requests: longer than web servers keep connections to us (nginx: 60 s),
/// so that none of their requests meets a closing one.
const HEAD: Duration = Duration::from_secs(75);
/// The same for those that are told to come again.
const SHORT: Duration = Duration::from_secs(5);
/// Bytes of a connection's buffer; a request's head may have no more, or as much again where it comes in one piece.
const BUFFER: usize = 16 << 10;
const AFTER_ERROR: Duration = Duration::from_millis(200);
