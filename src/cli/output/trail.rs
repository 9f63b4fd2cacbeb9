//! Formats trails as text.

use crate::cli::output::{Style, print_line};
use crate::cli::time_expr;
use mailtrail_relay::TimelineEntry;
use mailtrail_relay::admin::{RecipientView, TrailView};

/// Prints a trail: the state of each recipient, then the timeline, then the next action.
pub fn print_trail(trail: &TrailView, paint: Style) {
    print_line(format!("{}  {}", paint.bold(&trail.id), trail.subject));
    let sender = if trail.from.is_empty() { "<>" } else { &trail.from };
    let mut about =
        vec![format!("from {sender}"), format!("client {}", trail.client), format_size(trail.size)];
    about.extend(trail.record_url.clone().or_else(|| trail.record.clone()));
    about.extend(trail.message_id.as_ref().map(|id| format!("<{id}>")));
    print_line(paint.dim(&format!("  {}", about.join("  "))));
    let width = trail.recipients.iter().map(|recipient| recipient.address.chars().count()).max().unwrap_or(0);
    for recipient in &trail.recipients {
        print_line(format!("  {:<width$}  {}", recipient.address, format_recipient(recipient, paint)));
    }
    for fact in &trail.timeline {
        print_line(format_timeline_entry(fact, trail.recipients.len(), paint));
    }
    if let Some(action) = &trail.next_action {
        let at = trail
            .next_at
            .as_deref()
            .map(|at| format!(", {}", time_expr::format_local(at)))
            .unwrap_or_default();
        print_line(format!("    next: {action}{at}"));
    }
    print_line("");
}

fn format_recipient(recipient: &RecipientView, paint: Style) -> String {
    let mut parts = vec![paint.color_state(&recipient.state, &recipient.state)];
    let marks = ["opened", "clicked", "unsubscribed", "complained"];
    parts.extend(
        marks
            .iter()
            .filter(|mark| recipient.marks.contains_key(**mark))
            .map(|mark| paint.color_state(mark, mark)),
    );
    let verdict = parts.join(", ");
    let refused = matches!(
        recipient.state.as_str(),
        "bounced" | "failed" | "expired" | "suppressed" | "queued" | "unknown" | "held" | "cancelled"
    );
    match &recipient.reason {
        Some(reason) if refused => format!("{verdict}  {reason}"),
        _ => verdict,
    }
}

/// Formats one entry of the timeline.
pub fn format_timeline_entry(fact: &TimelineEntry, recipients: usize, paint: Style) -> String {
    let event = paint.color_state(&fact.event, &format!("{:<12}", fact.event));
    let mut parts = Vec::new();
    parts.extend(fact.upstream.clone());
    if recipients > 1 && !fact.recipients.is_empty() {
        parts.push(format!("{}:", fact.recipients.join(", ")));
    }
    parts.extend(fact.name.as_ref().filter(|_| fact.source == "smtp").map(|name| format!("at {name}:")));
    parts.extend(format_operator(fact));
    parts.extend(fact.code.map(|code| code.to_string()));
    parts.extend(fact.enhanced.clone());
    parts.extend(fact.text.clone());
    parts.extend(fact.url.clone());
    parts.extend(fact.host.as_ref().filter(|_| fact.text.is_none()).map(|host| format!("from {host}")));
    parts.extend(fact.by_machine.then(|| "(by software)".to_owned()));
    parts.extend(fact.joined_by.as_ref().map(|rung| format!("[joined by {rung}]")));
    let source = paint.dim(&format!("{:<8}", fact.source));
    format!("    {}  {event} {source} {}", time_expr::format_local(&fact.at), parts.join(" "))
        .trim_end()
        .to_owned()
}

/// Name of the operator, if an operator caused the entry.
pub fn format_operator(fact: &TimelineEntry) -> Option<String> {
    let operator = fact.name.as_ref().filter(|_| fact.source == "operator")?;
    Some(if fact.text.is_some() { format!("by {operator}:") } else { format!("by {operator}") })
}

fn format_size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
