//! The parts of a mail as the RFCs name them: addresses, the envelope, header lines, message ids.
//!
//! Once built they are valid: no value here can carry a CR or LF into a command, a header or a log line.

mod address;
mod cleanup;
mod envelope;
mod header;
mod lane;
mod mention;
mod message_id;
mod pseudonym;
mod subject;
mod unqualified;
mod unsubscribe;

pub use address::{Mailbox, NotAMailbox, address_contains, fold_address, fold_domain, in_unicode, is_alike};
pub use cleanup::{HeaderCleanup, is_usable_author, is_usable_date, is_usable_message_id};
pub use envelope::{BodyType, Dsn, DsnRecipient, Envelope, Notify, Ret};
pub use header::{Header, HeaderBlock, HeaderLine, is_mbox_line};
pub use lane::Lane;
pub use mention::Mention;
pub use message_id::{MessageId, Record};
pub use pseudonym::Pseudonym;
pub use subject::subject;
pub use unqualified::missing_domains;
pub use unsubscribe::repaired_unsubscribe;
