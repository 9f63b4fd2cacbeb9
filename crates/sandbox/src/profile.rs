use crate::webhook_client::Answer;
use std::str::FromStr;

/// Which provider a sandbox pretends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Face {
    /// Mailgun.
    #[default]
    Mailgun,
    /// Brevo, which takes mail over SMTP only here.
    Brevo,
}

/// The word is `mailgun` or `brevo`.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox can be \"mailgun\" or \"brevo\"")]
pub struct NoSuchFace;

impl FromStr for Face {
    type Err = NoSuchFace;

    fn from_str(word: &str) -> Result<Self, NoSuchFace> {
        match word {
            "mailgun" => Ok(Self::Mailgun),
            "brevo" => Ok(Self::Brevo),
            _ => Err(NoSuchFace),
        }
    }
}

impl Face {
    /// What a receiver's status means for the event.
    pub(crate) fn answer(self, status: u16) -> Answer {
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
    pub(crate) const fn retries(self) -> &'static [u32] {
        match self {
            Self::Mailgun => &[300, 600, 900, 3600, 7200, 14_400],
            Self::Brevo => &[600, 3600, 7200, 28_800],
        }
    }

    /// The provider's seconds for which nothing goes to who did not answer.
    pub(crate) const fn pause_after_silence(self) -> Option<u32> {
        match self {
            Self::Mailgun => None,
            Self::Brevo => Some(600),
        }
    }

    /// What it says over SMTP.
    pub(crate) const fn texts(self) -> &'static Texts {
        match self {
            Self::Mailgun => &MAILGUN,
            Self::Brevo => &BREVO,
        }
    }
}

/// What a provider says over SMTP, where providers differ. None has its final CRLF.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) greeting: &'static str,
    /// `{}` is the client's name.
    pub(crate) helo: &'static str,
    /// The answer to EHLO; `{}` is the client's name.
    pub(crate) hello: &'static str,
    /// The same once TLS is on.
    pub(crate) secured_hello: &'static str,
    pub(crate) starttls: &'static str,
    /// STARTTLS when TLS is on.
    pub(crate) tls_is_on: &'static str,
    /// The prompt of AUTH PLAIN; Mailgun's is not base64, as observed: a client that decodes it has to cope.
    pub(crate) plain: &'static str,
    /// Whether CRAM-MD5 is known, too.
    pub(crate) cram_md5: bool,
    pub(crate) authenticated: &'static str,
    pub(crate) authenticated_already: &'static str,
    pub(crate) wrong_login: &'static str,
    /// A response that is no base64.
    pub(crate) undecodable: &'static str,
    /// Whether it closes after a wrong login.
    pub(crate) closes: bool,
    pub(crate) no_login: &'static str,
    /// Whether it says so at MAIL already, and not only at RCPT.
    pub(crate) login_before_mail: bool,
    /// `{}` is the address.
    pub(crate) sender: &'static str,
    /// `{}` is the address.
    pub(crate) recipient: &'static str,
    /// RCPT without MAIL.
    pub(crate) mail_first: &'static str,
    /// DATA without RCPT.
    pub(crate) recipient_first: &'static str,
    pub(crate) too_many_recipients: &'static str,
    pub(crate) data: &'static str,
    /// `{}` is the Message-ID.
    pub(crate) taken: &'static str,
    pub(crate) too_large: &'static str,
    pub(crate) reset: &'static str,
    pub(crate) noop: &'static str,
    pub(crate) verify: &'static str,
    pub(crate) help: &'static str,
    pub(crate) not_implemented: &'static str,
    pub(crate) unknown: &'static str,
    pub(crate) quit: &'static str,
    /// What SIZE announces, in bytes.
    pub(crate) message_size: u64,
}

const MAILGUN: Texts = Texts {
    greeting: "220 Mailgun Influx ready",
    helo: "250 smtp-out-n01.prod.us-west-2.postgun.com",
    hello: "250-smtp-out-n01.prod.us-west-2.postgun.com\r\n250-AUTH PLAIN LOGIN\r\n250-SIZE 52428800\r\n\
        250-8BITMIME\r\n250-SMTPUTF8\r\n250-PIPELINING\r\n250 STARTTLS",
    secured_hello: "250-smtp-out-n01.prod.us-west-2.postgun.com\r\n250-AUTH PLAIN LOGIN\r\n\
        250-SIZE 52428800\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING",
    starttls: "220 Go ahead",
    tls_is_on: "503 TLS is on already",
    plain: "334 Go ahead",
    cram_md5: false,
    authenticated: "235 Authentication successful",
    authenticated_already: "503 Already authenticated",
    wrong_login: "535 Authentication failed",
    undecodable: "501 Invalid response encoding",
    closes: true,
    no_login: "550 5.7.1 Relaying denied",
    login_before_mail: false,
    sender: "250 Sender address accepted",
    recipient: "250 Recipient address accepted",
    mail_first: "503 Send MAIL first",
    recipient_first: "503 Send MAIL and RCPT first",
    too_many_recipients: "452 Too many recipients",
    data: "354 Continue",
    taken: "250 Great success",
    too_large: "552 Message exceeds the maximum size",
    reset: "250 OK",
    noop: "250 OK",
    verify: "252 Cannot verify",
    help: "214 https://documentation.mailgun.com",
    not_implemented: "502 Command not implemented",
    unknown: "500 Command not recognized",
    quit: "221 See you later. Yours truly, Mailgun",
    message_size: crate::smtp::MESSAGE_SIZE,
};

/// Those of the library behind Brevo's relay, emersion's go-smtp. Its banner and what it says to a client without a
/// login are not known.
const BREVO: Texts = Texts {
    greeting: "220 smtp-relay.brevo.com ESMTP Service Ready",
    helo: "250 2.0.0 Hello {}",
    hello: "250-Hello {}\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 SIZE 20971520",
    secured_hello: "250-Hello {}\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 SIZE 20971520",
    starttls: "220 2.0.0 Ready to start TLS",
    tls_is_on: "502 5.5.1 Already running in TLS",
    plain: "334 ",
    cram_md5: true,
    authenticated: "235 2.0.0 Authentication succeeded",
    authenticated_already: "503 5.5.1 Already authenticated",
    wrong_login: "535 5.7.8 Authentication failed",
    undecodable: "454 4.7.0 Invalid base64 data",
    closes: false,
    no_login: "502 5.7.0 Please authenticate first",
    login_before_mail: true,
    sender: "250 2.0.0 Roger, accepting mail from <{}>",
    recipient: "250 2.0.0 I'll make sure <{}> gets this",
    mail_first: "502 5.5.1 Missing MAIL FROM command.",
    recipient_first: "502 5.5.1 Missing RCPT TO command.",
    too_many_recipients: "452 4.5.3 Maximum limit of 1000 recipients reached",
    data: "354 Go ahead. End your data with <CR><LF>.<CR><LF>",
    taken: "250 2.0.0 OK: queued as <{}>",
    too_large: "552 5.3.4 Maximum message size exceeded",
    reset: "250 2.0.0 Session reset",
    noop: "250 2.0.0 I have sucessfully done nothing",
    verify: "252 2.5.0 Cannot VRFY user, but will accept message",
    help: "502 5.5.1 HELP command not implemented",
    not_implemented: "502 5.5.1 Command not implemented",
    unknown: "500 5.5.2 Syntax errors, command unrecognized",
    quit: "221 2.0.0 Bye",
    message_size: 20_971_520,
};
