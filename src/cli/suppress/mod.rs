mod csv;
mod sync;

use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::{Context, Trouble, aside, config_source, print, say, say_json, time_expr};
use clap::builder::PossibleValuesParser;
use mailtrail_mail::Clock;
use mailtrail_relay::admin::{
    HintView, SUPPRESSED, SuppressionAct, SuppressionEntry, SuppressionFilter, SuppressionOrder,
    SuppressionView, SyncOrder, UNKNOWN,
};
use mailtrail_trail::suppression::{Reason, Scope, Source};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// What is known against addresses
    #[command(after_help = "Example: mailtrail suppress list --reason complaint --since '1 day ago'")]
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many [default: 100]
        #[arg(short = 'n', long, default_value_t = 100, hide_default_value = true)]
        lines: usize,
    },
    /// What is known against one address; exit code 1 when mail goes to it
    #[command(after_help = "Example: mailtrail suppress check ada@example.net")]
    Check {
        /// The address
        address: String,
    },
    /// Send addresses no mail
    #[command(after_help = "Example: mailtrail suppress add ada@example.net --note 'asked us on the phone'")]
    Add(Addition),
    /// Send addresses mail again
    #[command(
        after_help = "The provider may keep a list of its own: `mailtrail suppress sync` takes them off there, too.\nExample: mailtrail suppress remove ada@example.net"
    )]
    Remove(Removal),
    /// Add what a CSV file holds: all of it or, where a line is bad, nothing
    #[command(after_help = format!("{}\n\nExample: mailtrail suppress import suppressions.csv", csv::COLUMNS))]
    Import {
        /// The file, or `-` for standard input
        file: PathBuf,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring the list and the providers' own together, in both directions
    #[command(
        after_help = "Whom a provider lists is put on our list; what you added against all mail is added there; what you removed is \
taken off there where its entry is older.\nExample: mailtrail suppress sync --dry-run"
    )]
    Sync {
        /// Only with that upstream's provider [default: all whose account is known]
        #[arg(long)]
        upstream: Option<String>,
        /// Why, for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Say what would be done in each direction, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Write the list as CSV, as `import` reads it
    #[command(after_help = "Example: mailtrail suppress export suppressions.csv")]
    Export {
        /// The file; without it standard output
        file: Option<PathBuf>,
        #[command(flatten)]
        which: Which,
    },
}

/// Which entries are wanted.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Only with that reason
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// Only addresses at that domain
    #[arg(long)]
    domain: Option<String>,
    /// Only of that upstream's list
    #[arg(long)]
    upstream: Option<String>,
    /// Only from that source
    #[arg(long, value_parser = PossibleValuesParser::new(Source::ALL.map(Source::word)))]
    source: Option<String>,
    /// Only where something happened since then: "10 min ago", "2026-11-21"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Addition {
    /// The addresses, or `-` for addresses from standard input
    #[arg(value_name = "ADDRESS|-", required = true)]
    addresses: Vec<String>,
    /// Why [default: manual]
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// For that upstream's mail only
    #[arg(long)]
    upstream: Option<String>,
    /// Which mail [default: all; for unsubscribe: bulk]
    #[arg(long, value_parser = PossibleValuesParser::new([Scope::All.word(), Scope::Bulk.word()]))]
    scope: Option<String>,
    /// Until then: "2026-11-21", "2026-11-21T10:00:00Z" [default: as the reason's settings say]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Why, in words
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub struct Removal {
    /// The addresses, `-` for addresses from standard input, or ALL
    #[arg(value_name = "ADDRESS|-|ALL", required = true)]
    addresses: Vec<String>,
    /// Only what is known for that reason; ALL needs one
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// Only what is known on that upstream's list
    #[arg(long)]
    upstream: Option<String>,
    /// Why, in words, for the log
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.map(Reason::word))
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let desk = Desk::open(context).await?;
    match command {
        Command::List { which, lines } => {
            let mut entries = read(context, &desk, which.filter()?, lines.saturating_add(1)).await?;
            let more = entries.len() > *lines;
            entries.truncate(*lines);
            show(context, &entries);
            if more {
                aside("mailtrail: there are more; -n shows more");
            }
            if entries.is_empty() { Err(Trouble::Nothing) } else { Ok(()) }
        }
        Command::Check { address } => check(context, &desk, address).await,
        Command::Add(addition) => add(context, &desk, addition).await,
        Command::Remove(removal) => remove(context, &desk, removal).await,
        Command::Import { file, dry_run } => import(context, &desk, file, *dry_run).await,
        Command::Sync { upstream, reason, dry_run } => {
            let (upstream, reason) = (upstream.clone(), reason.clone());
            sync::sync(context, &desk, &SyncOrder { upstream, reason, dry_run: *dry_run }).await
        }
        Command::Export { file, which } => {
            let entries = read(context, &desk, which.filter()?, usize::MAX).await?;
            export(file.as_deref(), &entries)
        }
    }
}

impl Which {
    fn filter(&self) -> Result<SuppressionFilter, Trouble> {
        let since = self.since.as_deref().map(|text| time_expr::parse(text, Clock::System.now()));
        Ok(SuppressionFilter {
            reason: self.reason.clone(),
            domain: self.domain.clone(),
            upstream: self.upstream.clone(),
            source: self.source.clone(),
            since: since.transpose().map_err(Trouble::Usage)?.map(|since| since.millis()),
            ..SuppressionFilter::default()
        })
    }
}

/// Entries that fit, at most `most`.
async fn read(
    context: &Context,
    desk: &Desk,
    mut filter: SuppressionFilter,
    most: usize,
) -> Result<Vec<SuppressionView>, Trouble> {
    let (settings, mut entries) = (config_source::suppression(context)?, Vec::new());
    loop {
        let page = desk.suppressions(&filter, &settings).await?;
        entries.extend(page.entries);
        filter.after = page.next;
        if entries.len() >= most || filter.after.is_none() {
            entries.truncate(most);
            return Ok(entries);
        }
    }
}

async fn check(context: &Context, desk: &Desk, address: &str) -> Result<(), Trouble> {
    let filter = SuppressionFilter { address: Some(address.to_owned()), ..SuppressionFilter::default() };
    let entries = read(context, desk, filter, usize::MAX).await?;
    show(context, &entries);
    show_hints(context, &desk.hints(address).await?);
    if entries.iter().any(|entry| entry.state == SUPPRESSED) {
        return Ok(());
    }
    if !context.json {
        aside(format!("mailtrail: mail to {address} goes"));
    }
    Err(Trouble::Nothing)
}

fn show(context: &Context, entries: &[SuppressionView]) {
    if context.json {
        entries.iter().for_each(say_json);
        return;
    }
    let terminal = io::stdout().is_terminal();
    if entries.is_empty() {
        return;
    }
    let row = |entry: &SuppressionView| {
        vec![
            entry.address.clone(),
            entry.upstream.clone().unwrap_or_else(|| "all".to_owned()),
            entry.reason.clone(),
            entry.state.clone(),
            entry.scope.clone(),
            entry.until.as_deref().map(time_expr::shown).unwrap_or_default(),
            entry.times.first().map_or_else(|| UNKNOWN.to_owned(), |first| time_expr::shown(first)),
            entry.times.len().to_string(),
            entry.source.clone(),
            entry.words.clone(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let header =
        ["ADDRESS", "UPSTREAM", "REASON", "STATE", "MAIL", "UNTIL", "SINCE", "TIMES", "SOURCE", "WORDS"];
    table(&header, &rows, terminal).iter().for_each(say);
}

/// What others say who know the address.
fn show_hints(context: &Context, hints: &[HintView]) {
    if context.json {
        hints.iter().for_each(say_json);
        return;
    }
    if hints.is_empty() {
        return;
    }
    let row = |hint: &HintView| {
        let text = hint.text.clone().unwrap_or_default();
        vec![
            hint.source.clone(),
            hint.hint.clone(),
            time_expr::shown(&hint.at),
            hint.lists.join(" "),
            hint.name.clone(),
            text,
        ]
    };
    let rows: Vec<_> = hints.iter().map(row).collect();
    let header = ["HINT OF", "WHAT", "WHEN", "LISTS", "NAME", "WORDS"];
    table(&header, &rows, io::stdout().is_terminal()).iter().for_each(say);
}

async fn add(context: &Context, desk: &Desk, addition: &Addition) -> Result<(), Trouble> {
    let Addition { reason, upstream, scope, until, note, dry_run, .. } = addition;
    let now = Clock::System.now();
    let until =
        until.as_deref().map(|text| time_expr::parse(text, now)).transpose().map_err(Trouble::Usage)?;
    if until.is_some_and(|until| until <= now) {
        return Err(Trouble::Usage("--until lies in the past".to_owned()));
    }
    let entry = SuppressionEntry {
        upstream: upstream.clone(),
        reason: reason.clone(),
        scope: scope.clone(),
        expires: until.map(|until| until.to_string()),
        words: note.clone(),
        ..SuppressionEntry::default()
    };
    let entries = named(&addition.addresses, &entry)?;
    report(context, &order(desk, "add", &entries, *dry_run).await?)
}

async fn remove(context: &Context, desk: &Desk, removal: &Removal) -> Result<(), Trouble> {
    let Removal { addresses, reason, upstream, note, dry_run } = removal;
    let entry = SuppressionEntry {
        upstream: upstream.clone(),
        reason: reason.clone(),
        words: note.clone(),
        ..SuppressionEntry::default()
    };
    let acts = if addresses.iter().any(|address| address == "ALL") {
        if addresses.len() > 1 {
            return Err(Trouble::Usage("ALL stands alone".to_owned()));
        }
        let verb = "remove".to_owned();
        let order = SuppressionOrder { verb, all: Some(entry), dry_run: *dry_run, ..Default::default() };
        desk.suppress(&order).await?
    } else {
        order(desk, "remove", &named(addresses, &entry)?, *dry_run).await?
    };
    report(context, &acts)
}

/// An entry for each of the addresses; those from standard input stand on lines of their own.
fn named(addresses: &[String], entry: &SuppressionEntry) -> Result<Vec<SuppressionEntry>, Trouble> {
    let mut entries = Vec::new();
    let mut push =
        |address: &str| entries.push(SuppressionEntry { address: address.to_owned(), ..entry.clone() });
    for address in addresses {
        if address == "-" {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map_err(|error| Trouble::Usage(format!("standard input cannot be read: {error}")))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(&mut push);
        } else {
            push(address);
        }
    }
    if entries.is_empty() {
        aside("mailtrail: no addresses came from standard input");
        return Err(Trouble::Nothing);
    }
    Ok(entries)
}

async fn order(
    desk: &Desk,
    verb: &str,
    entries: &[SuppressionEntry],
    dry_run: bool,
) -> Result<Vec<SuppressionAct>, Trouble> {
    let mut acts = Vec::with_capacity(entries.len());
    for some in entries.chunks(AT_ONCE) {
        let order = SuppressionOrder { verb: verb.to_owned(), entries: some.to_vec(), all: None, dry_run };
        acts.extend(desk.suppress(&order).await?);
    }
    Ok(acts)
}

/// Every address that something was done with, and on standard error those that it was not; not well unless all were.
fn report(context: &Context, acts: &[SuppressionAct]) -> Result<(), Trouble> {
    for act in acts {
        match &act.why {
            _ if context.json => say_json(act),
            None => say(&act.address),
            Some(why) => aside(format!("mailtrail: {} {why}", act.address)),
        }
    }
    if acts.is_empty() {
        aside("mailtrail: no entry fits");
    }
    let notes: BTreeSet<_> = acts.iter().filter_map(|act| act.there.as_ref()).collect();
    if !context.json {
        notes.into_iter().for_each(|note| aside(format!("mailtrail: {note}")));
    }
    let done = acts.iter().filter(|act| act.is_done()).count();
    if done == 0 || done < acts.len() { Err(Trouble::Nothing) } else { Ok(()) }
}

async fn import(context: &Context, desk: &Desk, file: &Path, dry_run: bool) -> Result<(), Trouble> {
    let lines = if file == Path::new("-") {
        csv::read(io::stdin().lock())
    } else {
        let opened = File::open(file);
        csv::read(opened.map_err(|error| Trouble::Usage(format!("{}: {error}", file.display())))?)
    }
    .map_err(Trouble::Usage)?;
    let entries: Vec<_> = lines.iter().map(|(_, entry)| entry.clone()).collect();
    let looked = order(desk, "add", &entries, true).await?;
    let bad: Vec<_> = lines
        .iter()
        .zip(&looked)
        .filter(|(_, act)| act.is_refused())
        .map(|((line, entry), act)| {
            format!("line {line}: {} {}", entry.address, act.why.as_deref().unwrap_or_default())
        })
        .collect();
    if !bad.is_empty() {
        return Err(Trouble::Usage(csv::refused(&bad)));
    }
    let acts = if dry_run { looked } else { order(desk, "add", &entries, false).await? };
    let done = acts.iter().filter(|act| act.is_done()).count();
    if context.json {
        say_json(&serde_json::json!({ "lines": acts.len(), "imported": done, "same": acts.len() - done }));
    } else {
        let would = if dry_run { "would be " } else { "" };
        say(format!("{done} {would}imported, {} are as the file says already", acts.len() - done));
    }
    Ok(())
}

fn export(file: Option<&Path>, entries: &[SuppressionView]) -> Result<(), Trouble> {
    let name = || file.map_or_else(|| "standard output".to_owned(), |file| file.display().to_string());
    let failed = |error: io::Error| Trouble::Failed(format!("{} cannot be written: {error}", name()));
    let text = csv::write(entries).map_err(failed)?;
    match file {
        Some(file) => std::fs::write(file, text).map_err(failed),
        None => {
            print(&text);
            Ok(())
        }
    }
}

/// Entries of one request.
const AT_ONCE: usize = 10_000;
