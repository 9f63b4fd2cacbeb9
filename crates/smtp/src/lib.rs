//! SMTP without sockets (RFC 5321 and its extensions): bytes in, steps out. It serves both sides: the session that
//! our listeners run, and the replies that an upstream sends.
//!
//! Nothing here reads, writes, waits or knows the time.

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
