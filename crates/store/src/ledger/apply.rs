//! Applies journal records to the ledger. Applying is a pure function of the rows and the record, so
//! replaying the journal always results in the same rows.

use crate::ledger::replay_event::apply_event_replay;
use crate::ledger::rows::{
    DeadLetterRow, MessageRow, OrphanRow, QueueEntryRow, QueueKeyRow, RecipientRow, TrailEventRow,
    decode_row, encode_row,
};
use crate::ledger::write_batch::WriteBatch;
use crate::ledger::{contact_hints, inbound, keys, suppressions};
use crate::position::Position;
use crate::record::{MessageV5, ProviderEventV1, Record, event_source_from_flag};
use crate::sink_cursor::SinkAck;
use mailtrail_mail::{Mailbox, MessageId, Pseudonym, Timestamp, TrackingId, fold_address, may_be_rewritten};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStatus, BreakerOverride, CorrelatedBy, DeadLetter, Diagnostic,
    DsnAction, EventSource, Message, PollCursor, ProviderEvent, QueueAction, QueueVerb, ReceivedEvent,
    Recipient, RecipientResult, RecipientState, ReportedRecipient, TrailEvent, step,
};
use std::time::Duration;

/// Applies one record that lies at `position` and has `body` bytes of body.
pub fn apply_record(
    rows: &mut WriteBatch<'_>,
    record: &Record,
    position: Position,
    body: u32,
) -> sled::Result<()> {
    match record {
        Record::AcceptedMessage(record) => apply_accepted(rows, record, position, body),
        Record::AttemptStarted(attempt_start) => {
            let key = keys::attempt_key(attempt_start.id);
            if rows.get(&key)?.is_none() {
                rows.put_new(key, encode_row(&(attempt_start.at.as_millis(), &attempt_start.upstream)));
            }
            Ok(())
        }
        Record::QueueAction(record) => apply_queue_action(rows, record, position),
        Record::BreakerOverride(record) => {
            apply_breaker_override(rows, record);
            Ok(())
        }
        Record::SinkAck(record) => {
            apply_sink_ack(rows, record);
            Ok(())
        }
        Record::SuppressionChange(record) => suppressions::apply_suppression_change(rows, record),
        Record::AttemptOutcome(record) => apply_outcome(rows, record, position),
        Record::ReceivedHint(record) => contact_hints::apply_hint(rows, record),
        Record::PollCursor(PollCursor { upstream, until }) => {
            rows.put(keys::poll_cursor_key(upstream), encode_row(&until.as_millis()));
            Ok(())
        }
        Record::ReceivedEvent(record) => apply_received_event(rows, record),
        Record::DeadLetter(record) => apply_dead_letter(rows, record),
        Record::EventReplay(record) => apply_event_replay(rows, record),
        Record::Inbound(record) => inbound::apply_inbound(rows, record, position, body),
        Record::Erasure(erasure) => {
            if rows.get(keys::ERASURE_SALT)?.is_none() {
                rows.put(keys::ERASURE_SALT.to_vec(), erasure.salt.to_vec());
            }
            Ok(())
        }
        // Only the log shows them, and it is read from the journal.
        Record::OperatorAction(_) => Ok(()),
        Record::DuplicateSubmission(record) => {
            if load_message_row(rows, record.id)?.is_some() {
                let trail_event = TrailEventRow::from(&TrailEvent::from_duplicate(record));
                rows.put(
                    keys::attempt_event_key(record.id, record.at, position, 0),
                    encode_row(&trail_event),
                );
            }
            Ok(())
        }
    }
}

fn apply_accepted(
    rows: &mut WriteBatch<'_>,
    accepted: &AcceptedMessage,
    position: Position,
    body_length: u32,
) -> sled::Result<()> {
    let (message, id) = (&accepted.message, accepted.message.id);
    let due = id.timestamp();
    let queue_key = QueueKeyRow::Route(message.route.clone());
    rows.put_new(
        keys::queue_key(keys::queue_prefix(message.lane, &queue_key), due, id),
        encode_row(&queue_key),
    );
    let only_recipient = match &accepted.recipients[..] {
        [only] => Some(RecipientRow::from(&Recipient::new(only.clone()))),
        _ => None,
    };
    let row = MessageRow {
        message: MessageV5::from(message),
        recipient_count: u16::try_from(accepted.recipients.len()).unwrap_or(u16::MAX),
        attempts: 0,
        queue_entry: Some(QueueEntryRow { next_attempt: due.as_millis(), queue_key }),
        uncertain_upstream: None,
        excluded_upstreams: Vec::new(),
        changed_at: due.as_millis(),
        position,
        body_length,
        only_recipient,
    };
    rows.put_new(keys::message_key(id), encode_row(&row));
    for (number, address) in (0u16..).zip(&accepted.recipients) {
        if row.only_recipient.is_none() {
            let recipient = RecipientRow::from(&Recipient::new(address.clone()));
            rows.put_new(keys::recipient_key(id, number), encode_row(&recipient));
        }
        rows.put_new(keys::index_key(keys::address_prefix(&address.to_folded()), id), Vec::new());
    }
    for record in &message.odoo_records {
        rows.put_new(keys::index_key(keys::odoo_record_prefix(&record.to_string()), id), Vec::new());
    }
    correlate_orphans(rows, &id.to_string())?;
    if let Some(message_id) = &message.message_id {
        rows.put_new(keys::index_key(keys::message_id_prefix(message_id.as_str()), id), Vec::new());
        correlate_orphans(rows, message_id.as_str())?;
    }
    if let Some(about) = &message.dsn_for {
        record_dsn(rows, about, message, position)?;
    }
    Ok(())
}

/// Handles an accepted DSN: it is no longer pending, and the trail of the reported message records it.
fn record_dsn(
    rows: &mut WriteBatch<'_>,
    about: &ReportedRecipient,
    report: &Message,
    position: Position,
) -> sled::Result<()> {
    rows.delete(keys::pending_dsn_key(about));
    if load_message_row(rows, about.tracking_id)?.is_some() {
        let trail_event = TrailEvent::from_dsn(about, report.id);
        rows.put(
            keys::attempt_event_key(about.tracking_id, trail_event.at, position, about.recipient_index),
            encode_row(&TrailEventRow::from(&trail_event)),
        );
    }
    Ok(())
}

/// Schedules a DSN for a recipient if it became due with this change.
fn schedule_dsn(
    rows: &mut WriteBatch<'_>,
    row: &MessageRow,
    recipient_index: u16,
    recipient: &mut Recipient,
) {
    let already_sent =
        |dsn_action| recipient.dsn_sent == Some(DsnAction::Failed) || recipient.dsn_sent == Some(dsn_action);
    if let Some(action) = row
        .message
        .dsn_action(recipient_index, recipient.state())
        .filter(|dsn_action| !already_sent(*dsn_action))
    {
        recipient.dsn_sent = Some(action);
        let about = ReportedRecipient { tracking_id: row.message.id(), recipient_index, action };
        rows.put(keys::pending_dsn_key(&about), Vec::new());
    }
}

/// Correlates orphaned events with a message that was accepted after them.
fn correlate_orphans(rows: &mut WriteBatch<'_>, waits_for: &str) -> sled::Result<()> {
    for (key, value) in rows.scan_prefix(&keys::orphan_prefix(waits_for), MAX_ORPHANS)? {
        let Some(orphan) = decode_row::<OrphanRow>(&value) else { continue };
        let event = ProviderEvent::from(orphan.event);
        if let Some(found) = correlate(rows, &event)? {
            attach_event(rows, &orphan.upstream, event_source_from_flag(orphan.from_poll), &event, found)?;
            rows.delete(key);
        }
    }
    Ok(())
}

fn apply_outcome(
    rows: &mut WriteBatch<'_>,
    outcome: &AttemptOutcome,
    position: Position,
) -> sled::Result<()> {
    rows.delete(keys::attempt_key(outcome.id));
    let Some(mut row) = load_message_row(rows, outcome.id)? else { return Ok(()) };
    row.attempts += 1;
    row.changed_at = outcome.at.as_millis();
    let taken = |settled: &&RecipientResult| settled.status == AttemptStatus::Relayed;
    let taken: usize = outcome.results.iter().filter(taken).map(|settled| settled.recipients.len()).sum();
    if taken > 0 {
        add_to_counter(
            rows,
            keys::relayed_count_key(&outcome.upstream, outcome.at.day_number()),
            taken as u64,
        )?;
    }
    row.excluded_upstreams.retain(|upstream| **upstream != *outcome.upstream);
    if outcome.results.iter().any(|settled| settled.diagnostic.name == step::CAPABILITY_CHECK) {
        row.excluded_upstreams.push(outcome.upstream.clone().into());
    }
    for (part, settled) in (0u16..).zip(&outcome.results) {
        for number in &settled.recipients {
            let Some(mut recipient) = load_recipient(rows, &row, *number)? else { continue };
            recipient.apply_attempt(settled.status, &settled.diagnostic);
            if settled.status == AttemptStatus::Unknown {
                row.uncertain_upstream = Some(outcome.upstream.clone().into());
            }
            schedule_dsn(rows, &row, *number, &mut recipient);
            put_recipient(rows, &mut row, *number, &recipient);
        }
        let trail_event = TrailEvent::from_attempt(outcome, settled);
        rows.put_new(
            keys::attempt_event_key(outcome.id, outcome.at, position, part),
            encode_row(&TrailEventRow::from(&trail_event)),
        );
    }
    reschedule(rows, &mut row, outcome.next_attempt)?;
    rows.put(keys::message_key(outcome.id), encode_row(&row));
    Ok(())
}

/// Adds to a counter row.
pub fn add_to_counter(rows: &mut WriteBatch<'_>, key: Vec<u8>, more: u64) -> sled::Result<()> {
    let known: u64 = rows.get(&key)?.as_deref().and_then(decode_row).unwrap_or_default();
    rows.put(key, encode_row(&(known + more)));
    Ok(())
}

fn apply_queue_action(
    rows: &mut WriteBatch<'_>,
    action: &QueueAction,
    position: Position,
) -> sled::Result<()> {
    let Some(mut row) = load_message_row(rows, action.id)? else { return Ok(()) };
    let Some(due) = row.next_attempt() else { return Ok(()) };
    let words = action.to_diagnostic();
    let (mut concerned, mut unknown) = (Vec::new(), false);
    for number in 0..row.recipient_count {
        let Some(mut recipient) = load_recipient(rows, &row, number)?.filter(Recipient::is_open) else {
            continue;
        };
        unknown |= recipient.attempt_status == AttemptStatus::Unknown;
        recipient.apply_action(action.verb, &words);
        schedule_dsn(rows, &row, number, &mut recipient);
        put_recipient(rows, &mut row, number, &recipient);
        concerned.push(number);
    }
    let trail_event = TrailEventRow::from(&TrailEvent::from_queue_action(action, concerned));
    rows.put(keys::attempt_event_key(action.id, action.at, position, 0), encode_row(&trail_event));
    row.changed_at = row.changed_at.max(action.at.as_millis());
    let due = match action.verb {
        // A message that may have been delivered keeps waiting for its event.
        QueueVerb::Release if unknown => due.max(action.at),
        QueueVerb::Retry | QueueVerb::Release => action.at,
        QueueVerb::Hold | QueueVerb::Bounce | QueueVerb::Delete => due,
    };
    reschedule(rows, &mut row, Some(due))?;
    rows.put(keys::message_key(action.id), encode_row(&row));
    Ok(())
}

fn apply_breaker_override(rows: &mut WriteBatch<'_>, breaker_override: &BreakerOverride) {
    let key = keys::breaker_override_key(&breaker_override.upstream);
    if breaker_override.open {
        rows.put(key, breaker_override.reason.clone().into_bytes());
    } else {
        rows.delete(key);
    }
}

fn apply_sink_ack(rows: &mut WriteBatch<'_>, ack: &SinkAck) {
    rows.put(keys::sink_cursor_key(&ack.sink), encode_row(&(ack.position.0, ack.at.as_millis())));
    for (cursor, part, why) in &ack.dead_letters {
        rows.put(
            keys::sink_dead_letter_key(&ack.sink, *cursor, *part),
            encode_row(&(ack.at.as_millis(), why)),
        );
    }
    for resumed in &ack.resumed {
        rows.delete(keys::delayed_delivery_key(&ack.sink, *resumed));
    }
    for delayed in &ack.delayed {
        rows.put(keys::delayed_delivery_key(&ack.sink, *delayed), Vec::new());
    }
}

/// Schedules the next attempt at `due` if any recipient is still open. A held message stays in the queue.
fn reschedule(rows: &mut WriteBatch<'_>, row: &mut MessageRow, due: Option<Timestamp>) -> sled::Result<()> {
    let id = row.message.id();
    let (mut open, mut held, mut unknown, mut passed) = (false, false, false, false);
    for number in 0..row.recipient_count {
        let Some(recipient) = load_recipient(rows, row, number)? else { continue };
        open |= recipient.is_open();
        held |= recipient.state() == RecipientState::Held;
        unknown |= recipient.state() == RecipientState::Unknown;
        passed |= recipient.is_open() && recipient.diagnostic.name == step::CAPABILITY_CHECK;
    }
    let route = row.message.route();
    let queue_key = match &row.uncertain_upstream {
        _ if held => QueueKeyRow::Held,
        Some(name) if unknown => QueueKeyRow::Upstream { name: name.clone(), route },
        _ if passed => QueueKeyRow::RouteExcept { route, excluded: row.excluded_upstreams.clone() },
        _ => QueueKeyRow::Route(route),
    };
    let queued = due.filter(|_| open).map(|due| QueueEntryRow { next_attempt: due.as_millis(), queue_key });
    if queued == row.queue_entry {
        return Ok(());
    }
    let lane = row.message.lane();
    if let Some(earlier) = &row.queue_entry {
        rows.delete(earlier.key(lane, id));
    }
    match &queued {
        Some(queued) => rows.put_new(queued.key(lane, id), encode_row(&queued.queue_key)),
        None => add_to_counter(rows, keys::garbage_key(row.position.segment), u64::from(row.body_length))?,
    }
    row.queue_entry = queued;
    Ok(())
}

fn apply_received_event(rows: &mut WriteBatch<'_>, received_event: &ReceivedEvent) -> sled::Result<()> {
    if claim_token(rows, &received_event.upstream, received_event.token.as_ref())? {
        apply_event(
            rows,
            received_event.id(),
            &received_event.upstream,
            received_event.source,
            &received_event.event,
        )?;
    }
    Ok(())
}

fn apply_dead_letter(rows: &mut WriteBatch<'_>, dead: &DeadLetter) -> sled::Result<()> {
    if claim_token(rows, &dead.upstream, dead.token.as_ref())? {
        let reason = truncate(&dead.reason);
        let row = DeadLetterRow {
            upstream: dead.upstream.clone(),
            from_poll: dead.source == EventSource::Poll,
            reason,
        };
        rows.put(keys::dead_letter_key(dead.id()), encode_row(&row));
    }
    Ok(())
}

/// Records the use of a token. Returns false if the token came with another body before: a signature that
/// does not cover the body was reused by a third party.
pub fn claim_token(
    rows: &mut WriteBatch<'_>,
    upstream: &str,
    token: Option<&(String, Timestamp, [u8; 16])>,
) -> sled::Result<bool> {
    let Some((token, signed_at, digest)) = token else { return Ok(true) };
    let key = keys::token_key(upstream, token, *signed_at);
    let known = rows.get(&key)?;
    if known.is_none() {
        rows.put(key, digest.to_vec());
    }
    Ok(known.is_none_or(|known| known == digest))
}

/// Correlates an event with its message, or stores it as an orphan.
pub fn apply_event(
    rows: &mut WriteBatch<'_>,
    report: TrackingId,
    upstream: &str,
    via: EventSource,
    event: &ProviderEvent,
) -> sled::Result<()> {
    if has_event(rows, upstream, event)? {
        return Ok(());
    }
    let found = correlate(rows, event)?;
    suppressions::apply_event_evidence(rows, upstream, via, event)?;
    if found.as_ref().is_none_or(|found| found.correlated_by != CorrelatedBy::TrackingId) {
        rows.put(keys::event_dedup_key(upstream, &event.dedup_key, event.at), Vec::new());
    }
    match found {
        Some(found) => attach_event(rows, upstream, via, event, found),
        None => {
            let row = OrphanRow {
                upstream: upstream.to_owned(),
                from_poll: via == EventSource::Poll,
                event: ProviderEventV1::from(event),
            };
            rows.put(keys::orphan_key(&orphan_key(event), report), encode_row(&row));
            Ok(())
        }
    }
}

/// Returns the key under which an orphan waits: the tracking id or Message-ID of a message to come.
pub fn orphan_key(event: &ProviderEvent) -> String {
    let message_id = || event.message_id.as_ref().map(ToString::to_string);
    event.tracking_id.map(|id| id.to_string()).or_else(message_id).unwrap_or_default()
}

/// Correlation of an event with a message.
pub struct Correlation {
    /// Tracking id of the message.
    pub id: TrackingId,
    /// Indexes of the recipients.
    pub recipients: Vec<u16>,
    /// Key by which the message was found.
    pub correlated_by: CorrelatedBy,
    message_row: MessageRow,
}

/// Returns whether an event was already applied. An event that names its message is recorded in that
/// message's trail. Other events could match another message the second time, so they are recorded
/// separately. An event that a webhook brought with a tracking id may come again without one: Brevo's polling
/// API omits it.
pub fn has_event(rows: &WriteBatch<'_>, upstream: &str, event: &ProviderEvent) -> sled::Result<bool> {
    let stands_at = |id| -> sled::Result<bool> {
        Ok(rows.get(&keys::provider_event_key(id, event.at, upstream, &event.dedup_key))?.is_some())
    };
    if event.tracking_id.map_or(Ok(false), stands_at)?
        || rows.get(&keys::event_dedup_key(upstream, &event.dedup_key, event.at))?.is_some()
    {
        return Ok(true);
    }
    let Some(message_id) = event.message_id.as_ref().filter(|_| event.tracking_id.is_none()) else {
        return Ok(false);
    };
    for (key, _) in rows.scan_prefix(&keys::message_id_prefix(message_id.as_str()), MAX_SAME_MESSAGE_ID)? {
        if keys::parse_tracking_id(&key).map_or(Ok(false), stands_at)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Attaches an event to its message.
fn attach_event(
    rows: &mut WriteBatch<'_>,
    upstream: &str,
    via: EventSource,
    event: &ProviderEvent,
    found: Correlation,
) -> sled::Result<()> {
    let Correlation { id, recipients: numbers, correlated_by, message_row: mut row } = found;
    let event = &ProviderEvent { diagnostic: truncate_diagnostic(&event.diagnostic), ..event.clone() };
    let mut settles = false;
    for number in &numbers {
        let Some(mut recipient) = load_recipient(rows, &row, *number)? else { continue };
        let waited = recipient.is_open();
        recipient.apply_event(event, correlated_by);
        settles |= waited && !recipient.is_open();
        schedule_dsn(rows, &row, *number, &mut recipient);
        put_recipient(rows, &mut row, *number, &recipient);
    }
    let trail_event = TrailEvent::from_provider_event(event, upstream, via, numbers, Some(correlated_by));
    rows.put(
        keys::provider_event_key(id, event.at, upstream, &event.dedup_key),
        encode_row(&TrailEventRow::from(&trail_event)),
    );
    if settles {
        let due = row.next_attempt();
        reschedule(rows, &mut row, due)?;
    }
    rows.put(keys::message_key(id), encode_row(&row));
    Ok(())
}

/// Correlates an event: first by tracking id, then by Message-ID and recipient.
///
/// Several messages to one recipient may share a Message-ID. The event then belongs to the newest one
/// accepted before the event happened, so the order of arrival does not matter. There is one exception. An
/// event that happened after two such messages, but is applied between their records, stays with the first:
/// it arrived before the second was sent.
pub fn correlate(rows: &WriteBatch<'_>, event: &ProviderEvent) -> sled::Result<Option<Correlation>> {
    if let Some(id) = event.tracking_id {
        // An id that is not ours is another system's, and so is its event.
        return match_recipients(rows, id, event, CorrelatedBy::TrackingId);
    }
    let Some(message_id) = &event.message_id else { return Ok(None) };
    let mut nearest = None;
    for id in find_by_message_id(rows, message_id)? {
        if id.timestamp() > event.at.saturating_add(MAX_CLOCK_SKEW) {
            // No event precedes the acceptance of its message, so this one is about an earlier message.
            continue;
        }
        let found = match_recipients(rows, id, event, CorrelatedBy::MessageId)?;
        let Some(found) = found.filter(|found| found.message_row.has_message_id(message_id)) else {
            continue;
        };
        if id.timestamp() < event.at.saturating_add(TIMESTAMP_RESOLUTION) {
            return Ok(Some(found));
        }
        // The provider's clock may be behind ours: take the oldest of these if there is no older message.
        nearest = Some(found);
    }
    Ok(nearest)
}

/// Returns messages that may have that Message-ID, newest first.
pub fn find_by_message_id(rows: &WriteBatch<'_>, message_id: &MessageId) -> sled::Result<Vec<TrackingId>> {
    let rows = rows.scan_prefix(&keys::message_id_prefix(message_id.as_str()), MAX_SAME_MESSAGE_ID)?;
    Ok(rows.iter().rev().filter_map(|(key, _)| keys::parse_tracking_id(key)).collect())
}

/// Returns the recipients that an event is about: the named one, or all if it names none. A name that is no
/// address means the only recipient, since providers can be configured to hide addresses. A similar address
/// also means the only recipient if the message was found by tracking id: providers and servers on the path
/// rewrite addresses.
fn match_recipients(
    rows: &WriteBatch<'_>,
    id: TrackingId,
    event: &ProviderEvent,
    correlated_by: CorrelatedBy,
) -> sled::Result<Option<Correlation>> {
    let Some(message_row) = load_message_row(rows, id)? else { return Ok(None) };
    let hidden = event.recipient.as_ref().is_some_and(|named| named.parse::<Mailbox>().is_err());
    let named = event
        .recipient
        .as_deref()
        .filter(|_| !(hidden && message_row.recipient_count == 1))
        .map(fold_address);
    let is_meant = |named: &str, address: &str| {
        named == address
            || (message_row.recipient_count == 1
                && correlated_by == CorrelatedBy::TrackingId
                && may_be_rewritten(named, address))
    };
    let (mut recipients, mut erased) = (Vec::new(), Vec::new());
    for number in 0..message_row.recipient_count {
        let Some(recipient) = load_recipient(rows, &message_row, number)? else { continue };
        let address = recipient.address.to_folded();
        if named.as_ref().is_none_or(|named| is_meant(named, &address)) {
            recipients.push(number);
        } else if correlated_by == CorrelatedBy::TrackingId
            && named.iter().chain([&address]).any(|address| Pseudonym::Trail.is_pseudonym(address))
        {
            erased.push(number);
        }
    }
    // The event names an erased address: if only one erased recipient is possible, it is that one.
    if recipients.is_empty() && erased.len() == 1 {
        recipients = erased;
    }
    Ok((!recipients.is_empty()).then_some(Correlation { id, recipients, correlated_by, message_row }))
}

pub fn load_message_row(rows: &WriteBatch<'_>, id: TrackingId) -> sled::Result<Option<MessageRow>> {
    Ok(rows.get(&keys::message_key(id))?.as_deref().and_then(decode_row))
}

pub fn load_recipient(
    rows: &WriteBatch<'_>,
    row: &MessageRow,
    number: u16,
) -> sled::Result<Option<Recipient>> {
    if let Some(only) = &row.only_recipient {
        return Ok(only.clone().into_domain());
    }
    let found = rows.get(&keys::recipient_key(row.message.id(), number))?;
    Ok(found.as_deref().and_then(decode_row).and_then(RecipientRow::into_domain))
}

/// Stores a recipient's state; the caller must store the message's row afterwards.
pub fn put_recipient(rows: &mut WriteBatch<'_>, row: &mut MessageRow, number: u16, recipient: &Recipient) {
    let changed = RecipientRow::from(recipient);
    match &mut row.only_recipient {
        Some(only) => *only = changed,
        None => {
            rows.put(keys::recipient_key(row.message.id(), number), encode_row(&changed));
        }
    }
}

/// Shortens a diagnostic to fit a row; the full payload stays in the journal.
fn truncate_diagnostic(words: &Diagnostic) -> Diagnostic {
    let cut = |text: &Option<String>| text.as_deref().map(truncate);
    Diagnostic { text: cut(&words.text), url: cut(&words.url), ..words.clone() }
}

pub fn truncate(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

/// Maximum lag of a provider's clock.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Some providers round to whole seconds.
const TIMESTAMP_RESOLUTION: Duration = Duration::from_secs(1);
/// Maximum characters of a text in a row.
const MAX_TEXT_CHARS: usize = 512;
/// Messages with one Message-ID that are examined for a correlation, newest first.
const MAX_SAME_MESSAGE_ID: usize = 2000;
/// Orphans of one Message-ID that are examined when a message is accepted.
const MAX_ORPHANS: usize = 5000;
