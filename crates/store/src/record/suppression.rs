//! How the journal and the rows write what the suppression list is made of.

use mailtrail_mail::Timestamp;
use mailtrail_trail::suppression::{Change, Dossier, Evidence, Listing, Live, Mark, Reason, Scope, Source};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListingV1 {
    address: String,
    list: Option<String>,
    at: u64,
    operator: String,
    change: ChangeV1,
}

/// With why somebody took the address off; where he put it on the marks say it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListingV2 {
    listing: ListingV1,
    words: String,
}

#[derive(Debug, Serialize, Deserialize)]
enum ChangeV1 {
    Add { reason: ReasonV1, marks: Vec<MarkV1> },
    Remove { reason: Option<ReasonV1> },
}

#[derive(Debug, Serialize, Deserialize)]
struct MarkV1 {
    at: u64,
    all: bool,
    source: SourceV1,
    expires: Option<u64>,
    words: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum ReasonV1 {
    Complaint,
    HardBounce,
    Manual,
    Unsubscribe,
    SoftBounce,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum SourceV1 {
    Webhook,
    Poll,
    Provider,
    Attempt,
    Operator,
    Import,
    Hint,
}

/// A dossier, as its row has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DossierRow(Vec<(ReasonV1, u64, Option<LiveRow>)>);

#[derive(Debug, Serialize, Deserialize)]
struct LiveRow {
    times: Vec<u64>,
    all_mail: Option<u64>,
    source: SourceV1,
    expires: Option<u64>,
    words: String,
}

impl From<&Listing> for ListingV1 {
    fn from(listing: &Listing) -> Self {
        let change = match &listing.change {
            Change::Add { reason, marks } => {
                ChangeV1::Add { reason: (*reason).into(), marks: marks.iter().map(MarkV1::from).collect() }
            }
            Change::Remove { reason, words: _ } => ChangeV1::Remove { reason: reason.map(ReasonV1::from) },
        };
        Self {
            address: listing.address.to_string(),
            list: listing.list.clone(),
            at: listing.at.millis(),
            operator: listing.operator.clone(),
            change,
        }
    }
}

impl ListingV1 {
    pub(crate) fn restore(self) -> Option<Listing> {
        let change = match self.change {
            ChangeV1::Add { reason, marks } => {
                Change::Add { reason: reason.into(), marks: marks.into_iter().map(Mark::from).collect() }
            }
            ChangeV1::Remove { reason } => {
                Change::Remove { reason: reason.map(Reason::from), words: String::new() }
            }
        };
        Some(Listing {
            address: self.address.parse().ok()?,
            list: self.list,
            at: Timestamp::from_millis(self.at),
            operator: self.operator,
            change,
        })
    }
}

impl From<&Listing> for ListingV2 {
    fn from(listing: &Listing) -> Self {
        let words = match &listing.change {
            Change::Add { .. } => String::new(),
            Change::Remove { words, .. } => words.clone(),
        };
        Self { listing: ListingV1::from(listing), words }
    }
}

impl ListingV2 {
    pub(crate) fn restore(self) -> Option<Listing> {
        let mut listing = self.listing.restore()?;
        if let Change::Remove { words, .. } = &mut listing.change {
            *words = self.words;
        }
        Some(listing)
    }
}

impl From<&Mark> for MarkV1 {
    fn from(mark: &Mark) -> Self {
        Self {
            at: mark.at.millis(),
            all: mark.scope == Scope::All,
            source: mark.source.into(),
            expires: mark.expires.map(Timestamp::millis),
            words: mark.words.clone(),
        }
    }
}

impl From<MarkV1> for Mark {
    fn from(stored: MarkV1) -> Self {
        Self {
            at: Timestamp::from_millis(stored.at),
            scope: if stored.all { Scope::All } else { Scope::Bulk },
            source: stored.source.into(),
            expires: stored.expires.map(Timestamp::from_millis),
            words: stored.words,
        }
    }
}

impl From<&Dossier> for DossierRow {
    fn from(dossier: &Dossier) -> Self {
        let row = |live: &Live| LiveRow {
            times: live.times.iter().map(|at| at.millis()).collect(),
            all_mail: live.all_mail.map(Timestamp::millis),
            source: live.source.into(),
            expires: live.expires.map(Timestamp::millis),
            words: live.words.clone(),
        };
        let evidence = dossier.iter();
        Self(
            evidence
                .map(|(reason, one)| (reason.into(), one.void_until.millis(), one.live.as_ref().map(row)))
                .collect(),
        )
    }
}

impl From<DossierRow> for Dossier {
    fn from(row: DossierRow) -> Self {
        let live = |row: LiveRow| Live {
            times: row.times.into_iter().map(Timestamp::from_millis).collect(),
            all_mail: row.all_mail.map(Timestamp::from_millis),
            source: row.source.into(),
            expires: row.expires.map(Timestamp::from_millis),
            words: row.words,
        };
        let evidence = row.0.into_iter();
        Self::new(evidence.map(|(reason, void_until, row)| {
            (reason.into(), Evidence { void_until: Timestamp::from_millis(void_until), live: row.map(live) })
        }))
    }
}

impl From<Reason> for ReasonV1 {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Complaint => Self::Complaint,
            Reason::HardBounce => Self::HardBounce,
            Reason::Manual => Self::Manual,
            Reason::Unsubscribe => Self::Unsubscribe,
            Reason::SoftBounce => Self::SoftBounce,
        }
    }
}

impl From<ReasonV1> for Reason {
    fn from(stored: ReasonV1) -> Self {
        match stored {
            ReasonV1::Complaint => Self::Complaint,
            ReasonV1::HardBounce => Self::HardBounce,
            ReasonV1::Manual => Self::Manual,
            ReasonV1::Unsubscribe => Self::Unsubscribe,
            ReasonV1::SoftBounce => Self::SoftBounce,
        }
    }
}

impl From<Source> for SourceV1 {
    fn from(source: Source) -> Self {
        match source {
            Source::Webhook => Self::Webhook,
            Source::Poll => Self::Poll,
            Source::Provider => Self::Provider,
            Source::Attempt => Self::Attempt,
            Source::Operator => Self::Operator,
            Source::Import => Self::Import,
            Source::Hint => Self::Hint,
        }
    }
}

impl From<SourceV1> for Source {
    fn from(stored: SourceV1) -> Self {
        match stored {
            SourceV1::Webhook => Self::Webhook,
            SourceV1::Poll => Self::Poll,
            SourceV1::Provider => Self::Provider,
            SourceV1::Attempt => Self::Attempt,
            SourceV1::Operator => Self::Operator,
            SourceV1::Import => Self::Import,
            SourceV1::Hint => Self::Hint,
        }
    }
}
