use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_table;
use crate::cli::stdin::read_ids;
use crate::cli::{CliError, Context, eprint_line, print_json, print_line, time_expr, write_stdout};
use mailtrail_relay::admin::{InboundFilter, InboundView, ReleaseRequest};
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum InboundCommand {
    /// List the newest inbound messages in order of arrival, with their state
    #[command(after_help = "Example: mailtrail inbound list --state waiting")]
    List {
        /// State: waiting, delivered, dead or duplicate
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        which: InboundSelectionArgs,
    },
    /// List undelivered messages with the reason
    #[command(after_help = "Example: mailtrail inbound dead --to sales@")]
    Dead(InboundSelectionArgs),
    /// Print one message as received
    #[command(after_help = "Example: mailtrail inbound show 01K54Z8Q3V7N5X9B2C6D8F0GHJ > mail.eml")]
    Show {
        /// Id as in `inbound list`
        id: String,
    },
    /// Deliver dead letters or duplicates after all
    #[command(after_help = "Example: mailtrail inbound replay ALL --dry-run")]
    Replay {
        /// Ids as in `inbound list`, `-` for ids from standard input, or ALL for all dead letters
        #[arg(value_name = "ID|-|ALL", required = true)]
        ids: Vec<String>,
        /// Reason for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Print the result without applying it
        #[arg(long)]
        dry_run: bool,
    },
}

/// Selection of inbound messages.
#[derive(Debug, clap::Args)]
pub struct InboundSelectionArgs {
    /// Maximum number, newest first
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: usize,
    /// Part of the recipient's address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Part of the sender's address
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
}

pub async fn run(context: &Context, command: &InboundCommand) -> Result<(), CliError> {
    match command {
        InboundCommand::List { state, which } => {
            if let Some(state) = state.as_ref().filter(|state| !INBOUND_STATES.contains(&state.as_str())) {
                return Err(CliError::Usage(format!(
                    "--state {state:?} is none of {}",
                    INBOUND_STATES.join(", ")
                )));
            }
            list_messages(context, &which.to_filter(state.clone())).await
        }
        InboundCommand::Dead(which) => {
            list_messages(context, &which.to_filter(Some("dead".to_owned()))).await
        }
        InboundCommand::Show { id } => show_message(context, id).await,
        InboundCommand::Replay { ids, reason, dry_run } => {
            release_messages(context, ids, reason, *dry_run).await
        }
    }
}

impl InboundSelectionArgs {
    fn to_filter(&self, state: Option<String>) -> InboundFilter {
        InboundFilter { lines: Some(self.lines), state, to: self.to.clone(), from: self.from.clone() }
    }
}

async fn list_messages(context: &Context, filter: &InboundFilter) -> Result<(), CliError> {
    let views = AdminClient::open(context).await?.list_inbound(filter).await?;
    if views.is_empty() {
        return Err(CliError::AlreadyReported);
    }
    if context.json {
        views.iter().for_each(print_json);
        return Ok(());
    }
    let row = |view: &InboundView| {
        let InboundView { id, arrived, from, to, state, target, subject, .. } = view.clone();
        let target = target.unwrap_or_default();
        vec![id, time_expr::format_local(&arrived), from, to, state, target, view.remarks(), subject]
    };
    let header = ["ID", "ARRIVED", "FROM", "TO", "STATE", "TARGET", "REASON", "SUBJECT"];
    let rows: Vec<_> = views.iter().map(row).collect();
    format_table(&header, &rows, std::io::stdout().is_terminal()).iter().for_each(print_line);
    Ok(())
}

async fn show_message(context: &Context, id: &str) -> Result<(), CliError> {
    let Some(kept) = AdminClient::open(context).await?.get_inbound_message(id).await? else {
        eprint_line(format!(
            "mailtrail: no mail from outside that is kept has the id {id}; `mailtrail inbound list` names them"
        ));
        return Err(CliError::AlreadyReported);
    };
    if context.json {
        print_json(&kept);
        return Ok(());
    }
    let Some(message) = kept.message_bytes() else {
        eprint_line(format!("mailtrail: the message of {id} has expired; see [retention]"));
        return Err(CliError::AlreadyReported);
    };
    write_stdout(&message);
    Ok(())
}

async fn release_messages(
    context: &Context,
    ids: &[String],
    reason: &str,
    dry_run: bool,
) -> Result<(), CliError> {
    let mut order = ReleaseRequest { reason: reason.to_owned(), dry_run, ..ReleaseRequest::default() };
    for id in ids {
        match &**id {
            "-" => order.ids.extend(read_ids()?),
            "ALL" => order.all = true,
            id => order.ids.push(id.to_owned()),
        }
    }
    if order.all && !order.ids.is_empty() {
        return Err(CliError::Usage("give ids or ALL, not both".into()));
    }
    if !order.all && order.ids.is_empty() {
        eprint_line("mailtrail: no ids on standard input");
        return Err(CliError::AlreadyReported);
    }
    let released = AdminClient::open(context).await?.release_inbound(&order).await?;
    for one in &released {
        match (context.json, &one.why) {
            (true, _) => print_json(one),
            (false, None) => print_line(format!("{}  released", one.id)),
            (false, Some(why)) => print_line(format!("{}  {why}", one.id)),
        }
    }
    if released.is_empty() || released.iter().any(|one| !one.done) {
        Err(CliError::AlreadyReported)
    } else {
        Ok(())
    }
}

const INBOUND_STATES: [&str; 4] = ["waiting", "delivered", "dead", "duplicate"];
