//! Event sinks: a file, an HTTP endpoint, Odoo.
//!
//! A sink has no queue of its own. It reads the journal in write order from its stored position. So no
//! event is lost while the sink is down, as long as the journal keeps it (`[retention]`). Delivery is at
//! least once: after a crash an event comes again, with the same id. An event that a sink cannot accept yet
//! is delayed alone: the following ones go on, and the journal records when it is due.

mod backend;
mod delivery_result;
mod event;
mod file;
mod http;
pub mod odoo;
mod settings;
mod worker;

pub use file::FileSettings;
pub use odoo::OdooSettings;
pub use settings::{SinkFilter, SinkKind, SinkSettings};
pub use worker::SinkWorker;
