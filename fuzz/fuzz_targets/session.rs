#![no_main]

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../testkit/src/session_model.rs"]
mod check;

use libfuzzer_sys::fuzz_target;
use mailtrail_smtp::{Authentication, SessionPolicy};

// The bits of the first byte choose the session policy; the rest is the client's input.
fuzz_target!(|input: &[u8]| {
    let Some((&bits, script)) = input.split_first() else { return };
    let login = bits & 4 != 0;
    let policy = SessionPolicy {
        hostname: "relay.example.com".into(),
        offer_starttls: bits & 1 != 0,
        require_tls: bits & 1 != 0 && bits & 2 != 0,
        authentication: if login { Authentication::Required } else { Authentication::None },
        max_message_bytes: 100,
        max_recipients: 2,
    };
    check::session(script, policy);
});
