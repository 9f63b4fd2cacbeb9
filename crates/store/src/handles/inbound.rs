//! Inbound messages: storing, state changes and lookups.

use crate::body::MessageBody;
use crate::commit_command::{CommitError, CommitOptions};
use crate::read_error::ReadError;
use crate::record::Record;
use crate::store::Store;
use crate::stored_body::StoredBody;
use bytes::Bytes;
use mailtrail_mail::{Mailbox, Timestamp, TrackingId};
use mailtrail_trail::{InboundReceived, InboundRecord, InboundSummary, InboundTransition};

impl Store {
    /// Stores an inbound message and its body; lookups see it on return. If its token came with another body
    /// before, the message is ignored. If it equals another message, it is stored as a duplicate of that.
    pub async fn put_inbound(
        &self,
        received: InboundReceived,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        let record = Record::Inbound(Box::new(InboundRecord::Received(Box::new(received))));
        self.0.commit(record, message, CommitOptions::URGENT_APPLIED).await
    }

    /// Records a state change of an inbound message; lookups see it on return.
    pub async fn record_inbound(&self, transition: InboundTransition) -> Result<(), CommitError> {
        let record = Record::Inbound(Box::new(InboundRecord::Transitioned(transition)));
        self.0.commit(record, Bytes::new(), CommitOptions::RELAXED_APPLIED).await
    }

    /// Returns the earliest received inbound message that is due by `now` and to a recipient that satisfies
    /// `wanted`.
    pub fn next_due_inbound(
        &self,
        now: Timestamp,
        wanted: impl Fn(&Mailbox) -> bool,
    ) -> Result<Option<InboundSummary>, ReadError> {
        Ok(self.0.ledger()?.next_due_inbound(now, wanted)?)
    }

    /// Returns up to `limit` inbound messages that satisfy `wanted`, newest first. Reads all of them.
    pub fn find_inbound(
        &self,
        limit: usize,
        wanted: impl Fn(&InboundSummary) -> bool,
    ) -> Result<Vec<InboundSummary>, ReadError> {
        Ok(self.0.ledger()?.find_inbound(limit, wanted)?)
    }

    /// Returns one inbound message.
    pub fn load_inbound(&self, id: TrackingId) -> Result<Option<InboundSummary>, ReadError> {
        Ok(self.0.ledger()?.inbound_mail(id)?.map(|(mail, _)| mail))
    }

    /// Returns the body of an inbound message; `None` if it is no longer stored, or found to be damaged.
    pub fn load_inbound_body(&self, id: TrackingId) -> Result<Option<StoredBody>, ReadError> {
        let Some((_, place)) = self.0.ledger()?.inbound_mail(id)? else { return Ok(None) };
        self.0.load_body(place)
    }

    /// Returns the whole body of an inbound message in memory. Blocks.
    pub fn read_inbound_body(&self, id: TrackingId) -> Result<Option<Bytes>, ReadError> {
        match self.load_inbound_body(id)? {
            Some(stored) => Ok(stored.read_all()?),
            None => Ok(None),
        }
    }
}
