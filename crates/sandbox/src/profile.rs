use crate::webhook_client::WebhookResponse;
use std::str::FromStr;

/// Which provider a sandbox pretends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProviderProfile {
    /// Mailgun.
    #[default]
    Mailgun,
    /// Brevo, which takes mail over SMTP only here.
    Brevo,
}

/// The name is neither `mailgun` nor `brevo`.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox can be \"mailgun\" or \"brevo\"")]
pub struct ParseProfileError;

impl FromStr for ProviderProfile {
    type Err = ParseProfileError;

    fn from_str(word: &str) -> Result<Self, ParseProfileError> {
        match word {
            "mailgun" => Ok(Self::Mailgun),
            "brevo" => Ok(Self::Brevo),
            _ => Err(ParseProfileError),
        }
    }
}

impl ProviderProfile {
    /// Classifies the response status of a webhook's receiver.
    pub(crate) fn classify_status(self, status: u16) -> WebhookResponse {
        match (self, status) {
            (_, 200) => WebhookResponse::Accepted,
            (Self::Mailgun, 406) => WebhookResponse::Rejected,
            (Self::Mailgun, _) | (Self::Brevo, 429) => WebhookResponse::Retry,
            (Self::Brevo, 201..300) => WebhookResponse::Accepted,
            // Any other status ends it permanently.
            (Self::Brevo, _) => WebhookResponse::Rejected,
        }
    }

    /// The provider's seconds before each repetition of a webhook; then it gives up. Mailgun: 5, 10, 15 minutes, 1, 2, 4
    /// hours. Brevo: 10 minutes, 1, 2, 8 hours.
    pub(crate) const fn retry_delays(self) -> &'static [u32] {
        match self {
            Self::Mailgun => &[300, 600, 900, 3600, 7200, 14_400],
            Self::Brevo => &[600, 3600, 7200, 28_800],
        }
    }

    /// Pause in the provider's seconds after a missing response.
    pub(crate) const fn no_response_cooldown(self) -> Option<u32> {
        match self {
            Self::Mailgun => None,
            Self::Brevo => Some(600),
        }
    }

    /// SMTP texts of the provider.
    pub(crate) const fn smtp_texts(self) -> &'static SmtpTexts {
        match self {
            Self::Mailgun => &MAILGUN_TEXTS,
            Self::Brevo => &BREVO_TEXTS,
        }
    }
}

/// SMTP texts that differ between providers, without the final CRLF.
#[derive(Debug)]
pub(crate) struct SmtpTexts {
    pub(crate) greeting: &'static str,
    /// `{}` is the client's name.
    pub(crate) helo: &'static str,
    /// The answer to EHLO; `{}` is the client's name.
    pub(crate) ehlo: &'static str,
    /// EHLO reply after STARTTLS.
    pub(crate) ehlo_over_tls: &'static str,
    pub(crate) starttls: &'static str,
    /// STARTTLS when TLS is on.
    pub(crate) tls_already_active: &'static str,
    /// The prompt of AUTH PLAIN; Mailgun's is not base64, as observed: a client that decodes it has to cope.
    pub(crate) auth_plain_prompt: &'static str,
    /// Whether CRAM-MD5 is offered.
    pub(crate) supports_cram_md5: bool,
    pub(crate) auth_succeeded: &'static str,
    pub(crate) already_authenticated: &'static str,
    pub(crate) auth_failed: &'static str,
    /// A response that is no base64.
    pub(crate) invalid_base64: &'static str,
    /// Whether it closes after a wrong login.
    pub(crate) closes_after_auth_failure: bool,
    pub(crate) auth_required: &'static str,
    /// Whether a missing login is rejected at MAIL already, not only at RCPT.
    pub(crate) requires_auth_at_mail: bool,
    /// `{}` is the address.
    pub(crate) sender_accepted: &'static str,
    /// `{}` is the address.
    pub(crate) recipient_accepted: &'static str,
    /// RCPT without MAIL.
    pub(crate) mail_required: &'static str,
    /// DATA without RCPT.
    pub(crate) recipient_required: &'static str,
    pub(crate) too_many_recipients: &'static str,
    pub(crate) start_mail_input: &'static str,
    /// `{}` is the Message-ID.
    pub(crate) message_accepted: &'static str,
    pub(crate) message_too_large: &'static str,
    pub(crate) rset: &'static str,
    pub(crate) noop: &'static str,
    pub(crate) vrfy: &'static str,
    pub(crate) help: &'static str,
    pub(crate) not_implemented: &'static str,
    pub(crate) unknown_command: &'static str,
    pub(crate) quit: &'static str,
    /// What SIZE announces, in bytes.
    pub(crate) max_message_bytes: u64,
}

const MAILGUN_TEXTS: SmtpTexts = SmtpTexts {
    greeting: "220 Mailgun Influx ready",
    helo: "250 smtp-out-n01.prod.us-west-2.postgun.com",
    ehlo: "250-smtp-out-n01.prod.us-west-2.postgun.com\r\n250-AUTH PLAIN LOGIN\r\n250-SIZE 52428800\r\n\
        250-8BITMIME\r\n250-SMTPUTF8\r\n250-PIPELINING\r\n250 STARTTLS",
    ehlo_over_tls: "250-smtp-out-n01.prod.us-west-2.postgun.com\r\n250-AUTH PLAIN LOGIN\r\n\
        250-SIZE 52428800\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING",
    starttls: "220 Go ahead",
    tls_already_active: "503 TLS is on already",
    auth_plain_prompt: "334 Go ahead",
    supports_cram_md5: false,
    auth_succeeded: "235 Authentication successful",
    already_authenticated: "503 Already authenticated",
    auth_failed: "535 Authentication failed",
    invalid_base64: "501 Invalid response encoding",
    closes_after_auth_failure: true,
    auth_required: "550 5.7.1 Relaying denied",
    requires_auth_at_mail: false,
    sender_accepted: "250 Sender address accepted",
    recipient_accepted: "250 Recipient address accepted",
    mail_required: "503 Send MAIL first",
    recipient_required: "503 Send MAIL and RCPT first",
    too_many_recipients: "452 Too many recipients",
    start_mail_input: "354 Continue",
    message_accepted: "250 Great success",
    message_too_large: "552 Message exceeds the maximum size",
    rset: "250 OK",
    noop: "250 OK",
    vrfy: "252 Cannot verify",
    help: "214 https://documentation.mailgun.com",
    not_implemented: "502 Command not implemented",
    unknown_command: "500 Command not recognized",
    quit: "221 See you later. Yours truly, Mailgun",
    max_message_bytes: crate::smtp::MAX_MESSAGE_BYTES,
};

/// Texts of go-smtp, the library of Brevo's relay. Its banner and the reply to a client without a login are not known.
const BREVO_TEXTS: SmtpTexts = SmtpTexts {
    greeting: "220 smtp-relay.brevo.com ESMTP Service Ready",
    helo: "250 2.0.0 Hello {}",
    ehlo: "250-Hello {}\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 SIZE 20971520",
    ehlo_over_tls: "250-Hello {}\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 SIZE 20971520",
    starttls: "220 2.0.0 Ready to start TLS",
    tls_already_active: "502 5.5.1 Already running in TLS",
    auth_plain_prompt: "334 ",
    supports_cram_md5: true,
    auth_succeeded: "235 2.0.0 Authentication succeeded",
    already_authenticated: "503 5.5.1 Already authenticated",
    auth_failed: "535 5.7.8 Authentication failed",
    invalid_base64: "454 4.7.0 Invalid base64 data",
    closes_after_auth_failure: false,
    auth_required: "502 5.7.0 Please authenticate first",
    requires_auth_at_mail: true,
    sender_accepted: "250 2.0.0 Roger, accepting mail from <{}>",
    recipient_accepted: "250 2.0.0 I'll make sure <{}> gets this",
    mail_required: "502 5.5.1 Missing MAIL FROM command.",
    recipient_required: "502 5.5.1 Missing RCPT TO command.",
    too_many_recipients: "452 4.5.3 Maximum limit of 1000 recipients reached",
    start_mail_input: "354 Go ahead. End your data with <CR><LF>.<CR><LF>",
    message_accepted: "250 2.0.0 OK: queued as <{}>",
    message_too_large: "552 5.3.4 Maximum message size exceeded",
    rset: "250 2.0.0 Session reset",
    noop: "250 2.0.0 I have sucessfully done nothing",
    vrfy: "252 2.5.0 Cannot VRFY user, but will accept message",
    help: "502 5.5.1 HELP command not implemented",
    not_implemented: "502 5.5.1 Command not implemented",
    unknown_command: "500 5.5.2 Syntax errors, command unrecognized",
    quit: "221 2.0.0 Bye",
    max_message_bytes: 20_971_520,
};
