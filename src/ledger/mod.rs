//! What is known about a send, as pure rules: the state of each recipient and how facts change it.
//!
//! Two halves make up a recipient's state. Its [`Standing`] is what we ourselves know, written in order by our own
//! attempts. Its [`Marks`] are what the provider reported; they join in any order, any number of times, to the same
//! result. [`Recipient::state`] reads both.

mod erased;
mod fact;
mod hint;
mod inbound;
mod inbox;
mod ordered;
mod polled;
mod recipient;
mod send;
pub mod step;
mod tally;

pub use erased::Erased;
pub use fact::{Fact, Rung, Source, Step, What};
pub use hint::Hinted;
pub use inbound::{Arrival, Fate, Inbound, InboundMail, Leg, Move, missing_files_text};
pub use inbox::{Dead, Replay};
pub use ordered::{Chore, Errand, Ordered};
pub use polled::Polled;
pub use recipient::{Failure, Mark, MarkKind, Marks, Recipient, Sent, Standing, State};
pub use send::{
    About, Accepted, Action, Begun, Notice, Occasion, Outcome, Repeated, Send, Settled, Switch, Trail, Verb,
    Via, Waits,
};
pub use tally::{Grouping, Tally};
