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

pub use address::{
    Mailbox, address_contains, domain_to_unicode, fold_address, fold_domain, may_be_rewritten,
};
pub use cleanup::{HeaderCleanup, is_usable_author, is_usable_date, is_usable_message_id};
pub use clock::{Clock, ClockStep, ClockWatch, ManualClock, Timestamp};
pub use envelope::{BodyType, DsnParameters, DsnRecipient, Envelope, Notify, Ret};
pub use header::{HeaderField, HeaderLine, HeaderSection, is_mbox_line};
pub use lane::Lane;
pub use list_unsubscribe::decode_list_unsubscribe;
pub use message_id::{MessageId, OdooRecord};
pub use pseudonym::Pseudonym;
pub use rate::Rate;
pub use secret::Secret;
pub use subject::decode_subject;
pub use tracking_id::{TrackingId, TrackingIdGenerator};
pub use unqualified::find_missing_domains;
