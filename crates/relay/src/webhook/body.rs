//! Bodies, read within bounds of size, time and memory.

use crate::webhook::outcome::Answer;
use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::timeout;

/// The memory that all bodies under way share.
#[derive(Debug)]
pub struct Room(Semaphore);

/// A whole body, and the memory it takes.
pub struct Held<'a> {
    /// The body.
    pub bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is larger than may be.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The bodies under way take all the memory that there is for them.
    #[error("the bodies under way take {} MiB already", MEMORY >> 20)]
    NoRoom,
    /// It did not come to its end in time.
    #[error("the body did not come within {} s", TIME.as_secs())]
    TooSlow,
    /// The connection broke, or was not HTTP any more.
    #[error("the body broke off, or its framing is no HTTP: {0}")]
    Broken(#[from] axum::Error),
    /// It is compressed.
    #[error("the body has a content coding; have the sender, or what is on the way, send it as it is")]
    Coded,
}

impl Unread {
    /// What is answered.
    pub fn answer(&self) -> Answer {
        match self {
            Self::TooLarge(_) => Answer::TooLarge,
            Self::Broken(_) => Answer::Malformed,
            Self::Coded => Answer::Coded,
            Self::NoRoom | Self::TooSlow => Answer::NotNow,
        }
    }
}

/// Whether a body is in a content coding (RFC 9110 section 8.4).
pub fn is_coded(headers: &HeaderMap) -> bool {
    let codings = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    codings
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

impl Default for Room {
    fn default() -> Self {
        Self(Semaphore::new(MEMORY))
    }
}

impl Room {
    /// Reads a body of at most `largest` bytes. Only what has come takes room: one that is announced and kept back holds
    /// nobody up.
    pub async fn read(&self, body: Body, largest: usize) -> Result<Held<'_>, Unread> {
        if body.size_hint().lower() > largest as u64 {
            return Err(Unread::TooLarge(largest));
        }
        timeout(TIME, self.gather(body, largest)).await.map_err(|_| Unread::TooSlow)?
    }

    async fn gather(&self, mut body: Body, largest: usize) -> Result<Held<'_>, Unread> {
        let mut bytes = Vec::new();
        let mut room: Option<SemaphorePermit<'_>> = None;
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame?.into_data() else { continue };
            if bytes.len() + piece.len() > largest {
                return Err(Unread::TooLarge(largest));
            }
            let more = self.take(piece.len())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            // A piece lies in the connection's buffer, which would stay with it.
            bytes.extend_from_slice(&piece);
        }
        // Neither a form nor JSON begins so.
        if bytes.starts_with(GZIP) {
            return Err(Unread::Coded);
        }
        Ok(Held { bytes: bytes.into(), _room: room })
    }

    fn take(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Unread> {
        let bytes = u32::try_from(bytes).map_err(|_| Unread::NoRoom)?;
        self.0.try_acquire_many(bytes).map_err(|error| match error {
            TryAcquireError::NoPermits | TryAcquireError::Closed => Unread::NoRoom,
        })
    }
}

/// What gzip begins with (RFC 1952 section 2.3.1), though no field says so.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Bytes of all bodies under way, from their first byte to their answer.
const MEMORY: usize = 32 << 20;
/// For a whole body.
const TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    fn pieces(sizes: &[usize]) -> Body {
        let pieces: Vec<_> = sizes.iter().map(|size| Ok::<_, Infallible>(vec![b'x'; *size])).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_takes_room_until_it_is_let_go() {
        let room = Room::default();
        let large = 3 << 20;
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(room.read(pieces(&[large / 3; 3]), large).await.unwrap());
        }
        assert_eq!(held[0].bytes.len(), large);
        assert!(matches!(room.read(pieces(&[1 << 20, large - (1 << 20)]), large).await, Err(Unread::NoRoom)));
        // What was taken of it came back.
        assert_eq!(room.read(pieces(&[2 << 20]), large).await.unwrap().bytes.len(), 2 << 20);
        held.pop();
        assert!(room.read(pieces(&[large]), large).await.is_ok());
    }

    #[test]
    fn codings_are_seen_however_they_are_written() {
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
            assert_eq!(is_coded(&headers), coded, "{values:?}");
        }
    }

    #[tokio::test]
    async fn a_body_has_an_end() {
        let room = Room::default();
        for (sizes, fine) in [(&[][..], true), (&[0, 10], true), (&[10, 1], false), (&[11], false)] {
            let read = room.read(pieces(sizes), 10).await;
            assert_eq!(read.is_ok(), fine, "{sizes:?}");
            assert!(matches!(read, Ok(_) | Err(Unread::TooLarge(10))));
        }
        assert!(matches!(room.read(Body::from("x".repeat(11)), 10).await, Err(Unread::TooLarge(10))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_waited_for_no_longer() {
        let never = Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
        assert!(matches!(Room::default().read(never, 10).await, Err(Unread::TooSlow)));
    }
}
