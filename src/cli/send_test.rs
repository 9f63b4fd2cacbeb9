//! `mailtrail send-test`: sends one message and follows its trail to the end.

use crate::cli::admin_client::AdminClient;
use crate::cli::output::format_timeline_entry;
use crate::cli::{CliError, Context, print_json, print_line};
use jiff::{SignedDuration, Span, SpanRelativeTo};
use mailtrail_relay::TimelineEntry;
use mailtrail_relay::admin::{RecipientView, TestMailRequest, TestMailResponse, TrailView};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

pub const AFTER_HELP: &str = "Examples:
  mailtrail send-test you@example.net
  mailtrail send-test you@example.net --from sales@mg.example.com --wait 10m

The mail is taken in, routed and sent as any other. Exit codes: 0 delivered, and the provider's
event says so; 1 not, with the likely cause; 3 no daemon runs.";

#[derive(Debug, clap::Args)]
pub struct SendTestArgs {
    /// Recipient
    to: String,
    /// Sender; the upstream must accept its domain [default: [heartbeat]'s, or mailtrail@ the first upstream's domain]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Maximum wait for its events, 1s to 1d
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_timeout)]
    wait: Duration,
    /// Reason for the log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

pub async fn run(context: &Context, arguments: &SendTestArgs) -> Result<(), CliError> {
    let client = AdminClient::open(context).await?;
    let SendTestArgs { to, from, reason, .. } = arguments;
    let order = TestMailRequest { to: to.clone(), from: from.clone(), reason: reason.clone() };
    let mail = client.send_test_mail(&order).await?;
    let Some(id) = mail.id.clone() else {
        let words = mail.refused.unwrap_or_default();
        return Err(CliError::Other(format!("the relay does not take the mail: {words}")));
    };
    if context.json {
        print_json(&json!({ "id": id, "from": mail.from, "to": order.to }));
    } else {
        print_line(format!("{}  from {} to {}", context.style.bold(&id), mail.from, order.to));
    }
    let (trail, ended) = follow_trail(context, &client, &id, &mail, arguments.wait).await?;
    let verdict = describe_result(&id, trail.as_ref(), &mail, ended, arguments.wait);
    let delivered = verdict.is_ok();
    let text = verdict.unwrap_or_else(|cause| cause);
    if context.json {
        let state = trail.as_ref().and_then(first_recipient).map(|recipient| &recipient.state);
        print_json(&json!({ "id": id, "state": state, "delivered": delivered, "verdict": text }));
    } else {
        print_line(text);
    }
    if delivered { Ok(()) } else { Err(CliError::AlreadyReported) }
}

/// Prints the timeline until it is complete or the timeout has passed. Returns whether it is complete.
async fn follow_trail(
    context: &Context,
    client: &AdminClient,
    id: &str,
    mail: &TestMailResponse,
    wait: Duration,
) -> Result<(Option<TrailView>, bool), CliError> {
    let (deadline, mut told) = (Instant::now() + wait, HashSet::new());
    loop {
        let late = Instant::now() >= deadline;
        let trail = client.find_trails(id, 1).await?.trails.pop();
        for fact in trail.iter().flat_map(|trail| &trail.timeline) {
            // An entry may sort before entries that are already printed.
            if told.insert(serde_json::to_string(fact).unwrap_or_default()) {
                print_event(context, fact);
            }
        }
        let ended = trail.as_ref().is_some_and(|trail| is_finished(trail, &mail.silent));
        if ended || late {
            return Ok((trail, ended));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn print_event(context: &Context, fact: &TimelineEntry) {
    if context.json {
        print_json(fact);
    } else {
        print_line(format_timeline_entry(fact, 1, context.style));
    }
}

fn first_recipient(trail: &TrailView) -> Option<&RecipientView> {
    trail.recipients.first()
}

/// Returns the upstream that accepted the message.
fn accepting_upstream(trail: &TrailView) -> Option<&str> {
    let relayed = trail.timeline.iter().rev().find(|fact| fact.event == "relayed");
    relayed.and_then(|fact| fact.upstream.as_deref())
}

/// Whether no further entries are expected.
fn is_finished(trail: &TrailView, silent: &[String]) -> bool {
    let Some(recipient) = first_recipient(trail) else { return false };
    match recipient.state.as_str() {
        "delivered" => has_provider_event(trail),
        "relayed" => accepting_upstream(trail).is_some_and(|name| silent.iter().any(|silent| silent == name)),
        state => matches!(state, "bounced" | "failed" | "expired" | "suppressed" | "cancelled"),
    }
}

/// Whether the provider has reported an event.
fn has_provider_event(trail: &TrailView) -> bool {
    trail.timeline.iter().any(|fact| matches!(fact.source.as_str(), "webhook" | "poll"))
}

/// Describes the result for the user.
fn describe_result(
    id: &str,
    trail: Option<&TrailView>,
    mail: &TestMailResponse,
    ended: bool,
    wait: Duration,
) -> Result<String, String> {
    let within = SignedDuration::try_from(wait).map(|wait| format!("{wait:#}")).unwrap_or_default();
    let Some((trail, recipient)) = trail.and_then(|trail| Some((trail, first_recipient(trail)?))) else {
        return Err(format!("{id} is not in the ledger after {within}; `mailtrail doctor` checks the store"));
    };
    let reason = recipient.reason.as_deref().unwrap_or("no reason given");
    let upstream = accepting_upstream(trail).unwrap_or("the upstream");
    Err(match recipient.state.as_str() {
        "delivered" if has_provider_event(trail) => {
            return Ok(format!("delivered, and {upstream} reported it"));
        }
        "suppressed" => {
            format!(
                "suppressed: {reason}; `mailtrail suppress list` shows the address, `suppress remove` removes it"
            )
        }
        "relayed" if mail.silent.iter().any(|silent| silent == upstream) => format!(
            "{upstream} accepted it, but its events are not received here; set webhook_signing_key_file (Mailgun) or \
             webhook_token_file (Brevo); a plain SMTP server sends no events"
        ),
        "relayed" if has_provider_event(trail) => {
            let reason = recipient.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!(
                "{upstream} accepted it and sends events, but none within {within} reports the delivery{reason}; \
                 `mailtrail trace {id}` shows the next ones"
            )
        }
        "relayed" | "delivered" => format!(
            "{upstream} accepted it, but no event arrived within {within}; are its webhooks registered, \
             and do they reach this relay? `mailtrail doctor` checks, `mailtrail setup` registers them"
        ),
        "unknown" => format!(
            "{upstream} sent no reply after the message, and no event arrived within {within}; `mailtrail trace {id}` \
             tells what comes next"
        ),
        state if ended => format!("{state}: {reason}; `mailtrail trace {id}` shows the trail"),
        state => {
            let why = recipient.reason.as_deref().or(trail.next_action.as_deref()).unwrap_or(reason);
            format!(
                "still {state} after {within}: {why}; see `mailtrail queue show {id}` and `mailtrail doctor`"
            )
        }
    })
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let span = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let parsed = span.and_then(|span| Duration::try_from(span).ok());
    let fits = |wait: &Duration| (MIN_WAIT..=MAX_WAIT).contains(wait);
    parsed.filter(fits).ok_or_else(|| "write a time from 1s to 1d, such as 90s, 5m or 1h".to_owned())
}

const POLL_INTERVAL: Duration = Duration::from_millis(200);
const MIN_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_human_readable_timeouts() {
        for (text, seconds) in [("5m", 300), ("5min", 300), ("90s", 90), ("1h 30m", 5400), ("1d", 86_400)] {
            assert_eq!(parse_timeout(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "0s", "-5m", "25h", "soon"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }
}
