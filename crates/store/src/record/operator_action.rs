//! What operators have the relay do, in the journal's own types.

use crate::Store;
use crate::group_commit::{CommitError, Wish};
use crate::record::Record;
use bytes::Bytes;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{Errand, Ordered};
use serde::{Deserialize, Serialize};

impl Store {
    /// Notes what an operator has the relay do; lookups see it on return.
    pub async fn order(&self, ordered: Ordered) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Ordered(Box::new(ordered)), Bytes::new(), wish).await
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct OrderedV1 {
    at: u64,
    errand: ErrandV1,
    operator: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
enum ErrandV1 {
    SinkReplay { sink: String, since: u64 },
    StoreRebuild { despite_damage: bool },
    StoreBackup { directory: String },
    SuppressSync { upstream: String },
    SendTest { id: [u8; 16] },
}

impl From<&Ordered> for OrderedV1 {
    fn from(ordered: &Ordered) -> Self {
        let Ordered { at, errand, operator, reason } = ordered.clone();
        let errand = match errand {
            Errand::SinkReplay { sink, since } => ErrandV1::SinkReplay { sink, since: since.millis() },
            Errand::StoreRebuild { despite_damage } => ErrandV1::StoreRebuild { despite_damage },
            Errand::StoreBackup { directory } => {
                ErrandV1::StoreBackup { directory: directory.to_string_lossy().into_owned() }
            }
            Errand::SuppressSync { upstream } => ErrandV1::SuppressSync { upstream },
            Errand::SendTest { id } => ErrandV1::SendTest { id: id.to_bytes() },
        };
        Self { at: at.millis(), errand, operator, reason }
    }
}

impl OrderedV1 {
    pub fn restore(self) -> Ordered {
        let Self { at, errand, operator, reason } = self;
        let errand = match errand {
            ErrandV1::SinkReplay { sink, since } => {
                Errand::SinkReplay { sink, since: Timestamp::from_millis(since) }
            }
            ErrandV1::StoreRebuild { despite_damage } => Errand::StoreRebuild { despite_damage },
            ErrandV1::StoreBackup { directory } => Errand::StoreBackup { directory: directory.into() },
            ErrandV1::SuppressSync { upstream } => Errand::SuppressSync { upstream },
            ErrandV1::SendTest { id } => Errand::SendTest { id: TrackingId::from_bytes(id) },
        };
        Ordered { at: Timestamp::from_millis(at), errand, operator, reason }
    }
}
