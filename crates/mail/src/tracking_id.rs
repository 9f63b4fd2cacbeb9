//! The tracking id of a message: part of the 250 reply, of the relayed message, and of every event about it.

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
    pub const ENCODED_LEN: usize = ulid::ULID_LEN;

    /// Creates the id of a message accepted at `now`; 80 bits of `random` distinguish it from others of the same
    /// millisecond.
    pub fn new(now: Timestamp, random: u128) -> Self {
        Self(Ulid::from_parts(now.as_millis(), random))
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

    /// Returns the smallest and the largest id with this prefix in text form; `None` if there is none.
    pub fn prefix_range(prefix: &str) -> Option<(Self, Self)> {
        if prefix.is_empty() || prefix.len() > Self::ENCODED_LEN {
            return None;
        }
        let pad = |with: &str| {
            let written = format!("{prefix}{}", with.repeat(Self::ENCODED_LEN - prefix.len()));
            written.parse().ok()
        };
        Some((pad("0")?, pad("Z")?))
    }
}

/// Makes ids that ascend, also within a millisecond and when the clock steps back a little.
#[derive(Debug, Default)]
pub struct TrackingIdGenerator(Mutex<Option<Ulid>>);

impl TrackingIdGenerator {
    /// The next id, for a send accepted at `now`; `random` as for [`TrackingId::new`].
    pub fn generate(&self, now: Timestamp, random: u128) -> TrackingId {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Ulid::from_parts(now.as_millis(), random);
        let id = match *last {
            Some(last)
                if fresh <= last
                    && last.timestamp_ms() - now.as_millis().min(last.timestamp_ms())
                        <= MAX_CLOCK_STEP_BACK_MS =>
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
pub struct ParseTrackingIdError;

impl FromStr for TrackingId {
    type Err = ParseTrackingIdError;

    fn from_str(text: &str) -> Result<Self, ParseTrackingIdError> {
        if text.len() != Self::ENCODED_LEN || text.as_bytes()[0].to_ascii_uppercase() > b'7' {
            return Err(ParseTrackingIdError);
        }
        Ulid::from_string(text).map(Self).map_err(|_| ParseTrackingIdError)
    }
}

/// Milliseconds that a clock is set back without ids following it: a send is due at its id's time.
const MAX_CLOCK_STEP_BACK_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_form_round_trips_and_sorts_by_time() {
        let early = TrackingId::new(Timestamp::from_millis(1_789_387_199_000), u128::MAX);
        let late = TrackingId::new(Timestamp::from_millis(1_789_387_199_001), 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
        assert_eq!(TrackingId::from_bytes(late.to_bytes()), late);
        assert_eq!(late.timestamp().as_millis(), 1_789_387_199_001);
    }

    #[test]
    fn generates_ascending_ids_when_the_clock_steps_back() {
        let (mint, mut random) = (TrackingIdGenerator::default(), fastrand::Rng::with_seed(3));
        let times = [5, 5, 5, 6, 4, 7, 7, 1];
        let ids = times.map(|millis| mint.generate(Timestamp::from_millis(millis), random.u128(..)));
        assert!(ids.is_sorted() && ids[5].timestamp().as_millis() == 7, "{ids:?}");
        let late = mint.generate(Timestamp::from_secs(3600), 0);
        let corrected = mint.generate(Timestamp::from_secs(60), 0);
        assert!(late > corrected && corrected.timestamp() == Timestamp::from_secs(60));
    }

    #[test]
    fn rejects_invalid_ids() {
        for text in [
            "",
            "01K54Z8Q3V7N5X9B2C6D8F0GH",
            "01K54Z8Q3V7N5X9B2C6D8F0GHJJ",
            "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "é",
        ] {
            assert_eq!(text.parse::<TrackingId>(), Err(ParseTrackingIdError), "{text}");
        }
    }

    #[test]
    fn prefix_range_contains_its_ids() {
        let id: TrackingId = "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap();
        let (low, high) = TrackingId::prefix_range("01K54Z8Q").unwrap();
        assert!(low <= id && id <= high);
        assert!(TrackingId::prefix_range("sale.order").is_none());
    }
}
