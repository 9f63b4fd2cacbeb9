//! Tests of the memtable over sled: no query shows whether a row is in memory or was written.

use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::memtable::{Memtable, RowChange, RowChanges, prefix_range};
use crate::ledger::rows::QueueKeyRow;
use crate::ledger::table::Table;
use crate::ledger::tables::{Attempts, MessageIdIndex, Messages, QueueEntries};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use crate::record::{JournalRecord, Record};
use crate::retention::Retention;
use crate::store::Store;
use fastrand::Rng;
use mailtrail_mail::{Clock, Lane, MessageId, OdooRecord, Timestamp, TrackingId};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, AttemptStatus, Diagnostic, EventKind, EventSource,
    Message, ProviderEvent, QueueAction, QueueVerb, ReceivedEvent, RecipientResult,
};
use sled::IVec;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Compares random changes and flushes with a plain map; every way of reading gives the same result.
#[test]
fn memtable_and_disk_rows_merge_into_one_view() {
    for seed in 0..30 {
        let mut random = Rng::with_seed(seed);
        let db = sled::Config::new().temporary(true).open().unwrap();
        let mut window = Memtable::new((*db).clone()).unwrap();
        let mut model: BTreeMap<IVec, IVec> = BTreeMap::new();
        for _ in 0..12 {
            let mut rows = WriteBatch::new(&window);
            for _ in 0..random.usize(..200) {
                let key = random_key(&mut random);
                if random.bool() {
                    let value = vec![random.u8(..); random.usize(..40)];
                    if model.contains_key(&*key) || random.bool() {
                        rows.put(key.clone(), value.clone());
                    } else {
                        rows.put_new(key.clone(), value.clone());
                    }
                    model.insert(key.into(), value.into());
                } else {
                    rows.delete(key.clone());
                    model.remove(&*key);
                }
            }
            let prefix = &random_key(&mut random)[..1];
            let within = |key: &IVec| key.starts_with(prefix);
            assert!(
                rows.scan_prefix(prefix, usize::MAX)
                    .unwrap()
                    .iter()
                    .map(as_pair)
                    .eq(model.iter().filter(|(key, _)| within(key)))
            );
            rows.commit(None);
            if random.u8(..3) == 0 {
                window.flush().unwrap();
                if random.bool() {
                    window = Memtable::new((*db).clone()).unwrap();
                }
            }
            assert_reads_match(&window, &model, &mut random);
        }
    }
}

fn assert_reads_match(window: &Memtable, model: &BTreeMap<IVec, IVec>, random: &mut Rng) {
    let all = window.scan_prefix(b"").collect::<sled::Result<Vec<_>>>().unwrap();
    assert!(all.iter().map(as_pair).eq(model));
    for _ in 0..20 {
        let (one, other) = (random_key(random), random_key(random));
        assert_eq!(window.get(&one).unwrap().as_ref(), model.get(&*one));
        let bounds = [
            (Included(one.clone().into()), Included(other.clone().into())),
            (Excluded(one.clone().into()), Excluded(other.clone().into())),
            (Included(one.clone().into()), Unbounded),
            prefix_range(&one[..1]),
        ];
        for range in bounds {
            let within = |key: &IVec| {
                let behind = match &range.0 {
                    Included(from) => key >= from,
                    Excluded(from) => key > from,
                    Unbounded => true,
                };
                behind
                    && match &range.1 {
                        Included(to) => key <= to,
                        Excluded(to) => key < to,
                        Unbounded => true,
                    }
            };
            let expected: Vec<_> = model.iter().filter(|(key, _)| within(key)).collect();
            let found = window.range(range.clone()).collect::<sled::Result<Vec<_>>>().unwrap();
            assert!(found.iter().map(as_pair).eq(expected.iter().copied()), "{range:?}");
            let found = window.range_rev(range.clone()).collect::<sled::Result<Vec<_>>>().unwrap();
            assert!(found.iter().map(as_pair).eq(expected.iter().rev().copied()), "{range:?} backward");
        }
    }
}

/// Rows that move from the memtable to sled during a scan are seen exactly once.
#[test]
fn scan_during_flush_sees_every_row() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let window = Memtable::new((*db).clone()).unwrap();
    let there = AtomicU32::new(0);
    let rows = |numbers: Range<u32>| -> RowChanges {
        let row = RowChange { value: Some((&[1]).into()), is_insert: true };
        numbers.map(|number| ((&number.to_be_bytes()).into(), row.clone())).collect()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..FLUSH_ROUNDS {
                window.apply_changes(rows(round * 100..round * 100 + 100), None);
                there.store(round * 100 + 100, Ordering::Release);
                if round % 2 == 0 { window.flush() } else { window.bulk_flush(2) }.unwrap();
            }
        });
        while there.load(Ordering::Acquire) < FLUSH_ROUNDS * 100 {
            for back in [false, true] {
                let least = there.load(Ordering::Acquire) as usize;
                let rows = if back { window.scan_prefix_rev(b"") } else { window.scan_prefix(b"") };
                let mut found: Vec<_> = rows.map(|row| row.unwrap().0).collect();
                if back {
                    found.reverse();
                }
                assert!(found.len() >= least, "{} of {least}, back: {back}", found.len());
                // Later rows arrive one by one where they are spread, and therefore in any order.
                let expected = (0u32..).map(|number| IVec::from(&number.to_be_bytes()));
                assert!(found.iter().take(least).cloned().eq(expected.take(least)), "back: {back}");
                assert!(found.is_sorted_by(|one, next| one < next), "back: {back}");
            }
        }
    });
}

/// Rows inserted and removed between two flushes leave nothing in sled; rows that changed often are written
/// once.
#[test]
fn short_lived_rows_are_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    ledger.apply_records(&sample_records()[..4], position(4)).unwrap();
    ledger.flush().unwrap();
    let (queue, sending) = (
        QueueEntries::key((
            Lane::Transactional,
            &QueueKeyRow::Route(None),
            tracking_id(0).timestamp(),
            tracking_id(0),
        )),
        Attempts::key(tracking_id(0)),
    );
    for key in [queue, sending] {
        assert!(!ledger.memtable().contains_key(&key).unwrap());
        assert!(!disk_rows(&ledger).contains_key(&*key));
    }
    assert!(disk_rows(&ledger).contains_key(&*Messages::key(tracking_id(0))));
}

/// New rows may accumulate, since most change again or are removed; changes of existing rows are flushed
/// soon.
#[test]
fn memtable_holds_more_inserts_than_updates() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let filled_at = |is_insert: bool| {
        let window = Memtable::new((*db).clone()).unwrap();
        let full = (0u32..).find(|number| {
            let change = RowChange { value: Some(b"value".into()), is_insert };
            window.apply_changes(RowChanges::from([(number.to_be_bytes().as_slice().into(), change)]), None);
            // A second change of the same row takes no more space.
            let change = RowChange { value: Some(b"other".into()), is_insert: false };
            window.apply_changes(RowChanges::from([(0u32.to_be_bytes().as_slice().into(), change)]), None);
            window.is_full()
        });
        full.unwrap()
    };
    assert_eq!((filled_at(false), filled_at(true)), (511, 4095));
}

/// The process ends with any changes since the last flush in memory. The stored position is where to
/// continue, and the rest of the journal results in the same rows.
#[test]
fn crash_after_any_flush_recovers_the_same_rows() {
    let history = sample_records();
    let whole = tempfile::tempdir().unwrap();
    let expected = {
        let ledger = Ledger::open(whole.path()).unwrap();
        ledger.apply_records(&history, position(history.len())).unwrap();
        let in_memory = dump_queries(&ledger);
        ledger.flush().unwrap();
        assert_eq!(dump_queries(&ledger), in_memory);
        (in_memory, disk_rows(&ledger))
    };
    for border in 0..=history.len() {
        let directory = tempfile::tempdir().unwrap();
        let (before, behind) = history.split_at(border);
        {
            let ledger = Ledger::open(directory.path()).unwrap();
            ledger.apply_records(before, position(border)).unwrap();
            ledger.flush().unwrap();
            for (number, kept) in (border + 1..).zip(behind) {
                ledger.apply_records([kept], position(number)).unwrap();
                assert_eq!(ledger.position().unwrap(), Some(position(number)));
            }
            assert_eq!(dump_queries(&ledger), expected.0, "flushed behind {border}");
        }
        let ledger = Ledger::open(directory.path()).unwrap();
        assert_eq!(ledger.position().unwrap(), Some(position(border)));
        ledger.apply_records(behind, position(history.len())).unwrap();
        assert_eq!(dump_queries(&ledger), expected.0, "crashed behind {border}");
        ledger.flush().unwrap();
        assert_eq!(disk_rows(&ledger), expected.1, "crashed behind {border}");
    }
}

/// A ledger that several threads build from nothing has the same rows, and is marked as incomplete until it
/// is finished.
#[test]
fn detects_an_unfinished_bulk_load() {
    let (history, whole) = (sample_records(), tempfile::tempdir().unwrap());
    let expected = {
        let ledger = Ledger::open(whole.path()).unwrap();
        assert!(!ledger.is_incomplete().unwrap());
        ledger.apply_records(&history, position(history.len())).unwrap();
        ledger.flush().unwrap();
        (dump_queries(&ledger), disk_rows(&ledger))
    };
    for (border, threads) in (0..=history.len()).zip([1, 2, 3].into_iter().cycle()) {
        let directory = tempfile::tempdir().unwrap();
        let (before, behind) = history.split_at(border);
        {
            let ledger = Ledger::open(directory.path()).unwrap();
            ledger.apply_records(before, position(border)).unwrap();
            ledger.bulk_flush(threads).unwrap();
            ledger.apply_records(behind, position(history.len())).unwrap();
            assert_eq!(dump_queries(&ledger), expected.0, "{border} and the rest");
        }
        {
            let ledger = Ledger::open(directory.path()).unwrap();
            assert_eq!(ledger.position().unwrap(), None);
            assert_eq!(ledger.is_incomplete().unwrap(), border > 0);
        }
        let directory = tempfile::tempdir().unwrap();
        {
            let ledger = Ledger::open(directory.path()).unwrap();
            ledger.apply_records(before, position(border)).unwrap();
            ledger.bulk_flush(threads).unwrap();
            ledger.apply_records(behind, position(history.len())).unwrap();
            ledger.finish_bulk_load(threads).unwrap();
        }
        let ledger = Ledger::open(directory.path()).unwrap();
        assert!(!ledger.is_incomplete().unwrap());
        assert_eq!((dump_queries(&ledger), disk_rows(&ledger)), expected);
    }
}

/// Changes by maintenance take the same path.
#[test]
fn expiry_removes_all_rows_of_a_message() {
    let horizon = timestamp_at(1_000_000);
    for flushed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        ledger.apply_records(&sample_records(), position(99)).unwrap();
        if flushed {
            ledger.flush().unwrap();
        }
        let (expired, _) = ledger.expired_messages(None, horizon, 99, &mut |_, _| true).unwrap();
        assert_eq!(expired, [tracking_id(0), tracking_id(1)]);
        ledger.expire_messages(&expired, horizon).unwrap();
        ledger.delete_keys(ledger.expired_dated_keys(horizon.saturating_add(ONE_DAY), 99).unwrap());
        ledger.delete_keys(ledger.expired_orphans(horizon, 99).unwrap());
        for (segment, bytes) in ledger.garbage_by_segment().unwrap() {
            ledger.subtract_garbage(segment, bytes).unwrap();
        }
        let left = dump_queries(&ledger);
        assert!(
            !left.contains(&tracking_id(0).to_string()) && left.contains(&tracking_id(2).to_string()),
            "{left}"
        );
        ledger.flush().unwrap();
        let kinds: HashSet<u8> = disk_rows(&ledger).keys().map(|key| key[0]).collect();
        assert_eq!(kinds, b"kmqiroce".iter().copied().collect(), "flushed: {flushed}");
    }
}

/// Two Message-IDs may have the same hash in the index; their messages are unrelated.
#[test]
fn colliding_message_id_hash_matches_nothing() {
    for flushed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        ledger.apply_records(&sample_records(), position(99)).unwrap();
        let mut rows = WriteBatch::new(ledger.memtable());
        MessageIdIndex::put(&mut rows, ("8@example.com", tracking_id(2)), &());
        MessageIdIndex::put(&mut rows, ("0@example.com", tracking_id(2)), &());
        rows.commit(None);
        if flushed {
            ledger.flush().unwrap();
        }
        assert!(ledger.find_by_message_id(&sample_message_id(8), 9).unwrap().is_empty());
        assert_eq!(ledger.find_by_message_id(&sample_message_id(0), 1).unwrap(), [tracking_id(0)]);
        assert_eq!(ledger.correlate(&provider_event(8, None)).unwrap(), None);
        let found =
            ledger.correlate(&ProviderEvent { at: timestamp_at(9), ..provider_event(0, None) }).unwrap();
        assert_eq!(found.map(|(id, ..)| id), Some(tracking_id(0)));
        ledger
            .apply_records(
                &[JournalRecord {
                    record: received_event_record(8, None),
                    position: position(100),
                    body_length: 0,
                }],
                position(101),
            )
            .unwrap();
        assert_eq!(ledger.load_trail(tracking_id(2)).unwrap().unwrap().events.len(), 3);
    }
}

/// The extent of the search is returned.
#[test]
fn searches_subjects_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    ledger.apply_records(&sample_records(), position(99)).unwrap();
    let found = |part, limit, searched| ledger.find_by_subject(part, limit, searched).unwrap();
    assert_eq!(found("order s", 9, 3), (vec![tracking_id(2), tracking_id(1), tracking_id(0)], false));
    assert_eq!(found("ORDER", 9, 2), (vec![tracking_id(2), tracking_id(1)], true));
    assert_eq!(found("S0", 9, 2), (vec![], true));
    assert_eq!(found("S0", 9, 3), (vec![tracking_id(0)], false));
    assert_eq!(found("order", 1, 2), (vec![tracking_id(2)], false));
}

/// A lost row is reported, and present again after a rebuild of the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn verify_reports_messages_missing_in_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
    let message = Message::new(tracking_id(1), "test");
    let accepted = AcceptedMessage { message, recipients: vec!["a@example.net".parse().unwrap()] };
    store.put_message_applied(accepted, bytes::Bytes::from("A: b\r\n\r\n")).await.unwrap();
    store.checkpoint().await;
    let retention = Retention::default();
    let verify = |now| {
        let look = || store.verify(Some(&retention), now, &mut |_| Ok(())).unwrap();
        tokio::task::block_in_place(look)
    };
    assert!(verify(timestamp_at(1)).is_intact());
    store.0.ledger().unwrap().tree().remove(Messages::key(tracking_id(1))).unwrap();
    let found = verify(timestamp_at(1)).inconsistencies;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("1 sends of the journal") && found[1].contains("in the queue"), "{found:?}");
    // A message past retention is not missed, but its queue entry is.
    assert_eq!(verify(timestamp_at(40 * 86_400)).inconsistencies.len(), 1);
    tokio::task::block_in_place(|| store.rebuild_ledger(false, &mut |_| {})).unwrap();
    assert!(verify(timestamp_at(1)).is_intact());
}

/// Three messages: relayed, with an event; relayed later, with an early event matched by Message-ID; queued.
/// Also an orphaned event.
fn sample_records() -> Vec<JournalRecord> {
    let records = [
        accepted_record(0),
        attempt_started_record(0),
        outcome_record(0, None),
        received_event_record(0, Some(tracking_id(0))),
        received_event_record(1, None),
        accepted_record(1),
        attempt_started_record(1),
        outcome_record(1, Some(timestamp_at(50))),
        attempt_started_record(1),
        outcome_record(1, None),
        received_event_record(0, Some(tracking_id(0))),
        received_event_record(7, None),
        accepted_record(2),
        queue_action_record(2, QueueVerb::Hold),
        queue_action_record(2, QueueVerb::Release),
    ];
    (0..)
        .zip(records)
        .map(|(number, record)| JournalRecord { record, position: position(number), body_length: 10 })
        .collect()
}

/// Returns the results of all queries as text.
fn dump_queries(ledger: &Ledger) -> String {
    let mut text = String::new();
    let (low, high) = (TrackingId::from_bytes([0; 16]), TrackingId::from_bytes([255; 16]));
    let sends = ledger.ids_in_range(low, high, 99).unwrap();
    writeln!(text, "{sends:?}").unwrap();
    for queue in ledger.queue_ids().unwrap() {
        let due = ledger.due_messages(&queue, timestamp_at(99), 99, |_| true).unwrap();
        writeln!(text, "{queue:?} {due:?} {:?}", ledger.queued_messages(&queue, |_| true, 99).unwrap())
            .unwrap();
    }
    writeln!(text, "{:?}", ledger.interrupted_attempts().unwrap()).unwrap();
    writeln!(text, "{:?}", ledger.garbage_by_segment().unwrap()).unwrap();
    writeln!(text, "{:?}", ledger.find_by_recipient("Ada@example.net", 99).unwrap()).unwrap();
    writeln!(
        text,
        "{:?}",
        ledger.find_by_odoo_record(&OdooRecord::parse("sale.order,42").unwrap(), 99).unwrap()
    )
    .unwrap();
    for number in 0..9 {
        let event = provider_event(number, None);
        writeln!(text, "{:?}", ledger.find_by_message_id(&sample_message_id(number), 99).unwrap()).unwrap();
        writeln!(text, "{:?}", ledger.has_event("mailgun", &event).unwrap()).unwrap();
        writeln!(text, "{:?}", ledger.correlate(&event).unwrap()).unwrap();
        writeln!(
            text,
            "{:?}",
            ledger.webhook_token("mailgun", &number.to_string(), timestamp_at(number)).unwrap()
        )
        .unwrap();
        writeln!(text, "{:?}", ledger.load_trail(tracking_id(number)).unwrap()).unwrap();
        writeln!(text, "{:?}", ledger.is_sending(tracking_id(number)).unwrap()).unwrap();
    }
    text
}

fn disk_rows(ledger: &Ledger) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let rows = ledger.tree().iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())));
    rows.collect::<sled::Result<_>>().unwrap()
}

fn random_key(random: &mut Rng) -> Vec<u8> {
    let class = [b'a', b'b', keys::NEGATIVE_CACHED[1]][random.usize(..3)];
    vec![class, random.u8(..4) * 85, random.u8(..40)]
}

fn as_pair((key, value): &(IVec, IVec)) -> (&IVec, &IVec) {
    (key, value)
}

fn timestamp_at(seconds: u64) -> Timestamp {
    Timestamp::from_secs(1_789_387_200 + seconds)
}

fn tracking_id(number: u64) -> TrackingId {
    TrackingId::new(timestamp_at(number), u128::from(number))
}

fn position(number: usize) -> Position {
    Position { segment: 1, offset: number as u64 * 100 }
}

fn sample_message_id(number: u64) -> MessageId {
    MessageId::parse(&format!("{number}@example.com")).unwrap()
}

fn accepted_record(number: u64) -> Record {
    let message = Message {
        message_id: Some(sample_message_id(number)),
        odoo_records: vec![OdooRecord::parse("sale.order,42").unwrap()],
        subject: format!("Your Order S{number}"),
        size: number,
        ..Message::new(tracking_id(number), "odoo")
    };
    Record::AcceptedMessage(Box::new(AcceptedMessage {
        message,
        recipients: vec!["ada@example.net".parse().unwrap()],
    }))
}

fn queue_action_record(number: u64, verb: QueueVerb) -> Record {
    let (operator, reason) = ("uid 0".to_owned(), "why not".to_owned());
    Record::QueueAction(QueueAction {
        id: tracking_id(number),
        at: timestamp_at(number),
        verb,
        operator,
        reason,
    })
}

fn attempt_started_record(number: u64) -> Record {
    Record::AttemptStarted(AttemptStarted {
        id: tracking_id(number),
        at: timestamp_at(number),
        upstream: "mailgun".into(),
    })
}

fn outcome_record(number: u64, next_attempt: Option<Timestamp>) -> Record {
    let status = if next_attempt.is_some() { AttemptStatus::Queued } else { AttemptStatus::Relayed };
    let settled = RecipientResult { recipients: vec![0], status, diagnostic: Diagnostic::default() };
    let (id, at) = (tracking_id(number), timestamp_at(number));
    Record::AttemptOutcome(AttemptOutcome {
        id,
        at,
        upstream: "mailgun".into(),
        results: vec![settled],
        next_attempt,
    })
}

fn received_event_record(number: u64, tracking: Option<TrackingId>) -> Record {
    let token = Some((number.to_string(), timestamp_at(number), [number as u8; 16]));
    let event = provider_event(number, tracking);
    Record::ReceivedEvent(Box::new(ReceivedEvent {
        upstream: "mailgun".into(),
        received_at: timestamp_at(number),
        source: EventSource::Webhook,
        token,
        event,
    }))
}

fn provider_event(number: u64, tracking_id: Option<TrackingId>) -> ProviderEvent {
    ProviderEvent {
        kind: EventKind::Delivered,
        at: timestamp_at(number),
        dedup_key: format!("event {number}"),
        recipient: Some("ada@example.net".into()),
        tracking_id,
        message_id: Some(sample_message_id(number)),
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic::default(),
    }
}

/// Flushes during a scan.
const FLUSH_ROUNDS: u32 = 60;
const ONE_DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
