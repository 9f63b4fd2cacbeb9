//! The bytes' way to an upstream: TCP, TLS, and an end to every wait.

use crate::transport::error::TransportError;
use crate::transport::settings::{Security, Settings};
use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_send_buffer_size, set_tcp_keepidle, set_tcp_keepintvl,
    set_tcp_user_timeout,
};
use rustls::pki_types::ServerName;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Stream of a connection.
pub trait TransportStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> TransportStream for T {}

/// Prepares a connection, with TLS where it comes first.
pub async fn establish(
    stream: TcpStream,
    settings: &Settings,
    tls: &TlsConnector,
) -> Result<Box<dyn TransportStream>, TransportError> {
    set_socket_options(&stream)?;
    Ok(match settings.security {
        Security::Implicit => Box::new(upgrade_tls(stream, settings, tls).await?),
        Security::StartTls | Security::None => Box::new(stream),
    })
}

/// Starts TLS; the certificate must be issued for the upstream's host name.
pub async fn upgrade_tls<S: TransportStream>(
    stream: S,
    settings: &Settings,
    tls: &TlsConnector,
) -> Result<TlsStream<S>, TransportError> {
    let name = ServerName::try_from(settings.host.clone())
        .map_err(|_| TransportError::InvalidHostName(settings.host.clone()))?;
    with_timeout(settings.timeouts.connect, "the TLS handshake", async {
        Ok(tls.connect(name, stream).await?)
    })
    .await
}

/// The work's result, or that it took too long.
pub async fn with_timeout<T>(
    limit: Duration,
    operation: &'static str,
    work: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    timeout(limit, work).await.unwrap_or(Err(TransportError::Timeout { operation, limit }))
}

fn set_socket_options(stream: &TcpStream) -> io::Result<()> {
    // Without it each message waits 40 ms for the peer's delayed acknowledgement.
    stream.set_nodelay(true)?;
    // Buffered data has not been sent: on a slow link megabytes would use up the timeout of the last reply.
    set_socket_send_buffer_size(stream, SEND_BUFFER_BYTES)?;
    // A path that swallows everything is noticed while the connection rests, and not by the next message.
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_user_timeout(stream, TCP_USER_TIMEOUT_MS)?;
    Ok(())
}

/// Bytes; enough for megabytes a second over 100 ms.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// TCP keep-alive idle time and probe interval.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Time in milliseconds that probes or data may stay unacknowledged. It also applies to a peer that is alive but does
/// not read, so it is not shorter than a slow peer may take.
const TCP_USER_TIMEOUT_MS: u32 = 180_000;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::{socket_keepalive, tcp_keepidle, tcp_user_timeout};

    #[tokio::test]
    async fn sets_keepalive_and_user_timeout() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_socket_options(&stream).unwrap();
        assert!(stream.nodelay().unwrap() && socket_keepalive(&stream).unwrap());
        assert_eq!(tcp_keepidle(&stream).unwrap(), Duration::from_secs(20));
        assert_eq!(tcp_user_timeout(&stream).unwrap(), 180_000);
    }
}
