use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::{Context, Trouble, aside, say, say_json, time_expr};
use clap::builder::PossibleValuesParser;
use mailtrail_mail::Clock;
use mailtrail_relay::admin::{StatsLine, StatsQuestion};
use mailtrail_trail::Grouping;
use std::io::IsTerminal;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Of mail accepted then or later (local time)
    #[arg(long, default_value = "7 days ago", value_name = "TIME", allow_hyphen_values = true)]
    since: String,
    /// Of mail accepted then or earlier
    #[arg(long, default_value = "now", value_name = "TIME", allow_hyphen_values = true)]
    until: String,
    /// In groups by
    #[arg(long, default_value = "day", value_parser = PossibleValuesParser::new(Grouping::ALL.map(Grouping::word)))]
    by: String,
}

/// What the columns mean, below the help.
pub const COLUMNS: &str = "Example: mailtrail stats --since '30 days ago' --by tag

Counted are recipients, by the day (UTC) on which their mail was accepted. The rates:
  DELIVERY   delivered, among delivered, bounced and failed
  BOUNCE     refused for good (hard), among relayed, delivered and bounced
  SOFT       deferred behind the provider, whatever came afterwards, among the same
  COMPLAINT  reported as spam, among the delivered
  OPEN RATE  opened by a person at least once, among the delivered; images that are not shown are not counted
  CLICK      clicked by a person at least once, among the delivered";

pub async fn run(context: &Context, arguments: &Arguments) -> Result<(), Trouble> {
    let now = Clock::System.now();
    let time = |text: &str| time_expr::parse(text, now).map(|time| time.millis()).map_err(Trouble::Usage);
    let question = StatsQuestion {
        since: time(&arguments.since)?,
        until: time(&arguments.until)?,
        by: arguments.by.clone(),
    };
    let lines = Desk::open(context).await?.stats(&question).await?;
    if lines.iter().all(|line| line.recipients == 0) {
        aside("mailtrail: no mail was accepted in that time");
        return Err(Trouble::Nothing);
    }
    if context.json {
        lines.iter().for_each(say_json);
        return Ok(());
    }
    let rows: Vec<_> = lines.iter().map(row).collect();
    let group = arguments.by.to_uppercase();
    let header: Vec<_> = std::iter::once(&*group).chain(FIGURES).collect();
    table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(say);
    Ok(())
}

fn row(line: &StatsLine) -> Vec<String> {
    let group = if line.by == "total" { "TOTAL" } else { &line.group };
    let counts = [
        line.recipients,
        line.open,
        line.relayed,
        line.delivered,
        line.bounced,
        line.failed,
        line.suppressed,
        line.cancelled,
    ];
    let rates = [
        line.delivery_rate,
        line.bounce_rate,
        line.soft_bounce_rate,
        line.complaint_rate,
        line.open_rate,
        line.click_rate,
    ];
    let percent =
        |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.2}%", rate * 100.0));
    let counts = counts.into_iter().map(|count| count.to_string());
    std::iter::once(group.to_owned()).chain(counts).chain(rates.into_iter().map(percent)).collect()
}

const FIGURES: [&str; 14] = [
    "RECIPIENTS",
    "OPEN",
    "RELAYED",
    "DELIVERED",
    "BOUNCED",
    "FAILED",
    "SUPPRESSED",
    "CANCELLED",
    "DELIVERY",
    "BOUNCE",
    "SOFT",
    "COMPLAINT",
    "OPEN RATE",
    "CLICK",
];
