//! Mail from outside: a row for each, a place among those that wait, and what duplicates are recognised by.

use crate::journal::Place;
use crate::ledger::apply::{count, cut, is_first_use};
use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::rows::{decode, encode};
use crate::ledger::write_batch::Overlay;
use crate::record::{ArrivalV1, LegV1};
use mailtrail_mail::{Mailbox, Timestamp, TrackingId};
use mailtrail_trail::{Arrival, Fate, Inbound, InboundMail, Leg, Move};
use serde::{Deserialize, Serialize};

/// A mail from outside as its row holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundRow {
    arrival: ArrivalV1,
    leg: LegV1,
    since: u64,
    due: u64,
    attempts: u32,
    target: String,
    words: String,
    place: Place,
    /// Bytes of the message in the journal.
    body: u32,
    missing_files: u32,
}

pub fn apply(rows: &mut Overlay<'_>, inbound: &Inbound, place: Place, body: u32) -> sled::Result<()> {
    match inbound {
        Inbound::Arrived(arrival) => arrive(rows, arrival, place, body),
        Inbound::Moved(moved) => go_on(rows, moved),
    }
}

fn arrive(rows: &mut Overlay<'_>, arrival: &Arrival, place: Place, body: u32) -> sled::Result<()> {
    if !is_first_use(rows, &arrival.upstream, arrival.token.as_ref())? {
        return Ok(());
    }
    let same = same(rows, arrival)?;
    let (leg, words) = match (&arrival.held, same) {
        (Some(why), _) => (LegV1::Dead, cut(why)),
        (None, Some(other)) => (LegV1::Duplicate, format!("the same as {other}")),
        (None, None) => (LegV1::Waiting, String::new()),
    };
    let at = arrival.id.timestamp().millis();
    let row = InboundRow {
        arrival: ArrivalV1::from(arrival),
        leg,
        since: at,
        due: at,
        attempts: 0,
        target: String::new(),
        words,
        place,
        body,
        missing_files: arrival.missing_files,
    };
    put(rows, arrival.id, &row);
    Ok(())
}

/// The mail that this one is a duplicate of; where it is none, those to come are compared with it.
fn same(rows: &mut Overlay<'_>, arrival: &Arrival) -> sled::Result<Option<TrackingId>> {
    let Some(message_id) = arrival.message_id.as_ref().filter(|_| arrival.held.is_none()) else {
        return Ok(None);
    };
    let key = keys::inbound_same(message_id.as_str(), &arrival.recipient.folded());
    let known = rows.get(&key)?.as_deref().and_then(decode::<[u8; 16]>).map(TrackingId::from_bytes);
    let fresh = |other: &TrackingId| arrival.id.timestamp().since(other.timestamp()) <= arrival.window;
    if let Some(other) =
        known.filter(|other| *other != arrival.id && !arrival.window.is_zero() && fresh(other))
    {
        return Ok(Some(other));
    }
    rows.put(key, encode(&arrival.id.to_bytes()));
    Ok(None)
}

fn go_on(rows: &mut Overlay<'_>, moved: &Move) -> sled::Result<()> {
    let found = rows.get(&keys::inbound(moved.id))?;
    let Some(mut row) = found.as_deref().and_then(decode::<InboundRow>) else { return Ok(()) };
    let at = moved.at.millis();
    match (&moved.fate, row.leg) {
        (Fate::Released { .. }, LegV1::Dead | LegV1::Duplicate) => {
            (row.leg, row.since, row.due, row.attempts) = (LegV1::Waiting, at, at, 0);
            (row.target, row.words) = (String::new(), String::new());
        }
        (Fate::Delivered { target, words }, LegV1::Waiting) => {
            (row.leg, row.since) = (LegV1::Delivered, at);
            (row.target, row.words) = (target.clone(), cut(words));
            count(rows, keys::garbage(row.place.segment), u64::from(row.body))?;
        }
        (Fate::Deferred { target, why, due }, LegV1::Waiting) => {
            (row.due, row.attempts) = (due.millis(), row.attempts.saturating_add(1));
            (row.target, row.words) = (target.clone(), cut(why));
        }
        (Fate::Dead { target, why }, LegV1::Waiting) => {
            (row.leg, row.since) = (LegV1::Dead, at);
            (row.target, row.words) = (target.clone(), cut(why));
        }
        _ => return Ok(()),
    }
    put(rows, moved.id, &row);
    Ok(())
}

fn put(rows: &mut Overlay<'_>, id: TrackingId, row: &InboundRow) {
    let waits = keys::inbound_waits(id);
    match row.leg {
        LegV1::Waiting => rows.put(waits, encode(&(row.due, row.arrival.recipient()))),
        _ => rows.delete(waits),
    }
    rows.put(keys::inbound(id), encode(row));
}

impl InboundRow {
    fn restore(self) -> Option<(InboundMail, Place)> {
        let mail = InboundMail {
            arrival: Arrival { missing_files: self.missing_files, ..self.arrival.restore()? },
            leg: Leg::from(self.leg),
            since: Timestamp::from_millis(self.since),
            due: Timestamp::from_millis(self.due),
            attempts: self.attempts,
            target: self.target,
            words: self.words,
        };
        Some((mail, self.place))
    }
}

impl Projection {
    /// One mail from outside, and where its message lies.
    pub fn inbound_mail(&self, id: TrackingId) -> sled::Result<Option<(InboundMail, Place)>> {
        let row = self.rows().get(&keys::inbound(id))?;
        Ok(row.as_deref().and_then(decode::<InboundRow>).and_then(InboundRow::restore))
    }

    /// The first to come of those that wait, are due by `now` and to a recipient that is `wanted`.
    pub fn next_inbound(
        &self,
        now: Timestamp,
        wanted: impl Fn(&Mailbox) -> bool,
    ) -> sled::Result<Option<InboundMail>> {
        for row in self.rows().prefixed(keys::INBOUND_WAITS) {
            let (key, value) = row?;
            let Some((id, (due, recipient))) = keys::read_id(&key).zip(decode::<(u64, String)>(&value))
            else {
                continue;
            };
            if due <= now.millis() && recipient.parse().is_ok_and(|recipient| wanted(&recipient)) {
                return Ok(self.inbound_mail(id)?.map(|(mail, _)| mail));
            }
        }
        Ok(None)
    }

    /// Those that are `wanted`, newest first.
    pub fn inbound(
        &self,
        limit: usize,
        wanted: impl Fn(&InboundMail) -> bool,
    ) -> sled::Result<Vec<InboundMail>> {
        let mut found = Vec::new();
        for row in self.rows().prefixed_back(keys::INBOUND) {
            let mail = decode::<InboundRow>(&row?.1).and_then(InboundRow::restore).map(|(mail, _)| mail);
            found.extend(mail.filter(&wanted));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Keys of mail from outside that came before `before` and does not wait, and of what its duplicates are recognised
    /// by; at most `limit`.
    pub fn expired_inbound(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for row in self.rows().prefixed(keys::INBOUND) {
            let (key, value) = row?;
            if expired.len() >= limit || keys::read_id(&key).is_none_or(|id| id.timestamp() >= before) {
                break;
            }
            if decode(&value).is_none_or(|row: InboundRow| row.leg != LegV1::Waiting) {
                expired.push(key.to_vec());
            }
        }
        for row in self.rows().prefixed(keys::INBOUND_SAME) {
            let (key, value) = row?;
            let old = |id: [u8; 16]| TrackingId::from_bytes(id).timestamp() < before;
            if expired.len() < limit && decode(&value).is_none_or(old) {
                expired.push(key.to_vec());
            }
        }
        Ok(expired)
    }
}
