//! Lookups.

use crate::Queued;
use crate::ledger::database::Projection;
use crate::ledger::memtable::{Rows, starting_with};
use crate::ledger::rows::{FactRow, RecipientRow, SendRow, WaitsRow, decode};
use crate::ledger::write_batch::Overlay;
use crate::ledger::{apply, keys};
use mailtrail_mail::{Mailbox, MessageId, Record, Timestamp, TrackingId, fold_address};
use mailtrail_trail::{About, Begun, Event, Fact, Recipient, Rung, Send, Trail};
use std::ops::Bound::{Excluded, Included};
use std::ops::RangeInclusive;
use std::time::Duration;

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

    /// Everything about one send, as it was at one time: it is read again where it changed meanwhile.
    pub fn trail(&self, id: TrackingId) -> sled::Result<Option<Trail>> {
        let key = keys::send(id);
        for _ in 0..READ_AGAIN {
            let before = self.rows().get(&key)?;
            let trail = self.trail_once(id)?;
            if self.rows().get(&key)? == before {
                return Ok(trail);
            }
        }
        self.trail_once(id)
    }

    fn trail_once(&self, id: TrackingId) -> sled::Result<Option<Trail>> {
        let Some((send, row)) = self.send(id)? else { return Ok(None) };
        let mut facts = vec![Fact::of_acceptance(&send)];
        for fact in self.rows().prefixed(&keys::facts(id)) {
            facts.extend(decode::<FactRow>(&fact?.1).map(Fact::from));
        }
        facts[1..].sort_by_key(|fact| fact.at);
        Ok(Some(Trail {
            recipients: self.recipients(id, &row)?,
            facts,
            attempts: row.attempts,
            due: row.due(),
            waits: row.queued.map(|queued| queued.waits.into()),
            sending: self.is_sending(id)?,
            send,
        }))
    }

    /// The queues that hold mail, those of the first lane first.
    pub fn queues(&self) -> sled::Result<Vec<Queued>> {
        let (mut from, end) = starting_with(b"q");
        let mut queues = Vec::new();
        while let Some(row) = self.rows().range((from, end.clone())).next() {
            let (key, value) = row?;
            let Some((queue, ..)) = keys::read_due(&key) else { break };
            if let Some(waits) = decode::<WaitsRow>(&value) {
                queues.push(Queued { lane: keys::read_lane(queue), waits: waits.into() });
            }
            // The next begins where this one ends.
            from = match starting_with(queue).1 {
                Excluded(end) => Included(end),
                end => end,
            };
        }
        Ok(queues)
    }

    /// Sends of a queue that are due by `now` and that `free` lets through, earliest first, at most `limit`; and when
    /// the next one behind them is due.
    pub fn due(
        &self,
        queue: &Queued,
        now: Timestamp,
        limit: usize,
        mut free: impl FnMut(TrackingId) -> bool,
    ) -> sled::Result<(Vec<TrackingId>, Option<Timestamp>)> {
        let mut due = Vec::new();
        for row in self.rows().prefixed(&queue.key()) {
            let (key, _) = row?;
            let Some((_, at, id)) = keys::read_due(&key) else { continue };
            if at > now || due.len() == limit {
                return Ok((due, Some(at)));
            }
            if free(id) {
                due.push(id);
            }
        }
        Ok((due, None))
    }

    /// The sends of a queue that `wanted` asks for, each with when it is due, the earliest first.
    pub fn queued(
        &self,
        queue: &Queued,
        wanted: impl Fn(TrackingId) -> bool,
        limit: usize,
    ) -> sled::Result<Vec<(Timestamp, TrackingId)>> {
        let rows = self.rows().prefixed(&queue.key());
        let due = rows.filter_map(|row| {
            row.map(|(key, _)| keys::read_due(&key).map(|(_, at, id)| (at, id))).transpose()
        });
        due.filter(|due| due.as_ref().map_or(true, |(_, id)| wanted(*id))).take(limit).collect()
    }

    /// The sends of a queue whose wait began behind `now`, at most `limit`: each with how long it was to be.
    pub fn ahead(
        &self,
        queue: &Queued,
        now: Timestamp,
        limit: usize,
    ) -> sled::Result<Vec<(TrackingId, Duration)>> {
        let mut ahead = Vec::new();
        for row in self.rows().prefixed(&queue.key()) {
            let (key, _) = row?;
            let Some((_, due, id)) = keys::read_due(&key).filter(|(_, due, _)| *due > now) else { continue };
            let Some((_, row)) = self.send(id)? else { continue };
            let began = Timestamp::from_millis(row.changed);
            if began > now {
                ahead.push((id, due.since(began)));
            }
            if ahead.len() == limit {
                break;
            }
        }
        Ok(ahead)
    }

    /// Attempts that are under way, or were cut off.
    pub fn interrupted(&self) -> sled::Result<Vec<Begun>> {
        let rows = self.rows().prefixed(b"w").map(|row| {
            let (key, value) = row?;
            let begun = |(at, upstream)| {
                Some(Begun { id: keys::read_id(&key)?, at: Timestamp::from_millis(at), upstream })
            };
            Ok(decode(&value).and_then(begun))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Why an operator keeps the breaker of an upstream open, if that is so.
    pub fn forced_open(&self, upstream: &str) -> sled::Result<Option<String>> {
        let reason = self.rows().get(&keys::forced_open(upstream))?;
        Ok(reason.map(|reason| String::from_utf8_lossy(&reason).into_owned()))
    }

    /// Up to when the events of an upstream's provider are all in.
    pub fn polled_until(&self, upstream: &str) -> sled::Result<Option<Timestamp>> {
        let until = self.rows().get(&keys::polled(upstream))?;
        Ok(until.and_then(|until| decode(&until)).map(Timestamp::from_millis))
    }

    /// Recipients that an upstream took on `days`.
    pub fn taken(&self, upstream: &str, days: RangeInclusive<u16>) -> sled::Result<u64> {
        let range = (
            Included(keys::taken(upstream, *days.start()).into()),
            Included(keys::taken(upstream, *days.end()).into()),
        );
        let mut taken = 0;
        for row in self.rows().range(range) {
            taken += decode::<u64>(&row?.1).unwrap_or_default();
        }
        Ok(taken)
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
        apply::is_known(&Overlay::new(self.rows()), upstream, event)
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

    /// Whether a newer send has the same Message-ID and recipient.
    pub fn is_sent_again(&self, send: &Send, recipient: &Mailbox) -> sled::Result<bool> {
        let Some(message_id) = &send.message_id else { return Ok(false) };
        let to_recipient = keys::address(&recipient.folded());
        let with_message_id = keys::message_id(message_id.as_str());
        // A recipient seldom gets much meanwhile; where one does, the message has fewer sends.
        let newer = self.newer(&to_recipient, send.id, NEWER_TO_RECIPIENT)?;
        let (newer, other) = match newer.len() {
            NEWER_TO_RECIPIENT => (self.newer(&with_message_id, send.id, NEWER_OF_MESSAGE)?, to_recipient),
            _ => (newer, with_message_id),
        };
        for id in newer {
            if self.rows().get(&keys::indexed(other.clone(), id))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first sends after `id` in an index.
    fn newer(&self, prefix: &[u8], id: TrackingId, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let after = Excluded(keys::indexed(prefix.to_vec(), id).into());
        let (_, end) = starting_with(prefix);
        ids(self.rows().range((after, end))).take(limit).collect()
    }

    /// Sends to that recipient, newest first.
    pub fn by_recipient(&self, address: &str, limit: usize) -> sled::Result<Vec<TrackingId>> {
        self.indexed(&keys::address(&fold_address(address)), limit)
    }

    /// Sends about that record of Odoo's, newest first.
    pub fn by_record(&self, record: &Record, limit: usize) -> sled::Result<Vec<TrackingId>> {
        self.indexed(&keys::record(&record.to_string()), limit)
    }

    /// Of the newest `searched` sends those whose subject contains `part`, newest first; and whether there are others.
    pub fn by_subject(
        &self,
        part: &str,
        limit: usize,
        searched: usize,
    ) -> sled::Result<(Vec<TrackingId>, bool)> {
        let part = part.to_lowercase();
        let (mut found, mut newest) = (Vec::new(), self.rows().prefixed_back(b"m"));
        for row in newest.by_ref().take(searched) {
            let send = decode::<SendRow>(&row?.1).map(|row| row.send);
            found.extend(
                send.filter(|send| send.subject().to_lowercase().contains(&part)).map(|send| send.id()),
            );
            if found.len() == limit {
                return Ok((found, false));
            }
        }
        Ok((found, newest.next().is_some()))
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

impl Queued {
    fn key(&self) -> Vec<u8> {
        keys::queue(self.lane, &WaitsRow::from(&self.waits))
    }
}

/// Newer sends to one recipient, and of one message, that are looked at for one of both.
const NEWER_TO_RECIPIENT: usize = 64;
const NEWER_OF_MESSAGE: usize = 2000;
/// How often a trail that changes while it is read is read again.
const READ_AGAIN: usize = 5;

/// The sends that rows lead to.
fn ids(rows: Rows<'_>) -> impl Iterator<Item = sled::Result<TrackingId>> {
    rows.filter_map(|row| row.map(|(key, _)| keys::read_id(&key)).transpose())
}
