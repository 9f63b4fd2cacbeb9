//! Exports all stored data about an address, for example for a request under the GDPR.

use crate::cli::admin_client::AdminClient;
use crate::cli::output::print_trail;
use crate::cli::{CliError, Context, config_source, eprint_line, print_json, print_line, time_expr};
use mailtrail_mail::Mailbox;
use mailtrail_relay::admin::{ExportLine, UNKNOWN_TIME};

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Address to export
    address: String,
}

pub const AFTER_HELP: &str = "\
Sends from it and to it with their trails, providers' reports with their raw form, mail from
outside, what the suppression list has, and what else the log says. Messages that are still kept
are mentioned with their size. With --json each line names its `kind`: send, event, inbound,
suppression or log. It reads all of the journal.

Example: mailtrail export --json ada@example.net > ada.jsonl";

pub async fn run(context: &Context, arguments: &ExportArgs) -> Result<(), CliError> {
    let address: Mailbox =
        arguments.address.trim().parse().map_err(|error| {
            CliError::Usage(format!("{:?} is no mail address: {error}", arguments.address))
        })?;
    let client = AdminClient::open(context).await?;
    let settings = config_source::load_suppression_settings(context)?;
    let lines = client.export_address(&address, &settings).await?;
    if lines.is_empty() {
        eprint_line(format!("mailtrail: no data about {address}"));
        return Err(CliError::AlreadyReported);
    }
    for line in &lines {
        if context.json { print_json(line) } else { print_export_line(context, line) }
    }
    Ok(())
}

fn print_export_line(context: &Context, line: &ExportLine) {
    match line {
        ExportLine::Send { trail, message_kept } => {
            print_trail(trail, context.style);
            print_stored_size(*message_kept);
        }
        ExportLine::Event { event } => {
            let one = &event.event;
            print_line(format!(
                "event {}  {}  {} of {}  {}",
                one.id,
                time_expr::format_local(&one.arrived),
                one.event,
                one.upstream,
                one.text.as_deref().unwrap_or_default()
            ));
            if let Some(raw) = event.raw.as_ref().or(event.raw_base64.as_ref()) {
                print_line(format!("  {}", raw.trim_end().replace('\n', "\n  ")));
            }
        }
        ExportLine::Inbound { mail, message_kept } => {
            let text = mail.text.as_deref().unwrap_or_default();
            print_line(format!(
                "inbound {}  {}  <{}> to <{}>  {:?}  {} {text}",
                mail.id,
                time_expr::format_local(&mail.arrived),
                mail.from,
                mail.to,
                mail.subject,
                mail.state
            ));
            print_stored_size(*message_kept);
        }
        ExportLine::Suppression { entry } => print_line(format!(
            "suppression {}  {} since {}, {}, by {}  {}",
            entry.upstream.as_deref().unwrap_or("everywhere"),
            entry.reason,
            entry
                .times
                .first()
                .map_or_else(|| UNKNOWN_TIME.to_owned(), |first| time_expr::format_local(first)),
            entry.state,
            entry.source,
            entry.words
        )),
        ExportLine::Log { fact } => print_line(format!(
            "log {}  {}  {}",
            time_expr::format_local(&fact.at),
            fact.event,
            fact.text.as_deref().unwrap_or_default()
        )),
    }
}

fn print_stored_size(message: Option<u64>) {
    if let Some(size) = message {
        print_line(format!("  its message of {size} bytes is still kept"));
    }
}
