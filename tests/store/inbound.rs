//! Mail from outside: what stays of it, and what a rebuild makes of that.

use super::upkeep::{DAY, WEEK, at_time, keep_up, starting};
use super::*;
use mailtrail_trail::{Arrival, Fate, InboundMail, Leg, Move};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_stays_and_what_went_does_not_come_up_again() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    for number in 0..40 {
        store.take_in(arrival(number), message(number)).await.unwrap();
        let target = "odoo".to_owned();
        let fate = match number % 4 {
            0 => Fate::Delivered { target, words: "record 1".into() },
            1 => Fate::Dead { target, why: "no".into() },
            2 => Fate::Deferred { target, why: "busy".into(), due: at(60) },
            _ => continue,
        };
        store.move_inbound(Move { id: id(number), at: at(50), fate }).await.unwrap();
    }
    let store = anew(store, directory.path(), time);
    assert_eq!((stand(&store, Leg::Delivered).len(), stand(&store, Leg::Dead).len()), (10, 10));
    let [first, last] = [at(55), at(60)].map(|now| store.next_inbound(now, |_| true).unwrap().unwrap());
    assert_eq!((first.arrival.id, first.attempts), (id(3), 0));
    assert_eq!((last.arrival.id, last.attempts, &*last.words), (id(2), 1, "busy"));

    // The messages of what was delivered go first.
    time.set(at(2 * DAY));
    keep_up(&store, at(2 * DAY), &WEEK).await;
    let whole = |store: &Store, number| store.inbound_whole(id(number)).unwrap();
    assert_eq!(whole(&store, 0), None);
    for number in [1, 2, 3] {
        assert_eq!(whole(&store, number).as_deref(), Some(&*message(number)), "{number}");
    }

    // A dead letter that is delivered after all waits like any other.
    let fate = Fate::Released { operator: "test".into(), reason: String::new() };
    store.move_inbound(Move { id: id(1), at: at(2 * DAY), fate }).await.unwrap();
    for day in [10, 20, 30] {
        time.set(at(day * DAY));
        keep_up(&store, at(day * DAY), &WEEK).await;
    }
    let store = anew(store, directory.path(), time);
    let waiting = stand(&store, Leg::Waiting);
    assert_eq!((waiting.len(), stand(&store, Leg::Delivered).len()), (21, 0));
    assert!(waiting.iter().all(|mail| store.inbound_whole(mail.arrival.id).unwrap().is_some()));
    assert_eq!(store.inbound_mail(id(1)).unwrap().unwrap().since, at(2 * DAY));
    for mail in waiting {
        let fate = Fate::Delivered { target: "odoo".into(), words: String::new() };
        store.move_inbound(Move { id: mail.arrival.id, at: at(30 * DAY), fate }).await.unwrap();
    }
    for day in [40, 50, 130, 140] {
        time.set(at(day * DAY));
        keep_up(&store, at(day * DAY), &WEEK).await;
        assert_eq!(stand(&store, Leg::Waiting), [], "on day {day}");
    }
    let store = anew(store, directory.path(), time);
    keep_up(&store, at(140 * DAY), &WEEK).await;
    assert_eq!(store.inbound(99, |_| true).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_a_name_are_good_for_one_mail() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    let token = |digest| Some(("token".to_owned(), at(0), [digest; 16]));
    for (number, digest, name) in [(1, 1, "a@b"), (2, 2, "c@d"), (3, 1, "e@f"), (4, 1, "a@b")] {
        let message_id = MessageId::parse(name);
        let arrival = Arrival { token: token(digest), message_id, ..arrival(number) };
        store.take_in(arrival, message(number)).await.unwrap();
    }
    let held = Arrival { held: Some("a circle".into()), message_id: MessageId::parse("g@h"), ..arrival(5) };
    store.take_in(held, message(5)).await.unwrap();
    store.take_in(Arrival { message_id: MessageId::parse("g@h"), ..arrival(6) }, message(6)).await.unwrap();
    let legs: Vec<_> =
        store.inbound(9, |_| true).unwrap().iter().rev().map(|m| (m.arrival.id, m.leg)).collect();
    let expected =
        [(1, Leg::Waiting), (3, Leg::Waiting), (4, Leg::Duplicate), (5, Leg::Dead), (6, Leg::Waiting)];
    assert_eq!(legs, expected.map(|(number, leg)| (id(number), leg)));
    assert_eq!(store.token("mailgun", "token", at(0)).unwrap().as_deref(), Some(&[1; 16][..]));
}

/// The same store with a ledger that is made of its journal.
fn anew(store: Store, data_dir: &Path, time: &'static mailtrail_mail::Moment) -> Store {
    drop(store);
    closed(data_dir);
    std::fs::remove_dir_all(data_dir.join("ledger")).unwrap();
    at_time(data_dir, time)
}

fn stand(store: &Store, leg: Leg) -> Vec<InboundMail> {
    store.inbound(99, |mail| mail.leg == leg).unwrap()
}

fn arrival(number: u64) -> Arrival {
    Arrival {
        id: id(number),
        upstream: "mailgun".into(),
        token: None,
        sender: "ada@example.net".parse().ok(),
        recipient: "info@example.com".parse().unwrap(),
        message_id: None,
        subject: "hello".into(),
        size: message(number).len() as u64,
        window: Duration::from_secs(60),
        held: None,
        missing_files: 0,
    }
}

fn message(number: u64) -> Bytes {
    format!("Subject: hello\r\n\r\n{}", format!("{number}\r\n").repeat(4000)).into()
}
