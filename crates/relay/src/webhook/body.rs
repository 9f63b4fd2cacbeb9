//! Bodies, read within bounds of size, time and memory.

use crate::webhook::outcome::RequestOutcome;
use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::timeout;

/// Memory budget shared by all request bodies in progress.
#[derive(Debug)]
pub struct BodyBudget(Semaphore);

/// A whole body, and the memory it takes.
pub struct BufferedBody<'a> {
    /// Bytes of the complete body.
    pub bytes: Bytes,
    _permit: Option<SemaphorePermit<'a>>,
}

/// Error that prevents reading a body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than may be.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The bodies in progress use the whole budget.
    #[error("the bodies under way take {} MiB already", MAX_BUFFERED_BYTES >> 20)]
    OverBudget,
    /// It did not come to its end in time.
    #[error("the body did not come within {} s", BODY_TIMEOUT.as_secs())]
    TimedOut,
    /// The connection broke, or was not HTTP any more.
    #[error("the body broke off, or its framing is no HTTP: {0}")]
    Interrupted(#[from] axum::Error),
    /// Body with a content coding, such as gzip.
    #[error("the body has a content coding; have the sender, or what is on the way, send it as it is")]
    UnsupportedEncoding,
}

impl BodyError {
    /// Returns the outcome to answer with.
    pub fn outcome(&self) -> RequestOutcome {
        match self {
            Self::TooLarge(_) => RequestOutcome::TooLarge,
            Self::Interrupted(_) => RequestOutcome::Malformed,
            Self::UnsupportedEncoding => RequestOutcome::UnsupportedEncoding,
            Self::OverBudget | Self::TimedOut => RequestOutcome::Unavailable,
        }
    }
}

/// Whether a body is in a content coding (RFC 9110 section 8.4).
pub fn has_content_coding(headers: &HeaderMap) -> bool {
    let codings = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    codings
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self(Semaphore::new(MAX_BUFFERED_BYTES))
    }
}

impl BodyBudget {
    /// Reads a body of at most `largest` bytes. Only received bytes use the budget, so an announced body that does not
    /// arrive blocks nothing.
    pub async fn read_body(&self, body: Body, largest: usize) -> Result<BufferedBody<'_>, BodyError> {
        if body.size_hint().lower() > largest as u64 {
            return Err(BodyError::TooLarge(largest));
        }
        timeout(BODY_TIMEOUT, self.read_all(body, largest)).await.map_err(|_| BodyError::TimedOut)?
    }

    async fn read_all(&self, mut body: Body, largest: usize) -> Result<BufferedBody<'_>, BodyError> {
        let mut bytes = Vec::new();
        let mut room: Option<SemaphorePermit<'_>> = None;
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame?.into_data() else { continue };
            if bytes.len() + piece.len() > largest {
                return Err(BodyError::TooLarge(largest));
            }
            let more = self.acquire(piece.len())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            // Copied, because the piece would keep the connection's buffer alive.
            bytes.extend_from_slice(&piece);
        }
        // Neither a form nor JSON begins so.
        if bytes.starts_with(GZIP_MAGIC) {
            return Err(BodyError::UnsupportedEncoding);
        }
        Ok(BufferedBody { bytes: bytes.into(), _permit: room })
    }

    fn acquire(&self, bytes: usize) -> Result<SemaphorePermit<'_>, BodyError> {
        let bytes = u32::try_from(bytes).map_err(|_| BodyError::OverBudget)?;
        self.0.try_acquire_many(bytes).map_err(|error| match error {
            TryAcquireError::NoPermits | TryAcquireError::Closed => BodyError::OverBudget,
        })
    }
}

/// First bytes of gzip (RFC 1952 section 2.3.1), which some senders do not declare.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// Budget in bytes for all bodies in progress, from the first byte to the answer.
const MAX_BUFFERED_BYTES: usize = 32 << 20;
/// For a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    fn body_of_pieces(sizes: &[usize]) -> Body {
        let pieces: Vec<_> = sizes.iter().map(|size| Ok::<_, Infallible>(vec![b'x'; *size])).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn body_holds_budget_until_dropped() {
        let room = BodyBudget::default();
        let large = 3 << 20;
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(room.read_body(body_of_pieces(&[large / 3; 3]), large).await.unwrap());
        }
        assert_eq!(held[0].bytes.len(), large);
        assert!(matches!(
            room.read_body(body_of_pieces(&[1 << 20, large - (1 << 20)]), large).await,
            Err(BodyError::OverBudget)
        ));
        // What was taken of it came back.
        assert_eq!(room.read_body(body_of_pieces(&[2 << 20]), large).await.unwrap().bytes.len(), 2 << 20);
        held.pop();
        assert!(room.read_body(body_of_pieces(&[large]), large).await.is_ok());
    }

    #[test]
    fn detects_content_codings_in_any_form() {
        for (values, coded) in [
            (&[][..], false),
            (&[""], false),
            (&["identity"], false),
            (&["Identity , "], false),
            (&["gzip"], true),
            (&["identity, br"], true),
            (&["identity", "zstd"], true),
            (&["x-unknown"], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            assert_eq!(has_content_coding(&headers), coded, "{values:?}");
        }
    }

    #[tokio::test]
    async fn rejects_body_over_limit() {
        let room = BodyBudget::default();
        for (sizes, fine) in [(&[][..], true), (&[0, 10], true), (&[10, 1], false), (&[11], false)] {
            let read = room.read_body(body_of_pieces(sizes), 10).await;
            assert_eq!(read.is_ok(), fine, "{sizes:?}");
            assert!(matches!(read, Ok(_) | Err(BodyError::TooLarge(10))));
        }
        assert!(matches!(room.read_body(Body::from("x".repeat(11)), 10).await, Err(BodyError::TooLarge(10))));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_times_out() {
        let never = Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
        assert!(matches!(BodyBudget::default().read_body(never, 10).await, Err(BodyError::TimedOut)));
    }
}
