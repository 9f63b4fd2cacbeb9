//! Properties that hold for any input, tried on inputs from seeds. A failure names its seed; `MAILTRAIL_TEST_SEEDS`
//! tries more.

use testkit::session_model as check;

use fastrand::Rng;
use mailtrail_mail::TrackingId;
use mailtrail_smtp::{Authentication, SessionPolicy};
use mailtrail_trail::provider::Provider;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use testkit::relay::Relay;
use testkit::smtp_sink::SmtpSink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Seeds of each property.
const DEFAULT_SEEDS: u64 = 2000;

fn seed_count() -> u64 {
    std::env::var("MAILTRAIL_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(DEFAULT_SEEDS)
}

fn for_each_seed(property: impl Fn(&mut Rng)) {
    for seed in 0..seed_count() {
        let tried = catch_unwind(AssertUnwindSafe(|| property(&mut Rng::with_seed(seed))));
        tried.unwrap_or_else(|panic| {
            println!("seed {seed}");
            resume_unwind(panic)
        });
    }
}

#[test]
fn commands_are_parsed_or_rejected() {
    for_each_seed(|random| check::command(&random_command(random)));
}

#[test]
fn decoding_does_not_depend_on_chunking() {
    for_each_seed(|random| {
        let wire = random_mix(random, TEXT_PIECES, 40);
        let cuts: Vec<_> = (0..random.usize(1..5)).map(|_| random.u8(..8)).collect();
        check::data(&wire, &cuts);
        check::data(&[&wire, &b"\r\n.\r\n"[..], &wire].concat(), &cuts);
    });
}

#[test]
fn sessions_obey_policy() {
    for_each_seed(|random| {
        let rules = session_policy(random.bool(), random.bool(), random.usize(1..4));
        check::session(&random_script(random), rules);
    });
}

/// A relay replies over its socket, for any chunks, like a session without one, and its upstream gets the accepted
/// messages.
#[tokio::test]
async fn relay_matches_session_byte_for_byte() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "message_size = \"4KiB\"\nrecipients = 3").await;
    let mut taken = Vec::new();
    for seed in 0..seed_count() / 20 {
        let mut random = Rng::with_seed(seed);
        let input = [&random_script(&mut random), &b"\r\n.\r\nRSET\r\nQUIT\r\n"[..]].concat();
        let rules = SessionPolicy {
            max_message_bytes: 4 << 10,
            max_recipients: 3,
            ..session_policy(false, false, 3)
        };
        let talk = check::session(&input, rules);
        let output = exchange_in_pieces(&relay, &input, &mut random).await;
        assert_eq!(check::replies(&output), talk.codes, "seed {seed}");
        let output = String::from_utf8(output).unwrap();
        let ids = output.lines().filter_map(|line| line.strip_prefix("250 2.0.0 Queued as "));
        taken.extend(ids.map(str::to_owned).zip(talk.accepted));
    }
    assert!(taken.len() as u64 > seed_count() / 40, "only {} messages were taken", taken.len());
    let mails = sink.wait_for_count(taken.len()).await;
    let mails: HashMap<_, _> = mails.iter().map(|mail| (tracking_id_of(&mail.message), mail)).collect();
    for (id, check::AcceptedMail { sender, recipients, message }) in &taken {
        let mail = mails[id.as_bytes()];
        assert_eq!((&mail.sender, &mail.recipients), (sender, recipients));
        check::relayed(message, &mail.message, Provider::Plain, sender);
    }
    relay.stop().await;
    assert_eq!(sink.count(), taken.len());
}

/// The tracking id, in a header that may hold any bytes.
fn tracking_id_of(message: &[u8]) -> &[u8] {
    let name = b"\r\nX-Mailtrail-Id: ";
    let at = memchr::memmem::find(message, name).unwrap() + name.len();
    &message[at..at + TrackingId::ENCODED_LEN]
}

/// Writes the input in pieces and reads all replies.
async fn exchange_in_pieces(relay: &Relay, input: &[u8], random: &mut Rng) -> Vec<u8> {
    let stream = TcpStream::connect(relay.open()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut received, mut output) = stream.into_split();
    let listening = tokio::spawn(async move {
        let mut replies = Vec::new();
        received.read_to_end(&mut replies).await.unwrap();
        replies
    });
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(random.usize(1..=rest.len().min(500)));
        output.write_all(piece).await.unwrap();
        rest = behind;
    }
    listening.await.unwrap()
}

fn session_policy(offer_starttls: bool, login: bool, max_recipients: usize) -> SessionPolicy {
    SessionPolicy {
        hostname: "relay.example.com".into(),
        offer_starttls,
        require_tls: offer_starttls,
        authentication: if login { Authentication::Required } else { Authentication::None },
        max_message_bytes: 1000,
        max_recipients,
    }
}

/// Returns random input of a client, mostly valid commands.
fn random_script(random: &mut Rng) -> Vec<u8> {
    let mut script = b"EHLO client.example.com\r\n".to_vec();
    for _ in 0..random.usize(1..6) {
        if random.u8(..4) == 0 {
            script.extend(random_command(random));
            script.extend_from_slice(b"\r\n");
        }
        script.extend_from_slice(random.choice(MAIL_COMMANDS).unwrap().as_bytes());
        for _ in 0..random.usize(..5) {
            script.extend_from_slice(random.choice(RCPT_COMMANDS).unwrap().as_bytes());
        }
        let message = [random_mix(random, HEADER_LINES, 8), random_mix(random, TEXT_PIECES, 10)].concat();
        if random.u8(..3) == 0 {
            let (first, rest) = message.split_at(random.usize(..=message.len()));
            script.extend(format!("BDAT {}\r\n", first.len()).bytes().chain(first.iter().copied()));
            script.extend(format!("BDAT {} LAST\r\n", rest.len()).bytes().chain(rest.iter().copied()));
        } else {
            script.extend_from_slice(b"DATA\r\n");
            script.extend(message);
            script.extend_from_slice(b"\r\n.\r\n");
        }
    }
    script
}

/// A command with an address of sorts, or another.
fn random_command(random: &mut Rng) -> Vec<u8> {
    if random.bool() {
        return random_mix(random, COMMAND_WORDS, 3);
    }
    let (local, domain) = (random_mix(random, SAMPLE_ADDRESSES, 3), random_mix(random, SAMPLE_ADDRESSES, 3));
    let (verb, parameters) =
        (*random.choice(PATH_PREFIXES).unwrap(), random_mix(random, SAMPLE_PARAMETERS, 2));
    [verb.as_bytes(), &local, b"@", &domain, b">", &parameters].concat()
}

/// Some of the parts, some of them damaged.
fn random_mix(random: &mut Rng, parts: &[&str], most: usize) -> Vec<u8> {
    let mut mixed = Vec::new();
    for _ in 0..random.usize(..=most) {
        mixed.extend_from_slice(random.choice(parts).unwrap().as_bytes());
    }
    if random.u8(..3) == 0 && !mixed.is_empty() {
        let at = random.usize(..mixed.len());
        match random.u8(..3) {
            0 => mixed[at] = random.u8(..),
            1 => drop(mixed.remove(at)),
            _ => mixed.truncate(at),
        }
    }
    mixed
}

const COMMAND_WORDS: &[&str] = &[
    "EHLO ",
    "HELO ",
    "MAIL FROM:",
    "RCPT TO:",
    "mail from: ",
    "<a@example.com>",
    "<>",
    "DATA",
    "BDAT 7",
    "BDAT 12 LAST",
    " RET=HDRS",
    " ENVID=a+2Bb",
    " NOTIFY=SUCCESS,DELAY",
    " NOTIFY=NEVER",
    " ORCPT=rfc822;a+2Bb@c.d",
    "XCLIENT ADDR=192.0.2.1",
    "GET / HTTP/1.1",
    "RSET",
    "NOOP",
    "VRFY",
    "HELP",
    "STARTTLS",
    "AUTH PLAIN ",
    "AUTH LOGIN",
    "AGEAYQ==",
    "AGEAYg==",
    "=",
    "*",
    "Postmaster",
    "[127.0.0.1]",
    " ",
    "\t",
    "\0",
    "\r",
    "\u{85}",
    "\u{feff}",
];
const PATH_PREFIXES: &[&str] =
    &["MAIL FROM:<", "mail from: <", "RCPT TO:<", "rcpt to: <", "RCPT TO:<@x,@y:", "MAIL FROM:"];
const SAMPLE_ADDRESSES: &[&str] = &[
    "a",
    "b.c",
    "[127.0.0.1]",
    "j\u{ed}",
    "\"",
    "\\",
    "\"a b\"",
    " ",
    "\t",
    "\0",
    "\r",
    "\u{85}",
    "<",
    ">",
    "@",
    ":",
    "",
];
const SAMPLE_PARAMETERS: &[&str] =
    &[" SIZE=12", " SIZE=", " BODY=8BITMIME", " SMTPUTF8", " AUTH=<>", " ", "x"];
const MAIL_COMMANDS: &[&str] = &[
    "MAIL FROM:<a@example.com>\r\n",
    "MAIL FROM:<>\r\n",
    "MAIL FROM:<\"b c\"@example.com> SIZE=100 BODY=8BITMIME\r\n",
    "mail from: d@example.com\n",
    "MAIL FROM:<j\u{ed}@example.com> SMTPUTF8\r\n",
    "MAIL FROM:<a@example.com> SIZE=5000\r\n",
    "STARTTLS\r\nEHLO b\r\nAUTH PLAIN AGEAYQ==\r\nMAIL FROM:<a@example.com>\r\n",
];
const RCPT_COMMANDS: &[&str] = &[
    "RCPT TO:<a@example.net>\r\n",
    "RCPT TO:<\"b>c\"@example.net>\r\n",
    "rcpt to: d@[127.0.0.1]\r\n",
    "RCPT TO:<postmaster>\r\n",
    "RCPT TO:<j\u{ed}@example.net>\r\n",
    "RCPT TO:<a b@example.net>\r\n",
];
const HEADER_LINES: &[&str] = &[
    "Subject: a\r\n",
    "From: a@example.com\r\n",
    "Message-ID: <a@b>\r\n",
    "Date: x\r\n",
    "Date: Mon, 14 Sep 2026 12:00:00 +0000\r\n",
    "Message-ID: <>\r\n",
    "From:\r\n",
    "From a Mon Sep 14 12:00:00 2026\r\n",
    ">From b\r\n",
    "Bcc: c@example.net\r\n",
    "return-path :\r\n <a@example.com>\r\n",
    "X-Mailtrail-Id: 1\r\n",
    "x-mailtrail-id : 2\r\n\tfolded\r\n",
    "X-Mailgun-Tag: a\r\n",
    "X-Mailgun-Variables: {\"a\":1}\r\n",
    " folded\r\n",
    "no field\r\n",
    "A:\n",
    "Received: x\r\n\ty\r\n",
    ":\r\n",
    "..A: b\r\n",
    "B\u{e9}: c\r\n",
    "\r\n",
];
const TEXT_PIECES: &[&str] = &[
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    ".",
    "..",
    ".\r\n",
    "\r\n.",
    "\r\n..\r\n",
    "\n.\n",
    "\n.\r\n",
    "\r.\r\n",
    "a",
    "text ",
    "\0",
    "\u{e9}",
    "\r\n.\r",
    "QUIT\r\n",
    "0123456789012345678901234567890123456789012345678901234567890123456789",
];
