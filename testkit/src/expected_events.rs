//! Event kinds for the neutral words in `expected.json` of the recorded events.
#![allow(clippy::panic, reason = "a test that cannot go on has failed")]

use mailtrail_trail::EventKind;

/// Returns the kind of an event, and whether software caused it.
pub fn event_kind(word: &str) -> (EventKind, bool) {
    match word {
        "accepted" => (EventKind::Accepted, false),
        "delivered" => (EventKind::Delivered, false),
        "failed_temporary" => (EventKind::Deferred, false),
        "failed_permanent" => (EventKind::Bounced, false),
        "suppressed" => (EventKind::Suppressed, false),
        "opened" => (EventKind::Opened, false),
        "opened_by_machine" => (EventKind::Opened, true),
        "clicked" => (EventKind::Clicked, false),
        "unsubscribed" => (EventKind::Unsubscribed, false),
        "complained" => (EventKind::Complained, false),
        "rejected" => (EventKind::Rejected, false),
        "unknown" => (EventKind::Unknown, false),
        other => panic!("expected.json has a new word: {other}"),
    }
}
