use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::{Context, Trouble, say, say_json, time_expr};
use mailtrail_relay::admin::{BreakerOrder, BreakerView};
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// How the upstreams do
    #[command(after_help = "Example: mailtrail breaker status")]
    Status,
    /// Send an upstream nothing until its breaker is closed again, also after restarts
    #[command(after_help = "Example: mailtrail breaker open mailgun --reason 'moving to the EU region'")]
    Open {
        /// The upstream's name
        upstream: String,
        /// Why, for the log
        #[arg(long)]
        reason: String,
    },
    /// Send an upstream mail again
    #[command(after_help = "Example: mailtrail breaker close mailgun")]
    Close {
        /// The upstream's name
        upstream: String,
        /// Why, for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let desk = Desk::open(context).await?;
    let views = match command {
        Command::Status => desk.breakers().await?,
        Command::Open { upstream, reason } => {
            desk.switch(upstream, &BreakerOrder { open: true, reason: reason.clone() }).await?
        }
        Command::Close { upstream, reason } => {
            desk.switch(upstream, &BreakerOrder { open: false, reason: reason.clone() }).await?
        }
    };
    if context.json {
        views.iter().for_each(say_json);
        return Ok(());
    }
    let row = |view: &BreakerView| {
        vec![
            view.upstream.clone(),
            view.state.clone(),
            until(view),
            view.connections.to_string(),
            view.slowed_to.map(|a_minute| format!("{a_minute:.1}/min")).unwrap_or_default(),
            view.quota_used.map(|percent| format!("{percent} %")).unwrap_or_default(),
            view.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = views.iter().map(row).collect();
    let header = ["UPSTREAM", "BREAKER", "UNTIL", "CONNECTIONS", "SLOWED TO", "QUOTA", "REASON"];
    table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(say);
    Ok(())
}

/// When it is sent mail again, as far as that is known.
fn until(view: &BreakerView) -> String {
    match (&view.until, &view.paused_until) {
        (Some(until), _) | (None, Some(until)) => time_expr::shown(until),
        (None, None) if view.state == "open" => "closed by hand".to_owned(),
        (None, None) => String::new(),
    }
}
