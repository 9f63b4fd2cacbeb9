#![no_main]

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../testkit/src/session_model.rs"]
mod check;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| check::command(line));
