use crate::sink::event::Item;
use crate::sink::odoo::OdooSettings;
use mailtrail_mail::{Timestamp, in_unicode};
use mailtrail_trail::{Kind, Recipient, Standing, State, Trail, Verb, What};
use serde::Serialize;

/// What is shown in Odoo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// Mail that the provider took is `pending`, which Odoo calls "Sent".
    pub relayed: bool,
    /// Mail that arrived is `sent`, which Odoo calls "Delivered".
    pub delivered: bool,
    /// Mail that was refused for good is `bounce`, and counts as one.
    pub bounced: bool,
    /// Mail that was given up, or not sent, is `exception`.
    pub failed: bool,
    /// A mailing's trace is opened.
    pub opened: bool,
    /// A mailing's trace is clicked.
    pub clicked: bool,
    /// Who complains is blacklisted.
    pub complained: bool,
    /// What becomes of who unsubscribes.
    pub unsubscribed: Option<Unsubscribed>,
    /// Failures, complaints and unsubscriptions make a note on the record.
    pub note: bool,
}

/// What becomes of who unsubscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// No more of the mailing's lists; where the mail was to none, as the other.
    OptOut,
    /// No mailing at all.
    Blacklist,
}

impl Default for Effects {
    /// Everything but notes.
    fn default() -> Self {
        Self {
            relayed: true,
            delivered: true,
            bounced: true,
            failed: true,
            opened: true,
            clicked: true,
            complained: true,
            unsubscribed: Some(Unsubscribed::OptOut),
            note: false,
        }
    }
}

/// What the server action is told about one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Event {
    /// With its brackets, as Odoo keeps it.
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

/// The recipients that an item is about, if it is about mail that Odoo made and is to know of.
pub fn concerned<'a>(item: &'a Item, settings: &OdooSettings) -> Vec<(u16, &'a Trail, &'a Recipient)> {
    let ours = |trail: &&Trail| {
        let send = &trail.send;
        send.about.is_none()
            && send.message_id.as_ref().is_some_and(|id| id.is_odoo())
            && settings.place.selects(send)
    };
    let Some(trail) = item.trail.as_ref().filter(ours) else { return Vec::new() };
    let named = &item.entry.fact.recipients;
    let recipients = (0u16..).zip(&trail.recipients);
    let meant = recipients.filter(|(place, _)| named.is_empty() || named.contains(place));
    meant.map(|(place, recipient)| (place, trail, recipient)).collect()
}

/// What the action is told because of an item; `young`: Odoo may have sent the mail without committing that yet.
pub fn of(item: &Item, settings: &OdooSettings, young: bool) -> Vec<Event> {
    let events = concerned(item, settings).into_iter();
    let events = events.filter_map(|(place, trail, recipient)| {
        let superseded = item.superseded.contains(&place);
        event(item, trail, recipient, superseded, &settings.effects)
    });
    events.map(|event| Event { young, ..event }).collect()
}

/// Whether an item may have changed what its recipients have come to.
pub fn is_turn(what: What) -> bool {
    match what {
        What::Attempted(standing) => {
            !matches!(standing, Standing::Queued | Standing::Unknown | Standing::Cancelled)
        }
        What::Reported(kind) => {
            matches!(kind, Kind::Accepted | Kind::Delivered) || kind.is_permanent_failure()
        }
        What::Acted(verb) => verb == Verb::Bounce,
        _ => false,
    }
}

/// A newer send of the same mail supersedes this one: what became of this one is no longer shown. What its recipient
/// wants of other mail is.
fn event(
    item: &Item,
    trail: &Trail,
    recipient: &Recipient,
    superseded: bool,
    effects: &Effects,
) -> Option<Event> {
    let fact = &item.entry.fact;
    let first = |kind| recipient.marks.of(kind).map(|mark| odoo_time(mark.first));
    let by_person = |kind, wanted| wanted && fact.what == What::Reported(kind) && !fact.by_machine;
    // Where our own attempt ended well, the provider's word for that adds nothing.
    let known = fact.what == What::Reported(Kind::Accepted) && recipient.standing == Standing::Relayed;
    let turns = is_turn(fact.what) && !known && !superseded;
    let status = turns.then(|| status(recipient.state(), effects)).flatten();
    let event = Event {
        status,
        opened: by_person(Kind::Opened, effects.opened && !superseded).then(|| first(Kind::Opened)).flatten(),
        clicked: by_person(Kind::Clicked, effects.clicked && !superseded)
            .then(|| first(Kind::Clicked))
            .flatten(),
        complained: by_person(Kind::Complained, effects.complained),
        unsubscribed: effects
            .unsubscribed
            .filter(|_| by_person(Kind::Unsubscribed, true))
            .map(Unsubscribed::word),
        ..Event::default()
    };
    if event == Event::default() {
        return None;
    }
    let said = if status.is_some() { recipient.explanation() } else { fact.words.in_one_line() };
    let reason = said.or_else(|| recipient.state().is_failure().then(|| recipient.state().word().into()));
    Some(Event {
        message_id: format!("<{}>", trail.send.message_id.as_ref()?.as_str()),
        // Odoo keeps domains in Unicode and sends A-labels.
        email: in_unicode(&recipient.address.folded()).into_owned(),
        at: odoo_time(fact.at),
        reason,
        note: effects.note,
        ..event
    })
}

/// The notification's status, by what is known now. What is switched off is shown as what came before it.
fn status(state: State, effects: &Effects) -> Option<&'static str> {
    let relayed = effects.relayed.then_some("pending");
    match state {
        State::Relayed => relayed,
        State::Delivered => effects.delivered.then_some("sent").or(relayed),
        State::Bounced => effects.bounced.then_some("bounce"),
        State::Failed | State::Expired | State::Suppressed => effects.failed.then_some("exception"),
        State::Queued | State::Sending | State::Unknown | State::Held | State::Cancelled => None,
    }
}

impl Unsubscribed {
    /// The word for the configuration, and for the action.
    pub const fn word(self) -> &'static str {
        match self {
            Self::OptOut => "opt-out",
            Self::Blacklist => "blacklist",
        }
    }
}

/// As Odoo writes times: `2026-09-14 12:00:00`, in UTC.
fn odoo_time(time: Timestamp) -> String {
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
    fn what_is_off_is_shown_as_what_came_before() {
        let all = Effects::default();
        for (state, word) in [
            (State::Queued, None),
            (State::Relayed, Some("pending")),
            (State::Delivered, Some("sent")),
            (State::Bounced, Some("bounce")),
            (State::Expired, Some("exception")),
            (State::Suppressed, Some("exception")),
            (State::Cancelled, None),
        ] {
            assert_eq!(status(state, &all), word, "{state:?}");
        }
        let some = Effects { delivered: false, bounced: false, ..all };
        assert_eq!(status(State::Delivered, &some), Some("pending"));
        assert_eq!(status(State::Bounced, &some), None);
    }

    #[test]
    fn times_are_written_as_odoo_does() {
        assert_eq!(odoo_time(Timestamp::from_millis(1_789_387_200_999)), "2026-09-14 12:00:00");
    }
}
