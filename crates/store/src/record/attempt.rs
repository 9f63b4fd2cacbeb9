//! Stored forms of attempts and their outcomes.

use crate::record::diagnostic::DiagnosticV1;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{AttemptOutcome, AttemptStarted, AttemptStatus, RecipientResult};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct AttemptStartedV1 {
    id: [u8; 16],
    at: u64,
    upstream: String,
}

impl From<&AttemptStarted> for AttemptStartedV1 {
    fn from(begun: &AttemptStarted) -> Self {
        Self { id: begun.id.to_bytes(), at: begun.at.as_millis(), upstream: begun.upstream.clone() }
    }
}

impl AttemptStartedV1 {
    pub fn into_domain(self) -> AttemptStarted {
        AttemptStarted {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            upstream: self.upstream,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AttemptOutcomeV1 {
    id: [u8; 16],
    at: u64,
    upstream: String,
    results: Vec<(Vec<u16>, AttemptStatusV1, DiagnosticV1)>,
    next_attempt: Option<u64>,
}

impl From<&AttemptOutcome> for AttemptOutcomeV1 {
    fn from(outcome: &AttemptOutcome) -> Self {
        let results = outcome.results.iter();
        Self {
            id: outcome.id.to_bytes(),
            at: outcome.at.as_millis(),
            upstream: outcome.upstream.clone(),
            results: results
                .map(|s| (s.recipients.clone(), s.status.into(), (&s.diagnostic).into()))
                .collect(),
            next_attempt: outcome.next_attempt.map(Timestamp::as_millis),
        }
    }
}

impl AttemptOutcomeV1 {
    pub fn into_domain(self) -> AttemptOutcome {
        let settled = self.results.into_iter().map(|(recipients, standing, words)| RecipientResult {
            recipients,
            status: standing.into(),
            diagnostic: words.into(),
        });
        AttemptOutcome {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            upstream: self.upstream,
            results: settled.collect(),
            next_attempt: self.next_attempt.map(Timestamp::from_millis),
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum AttemptStatusV1 {
    Queued,
    Relayed,
    Bounced,
    Failed,
    Expired,
    Unknown,
    Cancelled,
    Suppressed,
}

impl From<AttemptStatus> for AttemptStatusV1 {
    fn from(standing: AttemptStatus) -> Self {
        match standing {
            AttemptStatus::Queued => Self::Queued,
            AttemptStatus::Relayed => Self::Relayed,
            AttemptStatus::Bounced => Self::Bounced,
            AttemptStatus::Failed => Self::Failed,
            AttemptStatus::Expired => Self::Expired,
            AttemptStatus::Unknown => Self::Unknown,
            AttemptStatus::Cancelled => Self::Cancelled,
            AttemptStatus::Suppressed => Self::Suppressed,
        }
    }
}

impl From<AttemptStatusV1> for AttemptStatus {
    fn from(stored: AttemptStatusV1) -> Self {
        match stored {
            AttemptStatusV1::Queued => Self::Queued,
            AttemptStatusV1::Relayed => Self::Relayed,
            AttemptStatusV1::Bounced => Self::Bounced,
            AttemptStatusV1::Failed => Self::Failed,
            AttemptStatusV1::Expired => Self::Expired,
            AttemptStatusV1::Unknown => Self::Unknown,
            AttemptStatusV1::Cancelled => Self::Cancelled,
            AttemptStatusV1::Suppressed => Self::Suppressed,
        }
    }
}
