use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::{Context, Trouble, aside, say, say_json, time_expr, trace};
use mailtrail_relay::admin::{Act, Order, QueueLine, Shape};
use mailtrail_trail::Verb;
use std::io::{IsTerminal, Read};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The sends that wait, the next one first
    #[command(after_help = "Example: mailtrail queue list --ids | mailtrail queue retry -")]
    List {
        /// At most so many [default: 100, or all with --ids]
        #[arg(short = 'n', long)]
        lines: Option<usize>,
        /// Their tracking ids only, for other commands
        #[arg(long)]
        ids: bool,
    },
    /// Everything about one send
    #[command(after_help = "Example: mailtrail queue show 01K54Z8Q3V7N5X9B2C6D8F0GHJ")]
    Show {
        /// Its tracking id, or a unique start of it
        id: String,
    },
    /// Try mail now
    #[command(after_help = "Example: mailtrail queue retry --domain example.com")]
    Retry(Which),
    /// Keep mail back until it is released, or its deadline comes
    #[command(after_help = "Example: mailtrail queue hold --upstream mailgun --reason 'wrong price list'")]
    Hold(Which),
    /// Let held mail go
    #[command(after_help = "Example: mailtrail queue release ALL")]
    Release(Which),
    /// Give mail up; the sender is told
    #[command(
        after_help = "Example: mailtrail queue bounce 01K54Z8Q3V7N5X9B2C6D8F0GHJ --reason 'wrong address'"
    )]
    Bounce(Which),
    /// Take mail out; nobody is told
    #[command(after_help = "Example: mailtrail queue delete --domain example.com --reason 'a test run'")]
    Delete(Which),
    /// How old the waiting mail is, in minutes, by upstream and recipient domain
    #[command(after_help = "Example: mailtrail queue shape")]
    Shape,
}

/// Which mail is meant.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Tracking ids or unique starts of them, `-` for ids from standard input, or ALL
    #[arg(value_name = "ID|-|ALL", required_unless_present_any = ["domain", "upstream"])]
    ids: Vec<String>,
    /// Mail with a waiting recipient at that domain
    #[arg(long)]
    domain: Option<String>,
    /// Mail that would take that upstream if all were well
    #[arg(long)]
    upstream: Option<String>,
    /// Why, for the trail and the log; bounce and delete need one
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let desk = Desk::open(context).await?;
    match command {
        Command::List { lines, ids } => {
            let most = lines.unwrap_or(if *ids { usize::MAX } else { LINES });
            let mut lines = desk.queue(most.saturating_add(1)).await?;
            let more = lines.len() > most;
            lines.truncate(most);
            if *ids {
                lines.iter().for_each(|line| say(&line.id));
            } else {
                list(context, &lines);
            }
            if more {
                aside("mailtrail: more wait; -n shows more");
            }
            Ok(())
        }
        Command::Show { id } => show(context, &desk, id).await,
        Command::Retry(which) => act(context, &desk, Verb::Retry, which).await,
        Command::Hold(which) => act(context, &desk, Verb::Hold, which).await,
        Command::Release(which) => act(context, &desk, Verb::Release, which).await,
        Command::Bounce(which) => act(context, &desk, Verb::Bounce, which).await,
        Command::Delete(which) => act(context, &desk, Verb::Delete, which).await,
        Command::Shape => shape(context, &desk.shape().await?),
    }
}

async fn act(context: &Context, desk: &Desk, verb: Verb, which: &Which) -> Result<(), Trouble> {
    let (mut ids, mut all) = (Vec::new(), false);
    for id in &which.ids {
        match &**id {
            "-" => ids.extend(ids_from_stdin()?),
            "ALL" => all = true,
            id => ids.push(id.to_uppercase()),
        }
    }
    let Which { domain, upstream, reason, dry_run, .. } = which;
    let (domain, upstream, reason) = (domain.clone(), upstream.clone(), reason.clone());
    if ids.is_empty() && !all && domain.is_none() && upstream.is_none() {
        aside("mailtrail: no ids came from standard input");
        return Err(Trouble::Nothing);
    }
    let order = Order { verb: verb.word().to_owned(), ids, domain, upstream, all, reason, dry_run: *dry_run };
    report(context, verb, *dry_run, &desk.order(&order).await?)
}

/// Words of standard input, in capitals as ids are.
pub fn ids_from_stdin() -> Result<Vec<String>, Trouble> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Trouble::Usage(format!("standard input cannot be read: {error}")))?;
    Ok(text.split_whitespace().map(str::to_uppercase).collect())
}

/// Every id that something was done with, and on standard error those that it was not; not well unless all were.
fn report(context: &Context, verb: Verb, dry_run: bool, acts: &[Act]) -> Result<(), Trouble> {
    for act in acts {
        match &act.why {
            _ if context.json => say_json(act),
            None => say(&act.id),
            Some(why) => aside(format!("mailtrail: {} {why}", act.id)),
        }
    }
    if acts.is_empty() {
        aside("mailtrail: no waiting mail fits");
    }
    let done = acts.iter().filter(|act| act.done).count();
    if !context.json && std::io::stderr().is_terminal() {
        let would = if dry_run { "would be " } else { "" };
        aside(format!("{}: {would}done with {done} of {}", verb.word(), acts.len()));
    }
    if done == 0 || done < acts.len() { Err(Trouble::Nothing) } else { Ok(()) }
}

fn shape(context: &Context, shapes: &[Shape]) -> Result<(), Trouble> {
    if context.json {
        shapes.iter().for_each(say_json);
        return Ok(());
    }
    let terminal = std::io::stdout().is_terminal();
    let row = |shape: &Shape| {
        let counts = std::iter::once(shape.total).chain(shape.ages.iter().copied());
        let named = [shape.upstream.clone(), shape.domain.clone()].into_iter();
        named.chain(counts.map(|count| count.to_string())).collect::<Vec<_>>()
    };
    let total = terminal.then(|| row(&total(shapes)));
    let rows: Vec<_> = total.into_iter().chain(shapes.iter().map(row)).collect();
    let ends = Shape::MINUTES.map(|end| format!("<{end}"));
    let last = format!("{}+", Shape::MINUTES[Shape::MINUTES.len() - 1]);
    let header: Vec<_> = ["UPSTREAM", "DOMAIN", "TOTAL"]
        .into_iter()
        .chain(ends.iter().map(|end| &**end))
        .chain([&*last])
        .collect();
    table(&header, &rows, terminal).iter().for_each(say);
    Ok(())
}

/// All of them in one.
fn total(shapes: &[Shape]) -> Shape {
    let sum = |bucket: usize| shapes.iter().filter_map(|shape| shape.ages.get(bucket)).sum();
    Shape {
        upstream: "TOTAL".to_owned(),
        domain: String::new(),
        total: shapes.iter().map(|shape| shape.total).sum(),
        ages: (0..=Shape::MINUTES.len()).map(sum).collect(),
    }
}

fn list(context: &Context, lines: &[QueueLine]) {
    if context.json {
        lines.iter().for_each(say_json);
        return;
    }
    let terminal = std::io::stdout().is_terminal();
    if lines.is_empty() && terminal {
        say("Nothing waits.");
        return;
    }
    let row = |line: &QueueLine| {
        vec![
            line.id.clone(),
            line.state.clone(),
            time_expr::shown(&line.accepted),
            line.next_at.as_deref().map(time_expr::shown).unwrap_or_default(),
            line.attempts.to_string(),
            line.lane.clone(),
            line.size.to_string(),
            if line.from.is_empty() { "<>".to_owned() } else { line.from.clone() },
            some(&line.to, terminal),
            line.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    let header =
        ["ID", "STATE", "ACCEPTED", "NEXT ATTEMPT", "TRIED", "LANE", "BYTES", "FROM", "TO", "REASON"];
    table(&header, &rows, terminal).iter().for_each(say);
}

/// Sends that are listed where nothing else is said.
const LINES: usize = 100;

/// All addresses, or on a terminal the first and how many more.
fn some(addresses: &[String], terminal: bool) -> String {
    match addresses {
        [first, rest @ ..] if terminal && !rest.is_empty() => format!("{first} +{}", rest.len()),
        _ => addresses.join(","),
    }
}

async fn show(context: &Context, desk: &Desk, id: &str) -> Result<(), Trouble> {
    let found = desk.find(id, 2).await?;
    let trail = match &found.trails[..] {
        [only] if only.id.starts_with(&id.to_uppercase()) => only,
        [_, ..] if found.trails.iter().all(|trail| trail.id.starts_with(&id.to_uppercase())) => {
            return Err(Trouble::Usage(format!("several sends begin with {id}: write more of the id")));
        }
        _ => {
            aside(format!("mailtrail: no send has the id {id}"));
            return Err(Trouble::Nothing);
        }
    };
    if context.json {
        say_json(trail);
    } else {
        trace::print(trail, context.paint);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_of_all_upstreams_and_domains() {
        let shape = |domain: &str, ages: [u64; 10]| Shape {
            upstream: "mailgun".into(),
            domain: domain.into(),
            total: ages.iter().sum(),
            ages: ages.into(),
        };
        let (one, other) = ([1, 0, 2, 0, 0, 0, 0, 0, 0, 4], [8, 16, 0, 0, 0, 0, 0, 0, 32, 0]);
        let total = total(&[shape("example.com", one), shape("example.net", other)]);
        assert_eq!((total.total, total.ages), (63, vec![9, 16, 2, 0, 0, 0, 0, 0, 32, 4]));
    }
}
