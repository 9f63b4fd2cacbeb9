use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_table;
use crate::cli::{CliError, Context, eprint_line, print_json, print_line, time_expr};
use mailtrail_mail::Clock;
use mailtrail_relay::admin::{SinkDeadLetterView, SinkReplayRequest, SinkView};
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum SinkCommand {
    /// Show the position and state of each sink
    #[command(after_help = "Example: mailtrail sink list")]
    List,
    /// List events that a sink rejected permanently
    #[command(after_help = "Example: mailtrail sink dead odoo")]
    Dead {
        /// Name of the sink
        name: String,
    },
    /// Deliver events again since a time; ids stay the same
    #[command(after_help = "Example: mailtrail sink replay hook --since '2 days ago'")]
    Replay {
        /// Name of the sink
        name: String,
        /// Start time; delivery may begin a little earlier
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        since: String,
        /// Reason for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub async fn run(context: &Context, command: &SinkCommand) -> Result<(), CliError> {
    let client = AdminClient::open(context).await?;
    match command {
        SinkCommand::List => print_sinks(context, &client.list_sinks().await?),
        SinkCommand::Dead { name } => {
            print_dead_letters(context, &client.list_sink_dead_letters(name).await?)
        }
        SinkCommand::Replay { name, since, reason } => {
            let since = time_expr::parse(since, Clock::System.now()).map_err(CliError::Usage)?.as_millis();
            client.replay_sink(name, &SinkReplayRequest { since, reason: reason.clone() }).await
        }
    }
}

fn print_sinks(context: &Context, sinks: &[SinkView]) -> Result<(), CliError> {
    if sinks.is_empty() {
        eprint_line("mailtrail: no [[sink]] is configured");
        return Err(CliError::AlreadyReported);
    }
    if context.json {
        sinks.iter().for_each(print_json);
        return Ok(());
    }
    let row = |sink: &SinkView| {
        let stand = if sink.is_up_to_date { "up to date" } else { "behind" };
        vec![
            sink.sink.clone(),
            stand.to_owned(),
            sink.at.as_deref().map(time_expr::format_local).unwrap_or_default(),
            sink.cursor.clone().unwrap_or_default(),
            sink.refused.to_string(),
            sink.delayed.to_string(),
        ]
    };
    let rows: Vec<_> = sinks.iter().map(row).collect();
    let header = ["SINK", "STATE", "NOTED", "CURSOR", "REFUSED", "DELAYED"];
    format_table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(print_line);
    Ok(())
}

fn print_dead_letters(context: &Context, refused: &[SinkDeadLetterView]) -> Result<(), CliError> {
    if refused.is_empty() {
        eprint_line("mailtrail: the sink has rejected no event");
        return Err(CliError::AlreadyReported);
    }
    for one in refused {
        if context.json {
            print_json(one);
            continue;
        }
        let what = one.line.as_ref().map_or_else(
            || "(expired)".to_owned(),
            |line| {
                let id = line.id.as_deref().unwrap_or("(no send)");
                format!("{id}  {} {}", line.entry.event, line.entry.recipients.join(","))
            },
        );
        print_line(format!("{}  {what}  {}", time_expr::format_local(&one.at), one.why));
    }
    Ok(())
}
