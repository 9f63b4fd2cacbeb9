//! What others can see of mailtrail, byte for byte: stored files, configuration, command line, HTTP, mail, metrics, and names
//! that other systems look up. A difference is a change that users, scripts or stored files would notice.
//!
//! The tests run the real program and name nothing of its code, so that they survive a rename or a move of all of it. What
//! only code can see is pinned by unit tests beside it, with golden files from here:
//!
//! | golden file | what | test |
//! |---|---|---|
//! | `journal-written.txt` | records, as they are written and with other texts in them | `every_record_is_written_as_ever` |
//! | `journal-rewritten.txt` | headers of segments and frames | `headers_are_written_as_ever` |
//! | `cli.txt` | commands, options, values, defaults, variables of the environment | `commands_and_options_are_as_ever` |
//! | `replies.txt` | SMTP replies | `every_reply_is_as_ever` |
//! | `alarm-words.txt` | words of the alarms | `words_are_as_ever` |
//!
//! `MAILTRAIL_GOLDEN=rewrite cargo test --test golden` writes the files anew whose text differs, `MAILTRAIL_GOLDEN=rewrite cargo
//! test as_ever` those of the unit tests; a test whose file was rewritten fails in that run. Nothing writes `journal.txt`: it
//! stands for the stores of all versions.
//!
//! Pinned elsewhere:
//! - replies that carry a text of their own, and whole SMTP dialogues: `tests/dialogues`
//! - the configuration's faults with their words: `tests/fixtures/config-faults.txt` (here: keys and lines)
//! - the routes and answers of the API against `docs/openapi.json`: `tests/it/admin/openapi.rs` (here: the document's names)
//! - the metrics of the code against `docs/metrics.md`: `tests/it/admin/metrics.rs` (here: the document's names and values)
//! - the fields of every list under `--json`: `tests/it/cli/json_lines.rs` (here: whole lines of a fixed store)
//! - the states in stores of earlier versions: `tests/it/ops/upgrade.rs` (here: whole lines)
//! - events of the providers, in their own payloads: `crates/trail/tests/it/mailgun_payloads.rs`, `tests/it/webhooks/brevo.rs`, `tests/it/webhooks/sources.rs`
//! - signatures of sinks and alarms: `tests/it/sinks/http.rs`, `tests/it/ops/alarms.rs`
//! - fields of entries in journald: `tests/it/ops/journald.rs`
//! - the sandbox's own paths: `crates/sandbox/tests/it/management_api.rs`, `tests/it/webhooks/activecampaign.rs` (here: their names)
//! - Odoo's calls, and the action run by Odoo's own code: `tests/it/sinks/odoo.rs` (here: the action's bytes)

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod check;
mod cli;
mod config;
mod documents;
mod live;
mod program;
mod relay;
mod store;
