#![no_main]

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../testkit/src/session_model.rs"]
mod check;

use libfuzzer_sys::fuzz_target;

// The first byte says how many of the following are lengths of pieces; the rest is what comes behind DATA.
fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (cuts, wire) = rest.split_at(usize::from(count % 8).min(rest.len()));
    check::data(wire, cuts);
    check::data(&[wire, b"\r\n.\r\n"].concat(), cuts);
});
