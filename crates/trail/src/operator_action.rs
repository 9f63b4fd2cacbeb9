use mailtrail_mail::{Timestamp, TrackingId};
use std::path::PathBuf;

/// An operator had the relay do something that changes no single mail and no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// When.
    pub at: Timestamp,
    /// What.
    pub errand: Errand,
    /// Who.
    pub operator: String,
    /// Why; empty where nothing was said.
    pub reason: String,
}

/// What an operator may have the relay do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
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
pub enum Chore {
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

impl Errand {
    /// Its kind.
    pub const fn chore(&self) -> Chore {
        match self {
            Self::SinkReplay { .. } => Chore::SinkReplay,
            Self::StoreRebuild { .. } => Chore::StoreRebuild,
            Self::StoreBackup { .. } => Chore::StoreBackup,
            Self::SuppressSync { .. } => Chore::SuppressSync,
            Self::SendTest { .. } => Chore::SendTest,
        }
    }
}

impl Chore {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::SinkReplay, Self::StoreRebuild, Self::StoreBackup, Self::SuppressSync, Self::SendTest];

    /// The word for log and JSON: that of the command.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SinkReplay => "sink-replay",
            Self::StoreRebuild => "store-rebuild",
            Self::StoreBackup => "store-backup",
            Self::SuppressSync => "suppress-sync",
            Self::SendTest => "send-test",
        }
    }
}
