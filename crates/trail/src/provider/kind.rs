//! The supported providers.

/// Whose words and stamps an upstream needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Mailgun.
    Mailgun,
    /// Brevo.
    Brevo,
    /// Any SMTP server: nothing but our own id is stamped, no events come back.
    Plain,
}
