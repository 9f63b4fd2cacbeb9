//! The supported providers.

/// Provider of an upstream, which determines replies, stamps and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Mailgun.
    Mailgun,
    /// Brevo.
    Brevo,
    /// Any SMTP server: only our own id is stamped, and no events return.
    Plain,
}
