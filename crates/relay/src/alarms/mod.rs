//! Alarms: the registry of active ones, and the notifier that reports them by webhook and mail.

mod email;
mod notification;
mod notification_state;
pub mod notifier;
mod registry;
mod remedies;
mod retry_queue;

pub use notifier::{AlarmNotifications, AlarmNotifier, EmailSettings};
pub use registry::{AlarmKind, AlarmRegistry, MACHINE_SUBJECT};
