//! SMTP without I/O (RFC 5321 and its extensions): bytes in, actions out. It has both sides: the session of our
//! listeners, and the replies of an upstream.
//!
//! Nothing here reads, writes, waits or uses a clock.

mod command;
mod data;
#[cfg(test)]
#[path = "../../../tests/golden/check.rs"]
mod golden;
mod limits;
mod reply;
mod response;
mod session;

pub use command::{Command, CommandError, Mechanism};
pub use data::{Decoder, DotStuffer, FeedResult};
pub use limits::Limits;
pub use reply::Reply;
pub use response::{Capabilities, Response, ResponseError, ResponseReader};
pub use session::{Account, Action, Authentication, Credentials, Session, SessionPolicy, XClient};
