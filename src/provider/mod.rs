//! What each provider needs and says: hosts, stamps, signatures, payloads. Pure rules, no IO.

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

/// Where the provider keeps an account's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Region {
    /// United States.
    #[default]
    Us,
    /// European Union.
    Eu,
}
