//! Tests of the sandbox alone, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod delivery;
mod management_api;
#[path = "../../../../testkit/src/wait.rs"]
mod wait;
