//! `mailtrail send-test`: one mail through the whole loop, followed to its end.

use crate::cli::admin_client::Desk;
use crate::cli::{Context, Trouble, say, say_json, trace};
use jiff::{SignedDuration, Span, SpanRelativeTo};
use mailtrail_relay::FactView;
use mailtrail_relay::admin::{RecipientView, TestAnswer, TestOrder, TrailView};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

pub const EXAMPLES: &str = "Examples:
  mailtrail send-test you@example.net
  mailtrail send-test you@example.net --from sales@mg.example.com --wait 10m

The mail is taken in, routed and sent as any other. Exit codes: 0 delivered, and the provider's
event says so; 1 not, with the likely cause; 3 no daemon runs.";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Who gets the mail
    to: String,
    /// The sender, whose domain the upstream must know [default: [heartbeat]'s, or mailtrail@ the first upstream's domain]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// How long its events may take, 1s to 1d
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = patience)]
    wait: Duration,
    /// Why, for the log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

pub async fn run(context: &Context, arguments: &Arguments) -> Result<(), Trouble> {
    let desk = Desk::open(context).await?;
    let Arguments { to, from, reason, .. } = arguments;
    let order = TestOrder { to: to.clone(), from: from.clone(), reason: reason.clone() };
    let mail = desk.send_test(&order).await?;
    let Some(id) = mail.id.clone() else {
        let words = mail.refused.unwrap_or_default();
        return Err(Trouble::Failed(format!("the relay does not take the mail: {words}")));
    };
    if context.json {
        say_json(&json!({ "id": id, "from": mail.from, "to": order.to }));
    } else {
        say(format!("{}  from {} to {}", context.paint.bold(&id), mail.from, order.to));
    }
    let (trail, ended) = follow(context, &desk, &id, &mail, arguments.wait).await?;
    let verdict = verdict(&id, trail.as_ref(), &mail, ended, arguments.wait);
    let delivered = verdict.is_ok();
    let text = verdict.unwrap_or_else(|cause| cause);
    if context.json {
        let state = trail.as_ref().and_then(recipient).map(|recipient| &recipient.state);
        say_json(&json!({ "id": id, "state": state, "delivered": delivered, "verdict": text }));
    } else {
        say(text);
    }
    if delivered { Ok(()) } else { Err(Trouble::Nothing) }
}

/// Tells what happens until nothing more will, or the time is up; whether it ended by itself.
async fn follow(
    context: &Context,
    desk: &Desk,
    id: &str,
    mail: &TestAnswer,
    wait: Duration,
) -> Result<(Option<TrailView>, bool), Trouble> {
    let (deadline, mut told) = (Instant::now() + wait, HashSet::new());
    loop {
        let late = Instant::now() >= deadline;
        let trail = desk.find(id, 1).await?.trails.pop();
        for fact in trail.iter().flat_map(|trail| &trail.timeline) {
            // A fact may come in before others that were told already.
            if told.insert(serde_json::to_string(fact).unwrap_or_default()) {
                tell(context, fact);
            }
        }
        let ended = trail.as_ref().is_some_and(|trail| has_ended(trail, &mail.silent));
        if ended || late {
            return Ok((trail, ended));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn tell(context: &Context, fact: &FactView) {
    if context.json {
        say_json(fact);
    } else {
        say(trace::timeline(fact, 1, context.paint));
    }
}

fn recipient(trail: &TrailView) -> Option<&RecipientView> {
    trail.recipients.first()
}

/// The upstream that took it, if one did.
fn taken_by(trail: &TrailView) -> Option<&str> {
    let relayed = trail.timeline.iter().rev().find(|fact| fact.event == "relayed");
    relayed.and_then(|fact| fact.upstream.as_deref())
}

/// Whether nothing more is to be expected.
fn has_ended(trail: &TrailView, silent: &[String]) -> bool {
    let Some(recipient) = recipient(trail) else { return false };
    match recipient.state.as_str() {
        "delivered" => is_reported(trail),
        "relayed" => taken_by(trail).is_some_and(|name| silent.iter().any(|silent| silent == name)),
        state => matches!(state, "bounced" | "failed" | "expired" | "suppressed" | "cancelled"),
    }
}

/// Whether the provider told us what became of it.
fn is_reported(trail: &TrailView) -> bool {
    trail.timeline.iter().any(|fact| matches!(fact.source.as_str(), "webhook" | "poll"))
}

/// What came of it, in words.
fn verdict(
    id: &str,
    trail: Option<&TrailView>,
    mail: &TestAnswer,
    ended: bool,
    wait: Duration,
) -> Result<String, String> {
    let within = SignedDuration::try_from(wait).map(|wait| format!("{wait:#}")).unwrap_or_default();
    let Some((trail, recipient)) = trail.and_then(|trail| Some((trail, recipient(trail)?))) else {
        return Err(format!(
            "{id} is not in the ledger within {within}; `mailtrail doctor` looks at the store"
        ));
    };
    let reason = recipient.reason.as_deref().unwrap_or("no reason is known");
    let upstream = taken_by(trail).unwrap_or("the upstream");
    Err(match recipient.state.as_str() {
        "delivered" if is_reported(trail) => return Ok(format!("delivered, and {upstream} reported it")),
        "suppressed" => {
            format!(
                "suppressed: {reason}; `mailtrail suppress list` shows the address, `suppress remove` frees it"
            )
        }
        "relayed" if mail.silent.iter().any(|silent| silent == upstream) => format!(
            "{upstream} took it, and nothing that it reports is heard here; give webhook_signing_key_file (Mailgun) or \
             webhook_token_file (Brevo); a plain server reports nothing"
        ),
        "relayed" if is_reported(trail) => {
            let reason = recipient.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!(
                "{upstream} took it, its events come, and none says within {within} that it was delivered{reason}; \
                 `mailtrail trace {id}` shows the next ones"
            )
        }
        "relayed" | "delivered" => format!(
            "{upstream} took it, and no event of what became of it came within {within}; are its webhooks registered, \
             and do they reach this relay? `mailtrail doctor` looks, `mailtrail setup` registers them"
        ),
        "unknown" => format!(
            "{upstream} gave no answer when it was sent, and no event came within {within}; `mailtrail trace {id}` \
             tells what comes next"
        ),
        state if ended => format!("{state}: {reason}; `mailtrail trace {id}` tells the whole story"),
        state => {
            let why = recipient.reason.as_deref().or(trail.next_action.as_deref()).unwrap_or(reason);
            format!(
                "still {state} after {within}: {why}; `mailtrail queue show {id}` and `mailtrail doctor` tell more"
            )
        }
    })
}

fn patience(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let span = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let parsed = span.and_then(|span| Duration::try_from(span).ok());
    let fits = |wait: &Duration| (LEAST..=MOST).contains(wait);
    parsed.filter(fits).ok_or_else(|| "write a time from 1s to 1d, such as 90s, 5m or 1h".to_owned())
}

const PAUSE: Duration = Duration::from_millis(200);
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_written_as_people_do() {
        for (text, seconds) in [("5m", 300), ("5min", 300), ("90s", 90), ("1h 30m", 5400), ("1d", 86_400)] {
            assert_eq!(patience(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "0s", "-5m", "25h", "soon"] {
            assert!(patience(text).is_err(), "{text}");
        }
    }
}
