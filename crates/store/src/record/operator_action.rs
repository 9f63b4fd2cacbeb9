//! Stored forms of operator actions and of erasures.

use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{Erasure, OperatorAction, OperatorActionData};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct OperatorActionV1 {
    at: u64,
    data: OperatorActionDataV1,
    operator: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
enum OperatorActionDataV1 {
    SinkReplay { sink: String, since: u64 },
    StoreRebuild { despite_damage: bool },
    StoreBackup { directory: String },
    SuppressSync { upstream: String },
    SendTest { id: [u8; 16] },
}

impl From<&OperatorAction> for OperatorActionV1 {
    fn from(action: &OperatorAction) -> Self {
        let OperatorAction { at, data, operator, reason } = action.clone();
        let data = match data {
            OperatorActionData::SinkReplay { sink, since } => {
                OperatorActionDataV1::SinkReplay { sink, since: since.as_millis() }
            }
            OperatorActionData::StoreRebuild { despite_damage } => {
                OperatorActionDataV1::StoreRebuild { despite_damage }
            }
            OperatorActionData::StoreBackup { directory } => {
                OperatorActionDataV1::StoreBackup { directory: directory.to_string_lossy().into_owned() }
            }
            OperatorActionData::SuppressSync { upstream } => OperatorActionDataV1::SuppressSync { upstream },
            OperatorActionData::SendTest { id } => OperatorActionDataV1::SendTest { id: id.to_bytes() },
        };
        Self { at: at.as_millis(), data, operator, reason }
    }
}

impl OperatorActionV1 {
    pub fn into_domain(self) -> OperatorAction {
        let Self { at, data, operator, reason } = self;
        let data = match data {
            OperatorActionDataV1::SinkReplay { sink, since } => {
                OperatorActionData::SinkReplay { sink, since: Timestamp::from_millis(since) }
            }
            OperatorActionDataV1::StoreRebuild { despite_damage } => {
                OperatorActionData::StoreRebuild { despite_damage }
            }
            OperatorActionDataV1::StoreBackup { directory } => {
                OperatorActionData::StoreBackup { directory: directory.into() }
            }
            OperatorActionDataV1::SuppressSync { upstream } => OperatorActionData::SuppressSync { upstream },
            OperatorActionDataV1::SendTest { id } => {
                OperatorActionData::SendTest { id: TrackingId::from_bytes(id) }
            }
        };
        OperatorAction { at: Timestamp::from_millis(at), data, operator, reason }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ErasureV1 {
    at: u64,
    operator: String,
    reason: String,
    pseudonym: String,
    salt: [u8; 16],
}

impl From<&Erasure> for ErasureV1 {
    fn from(erased: &Erasure) -> Self {
        let Erasure { at, operator, reason, pseudonym, salt } = erased.clone();
        Self { at: at.as_millis(), operator, reason, pseudonym, salt }
    }
}

impl ErasureV1 {
    pub fn into_domain(self) -> Erasure {
        let Self { at, operator, reason, pseudonym, salt } = self;
        Erasure { at: Timestamp::from_millis(at), operator, reason, pseudonym, salt }
    }
}
