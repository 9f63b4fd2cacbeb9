#![no_main]

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../tests/properties/check.rs"]
mod check;

use libfuzzer_sys::fuzz_target;
use mailtrail_smtp::{Authentication, Rules};

// The bits of the first byte are the listener's rules; the rest is what the client says.
fuzz_target!(|input: &[u8]| {
    let Some((&bits, script)) = input.split_first() else { return };
    let login = bits & 4 != 0;
    let rules = Rules {
        hostname: "relay.example.com".into(),
        starttls: bits & 1 != 0,
        require_tls: bits & 1 != 0 && bits & 2 != 0,
        authentication: if login { Authentication::Required } else { Authentication::None },
        message_size: 100,
        recipients: 2,
    };
    check::session(script, rules);
});
