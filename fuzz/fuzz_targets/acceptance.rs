#![no_main]

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../tests/properties/check.rs"]
mod check;

use libfuzzer_sys::fuzz_target;
use mailtrail_mail::{Envelope, HeaderCleanup, Timestamp, TrackingId};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::{Field, Pattern, Routing};
use mailtrail_smtp::{Decoder, Fed, Reply};
use mailtrail_relay::submission::{Circumstances, HEADROOM, Rounds, accept};
use std::net::Ipv4Addr;

// The first byte chooses the provider and how many recipients there are; the rest comes behind DATA.
fuzz_target!(|input: &[u8]| {
    let Some((&bits, wire)) = input.split_first() else { return };
    let provider = Provider::ALL[usize::from(bits & 3) % Provider::ALL.len()];
    let recipients =
        (0..=bits >> 7).map(|number| format!("{number}@example.net").parse().expect("an address"));
    let now = Timestamp::from_seconds(1_789_387_200);
    let bulk = Pattern {
        headers: vec![Field { name: "Precedence".into(), value: Some("bulk".into()) }],
        ..Pattern::default()
    };
    let routing = Routing { bulk, ..Routing::default() };
    let cleanup = HeaderCleanup::default();
    let circumstances = Circumstances {
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
        reports: true,
        fingerprints: true,
        rounds: &Rounds::default(),
    };
    let mut buffer = vec![0; HEADROOM];
    let mut decoder = Decoder::new(1 << 20);
    if decoder.feed(wire, &mut buffer) == Fed::All {
        decoder.feed(b"\r\n.\r\n", &mut buffer);
    }
    let message = buffer[HEADROOM..].to_vec();
    let envelope = Envelope { recipients: recipients.collect(), ..Envelope::default() };
    let (accepted, relayed) = match accept(&circumstances, envelope, buffer, None) {
        Ok(accepted) => accepted,
        Err(Reply::Loop | Reply::BadMessage(_)) => return,
        Err(refusal) => panic!("{refusal:?}"),
    };
    assert_eq!(accepted.send.size, relayed.size());
    assert!(!accepted.send.subject.contains(char::is_control));
    check::relayed(&message, relayed.first(), provider, "");
});
