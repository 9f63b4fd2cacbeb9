//! Tests of the delivery model through its public API.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "../../../../testkit/src/expected_events.rs"]
mod expected_events;
mod mailgun_payloads;
