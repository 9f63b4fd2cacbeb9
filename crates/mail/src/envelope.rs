use crate::address::Mailbox;

/// What SMTP says about a message outside of it (RFC 5321 section 2.3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Where reports go; `None` is the null reverse-path `<>`.
    pub sender: Option<Mailbox>,
    /// In the order given; at least one.
    pub recipients: Vec<Mailbox>,
    /// How the client declared its body.
    pub body: BodyType,
    /// Whether the client asked for SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// What the client asked about reports.
    pub dsn: DsnParameters,
}

/// What a client asked about reports on its message (RFC 3461). Texts are kept as they were written, in xtext.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnParameters {
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`: the client's name for the transaction, at most 100 characters.
    pub envid: Option<Box<str>>,
    /// By place in the envelope, ascending: recipients with parameters of their own.
    pub recipients: Vec<(u16, DsnRecipient)>,
}

impl DsnParameters {
    /// What was asked about the recipient at that place, if anything.
    pub fn parameters_of(&self, place: u16) -> Option<&DsnRecipient> {
        self.recipients.iter().find(|(wished, _)| *wished == place).map(|(_, wish)| wish)
    }
}

/// What a client asked about reports on one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnRecipient {
    /// `NOTIFY=`.
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

/// When the sender wants a report (RFC 3461 section 4.1); `NEVER` is none of these.
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
