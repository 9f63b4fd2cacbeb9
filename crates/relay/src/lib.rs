//! The tasks of the relay.
//!
//! ```text
//! applications --SMTP--> submission --> [journal -> ledger] --> queue --SMTP, HTTPS--> provider
//!                                                 ^                                      |
//!                                                 '----------- webhook <-----HTTPS-------'
//! ```
//!
//! The part in brackets is `mailtrail-store`. Tasks never call each other: each commits to the store and
//! sends a wake-up that may be lost. `tests/it/layering.rs` of this crate enforces it. Shared
//! by the tasks are only the alarm registry, the activity of the upstreams and the submission of internal
//! mail.

pub mod admin;
pub mod alarms;
mod dsn_reporter;
#[cfg(test)]
#[path = "../../../tests/golden/check.rs"]
mod golden;
pub mod inbound;
mod internal_mail;
mod log_line;
mod loopback_probe;
pub mod monitoring;
pub mod queue;
pub mod reconcile;
pub mod sink;
pub mod submission;
pub mod suppression_sync;
pub mod webhook;

pub use dsn_reporter::DsnReporter;
pub use internal_mail::SubmitFn;
pub use log_line::{LogLine, TimelineEntry};
pub use loopback_probe::LoopbackProbe;
