//! mailtrail: every mail your applications send, and what became of it.
//!
//! # Crates
//!
//! | crate | contents | may use |
//! |---|---|---|
//! | `mailtrail-mail` | addresses, envelopes, headers, ids, clock | nothing of ours |
//! | `mailtrail-smtp` | SMTP without I/O | mail |
//! | `mailtrail-trail` | delivery model, provider events, suppression | mail |
//! | `mailtrail-store` | journal and ledger | mail, trail |
//! | `mailtrail-net` | everything that opens a connection | mail, smtp, trail |
//! | `mailtrail-relay` | the tasks | all of the above |
//! | `mailtrail-sandbox` | fake Mailgun, Brevo and ActiveCampaign | mail, smtp, trail, net |
//! | `mailtrail` | configuration, daemon, doctor, command line | all |
//! | `mailtrail-testkit` | harnesses, mock servers and clients for the tests | all |
//!
//! # Where events find their sends
//!
//! Correlation is no task with a cursor of its own. It happens when a record of the journal is applied to the ledger
//! (`crates/store/src/ledger/apply/`), as a pure function of the rows and the record. The ledger is therefore a function of the
//! journal's order alone: a replay after a crash, or a rebuild from nothing, joins the same events to the same sends
//! and counts nothing twice. An event that comes before its send is kept as an orphan, and the record that accepts
//! the send adopts it. Whatever the order in which events come, they end at the same sends and leave the same marks
//! (`crates/store/tests/it/correlation.rs`); the one exception stands at `find` in that file.
//!
//! A report that is genuine and cannot be understood is a dead letter. Reports are kept in their raw form, so a later
//! version may read them anew: `mailtrail events replay`.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
#[cfg(test)]
#[path = "../tests/golden/check.rs"]
mod golden;
pub mod logging;
pub mod metrics;

/// Rows and messages come and go by the thousand on several threads, which glibc's allocator answers with a fifth of
/// the processor's time and with memory that it does not give back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
