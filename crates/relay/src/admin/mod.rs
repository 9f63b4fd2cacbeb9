//! Questions about the store and orders to the queue, with their answers as JSON: behind the CLI, over a unix socket, and
//! over TCP for whoever has the token; questions also directly, while no daemon runs.

mod audit_log;
mod dto;
mod error;
mod inbound;
mod log;
mod loopback_probe;
mod personal_data;
mod provider_events;
mod queue_actions;
mod route_table;
mod router;
mod sinks;
mod state;
mod stats;
mod store_maintenance;
mod suppression_sync;
mod suppressions;
mod tcp_guard;
mod test_mail;
mod trace;
mod web;

pub use audit_log::noted;
pub use dto::{Act, AlarmView, BreakerOrder, BreakerView, Order, QueueLine, RecipientView, Shape, TrailView};
pub use inbound::{InboundFilter, InboundView, KeptMail, ReleaseOrder, Released, inbound, inbound_mail};
pub use log::{LogAnswer, LogFilter, log};
pub use loopback_probe::{ProbePlace, ProbeView};
pub use personal_data::{EraseOrder, ExportLine, erase, export};
pub use provider_events::{
    EventFilter, EventView, HINT, KeptEvent, ReplayAnswer, ReplayOrder, Replayed, dead, orphans, report,
    reports,
};
pub use route_table::Endpoint;
pub use router::{SOCKET_CONNECTIONS, endpoints, serve_socket};
pub use sinks::{RefusedView, ReplaySink, SinkView};
pub use state::Panel;
pub use stats::{StatsLine, StatsQuestion, stats};
pub use store_maintenance::{BackupOrder, CareStep, RebuildOrder, Tell, back_up, rebuild, verify};
pub use suppression_sync::{SyncLine, SyncOrder, SyncStep};
pub use suppressions::{
    HintView, SUPPRESSED, SuppressionAct, SuppressionEntry, SuppressionFilter, SuppressionOrder,
    SuppressionPage, SuppressionView, UNKNOWN, hints, suppressions,
};
pub use tcp_guard::{Gate, PAGE_CONNECTIONS, serve_page};
pub use test_mail::{TestAnswer, TestOrder, Tester};
pub use trace::{Found, SUBJECTS, find, queue};
