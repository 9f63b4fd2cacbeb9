//! Events find their sends in whatever order they come, over a real store: any permutation of events, each any number
//! of times, anywhere between the acceptances and the outcomes of the sends, ends in the same.

use super::seeds;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::{BoxFuture, join_all};
use mailtrail_mail::{Clock, MessageId, Timestamp, TrackingId};
use mailtrail_store::{CommitError, Content, Stand, Store};
use mailtrail_trail::{
    Accepted, Begun, Event, Kind, Notice, Outcome, Recipient, Send, Settled, Standing, Trail, Via, What,
    Words,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

#[tokio::test]
async fn events_in_any_order_end_in_the_same() {
    let families: Vec<_> = (0..seeds() / 8).map(Family::new).collect();
    let mut random = Rng::with_seed(seeds());
    let expected = {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        apply(&store, families.iter().flat_map(Family::in_order).collect()).await;
        picture(&store, &families)
    };
    let joined = expected.values().map(|picture| picture.joined).sum::<usize>();
    assert!(joined > families.len() && expected.values().any(|picture| !picture.orphans.is_empty()));
    for _ in 0..ORDERS {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let shuffled = families.iter().map(|family| family.shuffled(&mut random)).collect();
        apply(&store, interleaved(shuffled, &mut random)).await;
        compare(&picture(&store, &families), &expected, "as they came");
        store.settle_down().await;
        let copy = tempfile::tempdir().unwrap();
        copy_journal(directory.path(), copy.path());
        compare(&picture(&open(copy.path()), &families), &expected, "built anew");
    }
}

/// Where one Message-ID went to one recipient more than once, the event's time says which mail is meant.
#[tokio::test]
async fn the_newest_mail_that_was_there_is_meant() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let message_id = MessageId::parse("<twice@example.com>");
    let seconds = [300, 360, 2200];
    let sends = seconds.map(|at| TrackingId::new(Timestamp::from_seconds(at), 7));
    let steps = sends.map(|id| {
        let send = Send { message_id: message_id.clone(), ..Send::new(id, "odoo") };
        Step::Accept(Accepted { send, recipients: vec!["ada@example.net".parse().unwrap()] })
    });
    apply(&store, steps.into()).await;
    // The clocks are not one, and some providers write whole seconds.
    for (at, meant) in
        [(0, 0), (299_000, 0), (359_000, 0), (359_500, 1), (361_000, 1), (2_199_000, 1), (9_999_000, 2)]
    {
        let event = Event { message_id: message_id.clone(), ..event(Kind::Opened, at, "ADA@example.net") };
        assert_eq!(store.find(&event).unwrap(), Some(sends[meant]), "{at}");
    }
    let stranger = Event { message_id, ..event(Kind::Opened, 361_000, "bob@example.net") };
    assert_eq!(store.find(&stranger).unwrap(), None);
}

/// Some sends that share their Message-ID, their attempts, and events about them and about others.
struct Family {
    number: u64,
    /// In the order of their acceptance, each with what follows it.
    sends: Vec<(Accepted, Vec<Step>)>,
    events: Vec<Notice>,
}

/// One record of the journal.
#[derive(Clone)]
enum Step {
    Accept(Accepted),
    Begin(Begun),
    Settle(Outcome),
    Report(Notice),
}

impl Family {
    fn new(number: u64) -> Self {
        let random = &mut Rng::with_seed(number);
        let mut at = START + number;
        let mut sends = Vec::new();
        for sibling in 0..random.u128(1..4) {
            at += random.choice([1, 700, 5_000, 60_000, 400_000, 90_000_000]).unwrap();
            let id = TrackingId::new(Timestamp::from_millis(at), u128::from(number) << 8 | sibling);
            let name = match random.u8(..8) {
                0 => None,
                1 => Some(format!("<other{number}@example.com>")),
                _ => Some(format!("<{number}@example.com>")),
            };
            let message_id = name.and_then(|name| MessageId::parse(&name));
            let send = Send { message_id, ..Send::new(id, "odoo") };
            let mut people: Vec<_> = (0..5).collect();
            random.shuffle(&mut people);
            let people = people.into_iter().take(random.usize(1..4));
            let recipients = people.map(|one| address(number, one).parse().unwrap()).collect();
            let accepted = Accepted { send, recipients };
            let attempts = attempts(&accepted, random);
            sends.push((accepted, attempts));
        }
        let mut family = Self { number, sends, events: Vec::new() };
        family.events = (0..random.u64(..14)).map(|place| family.event(place, random)).collect();
        family
    }

    /// Something that happened, or did not, to somebody.
    fn event(&self, place: u64, random: &mut Rng) -> Notice {
        let (about, _) = random.choice(&self.sends).unwrap();
        let (send, number) = (&about.send, self.number);
        let at = send.id.timestamp().millis() + random.choice([0, 900, 30_000, 100_000_000]).unwrap();
        let at = at - random.choice([0, 0, 500, 10_000, 299_000]).unwrap();
        let whom = match random.u8(..12) {
            0 => None,
            1 => Some("redacted".to_owned()),
            2 => Some(format!("stranger{number}@example.org")),
            3 => Some(address(number, random.u8(..5)).to_uppercase()),
            4 => Some(address(number, random.u8(..5))),
            _ => random.choice(&about.recipients).map(ToString::to_string),
        };
        let (tracking, message_id) = match random.u8(..9) {
            0 => (None, None),
            1 => (Some(TrackingId::new(Timestamp::from_millis(at), u128::MAX)), send.message_id.clone()),
            2 => (None, MessageId::parse("<foreign@elsewhere.test>")),
            3 => (Some(send.id), None),
            4 => (Some(send.id), MessageId::parse("<made-by-the-provider@elsewhere.test>")),
            5 => (Some(send.id), send.message_id.clone()),
            _ => (None, send.message_id.clone()),
        };
        let kind = *random.choice(&Kind::ALL).unwrap();
        let text = random.bool().then(|| format!("{place} {}", "long words ".repeat(random.usize(..80))));
        let event = Event {
            identity: format!("{number}/{place}"),
            recipient: whom,
            tracking,
            message_id,
            by_machine: matches!(kind, Kind::Opened | Kind::Clicked) && random.bool(),
            words: Words { name: kind.word().to_owned(), text, ..Words::default() },
            ..event(kind, at, "")
        };
        let via = if random.bool() { Via::Webhook } else { Via::Poll };
        Notice { upstream: "mailgun".into(), at: Timestamp::from_millis(at), via, token: None, event }
    }

    /// First what we did, then what was reported, in the order in which it happened.
    fn in_order(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (accepted, attempts) in &self.sends {
            steps.push(Step::Accept(accepted.clone()));
            steps.extend(attempts.iter().cloned());
        }
        let mut events = self.events.clone();
        events.sort_by_key(|notice| notice.event.at);
        steps.extend(events.into_iter().map(Step::Report));
        steps
    }

    /// Events anywhere and more than once; what we did in its order.
    fn shuffled(&self, random: &mut Rng) -> Vec<Step> {
        // A second send may be accepted while the attempts of the first go on.
        let mut steps = Vec::new();
        for (accepted, attempts) in &self.sends {
            let from =
                steps.iter().rposition(|step| matches!(step, Step::Accept(_))).map_or(0, |last| last + 1);
            let place = random.usize(from..=steps.len());
            steps.insert(place, Step::Accept(accepted.clone()));
            let mut place = place;
            for attempt in attempts {
                place = random.usize(place + 1..=steps.len());
                steps.insert(place, attempt.clone());
            }
        }
        let mut events: Vec<_> = self.events.iter().collect();
        random.shuffle(&mut events);
        for notice in events {
            let known = self.must_know(&notice.event);
            let is_last =
                |step: &Step| matches!(step, Step::Accept(accepted) if Some(accepted.send.id) == known);
            for _ in 0..random.usize(1..4) {
                let from = steps.iter().position(is_last).map_or(0, |last| last + 1);
                let late = Duration::from_millis(random.u64(..100_000));
                let notice = Notice { at: notice.at.after(late), ..notice.clone() };
                steps.insert(random.usize(from..=steps.len()), Step::Report(notice));
            }
        }
        steps
    }

    /// The send that has to be accepted before an event is applied, if one has: where several may be meant by a
    /// Message-ID, those that were there when it happened have to be known.
    fn must_know(&self, event: &Event) -> Option<TrackingId> {
        let is_meant = |accepted: &&Accepted| {
            let whom = event.recipient.as_ref().filter(|whom| whom.contains('@'));
            accepted.send.message_id == event.message_id
                && accepted.send.id.timestamp() < event.at.after(Duration::from_secs(1))
                && whom.is_none_or(|whom| {
                    accepted.recipients.iter().any(|address| address.folded() == whom.to_lowercase())
                })
        };
        let nameless = event.tracking.is_some() || event.message_id.is_none();
        let meant: Vec<_> = self.sends.iter().map(|(accepted, _)| accepted).filter(is_meant).collect();
        meant.last().filter(|_| !nameless && meant.len() > 1).map(|accepted| accepted.send.id)
    }
}

/// Attempts one after the other, until nobody waits or the story ends.
fn attempts(accepted: &Accepted, random: &mut Rng) -> Vec<Step> {
    let id = accepted.send.id;
    let (mut steps, mut at) = (Vec::new(), id.timestamp());
    let mut open: Vec<u16> = (0u16..).take(accepted.recipients.len()).collect();
    for _ in 0..random.usize(..4) {
        if open.is_empty() {
            break;
        }
        at = at.after(Duration::from_millis(random.u64(1..600_000)));
        let mut settled = BTreeMap::<usize, Vec<u16>>::new();
        open.iter()
            .for_each(|&place| settled.entry(random.usize(..STANDINGS.len())).or_default().push(place));
        open.retain(|place| settled.iter().any(|(standing, places)| *standing < 3 && places.contains(place)));
        let settled = settled.into_iter().map(|(standing, recipients)| Settled {
            recipients,
            standing: STANDINGS[standing],
            words: Words {
                name: ["RCPT", "end of data"][standing % 2].to_owned(),
                text: Some(format!("at {at}")),
                ..Words::default()
            },
        });
        let due = (!open.is_empty()).then(|| at.after(Duration::from_secs(30)));
        steps.push(Step::Begin(Begun { id, at, upstream: "mailgun".into() }));
        steps.push(Step::Settle(Outcome {
            id,
            at,
            upstream: "mailgun".into(),
            settled: settled.collect(),
            due,
        }));
    }
    steps
}

/// The steps of all families in turn, each family's in its order.
fn interleaved(families: Vec<Vec<Step>>, random: &mut Rng) -> Vec<Step> {
    let mut turns: Vec<_> = families
        .iter()
        .enumerate()
        .flat_map(|(family, steps)| std::iter::repeat_n(family, steps.len()))
        .collect();
    random.shuffle(&mut turns);
    let mut families: Vec<_> = families.into_iter().map(Vec::into_iter).collect();
    turns.into_iter().filter_map(|family| families[family].next()).collect()
}

/// What became of a family.
#[derive(Debug, PartialEq)]
struct Picture {
    sends: Vec<(Vec<Recipient>, Vec<String>, String)>,
    orphans: Vec<String>,
    joined: usize,
}

fn picture(store: &Store, families: &[Family]) -> BTreeMap<u64, Picture> {
    let orphans = store.orphans(usize::MAX, |_| true).unwrap();
    let mut waiting = BTreeMap::<u64, Vec<String>>::new();
    for orphan in &orphans {
        let Content::Event(event) = &orphan.content else { unreachable!("an orphan is an event") };
        assert_eq!(store.find(event).unwrap(), None, "{} has a send", event.identity);
        assert_eq!(store.stand(orphan).unwrap(), Stand::Orphan);
        let (family, _) = event.identity.split_once('/').unwrap();
        waiting.entry(family.parse().unwrap()).or_default().push(event.identity.clone());
    }
    let open = store.queued(usize::MAX).unwrap();
    let one = |family: &Family| {
        let trails = family.sends.iter().map(|(accepted, _)| store.trail(accepted.send.id).unwrap().unwrap());
        let trails: Vec<_> = trails.collect();
        let joined = trails.iter().map(reported).sum();
        let mut orphans = waiting.remove(&family.number).unwrap_or_default();
        orphans.sort();
        assert_eq!(joined + orphans.len(), family.events.len(), "family {}", family.number);
        let sends = trails.iter().map(|trail| look(trail, open.contains(&trail.send.id))).collect();
        (family.number, Picture { sends, orphans, joined })
    };
    families.iter().map(one).collect()
}

/// What a trail says, but for reports to the sender: one that was made is not taken back by what is learnt later.
fn look(trail: &Trail, is_queued: bool) -> (Vec<Recipient>, Vec<String>, String) {
    for (place, recipient) in (0u16..).zip(&trail.recipients) {
        let marks = recipient.marks.iter().map(|(_, mark)| mark.count as usize).sum::<usize>();
        let facts = trail.facts.iter().filter(|fact| matches!(fact.what, What::Reported(_)));
        assert_eq!(marks, facts.filter(|fact| fact.recipients.contains(&place)).count());
    }
    let recipients = trail.recipients.iter().map(|one| Recipient { told: None, ..one.clone() }).collect();
    let mut facts: Vec<_> = trail.facts.iter().map(|fact| format!("{fact:?}")).collect();
    facts.sort();
    let Trail { attempts, due, waits, sending, .. } = trail;
    (recipients, facts, format!("{attempts} {due:?} {waits:?} {sending} {is_queued}"))
}

fn reported(trail: &Trail) -> usize {
    trail.facts.iter().filter(|fact| matches!(fact.what, What::Reported(_))).count()
}

fn compare(found: &BTreeMap<u64, Picture>, expected: &BTreeMap<u64, Picture>, what: &str) {
    for (number, expected) in expected {
        assert_eq!(&found[number], expected, "family {number}, {what}");
    }
}

/// Commits the steps in their order, many with one sync.
async fn apply(store: &Store, steps: Vec<Step>) {
    for some in steps.chunks(64) {
        let commits = some.iter().map(|step| -> BoxFuture<'_, Result<(), CommitError>> {
            match step.clone() {
                Step::Accept(accepted) => Box::pin(store.accept(accepted, Bytes::new())),
                Step::Begin(begun) => Box::pin(store.begin(begun)),
                Step::Settle(outcome) => Box::pin(store.settle(outcome)),
                Step::Report(notice) => Box::pin(store.report(notice, Bytes::new())),
            }
        });
        join_all(commits).await.into_iter().collect::<Result<(), _>>().unwrap();
    }
    store.settle_down().await;
}

fn event(kind: Kind, at: u64, recipient: &str) -> Event {
    Event {
        kind,
        at: Timestamp::from_millis(at),
        identity: String::new(),
        recipient: Some(recipient.to_owned()),
        tracking: None,
        message_id: None,
        by_machine: false,
        test_mode: false,
        words: Words::default(),
    }
}

fn address(family: u64, one: u8) -> String {
    format!("Person{one}@family{family}.example")
}

fn open(directory: &Path) -> Store {
    Store::open(directory, Clock::System).unwrap().0
}

fn copy_journal(from: &Path, to: &Path) {
    let (from, to) = (from.join("journal"), to.join("journal"));
    std::fs::create_dir(&to).unwrap();
    for segment in std::fs::read_dir(from).unwrap() {
        let segment = segment.unwrap();
        std::fs::copy(segment.path(), to.join(segment.file_name())).unwrap();
    }
}

const START: u64 = 1_789_387_200_000;
/// Orders that are tried.
const ORDERS: usize = 3;
/// After the first three a recipient waits on; after the second its message was sent whole, as its words say.
const STANDINGS: [Standing; 7] = [
    Standing::Queued,
    Standing::Queued,
    Standing::Unknown,
    Standing::Relayed,
    Standing::Bounced,
    Standing::Failed,
    Standing::Expired,
];
