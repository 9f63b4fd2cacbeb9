//! Mail from outside: what stays of it, and what a rebuild makes of that.

use super::retention::{DAY_SECONDS, WEEK_RETENTION, clock_at_start, open_at, run_maintenance};
use super::*;
use mailtrail_trail::{InboundOutcome, InboundReceived, InboundState, InboundSummary, InboundTransition};

#[tokio::test(flavor = "multi_thread")]
async fn pending_mail_survives_and_finished_mail_does_not_return() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    for number in 0..40 {
        store.put_inbound(sample_received(number), sample_message(number)).await.unwrap();
        let target = "odoo".to_owned();
        let outcome = match number % 4 {
            0 => InboundOutcome::Delivered { target, reply: "record 1".into() },
            1 => InboundOutcome::DeadLettered { target, reason: "no".into() },
            2 => InboundOutcome::Deferred { target, reason: "busy".into(), next_attempt: time_at(60) },
            _ => continue,
        };
        store
            .record_inbound(InboundTransition { id: message_id_at(number), at: time_at(50), outcome })
            .await
            .unwrap();
    }
    let store = rebuild_store(store, directory.path(), time);
    assert_eq!(
        (in_state(&store, InboundState::Delivered).len(), in_state(&store, InboundState::DeadLetter).len()),
        (10, 10)
    );
    let [first, last] =
        [time_at(55), time_at(60)].map(|now| store.next_due_inbound(now, |_| true).unwrap().unwrap());
    assert_eq!((first.received.id, first.deferrals), (message_id_at(3), 0));
    assert_eq!((last.received.id, last.deferrals, &*last.diagnostic), (message_id_at(2), 1, "busy"));

    // Bodies of delivered mail are removed first.
    time.advance_to(time_at(2 * DAY_SECONDS));
    run_maintenance(&store, time_at(2 * DAY_SECONDS), &WEEK_RETENTION).await;
    let whole = |store: &Store, number| store.read_inbound_body(message_id_at(number)).unwrap();
    assert_eq!(whole(&store, 0), None);
    for number in [1, 2, 3] {
        assert_eq!(whole(&store, number).as_deref(), Some(&*sample_message(number)), "{number}");
    }

    // A dead letter that is delivered after all waits like any other.
    let outcome = InboundOutcome::Released { operator: "test".into(), reason: String::new() };
    store
        .record_inbound(InboundTransition { id: message_id_at(1), at: time_at(2 * DAY_SECONDS), outcome })
        .await
        .unwrap();
    for day in [10, 20, 30] {
        time.advance_to(time_at(day * DAY_SECONDS));
        run_maintenance(&store, time_at(day * DAY_SECONDS), &WEEK_RETENTION).await;
    }
    let store = rebuild_store(store, directory.path(), time);
    let waiting = in_state(&store, InboundState::Waiting);
    assert_eq!((waiting.len(), in_state(&store, InboundState::Delivered).len()), (21, 0));
    assert!(waiting.iter().all(|mail| store.read_inbound_body(mail.received.id).unwrap().is_some()));
    assert_eq!(store.load_inbound(message_id_at(1)).unwrap().unwrap().state_since, time_at(2 * DAY_SECONDS));
    for mail in waiting {
        let outcome = InboundOutcome::Delivered { target: "odoo".into(), reply: String::new() };
        store
            .record_inbound(InboundTransition {
                id: mail.received.id,
                at: time_at(30 * DAY_SECONDS),
                outcome,
            })
            .await
            .unwrap();
    }
    for day in [40, 50, 130, 140] {
        time.advance_to(time_at(day * DAY_SECONDS));
        run_maintenance(&store, time_at(day * DAY_SECONDS), &WEEK_RETENTION).await;
        assert_eq!(in_state(&store, InboundState::Waiting), [], "on day {day}");
    }
    let store = rebuild_store(store, directory.path(), time);
    run_maintenance(&store, time_at(140 * DAY_SECONDS), &WEEK_RETENTION).await;
    assert_eq!(store.find_inbound(99, |_| true).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_and_message_id_accept_one_mail() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    let token = |digest| Some(("token".to_owned(), time_at(0), [digest; 16]));
    for (number, digest, name) in [(1, 1, "a@b"), (2, 2, "c@d"), (3, 1, "e@f"), (4, 1, "a@b")] {
        let message_id = MessageId::parse(name);
        let arrival = InboundReceived { token: token(digest), message_id, ..sample_received(number) };
        store.put_inbound(arrival, sample_message(number)).await.unwrap();
    }
    let held = InboundReceived {
        quarantine_reason: Some("a circle".into()),
        message_id: MessageId::parse("g@h"),
        ..sample_received(5)
    };
    store.put_inbound(held, sample_message(5)).await.unwrap();
    store
        .put_inbound(
            InboundReceived { message_id: MessageId::parse("g@h"), ..sample_received(6) },
            sample_message(6),
        )
        .await
        .unwrap();
    let legs: Vec<_> =
        store.find_inbound(9, |_| true).unwrap().iter().rev().map(|m| (m.received.id, m.state)).collect();
    let expected = [
        (1, InboundState::Waiting),
        (3, InboundState::Waiting),
        (4, InboundState::Duplicate),
        (5, InboundState::DeadLetter),
        (6, InboundState::Waiting),
    ];
    assert_eq!(legs, expected.map(|(number, leg)| (message_id_at(number), leg)));
    assert_eq!(store.webhook_token("mailgun", "token", time_at(0)).unwrap().as_deref(), Some(&[1; 16][..]));
}

/// Rebuilds the ledger of a store from its journal.
fn rebuild_store(store: Store, data_dir: &Path, time: &'static mailtrail_mail::ManualClock) -> Store {
    drop(store);
    open_read_only(data_dir);
    std::fs::remove_dir_all(data_dir.join("ledger")).unwrap();
    open_at(data_dir, time)
}

fn in_state(store: &Store, leg: InboundState) -> Vec<InboundSummary> {
    store.find_inbound(99, |mail| mail.state == leg).unwrap()
}

fn sample_received(number: u64) -> InboundReceived {
    InboundReceived {
        id: message_id_at(number),
        upstream: "mailgun".into(),
        token: None,
        sender: "ada@example.net".parse().ok(),
        recipient: "info@example.com".parse().unwrap(),
        message_id: None,
        subject: "hello".into(),
        size: sample_message(number).len() as u64,
        dedup_window: Duration::from_secs(60),
        quarantine_reason: None,
        missing_files: 0,
    }
}

fn sample_message(number: u64) -> Bytes {
    format!("Subject: hello\r\n\r\n{}", format!("{number}\r\n").repeat(4000)).into()
}
