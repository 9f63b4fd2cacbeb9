//! Retention and compaction: what goes, what stays, and what a rebuild makes of it.

use super::*;
use mailtrail_mail::Moment;
use mailtrail_store::Retention;
use mailtrail_trail::{Dead, Hint, HintKind, Hinted, Replay};

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_when_they_are_finished_and_everything_else_stays() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    fill(&store, 0..300, |number| number % 30 == 0).await;
    let before = trails(&store);
    let full = journal_size(directory.path());

    time.set(at(2 * HOUR));
    keep_up(&store, at(2 * HOUR), &WEEK).await;
    let (small, live) = (journal_size(directory.path()), 10 * BODY + 300 * 600);
    assert!(small < live * 3 / 2 && small * 3 < full, "{full} bytes became {small}, of which {live} live");
    for _ in 0..2 {
        assert_eq!(trails(&store), before);
        for number in 0..300 {
            let expected = (number % 30 == 0).then(|| body(number));
            assert_eq!(kept(&store, number).await, expected, "{number}");
        }
        // Another look finds nothing to do.
        keep_up(&store, at(2 * HOUR), &WEEK).await;
        assert_eq!(journal_size(directory.path()), small);
    }
    // The rewritten journal says the same to a new ledger.
    drop(store);
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = at_time(directory.path(), time);
    assert_eq!(trails(&store), before);
    assert_eq!(kept(&store, 30).await, Some(body(30)));
    // What waited can still be sent, and goes then.
    for number in (0..300).step_by(30) {
        store.settle(relayed(number, 3 * HOUR)).await.unwrap();
    }
    time.set(at(30 * HOUR));
    keep_up(&store, at(30 * HOUR), &WEEK).await;
    assert!(store.job(id(30)).unwrap().unwrap().message.is_none());
    let size = journal_size(directory.path());
    assert!(size < 300 * 700, "{size} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_retention_is_gone_and_what_waits_is_not() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    fill(&store, 0..200, |number| number == 7).await;
    store
        .report(notice(event(900, "nobody@example.net", Kind::Delivered)), Bytes::from("raw"))
        .await
        .unwrap();
    let tracked = at(6 * DAY).since(at(0)).as_secs();
    time.set(at(tracked));
    fill(&store, tracked..tracked + 50, |_| false).await;

    // The old ones are forgotten, but for the one that waits; the others stay.
    time.set(at(9 * DAY));
    keep_up(&store, at(9 * DAY), &WEEK).await;
    let newer: Vec<_> = (tracked..tracked + 50).rev().map(id).collect();
    assert_eq!(everybody(&store).len(), 51);
    assert!(everybody(&store) == [&newer[..], &[id(7)]].concat());
    assert_eq!(store.by_recipient("ada@example.net", 99).unwrap(), [&newer[..], &[id(7)]].concat());
    assert_eq!(store.by_record(&Record::parse("sale.order,42").unwrap(), 99).unwrap().len(), 51);
    assert!(store.by_message_id(&MessageId::parse("3@example.com").unwrap(), 9).unwrap().is_empty());
    assert_eq!(kept(&store, 7).await, Some(body(7)));
    assert!(!store.knows_event("mailgun", &event(900, "nobody@example.net", Kind::Delivered)).unwrap());

    // A rebuild from the journal brings nothing back.
    let remembered = trails(&store);
    drop(store);
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = at_time(directory.path(), time);
    keep_up(&store, at(9 * DAY), &WEEK).await;
    assert_eq!(trails(&store), remembered);

    // In the end nothing is left, on the disk neither.
    store.settle(relayed(7, 9 * DAY)).await.unwrap();
    for day in [20, 30, 40] {
        time.set(at(day * DAY));
        keep_up(&store, at(day * DAY), &WEEK).await;
    }
    assert_eq!(everybody(&store), []);
    assert!(journal_size(directory.path()) < 4096, "{} bytes are left", journal_size(directory.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_stay_as_long_as_raw_events_do() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    let hinted = |seconds: u64, address: Option<&str>| Hinted {
        source: "campaigns".into(),
        received: at(seconds),
        identity: seconds.to_string(),
        hint: Hint {
            kind: HintKind::Unsubscribed,
            at: at(seconds),
            address: address.map(str::to_owned),
            lists: vec!["3".into()],
            words: Words { text: Some("enough".into()), ..Words::default() },
        },
    };
    let (old, young) = (hinted(1, Some("Ada@example.net")), hinted(6 * DAY, Some("ada@example.net")));
    for hint in [&old, &young, &young, &hinted(2, None)] {
        store.hint(hint.clone(), Bytes::from("raw of a hint")).await.unwrap();
    }
    assert_eq!(store.hints("ada@example.net", 9).unwrap(), [young.clone(), old]);
    assert!(store.knows_hint(&hinted(2, None)).unwrap() && !store.knows_hint(&hinted(3, None)).unwrap());
    time.set(at(9 * DAY));
    keep_up(&store, at(9 * DAY), &WEEK).await;
    assert_eq!(store.hints("ada@example.net", 9).unwrap(), std::slice::from_ref(&young));
    drop(store);
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = at_time(directory.path(), time);
    assert_eq!(store.hints("ADA@example.net", 9).unwrap().first(), Some(&young));
    time.set(at(20 * DAY));
    keep_up(&store, at(20 * DAY), &WEEK).await;
    assert_eq!(store.hints("ada@example.net", 9).unwrap(), []);
    assert!(journal_size(directory.path()) < 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_is_kept_as_long_as_events_are() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let mut store = at_time(directory.path(), time);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    let (upstream, via) = ("mailgun".to_owned(), Via::Webhook);
    let letter = |number: u8| {
        let token = Some((format!("token {number}"), at(number.into()), [number; 16]));
        Dead {
            upstream: upstream.clone(),
            at: at(number.into()),
            via,
            token,
            digest: [number; 16],
            reason: "?".into(),
        }
    };
    for number in 1..3 {
        store.bury(letter(number), Bytes::from("raw")).await.unwrap();
    }
    let delivered = event(0, "ada@example.net", Kind::Delivered);
    let replay = Replay {
        id: letter(2).id(),
        at: at(3),
        operator: "uid 0".into(),
        reason: "understood now".into(),
        upstream: upstream.clone(),
        via,
        before: None,
        event: delivered,
    };
    store.replay(replay).await.unwrap();
    let unknown = Notice { at: at(4), ..notice(event(900, "nobody@example.net", Kind::Delivered)) };
    store.report(unknown.clone(), Bytes::from("raw")).await.unwrap();
    store.settle(relayed(0, 5 * DAY)).await.unwrap();
    let events = Retention { events: Duration::from_secs(DAY), ..WEEK };
    for (when, letters, raw) in [(DAY - 1, (1, 1), true), (2 * DAY, (0, 0), false)] {
        time.set(at(when));
        keep_up(&store, at(when), &events).await;
        assert_eq!(store.count_letters().unwrap(), letters, "after {when} s");
        for id in [letter(1).id(), letter(2).id(), unknown.id()] {
            let report = store.report_of(id).unwrap().unwrap();
            assert_eq!(store.raw(&report).unwrap().is_some(), raw, "after {when} s");
        }
    }
    // A rebuild brings none back for long, and what was read anew stays what it was.
    drop(store);
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    store = at_time(directory.path(), time);
    keep_up(&store, at(2 * DAY), &events).await;
    assert_eq!(store.count_letters().unwrap(), (0, 0));
    assert_eq!(states(&store, 0), [State::Delivered]);
    assert!(store.token("mailgun", "token 1", at(1)).unwrap().is_some());
    for day in [9, 14, 30] {
        time.set(at(day * DAY));
        keep_up(&store, at(day * DAY), &events).await;
    }
    assert!(store.report_of(letter(1).id()).unwrap().is_none());
    assert!(journal_size(directory.path()) < 4096, "{} bytes are left", journal_size(directory.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stay_as_long_as_they_are_asked_to() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    fill(&store, 0..50, |_| false).await;
    let kept = Retention { bodies: Duration::from_secs(2 * DAY), ..WEEK };
    for (hours, there) in [(2, true), (40, true), (60, false)] {
        time.set(at(hours * HOUR));
        keep_up(&store, at(hours * HOUR), &kept).await;
        assert_eq!(store.job(id(3)).unwrap().unwrap().message.is_some(), there, "after {hours} hours");
    }
}

/// The journal is the truth: what the ledger does not know may be the ledger's loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_young_message_that_the_ledger_lost_stays_in_the_journal() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    fill(&store, 0..10, |_| false).await;
    fill(&store, 100..110, |_| true).await;
    store.settle_down().await;
    drop(store);
    closed(directory.path());
    forget_in_ledger(&directory.path().join("ledger/1"), 100..105);
    let store = at_time(directory.path(), time);
    assert_eq!(store.queued(99).unwrap().len(), 5);
    keep_up(&store, at(DAY), &WEEK).await;
    drop(store);
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = at_time(directory.path(), time);
    assert_eq!(store.queued(99).unwrap().len(), 10);
    assert_eq!(kept(&store, 100).await, Some(body(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_during_upkeep() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    for round in 0..5 {
        let first = round * 100;
        let (busy, keeper) = (store.clone(), store.clone());
        let filling = fill(&busy, first..first + 100, |number| number % 10 == 3);
        let now = at(round * 3 * HOUR);
        time.set(now);
        let keeping = tokio::task::spawn_blocking(move || {
            for _ in 0..20 {
                keeper.maintain(&WEEK, now).unwrap();
            }
        });
        let ((), kept) = tokio::join!(filling, keeping);
        kept.unwrap();
    }
    keep_up(&store, at(20 * HOUR), &WEEK).await;
    assert_eq!(everybody(&store).len(), 500);
    for number in (0..500).filter(|number| number % 10 == 3) {
        assert_eq!(kept(&store, number).await, Some(body(number)), "{number}");
    }
    drop(store);
    let (store, report) = reopen(directory.path());
    assert_eq!((everybody(&store).len(), report.damaged), (500, vec![]));
}

/// A third of the way through everything the process is gone: half-made files harm nobody.
#[tokio::test]
async fn what_a_rewriting_left_behind_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let expected = eventful(directory.path()).await;
    let half = directory.path().join("journal/0000000001.new");
    std::fs::write(&half, b"MTRAIL02 half").unwrap();
    let (store, report) = reopen(directory.path());
    assert!(!half.exists() && report.damaged.is_empty());
    assert_eq!(picture(&store), expected);
}

/// Two ledgers are what an interrupted building of a new one leaves: the one that is further goes on.
#[tokio::test]
async fn of_two_ledgers_the_one_that_is_further_is_used() {
    let base = tempfile::tempdir().unwrap();
    let (store, _) = reopen(base.path());
    store.accept(accepted(500, "a@b", &["ada@example.net"]), Bytes::from("early")).await.unwrap();
    drop(store);
    closed(base.path());
    let early = tempfile::tempdir().unwrap();
    copy(&base.path().join("ledger/1"), early.path());
    let expected = eventful(base.path()).await;
    for (old, new) in [("1", "2"), ("2", "1")] {
        let directory = tempfile::tempdir().unwrap();
        copy(&base.path().join("journal"), &directory.path().join("journal"));
        copy(&base.path().join("ledger/1"), &directory.path().join("ledger").join(new));
        copy(early.path(), &directory.path().join("ledger").join(old));
        let (store, report) = reopen(directory.path());
        assert_eq!(report.rebuilt, None);
        assert_eq!(picture(&store), expected);
        let left: Vec<_> = std::fs::read_dir(directory.path().join("ledger")).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(directory.path().join("ledger").join(new).exists());
    }
}

/// Takes the rows of sends out behind mailtrail's back.
fn forget_in_ledger(ledger: &Path, numbers: std::ops::Range<u64>) {
    let db = opened(ledger);
    for number in numbers {
        let key = [&b"m"[..], &id(number).to_bytes()].concat();
        assert!(db.remove(key).unwrap().is_some());
        let mut queue = db.scan_prefix(b"q").keys().map(|key| key.unwrap());
        let due = queue.find(|key| key.ends_with(&id(number).to_bytes())).unwrap();
        assert!(db.remove(due).unwrap().is_some());
    }
    db.flush().unwrap();
}

/// Accepts sends; those that do not wait are relayed and delivered.
pub async fn fill(store: &Store, numbers: std::ops::Range<u64>, waits: impl Fn(u64) -> bool) {
    join_all(numbers.map(|number| {
        let waits = waits(number);
        async move {
            let message_id = format!("{number}@example.com");
            let send = accepted(number, &message_id, &["ada@example.net"]);
            store.accept(send, body(number)).await.unwrap();
            if !waits {
                store.begin(begun(number)).await.unwrap();
                store.settle(relayed(number, number)).await.unwrap();
                let mut delivered = notice(event(number, "ada@example.net", Kind::Delivered));
                delivered.at = at(number);
                store.report(delivered, Bytes::from("raw")).await.unwrap();
            }
        }
    }))
    .await;
}

fn relayed(number: u64, when: u64) -> Outcome {
    outcome(number, when, &[settled(&[0], Standing::Relayed)], None)
}

/// Upkeep until there is nothing left to do.
pub async fn keep_up(store: &Store, now: Timestamp, retention: &Retention) {
    for _ in 0..4 {
        let (keeper, retention) = (store.clone(), *retention);
        let work = move || while keeper.maintain(&retention, now).unwrap() {};
        tokio::task::spawn_blocking(work).await.unwrap();
        store.settle_down().await;
    }
}

fn everybody(store: &Store) -> Vec<TrackingId> {
    store.between(TrackingId::from_bytes([0; 16]), TrackingId::from_bytes([255; 16]), 999).unwrap()
}

/// Everything but the messages.
fn trails(store: &Store) -> String {
    let trails = everybody(store).into_iter().map(|id| format!("{:?}\n", store.trail(id).unwrap()));
    trails.chain([format!("{:?}", store.queued(999).unwrap())]).collect()
}

fn body(number: u64) -> Bytes {
    Bytes::from(format!("{number:07}\n").repeat(BODY as usize / 8))
}

fn journal_size(data_dir: &Path) -> u64 {
    let entries = std::fs::read_dir(data_dir.join("journal")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

pub fn starting() -> &'static Moment {
    let time: &'static Moment = Box::leak(Box::default());
    time.set(at(0));
    time
}

pub fn at_time(data_dir: &Path, time: &'static Moment) -> Store {
    unlocked(|| Store::open(data_dir, Clock::Set(time))).0
}

const BODY: u64 = 16 << 10;
pub const HOUR: u64 = 3600;
pub const DAY: u64 = 24 * HOUR;
pub const WEEK: Retention = Retention {
    ledger: Duration::from_secs(7 * DAY),
    bodies: Duration::ZERO,
    events: Duration::from_secs(7 * DAY),
};
