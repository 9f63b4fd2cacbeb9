use crate::cli::reexec::Reexec;
use crate::cli::sandbox_upstream::SandboxUpstream;
use crate::cli::{CliError, Context, config_source, sandbox_upstream, sd_notify};
use crate::config::Config;
use crate::daemon::{Daemon, Sockets, StartError};
use crate::logging::{LogFormat, LogOutput};
use crate::{logging, metrics};
use mailtrail_mail::{Clock, descriptors};
use mailtrail_store::OpenError;
use metrics_exporter_prometheus::PrometheusHandle;
use std::pin::Pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Use a built-in fake provider as the upstream: Brevo where the first upstream is that, else Mailgun; needs no account
    /// and no configuration
    #[arg(long)]
    sandbox: bool,
    /// With --sandbox: factor for all delays of the provider
    #[arg(long, default_value_t = 0.01, requires = "sandbox")]
    pace: f64,
}

/// Help text after the options.
pub const AFTER_HELP: &str = "\
Signals:
  TERM, INT  stop after transactions and attempts in progress, within 30 s
  HUP        reload the configuration; sessions continue, an invalid file changes nothing
  USR2       restart, or run the upgraded program, when the open sessions have ended, within 5 min, or at a
             second USR2; the sockets stay open, no connection is refused

Sockets passed by systemd (LISTEN_FDS) are used for the `address` they are bound to.

Example: mailtrail serve --sandbox";

/// Runs the relay until a signal stops it. Returns the successor to execute, if there is one.
pub async fn run(context: &Context, arguments: &ServeArgs) -> Result<Option<Reexec>, CliError> {
    let successor = Reexec::from_current_process(context);
    // From here on, no signal ends the process by itself.
    let mut signals = Signals::new()?;
    let config = load_config(context, arguments)?;
    let form = match config.log.format {
        LogFormat::Text => {
            LogOutput::Text { use_color: context.color_choice.is_enabled_for(&std::io::stderr()) }
        }
        LogFormat::Json => LogOutput::Json,
        LogFormat::Journald => LogOutput::Journald(&config.log.journald_socket),
    };
    let _log = logging::init(config.log.level, form, config.log.address_redaction);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    descriptors::fill_reserve();
    let metrics = metrics::install_recorder().ok();
    let signs = sd_notify::Watchdog::for_startup();
    let started = tokio::select! {
        started = Service::start(config, arguments, metrics.clone()) => started?,
        // Opening a large store takes a while. Interrupting it is as safe as kill -9.
        () = signals.wait_for_stop() => return Ok(None),
    };
    drop(signs);
    let upkeep = metrics.map(|metrics| tokio::spawn(run_metrics_upkeep(metrics)));
    let ended = started.run(context, arguments, signals, successor).await;
    if let Some(upkeep) = upkeep {
        upkeep.abort();
    }
    ended
}

fn load_config(context: &Context, arguments: &ServeArgs) -> Result<Config, CliError> {
    match (&context.config, arguments.sandbox) {
        (None, true) => config_source::sandbox_config(),
        (None, false) if config_source::config_file(context).is_none() => Err(CliError::Configuration(
            "there is no configuration: name one with --config, or try `mailtrail serve --sandbox`".into(),
        )),
        _ => config_source::load_config(context),
    }
}

/// The relay, and the sandbox if it is the upstream.
struct Service {
    daemon: Daemon,
    sandbox_upstream: Option<SandboxUpstream>,
}

/// Signals to the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    restart: Signal,
}

enum SignalAction {
    Stop,
    Reload,
    Restart,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Other(format!("cannot install signal handlers: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            restart: listen(SignalKind::user_defined2())?,
        })
    }

    async fn next_action(&mut self) -> SignalAction {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.restart.recv() => SignalAction::Restart,
        }
    }

    /// Returns after SIGINT or SIGTERM.
    async fn wait_for_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Service {
    async fn start(
        config: Config,
        arguments: &ServeArgs,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, CliError> {
        let sockets = Sockets::from_env();
        let service = if arguments.sandbox {
            let stage =
                sandbox_upstream::start_sandbox_relay(sockets, config, arguments.pace, metrics).await?;
            Self { daemon: stage.daemon, sandbox_upstream: Some(stage.upstream) }
        } else {
            let daemon = Daemon::start_on(sockets, &config, Clock::System, metrics).await?;
            Self { daemon, sandbox_upstream: None }
        };
        service.log_addresses();
        Ok(service)
    }

    fn log_addresses(&self) {
        let (daemon, report) = (&self.daemon, self.daemon.open_report());
        let missing = daemon.unbound_addresses();
        let listeners = daemon.config().listeners.iter().zip(daemon.smtp_addresses());
        for (listener, address) in listeners.filter(|(_, address)| !missing.contains(&address.to_string())) {
            tracing::info!(%address, tls = ?listener.tls, "listening for mail");
        }
        if let Some(address) = daemon.http_address() {
            tracing::info!(%address, "listening for webhooks");
        }
        if let Some(understudy) = &self.sandbox_upstream {
            let address = understudy.sandbox.smtp_address();
            tracing::info!(%address, "the sandbox replaces the upstream");
        }
        tracing::info!(
            replayed = report.replayed_records,
            rebuilt = report.rebuild_reason.is_some(),
            damaged = report.corrupt_ranges.len(),
            "ready"
        );
    }

    /// Status line with the listen addresses.
    fn status_line(&self) -> String {
        let mail: Vec<_> = self.daemon.smtp_addresses().iter().map(ToString::to_string).collect();
        let mail = format!("mail on {}", mail.join(", "));
        let http = self.daemon.http_address().map(|http| format!("; webhooks on {http}")).unwrap_or_default();
        let sandbox = if self.sandbox_upstream.is_some() { "; the upstream is the sandbox" } else { "" };
        format!("{mail}{http}{sandbox}")
    }

    /// Handles signals until one of them stops the relay.
    async fn run(
        mut self,
        context: &Context,
        arguments: &ServeArgs,
        mut signals: Signals,
        successor: Reexec,
    ) -> Result<Option<Reexec>, CliError> {
        sd_notify::notify_ready(&self.status_line());
        let signs = sd_notify::Watchdog::for_store(self.daemon.store().clone());
        // Set while sessions drain before a successor takes over.
        let mut outlasting: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        loop {
            let wish = tokio::select! {
                wish = signals.next_action() => wish,
                () = wait_for_sessions(outlasting.as_mut()) => break,
                () = tokio::time::sleep(BIND_RETRY_INTERVAL), if !self.daemon.unbound_addresses().is_empty() => {
                    self.bind_missing();
                    continue;
                }
                reason = self.daemon.wait_failed() => {
                    self.stop().await;
                    return Err(CliError::Other(reason));
                }
            };
            match wish {
                SignalAction::Reload => {
                    sd_notify::notify_reloading("reading the configuration");
                    self.reload(load_config(context, arguments));
                    sd_notify::notify_ready(&self.status_line());
                }
                SignalAction::Stop => {
                    self.stop().await;
                    return Ok(None);
                }
                SignalAction::Restart if outlasting.is_some() => break,
                SignalAction::Restart => match successor.check_config().await {
                    Ok(()) => {
                        tracing::info!(
                            "SIGUSR2: the successor starts when the open sessions have ended; a second SIGUSR2 \
                             starts it at once"
                        );
                        sd_notify::notify_status("waiting for sessions to end before the successor starts");
                        outlasting = Some(Box::pin(self.daemon.wait_for_sessions()));
                    }
                    Err(reason) => {
                        tracing::error!(reason, "SIGUSR2: the new program does not start; not replaced");
                    }
                },
            }
        }
        drop(signs);
        let _signs = sd_notify::Watchdog::for_startup();
        let sockets = self.stop_for_reexec().await;
        // A stop signal that arrived during the restart is not lost.
        let stop = tokio::time::timeout(Duration::ZERO, signals.wait_for_stop()).await.is_ok();
        if stop {
            sockets.remove_socket_files();
            return Ok(None);
        }
        Ok(Some(successor.with_sockets(sockets)))
    }

    /// Binds addresses that were in use at the start, as soon as they are free.
    fn bind_missing(&mut self) {
        match self.daemon.bind_missing() {
            Ok(opened) => opened.iter().for_each(|place| tracing::info!(place, "listening")),
            Err(error) => tracing::warn!(%error, "cannot bind an address; will retry"),
        }
    }

    /// Applies a new configuration if it is valid; otherwise logs the faults and keeps the old one.
    fn reload(&mut self, config: Result<Config, CliError>) {
        let config = match config {
            Ok(config) => config,
            Err(trouble) => {
                let faults = trouble.message();
                tracing::error!(%faults, "SIGHUP: invalid configuration; not changed");
                return;
            }
        };
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let config = match &self.sandbox_upstream {
            Some(understudy) => understudy.patch_config(config),
            None => config,
        };
        match self.daemon.reload(config) {
            Ok(changes) => {
                let config = self.daemon.config();
                logging::reconfigure(config.log.level, config.log.address_redaction);
                for place in changes.opened {
                    tracing::info!(place, "listening");
                }
                for place in changes.closed {
                    tracing::info!(place, "listener closed");
                }
                for key in changes.needs_restart {
                    tracing::warn!(key, "SIGHUP: key changes only with a restart");
                }
                let changed = changes.changed_sections.join(", ");
                tracing::info!(changed, "SIGHUP: configuration and certificates reloaded");
            }
            Err(error) => {
                tracing::error!(%error, "SIGHUP: cannot apply the configuration; not changed");
            }
        }
        if let Some(understudy) = &self.sandbox_upstream {
            understudy.set_webhook_target(&self.daemon);
        }
    }

    async fn stop(self) {
        sd_notify::notify_stopping();
        tracing::info!("stopping");
        self.daemon.stop().await;
        if let Some(understudy) = self.sandbox_upstream {
            understudy.sandbox.stop().await;
        }
    }

    async fn stop_for_reexec(self) -> Sockets {
        sd_notify::notify_reloading("making room for a successor");
        tracing::info!("SIGUSR2: making room for a successor");
        let sockets = self.daemon.stop_for_handover().await;
        if let Some(understudy) = self.sandbox_upstream {
            understudy.sandbox.stop().await;
        }
        sockets
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Tls(error) => Self::Configuration(error.to_string()),
            StartError::Store(error @ (OpenError::NewerVersion(_) | OpenError::UnreadableRecord { .. })) => {
                Self::Damaged(error.to_string())
            }
            error => Self::Other(error.to_string()),
        }
    }
}

/// Returns when the sessions have ended; never if there are none to wait for.
async fn wait_for_sessions(waiting: Option<&mut Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

/// Histograms are folded periodically; otherwise they grow without bound.
async fn run_metrics_upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
        metrics.run_upkeep();
    }
}

/// Interval between attempts to bind an address that is in use.
const BIND_RETRY_INTERVAL: Duration = Duration::from_secs(1);
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
