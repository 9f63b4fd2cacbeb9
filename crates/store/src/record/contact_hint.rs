//! The stored form of a hint, in the journal and in a row.

use crate::record::WordsV1;
use mailtrail_mail::Timestamp;
use mailtrail_trail::{Hint, HintKind, Hinted};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HintedV1 {
    source: String,
    received: u64,
    identity: String,
    kind: u8,
    at: u64,
    address: Option<String>,
    lists: Vec<String>,
    words: WordsV1,
}

impl From<&Hinted> for HintedV1 {
    fn from(hinted: &Hinted) -> Self {
        let Hinted { source, received, identity, hint } = hinted.clone();
        // To that list kinds are only ever added at the end.
        let kind = HintKind::ALL.iter().position(|known| *known == hint.kind);
        Self {
            source,
            received: received.millis(),
            identity,
            kind: kind.map_or(u8::MAX, |place| place as u8),
            at: hint.at.millis(),
            address: hint.address,
            lists: hint.lists,
            words: WordsV1::from(&hint.words),
        }
    }
}

impl HintedV1 {
    pub fn restore(self) -> Hinted {
        let kind = HintKind::ALL.get(usize::from(self.kind)).copied();
        Hinted {
            source: self.source,
            received: Timestamp::from_millis(self.received),
            identity: self.identity,
            hint: Hint {
                kind: kind.unwrap_or(HintKind::Unknown),
                at: Timestamp::from_millis(self.at),
                address: self.address,
                lists: self.lists,
                words: self.words.into(),
            },
        }
    }

    pub fn received(&self) -> Timestamp {
        Timestamp::from_millis(self.received)
    }
}
