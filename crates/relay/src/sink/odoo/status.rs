use crate::sink::event::SinkEvent;
use crate::sink::odoo::settings::{OdooSettings, OdooStatusOptions, UnsubscribeAction};
use mailtrail_mail::{Timestamp, domain_to_unicode};
use mailtrail_trail::{
    AttemptStatus, EventKind, QueueVerb, Recipient, RecipientState, Trail, TrailEventKind,
};
use serde::Serialize;

/// Event for the server action, about one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OdooEvent {
    /// Message-ID with its brackets, as Odoo stores it.
    pub message_id: String,
    email: String,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clicked: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    complained: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsubscribed: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    note: bool,
    #[serde(skip_serializing_if = "is_false")]
    young: bool,
}

/// Returns the recipients of an event if it concerns mail created by Odoo that is reported there.
pub fn affected_recipients<'a>(
    item: &'a SinkEvent,
    settings: &OdooSettings,
) -> Vec<(u16, &'a Trail, &'a Recipient)> {
    let ours = |trail: &&Trail| {
        let send = &trail.message;
        send.dsn_for.is_none()
            && send.message_id.as_ref().is_some_and(|id| id.is_odoo())
            && settings.instance.owns(send)
    };
    let Some(trail) = item.trail.as_ref().filter(ours) else { return Vec::new() };
    let named = &item.entry.event.recipients;
    let recipients = (0u16..).zip(&trail.recipients);
    let meant = recipients.filter(|(place, _)| named.is_empty() || named.contains(place));
    meant.map(|(place, recipient)| (place, trail, recipient)).collect()
}

/// Returns the action's events for an event; `young`: Odoo may have sent the mail without committing yet.
pub fn status_events(item: &SinkEvent, settings: &OdooSettings, young: bool) -> Vec<OdooEvent> {
    let events = affected_recipients(item, settings).into_iter();
    let events = events.filter_map(|(place, trail, recipient)| {
        let superseded = item.superseded.contains(&place);
        status_event(item, trail, recipient, superseded, &settings.status_options)
    });
    events.map(|event| OdooEvent { young, ..event }).collect()
}

/// Returns whether an event may have changed the status of its recipients.
pub fn changes_status(what: TrailEventKind) -> bool {
    match what {
        TrailEventKind::Attempted(standing) => {
            !matches!(standing, AttemptStatus::Queued | AttemptStatus::Unknown | AttemptStatus::Cancelled)
        }
        TrailEventKind::EventReceived(kind) => {
            matches!(kind, EventKind::Accepted | EventKind::Delivered) || kind.is_permanent_failure()
        }
        TrailEventKind::QueueAction(verb) => verb == QueueVerb::Bounce,
        _ => false,
    }
}

/// Returns the action's event for a recipient. A newer message of the same mail supersedes this one: its
/// delivery status is no longer shown. The recipient's choices about other mail still are.
fn status_event(
    item: &SinkEvent,
    trail: &Trail,
    recipient: &Recipient,
    superseded: bool,
    effects: &OdooStatusOptions,
) -> Option<OdooEvent> {
    let fact = &item.entry.event;
    let first = |kind| recipient.marks.get(kind).map(|mark| format_odoo_time(mark.first));
    let by_person =
        |kind, wanted| wanted && fact.kind == TrailEventKind::EventReceived(kind) && !fact.automated;
    // If our own attempt succeeded, the provider's confirmation adds nothing.
    let known = fact.kind == TrailEventKind::EventReceived(EventKind::Accepted)
        && recipient.attempt_status == AttemptStatus::Relayed;
    let turns = changes_status(fact.kind) && !known && !superseded;
    let status = turns.then(|| notification_status(recipient.state(), effects)).flatten();
    let event = OdooEvent {
        status,
        opened: by_person(EventKind::Opened, effects.opened && !superseded)
            .then(|| first(EventKind::Opened))
            .flatten(),
        clicked: by_person(EventKind::Clicked, effects.clicked && !superseded)
            .then(|| first(EventKind::Clicked))
            .flatten(),
        complained: by_person(EventKind::Complained, effects.complained),
        unsubscribed: effects
            .unsubscribed
            .filter(|_| by_person(EventKind::Unsubscribed, true))
            .map(UnsubscribeAction::as_str),
        ..OdooEvent::default()
    };
    if event == OdooEvent::default() {
        return None;
    }
    let explanation = if status.is_some() { recipient.explanation() } else { fact.diagnostic.to_line() };
    let reason =
        explanation.or_else(|| recipient.state().is_failure().then(|| recipient.state().as_str().into()));
    Some(OdooEvent {
        message_id: format!("<{}>", trail.message.message_id.as_ref()?.as_str()),
        // Odoo stores domains in Unicode and sends A-labels.
        email: domain_to_unicode(&recipient.address.to_folded()).into_owned(),
        at: format_odoo_time(fact.at),
        reason,
        note: effects.note,
        ..event
    })
}

/// Returns the notification's status by the current state. A disabled status is shown as the one before it.
fn notification_status(state: RecipientState, effects: &OdooStatusOptions) -> Option<&'static str> {
    let relayed = effects.relayed.then_some("pending");
    match state {
        RecipientState::Relayed => relayed,
        RecipientState::Delivered => effects.delivered.then_some("sent").or(relayed),
        RecipientState::Bounced => effects.bounced.then_some("bounce"),
        RecipientState::Failed | RecipientState::Expired | RecipientState::Suppressed => {
            effects.failed.then_some("exception")
        }
        RecipientState::Queued
        | RecipientState::Sending
        | RecipientState::Unknown
        | RecipientState::Held
        | RecipientState::Cancelled => None,
    }
}

/// Formats a time as Odoo does: `2026-09-14 12:00:00`, in UTC.
fn format_odoo_time(time: Timestamp) -> String {
    time.to_string().chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like that")]
fn is_false(truth: &bool) -> bool {
    !truth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabled_status_falls_back_to_previous_one() {
        let all = OdooStatusOptions::default();
        for (state, word) in [
            (RecipientState::Queued, None),
            (RecipientState::Relayed, Some("pending")),
            (RecipientState::Delivered, Some("sent")),
            (RecipientState::Bounced, Some("bounce")),
            (RecipientState::Expired, Some("exception")),
            (RecipientState::Suppressed, Some("exception")),
            (RecipientState::Cancelled, None),
        ] {
            assert_eq!(notification_status(state, &all), word, "{state:?}");
        }
        let some = OdooStatusOptions { delivered: false, bounced: false, ..all };
        assert_eq!(notification_status(RecipientState::Delivered, &some), Some("pending"));
        assert_eq!(notification_status(RecipientState::Bounced, &some), None);
    }

    #[test]
    fn formats_times_like_odoo() {
        assert_eq!(format_odoo_time(Timestamp::from_millis(1_789_387_200_999)), "2026-09-14 12:00:00");
    }
}
