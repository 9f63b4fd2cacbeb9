use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_table;
use crate::cli::{CliError, Context, eprint_line, print_json, print_line, time_expr};
use clap::builder::PossibleValuesParser;
use mailtrail_mail::Clock;
use mailtrail_relay::admin::{StatsQuery, StatsRow};
use mailtrail_trail::StatsGroup;
use std::io::IsTerminal;

#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Messages accepted at or after this day (local time)
    #[arg(long, default_value = "7 days ago", value_name = "TIME", allow_hyphen_values = true)]
    since: String,
    /// Messages accepted on or before this day
    #[arg(long, default_value = "now", value_name = "TIME", allow_hyphen_values = true)]
    until: String,
    /// Grouping
    #[arg(long, default_value = "day", value_parser = PossibleValuesParser::new(StatsGroup::ALL.map(StatsGroup::as_str)))]
    by: String,
}

/// Help text after the options: the meaning of the columns.
pub const AFTER_HELP: &str = "Example: mailtrail stats --since '30 days ago' --by tag

Counts are recipients, by the day (UTC) on which their message was accepted. Rates:
  DELIVERY   delivered, among delivered, bounced and failed
  BOUNCE     permanent failure (hard), among relayed, delivered and bounced
  SOFT       deferred by the recipient's server, whatever the final state, among the same
  COMPLAINT  reported as spam, among the delivered
  OPEN RATE  opened by a person at least once, among the delivered; blocked images are not counted
  CLICK      clicked by a person at least once, among the delivered";

pub async fn run(context: &Context, arguments: &StatsArgs) -> Result<(), CliError> {
    let now = Clock::System.now();
    let time = |text: &str| time_expr::parse(text, now).map(|time| time.as_millis()).map_err(CliError::Usage);
    let question = StatsQuery {
        since: time(&arguments.since)?,
        until: time(&arguments.until)?,
        by: arguments.by.clone(),
    };
    let lines = AdminClient::open(context).await?.query_stats(&question).await?;
    if lines.iter().all(|line| line.recipients == 0) {
        eprint_line("mailtrail: no message was accepted in that period");
        return Err(CliError::AlreadyReported);
    }
    if context.json {
        lines.iter().for_each(print_json);
        return Ok(());
    }
    let rows: Vec<_> = lines.iter().map(format_row).collect();
    let group = arguments.by.to_uppercase();
    let header: Vec<_> = std::iter::once(&*group).chain(COLUMN_TITLES).collect();
    format_table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(print_line);
    Ok(())
}

fn format_row(line: &StatsRow) -> Vec<String> {
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

const COLUMN_TITLES: [&str; 14] = [
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
