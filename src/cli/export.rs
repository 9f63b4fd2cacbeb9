//! All that is known about an address, for whoever may ask.

use crate::cli::admin_client::Desk;
use crate::cli::{Context, Trouble, aside, config_source, say, say_json, time_expr, trace};
use mailtrail_mail::Mailbox;
use mailtrail_relay::admin::{ExportLine, UNKNOWN};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The address
    address: String,
}

pub const EXAMPLES: &str = "\
Sends from it and to it with their trails, providers' reports with their raw form, mail from
outside, what the suppression list has, and what else the log says. Messages that are still kept
are mentioned with their size. With --json each line names its `kind`: send, event, inbound,
suppression or log. It reads all of the journal.

Example: mailtrail export --json ada@example.net > ada.jsonl";

pub async fn run(context: &Context, arguments: &Arguments) -> Result<(), Trouble> {
    let address: Mailbox =
        arguments.address.trim().parse().map_err(|error| {
            Trouble::Usage(format!("{:?} is no mail address: {error}", arguments.address))
        })?;
    let desk = Desk::open(context).await?;
    let settings = config_source::suppression(context)?;
    let lines = desk.export(&address, &settings).await?;
    if lines.is_empty() {
        aside(format!("mailtrail: nothing is known about {address}"));
        return Err(Trouble::Nothing);
    }
    for line in &lines {
        if context.json { say_json(line) } else { print(context, line) }
    }
    Ok(())
}

fn print(context: &Context, line: &ExportLine) {
    match line {
        ExportLine::Send { trail, message_kept } => {
            trace::print(trail, context.paint);
            kept(*message_kept);
        }
        ExportLine::Event { event } => {
            let one = &event.event;
            say(format!(
                "event {}  {}  {} of {}  {}",
                one.id,
                time_expr::shown(&one.arrived),
                one.event,
                one.upstream,
                one.text.as_deref().unwrap_or_default()
            ));
            if let Some(raw) = event.raw.as_ref().or(event.raw_base64.as_ref()) {
                say(format!("  {}", raw.trim_end().replace('\n', "\n  ")));
            }
        }
        ExportLine::Inbound { mail, message_kept } => {
            let text = mail.text.as_deref().unwrap_or_default();
            say(format!(
                "inbound {}  {}  <{}> to <{}>  {:?}  {} {text}",
                mail.id,
                time_expr::shown(&mail.arrived),
                mail.from,
                mail.to,
                mail.subject,
                mail.state
            ));
            kept(*message_kept);
        }
        ExportLine::Suppression { entry } => say(format!(
            "suppression {}  {} since {}, {}, by {}  {}",
            entry.upstream.as_deref().unwrap_or("everywhere"),
            entry.reason,
            entry.times.first().map_or_else(|| UNKNOWN.to_owned(), |first| time_expr::shown(first)),
            entry.state,
            entry.source,
            entry.words
        )),
        ExportLine::Log { fact } => say(format!(
            "log {}  {}  {}",
            time_expr::shown(&fact.at),
            fact.event,
            fact.text.as_deref().unwrap_or_default()
        )),
    }
}

fn kept(message: Option<u64>) {
    if let Some(size) = message {
        say(format!("  its message of {size} bytes is still kept"));
    }
}
