use mailtrail_mail::{Timestamp, TrackingId};
use std::path::PathBuf;

/// Operator action that changes neither a single message nor a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorAction {
    /// Time of the action.
    pub at: Timestamp,
    /// The action.
    pub data: OperatorActionData,
    /// The operator.
    pub operator: String,
    /// Reason of the action; may be empty.
    pub reason: String,
}

/// Action with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorActionData {
    /// Sends past events to a sink again.
    SinkReplay {
        /// The sink.
        sink: String,
        /// Start of the replayed period.
        since: Timestamp,
    },
    /// Rebuilds the ledger from the journal.
    StoreRebuild {
        /// Whether a ledger that holds less than the previous one is accepted.
        despite_damage: bool,
    },
    /// Backs up the store.
    StoreBackup {
        /// Target directory.
        directory: PathBuf,
    },
    /// Synchronises the suppression list with a provider's list.
    SuppressSync {
        /// Upstream of the provider.
        upstream: String,
    },
    /// Sends a test message.
    SendTest {
        /// Tracking id of the test message.
        id: TrackingId,
    },
}

/// Kind of operator action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorActionKind {
    /// [`OperatorActionData::SinkReplay`]
    SinkReplay,
    /// [`OperatorActionData::StoreRebuild`]
    StoreRebuild,
    /// [`OperatorActionData::StoreBackup`]
    StoreBackup,
    /// [`OperatorActionData::SuppressSync`]
    SuppressSync,
    /// [`OperatorActionData::SendTest`]
    SendTest,
}

impl OperatorActionData {
    /// Returns the kind of the action.
    pub const fn kind(&self) -> OperatorActionKind {
        match self {
            Self::SinkReplay { .. } => OperatorActionKind::SinkReplay,
            Self::StoreRebuild { .. } => OperatorActionKind::StoreRebuild,
            Self::StoreBackup { .. } => OperatorActionKind::StoreBackup,
            Self::SuppressSync { .. } => OperatorActionKind::SuppressSync,
            Self::SendTest { .. } => OperatorActionKind::SendTest,
        }
    }
}

impl OperatorActionKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::SinkReplay, Self::StoreRebuild, Self::StoreBackup, Self::SuppressSync, Self::SendTest];

    /// Returns the keyword for log and JSON, which is the command's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SinkReplay => "sink-replay",
            Self::StoreRebuild => "store-rebuild",
            Self::StoreBackup => "store-backup",
            Self::SuppressSync => "suppress-sync",
            Self::SendTest => "send-test",
        }
    }
}
