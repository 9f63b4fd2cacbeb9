//! What the neutral words of the recorded reports' `expected.json` are in our vocabulary.
#![allow(clippy::panic, reason = "a test that cannot go on has failed")]

use mailtrail_trail::Kind;

/// The kind of an event, and whether software did it.
pub fn ours(word: &str) -> (Kind, bool) {
    match word {
        "accepted" => (Kind::Accepted, false),
        "delivered" => (Kind::Delivered, false),
        "failed_temporary" => (Kind::Deferred, false),
        "failed_permanent" => (Kind::Bounced, false),
        "suppressed" => (Kind::Suppressed, false),
        "opened" => (Kind::Opened, false),
        "opened_by_machine" => (Kind::Opened, true),
        "clicked" => (Kind::Clicked, false),
        "unsubscribed" => (Kind::Unsubscribed, false),
        "complained" => (Kind::Complained, false),
        "rejected" => (Kind::Rejected, false),
        "unknown" => (Kind::Unknown, false),
        other => panic!("expected.json has a new word: {other}"),
    }
}
