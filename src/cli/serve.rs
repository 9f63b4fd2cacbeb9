use crate::cli::reexec::Successor;
use crate::cli::sandbox_upstream::Understudy;
use crate::cli::{Context, Trouble, config_source, sandbox_upstream, sd_notify};
use crate::config::Config;
use crate::daemon::{Daemon, Sockets, StartError};
use crate::logging::{Form, Format};
use crate::{logging, metrics};
use mailtrail_mail::{Clock, descriptors};
use mailtrail_store::OpenError;
use metrics_exporter_prometheus::PrometheusHandle;
use std::pin::Pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Use a built-in fake provider as the upstream: Brevo where the first upstream is that, else Mailgun; needs no account
    /// and no configuration
    #[arg(long)]
    sandbox: bool,
    /// With --sandbox: factor on all of the provider's times
    #[arg(long, default_value_t = 0.01, requires = "sandbox")]
    pace: f64,
}

/// What stands below the options in the help.
pub const SIGNALS: &str = "\
Signals:
  TERM, INT  stop: transactions and attempts under way end first; within 30 s
  HUP        reload the configuration; sessions go on, a bad file changes nothing
  USR2       restart, or run the upgraded program, when the sessions that are there have ended, within 5 min, or at a
             second USR2; the sockets stay open, no connect is refused

Sockets that systemd passes on (LISTEN_FDS) are used for the `address` they are bound to.

Example: mailtrail serve --sandbox";

/// Runs the relay until it is told to stop, or to make room for a successor.
pub async fn run(context: &Context, arguments: &Arguments) -> Result<Option<Successor>, Trouble> {
    let successor = Successor::of_this_process(context);
    // From here on no signal ends the process by itself.
    let mut signals = Signals::new()?;
    let config = load(context, arguments)?;
    let form = match config.log.format {
        Format::Text => Form::Text { coloured: context.colour.is_for(&std::io::stderr()) },
        Format::Json => Form::Json,
        Format::Journald => Form::Journal(&config.log.journal),
    };
    let _log = logging::start(config.log.level, form, config.log.addresses);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised and stays as it is");
    }
    descriptors::fill_reserve();
    let metrics = metrics::install().ok();
    let signs = sd_notify::Signs::of_the_runtime();
    let started = tokio::select! {
        started = Service::start(config, arguments, metrics.clone()) => started?,
        // Opening a large store takes a while, and breaking it off is as safe as kill -9.
        () = signals.stop() => return Ok(None),
    };
    drop(signs);
    let upkeep = metrics.map(|metrics| tokio::spawn(upkeep(metrics)));
    let ended = started.run(context, arguments, signals, successor).await;
    if let Some(upkeep) = upkeep {
        upkeep.abort();
    }
    ended
}

fn load(context: &Context, arguments: &Arguments) -> Result<Config, Trouble> {
    match (&context.config, arguments.sandbox) {
        (None, true) => config_source::sandbox(),
        (None, false) if config_source::file(context).is_none() => Err(Trouble::Configuration(
            "there is no configuration: name one with --config, or try `mailtrail serve --sandbox`".into(),
        )),
        _ => config_source::load(context),
    }
}

/// The relay, and the sandbox where that is its upstream.
struct Service {
    daemon: Daemon,
    understudy: Option<Understudy>,
}

/// What the operator says.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    restart: Signal,
}

enum Wish {
    Stop,
    Reload,
    Restart,
}

impl Signals {
    fn new() -> Result<Self, Trouble> {
        let listen =
            |kind| signal(kind).map_err(|error| Trouble::Failed(format!("signals cannot be heard: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            restart: listen(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.restart.recv() => Wish::Restart,
        }
    }

    /// Returns when we are told to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Service {
    async fn start(
        config: Config,
        arguments: &Arguments,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, Trouble> {
        let sockets = Sockets::inherited();
        let service = if arguments.sandbox {
            let stage = sandbox_upstream::start(sockets, config, arguments.pace, metrics).await?;
            Self { daemon: stage.daemon, understudy: Some(stage.understudy) }
        } else {
            let daemon = Daemon::start_on(sockets, &config, Clock::System, metrics).await?;
            Self { daemon, understudy: None }
        };
        service.announce();
        Ok(service)
    }

    fn announce(&self) {
        let (daemon, report) = (&self.daemon, self.daemon.report());
        let missing = daemon.missing();
        let listeners = daemon.config().listeners.iter().zip(daemon.smtp_addresses());
        for (listener, address) in listeners.filter(|(_, address)| !missing.contains(&address.to_string())) {
            tracing::info!(%address, tls = ?listener.tls, "listening for mail");
        }
        if let Some(address) = daemon.http_address() {
            tracing::info!(%address, "listening for webhooks");
        }
        if let Some(understudy) = &self.understudy {
            let address = understudy.sandbox.smtp_address();
            tracing::info!(%address, "the sandbox stands in for the upstream");
        }
        tracing::info!(
            replayed = report.replayed,
            rebuilt = report.rebuilt.is_some(),
            damaged = report.damaged.len(),
            "ready"
        );
    }

    /// Where it can be reached, in a line.
    fn status(&self) -> String {
        let mail: Vec<_> = self.daemon.smtp_addresses().iter().map(ToString::to_string).collect();
        let mail = format!("mail on {}", mail.join(", "));
        let http = self.daemon.http_address().map(|http| format!("; webhooks on {http}")).unwrap_or_default();
        let sandbox = if self.understudy.is_some() { "; the upstream is the sandbox" } else { "" };
        format!("{mail}{http}{sandbox}")
    }

    /// Works until it is told to stop.
    async fn run(
        mut self,
        context: &Context,
        arguments: &Arguments,
        mut signals: Signals,
        successor: Successor,
    ) -> Result<Option<Successor>, Trouble> {
        sd_notify::ready(&self.status());
        let signs = sd_notify::Signs::of_the_store(self.daemon.store().clone());
        // Set once a successor is to take over.
        let mut outlasting: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        loop {
            let wish = tokio::select! {
                wish = signals.next() => wish,
                () = ended(outlasting.as_mut()) => break,
                () = tokio::time::sleep(OPEN_AGAIN), if !self.daemon.missing().is_empty() => {
                    self.open_missing();
                    continue;
                }
                reason = self.daemon.failed() => {
                    self.stop().await;
                    return Err(Trouble::Failed(format!("the ledger failed: {reason}; a restart rebuilds it")));
                }
            };
            match wish {
                Wish::Reload => {
                    sd_notify::reloading("reading the configuration");
                    self.reload(load(context, arguments));
                    sd_notify::ready(&self.status());
                }
                Wish::Stop => {
                    self.stop().await;
                    return Ok(None);
                }
                Wish::Restart if outlasting.is_some() => break,
                Wish::Restart => match successor.prove().await {
                    Ok(()) => {
                        tracing::info!(
                            "SIGUSR2: a successor takes over when the sessions that are there have ended; another SIGUSR2 \
                             does not wait for them"
                        );
                        sd_notify::tell_status("waiting for sessions to end before a successor takes over");
                        outlasting = Some(Box::pin(self.daemon.outlast_sessions()));
                    }
                    Err(reason) => {
                        tracing::error!(reason, "SIGUSR2: the program would not start, this one goes on");
                    }
                },
            }
        }
        drop(signs);
        let _signs = sd_notify::Signs::of_the_runtime();
        let sockets = self.hand_over().await;
        // Who has wished for an end meanwhile gets it.
        let stop = tokio::time::timeout(Duration::ZERO, signals.stop()).await.is_ok();
        if stop {
            sockets.remove_files();
            return Ok(None);
        }
        Ok(Some(successor.with(sockets)))
    }

    /// Listens where something was in the way, if it is no more.
    fn open_missing(&mut self) {
        match self.daemon.open_missing() {
            Ok(opened) => opened.iter().for_each(|place| tracing::info!(place, "listening")),
            Err(error) => tracing::warn!(%error, "a listener cannot be opened yet"),
        }
    }

    /// Goes on with another configuration, if that is good.
    fn reload(&mut self, config: Result<Config, Trouble>) {
        let config = match config {
            Ok(config) => config,
            Err(trouble) => {
                let faults = trouble.text();
                tracing::error!(%faults, "SIGHUP: the configuration has faults, the running one stays");
                return;
            }
        };
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let config = match &self.understudy {
            Some(understudy) => understudy.replace(config),
            None => config,
        };
        match self.daemon.reload(config) {
            Ok(changes) => {
                let config = self.daemon.config();
                logging::change(config.log.level, config.log.addresses);
                for place in changes.opened {
                    tracing::info!(place, "listening");
                }
                for place in changes.closed {
                    tracing::info!(place, "listening no more");
                }
                for key in changes.waiting {
                    tracing::warn!(key, "SIGHUP: this changes with a restart only, what was there stays");
                }
                let changed = changes.sections.join(", ");
                tracing::info!(changed, "SIGHUP: the configuration was applied, certificates were read");
            }
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the configuration cannot be used, the running one stays");
            }
        }
        if let Some(understudy) = &self.understudy {
            understudy.report_to(&self.daemon);
        }
    }

    async fn stop(self) {
        sd_notify::stopping();
        tracing::info!("stopping");
        self.daemon.stop().await;
        if let Some(understudy) = self.understudy {
            understudy.sandbox.stop().await;
        }
    }

    async fn hand_over(self) -> Sockets {
        sd_notify::reloading("making room for a successor");
        tracing::info!("SIGUSR2: making room for a successor");
        let sockets = self.daemon.hand_over().await;
        if let Some(understudy) = self.understudy {
            understudy.sandbox.stop().await;
        }
        sockets
    }
}

impl From<StartError> for Trouble {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Tls(error) => Self::Configuration(error.to_string()),
            StartError::Store(error @ (OpenError::Newer(_) | OpenError::Unreadable { .. })) => {
                Self::Damaged(error.to_string())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Returns when that has ended; never where there is nothing.
async fn ended(waiting: Option<&mut Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

/// Histograms are folded up now and then, or they grow.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

/// Time between two tries to listen on a place that something else has.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
const UPKEEP: Duration = Duration::from_secs(5);
