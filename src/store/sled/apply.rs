//! What each record of the journal changes. Applying is a pure function of the rows and the record, so replaying
//! the journal always ends in the same rows.

use super::keys;
use super::overlay::Overlay;
use super::rows::{FactRow, OrphanRow, QueuedRow, RecipientRow, SendRow, WaitsRow, decode, encode};
use super::suppressed;
use crate::clock::Timestamp;
use crate::event::{Event, Words};
use crate::id::TrackingId;
use crate::ledger::{
    About, Accepted, Action, Fact, Notice, Occasion, Outcome, Recipient, Rung, Send, Settled, Standing,
    State, Switch, Verb, Via,
};
use crate::mail::{Mailbox, MessageId};
use crate::store::journal::Place;
use crate::store::record::{EventV1, Record, SendV3, via};
use std::time::Duration;

/// Applies one record that lies at `place` with `body` bytes of body.
pub fn apply(rows: &mut Overlay<'_>, record: &Record, place: Place, body: u32) -> sled::Result<()> {
    match record {
        Record::Accepted(record) => accepted(rows, record, place, body),
        Record::Begun(begun) => {
            let key = keys::sending(begun.id);
            if rows.get(&key)?.is_none() {
                rows.put_new(key, encode(&(begun.at.millis(), &begun.upstream)));
            }
            Ok(())
        }
        Record::Action(record) => action(rows, record, place),
        Record::Switch(record) => {
            switch(rows, record);
            Ok(())
        }
        Record::Listing(record) => suppressed::listing(rows, record),
        Record::Outcome(record) => outcome(rows, record, place),
        Record::Notice(record) => notice(rows, record, place),
        Record::Repeated(record) => {
            if send_row(rows, record.id)?.is_some() {
                let fact = FactRow::from(&Fact::of_repetition(record));
                rows.put(keys::attempted(record.id, record.at, place, 0), encode(&fact));
            }
            Ok(())
        }
    }
}

fn accepted(rows: &mut Overlay<'_>, accepted: &Accepted, place: Place, body: u32) -> sled::Result<()> {
    let (send, id) = (&accepted.send, accepted.send.id);
    let due = id.timestamp();
    let waits = WaitsRow::ForRoute(send.route.clone());
    rows.put_new(keys::due(keys::queue(send.lane, &waits), due, id), encode(&waits));
    let only = match &accepted.recipients[..] {
        [only] => Some(RecipientRow::from(&Recipient::new(only.clone()))),
        _ => None,
    };
    let row = SendRow {
        send: SendV3::from(send),
        recipients: u16::try_from(accepted.recipients.len()).unwrap_or(u16::MAX),
        attempts: 0,
        queued: Some(QueuedRow { due: due.millis(), waits }),
        unknown_at: None,
        changed: due.millis(),
        place,
        body,
        only,
    };
    rows.put_new(keys::send(id), encode(&row));
    for (number, address) in (0u16..).zip(&accepted.recipients) {
        if row.only.is_none() {
            let recipient = RecipientRow::from(&Recipient::new(address.clone()));
            rows.put_new(keys::recipient(id, number), encode(&recipient));
        }
        rows.put_new(keys::indexed(keys::address(&address.folded()), id), Vec::new());
    }
    for record in &send.records {
        rows.put_new(keys::indexed(keys::record(&record.to_string()), id), Vec::new());
    }
    if let Some(message_id) = &send.message_id {
        rows.put_new(keys::indexed(keys::message_id(message_id.as_str()), id), Vec::new());
        adopt_orphans(rows, message_id.as_str())?;
    }
    if let Some(about) = &send.about {
        told(rows, about, send, place)?;
    }
    Ok(())
}

/// A send that is a report: it is made, and the trail of what it is about says so.
fn told(rows: &mut Overlay<'_>, about: &About, report: &Send, place: Place) -> sled::Result<()> {
    rows.delete(keys::unreported(about));
    if send_row(rows, about.id)?.is_some() {
        let fact = Fact::of_report(about, report.id);
        rows.put(keys::attempted(about.id, fact.at, place, about.recipient), encode(&FactRow::from(&fact)));
    }
    Ok(())
}

/// Notes that the sender is to get a report on a recipient, if that is so now and was not so before.
fn tell(rows: &mut Overlay<'_>, row: &SendRow, place: u16, recipient: &mut Recipient) {
    let told = |occasion| recipient.told == Some(Occasion::Failure) || recipient.told == Some(occasion);
    if let Some(occasion) = row.send.occasion(place, recipient.state()).filter(|occasion| !told(*occasion)) {
        recipient.told = Some(occasion);
        let about = About { id: row.send.id(), recipient: place, occasion };
        rows.put(keys::unreported(&about), Vec::new());
    }
}

/// Events that came before their send join it now.
fn adopt_orphans(rows: &mut Overlay<'_>, waits_for: &str) -> sled::Result<()> {
    for (key, value) in rows.scan(&keys::orphans(waits_for), ORPHANS)? {
        let Some(orphan) = decode::<OrphanRow>(&value) else { continue };
        let event = Event::from(orphan.event);
        if let Some(found) = find(rows, &event)? {
            join(rows, &orphan.upstream, via(orphan.polled), &event, found)?;
            rows.delete(key);
        }
    }
    Ok(())
}

fn outcome(rows: &mut Overlay<'_>, outcome: &Outcome, place: Place) -> sled::Result<()> {
    rows.delete(keys::sending(outcome.id));
    let Some(mut row) = send_row(rows, outcome.id)? else { return Ok(()) };
    row.attempts += 1;
    row.changed = row.changed.max(outcome.at.millis());
    let taken = |settled: &&Settled| settled.standing == Standing::Relayed;
    let taken: usize = outcome.settled.iter().filter(taken).map(|settled| settled.recipients.len()).sum();
    if taken > 0 {
        count(rows, keys::taken(&outcome.upstream, outcome.at.day()), taken as u64)?;
    }
    for (part, settled) in (0u16..).zip(&outcome.settled) {
        for number in &settled.recipients {
            let Some(mut recipient) = recipient(rows, &row, *number)? else { continue };
            recipient.attempted(settled.standing);
            if settled.standing == Standing::Unknown {
                row.unknown_at = Some(outcome.upstream.clone().into());
            }
            recipient.words = settled.words.clone();
            tell(rows, &row, *number, &mut recipient);
            put_recipient(rows, &mut row, *number, &recipient);
        }
        let fact = Fact::of_attempt(outcome, settled);
        rows.put(keys::attempted(outcome.id, outcome.at, place, part), encode(&FactRow::from(&fact)));
    }
    schedule(rows, &mut row, outcome.due)?;
    rows.put(keys::send(outcome.id), encode(&row));
    Ok(())
}

/// Counts on a row that holds a number.
fn count(rows: &mut Overlay<'_>, key: Vec<u8>, more: u64) -> sled::Result<()> {
    let known: u64 = rows.get(&key)?.as_deref().and_then(decode).unwrap_or_default();
    rows.put(key, encode(&(known + more)));
    Ok(())
}

fn action(rows: &mut Overlay<'_>, action: &Action, place: Place) -> sled::Result<()> {
    let Some(mut row) = send_row(rows, action.id)? else { return Ok(()) };
    let Some(due) = row.due() else { return Ok(()) };
    let words = action.words();
    let (mut concerned, mut unknown) = (Vec::new(), false);
    for number in 0..row.recipients {
        let Some(mut recipient) = recipient(rows, &row, number)?.filter(Recipient::is_open) else { continue };
        unknown |= recipient.standing == Standing::Unknown;
        recipient.act(action.verb, &words);
        tell(rows, &row, number, &mut recipient);
        put_recipient(rows, &mut row, number, &recipient);
        concerned.push(number);
    }
    let fact = FactRow::from(&Fact::of_action(action, concerned));
    rows.put(keys::attempted(action.id, action.at, place, 0), encode(&fact));
    row.changed = row.changed.max(action.at.millis());
    let due = match action.verb {
        // What may have arrived keeps waiting for its event.
        Verb::Release if unknown => due.max(action.at),
        Verb::Retry | Verb::Release => action.at,
        Verb::Hold | Verb::Bounce | Verb::Delete => due,
    };
    schedule(rows, &mut row, Some(due))?;
    rows.put(keys::send(action.id), encode(&row));
    Ok(())
}

fn switch(rows: &mut Overlay<'_>, switch: &Switch) {
    let key = keys::forced_open(&switch.upstream);
    if switch.open {
        rows.put(key, switch.reason.clone().into_bytes());
    } else {
        rows.delete(key);
    }
}

/// Sets when a send is tried next: when `due` says, if anybody still waits. One that is held stays in the queue.
fn schedule(rows: &mut Overlay<'_>, row: &mut SendRow, due: Option<Timestamp>) -> sled::Result<()> {
    let id = row.send.id();
    let (mut open, mut held, mut unknown) = (false, false, false);
    for number in 0..row.recipients {
        let Some(recipient) = recipient(rows, row, number)? else { continue };
        open |= recipient.is_open();
        held |= recipient.state() == State::Held;
        unknown |= recipient.state() == State::Unknown;
    }
    let waits = match &row.unknown_at {
        _ if held => WaitsRow::Held,
        Some(upstream) if unknown => WaitsRow::ForUpstream(upstream.clone()),
        _ => WaitsRow::ForRoute(row.send.route.clone()),
    };
    let queued = due.filter(|_| open).map(|due| QueuedRow { due: due.millis(), waits });
    if queued == row.queued {
        return Ok(());
    }
    let lane = row.send.lane();
    if let Some(earlier) = &row.queued {
        rows.delete(earlier.key(lane, id));
    }
    match &queued {
        Some(queued) => rows.put_new(queued.key(lane, id), encode(&queued.waits)),
        None => count(rows, keys::garbage(row.place.segment), u64::from(row.body))?,
    }
    row.queued = queued;
    Ok(())
}

fn notice(rows: &mut Overlay<'_>, notice: &Notice, place: Place) -> sled::Result<()> {
    if let Some((token, signed_at, digest)) = &notice.token {
        let key = keys::token(&notice.upstream, token, *signed_at);
        match rows.get(&key)? {
            // The same token with another body: somebody else's use of a signature that covers no body.
            Some(known) if known != digest => return Ok(()),
            Some(_) => {}
            None => rows.put(key, digest.to_vec()),
        }
    }
    let event = &notice.event;
    let found = find(rows, event)?;
    if is_known(rows, &notice.upstream, event, found.as_ref())? {
        return Ok(());
    }
    suppressed::notice(rows, notice)?;
    if found.as_ref().is_none_or(|found| found.rung != Rung::Tracking) {
        rows.put(keys::event(&notice.upstream, &event.identity, event.at), Vec::new());
    }
    match found {
        Some(found) => join(rows, &notice.upstream, notice.via, event, found),
        None => {
            let waits_for = event.message_id.as_ref().map_or("", MessageId::as_str);
            let row = OrphanRow {
                upstream: notice.upstream.clone(),
                received: notice.at.millis(),
                polled: notice.via == Via::Poll,
                event: EventV1::from(event),
            };
            rows.put(keys::orphan(waits_for, place), encode(&row));
            Ok(())
        }
    }
}

/// Where an event belongs.
pub struct Found {
    /// The send.
    pub id: TrackingId,
    /// Its recipients that are meant.
    pub recipients: Vec<u16>,
    /// How it was found.
    pub rung: Rung,
    row: SendRow,
}

/// Whether an event was taken already. One that names its send stands in that send's trail; of others, which may
/// find another send the second time, it is noted.
pub fn is_known(
    rows: &Overlay<'_>,
    upstream: &str,
    event: &Event,
    found: Option<&Found>,
) -> sled::Result<bool> {
    let key = match found {
        Some(found) if found.rung == Rung::Tracking => {
            keys::reported(found.id, event.at, upstream, &event.identity)
        }
        _ => keys::event(upstream, &event.identity, event.at),
    };
    Ok(rows.get(&key)?.is_some())
}

/// Brings an event to its send.
fn join(rows: &mut Overlay<'_>, upstream: &str, via: Via, event: &Event, found: Found) -> sled::Result<()> {
    let Found { id, recipients: numbers, rung, mut row } = found;
    let mut settles = false;
    for number in &numbers {
        let Some(mut recipient) = recipient(rows, &row, *number)? else { continue };
        let waited = recipient.is_open();
        recipient.report(event);
        settles |= waited && !recipient.is_open();
        tell(rows, &row, *number, &mut recipient);
        put_recipient(rows, &mut row, *number, &recipient);
    }
    let words = shortened(&event.words);
    let fact = Fact { words, ..Fact::of_event(event, upstream, via, numbers, Some(rung)) };
    rows.put(keys::reported(id, event.at, upstream, &event.identity), encode(&FactRow::from(&fact)));
    if settles {
        let due = row.due();
        schedule(rows, &mut row, due)?;
    }
    rows.put(keys::send(id), encode(&row));
    Ok(())
}

/// The join ladder: the tracking id, then Message-ID and recipient.
pub fn find(rows: &Overlay<'_>, event: &Event) -> sled::Result<Option<Found>> {
    if let Some(id) = event.tracking {
        // An id that is not ours is somebody else's, and its event too.
        return named(rows, id, event, Rung::Tracking);
    }
    let Some(message_id) = &event.message_id else { return Ok(None) };
    // One Message-ID may have many sends; the newest to that recipient is meant.
    for (key, _) in rows.scan(&keys::message_id(message_id.as_str()), SAME_MESSAGE_ID)?.into_iter().rev() {
        let Some(id) = keys::read_id(&key) else { continue };
        if id.timestamp() > event.at.after(CLOCK_SKEW) {
            // Nothing happens to a mail before it is sent: this is about an earlier one.
            continue;
        }
        if let Some(found) = named(rows, id, event, Rung::MessageId)?
            && found.row.has_message_id(message_id)
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The recipients of a send that an event speaks of: the one it names, or all when it names none. A name that is no
/// address (providers can be told to hide them) means the only one.
fn named(rows: &Overlay<'_>, id: TrackingId, event: &Event, rung: Rung) -> sled::Result<Option<Found>> {
    let Some(row) = send_row(rows, id)? else { return Ok(None) };
    let hidden = event.recipient.as_ref().is_some_and(|named| named.parse::<Mailbox>().is_err());
    let named =
        event.recipient.as_deref().filter(|_| !(hidden && row.recipients == 1)).map(str::to_lowercase);
    let mut recipients = Vec::new();
    for number in 0..row.recipients {
        let Some(recipient) = recipient(rows, &row, number)? else { continue };
        if named.as_ref().is_none_or(|named| *named == recipient.address.folded()) {
            recipients.push(number);
        }
    }
    Ok((!recipients.is_empty()).then_some(Found { id, recipients, rung, row }))
}

fn send_row(rows: &Overlay<'_>, id: TrackingId) -> sled::Result<Option<SendRow>> {
    Ok(rows.get(&keys::send(id))?.as_deref().and_then(decode))
}

fn recipient(rows: &Overlay<'_>, row: &SendRow, number: u16) -> sled::Result<Option<Recipient>> {
    if let Some(only) = &row.only {
        return Ok(only.clone().restore());
    }
    let found = rows.get(&keys::recipient(row.send.id(), number))?;
    Ok(found.as_deref().and_then(decode).and_then(RecipientRow::restore))
}

/// Notes what became of a recipient; the send's row is to be put afterwards.
fn put_recipient(rows: &mut Overlay<'_>, row: &mut SendRow, number: u16, recipient: &Recipient) {
    let changed = RecipientRow::from(recipient);
    match &mut row.only {
        Some(only) => *only = changed,
        None => {
            rows.put(keys::recipient(row.send.id(), number), encode(&changed));
        }
    }
}

/// Words that fit a row; the whole payload stays in the journal.
fn shortened(words: &Words) -> Words {
    let cut = |text: &Option<String>| text.as_ref().map(|text| text.chars().take(WORDS).collect());
    Words { text: cut(&words.text), url: cut(&words.url), ..words.clone() }
}

/// How far a provider's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Characters of a text in a row.
const WORDS: usize = 512;
/// Sends of one Message-ID that the ladder looks at, newest first.
const SAME_MESSAGE_ID: usize = 2000;
/// Orphans of one Message-ID that are looked at when a send appears.
const ORPHANS: usize = 5000;
