//! Contract of the store over a data directory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod correlation;
mod inbound;
mod operator_actions;
mod provider_events;
mod retention;
mod suppressions;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use mailtrail_mail::{BodyType, Clock, Lane, MessageId, OdooRecord, Timestamp, TrackingId};
use mailtrail_store::{
    CheckReport, CommitError, Inconsistency, LogEntry, MessageBody, OpenError, OpenReport, QueueId, Store,
};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, AttemptStatus, BreakerOverride, CorrelatedBy,
    Diagnostic, EventKind, EventSource, Message, PollCursor, ProviderEvent, QueueAction, QueueKey, QueueVerb,
    ReceivedEvent, Recipient, RecipientResult, RecipientState, TrailEventKind,
};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Number of seeds of each property.
fn seed_count() -> u64 {
    std::env::var("MAILTRAIL_TEST_SEEDS").map_or(2000, |seeds| seeds.parse().unwrap())
}

#[tokio::test]
async fn accepted_messages_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let messages = [&b"A: b\r\n\r\n"[..], b"", b"\0\r\n.\r\n\xff\n\r", &vec![b'x'; 300_000]];
    for (number, message) in (0..).zip(messages) {
        let send = sample_accepted(number, "one@example.com", &["Ada@Example.net", "bob@example.org"]);
        store.put_message(send, Bytes::copy_from_slice(message)).await.unwrap();
    }
    store.checkpoint().await;
    let before = snapshot(&store);
    drop(store);
    let (store, report) = reopen_store(directory.path());
    assert!(report.rebuild_reason.is_none() && report.corrupt_ranges.is_empty(), "{report:?}");
    assert_eq!(snapshot(&store), before);
    for (number, message) in (0..).zip(messages) {
        let job = store.load_job(message_id_at(number)).unwrap().unwrap();
        assert_eq!(read_body(&store, number).await.as_deref(), Some(message));
        assert_eq!(job.message, sample_accepted(number, "one@example.com", &[]).message);
        assert_eq!(job.recipients[0].address.as_str(), "Ada@Example.net");
    }
    let newest_first: Vec<_> = (0..4).rev().map(message_id_at).collect();
    let one = MessageId::parse("<one@example.com>").unwrap();
    assert_eq!(store.find_by_message_id(&one, 9).unwrap(), newest_first);
    assert_eq!(store.find_by_recipient("ADA@example.NET", 9).unwrap(), newest_first);
    assert_eq!(store.find_by_recipient("bob@example.org", 2).unwrap(), newest_first[..2]);
    assert_eq!(
        store.find_by_odoo_record(&OdooRecord::parse("sale.order,42").unwrap(), 9).unwrap(),
        newest_first
    );
    assert!(
        store.load_job(message_id_at(9)).unwrap().is_none()
            && store.load_trail(message_id_at(9)).unwrap().is_none()
    );
}

#[tokio::test]
async fn stores_spilled_message_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let kept_at_once = (0..6).map(|number| {
        let (text, mut spill) = (large_text(number), store.create_spill_file().unwrap());
        let (first, rest) = text.as_bytes().split_at(usize::try_from(number).unwrap() * 1000);
        rest.chunks(100_000).for_each(|piece| spill.append(piece).unwrap());
        // Every other one is in memory.
        let rest = number.is_multiple_of(2).then_some(spill);
        let first = if rest.is_some() { first.to_vec() } else { text.into_bytes() };
        let send = sample_accepted(number, "a@b", &["ada@example.net"]);
        store.put_message(send, MessageBody::new(first.into(), rest))
    });
    join_all(kept_at_once).await.into_iter().for_each(|kept| kept.unwrap());
    drop(store);
    // A rebuild reads and checks the whole journal.
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let (store, report) = reopen_store(directory.path());
    assert_eq!((report.replayed_records, report.corrupt_ranges), (6, vec![]));
    for number in 0..6 {
        assert_eq!(read_body_text(&store, number).await, large_text(number), "message {number}");
    }
    let files = std::fs::read_dir(directory.path().join("journal")).unwrap();
    let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| name.ends_with(".seg")), "no file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_readers_see_whole_messages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let text = |number: u64| format!("{number:07}\n").repeat(number as usize * 20);
    let all = |number| {
        store.put_message(sample_accepted(number, "a@b", &["ada@example.net"]), Bytes::from(text(number)))
    };
    join_all((1..100).map(all)).await.into_iter().for_each(|kept| kept.unwrap());
    store.checkpoint().await;
    let readers = (0..8).map(|reader| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..500 {
                let number = 1 + (round * 7 + reader * 13) % 99;
                assert!(read_body_text(&store, number).await == text(number), "message {number}");
            }
        })
    });
    join_all(readers).await.into_iter().for_each(|read| read.unwrap());
}

#[tokio::test]
async fn outcomes_update_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    for number in 0..3 {
        store
            .put_message(
                sample_accepted(number, "a@b", &["ada@example.net", "bob@example.org"]),
                Bytes::new(),
            )
            .await
            .unwrap();
    }
    store.checkpoint().await;
    assert_eq!(store.queue_ids().unwrap(), [any_route_queue()]);
    assert_eq!(lock_due_ids(&store, time_at(0), 9), (vec![message_id_at(0)], Some(time_at(1))));
    assert_eq!(
        lock_due_ids(&store, time_at(9), 2),
        (vec![message_id_at(0), message_id_at(1)], Some(time_at(2)))
    );
    let second = store.try_lock(message_id_at(1)).unwrap();
    assert!(store.try_lock(message_id_at(1)).is_none());
    assert_eq!(
        lock_due_ids(&store, time_at(9), 9),
        (vec![message_id_at(0), message_id_at(2)], None),
        "one is in somebody's hands"
    );
    drop(second);

    // One recipient is final, one is pending until the time of the outcome.
    let part =
        [recipient_result(&[0], AttemptStatus::Relayed), recipient_result(&[1], AttemptStatus::Queued)];
    store.record_attempt_outcome(attempt_outcome(0, 5, &part, Some(50))).await.unwrap();
    assert_eq!(
        lock_due_ids(&store, time_at(9), 9),
        (vec![message_id_at(1), message_id_at(2)], Some(time_at(50)))
    );
    assert_eq!(recipient_states(&store, 0), [RecipientState::Relayed, RecipientState::Queued]);
    assert_eq!(store.load_job(message_id_at(0)).unwrap().unwrap().attempts, 1);
    // A time without a pending recipient has no effect.
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            50,
            &[recipient_result(&[1], AttemptStatus::Bounced)],
            Some(99),
        ))
        .await
        .unwrap();
    store
        .record_attempt_outcome(attempt_outcome(
            1,
            6,
            &[recipient_result(&[0, 1], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    assert_eq!(store.queued_ids(9).unwrap(), [message_id_at(2)]);
    assert_eq!(store.load_trail(message_id_at(0)).unwrap().unwrap().attempts, 2);
    assert_eq!(
        store.queued_by_acceptance(&any_route_queue(), |accepted| accepted < time_at(2), 9).unwrap(),
        []
    );
    // An event settles an unknown result.
    store
        .record_attempt_outcome(attempt_outcome(
            2,
            7,
            &[recipient_result(&[0, 1], AttemptStatus::Unknown)],
            Some(60),
        ))
        .await
        .unwrap();
    store
        .put_event(received_event(sample_event(2, "ada@example.net", EventKind::Accepted)), Bytes::new())
        .await
        .unwrap();
    assert_eq!(store.queued_ids(9).unwrap(), [message_id_at(2)]);
    store
        .put_event(received_event(sample_event(2, "bob@example.org", EventKind::Delivered)), Bytes::new())
        .await
        .unwrap();
    assert_eq!(recipient_states(&store, 2), [RecipientState::Relayed, RecipientState::Delivered]);
    assert_eq!(store.queued_ids(9).unwrap(), []);
    // An outcome of an unknown message changes nothing.
    store
        .record_attempt_outcome(attempt_outcome(
            77,
            8,
            &[recipient_result(&[0], AttemptStatus::Relayed)],
            Some(9),
        ))
        .await
        .unwrap();
    assert_eq!(store.queued_ids(9).unwrap(), []);
}

/// The queue of transactional mail that may take any upstream.
fn any_route_queue() -> QueueId {
    QueueId { lane: Lane::Transactional, key: QueueKey::Route(None) }
}

fn lock_due_ids(store: &Store, now: Timestamp, limit: usize) -> (Vec<TrackingId>, Option<Timestamp>) {
    let (taken, next) = store.lock_due(&any_route_queue(), now, limit).unwrap();
    (taken.iter().map(|lock| lock.id()).collect(), next)
}

#[tokio::test]
async fn queues_messages_by_lane_and_route() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let routes = [(Lane::Bulk, None), (Lane::Transactional, Some("news")), (Lane::Transactional, None)];
    for (number, (lane, route)) in (0..).zip(routes) {
        let mut accepted = sample_accepted(number, "a@b", &["ada@example.net"]);
        (accepted.message.lane, accepted.message.route) = (lane, route.map(Box::from));
        store.put_message_applied(accepted, Bytes::new()).await.unwrap();
    }
    let queues = store.queue_ids().unwrap();
    let lanes: Vec<_> = queues.iter().map(|queue| queue.lane).collect();
    assert_eq!(lanes, [Lane::Transactional, Lane::Transactional, Lane::Bulk]);
    for (number, (lane, route)) in (0..).zip(routes) {
        let queue = QueueId { lane, key: QueueKey::Route(route.map(Box::from)) };
        assert!(queues.contains(&queue), "{queues:?}");
        let (taken, next) = store.lock_due(&queue, time_at(9), 9).unwrap();
        assert_eq!((taken[0].id(), taken.len(), next), (message_id_at(number), 1, None));
    }
    assert_eq!(store.queued_ids(9).unwrap(), [message_id_at(0), message_id_at(1), message_id_at(2)]);
    // A message with an unknown result stays with its upstream, also after reopening, until no result is unknown.
    let pinned =
        QueueId { lane: Lane::Bulk, key: QueueKey::Upstream { name: "mailgun".into(), route: None } };
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            5,
            &[recipient_result(&[0], AttemptStatus::Unknown)],
            Some(50),
        ))
        .await
        .unwrap();
    drop(store);
    let (store, _) = reopen_store(directory.path());
    assert!(store.queue_ids().unwrap().contains(&pinned));
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            51,
            &[recipient_result(&[0], AttemptStatus::Queued)],
            Some(60),
        ))
        .await
        .unwrap();
    assert!(store.queue_ids().unwrap().contains(&pinned), "it may still be there");
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            61,
            &[recipient_result(&[0], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    assert!(!store.queue_ids().unwrap().contains(&pinned));
}

#[tokio::test]
async fn operators_hold_release_and_bounce_messages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    for number in 0..3 {
        let recipients = ["ada@example.net", "bob@example.org"];
        store.put_message(sample_accepted(number, "a@b", &recipients), Bytes::from("text")).await.unwrap();
    }
    let act = |number, seconds, verb| {
        let (operator, reason) = ("uid 0".to_owned(), "why not".to_owned());
        store.record_queue_action(QueueAction {
            id: message_id_at(number),
            at: time_at(seconds),
            verb,
            operator,
            reason,
        })
    };
    // One recipient is final and stays unchanged.
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            5,
            &[recipient_result(&[0], AttemptStatus::Relayed)],
            Some(50),
        ))
        .await
        .unwrap();
    act(0, 6, QueueVerb::Hold).await.unwrap();
    assert_eq!(recipient_states(&store, 0), [RecipientState::Relayed, RecipientState::Held]);
    assert_eq!(store.queue_key(message_id_at(0)).unwrap(), Some(QueueKey::Held));
    assert_eq!(lock_due_ids(&store, time_at(99), 9).0, [message_id_at(1), message_id_at(2)]);
    let trail = store.load_trail(message_id_at(0)).unwrap().unwrap();
    let fact = trail.events.last().unwrap();
    assert_eq!((fact.kind, &fact.recipients[..]), (TrailEventKind::QueueAction(QueueVerb::Hold), &[1][..]));
    assert_eq!(trail.recipients[1].effective_diagnostic().text.as_deref(), Some("why not"));
    act(0, 7, QueueVerb::Release).await.unwrap();
    assert_eq!(recipient_states(&store, 0), [RecipientState::Relayed, RecipientState::Queued]);
    assert_eq!(
        lock_due_ids(&store, time_at(7), 9).0,
        [message_id_at(1), message_id_at(2), message_id_at(0)],
        "it is due at once"
    );
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            8,
            &[recipient_result(&[1], AttemptStatus::Queued)],
            Some(90),
        ))
        .await
        .unwrap();
    act(0, 9, QueueVerb::Retry).await.unwrap();
    assert_eq!(lock_due_ids(&store, time_at(9), 9).0, [message_id_at(1), message_id_at(2), message_id_at(0)]);
    act(1, 9, QueueVerb::Delete).await.unwrap();
    act(2, 9, QueueVerb::Bounce).await.unwrap();
    // Final states stay unchanged.
    act(1, 10, QueueVerb::Bounce).await.unwrap();
    let check = |store: &Store| {
        assert_eq!(recipient_states(store, 1), [RecipientState::Cancelled; 2]);
        assert_eq!(recipient_states(store, 2), [RecipientState::Failed; 2]);
        assert_eq!(store.queued_ids(9).unwrap(), [message_id_at(0)]);
        assert_eq!(store.queue_key(message_id_at(1)).unwrap(), None);
    };
    check(&store);
    drop(store);
    check(&reopen_store(directory.path()).0);
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    check(&reopen_store(directory.path()).0);
}

#[tokio::test]
async fn released_unknown_message_returns_to_its_upstream() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            5,
            &[recipient_result(&[0], AttemptStatus::Unknown)],
            Some(50),
        ))
        .await
        .unwrap();
    for (verb, waits) in [
        (QueueVerb::Hold, QueueKey::Held),
        (QueueVerb::Release, QueueKey::Upstream { name: "mailgun".into(), route: None }),
    ] {
        let (operator, reason) = ("uid 0".to_owned(), String::new());
        store
            .record_queue_action(QueueAction { id: message_id_at(0), at: time_at(6), verb, operator, reason })
            .await
            .unwrap();
        assert_eq!(store.queue_key(message_id_at(0)).unwrap(), Some(waits));
    }
    assert_eq!(
        store.load_trail(message_id_at(0)).unwrap().unwrap().next_attempt,
        Some(time_at(50)),
        "it waits for its event as before"
    );
}

#[tokio::test]
async fn relayed_counts_and_breaker_overrides_survive_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store
        .put_message(sample_accepted(0, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new())
        .await
        .unwrap();
    let part =
        [recipient_result(&[0], AttemptStatus::Relayed), recipient_result(&[1], AttemptStatus::Queued)];
    store.record_attempt_outcome(attempt_outcome(0, 5, &part, Some(50))).await.unwrap();
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            86_405,
            &[recipient_result(&[1], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    let switch = |open| BreakerOverride {
        upstream: "mailgun".into(),
        at: time_at(9),
        open,
        operator: "uid 0".into(),
        reason: "moving".into(),
    };
    store.set_breaker_override(switch(true)).await.unwrap();
    drop(store);
    let (store, _) = reopen_store(directory.path());
    let today = time_at(0).day_number();
    assert_eq!(store.relayed_count("mailgun", today..=today).unwrap(), 1);
    assert_eq!(store.relayed_count("mailgun", today..=today + 1).unwrap(), 2);
    assert_eq!(store.relayed_count("brevo", today..=today + 1).unwrap(), 0);
    assert_eq!(store.breaker_override("mailgun").unwrap().as_deref(), Some("moving"));
    store.set_breaker_override(switch(false)).await.unwrap();
    assert_eq!(store.breaker_override("mailgun").unwrap(), None);
}

#[tokio::test]
async fn poll_cursors_survive_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let polled = |upstream: &str, until| PollCursor { upstream: upstream.into(), until: time_at(until) };
    for (upstream, until) in [("mailgun", 100), ("brevo", 7), ("mailgun", 200), ("mailgun", 150)] {
        store.set_poll_cursor(polled(upstream, until)).await.unwrap();
    }
    drop(store);
    for rebuilt in [false, true] {
        if rebuilt {
            std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        }
        let (store, _) = reopen_store(directory.path());
        assert_eq!(store.poll_cursor("mailgun").unwrap(), Some(time_at(150)), "the last one counts");
        assert_eq!(store.poll_cursor("brevo").unwrap(), Some(time_at(7)));
        assert_eq!(store.poll_cursor("other").unwrap(), None);
        assert!(store.log_in_segment(1).unwrap().is_empty());
    }
}

/// A webhook has the millisecond and our own id; a poll of the same event may have neither.
#[tokio::test]
async fn deduplicates_events_with_partial_fields() {
    let whole = |kind| ProviderEvent {
        message_id: MessageId::parse("a@b"),
        ..sample_event(0, "ada@example.net", kind)
    };
    let bare = |kind| ProviderEvent {
        at: time_at(0).saturating_add(Duration::from_millis(700)),
        tracking_id: None,
        ..whole(kind)
    };
    for (first, second) in [
        (whole(EventKind::Opened), bare(EventKind::Opened)),
        (bare(EventKind::Opened), whole(EventKind::Opened)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = open_store(&directory);
        for number in 0..2 {
            let accepted = sample_accepted(number, "a@b", &["ada@example.net"]);
            store.put_message_applied(accepted, Bytes::new()).await.unwrap();
            if number == 0 {
                assert!(!store.has_event("mailgun", &first).unwrap());
                store.put_event(received_event(first.clone()), Bytes::new()).await.unwrap();
            }
        }
        assert!(store.has_event("mailgun", &second).unwrap());
        assert!(!store.has_event("brevo", &second).unwrap());
        store.put_event(received_event(second), Bytes::new()).await.unwrap();
        let opened = |number| {
            let trail = store.load_trail(message_id_at(number)).unwrap().unwrap();
            (trail.recipients[0].marks.get(EventKind::Opened).map(|mark| mark.count), trail.events.len())
        };
        assert_eq!((opened(0), opened(1)), ((Some(1), 2), (None, 1)));
    }
}

#[tokio::test]
async fn trail_events_are_in_time_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    for (number, kind) in [(9, EventKind::Opened), (3, EventKind::Delivered), (7, EventKind::Clicked)] {
        let event = ProviderEvent {
            tracking_id: Some(message_id_at(0)),
            ..sample_event(number, "ada@example.net", kind)
        };
        store.put_event(received_event(event), Bytes::new()).await.unwrap();
    }
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            1,
            &[recipient_result(&[0], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    let times: Vec<_> =
        store.load_trail(message_id_at(0)).unwrap().unwrap().events.iter().map(|fact| fact.at).collect();
    assert_eq!(times, [0, 1, 3, 7, 9].map(time_at));
}

#[tokio::test]
async fn finds_interrupted_attempt_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    for number in 0..2 {
        store.put_message(sample_accepted(number, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
        store.record_attempt_start(attempt_started(number)).await.unwrap();
    }
    store
        .record_attempt_outcome(attempt_outcome(
            1,
            1,
            &[recipient_result(&[0], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    assert!(store.load_trail(message_id_at(0)).unwrap().unwrap().is_sending);
    drop(store);
    let (store, _) = reopen_store(directory.path());
    assert_eq!(store.interrupted_attempts().unwrap(), [attempt_started(0)]);
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            2,
            &[recipient_result(&[0], AttemptStatus::Unknown)],
            Some(3),
        ))
        .await
        .unwrap();
    drop(store);
    let (store, _) = reopen_store(directory.path());
    assert_eq!(store.interrupted_attempts().unwrap(), []);
    assert_eq!(recipient_states(&store, 0), [RecipientState::Unknown]);
}

#[tokio::test]
async fn second_process_cannot_open_store() {
    const ROLE_VARIABLE: &str = "MAILTRAIL_TEST_OTHER_OWNER";
    if let Some(data_dir) = std::env::var_os(ROLE_VARIABLE) {
        let locked = Store::open(Path::new(&data_dir), Clock::System);
        assert!(matches!(locked, Err(OpenError::Locked(_))));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    for again in [Store::open, Store::open_read_only] {
        assert!(matches!(again(directory.path(), Clock::System), Err(OpenError::Locked(_))));
    }
    let other = run_test_as_child("second_process_cannot_open_store")
        .env(ROLE_VARIABLE, directory.path())
        .output()
        .unwrap();
    assert!(other.status.success(), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stdout).contains("1 passed"), "{other:?}");
    drop(store);
    reopen_store(directory.path());
}

/// The store's threads release the ledger after the store is dropped. A ledger in use must not count as a damaged
/// one.
#[tokio::test]
async fn immediate_reopening_needs_no_rebuild() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..20 {
        let (store, report) = reopen_store(directory.path());
        assert_eq!(report.rebuild_reason, None, "round {number}");
        store.put_message(sample_accepted(number, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    }
    let (store, _) = reopen_store(directory.path());
    assert_eq!(store.queued_ids(99).unwrap().len(), 20);
}

#[tokio::test]
async fn rebuilds_missing_or_corrupt_ledger() {
    let base = tempfile::tempdir().unwrap();
    let expected = populate_store(base.path()).await;
    let mut random = fastrand::Rng::with_seed(1);
    let (mut harmed, mut rebuilt) = (0, 0);
    let flips = (0..24).map(|number| LedgerDamage::BitFlip(number * 300 + random.u64(..1 << 20)));
    let cuts = [0, 1, 100, 5_000, 100_000].map(LedgerDamage::Truncated);
    for damage in [LedgerDamage::Missing, LedgerDamage::Incomplete, LedgerDamage::Junk]
        .into_iter()
        .chain(cuts)
        .chain(flips)
    {
        let directory = tempfile::tempdir().unwrap();
        copy_dir(base.path(), directory.path());
        damage.apply_to(&directory.path().join("ledger/1"));
        let (store, report) = reopen_store(directory.path());
        assert_eq!(snapshot(&store), expected, "{damage:?}: {report:?}");
        harmed += usize::from(report.rebuild_reason.is_some() || report.replayed_records > 0);
        rebuilt += usize::from(report.rebuild_reason.is_some());
        // The store accepts and keeps mail.
        store
            .put_message(sample_accepted(900, "new@example.com", &["eve@example.net"]), Bytes::from("new"))
            .await
            .unwrap();
        drop(store);
        let (store, again) = reopen_store(directory.path());
        assert_eq!(again.rebuild_reason, None, "{damage:?}");
        assert_eq!(read_body(&store, 900).await.as_deref(), Some(&b"new"[..]), "{damage:?}");
    }
    assert!(harmed > 10 && rebuilt > 0, "the damage did little: {harmed}, {rebuilt}");
}

/// A ledger that was made from nothing until the process ended has no position yet, and is no damaged one.
#[tokio::test]
async fn restarts_unfinished_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let expected = populate_store(directory.path()).await;
    let ledger = directory.path().join("ledger");
    open_read_only(directory.path());
    let db = open_sled_when_free(&ledger.join("1"));
    assert!(db.remove("kposition").unwrap().is_some());
    let half: Vec<_> = db.iter().keys().step_by(2).collect();
    for key in half {
        let key = key.unwrap();
        assert!(key.starts_with(b"k") || db.remove(key).unwrap().is_some());
    }
    drop(db);
    let (store, report) = reopen_store(directory.path());
    assert_eq!(snapshot(&store), expected);
    assert!(report.rebuild_reason.is_none() && report.replayed_records > 10, "{report:?}");
    let left: Vec<_> = std::fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["1"]);
    drop(store);
    let (store, report) = reopen_store(directory.path());
    assert_eq!((snapshot(&store), report.replayed_records), (expected, 0));
}

#[derive(Debug)]
enum LedgerDamage {
    Missing,
    Incomplete,
    Junk,
    Truncated(u64),
    BitFlip(u64),
}

impl LedgerDamage {
    fn apply_to(&self, ledger: &Path) {
        let db = ledger.join("db");
        let file = || std::fs::File::options().write(true).open(&db).unwrap();
        match self {
            Self::Missing => std::fs::remove_dir_all(ledger.parent().unwrap()).unwrap(),
            Self::Incomplete => {
                std::fs::write(ledger.join("snap.0000000000000042.generating"), b"half").unwrap()
            }
            Self::Junk => std::fs::write(ledger.join("conf"), b"junk").unwrap(),
            Self::Truncated(length) => file().set_len(*length).unwrap(),
            Self::BitFlip(at) => {
                let mut bytes = std::fs::read(&db).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
                bytes[*at as usize % used] ^= 0x10;
                std::fs::write(&db, bytes).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn torn_tail_loses_only_last_record() {
    let base = tempfile::tempdir().unwrap();
    let store = open_store(&base);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::from("first")).await.unwrap();
    store.checkpoint().await;
    let segment = last_segment(base.path());
    let (length, before) = (written_bytes(&segment).len(), snapshot(&store));
    store.put_message(sample_accepted(1, "c@d", &["bob@example.org"]), Bytes::from("second")).await.unwrap();
    store.checkpoint().await;
    let whole = written_bytes(&segment);
    drop(store);
    let name = segment.file_name().unwrap();
    for cut in length..whole.len() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        std::fs::create_dir(&journal).unwrap();
        std::fs::write(journal.join(name), &whole[..cut]).unwrap();
        let (store, report) = reopen_store(directory.path());
        assert_eq!(snapshot(&store), before, "cut at {cut}");
        assert_eq!(report.corrupt_ranges.len(), usize::from(cut > length), "cut at {cut}");
        store
            .put_message(sample_accepted(2, "e@f", &["eve@example.net"]), Bytes::from("third"))
            .await
            .unwrap();
        drop(store);
        let (store, _) = reopen_store(directory.path());
        assert!(store.load_job(message_id_at(1)).unwrap().is_none(), "cut at {cut}");
        assert_eq!(read_body_text(&store, 2).await, "third", "cut at {cut}");
    }
}

/// Returns the bytes of a segment without its preallocated space.
fn written_bytes(segment: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(segment).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    bytes
}

/// The disk lost what the ledger has seen already: the send stays listed, without a message, and nothing gets stuck.
#[tokio::test]
async fn opens_journal_shorter_than_ledger() {
    let base = tempfile::tempdir().unwrap();
    let store = open_store(&base);
    for number in 0..2 {
        store
            .put_message(sample_accepted(number, "a@b", &["ada@example.net"]), Bytes::from("text"))
            .await
            .unwrap();
    }
    store.checkpoint().await;
    drop(store);
    open_read_only(base.path());
    let segment = last_segment(base.path());
    let whole = std::fs::read(&segment).unwrap();
    let record = (whole.len() - SEGMENT_HEADER_BYTES) / 2;
    for lost in [1, 30, record, record + 7, whole.len() - SEGMENT_HEADER_BYTES] {
        let directory = tempfile::tempdir().unwrap();
        copy_dir(base.path(), directory.path());
        std::fs::write(last_segment(directory.path()), &whole[..whole.len() - lost]).unwrap();
        let (store, _) = reopen_store(directory.path());
        assert_eq!(store.queued_ids(9).unwrap(), [message_id_at(0), message_id_at(1)], "{lost} bytes lost");
        assert!(read_body(&store, 1).await.is_none(), "{lost} bytes lost");
        assert_eq!(read_body(&store, 0).await.is_some(), lost <= record, "{lost} bytes lost");
        store
            .put_message(sample_accepted(2, "e@f", &["eve@example.net"]), Bytes::from("third"))
            .await
            .unwrap();
        drop(store);
        assert_eq!(read_body_text(&reopen_store(directory.path()).0, 2).await, "third", "{lost} bytes lost");
    }
}

#[tokio::test]
async fn replay_applies_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store
        .put_message(sample_accepted(500, "early@example.com", &["ada@example.net"]), Bytes::from("early"))
        .await
        .unwrap();
    let bounce = attempt_outcome(500, 1, &[recipient_result(&[0], AttemptStatus::Queued)], Some(2));
    store.record_attempt_outcome(bounce).await.unwrap();
    store.checkpoint().await;
    drop(store);
    let older = tempfile::tempdir().unwrap();
    open_read_only(directory.path());
    copy_dir(&directory.path().join("ledger"), older.path());
    let expected = populate_store(directory.path()).await;
    for _ in 0..2 {
        std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        copy_dir(older.path(), &directory.path().join("ledger"));
        let (store, report) = reopen_store(directory.path());
        assert!(report.rebuild_reason.is_none() && report.replayed_records > 10, "{report:?}");
        assert_eq!(snapshot(&store), expected);
        assert_eq!(store.load_trail(message_id_at(500)).unwrap().unwrap().attempts, 1);
    }
}

#[tokio::test]
async fn event_before_its_message_is_correlated_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let mut tracked = sample_event(0, "ada@example.net", EventKind::Delivered);
    tracked.message_id = MessageId::parse("a@b");
    let mut untracked = sample_event(0, "BOB@example.org", EventKind::Bounced);
    (untracked.tracking_id, untracked.message_id) = (None, MessageId::parse("a@b"));
    for event in [&tracked, &untracked, &tracked] {
        store.put_event(received_event(event.clone()), Bytes::new()).await.unwrap();
    }
    drop(store);
    let (store, _) = reopen_store(directory.path());
    store
        .put_message(sample_accepted(0, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new())
        .await
        .unwrap();
    store.checkpoint().await;
    // The event is correlated, but has no effect on an unsent message.
    assert_eq!(recipient_states(&store, 0), [RecipientState::Queued, RecipientState::Queued]);
    let relayed = attempt_outcome(0, 2, &[recipient_result(&[0, 1], AttemptStatus::Relayed)], None);
    let trail = store.load_trail(message_id_at(0)).unwrap().unwrap();
    assert_eq!(
        trail.events.iter().map(|fact| fact.correlated_by).collect::<Vec<_>>(),
        [None, Some(CorrelatedBy::TrackingId), Some(CorrelatedBy::MessageId)]
    );
    assert_eq!(trail.recipients[0].marks.get(EventKind::Delivered).unwrap().count, 1);
    store.record_attempt_outcome(relayed).await.unwrap();
    assert_eq!(recipient_states(&store, 0), [RecipientState::Delivered, RecipientState::Bounced]);
    assert_eq!(store.queued_ids(9).unwrap(), []);
    // Adopted once: a later send with that Message-ID gets nothing.
    store
        .put_message(sample_accepted(1, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new())
        .await
        .unwrap();
    store.checkpoint().await;
    assert!(
        store
            .load_trail(message_id_at(1))
            .unwrap()
            .unwrap()
            .recipients
            .iter()
            .all(|recipient| !recipient.has_provider_events())
    );
}

#[tokio::test]
async fn event_of_earlier_message_is_not_attached_to_later_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let mut earlier = sample_event(0, "ada@example.net", EventKind::Delivered);
    (earlier.tracking_id, earlier.message_id, earlier.at) = (None, MessageId::parse("a@b"), time_at(1));
    store.put_event(received_event(earlier), Bytes::new()).await.unwrap();
    let mut retried = sample_accepted(0, "a@b", &["ada@example.net"]);
    retried.message.id = TrackingId::new(time_at(1 + 3600), 0);
    let id = retried.message.id;
    store.put_message(retried, Bytes::new()).await.unwrap();
    store.checkpoint().await;
    assert!(!store.load_trail(id).unwrap().unwrap().recipients[0].has_provider_events());
    assert_eq!(store.queued_ids(9).unwrap(), [id]);
}

#[tokio::test]
async fn correlates_among_messages_with_same_message_id() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    for number in 0..3 {
        let to = if number == 2 { "bob@example.org" } else { "ada@example.net" };
        store.put_message(sample_accepted(number, "same@example.com", &[to]), Bytes::new()).await.unwrap();
    }
    let mut newest = sample_event(9, "ada@example.net", EventKind::Opened);
    (newest.tracking_id, newest.message_id) = (None, MessageId::parse("same@example.com"));
    let mut first = sample_event(0, "ada@example.net", EventKind::Delivered);
    first.message_id = MessageId::parse("same@example.com");
    store.put_event(received_event(first), Bytes::new()).await.unwrap();
    store.put_event(received_event(newest), Bytes::new()).await.unwrap();
    for number in 0..3 {
        store
            .record_attempt_outcome(attempt_outcome(
                number,
                20,
                &[recipient_result(&[0], AttemptStatus::Relayed)],
                None,
            ))
            .await
            .unwrap();
    }
    let reported = [0, 1, 2].map(|number| {
        store.load_trail(message_id_at(number)).unwrap().unwrap().recipients[0].has_provider_events()
    });
    assert_eq!(
        (recipient_states(&store, 0), reported),
        (vec![RecipientState::Delivered], [true, true, false])
    );
}

#[tokio::test]
async fn event_for_unknown_recipient_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store.checkpoint().await;
    let before = snapshot(&store);
    let mut foreign_client = sample_event(0, "mallory@example.net", EventKind::Bounced);
    foreign_client.message_id = MessageId::parse("a@b");
    store.put_event(received_event(foreign_client), Bytes::new()).await.unwrap();
    assert_eq!(snapshot(&store), before);
    let (entries, _) = store.log_after("1.0".parse().unwrap()).unwrap();
    let orphan = entries
        .iter()
        .find(|entry| entry.event.kind == TrailEventKind::EventReceived(EventKind::Bounced))
        .unwrap();
    assert_eq!(orphan.tracking_id, None);
    // Nor is it for another send with that Message-ID: it names a send of its own.
    store.put_message(sample_accepted(1, "a@b", &["mallory@example.net"]), Bytes::new()).await.unwrap();
    store.checkpoint().await;
    assert!(!store.load_trail(message_id_at(1)).unwrap().unwrap().recipients[0].has_provider_events());
}

#[tokio::test]
async fn event_order_and_repetition_do_not_change_the_result() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let to = ["ada@example.net", "bob@example.org", "eve@example.com"];
    for seed in 0..120 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut events = Vec::new();
        for serial in 0..random.u64(3..9) {
            let kind = EventKind::ALL[random.usize(..EventKind::ALL.len())];
            events.push((serial, *random.choice(&to).unwrap(), kind, random.bool()));
        }
        let mut ends = Vec::new();
        for order in 0..3 {
            let number = seed * 10 + order as u64;
            let message_id = format!("{number}@example.com");
            let mut commits: Vec<_> = events.iter().chain(&events[..events.len() * order / 2]).collect();
            random.shuffle(&mut commits);
            let accept_at = random.usize(..=commits.len());
            let commit = async |place: usize| {
                if place == accept_at {
                    return store.put_message(sample_accepted(number, &message_id, &to), Bytes::new()).await;
                }
                let (serial, to, kind, by_machine) = commits[place - usize::from(place > accept_at)];
                let mut event = sample_event(number, to, *kind);
                (event.at, event.automated) = (time_at(serial * 7 % 5), *by_machine);
                event.dedup_key = format!("{number}/{serial}");
                event.message_id = MessageId::parse(&message_id);
                store.put_event(received_event(event), Bytes::new()).await
            };
            // Polled in this order, so committed in this order; one sync serves them all.
            for committed in join_all((0..=commits.len()).map(commit)).await {
                committed.unwrap();
            }
            store.checkpoint().await;
            let recipients = store.load_trail(message_id_at(number)).unwrap().unwrap().recipients;
            ends.push(recipients.into_iter().map(|one| (one.state(), one.marks)).collect::<Vec<_>>());
        }
        assert_eq!(ends[0], ends[1], "seed {seed}");
        assert_eq!(ends[0], ends[2], "seed {seed}");
    }
}

/// A disk that is full in the middle of a record, made with a limit on the size of files: the process that plays it
/// is this test again.
#[tokio::test]
async fn unwritable_journal_rejects_and_recovers() {
    const ROLE_VARIABLE: &str = "MAILTRAIL_TEST_FULL_DISK";
    let Some(data_dir) = std::env::var_os(ROLE_VARIABLE) else {
        let directory = tempfile::tempdir().unwrap();
        // Without the trap the limit's signal would end the process; 8192 units of 512 bytes are 4 MiB.
        let limited = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
        let child = run_test_as_child("unwritable_journal_rejects_and_recovers");
        let mut shell = Command::new("sh");
        shell.args(["-c", limited]).arg(child.get_program()).args(child.get_args());
        let played = shell.env(ROLE_VARIABLE, directory.path()).output().unwrap();
        assert!(played.status.success(), "{played:?}");
        assert!(String::from_utf8_lossy(&played.stdout).contains("1 passed"), "{played:?}");
        let (store, report) = reopen_store(directory.path());
        assert_eq!(
            store.queued_ids(9).unwrap(),
            [message_id_at(0), message_id_at(2), message_id_at(4)],
            "{report:?}"
        );
        for number in [0, 2, 4] {
            assert_eq!(read_body_text(&store, number).await, large_text(number), "message {number}");
        }
        return;
    };
    let store = reopen_store(Path::new(&data_dir)).0;
    for number in 0..5 {
        let kept = store
            .put_message(
                sample_accepted(number, "a@b", &["ada@example.net"]),
                Bytes::from(large_text(number)),
            )
            .await;
        // Each file has room for one; the next record starts another.
        match number {
            1 | 3 => assert!(matches!(kept, Err(CommitError::Journal(_))), "{kept:?}"),
            _ => kept.unwrap(),
        }
    }
    store.checkpoint().await;
    assert_eq!(store.queued_ids(9).unwrap(), [message_id_at(0), message_id_at(2), message_id_at(4)]);
}

/// The next segment cannot be made: nothing is taken until it can.
#[tokio::test]
async fn creates_segment_once_it_is_possible() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let full = Bytes::from(vec![b'x'; 65 << 20]);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), full.clone()).await.unwrap();
    let obstacle = directory.path().join("journal/0000000002.seg");
    std::fs::create_dir(&obstacle).unwrap();
    for number in 1..3 {
        let refused =
            store.put_message(sample_accepted(number, "a@b", &["ada@example.net"]), Bytes::from("no")).await;
        assert!(matches!(refused, Err(CommitError::Journal(_))), "{refused:?}");
    }
    std::fs::remove_dir(&obstacle).unwrap();
    store.put_message(sample_accepted(3, "a@b", &["ada@example.net"]), Bytes::from("yes")).await.unwrap();
    drop(store);
    let (store, report) = reopen_store(directory.path());
    assert_eq!(
        (store.queued_ids(9).unwrap(), report.corrupt_ranges),
        (vec![message_id_at(0), message_id_at(3)], vec![])
    );
    assert_eq!(read_body(&store, 0).await, Some(full));
    assert_eq!(read_body_text(&store, 3).await, "yes");
}

#[tokio::test]
async fn read_only_store_rejects_writes() {
    let directory = tempfile::tempdir().unwrap();
    let expected = populate_store(directory.path()).await;
    let segments = || std::fs::read_dir(directory.path().join("journal")).unwrap().count();
    let before = segments();
    let store = open_read_only(directory.path());
    assert_eq!((snapshot(&store), segments()), (expected, before));
    let refused = store.record_attempt_start(attempt_started(0)).await;
    assert!(matches!(refused, Err(CommitError::ReadOnly)), "{refused:?}");
    let nowhere = Store::open_read_only(&directory.path().join("nowhere"), Clock::System);
    assert!(matches!(nowhere, Err(OpenError::Missing(_))));
}

/// Sends in every state with events, duplicates and orphans; returns the picture.
async fn populate_store(data_dir: &Path) -> String {
    let (store, _) = reopen_store(data_dir);
    for number in 0..12 {
        let message =
            Bytes::from(format!("Subject: {number}\r\n\r\n{}", "text\r\n".repeat(number as usize * 20)));
        let message_id = format!("{}@example.com", number / 2);
        store
            .put_message(
                sample_accepted(number, &message_id, &["ada@example.net", "bob@example.org"]),
                message,
            )
            .await
            .unwrap();
        let standing =
            [AttemptStatus::Relayed, AttemptStatus::Queued, AttemptStatus::Bounced, AttemptStatus::Unknown]
                [number as usize % 4];
        store.record_attempt_start(attempt_started(number)).await.unwrap();
        if number != 7 {
            let part = [recipient_result(&[0], standing), recipient_result(&[1], AttemptStatus::Relayed)];
            store
                .record_attempt_outcome(attempt_outcome(number, number + 1, &part, Some(number + 100)))
                .await
                .unwrap();
        }
        for kind in [EventKind::Delivered, EventKind::Opened, EventKind::Delivered] {
            store
                .put_event(received_event(sample_event(number, "bob@example.org", kind)), Bytes::from("raw"))
                .await
                .unwrap();
        }
        store
            .put_event(
                received_event(sample_event(number + 300, "ada@example.net", EventKind::Bounced)),
                Bytes::new(),
            )
            .await
            .unwrap();
    }
    store.checkpoint().await;
    let picture = snapshot(&store);
    drop(store);
    open_read_only(data_dir);
    picture
}

/// Everything that can be asked, in one text.
fn snapshot(store: &Store) -> String {
    use std::fmt::Write as _;
    let (low, high) = (TrackingId::from_bytes([0; 16]), TrackingId::from_bytes([255; 16]));
    let mut text =
        format!("{:?} {:?}\n", store.queued_ids(999).unwrap(), store.interrupted_attempts().unwrap());
    for id in store.ids_in_range(low, high, 999).unwrap() {
        let job = store.load_job(id).unwrap().unwrap();
        writeln!(text, "{:?}\n{:?}", store.load_trail(id).unwrap(), job.body).unwrap();
    }
    text
}

fn open_store(directory: &TempDir) -> Store {
    reopen_store(directory.path()).0
}

/// Opens for reading and writing.
fn reopen_store(data_dir: &Path) -> (Store, OpenReport) {
    retry_while_locked(|| Store::open(data_dir, Clock::System))
}

/// Opens the store read-only as soon as no writer has it.
fn open_read_only(data_dir: &Path) -> Store {
    retry_while_locked(|| Store::open_read_only(data_dir, Clock::System)).0
}

/// Opens the files of a ledger as soon as no other process has them.
fn open_sled_when_free(ledger: &Path) -> sled::Db {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match sled::open(ledger) {
            Err(sled::Error::Io(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2))
            }
            opened => return opened.unwrap(),
        }
    }
}

type OpenResult = Result<(Store, OpenReport), OpenError>;

/// The threads of a store that was just dropped may need a moment to let go.
fn retry_while_locked(open: impl Fn() -> OpenResult) -> (Store, OpenReport) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match open() {
            Err(OpenError::Locked(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2))
            }
            opened => return opened.unwrap(),
        }
    }
}

/// This test binary, to run one test of it.
fn run_test_as_child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1"]);
    command
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn last_segment(data_dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(data_dir.join("journal")).unwrap();
    entries.map(|entry| entry.unwrap().path()).max().unwrap()
}

fn time_at(seconds: u64) -> Timestamp {
    Timestamp::from_secs(START_SECONDS + seconds)
}

fn message_id_at(number: u64) -> TrackingId {
    TrackingId::new(time_at(number), u128::from(number))
}

fn sample_accepted(number: u64, message_id: &str, recipients: &[&str]) -> AcceptedMessage {
    let message = Message {
        user: Some("odoo".into()),
        peer: "127.0.0.1".parse().ok(),
        sender: "bounces@example.com".parse().ok(),
        body_type: BodyType::EightBitMime,
        message_id: MessageId::parse(message_id),
        subject: format!("Quotation {number} (Zażółć)"),
        odoo_records: OdooRecord::parse("sale.order,42").into_iter().collect(),
        tags: vec!["sale".into()],
        size: number,
        ..Message::new(message_id_at(number), "odoo")
    };
    AcceptedMessage { message, recipients: recipients.iter().map(|to| to.parse().unwrap()).collect() }
}

fn attempt_started(number: u64) -> AttemptStarted {
    AttemptStarted { id: message_id_at(number), at: time_at(number), upstream: "mailgun".into() }
}

fn recipient_result(recipients: &[u16], status: AttemptStatus) -> RecipientResult {
    let diagnostic = Diagnostic {
        name: "RCPT".into(),
        code: Some(250),
        text: Some("fine".into()),
        ..Diagnostic::default()
    };
    RecipientResult { recipients: recipients.to_vec(), status, diagnostic }
}

fn attempt_outcome(number: u64, when: u64, settled: &[RecipientResult], due: Option<u64>) -> AttemptOutcome {
    let (results, next_attempt) = (settled.to_vec(), due.map(time_at));
    AttemptOutcome {
        id: message_id_at(number),
        at: time_at(when),
        upstream: "mailgun".into(),
        results,
        next_attempt,
    }
}

/// An event with the tracking id of a send.
fn sample_event(number: u64, recipient: &str, kind: EventKind) -> ProviderEvent {
    ProviderEvent {
        kind,
        at: time_at(number),
        dedup_key: format!("{number}/{recipient}/{kind:?}"),
        recipient: Some(recipient.into()),
        tracking_id: Some(message_id_at(number)),
        message_id: None,
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic { name: kind.as_str().into(), ..Diagnostic::default() },
    }
}

fn received_event(event: ProviderEvent) -> ReceivedEvent {
    ReceivedEvent {
        upstream: "mailgun".into(),
        received_at: time_at(1000),
        source: EventSource::Webhook,
        token: None,
        event,
    }
}

fn recipient_states(store: &Store, number: u64) -> Vec<RecipientState> {
    store
        .load_trail(message_id_at(number))
        .unwrap()
        .unwrap()
        .recipients
        .iter()
        .map(Recipient::state)
        .collect()
}

/// The message of a send, read piece by piece to its end; `None` where it is seen to be damaged.
async fn read_body(store: &Store, number: u64) -> Option<Bytes> {
    let message = store.load_job(message_id_at(number)).unwrap().unwrap().body?;
    let whole: io::Result<Vec<u8>> = message.chunks().map_ok(|piece| piece.to_vec()).try_concat().await;
    Some(whole.unwrap().into())
}

async fn read_body_text(store: &Store, number: u64) -> String {
    String::from_utf8(read_body(store, number).await.unwrap().to_vec()).unwrap()
}

/// Returns 3 MiB of text, different for each number.
fn large_text(number: u64) -> String {
    format!("{number:07}\n").repeat((3 << 20) / 8)
}

const START_SECONDS: u64 = 1_789_387_200;
/// Bytes in front of the first record of a segment.
const SEGMENT_HEADER_BYTES: usize = 60;

/// Rows that another program changed are found.
#[tokio::test]
async fn check_finds_inconsistent_rows() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    for number in 0..4 {
        store.put_message(sample_accepted(number, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    }
    store.record_attempt_start(attempt_started(2)).await.unwrap();
    store
        .record_attempt_outcome(attempt_outcome(
            3,
            5,
            &[recipient_result(&[0], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    let audit = store.check_queue(time_at(0), time_at(2)).unwrap();
    assert_eq!(audit, CheckReport { queued: 3, ..CheckReport::default() });
    let audit = store.check_queue(time_at(2), time_at(3)).unwrap();
    assert_eq!(
        (audit.overdue, audit.stuck),
        (vec![message_id_at(0), message_id_at(1)], vec![message_id_at(2)])
    );
    assert_eq!(store.check_messages(None, 3).unwrap(), (CheckReport::default(), Some(message_id_at(2))));
    assert_eq!(
        store.check_messages(Some(message_id_at(2)), 3).unwrap(),
        (CheckReport::default(), Some(message_id_at(3)))
    );
    assert_eq!(store.check_messages(Some(message_id_at(3)), 3).unwrap(), (CheckReport::default(), None));
    store.checkpoint().await;
    drop(store);
    open_read_only(directory.path());
    let db = open_sled_when_free(&directory.path().join("ledger/1"));
    let place = |number| {
        let mut keys = db.scan_prefix(b"q").keys().map(|key| key.unwrap());
        keys.find(|key| key.ends_with(&message_id_at(number).to_bytes())).unwrap()
    };
    let (lost, moved) = (place(0), place(1));
    db.remove(&lost).unwrap();
    let value = db.remove(&moved).unwrap().unwrap();
    let mut elsewhere = moved.to_vec();
    elsewhere[12] ^= 1;
    db.insert(elsewhere, value).unwrap();
    db.insert([b"m", &message_id_at(3).to_bytes()[..]].concat(), b"").unwrap();
    db.flush().unwrap();
    drop(db);
    let store = open_read_only(directory.path());
    let strays = [
        Inconsistency::MissingFromQueue(message_id_at(0)),
        Inconsistency::MissingFromQueue(message_id_at(1)),
        Inconsistency::Unreadable(message_id_at(3)),
    ];
    assert_eq!(store.check_messages(None, 9).unwrap().0.inconsistencies, strays);
    assert_eq!(
        store.check_queue(time_at(0), time_at(0)).unwrap().inconsistencies,
        [Inconsistency::UnexpectedInQueue(message_id_at(1))]
    );
}
