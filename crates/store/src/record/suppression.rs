//! Stored forms of suppression changes and evidence, in the journal and in ledger rows.

use mailtrail_mail::Timestamp;
use mailtrail_trail::suppression::{
    ActiveEvidence, EvidenceItem, EvidenceSource, Reason, ReasonEvidence, Scope, SuppressionChange,
    SuppressionChangeKind, SuppressionEvidence,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SuppressionChangeV1 {
    address: String,
    list: Option<String>,
    at: u64,
    operator: String,
    kind: SuppressionChangeKindV1,
}

/// Version 2: adds the reason why an operator removed the address. For an addition the marks hold the reason.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SuppressionChangeV2 {
    change: SuppressionChangeV1,
    comment: String,
}

#[derive(Debug, Serialize, Deserialize)]
enum SuppressionChangeKindV1 {
    Add { reason: ReasonV1, items: Vec<EvidenceItemV1> },
    Remove { reason: Option<ReasonV1> },
}

#[derive(Debug, Serialize, Deserialize)]
struct EvidenceItemV1 {
    at: u64,
    all_mail: bool,
    source: EvidenceSourceV1,
    expires_at: Option<u64>,
    diagnostic: String,
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
enum EvidenceSourceV1 {
    Webhook,
    Poll,
    Provider,
    Attempt,
    Operator,
    Import,
    Hint,
}

/// Suppression evidence as stored in its row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SuppressionEvidenceRow(Vec<(ReasonV1, u64, Option<ActiveEvidenceRow>)>);

#[derive(Debug, Serialize, Deserialize)]
struct ActiveEvidenceRow {
    times: Vec<u64>,
    all_mail_at: Option<u64>,
    source: EvidenceSourceV1,
    expires_at: Option<u64>,
    diagnostic: String,
}

impl From<&SuppressionChange> for SuppressionChangeV1 {
    fn from(listing: &SuppressionChange) -> Self {
        let kind = match &listing.kind {
            SuppressionChangeKind::Add { reason, items } => SuppressionChangeKindV1::Add {
                reason: (*reason).into(),
                items: items.iter().map(EvidenceItemV1::from).collect(),
            },
            SuppressionChangeKind::Remove { reason, comment: _ } => {
                SuppressionChangeKindV1::Remove { reason: reason.map(ReasonV1::from) }
            }
        };
        Self {
            address: listing.address.to_string(),
            list: listing.list.clone(),
            at: listing.at.as_millis(),
            operator: listing.operator.clone(),
            kind,
        }
    }
}

impl SuppressionChangeV1 {
    pub(crate) fn into_domain(self) -> Option<SuppressionChange> {
        let kind = match self.kind {
            SuppressionChangeKindV1::Add { reason, items } => SuppressionChangeKind::Add {
                reason: reason.into(),
                items: items.into_iter().map(EvidenceItem::from).collect(),
            },
            SuppressionChangeKindV1::Remove { reason } => {
                SuppressionChangeKind::Remove { reason: reason.map(Reason::from), comment: String::new() }
            }
        };
        Some(SuppressionChange {
            address: self.address.parse().ok()?,
            list: self.list,
            at: Timestamp::from_millis(self.at),
            operator: self.operator,
            kind,
        })
    }
}

impl From<&SuppressionChange> for SuppressionChangeV2 {
    fn from(listing: &SuppressionChange) -> Self {
        let comment = match &listing.kind {
            SuppressionChangeKind::Add { .. } => String::new(),
            SuppressionChangeKind::Remove { comment, .. } => comment.clone(),
        };
        Self { change: SuppressionChangeV1::from(listing), comment }
    }
}

impl SuppressionChangeV2 {
    pub(crate) fn into_domain(self) -> Option<SuppressionChange> {
        let mut listing = self.change.into_domain()?;
        if let SuppressionChangeKind::Remove { comment, .. } = &mut listing.kind {
            *comment = self.comment;
        }
        Some(listing)
    }
}

impl From<&EvidenceItem> for EvidenceItemV1 {
    fn from(mark: &EvidenceItem) -> Self {
        Self {
            at: mark.at.as_millis(),
            all_mail: mark.scope == Scope::All,
            source: mark.source.into(),
            expires_at: mark.expires_at.map(Timestamp::as_millis),
            diagnostic: mark.diagnostic.clone(),
        }
    }
}

impl From<EvidenceItemV1> for EvidenceItem {
    fn from(stored: EvidenceItemV1) -> Self {
        Self {
            at: Timestamp::from_millis(stored.at),
            scope: if stored.all_mail { Scope::All } else { Scope::Bulk },
            source: stored.source.into(),
            expires_at: stored.expires_at.map(Timestamp::from_millis),
            diagnostic: stored.diagnostic,
        }
    }
}

impl From<&SuppressionEvidence> for SuppressionEvidenceRow {
    fn from(suppression_evidence: &SuppressionEvidence) -> Self {
        let row = |active: &ActiveEvidence| ActiveEvidenceRow {
            times: active.times.iter().map(|at| at.as_millis()).collect(),
            all_mail_at: active.all_mail_at.map(Timestamp::as_millis),
            source: active.source.into(),
            expires_at: active.expires_at.map(Timestamp::as_millis),
            diagnostic: active.diagnostic.clone(),
        };
        let evidence = suppression_evidence.iter();
        Self(
            evidence
                .map(|(reason, one)| {
                    (reason.into(), one.cleared_until.as_millis(), one.active.as_ref().map(row))
                })
                .collect(),
        )
    }
}

impl From<SuppressionEvidenceRow> for SuppressionEvidence {
    fn from(row: SuppressionEvidenceRow) -> Self {
        let active = |row: ActiveEvidenceRow| ActiveEvidence {
            times: row.times.into_iter().map(Timestamp::from_millis).collect(),
            all_mail_at: row.all_mail_at.map(Timestamp::from_millis),
            source: row.source.into(),
            expires_at: row.expires_at.map(Timestamp::from_millis),
            diagnostic: row.diagnostic,
        };
        let evidence = row.0.into_iter();
        Self::new(evidence.map(|(reason, void_until, row)| {
            (
                reason.into(),
                ReasonEvidence { cleared_until: Timestamp::from_millis(void_until), active: row.map(active) },
            )
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

impl From<EvidenceSource> for EvidenceSourceV1 {
    fn from(source: EvidenceSource) -> Self {
        match source {
            EvidenceSource::Webhook => Self::Webhook,
            EvidenceSource::Poll => Self::Poll,
            EvidenceSource::Provider => Self::Provider,
            EvidenceSource::Attempt => Self::Attempt,
            EvidenceSource::Operator => Self::Operator,
            EvidenceSource::Import => Self::Import,
            EvidenceSource::Hint => Self::Hint,
        }
    }
}

impl From<EvidenceSourceV1> for EvidenceSource {
    fn from(stored: EvidenceSourceV1) -> Self {
        match stored {
            EvidenceSourceV1::Webhook => Self::Webhook,
            EvidenceSourceV1::Poll => Self::Poll,
            EvidenceSourceV1::Provider => Self::Provider,
            EvidenceSourceV1::Attempt => Self::Attempt,
            EvidenceSourceV1::Operator => Self::Operator,
            EvidenceSourceV1::Import => Self::Import,
            EvidenceSourceV1::Hint => Self::Hint,
        }
    }
}
