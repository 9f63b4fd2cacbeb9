//! Questions about the store and orders to the queue, with their answers as JSON: behind the CLI, over a unix socket, and
//! over TCP for whoever has the token; questions also directly, while no daemon runs.

mod answer;
mod care;
mod errand;
mod events;
mod inbound;
mod log;
mod operator;
mod page;
mod panel;
mod privacy;
mod probe;
mod router;
mod routes;
mod sinks;
mod stats;
mod suppressions;
mod sync;
mod test_mail;
mod trace;
mod view;
mod web;

pub use crate::line::{FactView, LogLine};
pub use care::{BackupOrder, CareStep, RebuildOrder, Tell, back_up, rebuild, verify};
pub use errand::noted;
pub use events::{
    EventFilter, EventView, HINT, KeptEvent, ReplayAnswer, ReplayOrder, Replayed, dead, orphans, report,
    reports,
};
pub use inbound::{InboundFilter, InboundView, KeptMail, ReleaseOrder, Released, inbound, inbound_mail};
pub use log::{LogAnswer, LogFilter, log};
pub use page::{Gate, PAGE_CONNECTIONS, serve_page};
pub use panel::Panel;
pub use privacy::{EraseOrder, ExportLine, erase, export};
pub use probe::{ProbePlace, ProbeView};
pub use router::{SOCKET_CONNECTIONS, endpoints, serve_socket};
pub use routes::Endpoint;
pub use sinks::{RefusedView, ReplaySink, SinkView};
pub use stats::{StatsLine, StatsQuestion, stats};
pub use suppressions::{
    HintView, SUPPRESSED, SuppressionAct, SuppressionEntry, SuppressionFilter, SuppressionOrder,
    SuppressionPage, SuppressionView, UNKNOWN, hints, suppressions,
};
pub use sync::{SyncLine, SyncOrder, SyncStep};
pub use test_mail::{TestAnswer, TestOrder, Tester};
pub use trace::{Found, SUBJECTS, find, queue};
pub use view::{
    Act, AlarmView, BreakerOrder, BreakerView, MarkView, Order, QueueLine, RecipientView, Shape, TrailView,
};
