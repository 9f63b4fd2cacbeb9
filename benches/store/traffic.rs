//! Sends that follow from their numbers, so that every process of a measurement knows them.

use bytes::Bytes;
use mailtrail_mail::{BodyType, MessageId, OdooRecord, Timestamp, TrackingId};
use mailtrail_store::{CommitError, Store};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, AttemptStatus, Diagnostic, EventKind, EventSource,
    Message, ProviderEvent, ReceivedEvent, RecipientResult,
};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Sends at even distances.
#[derive(Clone, Copy)]
pub struct SyntheticTraffic {
    start: Timestamp,
    interval: Duration,
}

impl SyntheticTraffic {
    /// `sends` of them in `span`, from [`START`] on, and so on behind it.
    pub fn new(sends: u64, span: Duration) -> Self {
        let interval = Duration::from_micros(span.as_micros() as u64 / sends.max(1));
        Self { start: Timestamp::from_secs(START_SECONDS), interval }
    }

    /// When a send is accepted.
    pub fn accepted_at(self, number: u64) -> Timestamp {
        self.start.saturating_add(Duration::from_micros(self.interval.as_micros() as u64 * number))
    }

    pub fn tracking_id(self, number: u64) -> TrackingId {
        TrackingId::new(self.accepted_at(number), fastrand::Rng::with_seed(number).u128(..))
    }

    pub fn message_id(self, number: u64) -> Option<MessageId> {
        let seconds = self.accepted_at(number).as_secs();
        let order = order_of(number);
        MessageId::parse(&format!("<{number:015}.{seconds}.1-openerp-{order}-sale.order@odoo.example.com>"))
    }

    /// Keeps some sends with everything that becomes of them, except for those that [`stay`]; many at once.
    pub async fn store_lifecycles(self, store: &Store, numbers: Range<u64>) -> io::Result<()> {
        let message = sample_message();
        let one = move |store: Store, number| {
            let message = message.clone();
            async move {
                store.put_message(self.accepted_message(number), message).await?;
                if stays_queued(number) { Ok(()) } else { self.finish_message(&store, number).await }
            }
        };
        for_each_message(store, numbers, one).await
    }

    /// Sends what had stayed of these.
    pub async fn finish_queued(self, store: &Store, numbers: Range<u64>) -> io::Result<()> {
        for_each_message(store, numbers, move |store: Store, number| async move {
            if stays_queued(number) { self.finish_message(&store, number).await } else { Ok(()) }
        })
        .await
    }

    async fn finish_message(self, store: &Store, number: u64) -> Result<(), CommitError> {
        let (id, at, upstream) =
            (self.tracking_id(number), self.accepted_at(number), UPSTREAM_NAME.to_owned());
        store.record_attempt_start(AttemptStarted { id, at, upstream }).await?;
        store.record_attempt_outcome(self.attempt_outcome(number)).await?;
        store.put_event(self.received_event(number), Bytes::from_static(RAW_EVENT)).await
    }

    pub fn accepted_message(self, number: u64) -> AcceptedMessage {
        let message = Message {
            user: Some("odoo".into()),
            peer: "127.0.0.1".parse().ok(),
            sender: "bounces@example.com".parse().ok(),
            body_type: BodyType::EightBitMime,
            message_id: self.message_id(number),
            subject: format!("Quotation S{number:08} (Zażółć)"),
            odoo_records: record_of(number).into_iter().collect(),
            tags: vec!["sale".into()],
            size: MESSAGE_BYTES as u64,
            ..Message::new(self.tracking_id(number), "odoo-prod")
        };
        AcceptedMessage { message, recipients: recipient_of(number).parse().into_iter().collect() }
    }

    fn attempt_outcome(self, number: u64) -> AttemptOutcome {
        let diagnostic = Diagnostic {
            name: "DATA".into(),
            code: Some(250),
            text: Some("Great success".into()),
            host: Some("smtp.mailgun.org".into()),
            ..Diagnostic::default()
        };
        let settled = RecipientResult { recipients: vec![0], status: AttemptStatus::Relayed, diagnostic };
        let (id, at, upstream) = (
            self.tracking_id(number),
            self.accepted_at(number).saturating_add(ONE_SECOND),
            UPSTREAM_NAME.to_owned(),
        );
        AttemptOutcome { id, at, upstream, results: vec![settled], next_attempt: None }
    }

    fn received_event(self, number: u64) -> ReceivedEvent {
        let received_at = self.accepted_at(number).saturating_add(3 * ONE_SECOND);
        let event = ProviderEvent {
            kind: EventKind::Delivered,
            at: received_at,
            dedup_key: format!("mailgun/mg.example.com/{}/{number:022}", received_at.day_number()),
            recipient: Some(recipient_of(number)),
            tracking_id: Some(self.tracking_id(number)),
            message_id: self.message_id(number),
            automated: false,
            test_mode: false,
            diagnostic: Diagnostic {
                name: "delivered".into(),
                code: Some(250),
                text: Some("OK".into()),
                host: Some("mx1.example.net".into()),
                ..Diagnostic::default()
            },
        };
        let token = Some((format!("{number:050x}"), received_at, number_digest(number)));
        ReceivedEvent {
            upstream: UPSTREAM_NAME.into(),
            received_at,
            source: EventSource::Webhook,
            token,
            event,
        }
    }
}

/// Whether a send stays in the queue.
pub fn stays_queued(number: u64) -> bool {
    number % 10 == 9
}

/// One address in a hundred sends is among a few that get many.
pub fn recipient_of(number: u64) -> String {
    match number % 100 {
        50 => format!("often{}@example.net", number / 100 % FREQUENT_RECIPIENTS),
        _ => format!("Customer{}@example.net", number % OTHER_RECIPIENTS),
    }
}

/// Two sends are about the same order.
pub fn record_of(number: u64) -> Option<OdooRecord> {
    OdooRecord::parse(&format!("sale.order,{}", order_of(number)))
}

fn order_of(number: u64) -> u64 {
    number / 2 + 1
}

fn number_digest(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

/// A message of [`MESSAGE`] bytes.
pub fn sample_message() -> Bytes {
    let line = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +-=/ 42.\r\n";
    line.iter().copied().cycle().take(MESSAGE_BYTES).collect::<Vec<_>>().into()
}

async fn for_each_message<F>(
    store: &Store,
    numbers: Range<u64>,
    work: impl Fn(Store, u64) -> F + Clone + std::marker::Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = Result<(), CommitError>> + std::marker::Send,
{
    let (next, mut writers) = (Arc::new(AtomicU64::new(numbers.start)), JoinSet::new());
    for _ in 0..MAX_IN_FLIGHT {
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
pub const MESSAGE_BYTES: usize = 4096;
/// Recipients that get many sends: a thousand each of a million.
pub const FREQUENT_RECIPIENTS: u64 = 10;
/// The others.
const OTHER_RECIPIENTS: u64 = 50_000;
/// 2026-09-14T12:00:00Z.
const START_SECONDS: u64 = 1_789_387_200;
const ONE_SECOND: Duration = Duration::from_secs(1);
const UPSTREAM_NAME: &str = "mailgun";
/// Sends under way at once.
const MAX_IN_FLIGHT: usize = 512;
/// The raw form of a report.
const RAW_EVENT: &[u8] = include_bytes!("../../tests/fixtures/mailgun/webhook_delivered.json");
