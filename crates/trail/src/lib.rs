//! What is known about a send, as pure rules: the state of each recipient and how facts change it.
//!
//! Two halves make up a recipient's state. Its [`Standing`] is what we ourselves know, written in order by our own
//! attempts. Its [`Marks`] are what the provider reported; they join in any order, any number of times, to the same
//! result. [`Recipient::state`] reads both.

mod contact_hint;
mod dead_letter;
pub mod dsn;
mod erasure;
mod hint_record;
mod inbound;
mod message;
mod operator_action;
mod poll_cursor;
pub mod provider;
mod provider_event;
mod recipient;
pub mod routing;
mod stats;
pub mod step;
pub mod suppression;
mod trail_event;

pub use contact_hint::{Hint, HintKind};
pub use dead_letter::{Dead, Replay};
pub use dsn::Report;
pub use erasure::Erased;
pub use hint_record::Hinted;
pub use inbound::{Arrival, Fate, Inbound, InboundMail, Leg, Move, missing_files_text};
pub use message::{
    About, Accepted, Action, Begun, Notice, Occasion, Outcome, Repeated, Send, Settled, Switch, Trail, Verb,
    Via, Waits,
};
pub use operator_action::{Chore, Errand, Ordered};
pub use poll_cursor::Polled;
pub use provider_event::{Event, Kind, Words};
pub use recipient::{Failure, Mark, MarkKind, Marks, Recipient, Sent, Standing, State};
pub use routing::{Field, Pattern, Route, Routing, Traits};
pub use stats::{Grouping, Tally};
pub use step::{CAPABILITIES, END_OF_DATA, MESSAGES, RCPT};
pub use trail_event::{Fact, Rung, Source, Step, What};
