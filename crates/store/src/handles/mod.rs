//! Operations of a store, by role.

mod events;
mod inbound;
mod log;
mod maintenance;
mod messages;
mod queue;
mod suppressions;

pub use queue::DeliveryJob;
