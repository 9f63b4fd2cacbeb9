use super::desk::Desk;
use super::paint::table;
use super::{Context, Trouble, say, say_json, trace};
use crate::admin::QueueLine;
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The sends that wait, the next one first
    List {
        /// At most so many
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Everything about one send
    Show {
        /// Its tracking id, or a unique start of it
        id: String,
    },
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let desk = Desk::open(context).await?;
    match command {
        Command::List { lines } => {
            list(context, &desk.queue(*lines).await?);
            Ok(())
        }
        Command::Show { id } => show(context, &desk, id).await,
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
            line.next_at.clone().unwrap_or_default(),
            line.attempts.to_string(),
            line.size.to_string(),
            if line.from.is_empty() { "<>".to_owned() } else { line.from.clone() },
            some(&line.to, terminal),
            line.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    let header = ["ID", "STATE", "NEXT ATTEMPT", "TRIED", "BYTES", "FROM", "TO", "REASON"];
    table(&header, &rows, terminal).iter().for_each(say);
}

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
            eprintln!("mailtrail: no send has the id {id}");
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
