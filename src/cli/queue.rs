use crate::cli::admin_client::AdminClient;
use crate::cli::output::{format_table, print_trail};
use crate::cli::{CliError, Context, eprint_line, print_json, print_line, stdin, time_expr};
use mailtrail_relay::admin::{QueueActionRequest, QueueActionResult, QueueLine, QueueShape};
use mailtrail_trail::QueueVerb;
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum QueueCommand {
    /// List queued messages, next attempt first
    #[command(after_help = "Example: mailtrail queue list --ids | mailtrail queue retry -")]
    List {
        /// Maximum number [default: 100, or all with --ids]
        #[arg(short = 'n', long)]
        lines: Option<usize>,
        /// Print only tracking ids, for other commands
        #[arg(long)]
        ids: bool,
    },
    /// Show one message in full
    #[command(after_help = "Example: mailtrail queue show 01K54Z8Q3V7N5X9B2C6D8F0GHJ")]
    Show {
        /// Tracking id or a unique prefix
        id: String,
    },
    /// Retry messages now
    #[command(after_help = "Example: mailtrail queue retry --domain example.com")]
    Retry(QueueSelectionArgs),
    /// Hold messages until they are released or expire
    #[command(after_help = "Example: mailtrail queue hold --upstream mailgun --reason 'wrong price list'")]
    Hold(QueueSelectionArgs),
    /// Release held messages
    #[command(after_help = "Example: mailtrail queue release ALL")]
    Release(QueueSelectionArgs),
    /// Bounce messages; the sender gets a DSN
    #[command(
        after_help = "Example: mailtrail queue bounce 01K54Z8Q3V7N5X9B2C6D8F0GHJ --reason 'wrong address'"
    )]
    Bounce(QueueSelectionArgs),
    /// Delete messages without a DSN
    #[command(after_help = "Example: mailtrail queue delete --domain example.com --reason 'a test run'")]
    Delete(QueueSelectionArgs),
    /// Show the age of queued messages in minutes, by upstream and recipient domain
    #[command(after_help = "Example: mailtrail queue shape")]
    Shape,
}

/// Selection of queued messages.
#[derive(Debug, clap::Args)]
pub struct QueueSelectionArgs {
    /// Tracking ids or unique prefixes, `-` for ids from standard input, or ALL
    #[arg(value_name = "ID|-|ALL", required_unless_present_any = ["domain", "upstream"])]
    ids: Vec<String>,
    /// Only messages with a queued recipient at this domain
    #[arg(long)]
    domain: Option<String>,
    /// Only messages that this upstream is preferred for
    #[arg(long)]
    upstream: Option<String>,
    /// Reason for trail and log; required by bounce and delete
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Print the actions without applying them
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(context: &Context, command: &QueueCommand) -> Result<(), CliError> {
    let client = AdminClient::open(context).await?;
    match command {
        QueueCommand::List { lines, ids } => {
            let most = lines.unwrap_or(if *ids { usize::MAX } else { DEFAULT_MAX_LINES });
            let mut lines = client.list_queue(most.saturating_add(1)).await?;
            let more = lines.len() > most;
            lines.truncate(most);
            if *ids {
                lines.iter().for_each(|line| print_line(&line.id));
            } else {
                print_queue(context, &lines);
            }
            if more {
                eprint_line("mailtrail: more wait; -n shows more");
            }
            Ok(())
        }
        QueueCommand::Show { id } => show_message(context, &client, id).await,
        QueueCommand::Retry(which) => apply_action(context, &client, QueueVerb::Retry, which).await,
        QueueCommand::Hold(which) => apply_action(context, &client, QueueVerb::Hold, which).await,
        QueueCommand::Release(which) => apply_action(context, &client, QueueVerb::Release, which).await,
        QueueCommand::Bounce(which) => apply_action(context, &client, QueueVerb::Bounce, which).await,
        QueueCommand::Delete(which) => apply_action(context, &client, QueueVerb::Delete, which).await,
        QueueCommand::Shape => print_shape(context, &client.get_queue_shape().await?),
    }
}

async fn apply_action(
    context: &Context,
    client: &AdminClient,
    verb: QueueVerb,
    which: &QueueSelectionArgs,
) -> Result<(), CliError> {
    let (mut ids, mut all) = (Vec::new(), false);
    for id in &which.ids {
        match &**id {
            "-" => ids.extend(stdin::read_ids()?),
            "ALL" => all = true,
            id => ids.push(id.to_uppercase()),
        }
    }
    let QueueSelectionArgs { domain, upstream, reason, dry_run, .. } = which;
    let (domain, upstream, reason) = (domain.clone(), upstream.clone(), reason.clone());
    if ids.is_empty() && !all && domain.is_none() && upstream.is_none() {
        eprint_line("mailtrail: no ids on standard input");
        return Err(CliError::AlreadyReported);
    }
    let order = QueueActionRequest {
        verb: verb.as_str().to_owned(),
        ids,
        domain,
        upstream,
        all,
        reason,
        dry_run: *dry_run,
    };
    print_results(context, verb, *dry_run, &client.apply_queue_action(&order).await?)
}

/// Prints the ids of the changed messages on standard output and the others on standard error. Fails unless all were
/// changed.
fn print_results(
    context: &Context,
    verb: QueueVerb,
    dry_run: bool,
    acts: &[QueueActionResult],
) -> Result<(), CliError> {
    for act in acts {
        match &act.why {
            _ if context.json => print_json(act),
            None => print_line(&act.id),
            Some(why) => eprint_line(format!("mailtrail: {} {why}", act.id)),
        }
    }
    if acts.is_empty() {
        eprint_line("mailtrail: no queued message matches");
    }
    let done = acts.iter().filter(|act| act.done).count();
    if !context.json && std::io::stderr().is_terminal() {
        let would = if dry_run { "would be " } else { "" };
        eprint_line(format!("{}: {would}done with {done} of {}", verb.as_str(), acts.len()));
    }
    if done == 0 || done < acts.len() { Err(CliError::AlreadyReported) } else { Ok(()) }
}

fn print_shape(context: &Context, shapes: &[QueueShape]) -> Result<(), CliError> {
    if context.json {
        shapes.iter().for_each(print_json);
        return Ok(());
    }
    let terminal = std::io::stdout().is_terminal();
    let row = |shape: &QueueShape| {
        let counts = std::iter::once(shape.total).chain(shape.ages.iter().copied());
        let named = [shape.upstream.clone(), shape.domain.clone()].into_iter();
        named.chain(counts.map(|count| count.to_string())).collect::<Vec<_>>()
    };
    let total = terminal.then(|| row(&sum_shapes(shapes)));
    let rows: Vec<_> = total.into_iter().chain(shapes.iter().map(row)).collect();
    let ends = QueueShape::AGE_LIMITS_MINUTES.map(|end| format!("<{end}"));
    let last = format!("{}+", QueueShape::AGE_LIMITS_MINUTES[QueueShape::AGE_LIMITS_MINUTES.len() - 1]);
    let header: Vec<_> = ["UPSTREAM", "DOMAIN", "TOTAL"]
        .into_iter()
        .chain(ends.iter().map(|end| &**end))
        .chain([&*last])
        .collect();
    format_table(&header, &rows, terminal).iter().for_each(print_line);
    Ok(())
}

/// Sums the age distributions of all groups.
fn sum_shapes(shapes: &[QueueShape]) -> QueueShape {
    let sum = |bucket: usize| shapes.iter().filter_map(|shape| shape.ages.get(bucket)).sum();
    QueueShape {
        upstream: "TOTAL".to_owned(),
        domain: String::new(),
        total: shapes.iter().map(|shape| shape.total).sum(),
        ages: (0..=QueueShape::AGE_LIMITS_MINUTES.len()).map(sum).collect(),
    }
}

fn print_queue(context: &Context, lines: &[QueueLine]) {
    if context.json {
        lines.iter().for_each(print_json);
        return;
    }
    let terminal = std::io::stdout().is_terminal();
    if lines.is_empty() && terminal {
        print_line("Nothing waits.");
        return;
    }
    let row = |line: &QueueLine| {
        vec![
            line.id.clone(),
            line.state.clone(),
            time_expr::format_local(&line.accepted),
            line.next_at.as_deref().map(time_expr::format_local).unwrap_or_default(),
            line.attempts.to_string(),
            line.lane.clone(),
            line.size.to_string(),
            if line.from.is_empty() { "<>".to_owned() } else { line.from.clone() },
            summarize_addresses(&line.to, terminal),
            line.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    let header =
        ["ID", "STATE", "ACCEPTED", "NEXT ATTEMPT", "TRIED", "LANE", "BYTES", "FROM", "TO", "REASON"];
    format_table(&header, &rows, terminal).iter().for_each(print_line);
}

/// Default number of messages in a list.
const DEFAULT_MAX_LINES: usize = 100;

/// Formats all addresses, or on a terminal the first and the number of others.
fn summarize_addresses(addresses: &[String], terminal: bool) -> String {
    match addresses {
        [first, rest @ ..] if terminal && !rest.is_empty() => format!("{first} +{}", rest.len()),
        _ => addresses.join(","),
    }
}

async fn show_message(context: &Context, client: &AdminClient, id: &str) -> Result<(), CliError> {
    let found = client.find_trails(id, 2).await?;
    let trail = match &found.trails[..] {
        [only] if only.id.starts_with(&id.to_uppercase()) => only,
        [_, ..] if found.trails.iter().all(|trail| trail.id.starts_with(&id.to_uppercase())) => {
            return Err(CliError::Usage(format!("several sends begin with {id}: write more of the id")));
        }
        _ => {
            eprint_line(format!("mailtrail: no send has the id {id}"));
            return Err(CliError::AlreadyReported);
        }
    };
    if context.json {
        print_json(trail);
    } else {
        print_trail(trail, context.style);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_shapes_of_all_upstreams_and_domains() {
        let shape = |domain: &str, ages: [u64; 10]| QueueShape {
            upstream: "mailgun".into(),
            domain: domain.into(),
            total: ages.iter().sum(),
            ages: ages.into(),
        };
        let (one, other) = ([1, 0, 2, 0, 0, 0, 0, 0, 0, 4], [8, 16, 0, 0, 0, 0, 0, 0, 32, 0]);
        let total = sum_shapes(&[shape("example.com", one), shape("example.net", other)]);
        assert_eq!((total.total, total.ages), (63, vec![9, 16, 2, 0, 0, 0, 0, 0, 32, 4]));
    }
}
