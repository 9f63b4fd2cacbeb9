//! What operators had the relay do: it stands in the log with who and why, for as long as the ledger's records.

use super::upkeep::{DAY, HOUR, WEEK, at_time, fill, keep_up, starting};
use super::*;
use mailtrail_trail::{Errand, Ordered, Source};

#[tokio::test]
async fn each_errand_stands_in_the_log_with_who_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept_and_apply(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    let before = picture(&store);
    for (number, errand) in (1..).zip(errands()) {
        store.order(ordered(number, errand)).await.unwrap();
    }
    let since = at(7);
    let expected = [
        ("sink-replay", None, None, Some(format!("hook since {since}: 1"))),
        ("store-rebuild", None, None, Some("2".to_owned())),
        ("store-rebuild", None, None, Some("despite damage: 3".to_owned())),
        ("store-backup", None, None, Some("/copies/monday: 4".to_owned())),
        ("suppress-sync", None, Some("mailgun".to_owned()), Some("5".to_owned())),
        ("send-test", Some(id(0)), None, Some("6".to_owned())),
        // Nothing was to be said, and nobody said why.
        ("store-rebuild", None, None, None),
    ];
    drop(store);
    for ledger_lost in [false, true] {
        if ledger_lost {
            closed(directory.path());
            std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        }
        let (store, report) = reopen(directory.path());
        assert_eq!((picture(&store), report.damaged.len()), (before.clone(), 0));
        let entries = orders(&store);
        assert!(entries.iter().all(|entry| entry.fact.source == Source::Operator));
        assert!(entries.iter().all(|entry| entry.fact.words.name == "uid 0"));
        assert!(
            (1..)
                .zip(&entries)
                .all(|(number, entry)| (entry.written, entry.fact.at) == (at(number), at(number)))
        );
        let told = entries
            .into_iter()
            .map(|Entry { id, fact, .. }| (fact.what.word(), id, fact.upstream, fact.words.text));
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_forgotten_with_the_ledgers_records() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    fill(&store, 0..3, |_| false).await;
    store.order(ordered(0, errands().remove(0))).await.unwrap();
    time.set(at(2 * HOUR));
    keep_up(&store, at(2 * HOUR), &WEEK).await;
    assert!(store.job(id(0)).unwrap().unwrap().message.is_none(), "its segment was rewritten");
    assert_eq!(orders(&store).len(), 1);
    time.set(at(6 * DAY));
    store.order(ordered(6 * DAY, errands().remove(0))).await.unwrap();
    let mut left = Vec::new();
    for day in [7, 9, 13, 40] {
        time.set(at(day * DAY));
        keep_up(&store, at(day * DAY), &WEEK).await;
        left.push(orders(&store).len());
    }
    assert_eq!(left, [2, 1, 1, 0]);
    assert_eq!(store.log_segments().unwrap().len(), 1, "nothing of them is left on the disk");
}

fn errands() -> Vec<Errand> {
    vec![
        Errand::SinkReplay { sink: "hook".into(), since: at(7) },
        Errand::StoreRebuild { despite_damage: false },
        Errand::StoreRebuild { despite_damage: true },
        Errand::StoreBackup { directory: "/copies/monday".into() },
        Errand::SuppressSync { upstream: "mailgun".into() },
        Errand::SendTest { id: id(0) },
        Errand::StoreRebuild { despite_damage: false },
    ]
}

/// The seventh without a reason.
fn ordered(number: u64, errand: Errand) -> Ordered {
    let reason = if number == 7 { String::new() } else { number.to_string() };
    Ordered { at: at(number), errand, operator: "uid 0".into(), reason }
}

fn orders(store: &Store) -> Vec<Entry> {
    let segments = store.log_segments().unwrap().into_iter();
    let entries = segments.flat_map(|(segment, _)| store.log_of(segment).unwrap());
    entries.filter(|entry| matches!(entry.fact.what, What::Ordered(_))).collect()
}
