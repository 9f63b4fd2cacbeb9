use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_table;
use crate::cli::{CliError, Context, print_json, print_line, time_expr};
use mailtrail_relay::admin::{BreakerRequest, BreakerView};
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum BreakerCommand {
    /// Show the state of each upstream
    #[command(after_help = "Example: mailtrail breaker status")]
    Status,
    /// Stop sending to an upstream until its breaker is closed, also across restarts
    #[command(after_help = "Example: mailtrail breaker open mailgun --reason 'moving to the EU region'")]
    Open {
        /// Name of the upstream
        upstream: String,
        /// Reason for the log
        #[arg(long)]
        reason: String,
    },
    /// Resume sending to an upstream
    #[command(after_help = "Example: mailtrail breaker close mailgun")]
    Close {
        /// Name of the upstream
        upstream: String,
        /// Reason for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub async fn run(context: &Context, command: &BreakerCommand) -> Result<(), CliError> {
    let client = AdminClient::open(context).await?;
    let views = match command {
        BreakerCommand::Status => client.list_breakers().await?,
        BreakerCommand::Open { upstream, reason } => {
            client.set_breaker(upstream, &BreakerRequest { open: true, reason: reason.clone() }).await?
        }
        BreakerCommand::Close { upstream, reason } => {
            client.set_breaker(upstream, &BreakerRequest { open: false, reason: reason.clone() }).await?
        }
    };
    if context.json {
        views.iter().for_each(print_json);
        return Ok(());
    }
    let row = |view: &BreakerView| {
        vec![
            view.upstream.clone(),
            view.state.clone(),
            format_until(view),
            view.connections.to_string(),
            view.slowed_to.map(|a_minute| format!("{a_minute:.1}/min")).unwrap_or_default(),
            view.quota_used.map(|percent| format!("{percent} %")).unwrap_or_default(),
            view.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = views.iter().map(row).collect();
    let header = ["UPSTREAM", "BREAKER", "UNTIL", "CONNECTIONS", "SLOWED TO", "QUOTA", "REASON"];
    format_table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(print_line);
    Ok(())
}

/// Time at which the upstream is tried again, if known.
fn format_until(view: &BreakerView) -> String {
    match (&view.until, &view.paused_until) {
        (Some(until), _) | (None, Some(until)) => time_expr::format_local(until),
        (None, None) if view.state == "open" => "closed by hand".to_owned(),
        (None, None) => String::new(),
    }
}
