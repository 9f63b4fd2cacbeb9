//! Client of the administration API. Without a daemon, the commands that can do so open the store themselves.

use crate::cli::{CliError, Context, config_source};
use mailtrail_mail::{Clock, Mailbox};
use mailtrail_net::tls;
use mailtrail_relay::admin;
use mailtrail_relay::admin::{
    BackupRequest, BreakerRequest, BreakerView, EraseRequest, EventDetailView, EventFilter,
    EventReplayRequest, EventReplayResponse, EventView, ExportLine, HintView, InboundDetailView,
    InboundFilter, InboundView, LogFilter, LogResponse, MaintenanceEvent, QueueActionRequest,
    QueueActionResult, QueueLine, QueueShape, RebuildRequest, ReleaseRequest, ReleaseResult,
    SinkDeadLetterView, SinkReplayRequest, SinkView, StatsQuery, StatsRow, SuppressionListFilter,
    SuppressionPage, SuppressionRequest, SuppressionResult, SuppressionSyncProgress, SuppressionSyncRequest,
    TestMailRequest, TestMailResponse, TraceResult,
};
use mailtrail_store::{OpenError, OpenReport, Retention, Store};
use mailtrail_trail::suppression::SuppressionSettings;
use reqwest::Response;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Source of the answers.
pub enum AdminClient {
    /// The API of the running daemon, over its socket.
    Remote(reqwest::Client),
    /// The store, opened by this process.
    Offline(Store),
}

/// Response with one JSON object per line, sent while the daemon works.
pub struct NdjsonStream<T> {
    response: Response,
    /// An incomplete line.
    buffer: Vec<u8>,
    item: PhantomData<T>,
}

impl<T: DeserializeOwned> NdjsonStream<T> {
    /// Returns the next object; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, CliError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let read = serde_json::from_slice(&line).map(Some);
                return read
                    .map_err(|error| CliError::Other(format!("cannot read the daemon's response: {error}")));
            }
            match self.response.chunk().await.map_err(unreachable_error)? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}

impl AdminClient {
    /// Connects to the daemon, or opens the store for reading if no daemon runs.
    pub async fn open(context: &Context) -> Result<Self, CliError> {
        Self::open_with_report(context).await.map(|(client, _)| client)
    }

    /// Like `open`; also returns the reason if opening the store rebuilt the ledger.
    pub async fn open_with_report(context: &Context) -> Result<(Self, Option<String>), CliError> {
        let (data_dir, socket) = config_source::resolve_paths(context)?;
        if tokio::net::UnixStream::connect(&socket).await.is_ok() {
            return Ok((Self::connect_daemon(&socket)?, None));
        }
        let (store, report) = open_store(&data_dir, &socket)?;
        Ok((Self::Offline(store), report.rebuild_reason))
    }

    /// Like `open`, but a store without a daemon is opened for writing.
    pub async fn open_for_writing(context: &Context) -> Result<Self, CliError> {
        let (data_dir, socket) = config_source::resolve_paths(context)?;
        if tokio::net::UnixStream::connect(&socket).await.is_ok() {
            return Self::connect_daemon(&socket);
        }
        ensure_owner(&data_dir)?;
        // Opening for writing would create a missing store; opening for reading reports it.
        drop(open_store(&data_dir, &socket)?);
        let store = Store::open(&data_dir, Clock::System).map_err(|error| open_error(&error, &socket))?;
        Ok(Self::Offline(store.0))
    }

    /// Returns the trails that match `what`: an id, an address, an Odoo record or words of the subject.
    pub async fn find_trails(&self, what: &str, limit: usize) -> Result<TraceResult, CliError> {
        match self {
            Self::Remote(client) => {
                request_json(
                    client.get(api_url("trace")).query(&[("what", what), ("limit", &limit.to_string())]),
                )
                .await
            }
            Self::Offline(store) => {
                admin::find_trails(store, what, limit).map_err(|error| store_error(&error))
            }
        }
    }

    /// Lists queued messages.
    pub async fn list_queue(&self, limit: usize) -> Result<Vec<QueueLine>, CliError> {
        match self {
            Self::Remote(client) => {
                request_json(client.get(api_url("queue")).query(&[("limit", limit)])).await
            }
            Self::Offline(store) => admin::find_queued(store, limit).map_err(|error| store_error(&error)),
        }
    }

    /// Returns entries of the event log.
    pub async fn query_log(&self, filter: &LogFilter) -> Result<LogResponse, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("log")).query(filter)).await,
            Self::Offline(store) => admin::query_log(store, filter, &[]).map_err(|error| store_error(&error)),
        }
    }

    /// Returns delivery statistics.
    pub async fn query_stats(&self, question: &StatsQuery) -> Result<Vec<StatsRow>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("stats")).query(question)).await,
            Self::Offline(store) => admin::query_stats(store, question).map_err(|error| store_error(&error)),
        }
    }

    /// Lists provider events. `retention` is used only without a daemon.
    pub async fn list_events(
        &self,
        filter: &EventFilter,
        retention: impl FnOnce() -> Option<Retention>,
    ) -> Result<Vec<EventView>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("events")).query(filter)).await,
            Self::Offline(store) => {
                admin::find_events(store, filter, retention()).map_err(|error| store_error(&error))
            }
        }
    }

    /// Lists events without a matching message.
    pub async fn list_orphan_events(
        &self,
        filter: &EventFilter,
        retention: impl FnOnce() -> Option<Retention>,
    ) -> Result<Vec<EventView>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("events/orphans")).query(filter)).await,
            Self::Offline(store) => {
                admin::find_orphan_events(store, filter, retention()).map_err(|error| store_error(&error))
            }
        }
    }

    /// Lists events that cannot be decoded.
    pub async fn list_dead_events(
        &self,
        filter: &EventFilter,
        retention: impl FnOnce() -> Option<Retention>,
    ) -> Result<Vec<EventView>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("events/dead")).query(filter)).await,
            Self::Offline(store) => {
                admin::find_dead_events(store, filter, retention()).map_err(|error| store_error(&error))
            }
        }
    }

    /// Returns an event with its raw payload.
    pub async fn get_event(&self, id: &str) -> Result<Option<EventDetailView>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url(&format!("events/{id}")))).await,
            Self::Offline(store) => admin::find_event(store, id, None).map_err(|error| store_error(&error)),
        }
    }

    /// Decodes and correlates stored provider events again.
    pub async fn replay_events(&self, order: &EventReplayRequest) -> Result<EventReplayResponse, CliError> {
        request_json(self.require_daemon()?.post(api_url("events/replay")).json(order)).await
    }

    /// Lists inbound messages.
    pub async fn list_inbound(&self, filter: &InboundFilter) -> Result<Vec<InboundView>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("inbound")).query(filter)).await,
            Self::Offline(store) => admin::find_inbound(store, filter).map_err(|error| store_error(&error)),
        }
    }

    /// Returns an inbound message with its content.
    pub async fn get_inbound_message(&self, id: &str) -> Result<Option<InboundDetailView>, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url(&format!("inbound/{id}")))).await,
            Self::Offline(store) => {
                admin::find_inbound_message(store, id).map_err(|error| store_error(&error))
            }
        }
    }

    /// Releases dead or held inbound messages for delivery.
    pub async fn release_inbound(&self, order: &ReleaseRequest) -> Result<Vec<ReleaseResult>, CliError> {
        request_json(self.require_daemon()?.post(api_url("inbound/replay")).json(order)).await
    }

    /// Returns a page of the suppression list. `settings` are used only without a daemon.
    pub async fn list_suppressions(
        &self,
        filter: &SuppressionListFilter,
        settings: &SuppressionSettings,
    ) -> Result<SuppressionPage, CliError> {
        match self {
            Self::Remote(client) => request_json(client.get(api_url("suppressions")).query(filter)).await,
            Self::Offline(store) => admin::find_suppressions(store, settings, filter, Clock::System.now())
                .map_err(|error| store_error(&error)),
        }
    }

    /// Changes the suppression list.
    pub async fn change_suppressions(
        &self,
        order: &SuppressionRequest,
    ) -> Result<Vec<SuppressionResult>, CliError> {
        request_json(self.require_daemon()?.post(api_url("suppressions")).json(order)).await
    }

    /// Lists the sinks with their positions.
    pub async fn list_sinks(&self) -> Result<Vec<SinkView>, CliError> {
        request_json(self.require_daemon()?.get(api_url("sinks"))).await
    }

    /// Lists the events that a sink has rejected.
    pub async fn list_sink_dead_letters(&self, sink: &str) -> Result<Vec<SinkDeadLetterView>, CliError> {
        request_json(self.require_daemon()?.get(sink_url(sink, "refused")?)).await
    }

    /// Delivers stored events to a sink again.
    pub async fn replay_sink(&self, sink: &str, order: &SinkReplayRequest) -> Result<(), CliError> {
        request_json(self.require_daemon()?.post(sink_url(sink, "replay")?).json(order)).await
    }

    /// Lists the hints that contact providers have sent about an address.
    pub async fn list_hints(&self, address: &str) -> Result<Vec<HintView>, CliError> {
        match self {
            Self::Remote(client) => {
                request_json(client.get(api_url("hints")).query(&[("address", address)])).await
            }
            Self::Offline(store) => admin::find_hints(store, address).map_err(|error| store_error(&error)),
        }
    }

    /// Synchronizes the suppression list with the providers' lists.
    pub async fn sync_suppressions(
        &self,
        order: &SuppressionSyncRequest,
    ) -> Result<NdjsonStream<SuppressionSyncProgress>, CliError> {
        request_stream(self.require_daemon()?.post(api_url("suppressions/sync")).json(order)).await
    }

    /// Has the daemon verify its store.
    pub async fn verify_store(&self) -> Result<NdjsonStream<MaintenanceEvent>, CliError> {
        request_stream(self.require_daemon()?.get(api_url("store/verify"))).await
    }

    /// Has the daemon rebuild its ledger.
    pub async fn rebuild_store(
        &self,
        order: &RebuildRequest,
    ) -> Result<NdjsonStream<MaintenanceEvent>, CliError> {
        request_stream(self.require_daemon()?.post(api_url("store/rebuild")).json(order)).await
    }

    /// Has the daemon back up its store.
    pub async fn back_up_store(
        &self,
        order: &BackupRequest,
    ) -> Result<NdjsonStream<MaintenanceEvent>, CliError> {
        request_stream(self.require_daemon()?.post(api_url("store/backup")).json(order)).await
    }

    /// Returns all stored data about an address. `settings` are used only without a daemon.
    pub async fn export_address(
        &self,
        address: &Mailbox,
        settings: &SuppressionSettings,
    ) -> Result<Vec<ExportLine>, CliError> {
        match self {
            Self::Remote(client) => {
                request_json(client.get(api_url("export")).query(&[("address", address.as_str())])).await
            }
            Self::Offline(store) => {
                let now = Clock::System.now();
                tokio::task::block_in_place(|| admin::export_address(store, address, settings, now))
                    .map_err(|error| store_error(&error))
            }
        }
    }

    /// Has the daemon erase an address.
    pub async fn erase_address(
        &self,
        order: &EraseRequest,
    ) -> Result<NdjsonStream<MaintenanceEvent>, CliError> {
        request_stream(self.require_daemon()?.post(api_url("erase")).json(order)).await
    }

    /// Applies an action to queued messages.
    pub async fn apply_queue_action(
        &self,
        order: &QueueActionRequest,
    ) -> Result<Vec<QueueActionResult>, CliError> {
        request_json(self.require_daemon()?.post(api_url("queue")).json(order)).await
    }

    /// Has the daemon send a test message.
    pub async fn send_test_mail(&self, order: &TestMailRequest) -> Result<TestMailResponse, CliError> {
        request_json(self.require_daemon()?.post(api_url("test")).json(order)).await
    }

    /// Returns the age distribution of the queue.
    pub async fn get_queue_shape(&self) -> Result<Vec<QueueShape>, CliError> {
        request_json(self.require_daemon()?.get(api_url("queue/shape"))).await
    }

    /// Lists the circuit breakers of the upstreams.
    pub async fn list_breakers(&self) -> Result<Vec<BreakerView>, CliError> {
        request_json(self.require_daemon()?.get(api_url("breakers"))).await
    }

    /// Opens or closes a circuit breaker.
    pub async fn set_breaker(
        &self,
        upstream: &str,
        order: &BreakerRequest,
    ) -> Result<Vec<BreakerView>, CliError> {
        let mut url = reqwest::Url::parse(&api_url("breakers/")).map_err(|error| store_error(&error))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(upstream);
        }
        request_json(self.require_daemon()?.post(url).json(order)).await
    }

    /// Returns the daemon's client, for requests that only a running daemon can serve.
    fn require_daemon(&self) -> Result<&reqwest::Client, CliError> {
        match self {
            Self::Remote(client) => Ok(client),
            Self::Offline(_) => {
                Err(CliError::Unreachable("no daemon runs; start `mailtrail serve` first".into()))
            }
        }
    }

    fn connect_daemon(socket: &Path) -> Result<Self, CliError> {
        let failed = |error: &dyn std::fmt::Display| CliError::Other(error.to_string());
        let tls = tls::build_client_config(None).map_err(|error| failed(&error))?;
        let client = reqwest::Client::builder().unix_socket(socket).tls_backend_preconfigured(tls).build();
        client.map(Self::Remote).map_err(|error| failed(&error))
    }
}

fn open_store(data_dir: &Path, socket: &Path) -> Result<(Store, OpenReport), CliError> {
    Store::open_read_only(data_dir, Clock::System).map_err(|error| open_error(&error, socket))
}

/// Name of the operator for changes without a daemon, in the form in which the daemon names API clients.
pub fn operator_name() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

/// Rejects root for a store of another user: that user could not read files which root writes, and the relay would not
/// start.
pub fn ensure_owner(data_dir: &Path) -> Result<(), CliError> {
    let Ok(owner) = std::fs::metadata(data_dir) else { return Ok(()) };
    let (uid, gid) = (owner.uid(), owner.gid());
    if !rustix::process::geteuid().is_root() || uid == 0 {
        return Ok(());
    }
    Err(CliError::Other(format!(
        "{} belongs to another user, which could not read files of root: while the relay is stopped, run this as that \
         user, setpriv --reuid {uid} --regid {gid} --clear-groups mailtrail …",
        data_dir.display()
    )))
}

fn open_error(error: &OpenError, socket: &Path) -> CliError {
    match error {
        OpenError::Ledger { .. } | OpenError::NewerVersion(_) | OpenError::UnreadableRecord { .. } => {
            CliError::Damaged(error.to_string())
        }
        error => CliError::Unreachable(format!(
            "no daemon listens on {}, and the store cannot be opened: {error}",
            socket.display()
        )),
    }
}

fn api_url(question: &str) -> String {
    format!("http://localhost/api/v1/{question}")
}

fn sink_url(sink: &str, what: &str) -> Result<reqwest::Url, CliError> {
    let mut url = reqwest::Url::parse(&api_url("sinks/")).map_err(|error| store_error(&error))?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend([sink, what]);
    }
    Ok(url)
}

async fn request_stream<T>(request: reqwest::RequestBuilder) -> Result<NdjsonStream<T>, CliError> {
    Ok(NdjsonStream { response: send_request(request).await?, buffer: Vec::new(), item: PhantomData })
}

async fn request_json<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, CliError> {
    send_request(request).await?.json().await.map_err(unreachable_error)
}

async fn send_request(request: reqwest::RequestBuilder) -> Result<Response, CliError> {
    let response = request.send().await.map_err(unreachable_error)?;
    let status = response.status();
    if !status.is_success() {
        let text = response.text().await.unwrap_or_default();
        return Err(if status.is_client_error() { CliError::Usage(text) } else { CliError::Damaged(text) });
    }
    Ok(response)
}

fn unreachable_error(error: reqwest::Error) -> CliError {
    CliError::Unreachable(format!("the daemon does not answer: {}", error.without_url()))
}

fn store_error(error: &dyn std::fmt::Display) -> CliError {
    CliError::Damaged(error.to_string())
}
