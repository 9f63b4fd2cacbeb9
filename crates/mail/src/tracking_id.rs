//! The tracking id of a send: what a client reads in our `250`, what goes out with the mail, what comes back
//! with every event.

use crate::clock::Timestamp;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use ulid::Ulid;

/// The identity of one send (one SMTP transaction): a ULID, 26 characters of Crockford base32, sortable by time,
/// never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackingId(Ulid);

impl TrackingId {
    /// Characters in the written form.
    pub const LENGTH: usize = ulid::ULID_LEN;

    /// A new id for a send accepted at `now`, distinguished from others of the same millisecond by 80 bits of
    /// `random`.
    pub fn new(now: Timestamp, random: u128) -> Self {
        Self(Ulid::from_parts(now.millis(), random))
    }

    /// The 16 bytes that sort as the written form does.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The inverse of [`TrackingId::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid::from_bytes(bytes))
    }

    /// When the send was accepted, to the millisecond.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.0.timestamp_ms())
    }

    /// The smallest and the largest id whose written form starts with `prefix`, or `None` where no id can.
    pub fn range_of_prefix(prefix: &str) -> Option<(Self, Self)> {
        if prefix.is_empty() || prefix.len() > Self::LENGTH {
            return None;
        }
        let pad = |with: &str| {
            let written = format!("{prefix}{}", with.repeat(Self::LENGTH - prefix.len()));
            written.parse().ok()
        };
        Some((pad("0")?, pad("Z")?))
    }
}

/// Makes ids that ascend, also within a millisecond and when the clock steps back a little.
#[derive(Debug, Default)]
pub struct Mint(Mutex<Option<Ulid>>);

impl Mint {
    /// The next id, for a send accepted at `now`; `random` as for [`TrackingId::new`].
    pub fn next(&self, now: Timestamp, random: u128) -> TrackingId {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Ulid::from_parts(now.millis(), random);
        let id = match *last {
            Some(last)
                if fresh <= last
                    && last.timestamp_ms() - now.millis().min(last.timestamp_ms()) <= SMALL_STEP =>
            {
                last.increment().unwrap_or(fresh)
            }
            _ => fresh,
        };
        *last = Some(id);
        TrackingId(id)
    }
}

impl fmt::Display for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

impl fmt::Debug for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no tracking id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tracking id is 26 characters of 0-9 and A-Z without I, L, O and U")]
pub struct NotATrackingId;

impl FromStr for TrackingId {
    type Err = NotATrackingId;

    fn from_str(text: &str) -> Result<Self, NotATrackingId> {
        if text.len() != Self::LENGTH || text.as_bytes()[0].to_ascii_uppercase() > b'7' {
            return Err(NotATrackingId);
        }
        Ulid::from_string(text).map(Self).map_err(|_| NotATrackingId)
    }
}

/// Milliseconds that a clock is set back without ids following it: a send is due at its id's time.
const SMALL_STEP: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_form_round_trips_and_sorts_by_time() {
        let early = TrackingId::new(Timestamp::from_millis(1_789_387_199_000), u128::MAX);
        let late = TrackingId::new(Timestamp::from_millis(1_789_387_199_001), 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
        assert_eq!(TrackingId::from_bytes(late.to_bytes()), late);
        assert_eq!(late.timestamp().millis(), 1_789_387_199_001);
    }

    #[test]
    fn minted_ids_ascend_whatever_the_clock_does() {
        let (mint, mut random) = (Mint::default(), fastrand::Rng::with_seed(3));
        let times = [5, 5, 5, 6, 4, 7, 7, 1];
        let ids = times.map(|millis| mint.next(Timestamp::from_millis(millis), random.u128(..)));
        assert!(ids.is_sorted() && ids[5].timestamp().millis() == 7, "{ids:?}");
        let late = mint.next(Timestamp::from_seconds(3600), 0);
        let corrected = mint.next(Timestamp::from_seconds(60), 0);
        assert!(late > corrected && corrected.timestamp() == Timestamp::from_seconds(60));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "01K54Z8Q3V7N5X9B2C6D8F0GH",
            "01K54Z8Q3V7N5X9B2C6D8F0GHJJ",
            "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "é",
        ] {
            assert_eq!(text.parse::<TrackingId>(), Err(NotATrackingId), "{text}");
        }
    }

    #[test]
    fn a_prefix_spans_its_ids() {
        let id: TrackingId = "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap();
        let (low, high) = TrackingId::range_of_prefix("01K54Z8Q").unwrap();
        assert!(low <= id && id <= high);
        assert!(TrackingId::range_of_prefix("sale.order").is_none());
    }
}
