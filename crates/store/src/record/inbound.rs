//! Stored forms of inbound messages and their states.

use mailtrail_mail::{MessageId, Timestamp, TrackingId};
use mailtrail_trail::{InboundOutcome, InboundReceived, InboundRecord, InboundState, InboundTransition};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum InboundRecordV1 {
    Received(InboundReceivedV1),
    Transitioned(InboundTransitionV1),
}

/// Version 2: adds the reason of a release; empty for all other records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InboundRecordV2 {
    inbound: InboundRecordV1,
    reason: String,
}

/// Version 3: adds the number of missing files; 0 for all records but arrivals.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InboundRecordV3 {
    inbound: InboundRecordV2,
    missing_files: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InboundReceivedV1 {
    id: [u8; 16],
    upstream: String,
    token: Option<(String, u64, [u8; 16])>,
    sender: Option<String>,
    recipient: String,
    message_id: Option<String>,
    subject: String,
    size: u64,
    /// Window in which duplicates are recognised, in milliseconds.
    dedup_window_ms: u64,
    quarantine_reason: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InboundTransitionV1 {
    id: [u8; 16],
    at: u64,
    outcome: InboundOutcomeV1,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum InboundOutcomeV1 {
    Delivered { target: String, reply: String },
    Deferred { target: String, reason: String, next_attempt: u64 },
    DeadLettered { target: String, reason: String },
    Released { operator: String },
}

/// Stored form of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InboundStateV1 {
    Waiting,
    Delivered,
    DeadLetter,
    Duplicate,
}

impl From<InboundState> for InboundStateV1 {
    fn from(state: InboundState) -> Self {
        match state {
            InboundState::Waiting => Self::Waiting,
            InboundState::Delivered => Self::Delivered,
            InboundState::DeadLetter => Self::DeadLetter,
            InboundState::Duplicate => Self::Duplicate,
        }
    }
}

impl From<InboundStateV1> for InboundState {
    fn from(stored: InboundStateV1) -> Self {
        match stored {
            InboundStateV1::Waiting => Self::Waiting,
            InboundStateV1::Delivered => Self::Delivered,
            InboundStateV1::DeadLetter => Self::DeadLetter,
            InboundStateV1::Duplicate => Self::Duplicate,
        }
    }
}

impl From<&InboundRecord> for InboundRecordV1 {
    fn from(inbound: &InboundRecord) -> Self {
        match inbound {
            InboundRecord::Received(received) => Self::Received(InboundReceivedV1::from(&**received)),
            InboundRecord::Transitioned(transition) => {
                Self::Transitioned(InboundTransitionV1::from(transition))
            }
        }
    }
}

impl InboundRecordV1 {
    pub fn into_domain(self) -> Option<InboundRecord> {
        Some(match self {
            Self::Received(received) => InboundRecord::Received(Box::new(received.into_domain()?)),
            Self::Transitioned(transition) => InboundRecord::Transitioned(transition.into_domain()),
        })
    }
}

impl From<&InboundRecord> for InboundRecordV2 {
    fn from(inbound: &InboundRecord) -> Self {
        let reason = match inbound {
            InboundRecord::Transitioned(InboundTransition {
                outcome: InboundOutcome::Released { reason, .. },
                ..
            }) => reason.clone(),
            InboundRecord::Transitioned(_) | InboundRecord::Received(_) => String::new(),
        };
        Self { inbound: InboundRecordV1::from(inbound), reason }
    }
}

impl InboundRecordV2 {
    pub fn into_domain(self) -> Option<InboundRecord> {
        let mut inbound = self.inbound.into_domain()?;
        if let InboundRecord::Transitioned(InboundTransition {
            outcome: InboundOutcome::Released { reason, .. },
            ..
        }) = &mut inbound
        {
            *reason = self.reason;
        }
        Some(inbound)
    }
}

impl From<&InboundRecord> for InboundRecordV3 {
    fn from(inbound: &InboundRecord) -> Self {
        let missing_files = match inbound {
            InboundRecord::Received(received) => received.missing_files,
            InboundRecord::Transitioned(_) => 0,
        };
        Self { inbound: InboundRecordV2::from(inbound), missing_files }
    }
}

impl InboundRecordV3 {
    pub fn into_domain(self) -> Option<InboundRecord> {
        let mut inbound = self.inbound.into_domain()?;
        if let InboundRecord::Received(received) = &mut inbound {
            received.missing_files = self.missing_files;
        }
        Some(inbound)
    }
}

impl From<&InboundReceived> for InboundReceivedV1 {
    fn from(received: &InboundReceived) -> Self {
        let token = received.token.as_ref();
        Self {
            id: received.id.to_bytes(),
            upstream: received.upstream.clone(),
            token: token.map(|(token, signed_at, digest)| (token.clone(), signed_at.as_millis(), *digest)),
            sender: received.sender.as_ref().map(ToString::to_string),
            recipient: received.recipient.to_string(),
            message_id: received.message_id.as_ref().map(ToString::to_string),
            subject: received.subject.clone(),
            size: received.size,
            dedup_window_ms: u64::try_from(received.dedup_window.as_millis()).unwrap_or(u64::MAX),
            quarantine_reason: received.quarantine_reason.clone(),
        }
    }
}

impl InboundReceivedV1 {
    /// Returns the recipient of the envelope.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    pub fn into_domain(self) -> Option<InboundReceived> {
        let token = self.token;
        Some(InboundReceived {
            id: TrackingId::from_bytes(self.id),
            upstream: self.upstream,
            token: token.map(|(token, signed_at, digest)| (token, Timestamp::from_millis(signed_at), digest)),
            sender: self.sender.map(|sender| sender.parse()).transpose().ok()?,
            recipient: self.recipient.parse().ok()?,
            message_id: self.message_id.as_deref().and_then(MessageId::parse),
            subject: self.subject,
            size: self.size,
            dedup_window: Duration::from_millis(self.dedup_window_ms),
            quarantine_reason: self.quarantine_reason,
            missing_files: 0,
        })
    }
}

impl From<&InboundTransition> for InboundTransitionV1 {
    fn from(transition: &InboundTransition) -> Self {
        let outcome = match transition.outcome.clone() {
            InboundOutcome::Delivered { target, reply } => InboundOutcomeV1::Delivered { target, reply },
            InboundOutcome::Deferred { target, reason, next_attempt } => {
                InboundOutcomeV1::Deferred { target, reason, next_attempt: next_attempt.as_millis() }
            }
            InboundOutcome::DeadLettered { target, reason } => {
                InboundOutcomeV1::DeadLettered { target, reason }
            }
            InboundOutcome::Released { operator, reason: _ } => InboundOutcomeV1::Released { operator },
        };
        Self { id: transition.id.to_bytes(), at: transition.at.as_millis(), outcome }
    }
}

impl InboundTransitionV1 {
    fn into_domain(self) -> InboundTransition {
        let outcome = match self.outcome {
            InboundOutcomeV1::Delivered { target, reply } => InboundOutcome::Delivered { target, reply },
            InboundOutcomeV1::Deferred { target, reason, next_attempt } => InboundOutcome::Deferred {
                target,
                reason,
                next_attempt: Timestamp::from_millis(next_attempt),
            },
            InboundOutcomeV1::DeadLettered { target, reason } => {
                InboundOutcome::DeadLettered { target, reason }
            }
            InboundOutcomeV1::Released { operator } => {
                InboundOutcome::Released { operator, reason: String::new() }
            }
        };
        InboundTransition {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            outcome,
        }
    }
}
