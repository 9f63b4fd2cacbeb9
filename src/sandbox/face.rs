use super::webhook::Answer;

/// Which provider a sandbox pretends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Face {
    /// Mailgun.
    #[default]
    Mailgun,
    /// Brevo: mail over SMTP only, one webhook with a bearer token, statistics, blocked contacts.
    Brevo,
}

impl Face {
    /// What a receiver's status means for the event.
    pub(super) fn answer(self, status: u16) -> Answer {
        match (self, status) {
            (_, 200) => Answer::Taken,
            (Self::Mailgun, 406) => Answer::Refused,
            (Self::Mailgun, _) | (Self::Brevo, 429) => Answer::Again,
            (Self::Brevo, 201..300) => Answer::Taken,
            // Anything else ends it for good.
            (Self::Brevo, _) => Answer::Refused,
        }
    }

    /// The provider's seconds before each repetition of a webhook; then it gives up. Mailgun: 5, 10, 15 minutes, 1, 2, 4
    /// hours. Brevo: 10 minutes, 1, 2, 8 hours.
    pub(super) const fn retries(self) -> &'static [u32] {
        match self {
            Self::Mailgun => &[300, 600, 900, 3600, 7200, 14_400],
            Self::Brevo => &[600, 3600, 7200, 28_800],
        }
    }

    /// What it says over SMTP.
    pub(super) const fn texts(self) -> &'static Texts {
        match self {
            Self::Mailgun => &MAILGUN,
            Self::Brevo => &BREVO,
        }
    }
}

/// What a provider says over SMTP, where providers differ. None has its final CRLF.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) greeting: &'static str,
    pub(super) helo: &'static str,
    /// The answer to EHLO; `{}` is the client's name.
    pub(super) hello: &'static str,
    /// The same once TLS is on.
    pub(super) secured_hello: &'static str,
    pub(super) starttls: &'static str,
    /// The prompt of AUTH PLAIN; Mailgun's is not base64, as observed: a client that decodes it has to cope.
    pub(super) plain: &'static str,
    pub(super) authenticated: &'static str,
    pub(super) wrong_login: &'static str,
    /// Whether it closes after a wrong login.
    pub(super) closes: bool,
    pub(super) no_login: &'static str,
    /// `{}` is the address.
    pub(super) sender: &'static str,
    /// `{}` is the address.
    pub(super) recipient: &'static str,
    pub(super) data: &'static str,
    /// `{}` is the Message-ID.
    pub(super) taken: &'static str,
    pub(super) quit: &'static str,
    /// What SIZE announces, in bytes.
    pub(super) message_size: u64,
}

const MAILGUN: Texts = Texts {
    greeting: "220 Mailgun Influx ready",
    helo: "250 smtp-out-n01.prod.us-west-2.postgun.com",
    hello: "250-smtp-out-n01.prod.us-west-2.postgun.com\r\n250-AUTH PLAIN LOGIN\r\n250-SIZE 52428800\r\n\
        250-8BITMIME\r\n250-SMTPUTF8\r\n250-PIPELINING\r\n250 STARTTLS",
    secured_hello: "250-smtp-out-n01.prod.us-west-2.postgun.com\r\n250-AUTH PLAIN LOGIN\r\n\
        250-SIZE 52428800\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING",
    starttls: "220 Go ahead",
    plain: "334 Go ahead",
    authenticated: "235 Authentication successful",
    wrong_login: "535 Authentication failed",
    closes: true,
    no_login: "550 5.7.1 Relaying denied",
    sender: "250 Sender address accepted",
    recipient: "250 Recipient address accepted",
    data: "354 Continue",
    taken: "250 Great success",
    quit: "221 See you later. Yours truly, Mailgun",
    message_size: super::dialogue::MESSAGE_SIZE,
};

/// Those of the library behind Brevo's relay. Its banner and what it says to a client without a login are not known.
const BREVO: Texts = Texts {
    greeting: "220 smtp-relay.brevo.com ESMTP Service Ready",
    helo: "250 2.0.0 Hello",
    hello: "250-Hello {}\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 SIZE 20971520",
    secured_hello: "250-Hello {}\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 SIZE 20971520",
    starttls: "220 2.0.0 Ready to start TLS",
    plain: "334 ",
    authenticated: "235 2.0.0 Authentication succeeded",
    wrong_login: "535 5.7.8 Authentication failed",
    closes: false,
    no_login: "502 5.7.0 Please authenticate first",
    sender: "250 2.0.0 Roger, accepting mail from <{}>",
    recipient: "250 2.0.0 I'll make sure <{}> gets this",
    data: "354 Go ahead. End your data with <CR><LF>.<CR><LF>",
    taken: "250 2.0.0 OK: queued as <{}>",
    quit: "221 2.0.0 Bye",
    message_size: 20_971_520,
};
