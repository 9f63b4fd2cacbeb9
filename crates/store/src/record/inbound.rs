//! Mail from outside, on its way in: what is kept of it, and where each stands.

use crate::body::Message;
use crate::group_commit::{CommitError, Wish};
use crate::record::Record;
use crate::stored_body::Stored;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::{Mailbox, MessageId, Timestamp, TrackingId};
use mailtrail_trail::{Arrival, Fate, Inbound, InboundMail, Leg, Move};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

impl Store {
    /// Keeps a mail from outside with its message; lookups see it on return. One whose token came with another body
    /// before is not looked at any more, and one that is the same as another is kept as its duplicate.
    pub async fn take_in(&self, arrival: Arrival, message: impl Into<Message>) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        let record = Record::Inbound(Box::new(Inbound::Arrived(Box::new(arrival))));
        self.committer()?.commit(record, message, wish).await
    }

    /// Notes what became of a mail from outside; lookups see it on return.
    pub async fn move_inbound(&self, moved: Move) -> Result<(), CommitError> {
        let wish = Wish { urgent: false, applied: true };
        let record = Record::Inbound(Box::new(Inbound::Moved(moved)));
        self.committer()?.commit(record, Bytes::new(), wish).await
    }

    /// The first mail from outside to come that is due by `now` and to a recipient that is `wanted`.
    pub fn next_inbound(
        &self,
        now: Timestamp,
        wanted: impl Fn(&Mailbox) -> bool,
    ) -> Result<Option<InboundMail>, ReadError> {
        Ok(self.projection()?.next_inbound(now, wanted)?)
    }

    /// Mail from outside, newest first, at most `limit` of those that `wanted` asks for. Reads all of it.
    pub fn inbound(
        &self,
        limit: usize,
        wanted: impl Fn(&InboundMail) -> bool,
    ) -> Result<Vec<InboundMail>, ReadError> {
        Ok(self.projection()?.inbound(limit, wanted)?)
    }

    /// One mail from outside.
    pub fn inbound_mail(&self, id: TrackingId) -> Result<Option<InboundMail>, ReadError> {
        Ok(self.projection()?.inbound_mail(id)?.map(|(mail, _)| mail))
    }

    /// Its message; `None` when that is no longer kept, or seen to be damaged.
    pub fn inbound_message(&self, id: TrackingId) -> Result<Option<Stored>, ReadError> {
        let Some((_, place)) = self.projection()?.inbound_mail(id)? else { return Ok(None) };
        match self.0.segments.segment(place.segment) {
            Ok(segment) => Ok(Stored::find(segment, place.offset)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, all of it in memory. It blocks.
    pub fn inbound_whole(&self, id: TrackingId) -> Result<Option<Bytes>, ReadError> {
        match self.inbound_message(id)? {
            Some(stored) => Ok(stored.whole()?),
            None => Ok(None),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum InboundV1 {
    Arrived(ArrivalV1),
    Moved(MoveV1),
}

/// With the reason of a release; of all else it is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InboundV2 {
    inbound: InboundV1,
    reason: String,
}

/// With the number of files that are missing; of all else than arrivals it is 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InboundV3 {
    inbound: InboundV2,
    missing_files: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ArrivalV1 {
    id: [u8; 16],
    upstream: String,
    token: Option<(String, u64, [u8; 16])>,
    sender: Option<String>,
    recipient: String,
    message_id: Option<String>,
    subject: String,
    size: u64,
    /// Milliseconds.
    window: u64,
    held: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MoveV1 {
    id: [u8; 16],
    at: u64,
    fate: FateV1,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum FateV1 {
    Delivered { target: String, words: String },
    Deferred { target: String, why: String, due: u64 },
    Dead { target: String, why: String },
    Released { operator: String },
}

/// Where it stands, in its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LegV1 {
    Waiting,
    Delivered,
    Dead,
    Duplicate,
}

impl From<Leg> for LegV1 {
    fn from(leg: Leg) -> Self {
        match leg {
            Leg::Waiting => Self::Waiting,
            Leg::Delivered => Self::Delivered,
            Leg::Dead => Self::Dead,
            Leg::Duplicate => Self::Duplicate,
        }
    }
}

impl From<LegV1> for Leg {
    fn from(stored: LegV1) -> Self {
        match stored {
            LegV1::Waiting => Self::Waiting,
            LegV1::Delivered => Self::Delivered,
            LegV1::Dead => Self::Dead,
            LegV1::Duplicate => Self::Duplicate,
        }
    }
}

impl From<&Inbound> for InboundV1 {
    fn from(inbound: &Inbound) -> Self {
        match inbound {
            Inbound::Arrived(arrival) => Self::Arrived(ArrivalV1::from(&**arrival)),
            Inbound::Moved(moved) => Self::Moved(MoveV1::from(moved)),
        }
    }
}

impl InboundV1 {
    pub fn restore(self) -> Option<Inbound> {
        Some(match self {
            Self::Arrived(arrival) => Inbound::Arrived(Box::new(arrival.restore()?)),
            Self::Moved(moved) => Inbound::Moved(moved.restore()),
        })
    }
}

impl From<&Inbound> for InboundV2 {
    fn from(inbound: &Inbound) -> Self {
        let reason = match inbound {
            Inbound::Moved(Move { fate: Fate::Released { reason, .. }, .. }) => reason.clone(),
            Inbound::Moved(_) | Inbound::Arrived(_) => String::new(),
        };
        Self { inbound: InboundV1::from(inbound), reason }
    }
}

impl InboundV2 {
    pub fn restore(self) -> Option<Inbound> {
        let mut inbound = self.inbound.restore()?;
        if let Inbound::Moved(Move { fate: Fate::Released { reason, .. }, .. }) = &mut inbound {
            *reason = self.reason;
        }
        Some(inbound)
    }
}

impl From<&Inbound> for InboundV3 {
    fn from(inbound: &Inbound) -> Self {
        let missing_files = match inbound {
            Inbound::Arrived(arrival) => arrival.missing_files,
            Inbound::Moved(_) => 0,
        };
        Self { inbound: InboundV2::from(inbound), missing_files }
    }
}

impl InboundV3 {
    pub fn restore(self) -> Option<Inbound> {
        let mut inbound = self.inbound.restore()?;
        if let Inbound::Arrived(arrival) = &mut inbound {
            arrival.missing_files = self.missing_files;
        }
        Some(inbound)
    }
}

impl From<&Arrival> for ArrivalV1 {
    fn from(arrival: &Arrival) -> Self {
        let token = arrival.token.as_ref();
        Self {
            id: arrival.id.to_bytes(),
            upstream: arrival.upstream.clone(),
            token: token.map(|(token, signed_at, digest)| (token.clone(), signed_at.millis(), *digest)),
            sender: arrival.sender.as_ref().map(ToString::to_string),
            recipient: arrival.recipient.to_string(),
            message_id: arrival.message_id.as_ref().map(ToString::to_string),
            subject: arrival.subject.clone(),
            size: arrival.size,
            window: u64::try_from(arrival.window.as_millis()).unwrap_or(u64::MAX),
            held: arrival.held.clone(),
        }
    }
}

impl ArrivalV1 {
    /// The envelope's recipient.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    pub fn restore(self) -> Option<Arrival> {
        let token = self.token;
        Some(Arrival {
            id: TrackingId::from_bytes(self.id),
            upstream: self.upstream,
            token: token.map(|(token, signed_at, digest)| (token, Timestamp::from_millis(signed_at), digest)),
            sender: self.sender.map(|sender| sender.parse()).transpose().ok()?,
            recipient: self.recipient.parse().ok()?,
            message_id: self.message_id.as_deref().and_then(MessageId::parse),
            subject: self.subject,
            size: self.size,
            window: Duration::from_millis(self.window),
            held: self.held,
            missing_files: 0,
        })
    }
}

impl From<&Move> for MoveV1 {
    fn from(moved: &Move) -> Self {
        let fate = match moved.fate.clone() {
            Fate::Delivered { target, words } => FateV1::Delivered { target, words },
            Fate::Deferred { target, why, due } => FateV1::Deferred { target, why, due: due.millis() },
            Fate::Dead { target, why } => FateV1::Dead { target, why },
            Fate::Released { operator, reason: _ } => FateV1::Released { operator },
        };
        Self { id: moved.id.to_bytes(), at: moved.at.millis(), fate }
    }
}

impl MoveV1 {
    fn restore(self) -> Move {
        let fate = match self.fate {
            FateV1::Delivered { target, words } => Fate::Delivered { target, words },
            FateV1::Deferred { target, why, due } => {
                Fate::Deferred { target, why, due: Timestamp::from_millis(due) }
            }
            FateV1::Dead { target, why } => Fate::Dead { target, why },
            FateV1::Released { operator } => Fate::Released { operator, reason: String::new() },
        };
        Move { id: TrackingId::from_bytes(self.id), at: Timestamp::from_millis(self.at), fate }
    }
}
