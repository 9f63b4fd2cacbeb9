//! Trail of a message, as pure rules: the state of each recipient and how events change it.
//!
//! A recipient's state has two parts. Its [`AttemptStatus`] results from the relay's own attempts, in order.
//! Its [`EventMarks`] result from provider events, which give the same result in any order and any number of
//! times. [`Recipient::state`] combines both.

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
mod queue_action;
mod received_event;
mod recipient;
mod recipient_state;
pub mod routing;
mod stats;
pub mod step;
pub mod suppression;
mod trail;
mod trail_event;

pub use contact_hint::{ContactHint, ContactHintKind};
pub use dead_letter::{DeadLetter, EventReplay};
pub use dsn::DsnMessage;
pub use erasure::Erasure;
pub use hint_record::ReceivedHint;
pub use inbound::{
    InboundOutcome, InboundReceived, InboundRecord, InboundState, InboundSummary, InboundTransition,
    missing_files_text,
};
pub use message::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, DuplicateSubmission, Message, QueueKey, RecipientResult,
    ReportedRecipient,
};
pub use operator_action::{OperatorAction, OperatorActionData, OperatorActionKind};
pub use poll_cursor::PollCursor;
pub use provider_event::{Diagnostic, EventKind, ProviderEvent};
pub use queue_action::{BreakerOverride, DsnAction, QueueAction, QueueVerb};
pub use received_event::{CorrelatedBy, EventSource, ReceivedEvent};
pub use recipient::{EventMark, EventMarks, MarkKind, Recipient, ReportedFailure, Transmission};
pub use recipient_state::{AttemptStatus, RecipientState};
pub use routing::{HeaderMatch, Match, MessageAttributes, Route, Routing};
pub use stats::{DeliveryStats, StatsGroup};
pub use step::{CAPABILITY_CHECK, END_OF_DATA, MESSAGES_MIME, RCPT_TO};
pub use trail::Trail;
pub use trail_event::{InboundStep, TrailEvent, TrailEventKind, TrailSource};
