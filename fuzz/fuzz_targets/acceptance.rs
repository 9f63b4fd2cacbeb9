#![no_main]

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../testkit/src/session_model.rs"]
mod check;

use libfuzzer_sys::fuzz_target;
use mailtrail_mail::{Envelope, HeaderCleanup, Timestamp, TrackingId};
use mailtrail_relay::submission::{HEADER_HEADROOM, MessageContext, RelayHistory, accept_message};
use mailtrail_smtp::{Decoder, FeedResult, Reply};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::{HeaderMatch, Match, Routing};
use std::net::Ipv4Addr;

// The first byte chooses the provider and how many recipients there are; the rest comes behind DATA.
fuzz_target!(|input: &[u8]| {
    let Some((&bits, wire)) = input.split_first() else { return };
    let provider = Provider::ALL[usize::from(bits & 3) % Provider::ALL.len()];
    let recipients =
        (0..=bits >> 7).map(|number| format!("{number}@example.net").parse().expect("an address"));
    let now = Timestamp::from_secs(1_789_387_200);
    let bulk = Match {
        headers: vec![HeaderMatch { name: "Precedence".into(), value: Some("bulk".into()) }],
        ..Match::default()
    };
    let routing = Routing { bulk_match: bulk, ..Routing::default() };
    let cleanup = HeaderCleanup::default();
    let context = MessageContext {
        id: TrackingId::new(now, 1),
        now,
        hostname: "relay.example.com",
        peer: Ipv4Addr::LOCALHOST.into(),
        client_name: "client.example.com",
        protocol: "ESMTP",
        account: None,
        cleanup: &cleanup,
        providers: &[provider],
        routing: &routing,
        dsn_enabled: true,
        needs_fingerprint: true,
        relay_history: &RelayHistory::default(),
    };
    let mut buffer = vec![0; HEADER_HEADROOM];
    let mut decoder = Decoder::new(1 << 20);
    if decoder.feed(wire, &mut buffer) == FeedResult::NeedMore {
        decoder.feed(b"\r\n.\r\n", &mut buffer);
    }
    let message = buffer[HEADER_HEADROOM..].to_vec();
    let envelope = Envelope { recipients: recipients.collect(), ..Envelope::default() };
    let (accepted, relayed) = match accept_message(&context, envelope, buffer, None) {
        Ok(accepted) => accepted,
        Err(Reply::MailLoop | Reply::BadMessage(_)) => return,
        Err(refusal) => panic!("{refusal:?}"),
    };
    assert_eq!(accepted.message.size, relayed.size());
    assert!(!accepted.message.subject.contains(char::is_control));
    check::relayed(&message, relayed.head(), provider, "");
});
