//! Reports that cannot be understood, and reports that are read anew.

use super::*;
use mailtrail_store::{Content, Report, Stand};
use mailtrail_trail::{Dead, MarkKind, Replay};

#[tokio::test]
async fn a_dead_letter_is_kept_as_it_came() {
    let directory = tempfile::tempdir().unwrap();
    let (store, raw) = (open(&directory), Bytes::from_static(b"\0\xff not an event"));
    let letter = dead(at(7), [1; 16]);
    store.bury(letter.clone(), raw.clone()).await.unwrap();
    store.bury(dead(at(8), [2; 16]), Bytes::new()).await.unwrap();
    store.report(notice(event(300, "ada@example.net", Kind::Opened)), Bytes::from("raw")).await.unwrap();
    // The token came with another body before: somebody else's.
    store.bury(Dead { at: at(9), ..dead_with_token([3; 16]) }, Bytes::new()).await.unwrap();
    store.bury(Dead { at: at(10), ..dead_with_token([4; 16]) }, Bytes::new()).await.unwrap();
    store.settle_down().await;
    let rebuilt = tempfile::tempdir().unwrap();
    copy(&directory.path().join("journal"), &rebuilt.path().join("journal"));
    for store in [store, open(&rebuilt)] {
        let letters = store.dead(9, |_| true).unwrap();
        let ids: Vec<_> = letters.iter().map(|letter| letter.id.timestamp()).collect();
        assert_eq!(ids, [at(9), at(8), at(7)], "newest first");
        assert_eq!(letters[2].content, Content::Dead { reason: "no event".into() });
        assert_eq!(store.count_letters().unwrap(), (1, 3));
        assert_eq!(store.token("mailgun", "token", at(5)).unwrap().as_deref(), Some(&[3; 16][..]));
        let kept = store.report_of(letter.id()).unwrap().unwrap();
        assert_eq!(
            (store.raw(&kept).unwrap(), store.stand(&kept).unwrap()),
            (Some(raw.clone()), Stand::Dead)
        );
        let newest = store.dead(1, |_| true).unwrap();
        assert_eq!(newest[0].id, letters[0].id);
        assert!(store.report_of(TrackingId::new(at(7), 7)).unwrap().is_none());
        let stands = reports(&store).iter().map(|report| store.stand(report).unwrap()).collect::<Vec<_>>();
        assert_eq!(stands, [Stand::Dead, Stand::Dead, Stand::Orphan, Stand::Dead, Stand::Gone]);
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_understood_now_is_an_event_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    let (joins, waits) = (dead(at(7), [1; 16]), dead(at(8), [2; 16]));
    store.bury(joins.clone(), Bytes::from("raw")).await.unwrap();
    store.bury(waits.clone(), Bytes::from("raw")).await.unwrap();
    for _ in 0..2 {
        let delivered = event(0, "ada@example.net", Kind::Delivered);
        store.replay(replay(joins.id(), None, delivered)).await.unwrap();
        store.replay(replay(waits.id(), None, event(1, "ada@example.net", Kind::Opened))).await.unwrap();
        assert_eq!(marks(&store, 0, 0), [(MarkKind::By(Kind::Delivered), 1)]);
        assert_eq!(store.count_letters().unwrap(), (1, 0));
    }
    // It is an event by now, and the letter's raw form is still its own.
    let kept = store.report_of(waits.id()).unwrap().unwrap();
    assert_eq!(kept.content, event(1, "ada@example.net", Kind::Opened).into());
    assert_eq!((store.raw(&kept).unwrap(), store.stand(&kept).unwrap()), (Some("raw".into()), Stand::Orphan));
    // The same event by another way, and the send that it waits for.
    store.report(notice(event(0, "ada@example.net", Kind::Delivered)), Bytes::new()).await.unwrap();
    store.accept(accepted(1, "c@d", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store.settle_down().await;
    assert_eq!(marks(&store, 0, 0), [(MarkKind::By(Kind::Delivered), 1)]);
    assert_eq!(marks(&store, 1, 0), [(MarkKind::By(Kind::Opened), 1)]);
    assert_eq!(store.count_letters().unwrap(), (0, 0));
    assert_eq!(store.stand(&kept).unwrap(), Stand::Joined { send: id(1), rung: Rung::Tracking });
    // An operator's doing stands in the log.
    let (entries, _) = store.log_after("1.0".parse().unwrap()).unwrap();
    let replays: Vec<_> = entries.iter().filter(|entry| entry.fact.what == What::Replayed).collect();
    assert_eq!((replays.len(), replays[0].id, &*replays[0].fact.words.name), (4, Some(id(0)), "uid 0"));
    let said = replays[0].fact.words.text.as_deref().unwrap();
    assert!(said.ends_with("is read as delivered: why not"), "{said}");
    assert_eq!(entries.iter().filter(|entry| entry.fact.what == What::Died).count(), 2);
    assert_eq!(rebuilt(&store, &directory).await, picture(&store));
}

#[tokio::test]
async fn a_report_that_says_something_else_now_is_counted_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let to = ["ada@example.net", "bob@example.org"];
    for number in 0..2 {
        store.accept(accepted(number, "a@b", &to), Bytes::new()).await.unwrap();
    }
    store.settle(outcome(0, 5, &[settled(&[0, 1], Standing::Relayed)], None)).await.unwrap();
    let at_first = Event { identity: "one".into(), ..event(0, "ada@example.net", Kind::Unknown) };
    let other = event(0, "ada@example.net", Kind::Opened);
    for event in [&at_first, &other] {
        store.report(notice(event.clone()), Bytes::from("raw")).await.unwrap();
    }
    let report = notice(at_first.clone()).id();
    let opened = (MarkKind::By(Kind::Opened), 1);
    let bounced = Event { kind: Kind::Bounced, ..at_first.clone() };
    store.replay(replay(report, Some(&at_first), bounced.clone())).await.unwrap();
    assert_eq!(marks(&store, 0, 0), [(MarkKind::By(Kind::Bounced), 1), opened]);
    assert_eq!(states(&store, 0)[0], State::Bounced);
    // To another recipient, to another send, to none, with another name and time, and back.
    let bobs = Event { recipient: Some("bob@example.org".into()), ..bounced.clone() };
    store.replay(replay(report, Some(&at_first), bobs)).await.unwrap();
    assert_eq!(
        (marks(&store, 0, 0), marks(&store, 0, 1)),
        (vec![opened], vec![(MarkKind::By(Kind::Bounced), 1)])
    );
    let elsewhere = Event { tracking: Some(id(1)), at: at(99), identity: "two".into(), ..bounced.clone() };
    store.replay(replay(report, Some(&at_first), elsewhere)).await.unwrap();
    assert_eq!((marks(&store, 0, 1), marks(&store, 1, 0)), (vec![], vec![(MarkKind::By(Kind::Bounced), 1)]));
    let nobodys = Event { tracking: Some(id(9)), ..bounced.clone() };
    store.replay(replay(report, Some(&at_first), nobodys)).await.unwrap();
    assert_eq!((marks(&store, 1, 0), store.count_letters().unwrap()), (vec![], (1, 0)));
    store.replay(replay(report, Some(&at_first), at_first.clone())).await.unwrap();
    assert_eq!(marks(&store, 0, 0), [opened, (MarkKind::By(Kind::Unknown), 1)]);
    assert_eq!(store.count_letters().unwrap(), (0, 0));
    let facts = store.trail(id(0)).unwrap().unwrap().facts;
    assert_eq!(facts.iter().filter(|fact| matches!(fact.what, What::Reported(_))).count(), 2);
    assert_eq!(rebuilt(&store, &directory).await, picture(&store));
}

#[tokio::test]
async fn what_an_event_ended_stays_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.accept(accepted(0, "a@b", &["ada@example.net"]), Bytes::new()).await.unwrap();
    store.settle(outcome(0, 5, &[settled(&[0], Standing::Unknown)], Some(60))).await.unwrap();
    let delivered = event(0, "ada@example.net", Kind::Delivered);
    store.report(notice(delivered.clone()), Bytes::from("raw")).await.unwrap();
    assert_eq!((states(&store, 0), store.queued(9).unwrap()), (vec![State::Delivered], vec![]));
    let (report, nothing) =
        (notice(delivered.clone()).id(), Event { kind: Kind::Unknown, ..delivered.clone() });
    store.replay(replay(report, Some(&delivered), nothing)).await.unwrap();
    assert_eq!((states(&store, 0), store.queued(9).unwrap()), (vec![State::Delivered], vec![]));
    assert_eq!(store.audit_sends(None, 9).unwrap().0, Audit::default());
}

fn dead(at: Timestamp, digest: [u8; 16]) -> Dead {
    Dead { upstream: "mailgun".into(), at, via: Via::Webhook, token: None, digest, reason: "no event".into() }
}

fn dead_with_token(digest: [u8; 16]) -> Dead {
    Dead { token: Some(("token".into(), at(5), digest)), ..dead(at(5), digest) }
}

fn replay(id: TrackingId, before: Option<&Event>, event: Event) -> Replay {
    let (operator, reason, upstream) = ("uid 0".into(), "why not".into(), "mailgun".into());
    let (via, before) = (Via::Webhook, before.cloned());
    Replay { id, at: at(2000), operator, reason, upstream, via, before, event }
}

fn reports(store: &Store) -> Vec<Report> {
    let segments = store.segments_since(at(0)).unwrap();
    segments.into_iter().flat_map(|segment| store.reports_of(segment).unwrap()).collect()
}

fn marks(store: &Store, number: u64, place: usize) -> Vec<(MarkKind, u32)> {
    let recipients = store.trail(id(number)).unwrap().unwrap().recipients;
    recipients[place].marks.iter().map(|(kind, mark)| (*kind, mark.count)).collect()
}

/// What a ledger shows that is made of the journal.
async fn rebuilt(store: &Store, directory: &TempDir) -> String {
    store.settle_down().await;
    let rebuilt = tempfile::tempdir().unwrap();
    copy(&directory.path().join("journal"), &rebuilt.path().join("journal"));
    picture(&open(&rebuilt))
}
