//! Reasons why an address is not erased.

use crate::commit_command::CommitError;
use crate::erase::matches::PendingReferences;
use crate::journal::CompactionError;
use crate::read_error::ReadError;
use crate::rebuild::RebuildError;
use mailtrail_mail::TrackingId;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// Reason why an address was not erased. Unless stated otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The address has no domain.
    #[error("{0} has no domain, so it identifies no single mailbox; give a full address")]
    NoDomain(String),
    /// Queued messages mention it: they would be sent without their body, or with the address.
    #[error("{}", describe_pending(.0))]
    Pending(PendingReferences),
    /// The journal is damaged, and damaged bytes cannot be searched.
    #[error(
        "the journal is damaged, so it cannot be searched for the address; `mailtrail store verify` names the places. A \
         backup that is whole may take its place"
    )]
    JournalDamaged,
    /// An interrupted erasure of another address must be completed first.
    #[error(
        "the erasure of another address, {pseudonym}, was cut off: run that one again first, or remove {path} where nobody \
         knows any more which it was"
    )]
    OtherInProgress {
        /// Pseudonym of the other address.
        pseudonym: String,
        /// State file of the interrupted erasure.
        path: PathBuf,
    },
    /// I/O error; another run continues.
    #[error("{path} cannot be used: {source}; once that is mended, run the erasure again, and it goes on")]
    Io {
        /// Path of the failed operation.
        path: PathBuf,
        /// Error of the operation.
        source: io::Error,
    },
    /// Error of a lookup.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Rewrite error; another run continues.
    #[error("{0}; once that is mended, run the erasure again, and it goes on")]
    Rewrite(#[from] CompactionError),
    /// Rebuild error; another run continues.
    #[error("{0}; once that is mended, run the erasure again, and it goes on")]
    Rebuild(#[from] RebuildError),
    /// The store has failed, or is read-only.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for EraseError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

fn describe_pending(waiting: &PendingReferences) -> String {
    let named = |ids: &BTreeSet<TrackingId>| {
        let named: Vec<_> = ids.iter().take(MAX_LISTED_IDS).map(ToString::to_string).collect();
        let more = if ids.len() > MAX_LISTED_IDS { ", …" } else { "" };
        format!("{}{more}", named.join(", "))
    };
    let sends = (!waiting.messages.is_empty()).then(|| {
        format!(
            "{} messages that wait mention it: let them be sent, or take them out with `mailtrail queue delete \
             --reason WHY`: {}",
            waiting.messages.len(),
            named(&waiting.messages)
        )
    });
    let inbound = (!waiting.inbound.is_empty()).then(|| {
        format!(
            "{} mails from outside that wait mention it: let them be delivered: {}",
            waiting.inbound.len(),
            named(&waiting.inbound)
        )
    });
    let all: Vec<_> = [sends, inbound].into_iter().flatten().collect();
    format!("the address is not erased; {}", all.join("; "))
}

/// Maximum number of ids in an error.
const MAX_LISTED_IDS: usize = 20;
