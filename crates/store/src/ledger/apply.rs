//! What each record of the journal changes. Applying is a pure function of the rows and the record, so replaying
//! the journal always ends in the same rows.

use crate::journal::Place;
use crate::ledger::replay_event::replay;
use crate::ledger::rows::{
    DeadRow, FactRow, OrphanRow, QueuedRow, RecipientRow, SendRow, WaitsRow, decode, encode,
};
use crate::ledger::write_batch::Overlay;
use crate::ledger::{contact_hints, inbound, keys, suppressions};
use crate::record::{EventV1, Record, SendV5, via};
use crate::sink_cursor::Handed;
use mailtrail_mail::{Mailbox, MessageId, Pseudonym, Timestamp, TrackingId, fold_address, is_alike};
use mailtrail_trail::{
    About, Accepted, Action, Dead, Event, Fact, Notice, Occasion, Outcome, Polled, Recipient, Rung, Send,
    Settled, Standing, State, Switch, Verb, Via, Words, step,
};
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
        Record::Handed(record) => {
            handed(rows, record);
            Ok(())
        }
        Record::Listing(record) => suppressions::listing(rows, record),
        Record::Outcome(record) => outcome(rows, record, place),
        Record::Hint(record) => contact_hints::apply(rows, record),
        Record::Polled(Polled { upstream, until }) => {
            rows.put(keys::polled(upstream), encode(&until.millis()));
            Ok(())
        }
        Record::Notice(record) => notice(rows, record),
        Record::Dead(record) => dead(rows, record),
        Record::Replay(record) => replay(rows, record),
        Record::Inbound(record) => inbound::apply(rows, record, place, body),
        Record::Erased(erased) => {
            if rows.get(keys::SALT)?.is_none() {
                rows.put(keys::SALT.to_vec(), erased.salt.to_vec());
            }
            Ok(())
        }
        // They are for the log, which is read from the journal.
        Record::Ordered(_) => Ok(()),
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
        send: SendV5::from(send),
        recipients: u16::try_from(accepted.recipients.len()).unwrap_or(u16::MAX),
        attempts: 0,
        queued: Some(QueuedRow { due: due.millis(), waits }),
        unknown_at: None,
        unable: Vec::new(),
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
    adopt_orphans(rows, &id.to_string())?;
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
    row.changed = outcome.at.millis();
    let taken = |settled: &&Settled| settled.standing == Standing::Relayed;
    let taken: usize = outcome.settled.iter().filter(taken).map(|settled| settled.recipients.len()).sum();
    if taken > 0 {
        count(rows, keys::taken(&outcome.upstream, outcome.at.day()), taken as u64)?;
    }
    row.unable.retain(|upstream| **upstream != *outcome.upstream);
    if outcome.settled.iter().any(|settled| settled.words.name == step::CAPABILITIES) {
        row.unable.push(outcome.upstream.clone().into());
    }
    for (part, settled) in (0u16..).zip(&outcome.settled) {
        for number in &settled.recipients {
            let Some(mut recipient) = recipient(rows, &row, *number)? else { continue };
            recipient.attempted(settled.standing, &settled.words);
            if settled.standing == Standing::Unknown {
                row.unknown_at = Some(outcome.upstream.clone().into());
            }
            tell(rows, &row, *number, &mut recipient);
            put_recipient(rows, &mut row, *number, &recipient);
        }
        let fact = Fact::of_attempt(outcome, settled);
        rows.put_new(keys::attempted(outcome.id, outcome.at, place, part), encode(&FactRow::from(&fact)));
    }
    schedule(rows, &mut row, outcome.due)?;
    rows.put(keys::send(outcome.id), encode(&row));
    Ok(())
}

/// Counts on a row that holds a number.
pub fn count(rows: &mut Overlay<'_>, key: Vec<u8>, more: u64) -> sled::Result<()> {
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

fn handed(rows: &mut Overlay<'_>, handed: &Handed) {
    rows.put(keys::sink(&handed.sink), encode(&(handed.until.0, handed.at.millis())));
    for (cursor, part, why) in &handed.refused {
        rows.put(keys::refused(&handed.sink, *cursor, *part), encode(&(handed.at.millis(), why)));
    }
    for resumed in &handed.resumed {
        rows.delete(keys::delayed(&handed.sink, *resumed));
    }
    for delayed in &handed.delayed {
        rows.put(keys::delayed(&handed.sink, *delayed), Vec::new());
    }
}

/// Sets when a send is tried next: when `due` says, if anybody still waits. One that is held stays in the queue.
fn schedule(rows: &mut Overlay<'_>, row: &mut SendRow, due: Option<Timestamp>) -> sled::Result<()> {
    let id = row.send.id();
    let (mut open, mut held, mut unknown, mut passed) = (false, false, false, false);
    for number in 0..row.recipients {
        let Some(recipient) = recipient(rows, row, number)? else { continue };
        open |= recipient.is_open();
        held |= recipient.state() == State::Held;
        unknown |= recipient.state() == State::Unknown;
        passed |= recipient.is_open() && recipient.words.name == step::CAPABILITIES;
    }
    let route = row.send.route();
    let waits = match &row.unknown_at {
        _ if held => WaitsRow::Held,
        Some(name) if unknown => WaitsRow::ForUpstream { name: name.clone(), route },
        _ if passed => WaitsRow::ForOthers { route, unable: row.unable.clone() },
        _ => WaitsRow::ForRoute(route),
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

fn notice(rows: &mut Overlay<'_>, notice: &Notice) -> sled::Result<()> {
    if is_first_use(rows, &notice.upstream, notice.token.as_ref())? {
        arrive(rows, notice.id(), &notice.upstream, notice.via, &notice.event)?;
    }
    Ok(())
}

fn dead(rows: &mut Overlay<'_>, dead: &Dead) -> sled::Result<()> {
    if is_first_use(rows, &dead.upstream, dead.token.as_ref())? {
        let reason = cut(&dead.reason);
        let row = DeadRow { upstream: dead.upstream.clone(), polled: dead.via == Via::Poll, reason };
        rows.put(keys::dead(dead.id()), encode(&row));
    }
    Ok(())
}

/// Notes the use of a token. False where the same came with another body before: somebody else's use of a signature
/// that covers no body.
pub fn is_first_use(
    rows: &mut Overlay<'_>,
    upstream: &str,
    token: Option<&(String, Timestamp, [u8; 16])>,
) -> sled::Result<bool> {
    let Some((token, signed_at, digest)) = token else { return Ok(true) };
    let key = keys::token(upstream, token, *signed_at);
    let known = rows.get(&key)?;
    if known.is_none() {
        rows.put(key, digest.to_vec());
    }
    Ok(known.is_none_or(|known| known == digest))
}

/// Brings the event of a report to its send, or keeps it until there is one.
pub fn arrive(
    rows: &mut Overlay<'_>,
    report: TrackingId,
    upstream: &str,
    via: Via,
    event: &Event,
) -> sled::Result<()> {
    if is_known(rows, upstream, event)? {
        return Ok(());
    }
    let found = find(rows, event)?;
    suppressions::report(rows, upstream, via, event)?;
    if found.as_ref().is_none_or(|found| found.rung != Rung::Tracking) {
        rows.put(keys::event(upstream, &event.identity, event.at), Vec::new());
    }
    match found {
        Some(found) => join(rows, upstream, via, event, found),
        None => {
            let row = OrphanRow {
                upstream: upstream.to_owned(),
                polled: via == Via::Poll,
                event: EventV1::from(event),
            };
            rows.put(keys::orphan(&waits_for(event), report), encode(&row));
            Ok(())
        }
    }
}

/// What brings an event without a send to one: the acceptance of a send with that id or Message-ID.
pub fn waits_for(event: &Event) -> String {
    let message_id = || event.message_id.as_ref().map(ToString::to_string);
    event.tracking.map(|id| id.to_string()).or_else(message_id).unwrap_or_default()
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
/// find another send the second time, it is noted. What a webhook brought with a name may come again without: a poll
/// of Brevo's does not say the name.
pub fn is_known(rows: &Overlay<'_>, upstream: &str, event: &Event) -> sled::Result<bool> {
    let stands_at = |id| -> sled::Result<bool> {
        Ok(rows.get(&keys::reported(id, event.at, upstream, &event.identity))?.is_some())
    };
    if event.tracking.map_or(Ok(false), stands_at)?
        || rows.get(&keys::event(upstream, &event.identity, event.at))?.is_some()
    {
        return Ok(true);
    }
    let Some(message_id) = event.message_id.as_ref().filter(|_| event.tracking.is_none()) else {
        return Ok(false);
    };
    for (key, _) in rows.scan(&keys::message_id(message_id.as_str()), SAME_MESSAGE_ID)? {
        if keys::read_id(&key).map_or(Ok(false), stands_at)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Brings an event to its send.
fn join(rows: &mut Overlay<'_>, upstream: &str, via: Via, event: &Event, found: Found) -> sled::Result<()> {
    let Found { id, recipients: numbers, rung, mut row } = found;
    let event = &Event { words: shortened(&event.words), ..event.clone() };
    let mut settles = false;
    for number in &numbers {
        let Some(mut recipient) = recipient(rows, &row, *number)? else { continue };
        let waited = recipient.is_open();
        recipient.report(event, rung);
        settles |= waited && !recipient.is_open();
        tell(rows, &row, *number, &mut recipient);
        put_recipient(rows, &mut row, *number, &recipient);
    }
    let fact = Fact::of_event(event, upstream, via, numbers, Some(rung));
    rows.put(keys::reported(id, event.at, upstream, &event.identity), encode(&FactRow::from(&fact)));
    if settles {
        let due = row.due();
        schedule(rows, &mut row, due)?;
    }
    rows.put(keys::send(id), encode(&row));
    Ok(())
}

/// The join ladder: the tracking id, then Message-ID and recipient.
///
/// A Message-ID may have several sends to one recipient. Then the newest that was accepted before the event happened
/// is meant, so the order in which events come does not matter. One thing is left to it: where an event happened
/// after two such sends and is applied between their records, it stays with the first, since it came before the
/// second was sent.
pub fn find(rows: &Overlay<'_>, event: &Event) -> sled::Result<Option<Found>> {
    if let Some(id) = event.tracking {
        // An id that is not ours is somebody else's, and its event too.
        return named(rows, id, event, Rung::Tracking);
    }
    let Some(message_id) = &event.message_id else { return Ok(None) };
    let mut nearest = None;
    for id in with_message_id(rows, message_id)? {
        if id.timestamp() > event.at.after(CLOCK_SKEW) {
            // Nothing happens to a mail before it is sent: this is about an earlier one.
            continue;
        }
        let found = named(rows, id, event, Rung::MessageId)?;
        let Some(found) = found.filter(|found| found.row.has_message_id(message_id)) else { continue };
        if id.timestamp() < event.at.after(TICK) {
            return Ok(Some(found));
        }
        // By a clock that is behind ours: the oldest of these, if there is no older one.
        nearest = Some(found);
    }
    Ok(nearest)
}

/// Sends that may have that Message-ID, newest first.
pub fn with_message_id(rows: &Overlay<'_>, message_id: &MessageId) -> sled::Result<Vec<TrackingId>> {
    let rows = rows.scan(&keys::message_id(message_id.as_str()), SAME_MESSAGE_ID)?;
    Ok(rows.iter().rev().filter_map(|(key, _)| keys::read_id(key)).collect())
}

/// The recipients of a send that an event speaks of: the one it names, or all when it names none. A name that is no
/// address (providers can be told to hide them) means the only one. So does one that is like it where the send was found
/// by our own id: providers and servers on the way rewrite addresses.
fn named(rows: &Overlay<'_>, id: TrackingId, event: &Event, rung: Rung) -> sled::Result<Option<Found>> {
    let Some(row) = send_row(rows, id)? else { return Ok(None) };
    let hidden = event.recipient.as_ref().is_some_and(|named| named.parse::<Mailbox>().is_err());
    let named = event.recipient.as_deref().filter(|_| !(hidden && row.recipients == 1)).map(fold_address);
    let is_meant = |named: &str, address: &str| {
        named == address || (row.recipients == 1 && rung == Rung::Tracking && is_alike(named, address))
    };
    let (mut recipients, mut erased) = (Vec::new(), Vec::new());
    for number in 0..row.recipients {
        let Some(recipient) = recipient(rows, &row, number)? else { continue };
        let address = recipient.address.folded();
        if named.as_ref().is_none_or(|named| is_meant(named, &address)) {
            recipients.push(number);
        } else if rung == Rung::Tracking
            && named.iter().chain([&address]).any(|address| Pseudonym::Trail.fits(address))
        {
            erased.push(number);
        }
    }
    // It names somebody who was erased, here or there: where only one can be meant, it is that one.
    if recipients.is_empty() && erased.len() == 1 {
        recipients = erased;
    }
    Ok((!recipients.is_empty()).then_some(Found { id, recipients, rung, row }))
}

pub fn send_row(rows: &Overlay<'_>, id: TrackingId) -> sled::Result<Option<SendRow>> {
    Ok(rows.get(&keys::send(id))?.as_deref().and_then(decode))
}

pub fn recipient(rows: &Overlay<'_>, row: &SendRow, number: u16) -> sled::Result<Option<Recipient>> {
    if let Some(only) = &row.only {
        return Ok(only.clone().restore());
    }
    let found = rows.get(&keys::recipient(row.send.id(), number))?;
    Ok(found.as_deref().and_then(decode).and_then(RecipientRow::restore))
}

/// Notes what became of a recipient; the send's row is to be put afterwards.
pub fn put_recipient(rows: &mut Overlay<'_>, row: &mut SendRow, number: u16, recipient: &Recipient) {
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
    let cut = |text: &Option<String>| text.as_deref().map(cut);
    Words { text: cut(&words.text), url: cut(&words.url), ..words.clone() }
}

pub fn cut(text: &str) -> String {
    text.chars().take(WORDS).collect()
}

/// How far a provider's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Some providers write whole seconds.
const TICK: Duration = Duration::from_secs(1);
/// Characters of a text in a row.
const WORDS: usize = 512;
/// Sends of one Message-ID that the ladder looks at, newest first.
const SAME_MESSAGE_ID: usize = 2000;
/// Orphans of one Message-ID that are looked at when a send appears.
const ORPHANS: usize = 5000;
