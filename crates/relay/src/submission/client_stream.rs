//! Stream of a client, with or without TLS.

use tokio::io::{AsyncRead, AsyncWrite};

/// A client's stream, in clear or within TLS.
pub trait ClientStream: AsyncRead + AsyncWrite + Send + Unpin {}
