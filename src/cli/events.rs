use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::queue::ids_from_stdin;
use crate::cli::{Context, Trouble, aside, config_source, print, say, say_json, time_expr};
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_relay::admin::{EventFilter, EventView, HINT, ReplayOrder, Replayed};
use mailtrail_trail::{Kind, What};
use std::collections::BTreeSet;
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The newest reports, in the order of their arrival, and whether they found their sends
    #[command(after_help = "Example: mailtrail events list --since '10 min ago' --event bounced")]
    List {
        /// Only what was brought to that send: its tracking id
        send: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Events that found no send, with the reason and when they are forgotten
    #[command(after_help = "Example: mailtrail events orphans --since yesterday")]
    Orphans(Which),
    /// Genuine reports that cannot be understood, with the reason
    #[command(after_help = "Example: mailtrail events dead")]
    Dead(Which),
    /// The raw form of one report, as it came
    #[command(after_help = "Example: mailtrail events show 01K54Z8Q3V7N5X9B2C6D8F0GHJ | jq .")]
    Show {
        /// What `events list` names it
        id: String,
    },
    /// Read reports anew by the rules of this version, and apply what they say now; nothing is counted twice
    #[command(
        after_help = "Examples: mailtrail events replay ALL --dead\n          mailtrail --json events orphans | jq -r .id | mailtrail events replay - --dry-run"
    )]
    Replay(Again),
}

/// Which reports are listed.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// At most so many, the newest [default: 50, or all with --since]
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// Came from this time on: "10 min ago", "2026-11-21 10:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Came up to this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// An upstream's name
    #[arg(long)]
    upstream: Option<String>,
    /// What happened: delivered, bounced, opened, …; hint for what is about a contact
    #[arg(long)]
    event: Option<String>,
    /// A part of the recipient's address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
}

/// Which reports are read anew.
#[derive(Debug, clap::Args)]
pub struct Again {
    /// What `events list` names them, `-` for ids from standard input, or ALL
    #[arg(value_name = "ID|-|ALL", required = true)]
    ids: Vec<String>,
    /// Of ALL only those that cannot be understood; with --orphans these too
    #[arg(long)]
    dead: bool,
    /// Of ALL only those that found no send
    #[arg(long)]
    orphans: bool,
    /// Of ALL only those that came from this time on
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Why, for the log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Say what would become of them, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let (filter, send) = match command {
        Command::List { send, which } => (which.filter()?, send.as_deref().map(tracking_id).transpose()?),
        Command::Orphans(which) | Command::Dead(which) => (which.filter()?, None),
        Command::Show { .. } | Command::Replay(_) => (EventFilter::default(), None),
    };
    let filter = EventFilter { send, ..filter };
    let desk = Desk::open(context).await?;
    // Where the daemon is stopped and the configuration cannot be read, it is not said when something is forgotten.
    let retention = || config_source::load(context).ok().map(|config| config.retention);
    match command {
        Command::List { .. } => list(context, LIST, &desk.events(&filter, retention).await?),
        Command::Orphans(_) => list(context, ALONE, &desk.orphans(&filter, retention).await?),
        Command::Dead(_) => list(context, ALONE, &desk.dead(&filter, retention).await?),
        Command::Show { id } => show(context, &desk, id).await,
        Command::Replay(again) => replay(context, &desk, again).await,
    }
}

impl Which {
    fn filter(&self) -> Result<EventFilter, Trouble> {
        let event = self.event.as_ref().map(|event| event.to_lowercase());
        let words = || Kind::ALL.iter().map(|kind| kind.word()).chain([What::Died.word(), HINT]);
        if let Some(event) = event.as_ref().filter(|event| !words().any(|word| word == **event)) {
            let words: Vec<_> = words().collect::<BTreeSet<_>>().into_iter().collect();
            return Err(Trouble::Usage(format!("--event {event:?} is none of {}", words.join(", "))));
        }
        let lines = self.lines.or(if self.since.is_some() { None } else { Some(LINES) });
        let (upstream, to) = (self.upstream.clone(), self.to.clone());
        let (since, until) = (time(self.since.as_deref())?, time(self.until.as_deref())?);
        Ok(EventFilter { lines, since, until, upstream, event, to, send: None })
    }
}

/// Milliseconds since the epoch.
fn time(text: Option<&str>) -> Result<Option<u64>, Trouble> {
    let parsed = text.map(|text| time_expr::parse(text, Clock::System.now())).transpose();
    parsed.map(|time| time.map(|time| time.millis())).map_err(Trouble::Usage)
}

fn tracking_id(text: &str) -> Result<String, Trouble> {
    let id: Result<TrackingId, _> = text.parse();
    id.map(|id| id.to_string()).map_err(|error| Trouble::Usage(format!("{text:?}: {error}")))
}

/// Title and content of a column.
type Column = (&'static str, fn(&EventView) -> String);

const LIST: &[Column] = &[
    ("ID", |view| view.id.clone()),
    ("ARRIVED", |view| time_expr::shown(&view.arrived)),
    ("UPSTREAM", |view| view.upstream.clone()),
    ("EVENT", |view| view.event.clone()),
    ("TO", |view| view.recipient.clone().unwrap_or_default()),
    ("STATE", |view| view.state.clone()),
    ("SEND", |view| view.send.clone().unwrap_or_default()),
    ("JOINED BY", |view| view.joined_by.clone().unwrap_or_default()),
    ("REASON", |view| view.reason.clone().unwrap_or_default()),
];
const ALONE: &[Column] = &[
    ("ID", |view| view.id.clone()),
    ("ARRIVED", |view| time_expr::shown(&view.arrived)),
    ("UPSTREAM", |view| view.upstream.clone()),
    ("EVENT", |view| view.event.clone()),
    ("TO", |view| view.recipient.clone().unwrap_or_default()),
    ("AGES OUT", |view| view.ages_out.as_deref().map(time_expr::shown).unwrap_or_default()),
    ("REASON", |view| view.reason.clone().unwrap_or_default()),
];

fn list(context: &Context, columns: &[Column], views: &[EventView]) -> Result<(), Trouble> {
    if views.is_empty() {
        return Err(Trouble::Nothing);
    }
    if context.json {
        views.iter().for_each(say_json);
        return Ok(());
    }
    let header: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
    let row = |view| columns.iter().map(|(_, cell)| cell(view)).collect();
    let rows: Vec<_> = views.iter().map(row).collect();
    table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(say);
    Ok(())
}

async fn show(context: &Context, desk: &Desk, id: &str) -> Result<(), Trouble> {
    let Some(kept) = desk.event(&tracking_id(id)?).await? else {
        aside(format!(
            "mailtrail: no report that is kept has the id {id}; `mailtrail events list` names them"
        ));
        return Err(Trouble::Nothing);
    };
    if context.json {
        say_json(&kept);
        return Ok(());
    }
    let Some(raw) = kept.bytes() else {
        aside(format!(
            "mailtrail: the raw form of {id} is no longer kept; [retention] events says how long it is"
        ));
        return Err(Trouble::Nothing);
    };
    print(&raw);
    if !raw.ends_with(b"\n") && std::io::stdout().is_terminal() {
        print(b"\n");
    }
    Ok(())
}

async fn replay(context: &Context, desk: &Desk, again: &Again) -> Result<(), Trouble> {
    let mut order = order(again)?;
    let (mut found, mut lost) = (0, 0);
    loop {
        let answer = desk.replay(&order).await?;
        for replayed in &answer.replayed {
            report(context, replayed);
            found += 1;
            // Of all there are always some whose raw form is no longer kept.
            lost += usize::from(replayed.outcome == "dead" || (replayed.outcome == "gone" && !order.all));
            order.ids.retain(|id| *id != replayed.id);
        }
        order.segment = answer.next;
        if answer.next.is_none() || (!order.all && order.ids.is_empty()) {
            break;
        }
    }
    for id in &order.ids {
        aside(format!("mailtrail: {id} is no report that is kept"));
    }
    if found == 0 && order.all {
        aside("mailtrail: no report fits");
    }
    if found == 0 || lost > 0 || !order.ids.is_empty() { Err(Trouble::Nothing) } else { Ok(()) }
}

fn order(again: &Again) -> Result<ReplayOrder, Trouble> {
    let (mut ids, mut all) = (BTreeSet::new(), false);
    for id in &again.ids {
        match &**id {
            "-" => {
                for id in ids_from_stdin()? {
                    ids.insert(tracking_id(&id)?);
                }
            }
            "ALL" => all = true,
            id => drop(ids.insert(tracking_id(id)?)),
        }
    }
    let narrowed = again.dead || again.orphans || again.since.is_some();
    if !ids.is_empty() && (all || narrowed) {
        return Err(Trouble::Usage("name ids, or say which of ALL are meant, not both".into()));
    }
    if ids.is_empty() && !all {
        aside("mailtrail: no ids came from standard input");
        return Err(Trouble::Nothing);
    }
    let Again { dead, orphans, dry_run, .. } = *again;
    let (since, ids) = (time(again.since.as_deref())?, ids.into_iter().collect());
    let reason = again.reason.clone();
    Ok(ReplayOrder { segment: None, ids, all, dead, orphans, since, reason, dry_run })
}

fn report(context: &Context, replayed: &Replayed) {
    if context.json {
        return say_json(replayed);
    }
    let Replayed { id, outcome, send, why } = replayed;
    let words = [Some(id), Some(outcome), send.as_ref(), why.as_ref()];
    say(words.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("  "));
}

/// Reports that are listed where nothing else is said.
const LINES: usize = 50;
