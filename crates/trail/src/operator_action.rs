use mailtrail_mail::{Timestamp, TrackingId};
use std::path::PathBuf;

/// An operator had the relay do something that changes no single mail and no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorAction {
    /// When.
    pub at: Timestamp,
    /// What.
    pub data: OperatorActionData,
    /// Who.
    pub operator: String,
    /// Why; empty where nothing was said.
    pub reason: String,
}

/// What an operator may have the relay do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorActionData {
    /// To tell a sink again.
    SinkReplay {
        /// Which.
        sink: String,
        /// What was noted then or later.
        since: Timestamp,
    },
    /// To make the ledger anew from the journal.
    StoreRebuild {
        /// Also where it would know less than the one before.
        despite_damage: bool,
    },
    /// To copy the store.
    StoreBackup {
        /// Where to.
        directory: PathBuf,
    },
    /// To bring the suppression list and a provider's together.
    SuppressSync {
        /// The upstream whose provider it is.
        upstream: String,
    },
    /// To send a test mail.
    SendTest {
        /// The send that it is.
        id: TrackingId,
    },
}

/// A kind of errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorActionKind {
    /// [`Errand::SinkReplay`]
    SinkReplay,
    /// [`Errand::StoreRebuild`]
    StoreRebuild,
    /// [`Errand::StoreBackup`]
    StoreBackup,
    /// [`Errand::SuppressSync`]
    SuppressSync,
    /// [`Errand::SendTest`]
    SendTest,
}

impl OperatorActionData {
    /// Its kind.
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
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::SinkReplay, Self::StoreRebuild, Self::StoreBackup, Self::SuppressSync, Self::SendTest];

    /// The word for log and JSON: that of the command.
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
