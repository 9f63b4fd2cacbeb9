//! Correlation of events over a real store does not depend on order: any permutation of events, with repetitions,
//! between any acceptances and outcomes, ends in one state.

use super::seed_count;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::{BoxFuture, join_all};
use mailtrail_mail::{Clock, MessageId, Timestamp, TrackingId};
use mailtrail_store::{CommitError, EventContent, EventState, Store};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, AttemptStatus, Diagnostic, EventKind, EventSource,
    Message, ProviderEvent, ReceivedEvent, Recipient, RecipientResult, Trail, TrailEventKind,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

#[tokio::test]
async fn event_order_does_not_change_the_result() {
    let families: Vec<_> = (0..seed_count() / 8).map(MessageFamily::new).collect();
    let mut random = Rng::with_seed(seed_count());
    let expected = {
        let directory = tempfile::tempdir().unwrap();
        let store = open_store(directory.path());
        apply_steps(&store, families.iter().flat_map(MessageFamily::steps_in_order).collect()).await;
        family_states(&store, &families)
    };
    let joined = expected.values().map(|picture| picture.correlated).sum::<usize>();
    assert!(joined > families.len() && expected.values().any(|picture| !picture.orphans.is_empty()));
    for _ in 0..TRIED_ORDERS {
        let directory = tempfile::tempdir().unwrap();
        let store = open_store(directory.path());
        let shuffled = families.iter().map(|family| family.steps_shuffled(&mut random)).collect();
        apply_steps(&store, interleave_families(shuffled, &mut random)).await;
        assert_same_states(&family_states(&store, &families), &expected, "as they came");
        store.checkpoint().await;
        let copy = tempfile::tempdir().unwrap();
        copy_journal(directory.path(), copy.path());
        assert_same_states(&family_states(&open_store(copy.path()), &families), &expected, "built anew");
    }
}

/// If one Message-ID was sent to one recipient more than once, the event's time selects the message.
#[tokio::test]
async fn event_time_selects_message_with_same_message_id() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(directory.path());
    let message_id = MessageId::parse("<twice@example.com>");
    let seconds = [300, 360, 2200];
    let sends = seconds.map(|at| TrackingId::new(Timestamp::from_secs(at), 7));
    let steps = sends.map(|id| {
        let message = Message { message_id: message_id.clone(), ..Message::new(id, "odoo") };
        JournalStep::Accept(AcceptedMessage { message, recipients: vec!["ada@example.net".parse().unwrap()] })
    });
    apply_steps(&store, steps.into()).await;
    // The clocks are not one, and some providers write whole seconds.
    for (at, meant) in
        [(0, 0), (299_000, 0), (359_000, 0), (359_500, 1), (361_000, 1), (2_199_000, 1), (9_999_000, 2)]
    {
        let event = ProviderEvent {
            message_id: message_id.clone(),
            ..sample_event(EventKind::Opened, at, "ADA@example.net")
        };
        assert_eq!(store.correlate(&event).unwrap(), Some(sends[meant]), "{at}");
    }
    let foreign_client =
        ProviderEvent { message_id, ..sample_event(EventKind::Opened, 361_000, "bob@example.net") };
    assert_eq!(store.correlate(&foreign_client).unwrap(), None);
}

/// Some sends that share their Message-ID, their attempts, and events about them and about others.
struct MessageFamily {
    number: u64,
    /// In the order of their acceptance, each with what follows it.
    messages: Vec<(AcceptedMessage, Vec<JournalStep>)>,
    events: Vec<ReceivedEvent>,
}

/// One record of the journal.
#[derive(Clone)]
enum JournalStep {
    Accept(AcceptedMessage),
    AttemptStart(AttemptStarted),
    Outcome(AttemptOutcome),
    Event(ReceivedEvent),
}

impl MessageFamily {
    fn new(number: u64) -> Self {
        let random = &mut Rng::with_seed(number);
        let mut at = START_MILLIS + number;
        let mut messages = Vec::new();
        for sibling in 0..random.u128(1..4) {
            at += random.choice([1, 700, 5_000, 60_000, 400_000, 90_000_000]).unwrap();
            let id = TrackingId::new(Timestamp::from_millis(at), u128::from(number) << 8 | sibling);
            let name = match random.u8(..8) {
                0 => None,
                1 => Some(format!("<other{number}@example.com>")),
                _ => Some(format!("<{number}@example.com>")),
            };
            let message_id = name.and_then(|name| MessageId::parse(&name));
            let message = Message { message_id, ..Message::new(id, "odoo") };
            let mut people: Vec<_> = (0..5).collect();
            random.shuffle(&mut people);
            let people = people.into_iter().take(random.usize(1..4));
            let recipients = people.map(|one| sample_address(number, one).parse().unwrap()).collect();
            let accepted = AcceptedMessage { message, recipients };
            let attempts = attempt_steps(&accepted, random);
            messages.push((accepted, attempts));
        }
        let mut family = Self { number, messages, events: Vec::new() };
        family.events = (0..random.u64(..14)).map(|place| family.random_event(place, random)).collect();
        family
    }

    /// Returns a random event, for one of our messages or for none.
    fn random_event(&self, place: u64, random: &mut Rng) -> ReceivedEvent {
        let (about, _) = random.choice(&self.messages).unwrap();
        let (send, number) = (&about.message, self.number);
        let at = send.id.timestamp().as_millis() + random.choice([0, 900, 30_000, 100_000_000]).unwrap();
        let at = at - random.choice([0, 0, 500, 10_000, 299_000]).unwrap();
        let whom = match random.u8(..12) {
            0 => None,
            1 => Some("redacted".to_owned()),
            2 => Some(format!("stranger{number}@example.org")),
            3 => Some(sample_address(number, random.u8(..5)).to_uppercase()),
            4 => Some(sample_address(number, random.u8(..5))),
            _ => random.choice(&about.recipients).map(ToString::to_string),
        };
        let (tracking_id, message_id) = match random.u8(..9) {
            0 => (None, None),
            1 => (Some(TrackingId::new(Timestamp::from_millis(at), u128::MAX)), send.message_id.clone()),
            2 => (None, MessageId::parse("<foreign@elsewhere.test>")),
            3 => (Some(send.id), None),
            4 => (Some(send.id), MessageId::parse("<made-by-the-provider@elsewhere.test>")),
            5 => (Some(send.id), send.message_id.clone()),
            _ => (None, send.message_id.clone()),
        };
        let kind = *random.choice(&EventKind::ALL).unwrap();
        let text = random.bool().then(|| format!("{place} {}", "long words ".repeat(random.usize(..80))));
        let event = ProviderEvent {
            dedup_key: format!("{number}/{place}"),
            recipient: whom,
            tracking_id,
            message_id,
            automated: matches!(kind, EventKind::Opened | EventKind::Clicked) && random.bool(),
            diagnostic: Diagnostic { name: kind.as_str().to_owned(), text, ..Diagnostic::default() },
            ..sample_event(kind, at, "")
        };
        let source = if random.bool() { EventSource::Webhook } else { EventSource::Poll };
        ReceivedEvent {
            upstream: "mailgun".into(),
            received_at: Timestamp::from_millis(at),
            source,
            token: None,
            event,
        }
    }

    /// Returns our records first, then the events by time.
    fn steps_in_order(&self) -> Vec<JournalStep> {
        let mut steps = Vec::new();
        for (accepted, attempts) in &self.messages {
            steps.push(JournalStep::Accept(accepted.clone()));
            steps.extend(attempts.iter().cloned());
        }
        let mut events = self.events.clone();
        events.sort_by_key(|notice| notice.event.at);
        steps.extend(events.into_iter().map(JournalStep::Event));
        steps
    }

    /// Events anywhere and more than once; what we did in its order.
    fn steps_shuffled(&self, random: &mut Rng) -> Vec<JournalStep> {
        // A second send may be accepted while the attempts of the first go on.
        let mut steps = Vec::new();
        for (accepted, attempts) in &self.messages {
            let from = steps
                .iter()
                .rposition(|step| matches!(step, JournalStep::Accept(_)))
                .map_or(0, |last| last + 1);
            let place = random.usize(from..=steps.len());
            steps.insert(place, JournalStep::Accept(accepted.clone()));
            let mut place = place;
            for attempt in attempts {
                place = random.usize(place + 1..=steps.len());
                steps.insert(place, attempt.clone());
            }
        }
        let mut events: Vec<_> = self.events.iter().collect();
        random.shuffle(&mut events);
        for notice in events {
            let known = self.required_message(&notice.event);
            let is_last = |step: &JournalStep| matches!(step, JournalStep::Accept(accepted) if Some(accepted.message.id) == known);
            for _ in 0..random.usize(1..4) {
                let from = steps.iter().position(is_last).map_or(0, |last| last + 1);
                let late = Duration::from_millis(random.u64(..100_000));
                let notice =
                    ReceivedEvent { received_at: notice.received_at.saturating_add(late), ..notice.clone() };
                steps.insert(random.usize(from..=steps.len()), JournalStep::Event(notice));
            }
        }
        steps
    }

    /// The send that has to be accepted before an event is applied, if one has: where several may be meant by a
    /// Message-ID, those that were there when it happened have to be known.
    fn required_message(&self, event: &ProviderEvent) -> Option<TrackingId> {
        let is_meant = |accepted: &&AcceptedMessage| {
            let whom = event.recipient.as_ref().filter(|whom| whom.contains('@'));
            accepted.message.message_id == event.message_id
                && accepted.message.id.timestamp() < event.at.saturating_add(Duration::from_secs(1))
                && whom.is_none_or(|whom| {
                    accepted.recipients.iter().any(|address| address.to_folded() == whom.to_lowercase())
                })
        };
        let nameless = event.tracking_id.is_some() || event.message_id.is_none();
        let meant: Vec<_> = self.messages.iter().map(|(accepted, _)| accepted).filter(is_meant).collect();
        meant.last().filter(|_| !nameless && meant.len() > 1).map(|accepted| accepted.message.id)
    }
}

/// Returns successive attempts until no recipient is pending or the sequence ends.
fn attempt_steps(accepted: &AcceptedMessage, random: &mut Rng) -> Vec<JournalStep> {
    let id = accepted.message.id;
    let (mut steps, mut at) = (Vec::new(), id.timestamp());
    let mut open: Vec<u16> = (0u16..).take(accepted.recipients.len()).collect();
    for _ in 0..random.usize(..4) {
        if open.is_empty() {
            break;
        }
        at = at.saturating_add(Duration::from_millis(random.u64(1..600_000)));
        let mut settled = BTreeMap::<usize, Vec<u16>>::new();
        open.iter().for_each(|&place| {
            settled.entry(random.usize(..ATTEMPT_STATUSES.len())).or_default().push(place)
        });
        open.retain(|place| settled.iter().any(|(standing, places)| *standing < 3 && places.contains(place)));
        let settled = settled.into_iter().map(|(standing, recipients)| RecipientResult {
            recipients,
            status: ATTEMPT_STATUSES[standing],
            diagnostic: Diagnostic {
                name: ["RCPT", "end of data"][standing % 2].to_owned(),
                text: Some(format!("at {at}")),
                ..Diagnostic::default()
            },
        });
        let next_attempt = (!open.is_empty()).then(|| at.saturating_add(Duration::from_secs(30)));
        steps.push(JournalStep::AttemptStart(AttemptStarted { id, at, upstream: "mailgun".into() }));
        steps.push(JournalStep::Outcome(AttemptOutcome {
            id,
            at,
            upstream: "mailgun".into(),
            results: settled.collect(),
            next_attempt,
        }));
    }
    steps
}

/// The steps of all families in turn, each family's in its order.
fn interleave_families(families: Vec<Vec<JournalStep>>, random: &mut Rng) -> Vec<JournalStep> {
    let mut turns: Vec<_> = families
        .iter()
        .enumerate()
        .flat_map(|(family, steps)| std::iter::repeat_n(family, steps.len()))
        .collect();
    random.shuffle(&mut turns);
    let mut families: Vec<_> = families.into_iter().map(Vec::into_iter).collect();
    turns.into_iter().filter_map(|family| families[family].next()).collect()
}

/// Final state of a family.
#[derive(Debug, PartialEq)]
struct FamilyState {
    messages: Vec<(Vec<Recipient>, Vec<String>, String)>,
    orphans: Vec<String>,
    correlated: usize,
}

fn family_states(store: &Store, families: &[MessageFamily]) -> BTreeMap<u64, FamilyState> {
    let orphans = store.find_orphans(usize::MAX, |_| true).unwrap();
    let mut waiting = BTreeMap::<u64, Vec<String>>::new();
    for orphan in &orphans {
        let EventContent::Event(event) = &orphan.content else { unreachable!("an orphan is an event") };
        assert_eq!(store.correlate(event).unwrap(), None, "{} has a send", event.dedup_key);
        assert_eq!(store.event_state(orphan).unwrap(), EventState::Orphan);
        let (family, _) = event.dedup_key.split_once('/').unwrap();
        waiting.entry(family.parse().unwrap()).or_default().push(event.dedup_key.clone());
    }
    let open = store.queued_ids(usize::MAX).unwrap();
    let one = |family: &MessageFamily| {
        let trails = family
            .messages
            .iter()
            .map(|(accepted, _)| store.load_trail(accepted.message.id).unwrap().unwrap());
        let trails: Vec<_> = trails.collect();
        let correlated = trails.iter().map(count_dsns).sum();
        let mut orphans = waiting.remove(&family.number).unwrap_or_default();
        orphans.sort();
        assert_eq!(correlated + orphans.len(), family.events.len(), "family {}", family.number);
        let messages =
            trails.iter().map(|trail| summarize_trail(trail, open.contains(&trail.message.id))).collect();
        (family.number, FamilyState { messages, orphans, correlated })
    };
    families.iter().map(one).collect()
}

/// Returns the trail's state without DSNs: a sent DSN is not taken back by later events.
fn summarize_trail(trail: &Trail, is_queued: bool) -> (Vec<Recipient>, Vec<String>, String) {
    for (place, recipient) in (0u16..).zip(&trail.recipients) {
        let marks = recipient.marks.iter().map(|(_, mark)| mark.count as usize).sum::<usize>();
        let facts = trail.events.iter().filter(|fact| matches!(fact.kind, TrailEventKind::EventReceived(_)));
        assert_eq!(marks, facts.filter(|fact| fact.recipients.contains(&place)).count());
    }
    let recipients = trail.recipients.iter().map(|one| Recipient { dsn_sent: None, ..one.clone() }).collect();
    let mut facts: Vec<_> = trail.events.iter().map(|fact| format!("{fact:?}")).collect();
    facts.sort();
    let Trail { attempts, next_attempt, queue_key, is_sending, .. } = trail;
    (recipients, facts, format!("{attempts} {next_attempt:?} {queue_key:?} {is_sending} {is_queued}"))
}

fn count_dsns(trail: &Trail) -> usize {
    trail.events.iter().filter(|fact| matches!(fact.kind, TrailEventKind::EventReceived(_))).count()
}

fn assert_same_states(found: &BTreeMap<u64, FamilyState>, expected: &BTreeMap<u64, FamilyState>, what: &str) {
    for (number, expected) in expected {
        assert_eq!(&found[number], expected, "family {number}, {what}");
    }
}

/// Commits the steps in their order, many with one sync.
async fn apply_steps(store: &Store, steps: Vec<JournalStep>) {
    for some in steps.chunks(64) {
        let commits = some.iter().map(|step| -> BoxFuture<'_, Result<(), CommitError>> {
            match step.clone() {
                JournalStep::Accept(accepted) => Box::pin(store.put_message(accepted, Bytes::new())),
                JournalStep::AttemptStart(begun) => Box::pin(store.record_attempt_start(begun)),
                JournalStep::Outcome(outcome) => Box::pin(store.record_attempt_outcome(outcome)),
                JournalStep::Event(notice) => Box::pin(store.put_event(notice, Bytes::new())),
            }
        });
        join_all(commits).await.into_iter().collect::<Result<(), _>>().unwrap();
    }
    store.checkpoint().await;
}

fn sample_event(kind: EventKind, at: u64, recipient: &str) -> ProviderEvent {
    ProviderEvent {
        kind,
        at: Timestamp::from_millis(at),
        dedup_key: String::new(),
        recipient: Some(recipient.to_owned()),
        tracking_id: None,
        message_id: None,
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic::default(),
    }
}

fn sample_address(family: u64, one: u8) -> String {
    format!("Person{one}@family{family}.example")
}

fn open_store(directory: &Path) -> Store {
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

const START_MILLIS: u64 = 1_789_387_200_000;
/// Orders that are tried.
const TRIED_ORDERS: usize = 3;
/// After the first three a recipient stays pending; after the second its message was sent completely.
const ATTEMPT_STATUSES: [AttemptStatus; 7] = [
    AttemptStatus::Queued,
    AttemptStatus::Queued,
    AttemptStatus::Unknown,
    AttemptStatus::Relayed,
    AttemptStatus::Bounced,
    AttemptStatus::Failed,
    AttemptStatus::Expired,
];
