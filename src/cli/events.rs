use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_table;
use crate::cli::stdin::read_ids;
use crate::cli::{
    CliError, Context, config_source, eprint_line, print_json, print_line, time_expr, write_stdout,
};
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_relay::admin::{EventFilter, EventReplayRequest, EventReplayResult, EventView, HINT_NAME};
use mailtrail_trail::{EventKind, TrailEventKind};
use std::collections::BTreeSet;
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum EventsCommand {
    /// List the newest events in order of arrival, and whether they are matched
    #[command(after_help = "Example: mailtrail events list --since '10 min ago' --event bounced")]
    List {
        /// Only events of the message with this tracking id
        send: Option<String>,
        #[command(flatten)]
        which: EventSelectionArgs,
    },
    /// List unmatched events with reason and expiry
    #[command(after_help = "Example: mailtrail events orphans --since yesterday")]
    Orphans(EventSelectionArgs),
    /// List authentic events that cannot be decoded, with the reason
    #[command(after_help = "Example: mailtrail events dead")]
    Dead(EventSelectionArgs),
    /// Print the raw form of one event
    #[command(after_help = "Example: mailtrail events show 01K54Z8Q3V7N5X9B2C6D8F0GHJ | jq .")]
    Show {
        /// Id as in `events list`
        id: String,
    },
    /// Decode events again with this version and apply them; nothing is counted twice
    #[command(
        after_help = "Examples: mailtrail events replay ALL --dead\n          mailtrail --json events orphans | jq -r .id | mailtrail events replay - --dry-run"
    )]
    Replay(EventReplayArgs),
}

/// Selection of events to list.
#[derive(Debug, clap::Args)]
pub struct EventSelectionArgs {
    /// Maximum number, newest first [default: 50, or all with --since]
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// Received at or after this time: "10 min ago", "2026-11-21 10:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Received at or before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Name of the upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Event: delivered, bounced, opened, …; hint for contact hints
    #[arg(long)]
    event: Option<String>,
    /// Part of the recipient's address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
}

/// Selection of events to replay.
#[derive(Debug, clap::Args)]
pub struct EventReplayArgs {
    /// Ids as in `events list`, `-` for ids from standard input, or ALL
    #[arg(value_name = "ID|-|ALL", required = true)]
    ids: Vec<String>,
    /// With ALL: only undecodable events; with --orphans these, too
    #[arg(long)]
    dead: bool,
    /// With ALL: only unmatched events
    #[arg(long)]
    orphans: bool,
    /// With ALL: only events received at or after this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Reason for the log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Print the result without applying it
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(context: &Context, command: &EventsCommand) -> Result<(), CliError> {
    let (filter, send) = match command {
        EventsCommand::List { send, which } => {
            (which.to_filter()?, send.as_deref().map(parse_tracking_id).transpose()?)
        }
        EventsCommand::Orphans(which) | EventsCommand::Dead(which) => (which.to_filter()?, None),
        EventsCommand::Show { .. } | EventsCommand::Replay(_) => (EventFilter::default(), None),
    };
    let filter = EventFilter { send, ..filter };
    let client = AdminClient::open(context).await?;
    // Without a daemon and without a readable configuration, the expiry of events is not shown.
    let retention = || config_source::load_config(context).ok().map(|config| config.retention);
    match command {
        EventsCommand::List { .. } => {
            print_events(context, EVENT_COLUMNS, &client.list_events(&filter, retention).await?)
        }
        EventsCommand::Orphans(_) => {
            print_events(context, ORPHAN_COLUMNS, &client.list_orphan_events(&filter, retention).await?)
        }
        EventsCommand::Dead(_) => {
            print_events(context, ORPHAN_COLUMNS, &client.list_dead_events(&filter, retention).await?)
        }
        EventsCommand::Show { id } => show_event(context, &client, id).await,
        EventsCommand::Replay(again) => replay_events(context, &client, again).await,
    }
}

impl EventSelectionArgs {
    fn to_filter(&self) -> Result<EventFilter, CliError> {
        let event = self.event.as_ref().map(|event| event.to_lowercase());
        let words = || {
            EventKind::ALL
                .iter()
                .map(|kind| kind.as_str())
                .chain([TrailEventKind::DeadLettered.as_str(), HINT_NAME])
        };
        if let Some(event) = event.as_ref().filter(|event| !words().any(|word| word == **event)) {
            let words: Vec<_> = words().collect::<BTreeSet<_>>().into_iter().collect();
            return Err(CliError::Usage(format!("--event {event:?} is none of {}", words.join(", "))));
        }
        let lines = self.lines.or(if self.since.is_some() { None } else { Some(DEFAULT_MAX_LINES) });
        let (upstream, to) = (self.upstream.clone(), self.to.clone());
        let (since, until) =
            (parse_time_millis(self.since.as_deref())?, parse_time_millis(self.until.as_deref())?);
        Ok(EventFilter { lines, since, until, upstream, event, to, send: None })
    }
}

/// Milliseconds since the epoch.
fn parse_time_millis(text: Option<&str>) -> Result<Option<u64>, CliError> {
    let parsed = text.map(|text| time_expr::parse(text, Clock::System.now())).transpose();
    parsed.map(|time| time.map(|time| time.as_millis())).map_err(CliError::Usage)
}

fn parse_tracking_id(text: &str) -> Result<String, CliError> {
    let id: Result<TrackingId, _> = text.parse();
    id.map(|id| id.to_string()).map_err(|error| CliError::Usage(format!("{text:?}: {error}")))
}

/// Title and content of a column.
type Column = (&'static str, fn(&EventView) -> String);

const EVENT_COLUMNS: &[Column] = &[
    ("ID", |view| view.id.clone()),
    ("ARRIVED", |view| time_expr::format_local(&view.arrived)),
    ("UPSTREAM", |view| view.upstream.clone()),
    ("EVENT", |view| view.event.clone()),
    ("TO", |view| view.recipient.clone().unwrap_or_default()),
    ("STATE", |view| view.state.clone()),
    ("SEND", |view| view.send.clone().unwrap_or_default()),
    ("JOINED BY", |view| view.joined_by.clone().unwrap_or_default()),
    ("REASON", |view| view.reason.clone().unwrap_or_default()),
];
const ORPHAN_COLUMNS: &[Column] = &[
    ("ID", |view| view.id.clone()),
    ("ARRIVED", |view| time_expr::format_local(&view.arrived)),
    ("UPSTREAM", |view| view.upstream.clone()),
    ("EVENT", |view| view.event.clone()),
    ("TO", |view| view.recipient.clone().unwrap_or_default()),
    ("AGES OUT", |view| view.ages_out.as_deref().map(time_expr::format_local).unwrap_or_default()),
    ("REASON", |view| view.reason.clone().unwrap_or_default()),
];

fn print_events(context: &Context, columns: &[Column], views: &[EventView]) -> Result<(), CliError> {
    if views.is_empty() {
        return Err(CliError::AlreadyReported);
    }
    if context.json {
        views.iter().for_each(print_json);
        return Ok(());
    }
    let header: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
    let row = |view| columns.iter().map(|(_, cell)| cell(view)).collect();
    let rows: Vec<_> = views.iter().map(row).collect();
    format_table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(print_line);
    Ok(())
}

async fn show_event(context: &Context, client: &AdminClient, id: &str) -> Result<(), CliError> {
    let Some(kept) = client.get_event(&parse_tracking_id(id)?).await? else {
        eprint_line(format!(
            "mailtrail: no report that is kept has the id {id}; `mailtrail events list` names them"
        ));
        return Err(CliError::AlreadyReported);
    };
    if context.json {
        print_json(&kept);
        return Ok(());
    }
    let Some(raw) = kept.raw_bytes() else {
        eprint_line(format!("mailtrail: the raw payload of {id} has expired; see `events` in [retention]"));
        return Err(CliError::AlreadyReported);
    };
    write_stdout(&raw);
    if !raw.ends_with(b"\n") && std::io::stdout().is_terminal() {
        write_stdout(b"\n");
    }
    Ok(())
}

async fn replay_events(
    context: &Context,
    client: &AdminClient,
    again: &EventReplayArgs,
) -> Result<(), CliError> {
    let mut order = build_replay_request(again)?;
    let (mut found, mut lost) = (0, 0);
    loop {
        let answer = client.replay_events(&order).await?;
        for replayed in &answer.replayed {
            print_replay_result(context, replayed);
            found += 1;
            // `--all` always includes events whose raw payload has expired; they are no failure.
            lost += usize::from(replayed.outcome == "dead" || (replayed.outcome == "gone" && !order.all));
            order.ids.retain(|id| *id != replayed.id);
        }
        order.segment = answer.next;
        if answer.next.is_none() || (!order.all && order.ids.is_empty()) {
            break;
        }
    }
    for id in &order.ids {
        eprint_line(format!("mailtrail: no event has the id {id}"));
    }
    if found == 0 && order.all {
        eprint_line("mailtrail: no event matches");
    }
    if found == 0 || lost > 0 || !order.ids.is_empty() { Err(CliError::AlreadyReported) } else { Ok(()) }
}

fn build_replay_request(again: &EventReplayArgs) -> Result<EventReplayRequest, CliError> {
    let (mut ids, mut all) = (BTreeSet::new(), false);
    for id in &again.ids {
        match &**id {
            "-" => {
                for id in read_ids()? {
                    ids.insert(parse_tracking_id(&id)?);
                }
            }
            "ALL" => all = true,
            id => drop(ids.insert(parse_tracking_id(id)?)),
        }
    }
    let narrowed = again.dead || again.orphans || again.since.is_some();
    if !ids.is_empty() && (all || narrowed) {
        return Err(CliError::Usage("give ids, or ALL with filters, not both".into()));
    }
    if ids.is_empty() && !all {
        eprint_line("mailtrail: no ids on standard input");
        return Err(CliError::AlreadyReported);
    }
    let EventReplayArgs { dead, orphans, dry_run, .. } = *again;
    let (since, ids) = (parse_time_millis(again.since.as_deref())?, ids.into_iter().collect());
    let reason = again.reason.clone();
    Ok(EventReplayRequest { segment: None, ids, all, dead, orphans, since, reason, dry_run })
}

fn print_replay_result(context: &Context, replayed: &EventReplayResult) {
    if context.json {
        return print_json(replayed);
    }
    let EventReplayResult { id, outcome, send, why } = replayed;
    let words = [Some(id), Some(outcome), send.as_ref(), why.as_ref()];
    print_line(words.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("  "));
}

/// Default number of events in a list.
const DEFAULT_MAX_LINES: usize = 50;
