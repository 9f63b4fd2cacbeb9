use crate::address::Mailbox;

/// Envelope of a message (RFC 5321 section 2.3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Where reports go; `None` is the null reverse-path `<>`.
    pub sender: Option<Mailbox>,
    /// In the order given; at least one.
    pub recipients: Vec<Mailbox>,
    /// How the client declared its body.
    pub body: BodyType,
    /// Whether the client requested SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN parameters of MAIL and RCPT.
    pub dsn: DsnParameters,
}

/// DSN parameters of a message (RFC 3461). Texts are kept in xtext.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnParameters {
    /// Value of `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`: the client's name for the transaction, at most 100 characters.
    pub envid: Option<Box<str>>,
    /// By place in the envelope, ascending: recipients with parameters of their own.
    pub recipients: Vec<(u16, DsnRecipient)>,
}

impl DsnParameters {
    /// Returns the parameters of the recipient at this index, if it has any.
    pub fn parameters_of(&self, place: u16) -> Option<&DsnRecipient> {
        self.recipients.iter().find(|(wished, _)| *wished == place).map(|(_, wish)| wish)
    }
}

/// DSN parameters of one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnRecipient {
    /// Value of `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=`: type and address before any forwarding, at most 500 characters.
    pub orcpt: Option<Box<str>>,
}

/// How much of the message a report brings back (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// `FULL`.
    Full,
    /// `HDRS`.
    Headers,
}

/// Cases in which the sender requests a DSN (RFC 3461 section 4.1); none of them for `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// When the mail arrived.
    pub success: bool,
    /// When it cannot arrive.
    pub failure: bool,
    /// When it is late.
    pub delay: bool,
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
