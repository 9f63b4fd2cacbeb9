//! Admin API: queries of the store and actions on the queue, with JSON responses. The CLI uses it over a
//! unix socket, and clients with the token over TCP. Queries also run directly on the store while no daemon
//! runs.

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
mod test_mailer;
mod trace;
mod web;

pub use audit_log::truncate_reason;
pub use dto::{
    AlarmView, BreakerRequest, BreakerView, QueueActionRequest, QueueActionResult, QueueLine, QueueShape,
    RecipientView, TrailView,
};
pub use inbound::{
    InboundDetailView, InboundFilter, InboundView, ReleaseRequest, ReleaseResult, find_inbound,
    find_inbound_message,
};
pub use log::{LogFilter, LogResponse, query_log};
pub use loopback_probe::{ProbeChallenge, ProbeQuery};
pub use personal_data::{EraseRequest, ExportLine, erase_address, export_address};
pub use provider_events::{
    EventDetailView, EventFilter, EventReplayRequest, EventReplayResponse, EventReplayResult, EventView,
    HINT_NAME, find_dead_events, find_event, find_events, find_orphan_events,
};
pub use route_table::Endpoint;
pub use router::{MAX_SOCKET_CONNECTIONS, endpoints, serve_socket};
pub use sinks::{SinkDeadLetterView, SinkReplayRequest, SinkView};
pub use state::ApiState;
pub use stats::{StatsQuery, StatsRow, query_stats};
pub use store_maintenance::{
    BackupRequest, MaintenanceCallback, MaintenanceEvent, RebuildRequest, back_up_store, rebuild_ledger,
    verify_store,
};
pub use suppression_sync::{SuppressionSyncEvent, SuppressionSyncProgress, SuppressionSyncRequest};
pub use suppressions::{
    HintView, SUPPRESSED_STATE, SuppressionEntry, SuppressionListFilter, SuppressionPage, SuppressionRequest,
    SuppressionResult, SuppressionView, UNKNOWN_TIME, find_hints, find_suppressions,
};
pub use tcp_guard::{AccessPolicy, MAX_TCP_CONNECTIONS, serve_tcp};
pub use test_mail::{TestMailRequest, TestMailResponse};
pub use test_mailer::TestMailer;
pub use trace::{MAX_SUBJECT_SCAN, TraceResult, find_queued, find_trails};
