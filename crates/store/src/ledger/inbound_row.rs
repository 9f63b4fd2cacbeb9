//! The row of an inbound message.

use crate::position::Position;
use crate::record::{InboundReceivedV1, InboundStateV1};
use mailtrail_mail::Timestamp;
use mailtrail_trail::{InboundReceived, InboundState, InboundSummary};
use serde::{Deserialize, Serialize};

/// Row of an inbound message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundRow {
    pub received: InboundReceivedV1,
    pub state: InboundStateV1,
    pub state_since: u64,
    pub next_attempt: u64,
    pub deferrals: u32,
    pub last_target: String,
    pub diagnostic: String,
    pub position: Position,
    /// Length of the body in the journal, in bytes.
    pub body_length: u32,
    pub missing_files: u32,
}

impl InboundRow {
    /// Returns the message and the position of its body; `None` for an unreadable address.
    pub fn into_domain(self) -> Option<(InboundSummary, Position)> {
        let message = InboundSummary {
            received: InboundReceived { missing_files: self.missing_files, ..self.received.into_domain()? },
            state: InboundState::from(self.state),
            state_since: Timestamp::from_millis(self.state_since),
            next_attempt: Timestamp::from_millis(self.next_attempt),
            deferrals: self.deferrals,
            last_target: self.last_target,
            diagnostic: self.diagnostic,
        };
        Some((message, self.position))
    }
}
