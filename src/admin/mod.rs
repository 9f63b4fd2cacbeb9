//! Questions about the store, and their answers as JSON: behind the CLI, over a unix socket or directly.

mod log;
mod router;
mod trace;
mod view;

pub use log::{LogAnswer, LogFilter, log};
pub use router::{Panel, metrics_router, router};
pub use trace::{Found, find, queue};
pub use view::{BreakerView, FactView, LogLine, MarkView, QueueLine, RecipientView, TrailView};
