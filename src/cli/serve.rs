use super::{Context, Trouble, settings, stage};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::{Daemon, StartError};
use crate::logging;
use crate::sandbox::Sandbox;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Use a built-in fake Mailgun as the upstream; needs no account and no configuration
    #[arg(long)]
    sandbox: bool,
    /// With --sandbox: factor on all of Mailgun's times
    #[arg(long, default_value_t = 0.01, requires = "sandbox")]
    pace: f64,
}

pub async fn run(context: &Context, arguments: &Arguments) -> Result<(), Trouble> {
    let config = match (&context.config, arguments.sandbox) {
        (None, true) => settings::sandbox()?,
        (None, false) if settings::file(context).is_none() => {
            return Err(Trouble::Configuration(
                "there is no configuration: name one with --config, or try `mailtrail serve --sandbox`"
                    .into(),
            ));
        }
        _ => settings::load(context)?,
    };
    logging::start(config.log.level, config.log.format);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    open_files(&config);
    let metrics = PrometheusBuilder::new().install_recorder().ok();
    let mut terminate = listen_for(SignalKind::terminate())?;
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let mut hangup = listen_for(SignalKind::hangup())?;
    let (daemon, sandbox) = start(&config, arguments, metrics.clone()).await?;
    announce(&daemon, &config, sandbox.as_ref());
    let upkeep = metrics.map(|metrics| tokio::spawn(upkeep(metrics)));
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {
                daemon.renew_certificates();
                check_again(context, arguments);
            }
            reason = daemon.failed() => {
                break Err(Trouble::Damaged(format!("the ledger failed: {reason}; a restart rebuilds it")));
            }
        }
    };
    tracing::info!("stopping");
    if let Some(upkeep) = upkeep {
        upkeep.abort();
    }
    daemon.stop().await;
    if let Some(sandbox) = sandbox {
        sandbox.stop().await;
    }
    ended
}

async fn start(
    config: &Config,
    arguments: &Arguments,
    metrics: Option<PrometheusHandle>,
) -> Result<(Daemon, Option<Sandbox>), Trouble> {
    if arguments.sandbox {
        let stage = stage::start(config.clone(), arguments.pace, metrics).await?;
        return Ok((stage.daemon, Some(stage.sandbox)));
    }
    let started = Daemon::start(config, Clock::System, metrics).await;
    let daemon = started.map_err(|error| match error {
        StartError::Tls(error) => Trouble::Configuration(error.to_string()),
        error => Trouble::Failed(error.to_string()),
    })?;
    Ok((daemon, None))
}

fn announce(daemon: &Daemon, config: &Config, sandbox: Option<&Sandbox>) {
    let report = daemon.report();
    for (listener, address) in config.listeners.iter().zip(daemon.smtp_addresses()) {
        tracing::info!(%address, tls = ?listener.tls, "listening for mail");
    }
    if let Some(address) = daemon.http_address() {
        tracing::info!(%address, "listening for webhooks");
    }
    if let Some(sandbox) = sandbox {
        tracing::info!(address = %sandbox.smtp_address(), "the sandbox stands in for the upstream");
    }
    tracing::info!(
        replayed = report.replayed,
        rebuilt = report.rebuilt.is_some(),
        damaged = report.damaged.len(),
        "ready"
    );
}

/// What SIGHUP does beside the certificates: it says whether a restart would like the file.
fn check_again(context: &Context, arguments: &Arguments) {
    if arguments.sandbox && context.config.is_none() {
        return;
    }
    match settings::load(context) {
        Ok(_) => tracing::warn!("SIGHUP: the configuration is good; a restart applies it"),
        Err(Trouble::Configuration(faults)) => {
            tracing::error!(%faults, "SIGHUP: the configuration has faults, the running one stays");
        }
        Err(_) => {}
    }
}

/// Asks for as many open files as the system allows, and says so where they are too few.
fn open_files(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let outside: usize = config.upstreams.iter().map(|upstream| upstream.transport.connections).sum();
    let needed = (config.limits.connections + outside) as u64 + OWN_FILES;
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "too few open files for all connections; raise LimitNOFILE or lower `connections` in [limits]"
        );
    }
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Trouble> {
    signal(kind).map_err(|error| Trouble::Failed(format!("signals cannot be heard: {error}")))
}

/// Histograms are folded up now and then, or they grow.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

/// Files that are open beside connections: the store's, listeners, HTTP.
const OWN_FILES: u64 = 256;
const UPKEEP: Duration = Duration::from_secs(5);
