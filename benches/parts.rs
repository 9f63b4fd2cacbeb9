//! What the pure parts cost, with no socket, disk or runtime around them: `cargo bench --bench parts`.
//!
//! Only what the crate shows to others is measured. What a message costs on its way is the sum of most of these, once
//! each; the bytes per second are those of the message.

use criterion::{BatchSize, Criterion, Throughput};
use mailtrail_mail::{
    HeaderField, HeaderLine, HeaderSection, Mailbox, MessageId, Secret, Timestamp, TrackingId,
};
use mailtrail_smtp::{Command, Decoder, DotStuffer, FeedResult, ResponseReader};
use mailtrail_trail::provider::{Provider, mailgun};
use mailtrail_trail::{AttemptStatus, CorrelatedBy, Diagnostic, EventKind, ProviderEvent, Recipient};
use std::hint::black_box;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench_commands(&mut criterion);
    bench_messages(&mut criterion);
    bench_headers(&mut criterion);
    bench_webhooks(&mut criterion);
    bench_recipient_states(&mut criterion);
    criterion.final_summary();
}

/// The lines of a transaction as Odoo sends them, and the replies of an upstream.
fn bench_commands(criterion: &mut Criterion) {
    let lines = ["MAIL FROM:<bounce@example.com> size=4786", "RCPT TO:<ada@example.net>", "DATA", "QUIT"];
    for line in lines {
        let (verb, _) = line.split_once(' ').unwrap_or((line, ""));
        criterion.bench_function(&format!("command {verb}"), |bench| {
            bench.iter(|| Command::parse(black_box(line.as_bytes())).is_ok());
        });
    }
    criterion.bench_function("reply of an upstream", |bench| {
        bench.iter(|| ResponseReader::default().push_line(black_box(b"250 2.0.0 Great success")).is_ok());
    });
}

/// A message's way in and out.
fn bench_messages(criterion: &mut Criterion) {
    for kib in [4, 60] {
        let (message, mut wire) = (sample_message(kib * 1024), Vec::new());
        let end = dot_stuff(&message, &mut wire);
        wire.extend_from_slice(&message[end..]);
        wire.extend_from_slice(b".\r\n");
        let mut group = criterion.benchmark_group(format!("{kib} KiB"));
        group.throughput(Throughput::Bytes(message.len() as u64));
        let mut out = Vec::with_capacity(wire.len());
        group.bench_function("decode, in pieces of 16 KiB", |bench| {
            bench.iter(|| {
                out.clear();
                let mut decoder = Decoder::new(u64::MAX);
                let mut pieces = black_box(&wire).chunks(READ_CHUNK_BYTES);
                pieces.any(|piece| matches!(decoder.feed(piece, &mut out), FeedResult::Complete(_)))
            });
        });
        group.bench_function("stuff", |bench| {
            bench.iter(|| {
                out.clear();
                dot_stuff(black_box(&message), &mut out)
            });
        });
        group.finish();
    }
}

/// Copies a message with its dots doubled up to behind the last one; says where that is.
fn dot_stuff(message: &[u8], out: &mut Vec<u8>) -> usize {
    DotStuffer::default().positions(message).fold(0, |from, dot| {
        out.extend_from_slice(&message[from..dot]);
        out.push(b'.');
        dot
    })
}

/// What acceptance and an attempt do to a message of Odoo's chatter.
fn bench_headers(criterion: &mut Criterion) {
    let message = include_bytes!("../tests/fixtures/odoo/chatter-many-01.eml");
    let id = TrackingId::new(SIGNED_AT, 7);
    criterion.bench_function("header block: find its end", |bench| {
        bench.iter(|| HeaderSection::parse(black_box(message)).end());
    });
    criterion.bench_function("header block: all fields", |bench| {
        bench.iter(|| HeaderSection::parse(black_box(message)).fields().count());
    });
    criterion.bench_function("header block: Message-ID", |bench| {
        let block = HeaderSection::parse(message);
        bench.iter(|| {
            let field = black_box(block).find_field("Message-ID");
            field.and_then(|field| MessageId::parse(&field.to_text()))
        });
    });
    criterion.bench_function("header block: what may not reach Mailgun", |bench| {
        let block = HeaderSection::parse(message);
        let foreign = |field: &HeaderField<'_>| Provider::Mailgun.is_forbidden_header(field, &[], SIGNED_AT);
        bench.iter(|| black_box(block).fields().filter(foreign).count());
    });
    criterion.bench_function("stamps for Mailgun", |bench| {
        bench.iter(|| Provider::Mailgun.tracking_headers(black_box(id)));
    });
    criterion.bench_function("Received, folded, with its date", |bench| {
        bench.iter(|| {
            let date = black_box(SIGNED_AT).to_rfc5322();
            let parts = ["from odoo ([127.0.0.1])", "by relay.example.com with ESMTPSA id X;", &date];
            HeaderLine::folded("Received", &parts).to_string()
        });
    });
}

/// A report of Mailgun's, from its bytes to an event.
fn bench_webhooks(criterion: &mut Criterion) {
    let body = include_bytes!("../tests/fixtures/mailgun/webhook_delivered.json");
    let keys = [Secret::new("test-webhook-signing-key")];
    criterion.bench_function("webhook: parse, verify, decode", |bench| {
        bench.iter(|| {
            mailgun::verify_and_decode(black_box(body), &keys, SIGNED_AT).expect("the fixture is signed so")
        });
    });
    let (timestamp, token) = ("1789387203", "a1ac9cbd11058e838a67ca7c2930c69bcc3b513991929e6683");
    let signature = mailgun::sign_webhook(&keys[0], timestamp, token);
    criterion.bench_function("webhook: verify its signature", |bench| {
        bench.iter(|| mailgun::verify_signature(&keys, black_box(timestamp), token, &[&signature]));
    });
}

/// What a day of events does to a recipient.
fn bench_recipient_states(criterion: &mut Criterion) {
    let address: Mailbox = "ada@example.net".parse().expect("it is an address");
    let recipient =
        || Recipient { attempt_status: AttemptStatus::Relayed, ..Recipient::new(address.clone()) };
    let events = [
        EventKind::Accepted,
        EventKind::Deferred,
        EventKind::Delivered,
        EventKind::Opened,
        EventKind::Opened,
        EventKind::Bounced,
    ];
    let events = events.map(sample_event);
    criterion.bench_function("recipient: six events, then its state", |bench| {
        let apply = |mut recipient: Recipient| {
            black_box(&events)
                .iter()
                .for_each(|event| recipient.apply_event(event, CorrelatedBy::TrackingId));
            (recipient.state(), recipient)
        };
        bench.iter_batched(recipient, apply, BatchSize::SmallInput);
    });
}

fn sample_event(kind: EventKind) -> ProviderEvent {
    ProviderEvent {
        kind,
        at: SIGNED_AT,
        dedup_key: "mailgun/mg.example.com/20711/bzIL2R2atMwbgPKijvhNJA".into(),
        recipient: Some("ada@example.net".into()),
        tracking_id: Some(TrackingId::new(SIGNED_AT, 7)),
        message_id: None,
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic { name: kind.as_str().into(), code: Some(250), ..Diagnostic::default() },
    }
}

/// Lines of which every eighth begins with a dot.
fn sample_message(size: usize) -> Vec<u8> {
    let line = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +-=/ 42.\r\n";
    let lines = (0..size.div_ceil(line.len())).map(|number| match number % 8 {
        7 => [".", &line[1..]].concat(),
        _ => line.to_owned(),
    });
    lines.collect::<String>().into_bytes()
}

/// When the webhook was signed: 2026-09-14T12:00:03Z.
const SIGNED_AT: Timestamp = Timestamp::from_secs(1_789_387_203);
/// Bytes that a socket is read in.
const READ_CHUNK_BYTES: usize = 16 * 1024;
