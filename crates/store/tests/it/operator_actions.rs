//! Operator actions in the log, with caller and reason, for the retention of the ledger.

use super::retention::{
    DAY_SECONDS, HOUR_SECONDS, WEEK_RETENTION, clock_at_start, open_at, put_messages, run_maintenance,
};
use super::*;
use mailtrail_trail::{OperatorAction, OperatorActionData, TrailSource};

#[tokio::test]
async fn logs_each_operator_action_with_caller_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store.put_message_applied(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    let before = snapshot(&store);
    for (number, errand) in (1..).zip(sample_actions()) {
        store.record_operator_action(operator_action(number, errand)).await.unwrap();
    }
    let since = time_at(7);
    let expected = [
        ("sink-replay", None, None, Some(format!("hook since {since}: 1"))),
        ("store-rebuild", None, None, Some("2".to_owned())),
        ("store-rebuild", None, None, Some("despite damage: 3".to_owned())),
        ("store-backup", None, None, Some("/copies/monday: 4".to_owned())),
        ("suppress-sync", None, Some("mailgun".to_owned()), Some("5".to_owned())),
        ("send-test", Some(message_id_at(0)), None, Some("6".to_owned())),
        // An action without a target and a reason.
        ("store-rebuild", None, None, None),
    ];
    drop(store);
    for ledger_lost in [false, true] {
        if ledger_lost {
            open_read_only(directory.path());
            std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
        }
        let (store, report) = reopen_store(directory.path());
        assert_eq!((snapshot(&store), report.corrupt_ranges.len()), (before.clone(), 0));
        let entries = logged_actions(&store);
        assert!(entries.iter().all(|entry| entry.event.source == TrailSource::Operator));
        assert!(entries.iter().all(|entry| entry.event.diagnostic.name == "uid 0"));
        assert!(
            (1..)
                .zip(&entries)
                .all(|(number, entry)| (entry.recorded_at, entry.event.at)
                    == (time_at(number), time_at(number)))
        );
        let notified = entries.into_iter().map(|LogEntry { tracking_id, event, .. }| {
            (event.kind.as_str(), tracking_id, event.upstream, event.diagnostic.text)
        });
        assert_eq!(notified.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_actions_expire_with_ledger_retention() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    put_messages(&store, 0..3, |_| false).await;
    store.record_operator_action(operator_action(0, sample_actions().remove(0))).await.unwrap();
    time.advance_to(time_at(2 * HOUR_SECONDS));
    run_maintenance(&store, time_at(2 * HOUR_SECONDS), &WEEK_RETENTION).await;
    assert!(store.load_job(message_id_at(0)).unwrap().unwrap().body.is_none(), "its segment was rewritten");
    assert_eq!(logged_actions(&store).len(), 1);
    time.advance_to(time_at(6 * DAY_SECONDS));
    store.record_operator_action(operator_action(6 * DAY_SECONDS, sample_actions().remove(0))).await.unwrap();
    let mut left = Vec::new();
    for day in [7, 9, 13, 40] {
        time.advance_to(time_at(day * DAY_SECONDS));
        run_maintenance(&store, time_at(day * DAY_SECONDS), &WEEK_RETENTION).await;
        left.push(logged_actions(&store).len());
    }
    assert_eq!(left, [2, 1, 1, 0]);
    assert_eq!(store.log_segments().unwrap().len(), 1, "nothing of them is left on the disk");
}

fn sample_actions() -> Vec<OperatorActionData> {
    vec![
        OperatorActionData::SinkReplay { sink: "hook".into(), since: time_at(7) },
        OperatorActionData::StoreRebuild { despite_damage: false },
        OperatorActionData::StoreRebuild { despite_damage: true },
        OperatorActionData::StoreBackup { directory: "/copies/monday".into() },
        OperatorActionData::SuppressSync { upstream: "mailgun".into() },
        OperatorActionData::SendTest { id: message_id_at(0) },
        OperatorActionData::StoreRebuild { despite_damage: false },
    ]
}

/// The seventh without a reason.
fn operator_action(number: u64, data: OperatorActionData) -> OperatorAction {
    let reason = if number == 7 { String::new() } else { number.to_string() };
    OperatorAction { at: time_at(number), data, operator: "uid 0".into(), reason }
}

fn logged_actions(store: &Store) -> Vec<LogEntry> {
    let segments = store.log_segments().unwrap().into_iter();
    let entries = segments.flat_map(|(segment, _)| store.log_in_segment(segment).unwrap());
    entries.filter(|entry| matches!(entry.event.kind, TrailEventKind::OperatorAction(_))).collect()
}
