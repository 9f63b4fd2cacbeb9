//! The contract of the store, over a data directory and whatever may happen to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inbound;
mod inbox;
mod orders;
mod suppressions;
mod upkeep;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use mailtrail_mail::{BodyType, Clock, Lane, MessageId, Record, Timestamp, TrackingId};
use mailtrail_store::{Audit, CommitError, Entry, Message, OpenError, OpenReport, Queued, Store, Stray};
use mailtrail_trail::{
    Accepted, Action, Begun, Event, Kind, Notice, Outcome, Polled, Recipient, Rung, Send, Settled, Standing,
    State, Switch, Verb, Via, Waits, What, Words,
};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[tokio::test]
async fn what_was_accepted_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let messages = [&b"A: b\r\n\r\n"[..], b"", b"\0\r\n.\r\n\xff\n\r", &vec![b'x'; 300_000]];
    for (number, message) in (0..).zip(messages) {
        let send = accepted(number, "one@example.com", &["Ada@Example.net", "bob@example.org"]);
        store.accept(send, Bytes::copy_from_slice(message)).await.unwrap();
    }
    store.settle_down().await;
    let before = picture(&store);
    drop(store);
    let (store, report) = reopen(directory.path());
    assert!(report.rebuilt.is_none() && report.damaged.is_empty(), "{report:?}");
    assert_eq!(picture(&store), before);
    for (number, message) in (0..).zip(messages) {
        let job = store.job(id(number)).unwrap().unwrap();
        assert_eq!(kept(&store, number).await.as_deref(), Some(message));
        assert_eq!(job.send, accepted(number, "one@example.com", &[]).send);
        assert_eq!(job.recipients[0].address.as_str(), "Ada@Example.net");
    }
    let newest_first: Vec<_> = (0..4).rev().map(id).collect();
    let one = MessageId::parse("<one@example.com>").unwrap();
    assert_eq!(store.by_message_id(&one, 9).unwrap(), newest_first);
    assert_eq!(store.by_recipient("ADA@example.NET", 9).unwrap(), newest_first);
    assert_eq!(store.by_recipient("bob@example.org", 2).unwrap(), newest_first[..2]);
    assert_eq!(store.by_record(&Record::parse("sale.order,42").unwrap(), 9).unwrap(), newest_first);
    assert!(store.job(id(9)).unwrap().is_none() && store.trail(id(9)).unwrap().is_none());
}

#[tokio::test]
async fn a_spilled_message_is_kept_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let kept_at_once = (0..6).map(|number| {
        let (text, mut spill) = (large(number), store.spill().unwrap());
        let (first, rest) = text.as_bytes().split_at(usize::try_from(number).unwrap() * 1000);
        rest.chunks(100_000).for_each(|piece| spill.append(piece).unwrap());
        // Every other one is in memory.
        let rest = number.is_multiple_of(2).then_some(spill);
        let first = if rest.is_some() { first.to_vec() } else { text.into_bytes() };
        let send = accepted(number, "a@b", &["ada@example.net"]);
        store.accept(send, Message::new(first.into(), rest))
    });
    join_all(kept_at_once).await.into_iter().for_each(|kept| kept.unwrap());
    drop(store);
    // Whoever rebuilds the ledger reads and checks all of the journal.
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let (store, report) = reopen(directory.path());
    assert_eq!((report.replayed, report.damaged), (6, vec![]));
    for number in 0..6 {
        assert_eq!(message(&store, number).await, large(number), "message {number}");
    }
    let files = std::fs::read_dir(directory.path().join("journal")).unwrap();
    let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| name.ends_with(".seg")), "no file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let text = |number: u64| format!("{number:07}\n").repeat(number as usize * 20);
    let all = |number| store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::from(text(number)));
    join_all((1..100).map(all)).await.into_iter().for_each(|kept| kept.unwrap());
    store.settle_down().await;
    let readers = (0..8).map(|reader| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..500 {
                let number = 1 + (round * 7 + reader * 13) % 99;
                assert!(message(&store, number).await == text(number), "message {number}");
            }
        })
    });
    join_all(readers).await.into_iter().for_each(|read| read.unwrap());
}

#[tokio::test]
async fn outcomes_move_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..3 {
        store
            .accept(accepted(number, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new())
            .await
            .unwrap();
    }
    store.settle_down().await;
    assert_eq!(store.queues().unwrap(), [any_route()]);
    assert_eq!(due(&store, at(0), 9), (vec![id(0)], Some(at(1))));
    assert_eq!(due(&store, at(9), 2), (vec![id(0), id(1)], Some(at(2))));
    let second = store.take(id(1)).unwrap();
    assert!(store.take(id(1)).is_none());
    assert_eq!(due(&store, at(9), 9), (vec![id(0), id(2)], None), "one is in somebody's hands");
    drop(second);

    // One recipient is done, one waits: due again when the outcome says.
    let part = [settled(&[0], Standing::Relayed), settled(&[1], Standing::Queued)];
    store.settle(outcome(0, 5, &part, Some(50))).await.unwrap();
    assert_eq!(due(&store, at(9), 9), (vec![id(1), id(2)], Some(at(50))));
    assert_eq!(states(&store, 0), [State::Relayed, State::Queued]);
    assert_eq!(store.job(id(0)).unwrap().unwrap().attempts, 1);
    // A time without anybody who waits is none.
    store.settle(outcome(0, 50, &[settled(&[1], Standing::Bounced)], Some(99))).await.unwrap();
    store.settle(outcome(1, 6, &[settled(&[0, 1], Standing::Relayed)], None)).await.unwrap();
    assert_eq!(store.queued(9).unwrap(), [id(2)]);
    assert_eq!(store.trail(id(0)).unwrap().unwrap().attempts, 2);
    assert_eq!(store.queued_since(&any_route(), |accepted| accepted < at(2), 9).unwrap(), []);
    // An event settles what nobody knew.
    store.settle(outcome(2, 7, &[settled(&[0, 1], Standing::Unknown)], Some(60))).await.unwrap();
    store.report(notice(event(2, "ada@example.net", Kind::Accepted)), Bytes::new()).await.unwrap();
    assert_eq!(store.queued(9).unwrap(), [id(2)]);
    store.report(notice(event(2, "bob@example.org", Kind::Delivered)), Bytes::new()).await.unwrap();
    assert_eq!(states(&store, 2), [State::Relayed, State::Delivered]);
    assert_eq!(store.queued(9).unwrap(), []);
    // An outcome of a send that nobody knows changes nothing.
    store.settle(outcome(77, 8, &[settled(&[0], Standing::Relayed)], Some(9))).await.unwrap();
    assert_eq!(store.queued(9).unwrap(), []);
}

/// The queue of transactional mail that may take any upstream.
fn any_route() -> Queued {
    Queued { lane: Lane::Transactional, waits: Waits::ForRoute(None) }
}

fn due(store: &Store, now: Timestamp, limit: usize) -> (Vec<TrackingId>, Option<Timestamp>) {
    let (taken, next) = store.take_due(&any_route(), now, limit).unwrap();
    (taken.iter().map(|grip| grip.id()).collect(), next)
}

#[tokio::test]
async fn mail_waits_in_the_queue_of_its_lane_and_route() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let routes = [(Lane::Bulk, None), (Lane::Transactional, Some("news")), (Lane::Transactional, None)];
    for (number, (lane, route)) in (0..).zip(routes) {
        let mut accepted = accepted(number, "a@b", &["ada@example.net"]);
        (accepted.send.lane, accepted.send.route) = (lane, route.map(Box::from));
        store.accept_and_apply(accepted, Bytes::new()).await.unwrap();
    }
    let queues = store.queues().unwrap();
    let lanes: Vec<_> = queues.iter().map(|queue| queue.lane).collect();
    assert_eq!(lanes, [Lane::Transactional, Lane::Transactional, Lane::Bulk]);
    for (number, (lane, route)) in (0..).zip(routes) {
        let queue = Queued { lane, waits: Waits::ForRoute(route.map(Box::from)) };
        assert!(queues.contains(&queue), "{queues:?}");
        let (taken, next) = store.take_due(&queue, at(9), 9).unwrap();
        assert_eq!((taken[0].id(), taken.len(), next), (id(number), 1, None));
    }
    assert_eq!(store.queued(9).unwrap(), [id(0), id(1), id(2)]);
    // What may be at an upstream waits for that one, also after reopening, until nobody is unknown any more.
    let pinned =
        Queued { lane: Lane::Bulk, waits: Waits::ForUpstream { name: "mailgun".into(), route: None } };
    store.settle(outcome(0, 5, &[settled(&[0], Standing::Unknown)], Some(50))).await.unwrap();
    drop(store);
    let (store, _) = reopen(directory.path());
    assert!(store.queues().unwrap().contains(&pinned));
    store.settle(outcome(0, 51, &[settled(&[0], Standing::Queued)], Some(60))).await.unwrap();
    assert!(store.queues().unwrap().contains(&pinned), "it may still be there");
    store.settle(outcome(0, 61, &[settled(&[0], Standing::Relayed)], None)).await.unwrap();
    assert!(!store.queues().unwrap().contains(&pinned));
}

#[tokio::test]
async fn operators_hold_release_and_end_mail() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..3 {
        let recipients = ["ada@example.net", "bob@example.org"];
        store.accept(accepted(number, "a@b", &recipients), Bytes::from("text")).await.unwrap();
    }
    let act = |number, seconds, verb| {
        let (operator, reason) = ("uid 0".to_owned(), "why not".to_owned());
        store.act(Action { id: id(number), at: at(seconds), verb, operator, reason })
    };
    // One recipient is done: nothing changes for it.
    store.settle(outcome(0, 5, &[settled(&[0], Standing::Relayed)], Some(50))).await.unwrap();
    act(0, 6, Verb::Hold).await.unwrap();
    assert_eq!(states(&store, 0), [State::Relayed, State::Held]);
    assert_eq!(store.waits(id(0)).unwrap(), Some(Waits::Held));
    assert_eq!(due(&store, at(99), 9).0, [id(1), id(2)]);
    let trail = store.trail(id(0)).unwrap().unwrap();
    let fact = trail.facts.last().unwrap();
    assert_eq!((fact.what, &fact.recipients[..]), (What::Acted(Verb::Hold), &[1][..]));
    assert_eq!(trail.recipients[1].reason().text.as_deref(), Some("why not"));
    act(0, 7, Verb::Release).await.unwrap();
    assert_eq!(states(&store, 0), [State::Relayed, State::Queued]);
    assert_eq!(due(&store, at(7), 9).0, [id(1), id(2), id(0)], "it is due at once");
    store.settle(outcome(0, 8, &[settled(&[1], Standing::Queued)], Some(90))).await.unwrap();
    act(0, 9, Verb::Retry).await.unwrap();
    assert_eq!(due(&store, at(9), 9).0, [id(1), id(2), id(0)]);
    act(1, 9, Verb::Delete).await.unwrap();
    act(2, 9, Verb::Bounce).await.unwrap();
    // What has ended stays as it is.
    act(1, 10, Verb::Bounce).await.unwrap();
    let check = |store: &Store| {
        assert_eq!(states(store, 1), [State::Cancelled; 2]);
        assert_eq!(states(store, 2), [State::Failed; 2]);
        assert_eq!(store.queued(9).unwrap(), [id(0)]);
        assert_eq!(store.waits(id(1)).unwrap(), None);
    };
    check(&store);
    drop(store);
    check(&reopen(directory.path()).0);
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    check(&reopen(directory.path()).0);
}

#[tokio::test]
async fn held_mail_whose_end_was_unknown_goes_back_to_its_upstream() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store.settle(outcome(0, 5, &[settled(&[0], Standing::Unknown)], Some(50))).await.unwrap();
    for (verb, waits) in [
        (Verb::Hold, Waits::Held),
        (Verb::Release, Waits::ForUpstream { name: "mailgun".into(), route: None }),
    ] {
        let (operator, reason) = ("uid 0".to_owned(), String::new());
        store.act(Action { id: id(0), at: at(6), verb, operator, reason }).await.unwrap();
        assert_eq!(store.waits(id(0)).unwrap(), Some(waits));
    }
    assert_eq!(store.trail(id(0)).unwrap().unwrap().due, Some(at(50)), "it waits for its event as before");
}

#[tokio::test]
async fn what_upstreams_took_and_which_are_closed_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept(accepted(0, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new()).await.unwrap();
    let part = [settled(&[0], Standing::Relayed), settled(&[1], Standing::Queued)];
    store.settle(outcome(0, 5, &part, Some(50))).await.unwrap();
    store.settle(outcome(0, 86_405, &[settled(&[1], Standing::Relayed)], None)).await.unwrap();
    let switch = |open| Switch {
        upstream: "mailgun".into(),
        at: at(9),
        open,
        operator: "uid 0".into(),
        reason: "moving".into(),
    };
    store.switch(switch(true)).await.unwrap();
    drop(store);
    let (store, _) = reopen(directory.path());
    let today = at(0).day();
    assert_eq!(store.taken("mailgun", today..=today).unwrap(), 1);
    assert_eq!(store.taken("mailgun", today..=today + 1).unwrap(), 2);
    assert_eq!(store.taken("brevo", today..=today + 1).unwrap(), 0);
    assert_eq!(store.forced_open("mailgun").unwrap().as_deref(), Some("moving"));
    store.switch(switch(false)).await.unwrap();
    assert_eq!(store.forced_open("mailgun").unwrap(), None);
}

#[tokio::test]
async fn up_to_when_a_provider_was_asked_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let polled = |upstream: &str, until| Polled { upstream: upstream.into(), until: at(until) };
    for (upstream, until) in [("mailgun", 100), ("brevo", 7), ("mailgun", 200), ("mailgun", 150)] {
        store.polled(polled(upstream, until)).await.unwrap();
    }
    drop(store);
    for rebuilt in [false, true] {
        if rebuilt {
            std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        }
        let (store, _) = reopen(directory.path());
        assert_eq!(store.polled_until("mailgun").unwrap(), Some(at(150)), "the last one counts");
        assert_eq!(store.polled_until("brevo").unwrap(), Some(at(7)));
        assert_eq!(store.polled_until("other").unwrap(), None);
        assert!(store.log_of(1).unwrap().is_empty());
    }
}

/// A webhook says the millisecond and our own id; a poll of the same event may say neither.
#[tokio::test]
async fn a_report_is_known_again_however_little_it_says() {
    let whole = |kind| Event { message_id: MessageId::parse("a@b"), ..event(0, "ada@example.net", kind) };
    let bare = |kind| Event { at: at(0).after(Duration::from_millis(700)), tracking: None, ..whole(kind) };
    for (first, second) in
        [(whole(Kind::Opened), bare(Kind::Opened)), (bare(Kind::Opened), whole(Kind::Opened))]
    {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        for number in 0..2 {
            let accepted = accepted(number, "a@b", &["ada@example.net"]);
            store.accept_and_apply(accepted, Bytes::new()).await.unwrap();
            if number == 0 {
                assert!(!store.knows_event("mailgun", &first).unwrap());
                store.report(notice(first.clone()), Bytes::new()).await.unwrap();
            }
        }
        assert!(store.knows_event("mailgun", &second).unwrap());
        assert!(!store.knows_event("brevo", &second).unwrap());
        store.report(notice(second), Bytes::new()).await.unwrap();
        let opened = |number| {
            let trail = store.trail(id(number)).unwrap().unwrap();
            (trail.recipients[0].marks.of(Kind::Opened).map(|mark| mark.count), trail.facts.len())
        };
        assert_eq!((opened(0), opened(1)), ((Some(1), 2), (None, 1)));
    }
}

#[tokio::test]
async fn a_trail_is_told_in_the_order_of_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    for (number, kind) in [(9, Kind::Opened), (3, Kind::Delivered), (7, Kind::Clicked)] {
        let event = Event { tracking: Some(id(0)), ..event(number, "ada@example.net", kind) };
        store.report(notice(event), Bytes::new()).await.unwrap();
    }
    store.settle(outcome(0, 1, &[settled(&[0], Standing::Relayed)], None)).await.unwrap();
    let times: Vec<_> = store.trail(id(0)).unwrap().unwrap().facts.iter().map(|fact| fact.at).collect();
    assert_eq!(times, [0, 1, 3, 7, 9].map(at));
}

#[tokio::test]
async fn an_attempt_that_was_cut_off_is_found_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..2 {
        store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
        store.begin(begun(number)).await.unwrap();
    }
    store.settle(outcome(1, 1, &[settled(&[0], Standing::Relayed)], None)).await.unwrap();
    assert!(store.trail(id(0)).unwrap().unwrap().sending);
    drop(store);
    let (store, _) = reopen(directory.path());
    assert_eq!(store.interrupted().unwrap(), [begun(0)]);
    store.settle(outcome(0, 2, &[settled(&[0], Standing::Unknown)], Some(3))).await.unwrap();
    drop(store);
    let (store, _) = reopen(directory.path());
    assert_eq!(store.interrupted().unwrap(), []);
    assert_eq!(states(&store, 0), [State::Unknown]);
}

#[tokio::test]
async fn a_store_has_one_owner() {
    const ROLE: &str = "MAILTRAIL_TEST_OTHER_OWNER";
    if let Some(data_dir) = std::env::var_os(ROLE) {
        let locked = Store::open(Path::new(&data_dir), Clock::System);
        assert!(matches!(locked, Err(OpenError::Locked(_))));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for again in [Store::open, Store::open_for_reading] {
        assert!(matches!(again(directory.path(), Clock::System), Err(OpenError::Locked(_))));
    }
    let other = child("a_store_has_one_owner").env(ROLE, directory.path()).output().unwrap();
    assert!(other.status.success(), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stdout).contains("1 passed"), "{other:?}");
    drop(store);
    reopen(directory.path());
}

/// The store's own threads let go of the ledger after the store itself is gone: whoever opens it then must not take
/// a ledger that is still in use for a damaged one.
#[tokio::test]
async fn reopening_at_once_needs_no_rebuild() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..20 {
        let (store, report) = reopen(directory.path());
        assert_eq!(report.rebuilt, None, "round {number}");
        store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    }
    let (store, _) = reopen(directory.path());
    assert_eq!(store.queued(99).unwrap().len(), 20);
}

#[tokio::test]
async fn a_missing_or_damaged_ledger_is_made_anew() {
    let base = tempfile::tempdir().unwrap();
    let expected = eventful(base.path()).await;
    let mut random = fastrand::Rng::with_seed(1);
    let (mut harmed, mut rebuilt) = (0, 0);
    let flips = (0..24).map(|number| Damage::Flip(number * 300 + random.u64(..1 << 20)));
    let cuts = [0, 1, 100, 5_000, 100_000].map(Damage::Cut);
    for damage in [Damage::Gone, Damage::Generating, Damage::Junk].into_iter().chain(cuts).chain(flips) {
        let directory = tempfile::tempdir().unwrap();
        copy(base.path(), directory.path());
        damage.afflict(&directory.path().join("ledger/1"));
        let (store, report) = reopen(directory.path());
        assert_eq!(picture(&store), expected, "{damage:?}: {report:?}");
        harmed += usize::from(report.rebuilt.is_some() || report.replayed > 0);
        rebuilt += usize::from(report.rebuilt.is_some());
        // It takes mail, and keeps it.
        store
            .accept(accepted(900, "new@example.com", &["eve@example.net"]), Bytes::from("new"))
            .await
            .unwrap();
        drop(store);
        let (store, again) = reopen(directory.path());
        assert_eq!(again.rebuilt, None, "{damage:?}");
        assert_eq!(kept(&store, 900).await.as_deref(), Some(&b"new"[..]), "{damage:?}");
    }
    assert!(harmed > 10 && rebuilt > 0, "the damage did little: {harmed}, {rebuilt}");
}

/// A ledger that was made from nothing until the process ended has no position yet, and is no damaged one.
#[tokio::test]
async fn a_ledger_that_was_not_finished_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let expected = eventful(directory.path()).await;
    let ledger = directory.path().join("ledger");
    closed(directory.path());
    let db = opened(&ledger.join("1"));
    assert!(db.remove("kposition").unwrap().is_some());
    let half: Vec<_> = db.iter().keys().step_by(2).collect();
    for key in half {
        let key = key.unwrap();
        assert!(key.starts_with(b"k") || db.remove(key).unwrap().is_some());
    }
    drop(db);
    let (store, report) = reopen(directory.path());
    assert_eq!(picture(&store), expected);
    assert!(report.rebuilt.is_none() && report.replayed > 10, "{report:?}");
    let left: Vec<_> = std::fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["1"]);
    drop(store);
    let (store, report) = reopen(directory.path());
    assert_eq!((picture(&store), report.replayed), (expected, 0));
}

#[derive(Debug)]
enum Damage {
    Gone,
    Generating,
    Junk,
    Cut(u64),
    Flip(u64),
}

impl Damage {
    fn afflict(&self, ledger: &Path) {
        let db = ledger.join("db");
        let file = || std::fs::File::options().write(true).open(&db).unwrap();
        match self {
            Self::Gone => std::fs::remove_dir_all(ledger.parent().unwrap()).unwrap(),
            Self::Generating => {
                std::fs::write(ledger.join("snap.0000000000000042.generating"), b"half").unwrap()
            }
            Self::Junk => std::fs::write(ledger.join("conf"), b"junk").unwrap(),
            Self::Cut(length) => file().set_len(*length).unwrap(),
            Self::Flip(at) => {
                let mut bytes = std::fs::read(&db).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
                bytes[*at as usize % used] ^= 0x10;
                std::fs::write(&db, bytes).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_torn_tail_costs_only_the_torn_record() {
    let base = tempfile::tempdir().unwrap();
    let store = open(&base);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::from("first")).await.unwrap();
    store.settle_down().await;
    let segment = last_segment(base.path());
    let (length, before) = (written(&segment).len(), picture(&store));
    store.accept(accepted(1, "c@d", &["bob@example.org"]), Bytes::from("second")).await.unwrap();
    store.settle_down().await;
    let whole = written(&segment);
    drop(store);
    let name = segment.file_name().unwrap();
    for cut in length..whole.len() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        std::fs::create_dir(&journal).unwrap();
        std::fs::write(journal.join(name), &whole[..cut]).unwrap();
        let (store, report) = reopen(directory.path());
        assert_eq!(picture(&store), before, "cut at {cut}");
        assert_eq!(report.damaged.len(), usize::from(cut > length), "cut at {cut}");
        store.accept(accepted(2, "e@f", &["eve@example.net"]), Bytes::from("third")).await.unwrap();
        drop(store);
        let (store, _) = reopen(directory.path());
        assert!(store.job(id(1)).unwrap().is_none(), "cut at {cut}");
        assert_eq!(message(&store, 2).await, "third", "cut at {cut}");
    }
}

/// What is in a segment without the space that is laid out ahead.
fn written(segment: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(segment).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    bytes
}

/// The disk lost what the ledger has seen already: the send stays listed, without a message, and nothing gets stuck.
#[tokio::test]
async fn a_journal_shorter_than_the_ledger_still_opens() {
    let base = tempfile::tempdir().unwrap();
    let store = open(&base);
    for number in 0..2 {
        store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::from("text")).await.unwrap();
    }
    store.settle_down().await;
    drop(store);
    closed(base.path());
    let segment = last_segment(base.path());
    let whole = std::fs::read(&segment).unwrap();
    let record = (whole.len() - SEGMENT_HEADER) / 2;
    for lost in [1, 30, record, record + 7, whole.len() - SEGMENT_HEADER] {
        let directory = tempfile::tempdir().unwrap();
        copy(base.path(), directory.path());
        std::fs::write(last_segment(directory.path()), &whole[..whole.len() - lost]).unwrap();
        let (store, _) = reopen(directory.path());
        assert_eq!(store.queued(9).unwrap(), [id(0), id(1)], "{lost} bytes lost");
        assert!(kept(&store, 1).await.is_none(), "{lost} bytes lost");
        assert_eq!(kept(&store, 0).await.is_some(), lost <= record, "{lost} bytes lost");
        store.accept(accepted(2, "e@f", &["eve@example.net"]), Bytes::from("third")).await.unwrap();
        drop(store);
        assert_eq!(message(&reopen(directory.path()).0, 2).await, "third", "{lost} bytes lost");
    }
}

#[tokio::test]
async fn replaying_counts_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store
        .accept(accepted(500, "early@example.com", &["ada@example.net"]), Bytes::from("early"))
        .await
        .unwrap();
    let bounce = outcome(500, 1, &[settled(&[0], Standing::Queued)], Some(2));
    store.settle(bounce).await.unwrap();
    store.settle_down().await;
    drop(store);
    let older = tempfile::tempdir().unwrap();
    closed(directory.path());
    copy(&directory.path().join("ledger"), older.path());
    let expected = eventful(directory.path()).await;
    for _ in 0..2 {
        std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        copy(older.path(), &directory.path().join("ledger"));
        let (store, report) = reopen(directory.path());
        assert!(report.rebuilt.is_none() && report.replayed > 10, "{report:?}");
        assert_eq!(picture(&store), expected);
        assert_eq!(store.trail(id(500)).unwrap().unwrap().attempts, 1);
    }
}

#[tokio::test]
async fn an_event_before_its_send_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut tracked = event(0, "ada@example.net", Kind::Delivered);
    tracked.message_id = MessageId::parse("a@b");
    let mut untracked = event(0, "BOB@example.org", Kind::Bounced);
    (untracked.tracking, untracked.message_id) = (None, MessageId::parse("a@b"));
    for event in [&tracked, &untracked, &tracked] {
        store.report(notice(event.clone()), Bytes::new()).await.unwrap();
    }
    drop(store);
    let (store, _) = reopen(directory.path());
    store.accept(accepted(0, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new()).await.unwrap();
    store.settle_down().await;
    // It is joined, but cannot speak of what was not sent yet.
    assert_eq!(states(&store, 0), [State::Queued, State::Queued]);
    let relayed = outcome(0, 2, &[settled(&[0, 1], Standing::Relayed)], None);
    let trail = store.trail(id(0)).unwrap().unwrap();
    assert_eq!(
        trail.facts.iter().map(|fact| fact.rung).collect::<Vec<_>>(),
        [None, Some(Rung::Tracking), Some(Rung::MessageId)]
    );
    assert_eq!(trail.recipients[0].marks.of(Kind::Delivered).unwrap().count, 1);
    store.settle(relayed).await.unwrap();
    assert_eq!(states(&store, 0), [State::Delivered, State::Bounced]);
    assert_eq!(store.queued(9).unwrap(), []);
    // Adopted once: a later send with that Message-ID gets nothing.
    store.accept(accepted(1, "a@b", &["ada@example.net", "bob@example.org"]), Bytes::new()).await.unwrap();
    store.settle_down().await;
    assert!(store.trail(id(1)).unwrap().unwrap().recipients.iter().all(|recipient| !recipient.is_reported()));
}

#[tokio::test]
async fn an_event_of_an_earlier_mail_is_not_a_later_ones() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut earlier = event(0, "ada@example.net", Kind::Delivered);
    (earlier.tracking, earlier.message_id, earlier.at) = (None, MessageId::parse("a@b"), at(1));
    store.report(notice(earlier), Bytes::new()).await.unwrap();
    let mut retried = accepted(0, "a@b", &["ada@example.net"]);
    retried.send.id = TrackingId::new(at(1 + 3600), 0);
    let id = retried.send.id;
    store.accept(retried, Bytes::new()).await.unwrap();
    store.settle_down().await;
    assert!(!store.trail(id).unwrap().unwrap().recipients[0].is_reported());
    assert_eq!(store.queued(9).unwrap(), [id]);
}

#[tokio::test]
async fn one_message_id_may_have_many_sends() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..3 {
        let to = if number == 2 { "bob@example.org" } else { "ada@example.net" };
        store.accept(accepted(number, "same@example.com", &[to]), Bytes::new()).await.unwrap();
    }
    let mut newest = event(9, "ada@example.net", Kind::Opened);
    (newest.tracking, newest.message_id) = (None, MessageId::parse("same@example.com"));
    let mut first = event(0, "ada@example.net", Kind::Delivered);
    first.message_id = MessageId::parse("same@example.com");
    store.report(notice(first), Bytes::new()).await.unwrap();
    store.report(notice(newest), Bytes::new()).await.unwrap();
    for number in 0..3 {
        store.settle(outcome(number, 20, &[settled(&[0], Standing::Relayed)], None)).await.unwrap();
    }
    let reported =
        [0, 1, 2].map(|number| store.trail(id(number)).unwrap().unwrap().recipients[0].is_reported());
    assert_eq!((states(&store, 0), reported), (vec![State::Delivered], [true, true, false]));
}

#[tokio::test]
async fn a_stranger_in_an_event_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store.settle_down().await;
    let before = picture(&store);
    let mut stranger = event(0, "mallory@example.net", Kind::Bounced);
    stranger.message_id = MessageId::parse("a@b");
    store.report(notice(stranger), Bytes::new()).await.unwrap();
    assert_eq!(picture(&store), before);
    let (entries, _) = store.log_after("1.0".parse().unwrap()).unwrap();
    let orphan = entries.iter().find(|entry| entry.fact.what == What::Reported(Kind::Bounced)).unwrap();
    assert_eq!(orphan.id, None);
    // Nor is it for another send with that Message-ID: it names a send of its own.
    store.accept(accepted(1, "a@b", &["mallory@example.net"]), Bytes::new()).await.unwrap();
    store.settle_down().await;
    assert!(!store.trail(id(1)).unwrap().unwrap().recipients[0].is_reported());
}

#[tokio::test]
async fn events_in_any_order_and_number_end_in_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let to = ["ada@example.net", "bob@example.org", "eve@example.com"];
    for seed in 0..120 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut events = Vec::new();
        for serial in 0..random.u64(3..9) {
            let kind = Kind::ALL[random.usize(..Kind::ALL.len())];
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
                    return store.accept(accepted(number, &message_id, &to), Bytes::new()).await;
                }
                let (serial, to, kind, by_machine) = commits[place - usize::from(place > accept_at)];
                let mut event = event(number, to, *kind);
                (event.at, event.by_machine) = (at(serial * 7 % 5), *by_machine);
                event.identity = format!("{number}/{serial}");
                event.message_id = MessageId::parse(&message_id);
                store.report(notice(event), Bytes::new()).await
            };
            // Polled in this order, so committed in this order; one sync serves them all.
            for committed in join_all((0..=commits.len()).map(commit)).await {
                committed.unwrap();
            }
            store.settle_down().await;
            let recipients = store.trail(id(number)).unwrap().unwrap().recipients;
            ends.push(recipients.into_iter().map(|one| (one.state(), one.marks)).collect::<Vec<_>>());
        }
        assert_eq!(ends[0], ends[1], "seed {seed}");
        assert_eq!(ends[0], ends[2], "seed {seed}");
    }
}

/// A disk that is full in the middle of a record, made with a limit on the size of files: the process that plays it
/// is this test again.
#[tokio::test]
async fn a_journal_that_cannot_be_written_refuses_and_recovers() {
    const ROLE: &str = "MAILTRAIL_TEST_FULL_DISK";
    let Some(data_dir) = std::env::var_os(ROLE) else {
        let directory = tempfile::tempdir().unwrap();
        // Without the trap the limit's signal would end the process; 8192 units of 512 bytes are 4 MiB.
        let limited = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
        let child = child("a_journal_that_cannot_be_written_refuses_and_recovers");
        let mut shell = Command::new("sh");
        shell.args(["-c", limited]).arg(child.get_program()).args(child.get_args());
        let played = shell.env(ROLE, directory.path()).output().unwrap();
        assert!(played.status.success(), "{played:?}");
        assert!(String::from_utf8_lossy(&played.stdout).contains("1 passed"), "{played:?}");
        let (store, report) = reopen(directory.path());
        assert_eq!(store.queued(9).unwrap(), [id(0), id(2), id(4)], "{report:?}");
        for number in [0, 2, 4] {
            assert_eq!(message(&store, number).await, large(number), "message {number}");
        }
        return;
    };
    let store = reopen(Path::new(&data_dir)).0;
    for number in 0..5 {
        let kept =
            store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::from(large(number))).await;
        // Each file has room for one; the next record starts another.
        match number {
            1 | 3 => assert!(matches!(kept, Err(CommitError::Disk(_))), "{kept:?}"),
            _ => kept.unwrap(),
        }
    }
    store.settle_down().await;
    assert_eq!(store.queued(9).unwrap(), [id(0), id(2), id(4)]);
}

/// The next segment cannot be made: nothing is taken until it can.
#[tokio::test]
async fn a_segment_that_cannot_be_made_is_made_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let full = Bytes::from(vec![b'x'; 65 << 20]);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), full.clone()).await.unwrap();
    let obstacle = directory.path().join("journal/0000000002.seg");
    std::fs::create_dir(&obstacle).unwrap();
    for number in 1..3 {
        let refused = store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::from("no")).await;
        assert!(matches!(refused, Err(CommitError::Disk(_))), "{refused:?}");
    }
    std::fs::remove_dir(&obstacle).unwrap();
    store.accept(accepted(3, "a@b", &["ada@example.net"]), Bytes::from("yes")).await.unwrap();
    drop(store);
    let (store, report) = reopen(directory.path());
    assert_eq!((store.queued(9).unwrap(), report.damaged), (vec![id(0), id(3)], vec![]));
    assert_eq!(kept(&store, 0).await, Some(full));
    assert_eq!(message(&store, 3).await, "yes");
}

#[tokio::test]
async fn a_store_opened_for_reading_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let expected = eventful(directory.path()).await;
    let segments = || std::fs::read_dir(directory.path().join("journal")).unwrap().count();
    let before = segments();
    let store = closed(directory.path());
    assert_eq!((picture(&store), segments()), (expected, before));
    let refused = store.begin(begun(0)).await;
    assert!(matches!(refused, Err(CommitError::ReadOnly)), "{refused:?}");
    let nowhere = Store::open_for_reading(&directory.path().join("nowhere"), Clock::System);
    assert!(matches!(nowhere, Err(OpenError::Missing(_))));
}

/// Sends in every state with events, duplicates and orphans; returns the picture.
async fn eventful(data_dir: &Path) -> String {
    let (store, _) = reopen(data_dir);
    for number in 0..12 {
        let message =
            Bytes::from(format!("Subject: {number}\r\n\r\n{}", "text\r\n".repeat(number as usize * 20)));
        let message_id = format!("{}@example.com", number / 2);
        store
            .accept(accepted(number, &message_id, &["ada@example.net", "bob@example.org"]), message)
            .await
            .unwrap();
        let standing =
            [Standing::Relayed, Standing::Queued, Standing::Bounced, Standing::Unknown][number as usize % 4];
        store.begin(begun(number)).await.unwrap();
        if number != 7 {
            let part = [settled(&[0], standing), settled(&[1], Standing::Relayed)];
            store.settle(outcome(number, number + 1, &part, Some(number + 100))).await.unwrap();
        }
        for kind in [Kind::Delivered, Kind::Opened, Kind::Delivered] {
            store.report(notice(event(number, "bob@example.org", kind)), Bytes::from("raw")).await.unwrap();
        }
        store
            .report(notice(event(number + 300, "ada@example.net", Kind::Bounced)), Bytes::new())
            .await
            .unwrap();
    }
    store.settle_down().await;
    let picture = picture(&store);
    drop(store);
    closed(data_dir);
    picture
}

/// Everything that can be asked, in one text.
fn picture(store: &Store) -> String {
    use std::fmt::Write as _;
    let (low, high) = (TrackingId::from_bytes([0; 16]), TrackingId::from_bytes([255; 16]));
    let mut text = format!("{:?} {:?}\n", store.queued(999).unwrap(), store.interrupted().unwrap());
    for id in store.between(low, high, 999).unwrap() {
        let job = store.job(id).unwrap().unwrap();
        writeln!(text, "{:?}\n{:?}", store.trail(id).unwrap(), job.message).unwrap();
    }
    text
}

fn open(directory: &TempDir) -> Store {
    reopen(directory.path()).0
}

/// Opens for reading and writing.
fn reopen(data_dir: &Path) -> (Store, OpenReport) {
    unlocked(|| Store::open(data_dir, Clock::System))
}

/// Opens for reading, once nobody writes any more.
fn closed(data_dir: &Path) -> Store {
    unlocked(|| Store::open_for_reading(data_dir, Clock::System)).0
}

/// Opens a ledger's files, once nobody has them any more.
fn opened(ledger: &Path) -> sled::Db {
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

type Opened = Result<(Store, OpenReport), OpenError>;

/// The threads of a store that was just dropped may need a moment to let go.
fn unlocked(open: impl Fn() -> Opened) -> (Store, OpenReport) {
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
fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1"]);
    command
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn last_segment(data_dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(data_dir.join("journal")).unwrap();
    entries.map(|entry| entry.unwrap().path()).max().unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(START + seconds)
}

fn id(number: u64) -> TrackingId {
    TrackingId::new(at(number), u128::from(number))
}

fn accepted(number: u64, message_id: &str, recipients: &[&str]) -> Accepted {
    let send = Send {
        user: Some("odoo".into()),
        peer: "127.0.0.1".parse().ok(),
        sender: "bounces@example.com".parse().ok(),
        body: BodyType::EightBitMime,
        message_id: MessageId::parse(message_id),
        subject: format!("Quotation {number} (Zażółć)"),
        records: Record::parse("sale.order,42").into_iter().collect(),
        tags: vec!["sale".into()],
        size: number,
        ..Send::new(id(number), "odoo")
    };
    Accepted { send, recipients: recipients.iter().map(|to| to.parse().unwrap()).collect() }
}

fn begun(number: u64) -> Begun {
    Begun { id: id(number), at: at(number), upstream: "mailgun".into() }
}

fn settled(recipients: &[u16], standing: Standing) -> Settled {
    let words = Words { name: "RCPT".into(), code: Some(250), text: Some("fine".into()), ..Words::default() };
    Settled { recipients: recipients.to_vec(), standing, words }
}

fn outcome(number: u64, when: u64, settled: &[Settled], due: Option<u64>) -> Outcome {
    let (settled, due) = (settled.to_vec(), due.map(at));
    Outcome { id: id(number), at: at(when), upstream: "mailgun".into(), settled, due }
}

/// An event with the tracking id of a send.
fn event(number: u64, recipient: &str, kind: Kind) -> Event {
    Event {
        kind,
        at: at(number),
        identity: format!("{number}/{recipient}/{kind:?}"),
        recipient: Some(recipient.into()),
        tracking: Some(id(number)),
        message_id: None,
        by_machine: false,
        test_mode: false,
        words: Words { name: kind.word().into(), ..Words::default() },
    }
}

fn notice(event: Event) -> Notice {
    Notice { upstream: "mailgun".into(), at: at(1000), via: Via::Webhook, token: None, event }
}

fn states(store: &Store, number: u64) -> Vec<State> {
    store.trail(id(number)).unwrap().unwrap().recipients.iter().map(Recipient::state).collect()
}

/// The message of a send, read piece by piece to its end; `None` where it is seen to be damaged.
async fn kept(store: &Store, number: u64) -> Option<Bytes> {
    let message = store.job(id(number)).unwrap().unwrap().message?;
    let whole: io::Result<Vec<u8>> = message.pieces().map_ok(|piece| piece.to_vec()).try_concat().await;
    Some(whole.unwrap().into())
}

async fn message(store: &Store, number: u64) -> String {
    String::from_utf8(kept(store, number).await.unwrap().to_vec()).unwrap()
}

/// 3 MiB that tell one message from another.
fn large(number: u64) -> String {
    format!("{number:07}\n").repeat((3 << 20) / 8)
}

const START: u64 = 1_789_387_200;
/// Bytes in front of the first record of a segment.
const SEGMENT_HEADER: usize = 60;

/// Rows that were changed behind mailtrail's back are seen.
#[tokio::test]
async fn an_audit_sees_what_does_not_fit_together() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..4 {
        store.accept(accepted(number, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    }
    store.begin(begun(2)).await.unwrap();
    store.settle(outcome(3, 5, &[settled(&[0], Standing::Relayed)], None)).await.unwrap();
    let audit = store.audit_queue(at(0), at(2)).unwrap();
    assert_eq!(audit, Audit { queued: 3, ..Audit::default() });
    let audit = store.audit_queue(at(2), at(3)).unwrap();
    assert_eq!((audit.overdue, audit.stuck), (vec![id(0), id(1)], vec![id(2)]));
    assert_eq!(store.audit_sends(None, 3).unwrap(), (Audit::default(), Some(id(2))));
    assert_eq!(store.audit_sends(Some(id(2)), 3).unwrap(), (Audit::default(), Some(id(3))));
    assert_eq!(store.audit_sends(Some(id(3)), 3).unwrap(), (Audit::default(), None));
    store.settle_down().await;
    drop(store);
    closed(directory.path());
    let db = opened(&directory.path().join("ledger/1"));
    let place = |number| {
        let mut keys = db.scan_prefix(b"q").keys().map(|key| key.unwrap());
        keys.find(|key| key.ends_with(&id(number).to_bytes())).unwrap()
    };
    let (lost, moved) = (place(0), place(1));
    db.remove(&lost).unwrap();
    let value = db.remove(&moved).unwrap().unwrap();
    let mut elsewhere = moved.to_vec();
    elsewhere[12] ^= 1;
    db.insert(elsewhere, value).unwrap();
    db.insert([b"m", &id(3).to_bytes()[..]].concat(), b"").unwrap();
    db.flush().unwrap();
    drop(db);
    let store = closed(directory.path());
    let strays = [Stray::Forgotten(id(0)), Stray::Forgotten(id(1)), Stray::Unreadable(id(3))];
    assert_eq!(store.audit_sends(None, 9).unwrap().0.strays, strays);
    assert_eq!(store.audit_queue(at(0), at(0)).unwrap().strays, [Stray::InTheQueue(id(1))]);
}
