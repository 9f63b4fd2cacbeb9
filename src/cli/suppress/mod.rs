mod csv;
mod sync;

use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_table;
use crate::cli::{
    CliError, Context, config_source, eprint_line, print_json, print_line, time_expr, write_stdout,
};
use clap::builder::PossibleValuesParser;
use mailtrail_mail::Clock;
use mailtrail_relay::admin::{
    HintView, SUPPRESSED_STATE, SuppressionEntry, SuppressionListFilter, SuppressionRequest,
    SuppressionResult, SuppressionSyncRequest, SuppressionView, UNKNOWN_TIME,
};
use mailtrail_trail::suppression::{EvidenceSource, Reason, Scope};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub enum SuppressCommand {
    /// List suppressed addresses
    #[command(after_help = "Example: mailtrail suppress list --reason complaint --since '1 day ago'")]
    List {
        #[command(flatten)]
        which: SuppressionFilterArgs,
        /// Maximum number [default: 100]
        #[arg(short = 'n', long, default_value_t = 100, hide_default_value = true)]
        lines: usize,
    },
    /// Show the evidence about one address; exit code 1 if it is not suppressed
    #[command(after_help = "Example: mailtrail suppress check ada@example.net")]
    Check {
        /// Address
        address: String,
    },
    /// Suppress addresses
    #[command(after_help = "Example: mailtrail suppress add ada@example.net --note 'asked us on the phone'")]
    Add(SuppressAddArgs),
    /// Remove addresses from the list
    #[command(
        after_help = "The provider may keep a list of its own: `mailtrail suppress sync` takes them off there, too.\nExample: mailtrail suppress remove ada@example.net"
    )]
    Remove(SuppressRemoveArgs),
    /// Import a CSV file: all lines, or none if one is invalid
    #[command(after_help = format!("{}\n\nExample: mailtrail suppress import suppressions.csv", csv::IMPORT_HELP))]
    Import {
        /// CSV file, or `-` for standard input
        file: PathBuf,
        /// Print the changes without applying them
        #[arg(long)]
        dry_run: bool,
    },
    /// Synchronise with the providers' lists in both directions
    #[command(
        after_help = "Whom a provider lists is put on our list; what you added against all mail is added there; what you removed is \
taken off there where its entry is older.\nExample: mailtrail suppress sync --dry-run"
    )]
    Sync {
        /// Only with the provider of this upstream [default: all with an API key]
        #[arg(long)]
        upstream: Option<String>,
        /// Reason for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Print the changes of each direction without applying them
        #[arg(long)]
        dry_run: bool,
    },
    /// Export the list as CSV, for `import`
    #[command(after_help = "Example: mailtrail suppress export suppressions.csv")]
    Export {
        /// CSV file [default: standard output]
        file: Option<PathBuf>,
        #[command(flatten)]
        which: SuppressionFilterArgs,
    },
}

/// Filter of the list.
#[derive(Debug, clap::Args)]
pub struct SuppressionFilterArgs {
    /// Only this reason
    #[arg(long, value_parser = reason_parser())]
    reason: Option<String>,
    /// Only addresses at this domain
    #[arg(long)]
    domain: Option<String>,
    /// Only the list of this upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Only this source
    #[arg(long, value_parser = PossibleValuesParser::new(EvidenceSource::ALL.map(EvidenceSource::as_str)))]
    source: Option<String>,
    /// Only with evidence since this time: "10 min ago", "2026-11-21"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct SuppressAddArgs {
    /// Addresses, or `-` for addresses from standard input
    #[arg(value_name = "ADDRESS|-", required = true)]
    addresses: Vec<String>,
    /// Reason [default: manual]
    #[arg(long, value_parser = reason_parser())]
    reason: Option<String>,
    /// Only for mail of this upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Kind of mail [default: all; for unsubscribe: bulk]
    #[arg(long, value_parser = PossibleValuesParser::new([Scope::All.as_str(), Scope::Bulk.as_str()]))]
    scope: Option<String>,
    /// End: "2026-11-21", "2026-11-21T10:00:00Z" [default: by the settings of the reason]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Comment
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Print the changes without applying them
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub struct SuppressRemoveArgs {
    /// Addresses, `-` for addresses from standard input, or ALL
    #[arg(value_name = "ADDRESS|-|ALL", required = true)]
    addresses: Vec<String>,
    /// Only this reason; required with ALL
    #[arg(long, value_parser = reason_parser())]
    reason: Option<String>,
    /// Only the list of this upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Comment for the log
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Print the changes without applying them
    #[arg(long)]
    dry_run: bool,
}

fn reason_parser() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.map(Reason::as_str))
}

pub async fn run(context: &Context, command: &SuppressCommand) -> Result<(), CliError> {
    let client = AdminClient::open(context).await?;
    match command {
        SuppressCommand::List { which, lines } => {
            let mut entries =
                fetch_entries(context, &client, which.to_filter()?, lines.saturating_add(1)).await?;
            let more = entries.len() > *lines;
            entries.truncate(*lines);
            print_entries(context, &entries);
            if more {
                eprint_line("mailtrail: there are more; -n shows more");
            }
            if entries.is_empty() { Err(CliError::AlreadyReported) } else { Ok(()) }
        }
        SuppressCommand::Check { address } => check_address(context, &client, address).await,
        SuppressCommand::Add(addition) => add_addresses(context, &client, addition).await,
        SuppressCommand::Remove(removal) => remove_addresses(context, &client, removal).await,
        SuppressCommand::Import { file, dry_run } => import_csv(context, &client, file, *dry_run).await,
        SuppressCommand::Sync { upstream, reason, dry_run } => {
            let (upstream, reason) = (upstream.clone(), reason.clone());
            sync::sync_lists(
                context,
                &client,
                &SuppressionSyncRequest { upstream, reason, dry_run: *dry_run },
            )
            .await
        }
        SuppressCommand::Export { file, which } => {
            let entries = fetch_entries(context, &client, which.to_filter()?, usize::MAX).await?;
            export_csv(file.as_deref(), &entries)
        }
    }
}

impl SuppressionFilterArgs {
    fn to_filter(&self) -> Result<SuppressionListFilter, CliError> {
        let since = self.since.as_deref().map(|text| time_expr::parse(text, Clock::System.now()));
        Ok(SuppressionListFilter {
            reason: self.reason.clone(),
            domain: self.domain.clone(),
            upstream: self.upstream.clone(),
            source: self.source.clone(),
            since: since.transpose().map_err(CliError::Usage)?.map(|since| since.as_millis()),
            ..SuppressionListFilter::default()
        })
    }
}

/// Fetches at most `most` entries that match the filter.
async fn fetch_entries(
    context: &Context,
    client: &AdminClient,
    mut filter: SuppressionListFilter,
    most: usize,
) -> Result<Vec<SuppressionView>, CliError> {
    let (settings, mut entries) = (config_source::load_suppression_settings(context)?, Vec::new());
    loop {
        let page = client.list_suppressions(&filter, &settings).await?;
        entries.extend(page.entries);
        filter.after = page.next;
        if entries.len() >= most || filter.after.is_none() {
            entries.truncate(most);
            return Ok(entries);
        }
    }
}

async fn check_address(context: &Context, client: &AdminClient, address: &str) -> Result<(), CliError> {
    let filter =
        SuppressionListFilter { address: Some(address.to_owned()), ..SuppressionListFilter::default() };
    let entries = fetch_entries(context, client, filter, usize::MAX).await?;
    print_entries(context, &entries);
    print_hints(context, &client.list_hints(address).await?);
    if entries.iter().any(|entry| entry.state == SUPPRESSED_STATE) {
        return Ok(());
    }
    if !context.json {
        eprint_line(format!("mailtrail: {address} is not suppressed"));
    }
    Err(CliError::AlreadyReported)
}

fn print_entries(context: &Context, entries: &[SuppressionView]) {
    if context.json {
        entries.iter().for_each(print_json);
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
            entry.until.as_deref().map(time_expr::format_local).unwrap_or_default(),
            entry
                .times
                .first()
                .map_or_else(|| UNKNOWN_TIME.to_owned(), |first| time_expr::format_local(first)),
            entry.times.len().to_string(),
            entry.source.clone(),
            entry.words.clone(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let header =
        ["ADDRESS", "UPSTREAM", "REASON", "STATE", "MAIL", "UNTIL", "SINCE", "TIMES", "SOURCE", "WORDS"];
    format_table(&header, &rows, terminal).iter().for_each(print_line);
}

/// Prints the hints that contact providers have sent about the address.
fn print_hints(context: &Context, hints: &[HintView]) {
    if context.json {
        hints.iter().for_each(print_json);
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
            time_expr::format_local(&hint.at),
            hint.lists.join(" "),
            hint.name.clone(),
            text,
        ]
    };
    let rows: Vec<_> = hints.iter().map(row).collect();
    let header = ["HINT OF", "WHAT", "WHEN", "LISTS", "NAME", "WORDS"];
    format_table(&header, &rows, io::stdout().is_terminal()).iter().for_each(print_line);
}

async fn add_addresses(
    context: &Context,
    client: &AdminClient,
    addition: &SuppressAddArgs,
) -> Result<(), CliError> {
    let SuppressAddArgs { reason, upstream, scope, until, note, dry_run, .. } = addition;
    let now = Clock::System.now();
    let until =
        until.as_deref().map(|text| time_expr::parse(text, now)).transpose().map_err(CliError::Usage)?;
    if until.is_some_and(|until| until <= now) {
        return Err(CliError::Usage("--until lies in the past".to_owned()));
    }
    let entry = SuppressionEntry {
        upstream: upstream.clone(),
        reason: reason.clone(),
        scope: scope.clone(),
        expires: until.map(|until| until.to_string()),
        words: note.clone(),
        ..SuppressionEntry::default()
    };
    let entries = collect_entries(&addition.addresses, &entry)?;
    print_results(context, &send_changes(client, "add", &entries, *dry_run).await?)
}

async fn remove_addresses(
    context: &Context,
    client: &AdminClient,
    removal: &SuppressRemoveArgs,
) -> Result<(), CliError> {
    let SuppressRemoveArgs { addresses, reason, upstream, note, dry_run } = removal;
    let entry = SuppressionEntry {
        upstream: upstream.clone(),
        reason: reason.clone(),
        words: note.clone(),
        ..SuppressionEntry::default()
    };
    let acts = if addresses.iter().any(|address| address == "ALL") {
        if addresses.len() > 1 {
            return Err(CliError::Usage("ALL excludes other addresses".to_owned()));
        }
        let verb = "remove".to_owned();
        let order = SuppressionRequest { verb, all: Some(entry), dry_run: *dry_run, ..Default::default() };
        client.change_suppressions(&order).await?
    } else {
        send_changes(client, "remove", &collect_entries(addresses, &entry)?, *dry_run).await?
    };
    print_results(context, &acts)
}

/// Returns an entry for each address; standard input has one address per line.
fn collect_entries(
    addresses: &[String],
    entry: &SuppressionEntry,
) -> Result<Vec<SuppressionEntry>, CliError> {
    let mut entries = Vec::new();
    let mut push =
        |address: &str| entries.push(SuppressionEntry { address: address.to_owned(), ..entry.clone() });
    for address in addresses {
        if address == "-" {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map_err(|error| CliError::Usage(format!("cannot read standard input: {error}")))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(&mut push);
        } else {
            push(address);
        }
    }
    if entries.is_empty() {
        eprint_line("mailtrail: no addresses on standard input");
        return Err(CliError::AlreadyReported);
    }
    Ok(entries)
}

async fn send_changes(
    client: &AdminClient,
    verb: &str,
    entries: &[SuppressionEntry],
    dry_run: bool,
) -> Result<Vec<SuppressionResult>, CliError> {
    let mut acts = Vec::with_capacity(entries.len());
    for some in entries.chunks(ENTRIES_PER_REQUEST) {
        let order = SuppressionRequest { verb: verb.to_owned(), entries: some.to_vec(), all: None, dry_run };
        acts.extend(client.change_suppressions(&order).await?);
    }
    Ok(acts)
}

/// Prints changed addresses on standard output and the others on standard error. Fails unless all were changed.
fn print_results(context: &Context, acts: &[SuppressionResult]) -> Result<(), CliError> {
    for act in acts {
        match &act.why {
            _ if context.json => print_json(act),
            None => print_line(&act.address),
            Some(why) => eprint_line(format!("mailtrail: {} {why}", act.address)),
        }
    }
    if acts.is_empty() {
        eprint_line("mailtrail: no entry matches");
    }
    let notes: BTreeSet<_> = acts.iter().filter_map(|act| act.there.as_ref()).collect();
    if !context.json {
        notes.into_iter().for_each(|note| eprint_line(format!("mailtrail: {note}")));
    }
    let done = acts.iter().filter(|act| act.is_done()).count();
    if done == 0 || done < acts.len() { Err(CliError::AlreadyReported) } else { Ok(()) }
}

async fn import_csv(
    context: &Context,
    client: &AdminClient,
    file: &Path,
    dry_run: bool,
) -> Result<(), CliError> {
    let lines = if file == Path::new("-") {
        csv::read_csv(io::stdin().lock())
    } else {
        let opened = File::open(file);
        csv::read_csv(opened.map_err(|error| CliError::Usage(format!("{}: {error}", file.display())))?)
    }
    .map_err(CliError::Usage)?;
    let entries: Vec<_> = lines.iter().map(|(_, entry)| entry.clone()).collect();
    let looked = send_changes(client, "add", &entries, true).await?;
    let bad: Vec<_> = lines
        .iter()
        .zip(&looked)
        .filter(|(_, act)| act.is_rejected())
        .map(|((line, entry), act)| {
            format!("line {line}: {} {}", entry.address, act.why.as_deref().unwrap_or_default())
        })
        .collect();
    if !bad.is_empty() {
        return Err(CliError::Usage(csv::format_bad_lines(&bad)));
    }
    let acts = if dry_run { looked } else { send_changes(client, "add", &entries, false).await? };
    let done = acts.iter().filter(|act| act.is_done()).count();
    if context.json {
        print_json(&serde_json::json!({ "lines": acts.len(), "imported": done, "same": acts.len() - done }));
    } else {
        let would = if dry_run { "would be " } else { "" };
        print_line(format!("{done} {would}imported, {} unchanged", acts.len() - done));
    }
    Ok(())
}

fn export_csv(file: Option<&Path>, entries: &[SuppressionView]) -> Result<(), CliError> {
    let name = || file.map_or_else(|| "standard output".to_owned(), |file| file.display().to_string());
    let failed = |error: io::Error| CliError::Other(format!("cannot write {}: {error}", name()));
    let text = csv::write_csv(entries).map_err(failed)?;
    match file {
        Some(file) => std::fs::write(file, text).map_err(failed),
        None => {
            write_stdout(&text);
            Ok(())
        }
    }
}

/// Maximum number of entries in one request.
const ENTRIES_PER_REQUEST: usize = 10_000;
