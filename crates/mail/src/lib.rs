//! The parts of a mail as the RFCs name them: addresses, the envelope, header lines, message ids.
//!
//! Once built they are valid: no value here can carry a CR or LF into a command, a header or a log line.

mod address;
mod cleanup;
mod clock;
pub mod descriptors;
mod envelope;
mod header;
mod lane;
mod list_unsubscribe;
mod message_id;
mod pseudonym;
mod rate;
mod secret;
mod subject;
mod tracking_id;
mod unqualified;

pub use address::{Mailbox, address_contains, fold_address, fold_domain, in_unicode, is_alike};
pub use cleanup::{HeaderCleanup, is_usable_author, is_usable_date, is_usable_message_id};
pub use clock::{Clock, ClockStep, ClockWatch, ManualClock, Timestamp};
pub use envelope::{BodyType, Dsn, DsnRecipient, Envelope, Notify, Ret};
pub use header::{Header, HeaderBlock, HeaderLine, is_mbox_line};
pub use lane::Lane;
pub use list_unsubscribe::repaired_unsubscribe;
pub use message_id::{MessageId, Record};
pub use pseudonym::Pseudonym;
pub use rate::Rate;
pub use secret::Secret;
pub use subject::subject;
pub use tracking_id::{TrackingId, TrackingIdGenerator};
pub use unqualified::missing_domains;
