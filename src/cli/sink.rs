use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::{Context, Trouble, aside, say, say_json, time_expr};
use mailtrail_mail::Clock;
use mailtrail_relay::admin::{RefusedView, ReplaySink, SinkView};
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// How far each sink got
    #[command(after_help = "Example: mailtrail sink list")]
    List,
    /// What a sink refused for good, and why
    #[command(after_help = "Example: mailtrail sink dead odoo")]
    Dead {
        /// The sink
        name: String,
    },
    /// Tell a sink again what happened since then; each thing has the id that it had
    #[command(after_help = "Example: mailtrail sink replay hook --since '2 days ago'")]
    Replay {
        /// The sink
        name: String,
        /// From then on, or a little before
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        since: String,
        /// Why, for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let desk = Desk::open(context).await?;
    match command {
        Command::List => list(context, &desk.sinks().await?),
        Command::Dead { name } => dead(context, &desk.refused(name).await?),
        Command::Replay { name, since, reason } => {
            let since = time_expr::parse(since, Clock::System.now()).map_err(Trouble::Usage)?.millis();
            desk.replay_sink(name, &ReplaySink { since, reason: reason.clone() }).await
        }
    }
}

fn list(context: &Context, sinks: &[SinkView]) -> Result<(), Trouble> {
    if sinks.is_empty() {
        aside("mailtrail: no [[sink]] is configured");
        return Err(Trouble::Nothing);
    }
    if context.json {
        sinks.iter().for_each(say_json);
        return Ok(());
    }
    let row = |sink: &SinkView| {
        let stand = if sink.is_up_to_date { "up to date" } else { "behind" };
        vec![
            sink.sink.clone(),
            stand.to_owned(),
            sink.at.as_deref().map(time_expr::shown).unwrap_or_default(),
            sink.cursor.clone().unwrap_or_default(),
            sink.refused.to_string(),
            sink.delayed.to_string(),
        ]
    };
    let rows: Vec<_> = sinks.iter().map(row).collect();
    let header = ["SINK", "STATE", "NOTED", "CURSOR", "REFUSED", "DELAYED"];
    table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(say);
    Ok(())
}

fn dead(context: &Context, refused: &[RefusedView]) -> Result<(), Trouble> {
    if refused.is_empty() {
        aside("mailtrail: it refused nothing");
        return Err(Trouble::Nothing);
    }
    for one in refused {
        if context.json {
            say_json(one);
            continue;
        }
        let what = one.line.as_ref().map_or_else(
            || "(the journal has it no longer)".to_owned(),
            |line| {
                let id = line.id.as_deref().unwrap_or("(no send)");
                format!("{id}  {} {}", line.fact.event, line.fact.recipients.join(","))
            },
        );
        say(format!("{}  {what}  {}", time_expr::shown(&one.at), one.why));
    }
    Ok(())
}
