//! Retention and compaction: expired and retained records, and the same after a rebuild.

use super::*;
use mailtrail_mail::ManualClock;
use mailtrail_store::Retention;
use mailtrail_trail::{ContactHint, ContactHintKind, DeadLetter, EventReplay, ReceivedHint};

#[tokio::test(flavor = "multi_thread")]
async fn drops_finished_bodies_and_keeps_everything_else() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    put_messages(&store, 0..300, |number| number % 30 == 0).await;
    let before = snapshot_trails(&store);
    let full = journal_size(directory.path());

    time.advance_to(time_at(2 * HOUR_SECONDS));
    run_maintenance(&store, time_at(2 * HOUR_SECONDS), &WEEK_RETENTION).await;
    let (small, live) = (journal_size(directory.path()), 10 * BODY_BYTES + 300 * 600);
    assert!(small < live * 3 / 2 && small * 3 < full, "{full} bytes became {small}, of which {live} live");
    for _ in 0..2 {
        assert_eq!(snapshot_trails(&store), before);
        for number in 0..300 {
            let expected = (number % 30 == 0).then(|| sample_body(number));
            assert_eq!(read_body(&store, number).await, expected, "{number}");
        }
        // Another look finds nothing to do.
        run_maintenance(&store, time_at(2 * HOUR_SECONDS), &WEEK_RETENTION).await;
        assert_eq!(journal_size(directory.path()), small);
    }
    // The rewritten journal yields an equal ledger.
    drop(store);
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = open_at(directory.path(), time);
    assert_eq!(snapshot_trails(&store), before);
    assert_eq!(read_body(&store, 30).await, Some(sample_body(30)));
    // Queued messages are still sendable, and expire afterwards.
    for number in (0..300).step_by(30) {
        store.record_attempt_outcome(relayed_outcome(number, 3 * HOUR_SECONDS)).await.unwrap();
    }
    time.advance_to(time_at(30 * HOUR_SECONDS));
    run_maintenance(&store, time_at(30 * HOUR_SECONDS), &WEEK_RETENTION).await;
    assert!(store.load_job(message_id_at(30)).unwrap().unwrap().body.is_none());
    let size = journal_size(directory.path());
    assert!(size < 300 * 700, "{size} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn expires_old_records_but_not_queued_messages() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    put_messages(&store, 0..200, |number| number == 7).await;
    store
        .put_event(
            received_event(sample_event(900, "nobody@example.net", EventKind::Delivered)),
            Bytes::from("raw"),
        )
        .await
        .unwrap();
    let tracked = time_at(6 * DAY_SECONDS).duration_since(time_at(0)).as_secs();
    time.advance_to(time_at(tracked));
    put_messages(&store, tracked..tracked + 50, |_| false).await;

    // The old ones are forgotten, but for the one that waits; the others stay.
    time.advance_to(time_at(9 * DAY_SECONDS));
    run_maintenance(&store, time_at(9 * DAY_SECONDS), &WEEK_RETENTION).await;
    let newer: Vec<_> = (tracked..tracked + 50).rev().map(message_id_at).collect();
    assert_eq!(all_message_ids(&store).len(), 51);
    assert!(all_message_ids(&store) == [&newer[..], &[message_id_at(7)]].concat());
    assert_eq!(
        store.find_by_recipient("ada@example.net", 99).unwrap(),
        [&newer[..], &[message_id_at(7)]].concat()
    );
    assert_eq!(
        store.find_by_odoo_record(&OdooRecord::parse("sale.order,42").unwrap(), 99).unwrap().len(),
        51
    );
    assert!(store.find_by_message_id(&MessageId::parse("3@example.com").unwrap(), 9).unwrap().is_empty());
    assert_eq!(read_body(&store, 7).await, Some(sample_body(7)));
    assert!(
        !store.has_event("mailgun", &sample_event(900, "nobody@example.net", EventKind::Delivered)).unwrap()
    );

    // A rebuild from the journal brings nothing back.
    let remembered = snapshot_trails(&store);
    drop(store);
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = open_at(directory.path(), time);
    run_maintenance(&store, time_at(9 * DAY_SECONDS), &WEEK_RETENTION).await;
    assert_eq!(snapshot_trails(&store), remembered);

    // In the end nothing is left, on the disk neither.
    store.record_attempt_outcome(relayed_outcome(7, 9 * DAY_SECONDS)).await.unwrap();
    for day in [20, 30, 40] {
        time.advance_to(time_at(day * DAY_SECONDS));
        run_maintenance(&store, time_at(day * DAY_SECONDS), &WEEK_RETENTION).await;
    }
    assert_eq!(all_message_ids(&store), []);
    assert!(journal_size(directory.path()) < 4096, "{} bytes are left", journal_size(directory.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn contact_hints_expire_with_raw_events() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    let hinted = |seconds: u64, address: Option<&str>| ReceivedHint {
        source: "campaigns".into(),
        received_at: time_at(seconds),
        dedup_key: seconds.to_string(),
        hint: ContactHint {
            kind: ContactHintKind::Unsubscribed,
            at: time_at(seconds),
            address: address.map(str::to_owned),
            lists: vec!["3".into()],
            diagnostic: Diagnostic { text: Some("enough".into()), ..Diagnostic::default() },
        },
    };
    let (old, young) = (hinted(1, Some("Ada@example.net")), hinted(6 * DAY_SECONDS, Some("ada@example.net")));
    for hint in [&old, &young, &young, &hinted(2, None)] {
        store.put_hint(hint.clone(), Bytes::from("raw of a hint")).await.unwrap();
    }
    assert_eq!(store.find_hints("ada@example.net", 9).unwrap(), [young.clone(), old]);
    assert!(store.has_hint(&hinted(2, None)).unwrap() && !store.has_hint(&hinted(3, None)).unwrap());
    time.advance_to(time_at(9 * DAY_SECONDS));
    run_maintenance(&store, time_at(9 * DAY_SECONDS), &WEEK_RETENTION).await;
    assert_eq!(store.find_hints("ada@example.net", 9).unwrap(), std::slice::from_ref(&young));
    drop(store);
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = open_at(directory.path(), time);
    assert_eq!(store.find_hints("ADA@example.net", 9).unwrap().first(), Some(&young));
    time.advance_to(time_at(20 * DAY_SECONDS));
    run_maintenance(&store, time_at(20 * DAY_SECONDS), &WEEK_RETENTION).await;
    assert_eq!(store.find_hints("ada@example.net", 9).unwrap(), []);
    assert!(journal_size(directory.path()) < 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_events_and_dead_letters_expire_with_events() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let mut store = open_at(directory.path(), time);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    let (upstream, source) = ("mailgun".to_owned(), EventSource::Webhook);
    let dead_letter = |number: u8| {
        let token = Some((format!("token {number}"), time_at(number.into()), [number; 16]));
        DeadLetter {
            upstream: upstream.clone(),
            received_at: time_at(number.into()),
            source,
            token,
            body_digest: [number; 16],
            reason: "?".into(),
        }
    };
    for number in 1..3 {
        store.put_dead_letter(dead_letter(number), Bytes::from("raw")).await.unwrap();
    }
    let delivered = sample_event(0, "ada@example.net", EventKind::Delivered);
    let replay = EventReplay {
        id: dead_letter(2).id(),
        at: time_at(3),
        operator: "uid 0".into(),
        reason: "understood now".into(),
        upstream: upstream.clone(),
        source,
        previous: None,
        event: delivered,
    };
    store.replay_event(replay).await.unwrap();
    let unknown = ReceivedEvent {
        received_at: time_at(4),
        ..received_event(sample_event(900, "nobody@example.net", EventKind::Delivered))
    };
    store.put_event(unknown.clone(), Bytes::from("raw")).await.unwrap();
    store.record_attempt_outcome(relayed_outcome(0, 5 * DAY_SECONDS)).await.unwrap();
    let events = Retention { events: Duration::from_secs(DAY_SECONDS), ..WEEK_RETENTION };
    for (when, dead_letters, raw) in [(DAY_SECONDS - 1, (1, 1), true), (2 * DAY_SECONDS, (0, 0), false)] {
        time.advance_to(time_at(when));
        run_maintenance(&store, time_at(when), &events).await;
        assert_eq!(store.count_unmatched().unwrap(), dead_letters, "after {when} s");
        for id in [dead_letter(1).id(), dead_letter(2).id(), unknown.id()] {
            let report = store.find_event(id).unwrap().unwrap();
            assert_eq!(store.raw_event(&report).unwrap().is_some(), raw, "after {when} s");
        }
    }
    // A rebuild restores no expired record permanently, and replayed events keep their result.
    drop(store);
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    store = open_at(directory.path(), time);
    run_maintenance(&store, time_at(2 * DAY_SECONDS), &events).await;
    assert_eq!(store.count_unmatched().unwrap(), (0, 0));
    assert_eq!(recipient_states(&store, 0), [RecipientState::Delivered]);
    assert!(store.webhook_token("mailgun", "token 1", time_at(1)).unwrap().is_some());
    for day in [9, 14, 30] {
        time.advance_to(time_at(day * DAY_SECONDS));
        run_maintenance(&store, time_at(day * DAY_SECONDS), &events).await;
    }
    assert!(store.find_event(dead_letter(1).id()).unwrap().is_none());
    assert!(journal_size(directory.path()) < 4096, "{} bytes are left", journal_size(directory.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stay_for_configured_retention() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    put_messages(&store, 0..50, |_| false).await;
    let kept = Retention { bodies: Duration::from_secs(2 * DAY_SECONDS), ..WEEK_RETENTION };
    for (hours, there) in [(2, true), (40, true), (60, false)] {
        time.advance_to(time_at(hours * HOUR_SECONDS));
        run_maintenance(&store, time_at(hours * HOUR_SECONDS), &kept).await;
        assert_eq!(
            store.load_job(message_id_at(3)).unwrap().unwrap().body.is_some(),
            there,
            "after {hours} hours"
        );
    }
}

/// The journal is authoritative: a message that is missing in the ledger may be the ledger's loss.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_young_body_missing_from_ledger() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    put_messages(&store, 0..10, |_| false).await;
    put_messages(&store, 100..110, |_| true).await;
    store.checkpoint().await;
    drop(store);
    open_read_only(directory.path());
    remove_ledger_rows(&directory.path().join("ledger/1"), 100..105);
    let store = open_at(directory.path(), time);
    assert_eq!(store.queued_ids(99).unwrap().len(), 5);
    run_maintenance(&store, time_at(DAY_SECONDS), &WEEK_RETENTION).await;
    drop(store);
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = open_at(directory.path(), time);
    assert_eq!(store.queued_ids(99).unwrap().len(), 10);
    assert_eq!(read_body(&store, 100).await, Some(sample_body(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_continue_during_maintenance() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    for round in 0..5 {
        let first = round * 100;
        let (busy, keeper) = (store.clone(), store.clone());
        let filling = put_messages(&busy, first..first + 100, |number| number % 10 == 3);
        let now = time_at(round * 3 * HOUR_SECONDS);
        time.advance_to(now);
        let keeping = tokio::task::spawn_blocking(move || {
            for _ in 0..20 {
                keeper.run_maintenance_step(&WEEK_RETENTION, now).unwrap();
            }
        });
        let ((), kept) = tokio::join!(filling, keeping);
        kept.unwrap();
    }
    run_maintenance(&store, time_at(20 * HOUR_SECONDS), &WEEK_RETENTION).await;
    assert_eq!(all_message_ids(&store).len(), 500);
    for number in (0..500).filter(|number| number % 10 == 3) {
        assert_eq!(read_body(&store, number).await, Some(sample_body(number)), "{number}");
    }
    drop(store);
    let (store, report) = reopen_store(directory.path());
    assert_eq!((all_message_ids(&store).len(), report.corrupt_ranges), (500, vec![]));
}

/// The process dies after a third of each step: unfinished files do no harm.
#[tokio::test]
async fn removes_leftovers_of_interrupted_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let expected = populate_store(directory.path()).await;
    let half = directory.path().join("journal/0000000001.new");
    std::fs::write(&half, b"MTRAIL02 half").unwrap();
    let (store, report) = reopen_store(directory.path());
    assert!(!half.exists() && report.corrupt_ranges.is_empty());
    assert_eq!(snapshot(&store), expected);
}

/// Two ledgers are what an interrupted building of a new one leaves: the one that is further goes on.
#[tokio::test]
async fn uses_the_more_advanced_of_two_ledgers() {
    let base = tempfile::tempdir().unwrap();
    let (store, _) = reopen_store(base.path());
    store.put_message(sample_accepted(500, "a@b", &["ada@example.net"]), Bytes::from("early")).await.unwrap();
    drop(store);
    open_read_only(base.path());
    let early = tempfile::tempdir().unwrap();
    copy_dir(&base.path().join("ledger/1"), early.path());
    let expected = populate_store(base.path()).await;
    for (old, new) in [("1", "2"), ("2", "1")] {
        let directory = tempfile::tempdir().unwrap();
        copy_dir(&base.path().join("journal"), &directory.path().join("journal"));
        copy_dir(&base.path().join("ledger/1"), &directory.path().join("ledger").join(new));
        copy_dir(early.path(), &directory.path().join("ledger").join(old));
        let (store, report) = reopen_store(directory.path());
        assert_eq!(report.rebuild_reason, None);
        assert_eq!(snapshot(&store), expected);
        let left: Vec<_> = std::fs::read_dir(directory.path().join("ledger")).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(directory.path().join("ledger").join(new).exists());
    }
}

/// Removes rows of messages without the store.
fn remove_ledger_rows(ledger: &Path, numbers: std::ops::Range<u64>) {
    let db = open_sled_when_free(ledger);
    for number in numbers {
        let key = [&b"m"[..], &message_id_at(number).to_bytes()].concat();
        assert!(db.remove(key).unwrap().is_some());
        let mut queue = db.scan_prefix(b"q").keys().map(|key| key.unwrap());
        let due = queue.find(|key| key.ends_with(&message_id_at(number).to_bytes())).unwrap();
        assert!(db.remove(due).unwrap().is_some());
    }
    db.flush().unwrap();
}

/// Accepts sends; those that do not wait are relayed and delivered.
pub async fn put_messages(store: &Store, numbers: std::ops::Range<u64>, waits: impl Fn(u64) -> bool) {
    join_all(numbers.map(|number| {
        let waits = waits(number);
        async move {
            let message_id = format!("{number}@example.com");
            let send = sample_accepted(number, &message_id, &["ada@example.net"]);
            store.put_message(send, sample_body(number)).await.unwrap();
            if !waits {
                store.record_attempt_start(attempt_started(number)).await.unwrap();
                store.record_attempt_outcome(relayed_outcome(number, number)).await.unwrap();
                let mut delivered =
                    received_event(sample_event(number, "ada@example.net", EventKind::Delivered));
                delivered.received_at = time_at(number);
                store.put_event(delivered, Bytes::from("raw")).await.unwrap();
            }
        }
    }))
    .await;
}

fn relayed_outcome(number: u64, when: u64) -> AttemptOutcome {
    attempt_outcome(number, when, &[recipient_result(&[0], AttemptStatus::Relayed)], None)
}

/// Upkeep until there is nothing left to do.
pub async fn run_maintenance(store: &Store, now: Timestamp, retention: &Retention) {
    for _ in 0..4 {
        let (keeper, retention) = (store.clone(), *retention);
        let work = move || while keeper.run_maintenance_step(&retention, now).unwrap() {};
        tokio::task::spawn_blocking(work).await.unwrap();
        store.checkpoint().await;
    }
}

fn all_message_ids(store: &Store) -> Vec<TrackingId> {
    store.ids_in_range(TrackingId::from_bytes([0; 16]), TrackingId::from_bytes([255; 16]), 999).unwrap()
}

/// Everything but the messages.
fn snapshot_trails(store: &Store) -> String {
    let trails =
        all_message_ids(store).into_iter().map(|id| format!("{:?}\n", store.load_trail(id).unwrap()));
    trails.chain([format!("{:?}", store.queued_ids(999).unwrap())]).collect()
}

fn sample_body(number: u64) -> Bytes {
    Bytes::from(format!("{number:07}\n").repeat(BODY_BYTES as usize / 8))
}

fn journal_size(data_dir: &Path) -> u64 {
    let entries = std::fs::read_dir(data_dir.join("journal")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

pub fn clock_at_start() -> &'static ManualClock {
    let time: &'static ManualClock = Box::leak(Box::default());
    time.advance_to(time_at(0));
    time
}

pub fn open_at(data_dir: &Path, time: &'static ManualClock) -> Store {
    retry_while_locked(|| Store::open(data_dir, Clock::Manual(time))).0
}

const BODY_BYTES: u64 = 16 << 10;
pub const HOUR_SECONDS: u64 = 3600;
pub const DAY_SECONDS: u64 = 24 * HOUR_SECONDS;
pub const WEEK_RETENTION: Retention = Retention {
    ledger: Duration::from_secs(7 * DAY_SECONDS),
    bodies: Duration::ZERO,
    events: Duration::from_secs(7 * DAY_SECONDS),
};
