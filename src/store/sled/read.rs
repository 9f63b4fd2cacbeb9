//! Lookups.

use super::overlay::Overlay;
use super::projection::Projection;
use super::rows::{FactRow, RecipientRow, SendRow, decode};
use super::window::Rows;
use super::{apply, keys};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::id::TrackingId;
use crate::ledger::{About, Fact, Recipient, Rung, Send, Source, Trail, What};
use crate::mail::{MessageId, Record};
use std::collections::HashSet;
use std::ops::Bound::Included;

impl Projection {
    /// One send with where its record lies.
    pub fn send(&self, id: TrackingId) -> sled::Result<Option<(Send, SendRow)>> {
        let row = self.rows().get(&keys::send(id))?.and_then(|value| decode::<SendRow>(&value));
        Ok(row.and_then(|row| Some((row.send.clone().restore()?, row))))
    }

    /// Whether there is such a send.
    pub fn knows(&self, id: TrackingId) -> sled::Result<bool> {
        self.rows().has(&keys::send(id))
    }

    /// Whether an attempt sends it right now, or was cut off.
    pub fn is_sending(&self, id: TrackingId) -> sled::Result<bool> {
        self.rows().has(&keys::sending(id))
    }

    /// The recipients of a send in the order of the envelope.
    pub fn recipients(&self, id: TrackingId, row: &SendRow) -> sled::Result<Vec<Recipient>> {
        let mut recipients = Vec::with_capacity(usize::from(row.recipients));
        for number in 0..row.recipients {
            let found = match &row.only {
                Some(only) => Some(only.clone()),
                None => self.rows().get(&keys::recipient(id, number))?.and_then(|value| decode(&value)),
            };
            // Passing one over would give its place to the next.
            let damaged = || sled::Error::ReportableBug(format!("recipient {number} of {id} cannot be read"));
            recipients.push(found.and_then(RecipientRow::restore).ok_or_else(damaged)?);
        }
        Ok(recipients)
    }

    /// Everything about one send.
    pub fn trail(&self, id: TrackingId) -> sled::Result<Option<Trail>> {
        let Some((send, row)) = self.send(id)? else { return Ok(None) };
        let mut facts = vec![acceptance(&send)];
        for fact in self.rows().prefixed(&keys::facts(id)) {
            facts.extend(decode::<FactRow>(&fact?.1).map(Fact::from));
        }
        Ok(Some(Trail {
            recipients: self.recipients(id, &row)?,
            facts,
            attempts: row.attempts,
            due: row.due.map(Timestamp::from_millis),
            sending: self.is_sending(id)?,
            send,
        }))
    }

    /// Sends that are due by `now`, earliest first and without those in `except`, at most `limit`; and when the
    /// next one behind them is due.
    pub fn due(
        &self,
        now: Timestamp,
        limit: usize,
        except: &HashSet<TrackingId>,
    ) -> sled::Result<(Vec<TrackingId>, Option<Timestamp>)> {
        let mut ids = Vec::new();
        for row in self.rows().prefixed(b"q") {
            let Some((at, id)) = keys::read_due(&row?.0) else { continue };
            if except.contains(&id) {
                continue;
            }
            if at > now || ids.len() == limit {
                return Ok((ids, Some(at)));
            }
            ids.push(id);
        }
        Ok((ids, None))
    }

    /// The sends with a next attempt that `wanted` asks for, the earliest due first.
    pub fn queued(&self, wanted: impl Fn(TrackingId) -> bool, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let ids = ids(self.rows().prefixed(b"q"));
        ids.filter(|id| id.as_ref().map_or(true, |id| wanted(*id))).take(limit).collect()
    }

    /// Sends whose attempt was cut off.
    pub fn interrupted(&self) -> sled::Result<Vec<TrackingId>> {
        ids(self.rows().prefixed(b"w")).collect()
    }

    /// Reports that are to be made, at most `limit`.
    pub fn unreported(&self, limit: usize) -> sled::Result<Vec<About>> {
        let rows = self.rows().prefixed(b"n").take(limit);
        rows.map(|row| row.map(|(key, _)| keys::read_unreported(&key)))
            .filter_map(Result::transpose)
            .collect()
    }

    /// Whether this event was taken already.
    pub fn knows_event(&self, upstream: &str, event: &Event) -> sled::Result<bool> {
        let rows = Overlay::new(self.rows());
        let found = apply::find(&rows, event)?;
        apply::is_known(&rows, upstream, event, found.as_ref())
    }

    /// The digest of the body that a webhook's token came with.
    pub fn token(&self, upstream: &str, token: &str, signed_at: Timestamp) -> sled::Result<Option<Vec<u8>>> {
        Ok(self.rows().get(&keys::token(upstream, token, signed_at))?.map(|value| value.to_vec()))
    }

    /// Sends with that Message-ID, newest first.
    pub fn by_message_id(&self, message_id: &MessageId, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let mut found = Vec::new();
        for id in ids(self.rows().prefixed_back(&keys::message_id(message_id.as_str()))) {
            if found.len() == limit {
                break;
            }
            let id = id?;
            let row = self.rows().get(&keys::send(id))?.as_deref().and_then(decode::<SendRow>);
            found.extend(row.filter(|row| row.has_message_id(message_id)).map(|_| id));
        }
        Ok(found)
    }

    /// Sends to that recipient, newest first.
    pub fn by_recipient(&self, address: &str, limit: usize) -> sled::Result<Vec<TrackingId>> {
        self.indexed(&keys::address(&address.to_lowercase()), limit)
    }

    /// Sends about that record of Odoo's, newest first.
    pub fn by_record(&self, record: &Record, limit: usize) -> sled::Result<Vec<TrackingId>> {
        self.indexed(&keys::record(&record.to_string()), limit)
    }

    /// Sends from `low` to `high`, newest first.
    pub fn between(&self, low: TrackingId, high: TrackingId, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let range = (Included(keys::send(low).into()), Included(keys::send(high).into()));
        ids(self.rows().range_back(range)).take(limit).collect()
    }

    /// The send that an event belongs to.
    pub fn find(&self, event: &Event) -> sled::Result<Option<(TrackingId, Vec<u16>, Rung)>> {
        let found = apply::find(&Overlay::new(self.rows()), event)?;
        Ok(found.map(|found| (found.id, found.recipients, found.rung)))
    }

    fn indexed(&self, prefix: &[u8], limit: usize) -> sled::Result<Vec<TrackingId>> {
        ids(self.rows().prefixed_back(prefix)).take(limit).collect()
    }
}

/// The sends that rows lead to.
fn ids(rows: Rows<'_>) -> impl Iterator<Item = sled::Result<TrackingId>> {
    rows.filter_map(|row| row.map(|(key, _)| keys::read_id(&key)).transpose())
}

/// The first fact of every trail.
pub fn acceptance(send: &Send) -> Fact {
    Fact {
        at: send.id.timestamp(),
        what: What::Accepted,
        source: Source::Client,
        upstream: None,
        recipients: Vec::new(),
        words: crate::event::Words { host: send.peer.map(|peer| peer.to_string()), ..Default::default() },
        due: None,
        rung: None::<Rung>,
        by_machine: false,
    }
}
