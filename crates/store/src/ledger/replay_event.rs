//! Where reports stand, and what becomes of one that is read anew.

use crate::ledger::apply::{arrive, put_recipient, recipient, send_row, waits_for, with_message_id};
use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::rows::{DeadRow, FactRow, OrphanRow, decode, encode};
use crate::ledger::write_batch::Overlay;
use crate::provider_events::{Content, Report, Stand};
use crate::record::{EventV1, via};
use mailtrail_mail::TrackingId;
use mailtrail_trail::{Event, Fact, Marks, Recipient, Replay, Via, What};

/// Applies an event in the place of what its report said before.
///
/// What an event has ended stays ended: its message may be gone from the journal by now.
pub fn replay(rows: &mut Overlay<'_>, replay: &Replay) -> sled::Result<()> {
    let Replay { id, upstream, before, event, .. } = replay;
    rows.delete(keys::dead(*id));
    let again = reread(rows, *id)?;
    let withdrawn = match again.as_ref().or(before.as_ref()) {
        Some(before) => withdraw(rows, *id, upstream, before)?,
        None => None,
    };
    arrive(rows, *id, upstream, replay.via, event)?;
    rows.put(keys::reread(*id), encode(&EventV1::from(event)));
    match withdrawn {
        Some((send, fact)) => recount(rows, send, &fact.recipients),
        None => Ok(()),
    }
}

/// What a report says since it was read anew, if it was.
fn reread(rows: &Overlay<'_>, report: TrackingId) -> sled::Result<Option<Event>> {
    Ok(rows.get(&keys::reread(report))?.as_deref().and_then(decode::<EventV1>).map(Event::from))
}

/// Takes an event out, as if it had not come; but for the marks that it left on the recipients of the send that is
/// given back.
fn withdraw(
    rows: &mut Overlay<'_>,
    report: TrackingId,
    upstream: &str,
    event: &Event,
) -> sled::Result<Option<(TrackingId, Fact)>> {
    rows.delete(keys::orphan(&waits_for(event), report));
    rows.delete(keys::event(upstream, &event.identity, event.at));
    let holder = holder(rows, upstream, event)?;
    if let Some((send, _)) = &holder {
        rows.delete(keys::reported(*send, event.at, upstream, &event.identity));
    }
    Ok(holder)
}

/// The send that an event was brought to, and what its trail says of it.
fn holder(rows: &Overlay<'_>, upstream: &str, event: &Event) -> sled::Result<Option<(TrackingId, Fact)>> {
    let sends = match (event.tracking, &event.message_id) {
        (Some(id), _) => vec![id],
        (None, Some(message_id)) => with_message_id(rows, message_id)?,
        (None, None) => Vec::new(),
    };
    for send in sends {
        let fact = rows.get(&keys::reported(send, event.at, upstream, &event.identity))?;
        if let Some(fact) = fact.as_deref().and_then(decode::<FactRow>) {
            return Ok(Some((send, fact.into())));
        }
    }
    Ok(None)
}

/// Marks recipients anew by what the trail of their send says.
fn recount(rows: &mut Overlay<'_>, send: TrackingId, numbers: &[u16]) -> sled::Result<()> {
    let Some(mut row) = send_row(rows, send)? else { return Ok(()) };
    let trail = rows.scan(&keys::facts(send), usize::MAX)?;
    let facts: Vec<_> =
        trail.iter().filter_map(|(_, fact)| decode::<FactRow>(fact)).map(Fact::from).collect();
    for &number in numbers {
        let Some(known) = recipient(rows, &row, number)? else { continue };
        let mut anew = Recipient { marks: Marks::default(), failure: None, traced: false, ..known.clone() };
        for fact in facts.iter().filter(|fact| fact.recipients.contains(&number)) {
            if let (What::Reported(kind), Some(rung)) = (fact.what, fact.rung) {
                anew.mark(kind, fact.by_machine, fact.at, &fact.words, rung);
            }
        }
        if known.is_open() || !anew.is_open() {
            put_recipient(rows, &mut row, number, &anew);
        }
    }
    rows.put(keys::send(send), encode(&row));
    Ok(())
}

impl Projection {
    /// What a report says by now.
    pub fn reread(&self, report: TrackingId) -> sled::Result<Option<Event>> {
        reread(&Overlay::new(self.rows()), report)
    }

    /// Where a report stands.
    pub fn stand(&self, report: TrackingId, upstream: &str, content: &Content) -> sled::Result<Stand> {
        let rows = Overlay::new(self.rows());
        let there = |key: Vec<u8>| Ok::<_, sled::Error>(rows.get(&key)?.is_some());
        Ok(match content {
            Content::Dead { .. } if there(keys::dead(report))? => Stand::Dead,
            Content::Dead { .. } => Stand::Gone,
            Content::Hint(_) => Stand::Hint,
            Content::Event(event) => match holder(&rows, upstream, event)? {
                Some((send, Fact { rung: Some(rung), .. })) => Stand::Joined { send, rung },
                _ if there(keys::orphan(&waits_for(event), report))? => Stand::Orphan,
                _ => Stand::Gone,
            },
        })
    }

    /// Events without a send, in no order.
    pub fn orphans(&self) -> impl Iterator<Item = sled::Result<Report>> {
        let row = |(key, value): (sled::IVec, sled::IVec)| {
            let row = decode::<OrphanRow>(&value)?;
            let event = Event::from(row.event);
            Some(report(keys::read_id(&key)?, row.upstream, via(row.polled), event.into()))
        };
        self.rows().prefixed(b"u").filter_map(move |found| found.map(row).transpose())
    }

    /// Dead letters, newest first.
    pub fn dead(&self) -> impl Iterator<Item = sled::Result<Report>> {
        let row = |(key, value): (sled::IVec, sled::IVec)| {
            let row = decode::<DeadRow>(&value)?;
            let content = Content::Dead { reason: row.reason };
            Some(report(keys::read_id(&key)?, row.upstream, via(row.polled), content))
        };
        self.rows().prefixed_back(keys::DEAD).filter_map(move |found| found.map(row).transpose())
    }

    /// Events without a send, and dead letters. Reads all of them.
    pub fn count_letters(&self) -> sled::Result<(u64, u64)> {
        let count = |prefix| self.rows().prefixed(prefix).try_fold(0, |count, row| row.map(|_| count + 1));
        Ok((count(b"u")?, count(keys::DEAD)?))
    }
}

fn report(id: TrackingId, upstream: String, via: Via, content: Content) -> Report {
    Report { id, upstream, via, content, body: None }
}
