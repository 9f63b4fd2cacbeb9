//! Alarms: the registry of active ones, and the notifier that reports them by webhook and mail.

mod email;
mod notification;
mod notification_state;
pub mod notifier;
mod registry;
mod remedies;
mod retry_queue;
mod settings;

pub use notifier::AlarmNotifier;
pub(crate) use registry::DEAD_LETTER_ALARM_WINDOW;
pub use registry::{AlarmKind, AlarmRegistry, MACHINE_SUBJECT};
pub use settings::{AlarmNotifications, EmailSettings};
