//! Undecodable events, and the replay of stored events.

use super::*;
use mailtrail_store::{EventContent, EventState, StoredEvent};
use mailtrail_trail::{DeadLetter, EventReplay, MarkKind};

#[tokio::test]
async fn stores_dead_letter_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let (store, raw) = (open_store(&directory), Bytes::from_static(b"\0\xff not an event"));
    let letter = dead_letter(time_at(7), [1; 16]);
    store.put_dead_letter(letter.clone(), raw.clone()).await.unwrap();
    store.put_dead_letter(dead_letter(time_at(8), [2; 16]), Bytes::new()).await.unwrap();
    store
        .put_event(
            received_event(sample_event(300, "ada@example.net", EventKind::Opened)),
            Bytes::from("raw"),
        )
        .await
        .unwrap();
    // The token came with another body before, so the request is not genuine.
    store
        .put_dead_letter(DeadLetter { received_at: time_at(9), ..dead_with_token([3; 16]) }, Bytes::new())
        .await
        .unwrap();
    store
        .put_dead_letter(DeadLetter { received_at: time_at(10), ..dead_with_token([4; 16]) }, Bytes::new())
        .await
        .unwrap();
    store.checkpoint().await;
    let rebuilt = tempfile::tempdir().unwrap();
    copy_dir(&directory.path().join("journal"), &rebuilt.path().join("journal"));
    for store in [store, open_store(&rebuilt)] {
        let dead_letters = store.find_dead_letters(9, |_| true).unwrap();
        let ids: Vec<_> = dead_letters.iter().map(|letter| letter.id.timestamp()).collect();
        assert_eq!(ids, [time_at(9), time_at(8), time_at(7)], "newest first");
        assert_eq!(dead_letters[2].content, EventContent::DeadLetter { reason: "no event".into() });
        assert_eq!(store.count_unmatched().unwrap(), (1, 3));
        assert_eq!(
            store.webhook_token("mailgun", "token", time_at(5)).unwrap().as_deref(),
            Some(&[3; 16][..])
        );
        let kept = store.find_event(letter.id()).unwrap().unwrap();
        assert_eq!(
            (store.raw_event(&kept).unwrap(), store.event_state(&kept).unwrap()),
            (Some(raw.clone()), EventState::DeadLetter)
        );
        let newest = store.find_dead_letters(1, |_| true).unwrap();
        assert_eq!(newest[0].id, dead_letters[0].id);
        assert!(store.find_event(TrackingId::new(time_at(7), 7)).unwrap().is_none());
        let stands =
            stored_events(&store).iter().map(|report| store.event_state(report).unwrap()).collect::<Vec<_>>();
        assert_eq!(
            stands,
            [
                EventState::DeadLetter,
                EventState::DeadLetter,
                EventState::Orphan,
                EventState::DeadLetter,
                EventState::Unreferenced
            ]
        );
    }
}

#[tokio::test]
async fn replayed_dead_letter_is_applied_as_event() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    let (joins, waits) = (dead_letter(time_at(7), [1; 16]), dead_letter(time_at(8), [2; 16]));
    store.put_dead_letter(joins.clone(), Bytes::from("raw")).await.unwrap();
    store.put_dead_letter(waits.clone(), Bytes::from("raw")).await.unwrap();
    for _ in 0..2 {
        let delivered = sample_event(0, "ada@example.net", EventKind::Delivered);
        store.replay_event(event_replay(joins.id(), None, delivered)).await.unwrap();
        store
            .replay_event(event_replay(
                waits.id(),
                None,
                sample_event(1, "ada@example.net", EventKind::Opened),
            ))
            .await
            .unwrap();
        assert_eq!(mark_counts(&store, 0, 0), [(MarkKind::Person(EventKind::Delivered), 1)]);
        assert_eq!(store.count_unmatched().unwrap(), (1, 0));
    }
    // The dead letter is an event now and keeps its own raw form.
    let kept = store.find_event(waits.id()).unwrap().unwrap();
    assert_eq!(kept.content, sample_event(1, "ada@example.net", EventKind::Opened).into());
    assert_eq!(
        (store.raw_event(&kept).unwrap(), store.event_state(&kept).unwrap()),
        (Some("raw".into()), EventState::Orphan)
    );
    // The same event from another source, and the message that it waits for.
    store
        .put_event(received_event(sample_event(0, "ada@example.net", EventKind::Delivered)), Bytes::new())
        .await
        .unwrap();
    store.put_message(sample_accepted(1, "c@d", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store.checkpoint().await;
    assert_eq!(mark_counts(&store, 0, 0), [(MarkKind::Person(EventKind::Delivered), 1)]);
    assert_eq!(mark_counts(&store, 1, 0), [(MarkKind::Person(EventKind::Opened), 1)]);
    assert_eq!(store.count_unmatched().unwrap(), (0, 0));
    assert_eq!(
        store.event_state(&kept).unwrap(),
        EventState::Correlated { tracking_id: message_id_at(1), correlated_by: CorrelatedBy::TrackingId }
    );
    // The log has the operator's action.
    let (entries, _) = store.log_after("1.0".parse().unwrap()).unwrap();
    let replays: Vec<_> =
        entries.iter().filter(|entry| entry.event.kind == TrailEventKind::EventReplayed).collect();
    assert_eq!(
        (replays.len(), replays[0].tracking_id, &*replays[0].event.diagnostic.name),
        (4, Some(message_id_at(0)), "uid 0")
    );
    let output = replays[0].event.diagnostic.text.as_deref().unwrap();
    assert!(output.ends_with("is read as delivered: why not"), "{output}");
    assert_eq!(entries.iter().filter(|entry| entry.event.kind == TrailEventKind::DeadLettered).count(), 2);
    assert_eq!(rebuilt_picture(&store, &directory).await, snapshot(&store));
}

#[tokio::test]
async fn replayed_event_replaces_its_earlier_meaning() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    let to = ["ada@example.net", "bob@example.org"];
    for number in 0..2 {
        store.put_message(sample_accepted(number, "a@b", &to), Bytes::new()).await.unwrap();
    }
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            5,
            &[recipient_result(&[0, 1], AttemptStatus::Relayed)],
            None,
        ))
        .await
        .unwrap();
    let at_first =
        ProviderEvent { dedup_key: "one".into(), ..sample_event(0, "ada@example.net", EventKind::Unknown) };
    let other = sample_event(0, "ada@example.net", EventKind::Opened);
    for event in [&at_first, &other] {
        store.put_event(received_event(event.clone()), Bytes::from("raw")).await.unwrap();
    }
    let report = received_event(at_first.clone()).id();
    let opened = (MarkKind::Person(EventKind::Opened), 1);
    let bounced = ProviderEvent { kind: EventKind::Bounced, ..at_first.clone() };
    store.replay_event(event_replay(report, Some(&at_first), bounced.clone())).await.unwrap();
    assert_eq!(mark_counts(&store, 0, 0), [(MarkKind::Person(EventKind::Bounced), 1), opened]);
    assert_eq!(recipient_states(&store, 0)[0], RecipientState::Bounced);
    // To another recipient, to another send, to none, with another name and time, and back.
    let bobs = ProviderEvent { recipient: Some("bob@example.org".into()), ..bounced.clone() };
    store.replay_event(event_replay(report, Some(&at_first), bobs)).await.unwrap();
    assert_eq!(
        (mark_counts(&store, 0, 0), mark_counts(&store, 0, 1)),
        (vec![opened], vec![(MarkKind::Person(EventKind::Bounced), 1)])
    );
    let elsewhere = ProviderEvent {
        tracking_id: Some(message_id_at(1)),
        at: time_at(99),
        dedup_key: "two".into(),
        ..bounced.clone()
    };
    store.replay_event(event_replay(report, Some(&at_first), elsewhere)).await.unwrap();
    assert_eq!(
        (mark_counts(&store, 0, 1), mark_counts(&store, 1, 0)),
        (vec![], vec![(MarkKind::Person(EventKind::Bounced), 1)])
    );
    let nobodys = ProviderEvent { tracking_id: Some(message_id_at(9)), ..bounced.clone() };
    store.replay_event(event_replay(report, Some(&at_first), nobodys)).await.unwrap();
    assert_eq!((mark_counts(&store, 1, 0), store.count_unmatched().unwrap()), (vec![], (1, 0)));
    store.replay_event(event_replay(report, Some(&at_first), at_first.clone())).await.unwrap();
    assert_eq!(mark_counts(&store, 0, 0), [opened, (MarkKind::Person(EventKind::Unknown), 1)]);
    assert_eq!(store.count_unmatched().unwrap(), (0, 0));
    let facts = store.load_trail(message_id_at(0)).unwrap().unwrap().events;
    assert_eq!(facts.iter().filter(|fact| matches!(fact.kind, TrailEventKind::EventReceived(_))).count(), 2);
    assert_eq!(rebuilt_picture(&store, &directory).await, snapshot(&store));
}

#[tokio::test]
async fn replay_does_not_requeue_finished_message() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(&directory);
    store.put_message(sample_accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store
        .record_attempt_outcome(attempt_outcome(
            0,
            5,
            &[recipient_result(&[0], AttemptStatus::Unknown)],
            Some(60),
        ))
        .await
        .unwrap();
    let delivered = sample_event(0, "ada@example.net", EventKind::Delivered);
    store.put_event(received_event(delivered.clone()), Bytes::from("raw")).await.unwrap();
    assert_eq!(
        (recipient_states(&store, 0), store.queued_ids(9).unwrap()),
        (vec![RecipientState::Delivered], vec![])
    );
    let (report, nothing) = (
        received_event(delivered.clone()).id(),
        ProviderEvent { kind: EventKind::Unknown, ..delivered.clone() },
    );
    store.replay_event(event_replay(report, Some(&delivered), nothing)).await.unwrap();
    assert_eq!(
        (recipient_states(&store, 0), store.queued_ids(9).unwrap()),
        (vec![RecipientState::Delivered], vec![])
    );
    assert_eq!(store.check_messages(None, 9).unwrap().0, CheckReport::default());
}

fn dead_letter(received_at: Timestamp, body_digest: [u8; 16]) -> DeadLetter {
    DeadLetter {
        upstream: "mailgun".into(),
        received_at,
        source: EventSource::Webhook,
        token: None,
        body_digest,
        reason: "no event".into(),
    }
}

fn dead_with_token(digest: [u8; 16]) -> DeadLetter {
    DeadLetter { token: Some(("token".into(), time_at(5), digest)), ..dead_letter(time_at(5), digest) }
}

fn event_replay(id: TrackingId, before: Option<&ProviderEvent>, event: ProviderEvent) -> EventReplay {
    let (operator, reason, upstream) = ("uid 0".into(), "why not".into(), "mailgun".into());
    let (source, previous) = (EventSource::Webhook, before.cloned());
    EventReplay { id, at: time_at(2000), operator, reason, upstream, source, previous, event }
}

fn stored_events(store: &Store) -> Vec<StoredEvent> {
    let segments = store.journal_segments_since(time_at(0)).unwrap();
    segments.into_iter().flat_map(|segment| store.events_in_segment(segment).unwrap()).collect()
}

fn mark_counts(store: &Store, number: u64, place: usize) -> Vec<(MarkKind, u32)> {
    let recipients = store.load_trail(message_id_at(number)).unwrap().unwrap().recipients;
    recipients[place].marks.iter().map(|(kind, mark)| (*kind, mark.count)).collect()
}

/// Returns the contents of a ledger that is rebuilt from the journal.
async fn rebuilt_picture(store: &Store, directory: &TempDir) -> String {
    store.checkpoint().await;
    let rebuilt = tempfile::tempdir().unwrap();
    copy_dir(&directory.path().join("journal"), &rebuilt.path().join("journal"));
    snapshot(&open_store(&rebuilt))
}
