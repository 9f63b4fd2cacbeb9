//! The stored form of a contact hint, in the journal and in a ledger row.

use crate::record::diagnostic::DiagnosticV1;
use mailtrail_mail::Timestamp;
use mailtrail_trail::{ContactHint, ContactHintKind, ReceivedHint};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReceivedHintV1 {
    source: String,
    received_at: u64,
    dedup_key: String,
    kind: u8,
    at: u64,
    address: Option<String>,
    lists: Vec<String>,
    diagnostic: DiagnosticV1,
}

impl From<&ReceivedHint> for ReceivedHintV1 {
    fn from(hinted: &ReceivedHint) -> Self {
        let ReceivedHint { source, received_at, dedup_key, hint } = hinted.clone();
        // New kinds are only ever appended to that list.
        let kind = ContactHintKind::ALL.iter().position(|known| *known == hint.kind);
        Self {
            source,
            received_at: received_at.as_millis(),
            dedup_key,
            kind: kind.map_or(u8::MAX, |place| place as u8),
            at: hint.at.as_millis(),
            address: hint.address,
            lists: hint.lists,
            diagnostic: DiagnosticV1::from(&hint.diagnostic),
        }
    }
}

impl ReceivedHintV1 {
    pub fn into_domain(self) -> ReceivedHint {
        let kind = ContactHintKind::ALL.get(usize::from(self.kind)).copied();
        ReceivedHint {
            source: self.source,
            received_at: Timestamp::from_millis(self.received_at),
            dedup_key: self.dedup_key,
            hint: ContactHint {
                kind: kind.unwrap_or(ContactHintKind::Unknown),
                at: Timestamp::from_millis(self.at),
                address: self.address,
                lists: self.lists,
                diagnostic: self.diagnostic.into(),
            },
        }
    }

    pub fn received_at(&self) -> Timestamp {
        Timestamp::from_millis(self.received_at)
    }
}
