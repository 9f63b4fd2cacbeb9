//! The window in front of sled: nothing that can be asked tells whether a row waits there or was written.

use crate::Store;
use crate::journal::Place;
use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::memtable::{Change, Changed, Window, starting_with};
use crate::ledger::rows::WaitsRow;
use crate::ledger::write_batch::Overlay;
use crate::record::{Kept, Record};
use crate::retention::Retention;
use fastrand::Rng;
use mailtrail_mail::{Clock, Lane, MessageId, Record as OdooRecord, Timestamp, TrackingId};
use mailtrail_trail::{
    Accepted, Action, Begun, Event, Kind, Notice, Outcome, Send, Settled, Standing, Verb, Via, Words,
};
use sled::IVec;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Random changes and flushes beside a plain map; every way to read gives the same.
#[test]
fn rows_in_memory_and_rows_in_sled_are_one() {
    for seed in 0..30 {
        let mut random = Rng::with_seed(seed);
        let db = sled::Config::new().temporary(true).open().unwrap();
        let mut window = Window::new((*db).clone()).unwrap();
        let mut model: BTreeMap<IVec, IVec> = BTreeMap::new();
        for _ in 0..12 {
            let mut rows = Overlay::new(&window);
            for _ in 0..random.usize(..200) {
                let key = key(&mut random);
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
            let prefix = &key(&mut random)[..1];
            let within = |key: &IVec| key.starts_with(prefix);
            assert!(
                rows.scan(prefix, usize::MAX)
                    .unwrap()
                    .iter()
                    .map(pair)
                    .eq(model.iter().filter(|(key, _)| within(key)))
            );
            rows.commit(None);
            if random.u8(..3) == 0 {
                window.flush().unwrap();
                if random.bool() {
                    window = Window::new((*db).clone()).unwrap();
                }
            }
            compare(&window, &model, &mut random);
        }
    }
}

fn compare(window: &Window, model: &BTreeMap<IVec, IVec>, random: &mut Rng) {
    let all = window.prefixed(b"").collect::<sled::Result<Vec<_>>>().unwrap();
    assert!(all.iter().map(pair).eq(model));
    for _ in 0..20 {
        let (one, other) = (key(random), key(random));
        assert_eq!(window.get(&one).unwrap().as_ref(), model.get(&*one));
        let bounds = [
            (Included(one.clone().into()), Included(other.clone().into())),
            (Excluded(one.clone().into()), Excluded(other.clone().into())),
            (Included(one.clone().into()), Unbounded),
            starting_with(&one[..1]),
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
            assert!(found.iter().map(pair).eq(expected.iter().copied()), "{range:?}");
            let found = window.range_back(range.clone()).collect::<sled::Result<Vec<_>>>().unwrap();
            assert!(found.iter().map(pair).eq(expected.iter().rev().copied()), "{range:?} backward");
        }
    }
}

/// Rows that move from the window to sled while they are scanned are seen, and seen once.
#[test]
fn a_scan_beside_a_flush_misses_nothing() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let window = Window::new((*db).clone()).unwrap();
    let there = AtomicU32::new(0);
    let rows = |numbers: Range<u32>| -> Changed {
        let row = Change { value: Some((&[1]).into()), new: true };
        numbers.map(|number| ((&number.to_be_bytes()).into(), row.clone())).collect()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                window.change(rows(round * 100..round * 100 + 100), None);
                there.store(round * 100 + 100, Ordering::Release);
                if round % 2 == 0 { window.flush() } else { window.spread(2) }.unwrap();
            }
        });
        while there.load(Ordering::Acquire) < ROUNDS * 100 {
            for back in [false, true] {
                let least = there.load(Ordering::Acquire) as usize;
                let rows = if back { window.prefixed_back(b"") } else { window.prefixed(b"") };
                let mut found: Vec<_> = rows.map(|row| row.unwrap().0).collect();
                if back {
                    found.reverse();
                }
                assert!(found.len() >= least, "{} of {least}, back: {back}", found.len());
                // Later rows come one by one where they are spread, and so in any order.
                let expected = (0u32..).map(|number| IVec::from(&number.to_be_bytes()));
                assert!(found.iter().take(least).cloned().eq(expected.take(least)), "back: {back}");
                assert!(found.is_sorted_by(|one, next| one < next), "back: {back}");
            }
        }
    });
}

/// What came and went between two flushes leaves nothing in sled; what changed often is written once.
#[test]
fn what_comes_and_goes_in_the_window_is_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let projection = Projection::open(directory.path()).unwrap();
    projection.apply(&history()[..4], place(4)).unwrap();
    projection.flush().unwrap();
    let (queue, sending) = (keys::due(any_route(), id(0).timestamp(), id(0)), keys::sending(id(0)));
    for key in [queue, sending] {
        assert!(!projection.rows().has(&key).unwrap());
        assert!(!stored(&projection).contains_key(&*key));
    }
    assert!(stored(&projection).contains_key(&*keys::send(id(0))));
}

/// New rows may gather, since most change once more or go; what sled knows is written soon.
#[test]
fn a_window_of_new_rows_holds_more_than_one_of_known_rows() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let filled_at = |new: bool| {
        let window = Window::new((*db).clone()).unwrap();
        let full = (0u32..).find(|number| {
            let change = Change { value: Some(b"value".into()), new };
            window.change(Changed::from([(number.to_be_bytes().as_slice().into(), change)]), None);
            // One that changes again takes no more room.
            let change = Change { value: Some(b"other".into()), new: false };
            window.change(Changed::from([(0u32.to_be_bytes().as_slice().into(), change)]), None);
            window.is_full()
        });
        full.unwrap()
    };
    assert_eq!((filled_at(false), filled_at(true)), (511, 4095));
}

/// The process ends with anything between the last flush and now in memory: what is left says where to go on, and
/// the rest of the journal makes the same rows of it.
#[test]
fn a_crash_behind_any_flush_ends_in_the_same_rows() {
    let history = history();
    let whole = tempfile::tempdir().unwrap();
    let expected = {
        let projection = Projection::open(whole.path()).unwrap();
        projection.apply(&history, place(history.len())).unwrap();
        let in_memory = picture(&projection);
        projection.flush().unwrap();
        assert_eq!(picture(&projection), in_memory);
        (in_memory, stored(&projection))
    };
    for border in 0..=history.len() {
        let directory = tempfile::tempdir().unwrap();
        let (before, behind) = history.split_at(border);
        {
            let projection = Projection::open(directory.path()).unwrap();
            projection.apply(before, place(border)).unwrap();
            projection.flush().unwrap();
            for (number, kept) in (border + 1..).zip(behind) {
                projection.apply([kept], place(number)).unwrap();
                assert_eq!(projection.position().unwrap(), Some(place(number)));
            }
            assert_eq!(picture(&projection), expected.0, "flushed behind {border}");
        }
        let projection = Projection::open(directory.path()).unwrap();
        assert_eq!(projection.position().unwrap(), Some(place(border)));
        projection.apply(behind, place(history.len())).unwrap();
        assert_eq!(picture(&projection), expected.0, "crashed behind {border}");
        projection.flush().unwrap();
        assert_eq!(stored(&projection), expected.1, "crashed behind {border}");
    }
}

/// Made by several threads from nothing it has the same rows, and until it is finished it says that it is not.
#[test]
fn a_projection_that_was_not_finished_is_known_by_it() {
    let (history, whole) = (history(), tempfile::tempdir().unwrap());
    let expected = {
        let projection = Projection::open(whole.path()).unwrap();
        assert!(!projection.is_unfinished().unwrap());
        projection.apply(&history, place(history.len())).unwrap();
        projection.flush().unwrap();
        (picture(&projection), stored(&projection))
    };
    for (border, threads) in (0..=history.len()).zip([1, 2, 3].into_iter().cycle()) {
        let directory = tempfile::tempdir().unwrap();
        let (before, behind) = history.split_at(border);
        {
            let projection = Projection::open(directory.path()).unwrap();
            projection.apply(before, place(border)).unwrap();
            projection.spread(threads).unwrap();
            projection.apply(behind, place(history.len())).unwrap();
            assert_eq!(picture(&projection), expected.0, "{border} and the rest");
        }
        {
            let projection = Projection::open(directory.path()).unwrap();
            assert_eq!(projection.position().unwrap(), None);
            assert_eq!(projection.is_unfinished().unwrap(), border > 0);
        }
        let directory = tempfile::tempdir().unwrap();
        {
            let projection = Projection::open(directory.path()).unwrap();
            projection.apply(before, place(border)).unwrap();
            projection.spread(threads).unwrap();
            projection.apply(behind, place(history.len())).unwrap();
            projection.finish(threads).unwrap();
        }
        let projection = Projection::open(directory.path()).unwrap();
        assert!(!projection.is_unfinished().unwrap());
        assert_eq!((picture(&projection), stored(&projection)), expected);
    }
}

/// Upkeep's changes go the same way.
#[test]
fn what_is_forgotten_is_gone_wherever_it_was() {
    let horizon = at(1_000_000);
    for flushed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let projection = Projection::open(directory.path()).unwrap();
        projection.apply(&history(), place(99)).unwrap();
        if flushed {
            projection.flush().unwrap();
        }
        let (expired, _) = projection.expired_sends(None, horizon, 99, &mut |_, _| true).unwrap();
        assert_eq!(expired, [id(0), id(1)]);
        projection.forget(&expired, horizon).unwrap();
        projection.delete(projection.expired_days(horizon.after(DAY), 99).unwrap());
        projection.delete(projection.expired_orphans(horizon, 99).unwrap());
        for (segment, bytes) in projection.garbage().unwrap() {
            projection.dropped(segment, bytes).unwrap();
        }
        let left = picture(&projection);
        assert!(!left.contains(&id(0).to_string()) && left.contains(&id(2).to_string()), "{left}");
        projection.flush().unwrap();
        let kinds: HashSet<u8> = stored(&projection).keys().map(|key| key[0]).collect();
        assert_eq!(kinds, b"kmqiroce".iter().copied().collect(), "flushed: {flushed}");
    }
}

/// Two Message-IDs may have the same hash in the index; their mails have nothing to do with each other.
#[test]
fn a_message_id_with_the_hash_of_another_joins_nothing() {
    for flushed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let projection = Projection::open(directory.path()).unwrap();
        projection.apply(&history(), place(99)).unwrap();
        let mut rows = Overlay::new(projection.rows());
        rows.put(keys::indexed(keys::message_id("8@example.com"), id(2)), Vec::new());
        rows.put(keys::indexed(keys::message_id("0@example.com"), id(2)), Vec::new());
        rows.commit(None);
        if flushed {
            projection.flush().unwrap();
        }
        assert!(projection.by_message_id(&message_id(8), 9).unwrap().is_empty());
        assert_eq!(projection.by_message_id(&message_id(0), 1).unwrap(), [id(0)]);
        assert_eq!(projection.find(&event(8, None)).unwrap(), None);
        let found = projection.find(&Event { at: at(9), ..event(0, None) }).unwrap();
        assert_eq!(found.map(|(id, ..)| id), Some(id(0)));
        projection
            .apply(&[Kept { record: notice(8, None), place: place(100), body: 0 }], place(101))
            .unwrap();
        assert_eq!(projection.trail(id(2)).unwrap().unwrap().facts.len(), 3);
    }
}

/// How far it looked is told.
#[test]
fn subjects_are_searched_from_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let projection = Projection::open(directory.path()).unwrap();
    projection.apply(&history(), place(99)).unwrap();
    let found = |part, limit, searched| projection.by_subject(part, limit, searched).unwrap();
    assert_eq!(found("order s", 9, 3), (vec![id(2), id(1), id(0)], false));
    assert_eq!(found("ORDER", 9, 2), (vec![id(2), id(1)], true));
    assert_eq!(found("S0", 9, 2), (vec![], true));
    assert_eq!(found("S0", 9, 3), (vec![id(0)], false));
    assert_eq!(found("order", 1, 2), (vec![id(2)], false));
}

/// What a row lost is told, and what is in it again after the ledger is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_lacks_a_send_of_the_journal_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
    let send = Send::new(id(1), "test");
    let accepted = Accepted { send, recipients: vec!["a@example.net".parse().unwrap()] };
    store.accept_and_apply(accepted, bytes::Bytes::from("A: b\r\n\r\n")).await.unwrap();
    store.settle_down().await;
    let retention = Retention::default();
    let verify = |now| {
        let look = || store.verify(Some(&retention), now, &mut |_| Ok(())).unwrap();
        tokio::task::block_in_place(look)
    };
    assert!(verify(at(1)).is_whole());
    store.projection().unwrap().tree().remove(keys::send(id(1))).unwrap();
    let found = verify(at(1)).contradictions;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("1 sends of the journal") && found[1].contains("in the queue"), "{found:?}");
    // What may be forgotten is not missed; its place in the queue is.
    assert_eq!(verify(at(40 * 86_400)).contradictions.len(), 1);
    tokio::task::block_in_place(|| store.rebuild(false, &mut |_| {})).unwrap();
    assert!(verify(at(1)).is_whole());
}

/// Three sends: relayed and reported; relayed later and reported by its Message-ID, early; waiting. And an event that
/// nobody waits for.
fn history() -> Vec<Kept> {
    let records = [
        accepted(0),
        begun(0),
        relayed(0, None),
        notice(0, Some(id(0))),
        notice(1, None),
        accepted(1),
        begun(1),
        relayed(1, Some(at(50))),
        begun(1),
        relayed(1, None),
        notice(0, Some(id(0))),
        notice(7, None),
        accepted(2),
        action(2, Verb::Hold),
        action(2, Verb::Release),
    ];
    (0..).zip(records).map(|(number, record)| Kept { record, place: place(number), body: 10 }).collect()
}

/// The queue of what may take any upstream.
fn any_route() -> Vec<u8> {
    keys::queue(Lane::Transactional, &WaitsRow::ForRoute(None))
}

/// Everything that can be asked.
fn picture(projection: &Projection) -> String {
    let mut text = String::new();
    let (low, high) = (TrackingId::from_bytes([0; 16]), TrackingId::from_bytes([255; 16]));
    let sends = projection.between(low, high, 99).unwrap();
    writeln!(text, "{sends:?}").unwrap();
    for queue in projection.queues().unwrap() {
        let due = projection.due(&queue, at(99), 99, |_| true).unwrap();
        writeln!(text, "{queue:?} {due:?} {:?}", projection.queued(&queue, |_| true, 99).unwrap()).unwrap();
    }
    writeln!(text, "{:?}", projection.interrupted().unwrap()).unwrap();
    writeln!(text, "{:?}", projection.garbage().unwrap()).unwrap();
    writeln!(text, "{:?}", projection.by_recipient("Ada@example.net", 99).unwrap()).unwrap();
    writeln!(text, "{:?}", projection.by_record(&OdooRecord::parse("sale.order,42").unwrap(), 99).unwrap())
        .unwrap();
    for number in 0..9 {
        let event = event(number, None);
        writeln!(text, "{:?}", projection.by_message_id(&message_id(number), 99).unwrap()).unwrap();
        writeln!(text, "{:?}", projection.knows_event("mailgun", &event).unwrap()).unwrap();
        writeln!(text, "{:?}", projection.find(&event).unwrap()).unwrap();
        writeln!(text, "{:?}", projection.token("mailgun", &number.to_string(), at(number)).unwrap())
            .unwrap();
        writeln!(text, "{:?}", projection.trail(id(number)).unwrap()).unwrap();
        writeln!(text, "{:?}", projection.is_sending(id(number)).unwrap()).unwrap();
    }
    text
}

fn stored(projection: &Projection) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let rows = projection.tree().iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())));
    rows.collect::<sled::Result<_>>().unwrap()
}

fn key(random: &mut Rng) -> Vec<u8> {
    let class = [b'a', b'b', keys::SPARSE[1]][random.usize(..3)];
    vec![class, random.u8(..4) * 85, random.u8(..40)]
}

fn pair((key, value): &(IVec, IVec)) -> (&IVec, &IVec) {
    (key, value)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_789_387_200 + seconds)
}

fn id(number: u64) -> TrackingId {
    TrackingId::new(at(number), u128::from(number))
}

fn place(number: usize) -> Place {
    Place { segment: 1, offset: number as u64 * 100 }
}

fn message_id(number: u64) -> MessageId {
    MessageId::parse(&format!("{number}@example.com")).unwrap()
}

fn accepted(number: u64) -> Record {
    let send = Send {
        message_id: Some(message_id(number)),
        records: vec![OdooRecord::parse("sale.order,42").unwrap()],
        subject: format!("Your Order S{number}"),
        size: number,
        ..Send::new(id(number), "odoo")
    };
    Record::Accepted(Box::new(Accepted { send, recipients: vec!["ada@example.net".parse().unwrap()] }))
}

fn action(number: u64, verb: Verb) -> Record {
    let (operator, reason) = ("uid 0".to_owned(), "why not".to_owned());
    Record::Action(Action { id: id(number), at: at(number), verb, operator, reason })
}

fn begun(number: u64) -> Record {
    Record::Begun(Begun { id: id(number), at: at(number), upstream: "mailgun".into() })
}

fn relayed(number: u64, due: Option<Timestamp>) -> Record {
    let standing = if due.is_some() { Standing::Queued } else { Standing::Relayed };
    let settled = Settled { recipients: vec![0], standing, words: Words::default() };
    let (id, at) = (id(number), at(number));
    Record::Outcome(Outcome { id, at, upstream: "mailgun".into(), settled: vec![settled], due })
}

fn notice(number: u64, tracking: Option<TrackingId>) -> Record {
    let token = Some((number.to_string(), at(number), [number as u8; 16]));
    let event = event(number, tracking);
    Record::Notice(Box::new(Notice {
        upstream: "mailgun".into(),
        at: at(number),
        via: Via::Webhook,
        token,
        event,
    }))
}

fn event(number: u64, tracking: Option<TrackingId>) -> Event {
    Event {
        kind: Kind::Delivered,
        at: at(number),
        identity: format!("event {number}"),
        recipient: Some("ada@example.net".into()),
        tracking,
        message_id: Some(message_id(number)),
        by_machine: false,
        test_mode: false,
        words: Words::default(),
    }
}

/// Flushes beside a scan.
const ROUNDS: u32 = 60;
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
