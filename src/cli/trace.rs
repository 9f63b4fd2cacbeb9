use crate::cli::admin_client::AdminClient;
use crate::cli::output::print_trail;
use crate::cli::{CliError, Context, eprint_line, print_json, print_line};
use mailtrail_relay::admin::MAX_SUBJECT_SCAN;

#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// Tracking id or prefix, Message-ID, recipient, Odoo record (sale.order,42) or part of a subject
    what: String,
    /// Maximum number of messages, newest first
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
}

pub async fn run(context: &Context, arguments: &TraceArgs) -> Result<(), CliError> {
    if arguments.what.trim().is_empty() {
        return Err(CliError::Usage("give an id, an address, a record or words of a subject".into()));
    }
    let client = AdminClient::open(context).await?;
    let found = client.find_trails(&arguments.what, arguments.lines).await?;
    if found.cut_off {
        eprint_line(format!(
            "mailtrail: only the newest {MAX_SUBJECT_SCAN} subjects were searched; find older messages by id, address or \
             Odoo record"
        ));
    }
    if found.trails.is_empty() {
        eprint_line(format!("mailtrail: no message matches {:?}", arguments.what));
        return Err(CliError::AlreadyReported);
    }
    for trail in &found.trails {
        if context.json {
            print_json(trail);
        } else {
            print_trail(trail, context.style);
        }
    }
    if found.more && !context.json {
        print_line(context.style.dim("More messages match; use -n to show more."));
    }
    Ok(())
}
