//! Sends that follow from their numbers, so that every process of a measurement knows them.

use bytes::Bytes;
use mailtrail_mail::{BodyType, MessageId, Record, Timestamp, TrackingId};
use mailtrail_store::{CommitError, Store};
use mailtrail_trail::{Accepted, Begun, Event, Kind, Notice, Outcome, Send, Settled, Standing, Via, Words};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Sends at even distances.
#[derive(Clone, Copy)]
pub struct Traffic {
    start: Timestamp,
    every: Duration,
}

impl Traffic {
    /// `sends` of them in `span`, from [`START`] on, and so on behind it.
    pub fn new(sends: u64, span: Duration) -> Self {
        let every = Duration::from_micros(span.as_micros() as u64 / sends.max(1));
        Self { start: Timestamp::from_seconds(START), every }
    }

    /// When a send is accepted.
    pub fn at(self, number: u64) -> Timestamp {
        self.start.after(Duration::from_micros(self.every.as_micros() as u64 * number))
    }

    pub fn id(self, number: u64) -> TrackingId {
        TrackingId::new(self.at(number), fastrand::Rng::with_seed(number).u128(..))
    }

    pub fn message_id(self, number: u64) -> Option<MessageId> {
        let seconds = self.at(number).seconds();
        let order = order(number);
        MessageId::parse(&format!("<{number:015}.{seconds}.1-openerp-{order}-sale.order@odoo.example.com>"))
    }

    /// Keeps some sends with everything that becomes of them, except for those that [`stay`]; many at once.
    pub async fn live(self, store: &Store, numbers: Range<u64>) -> io::Result<()> {
        let message = message();
        let one = move |store: Store, number| {
            let message = message.clone();
            async move {
                store.accept(self.accepted(number), message).await?;
                if stay(number) { Ok(()) } else { self.finish(&store, number).await }
            }
        };
        for_each(store, numbers, one).await
    }

    /// Sends what had stayed of these.
    pub async fn finish_late(self, store: &Store, numbers: Range<u64>) -> io::Result<()> {
        for_each(store, numbers, move |store: Store, number| async move {
            if stay(number) { self.finish(&store, number).await } else { Ok(()) }
        })
        .await
    }

    async fn finish(self, store: &Store, number: u64) -> Result<(), CommitError> {
        let (id, at, upstream) = (self.id(number), self.at(number), UPSTREAM.to_owned());
        store.begin(Begun { id, at, upstream }).await?;
        store.settle(self.outcome(number)).await?;
        store.report(self.notice(number), Bytes::from_static(PAYLOAD)).await
    }

    pub fn accepted(self, number: u64) -> Accepted {
        let send = Send {
            user: Some("odoo".into()),
            peer: "127.0.0.1".parse().ok(),
            sender: "bounces@example.com".parse().ok(),
            body: BodyType::EightBitMime,
            message_id: self.message_id(number),
            subject: format!("Quotation S{number:08} (Zażółć)"),
            records: record(number).into_iter().collect(),
            tags: vec!["sale".into()],
            size: MESSAGE as u64,
            ..Send::new(self.id(number), "odoo-prod")
        };
        Accepted { send, recipients: recipient(number).parse().into_iter().collect() }
    }

    fn outcome(self, number: u64) -> Outcome {
        let words = Words {
            name: "DATA".into(),
            code: Some(250),
            text: Some("Great success".into()),
            host: Some("smtp.mailgun.org".into()),
            ..Words::default()
        };
        let settled = Settled { recipients: vec![0], standing: Standing::Relayed, words };
        let (id, at, upstream) = (self.id(number), self.at(number).after(SECOND), UPSTREAM.to_owned());
        Outcome { id, at, upstream, settled: vec![settled], due: None }
    }

    fn notice(self, number: u64) -> Notice {
        let at = self.at(number).after(3 * SECOND);
        let event = Event {
            kind: Kind::Delivered,
            at,
            identity: format!("mailgun/mg.example.com/{}/{number:022}", at.day()),
            recipient: Some(recipient(number)),
            tracking: Some(self.id(number)),
            message_id: self.message_id(number),
            by_machine: false,
            test_mode: false,
            words: Words {
                name: "delivered".into(),
                code: Some(250),
                text: Some("OK".into()),
                host: Some("mx1.example.net".into()),
                ..Words::default()
            },
        };
        let token = Some((format!("{number:050x}"), at, number_digest(number)));
        Notice { upstream: UPSTREAM.into(), at, via: Via::Webhook, token, event }
    }
}

/// Whether a send stays in the queue.
pub fn stay(number: u64) -> bool {
    number % 10 == 9
}

/// One address in a hundred sends is among a few that get many.
pub fn recipient(number: u64) -> String {
    match number % 100 {
        50 => format!("often{}@example.net", number / 100 % OFTEN),
        _ => format!("Customer{}@example.net", number % CUSTOMERS),
    }
}

/// Two sends are about the same order.
pub fn record(number: u64) -> Option<Record> {
    Record::parse(&format!("sale.order,{}", order(number)))
}

fn order(number: u64) -> u64 {
    number / 2 + 1
}

fn number_digest(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

/// A message of [`MESSAGE`] bytes.
pub fn message() -> Bytes {
    let line = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +-=/ 42.\r\n";
    line.iter().copied().cycle().take(MESSAGE).collect::<Vec<_>>().into()
}

async fn for_each<F>(
    store: &Store,
    numbers: Range<u64>,
    work: impl Fn(Store, u64) -> F + Clone + std::marker::Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = Result<(), CommitError>> + std::marker::Send,
{
    let (next, mut writers) = (Arc::new(AtomicU64::new(numbers.start)), JoinSet::new());
    for _ in 0..WRITERS {
        let (store, work, next) = (store.clone(), work.clone(), next.clone());
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return Ok::<_, CommitError>(());
                }
                work(store.clone(), number).await?;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended?.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Bytes of a message, as the calibration appends.
pub const MESSAGE: usize = 4096;
/// Recipients that get many sends: a thousand each of a million.
pub const OFTEN: u64 = 10;
/// The others.
const CUSTOMERS: u64 = 50_000;
/// 2026-09-14T12:00:00Z.
const START: u64 = 1_789_387_200;
const SECOND: Duration = Duration::from_secs(1);
const UPSTREAM: &str = "mailgun";
/// Sends under way at once.
const WRITERS: usize = 512;
/// The raw form of a report.
const PAYLOAD: &[u8] = include_bytes!("../../tests/fixtures/mailgun/webhook_delivered.json");
