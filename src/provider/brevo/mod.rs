//! Brevo: the carrier of our id. Its webhooks are not read yet.

mod stamp;

pub use stamp::{stamp, tracking};
