//! The running relay: start, reload and stop.
//!
//! A generation is the running form of one configuration. SIGHUP starts a new one on the sockets of its predecessor;
//! sessions continue with the settings that they started with. A stop ends within `SHUTDOWN_TIMEOUT`, whatever clients
//! and upstreams do: unfinished work is then as safe as after `kill -9`.

mod background;
mod context;
mod exclusive_task;
mod generation;
mod internal_mail;
mod listeners;
mod provider_apis;
mod queue;
mod socket_activation;
mod sockets;
mod start_error;
mod storage_full;
mod store_maintenance;
mod supervisor;

pub(crate) use sockets::Sockets;
pub use start_error::StartError;

use crate::config::Config;
use crate::daemon::context::DaemonContext;
use crate::daemon::generation::{Generation, StagedGeneration};
use crate::daemon::sockets::UnboundAddress;
use crate::daemon::storage_full::Refusing;
use mailtrail_mail::Clock;
use mailtrail_store::{OpenReport, Store};
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A relay that runs in this process.
pub struct Daemon {
    context: DaemonContext,
    generation: Generation,
    open_report: OpenReport,
}

/// Changes by a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Sections of the configuration that differ.
    pub changed_sections: Vec<&'static str>,
    /// Keys that differ and need a restart.
    pub needs_restart: Vec<&'static str>,
    /// Addresses with a new listener.
    pub opened: Vec<String>,
    /// Addresses without a listener from now on.
    pub closed: Vec<String>,
}

impl Daemon {
    /// Maximum duration of a stop. The queue alone takes up to 20 s for unfinished attempts.
    pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(28);

    /// Maximum wait for sessions before a successor takes over: some Odoo queue runs take minutes.
    pub const SESSION_DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

    /// Starts the relay; clients can connect when it returns.
    pub async fn start(
        config: &Config,
        clock: Clock,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        Self::start_on(Sockets::default(), config, clock, metrics).await
    }

    /// Starts the relay on sockets that are open already. Unused ones are logged and closed.
    pub async fn start_on(
        sockets: Sockets,
        config: &Config,
        clock: Clock,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        let mut refusing = Refusing::new(config, sockets);
        let (store, open_report) =
            store_maintenance::open_store(&config.data_dir, clock, &mut refusing).await?;
        let context = DaemonContext::new(store, clock, metrics);
        match context.store.newest_acceptance() {
            Ok(newest) => {
                newest.into_iter().for_each(|newest| context.clock_watch.compare_with_stored(newest))
            }
            Err(error) => tracing::warn!(%error, "cannot compare the clock with stored mail"),
        }
        // Creating the self-signed pair needs disk space.
        while let Err(error) = listeners::read_certificates(config) {
            refusing.wait(error.into()).await?;
        }
        let prepared = StagedGeneration::new(&context, config.clone(), refusing.into_sockets(), None)?;
        for place in prepared.unused_sockets.addresses() {
            tracing::warn!(place, "inherited socket closed; no `address` names it");
        }
        let generation = prepared.activate(&context, None);
        Ok(Self { context, generation, open_report })
    }

    /// Replaces the configuration. An error changes nothing.
    pub fn reload(&mut self, config: Config) -> Result<ReloadReport, StartError> {
        let (config, needs_restart) = config.limit_to_reloadable(&self.generation.config);
        let changed_sections = config.changed_sections(&self.generation.config);
        let before: Vec<_> = self.generation.sockets.addresses().collect();
        let offered = self.generation.sockets.clone();
        let prepared = StagedGeneration::new(&self.context, config, offered, Some(&self.generation))?;
        let closed = prepared.unused_sockets.addresses().collect();
        self.generation = prepared.activate(&self.context, Some(&self.generation));
        let opened = self.generation.sockets.addresses().filter(|place| !before.contains(place)).collect();
        Ok(ReloadReport { changed_sections, needs_restart, opened, closed })
    }

    /// Returns the addresses that could not be bound so far; [`Self::bind_missing`] retries.
    pub fn unbound_addresses(&self) -> Vec<String> {
        self.generation.sockets.unbound().iter().map(UnboundAddress::address).collect()
    }

    /// Binds missing addresses, if one of them can be bound now. Returns those that are no longer missing.
    pub fn bind_missing(&mut self) -> Result<Vec<String>, StartError> {
        if !self.generation.sockets.unbound().iter().any(UnboundAddress::can_bind) {
            return Ok(Vec::new());
        }
        let config = self.generation.config.clone();
        Ok(self.reload(config)?.opened)
    }

    /// Returns the active configuration.
    pub fn config(&self) -> &Config {
        &self.generation.config
    }

    /// Returns the addresses of the SMTP listeners in the order of the configuration.
    pub fn smtp_addresses(&self) -> &[SocketAddr] {
        &self.generation.smtp_addresses
    }

    /// Returns the address of the webhook listener, if there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.generation.http_address
    }

    /// Returns the store of the process.
    pub fn store(&self) -> &Store {
        &self.context.store
    }

    /// Returns the report on opening the store.
    pub fn open_report(&self) -> &OpenReport {
        &self.open_report
    }

    /// Returns, with the reason and a remedy, if the relay cannot continue.
    pub async fn wait_failed(&self) -> String {
        tokio::select! {
            reason = self.context.store.wait_failed() => format!("the ledger failed: {reason}; a restart rebuilds it"),
            reason = self.context.supervisor.wait_failed() => format!("{reason}; see the log, restart the relay"),
        }
    }

    /// Accepts no new clients, lets running transactions and attempts end, and makes everything durable. New clients get
    /// 421, or wait if the socket is inherited.
    pub async fn stop(self) {
        self.shut_down().await.remove_socket_files();
    }

    /// Waits until all current sessions have ended, [`Self::SESSION_DRAIN_TIMEOUT`] at most. The relay works on in the
    /// meantime.
    pub fn wait_for_sessions(&self) -> impl Future<Output = ()> + use<> {
        let connections = self.context.connections.clone();
        async move { connections.wait_for_current(Self::SESSION_DRAIN_TIMEOUT).await }
    }

    /// Stops like [`Self::stop`], but keeps the sockets open: new clients wait for the successor process.
    pub async fn stop_for_handover(self) -> Sockets {
        self.generation.close_listeners();
        self.shut_down().await
    }

    async fn shut_down(self) -> Sockets {
        let Self { context, generation, .. } = self;
        let end = Instant::now() + Self::SHUTDOWN_TIMEOUT;
        context.mail_shutdown.cancel();
        context.mail_tasks.close();
        let mail = async { tokio::join!(context.connections.drain(), context.mail_tasks.wait()) };
        if timeout(MAIL_DRAIN_TIMEOUT, mail).await.is_err() {
            tracing::warn!("shutdown timed out; the next start recovers unfinished attempts");
        }
        context.http_shutdown.cancel();
        context.http_tasks.close();
        // An idle client must not delay the stop.
        let _ = timeout(HTTP_DRAIN_TIMEOUT, context.http_tasks.wait()).await;
        // Everything is on disk already; the checkpoint shortens the next start.
        let _ = timeout_at(end, context.store.checkpoint()).await;
        generation.close_listeners();
        generation.sockets
    }
}

/// Maximum wait for running attempts and sessions, and the records that they write.
const MAIL_DRAIN_TIMEOUT: Duration = Duration::from_secs(24);
const HTTP_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_relay::alarms::AlarmKind;
    use std::collections::BTreeMap;
    use std::path::Path;

    const ALL_TASKS: &str = r#"
[server]
hostname = "localhost"
data_dir = "DATA"
[[listener]]
address = "127.0.0.1:0"
auth = "none"
tls = "none"
[[upstream]]
name = "up"
provider = "plain"
host = "127.0.0.1"
port = 1
tls = "none"
[[sink]]
name = "events"
kind = "file"
path = "DATA/events.jsonl"
[alarms]
webhook_url = "http://127.0.0.1:1/"
webhook_secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
[heartbeat]
to = "ops@example.com"
from = "relay@example.com"
"#;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_background_task_is_restarted_after_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let text = ALL_TASKS.replace("DATA", directory.path().to_str().unwrap());
        let config = crate::config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        let (faults, alarms) = (&daemon.context.supervisor.faults, &daemon.context.alarms);
        let expected = [
            "alarm-notifier",
            "certificates",
            "consistency-checker",
            "dsn-reporter",
            "heartbeat",
            "inbound-delivery",
            "queue",
            "queue-gauges",
            "reconciler",
            "sink-events",
            "store-maintenance",
            "suppression-sync",
            "threshold-monitor",
        ];
        wait_until("all tasks", || faults.names() == expected).await;
        // Without a provider's API these have nothing to do and return at once.
        let idle = ["inbound-delivery", "reconciler", "suppression-sync"];
        for name in expected.iter().filter(|name| !idle.contains(name)) {
            let alarmed =
                || alarms.list().iter().any(|alarm| alarm.kind == AlarmKind::Task && alarm.subject == **name);
            assert!(!alarmed(), "{name}");
            faults.panic_in(name);
            wait_until(name, || faults.starts(name) == 2).await;
            assert!(alarmed(), "{name}");
        }
        daemon.stop().await;
    }

    async fn wait_until(what: &str, is_true: impl Fn() -> bool) {
        for _ in 0..3000 {
            if is_true() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 30 s: {what}");
    }
}
