use crate::cli::admin_client::Desk;
use crate::cli::output::table;
use crate::cli::queue::ids_from_stdin;
use crate::cli::{Context, Trouble, aside, print, say, say_json, time_expr};
use mailtrail_relay::admin::{InboundFilter, InboundView, ReleaseOrder};
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Mail from outside, the newest, in the order of its arrival, and where it stands
    #[command(after_help = "Example: mailtrail inbound list --state waiting")]
    List {
        /// waiting, delivered, dead or duplicate
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Mail that is not delivered, with the reason
    #[command(after_help = "Example: mailtrail inbound dead --to sales@")]
    Dead(Which),
    /// The message of one, as it came
    #[command(after_help = "Example: mailtrail inbound show 01K54Z8Q3V7N5X9B2C6D8F0GHJ > mail.eml")]
    Show {
        /// What `inbound list` names it
        id: String,
    },
    /// Deliver mail after all that is a dead letter or a duplicate
    #[command(after_help = "Example: mailtrail inbound replay ALL --dry-run")]
    Replay {
        /// What `inbound list` names it, `-` for ids from standard input, or ALL for all dead letters
        #[arg(value_name = "ID|-|ALL", required = true)]
        ids: Vec<String>,
        /// Why, for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Say what would become of them, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which mail is listed.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// At most so many, the newest
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: usize,
    /// A part of the recipient's address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// A part of the sender's address
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    match command {
        Command::List { state, which } => {
            if let Some(state) = state.as_ref().filter(|state| !STATES.contains(&state.as_str())) {
                return Err(Trouble::Usage(format!("--state {state:?} is none of {}", STATES.join(", "))));
            }
            list(context, &which.filter(state.clone())).await
        }
        Command::Dead(which) => list(context, &which.filter(Some("dead".to_owned()))).await,
        Command::Show { id } => show(context, id).await,
        Command::Replay { ids, reason, dry_run } => replay(context, ids, reason, *dry_run).await,
    }
}

impl Which {
    fn filter(&self, state: Option<String>) -> InboundFilter {
        InboundFilter { lines: Some(self.lines), state, to: self.to.clone(), from: self.from.clone() }
    }
}

async fn list(context: &Context, filter: &InboundFilter) -> Result<(), Trouble> {
    let views = Desk::open(context).await?.inbound(filter).await?;
    if views.is_empty() {
        return Err(Trouble::Nothing);
    }
    if context.json {
        views.iter().for_each(say_json);
        return Ok(());
    }
    let row = |view: &InboundView| {
        let InboundView { id, arrived, from, to, state, target, subject, .. } = view.clone();
        let target = target.unwrap_or_default();
        vec![id, time_expr::shown(&arrived), from, to, state, target, view.remarks(), subject]
    };
    let header = ["ID", "ARRIVED", "FROM", "TO", "STATE", "TARGET", "REASON", "SUBJECT"];
    let rows: Vec<_> = views.iter().map(row).collect();
    table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(say);
    Ok(())
}

async fn show(context: &Context, id: &str) -> Result<(), Trouble> {
    let Some(kept) = Desk::open(context).await?.inbound_mail(id).await? else {
        aside(format!(
            "mailtrail: no mail from outside that is kept has the id {id}; `mailtrail inbound list` names them"
        ));
        return Err(Trouble::Nothing);
    };
    if context.json {
        say_json(&kept);
        return Ok(());
    }
    let Some(message) = kept.bytes() else {
        aside(format!("mailtrail: the message of {id} is no longer kept; [retention] says how long it is"));
        return Err(Trouble::Nothing);
    };
    print(&message);
    Ok(())
}

async fn replay(context: &Context, ids: &[String], reason: &str, dry_run: bool) -> Result<(), Trouble> {
    let mut order = ReleaseOrder { reason: reason.to_owned(), dry_run, ..ReleaseOrder::default() };
    for id in ids {
        match &**id {
            "-" => order.ids.extend(ids_from_stdin()?),
            "ALL" => order.all = true,
            id => order.ids.push(id.to_owned()),
        }
    }
    if order.all && !order.ids.is_empty() {
        return Err(Trouble::Usage("name ids, or say ALL, not both".into()));
    }
    if !order.all && order.ids.is_empty() {
        aside("mailtrail: no ids came from standard input");
        return Err(Trouble::Nothing);
    }
    let released = Desk::open(context).await?.release(&order).await?;
    for one in &released {
        match (context.json, &one.why) {
            (true, _) => say_json(one),
            (false, None) => say(format!("{}  released", one.id)),
            (false, Some(why)) => say(format!("{}  {why}", one.id)),
        }
    }
    if released.is_empty() || released.iter().any(|one| !one.done) { Err(Trouble::Nothing) } else { Ok(()) }
}

const STATES: [&str; 4] = ["waiting", "delivered", "dead", "duplicate"];
