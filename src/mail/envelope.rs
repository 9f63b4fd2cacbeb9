use super::Mailbox;

/// What SMTP says about a message outside of it (RFC 5321 section 2.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where reports go; `None` is the null reverse-path `<>`.
    pub sender: Option<Mailbox>,
    /// In the order given; at least one.
    pub recipients: Vec<Mailbox>,
    /// How the client declared its body.
    pub body: BodyType,
    /// Whether the client asked for SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
}

/// The `BODY=` of MAIL (RFC 6152).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// Declared or assumed: only ASCII.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}
