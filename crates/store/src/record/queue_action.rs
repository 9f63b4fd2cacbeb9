//! Stored forms of an operator's actions on the queue and on circuit breakers.

use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{BreakerOverride, QueueAction, QueueVerb};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct QueueActionV1 {
    id: [u8; 16],
    at: u64,
    verb: QueueVerbV1,
    operator: String,
    reason: String,
}

impl From<&QueueAction> for QueueActionV1 {
    fn from(action: &QueueAction) -> Self {
        Self {
            id: action.id.to_bytes(),
            at: action.at.as_millis(),
            verb: action.verb.into(),
            operator: action.operator.clone(),
            reason: action.reason.clone(),
        }
    }
}

impl QueueActionV1 {
    pub fn into_domain(self) -> QueueAction {
        QueueAction {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            verb: self.verb.into(),
            operator: self.operator,
            reason: self.reason,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum QueueVerbV1 {
    Retry,
    Hold,
    Release,
    Bounce,
    Delete,
}

impl From<QueueVerb> for QueueVerbV1 {
    fn from(verb: QueueVerb) -> Self {
        match verb {
            QueueVerb::Retry => Self::Retry,
            QueueVerb::Hold => Self::Hold,
            QueueVerb::Release => Self::Release,
            QueueVerb::Bounce => Self::Bounce,
            QueueVerb::Delete => Self::Delete,
        }
    }
}

impl From<QueueVerbV1> for QueueVerb {
    fn from(stored: QueueVerbV1) -> Self {
        match stored {
            QueueVerbV1::Retry => Self::Retry,
            QueueVerbV1::Hold => Self::Hold,
            QueueVerbV1::Release => Self::Release,
            QueueVerbV1::Bounce => Self::Bounce,
            QueueVerbV1::Delete => Self::Delete,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BreakerOverrideV1 {
    upstream: String,
    at: u64,
    open: bool,
    operator: String,
    reason: String,
}

impl From<&BreakerOverride> for BreakerOverrideV1 {
    fn from(switch: &BreakerOverride) -> Self {
        let BreakerOverride { upstream, at, open, operator, reason } = switch.clone();
        Self { upstream, at: at.as_millis(), open, operator, reason }
    }
}

impl BreakerOverrideV1 {
    pub fn into_domain(self) -> BreakerOverride {
        let Self { upstream, at, open, operator, reason } = self;
        BreakerOverride { upstream, at: Timestamp::from_millis(at), open, operator, reason }
    }
}
