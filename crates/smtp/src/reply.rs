//! All replies of our listeners. Code, enhanced status and text come from one value, so they always agree.

use mailtrail_mail::TrackingId;

/// A reply to a client (RFC 5321 section 4.2, RFC 2034). Odoo shows rejections to its users verbatim, so the texts are
/// written for users; none reveals paths, internal hosts or causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Greeting of a new connection.
    Greeting {
        /// Host name of the relay.
        hostname: String,
    },
    /// Reply to EHLO or HELO: host name, then the extensions.
    Ehlo {
        /// Host name of the relay.
        hostname: String,
        /// One extension a line; empty for HELO.
        extensions: Vec<String>,
    },
    /// RSET, NOOP.
    Ok,
    /// MAIL accepted.
    SenderOk,
    /// RCPT accepted.
    RecipientOk,
    /// Go on with the message.
    StartData,
    /// The message is kept.
    Queued(TrackingId),
    /// Go on with TLS.
    StartTls,
    /// Login accepted.
    AuthSucceeded,
    /// The next part of a login; the text is base64.
    AuthContinue(&'static str),
    /// A chunk of a message is taken (RFC 3030).
    ChunkOk,
    /// VRFY.
    CannotVerify,
    /// HELP.
    Help,
    /// QUIT.
    Closing,
    /// Input of another protocol.
    NotSmtp,
    /// More commands without a message than any client needs.
    TooManyCommands,
    /// The session has lasted long enough.
    SessionTooLong,
    /// Connection limit reached.
    TooManyConnections,
    /// The peer may not connect.
    ClientNotAllowed,
    /// Nothing came for too long.
    TimedOut,
    /// Too many failed commands.
    TooManyErrors,
    /// Too many failed logins from this address.
    TooManyFailedLogins,
    /// We are about to stop.
    ShuttingDown,
    /// No session can be held now.
    Unavailable,
    /// The store takes nothing now.
    StorageFull,
    /// Something failed here that is not the client's fault.
    LocalError,
    /// The rate of this user or address is used up.
    RateLimited,
    /// The user's mail has had as many recipients as it may; in which time.
    QuotaExceeded(&'static str),
    /// Unknown command.
    UnknownCommand,
    /// Known command that is not implemented.
    NotImplemented,
    /// A command for trusted proxies only.
    ProxyOnly,
    /// A command without the parameters it needs, or with bad ones.
    BadParameters(&'static str),
    /// The address cannot be read.
    BadSender,
    /// The address cannot be read.
    BadRecipient,
    /// A command out of order.
    BadSequence(&'static str),
    /// A MAIL or RCPT parameter that we did not offer.
    UnknownParameter,
    /// The command line is longer than allowed.
    LineTooLong,
    /// TLS required before this command.
    TlsRequired,
    /// Login required before this command.
    AuthRequired,
    /// AUTH only inside TLS.
    EncryptionRequired,
    /// Wrong user or password.
    AuthFailed,
    /// The client gave up its login.
    AuthCancelled,
    /// The login is not base64, or not of the mechanism's form.
    AuthMalformed,
    /// A mechanism that we do not have.
    UnknownMechanism,
    /// No AUTH on this listener.
    AuthNotOffered,
    /// No TLS on this listener, or it is on already.
    TlsNotOffered,
    /// This user may not send as that address.
    SenderNotAllowed,
    /// More recipients than allowed; these are kept.
    TooManyRecipients,
    /// More bytes than allowed.
    MessageTooLarge {
        /// Maximum number of recipients.
        limit: u64,
    },
    /// More bytes of header than allowed.
    HeaderTooLarge {
        /// Maximum size in bytes.
        limit: u64,
    },
    /// The address is suppressed, with the reason.
    RecipientSuppressed(&'static str),
    /// The message has been here before, or passed too many servers (RFC 5321 section 6.3).
    MailLoop,
    /// The message cannot be relayed in its form, with the reason.
    BadMessage(&'static str),
}

impl Reply {
    /// Returns the three-digit code.
    pub fn code(&self) -> u16 {
        self.parts().0
    }

    /// Whether the client did something wrong or is refused.
    pub fn is_rejection(&self) -> bool {
        self.code() >= 400
    }

    /// The enhanced status and the text, of replies that carry no value.
    pub fn to_text(&self) -> String {
        let (_, enhanced, text) = self.parts();
        format!("{enhanced} {text}")
    }

    /// Appends the reply as it goes over the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Greeting { hostname } => write_line(out, 220, ' ', &[hostname, " ESMTP mailtrail"]),
            Self::Ehlo { hostname, extensions } => {
                let mut text: &str = hostname;
                for extension in extensions {
                    write_line(out, 250, '-', &[text]);
                    text = extension;
                }
                write_line(out, 250, ' ', &[text]);
            }
            Self::Queued(id) => write_line(out, 250, ' ', &["2.0.0 Queued as ", &id.to_string()]),
            Self::MessageTooLarge { limit } => write_size_limit(out, "message", *limit),
            Self::HeaderTooLarge { limit } => write_size_limit(out, "header of the message", *limit),
            _ => match self.parts() {
                (code, "", text) => write_line(out, code, ' ', &[text]),
                (code, enhanced, text) => write_line(out, code, ' ', &[enhanced, " ", text]),
            },
        }
    }

    /// Code, enhanced status and text; the text of the few that carry a value is made in [`Reply::write`].
    const fn parts(&self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Greeting { .. } => (220, "", ""),
            Self::Ehlo { .. } => (250, "", ""),
            Self::Ok => (250, "2.0.0", "OK"),
            Self::SenderOk => (250, "2.1.0", "Sender OK"),
            Self::RecipientOk => (250, "2.1.5", "Recipient OK"),
            Self::StartData => (354, "", "Send the message, end it with <CRLF>.<CRLF>"),
            Self::Queued(_) => (250, "2.0.0", ""),
            Self::StartTls => (220, "2.0.0", "Ready to start TLS"),
            Self::AuthSucceeded => (235, "2.7.0", "Authentication successful"),
            Self::AuthContinue(prompt) => (334, "", prompt),
            Self::ChunkOk => (250, "2.0.0", "Chunk OK"),
            Self::CannotVerify => (252, "2.5.0", "Send the message, its delivery will be tried"),
            Self::Help => {
                (214, "2.0.0", "RFC 5321: EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT")
            }
            Self::Closing => (221, "2.0.0", "Bye"),
            Self::NotSmtp => (421, "4.7.0", "This is SMTP, closing"),
            Self::TooManyCommands => (421, "4.7.0", "Too many commands without a message, closing"),
            Self::SessionTooLong => (421, "4.4.2", "This session has lasted long enough, connect again"),
            Self::TooManyConnections => (421, "4.7.0", "Too many connections, try again later"),
            Self::ClientNotAllowed => (554, "5.7.1", "Connections from your address are not allowed"),
            Self::TimedOut => (421, "4.4.2", "Nothing heard for too long, closing"),
            Self::TooManyErrors => (421, "4.7.0", "Too many errors, closing"),
            // RFC 4954 section 6: the login fails for now, the session goes on.
            Self::TooManyFailedLogins => {
                (454, "4.7.0", "Too many failed logins from your address, try again later")
            }
            Self::ShuttingDown => (421, "4.3.2", "Shutting down, try again shortly"),
            Self::Unavailable => (421, "4.3.2", "Mail cannot be taken now, try again later"),
            Self::StorageFull => (452, "4.3.1", "The message cannot be stored now, try again later"),
            Self::LocalError => (451, "4.3.0", "The message cannot be taken now, try again later"),
            Self::RateLimited => {
                (450, "4.7.1", "You have sent too many messages in a short time, try again later")
            }
            // RFC 5321 section 4.3.2 lists 452, not 450, among the replies to MAIL. X.5.3 would mean that the other
            // recipients may be sent in another transaction.
            Self::QuotaExceeded(text) => (452, "4.7.1", text),
            Self::UnknownCommand => (500, "5.5.2", "Command not recognised"),
            Self::NotImplemented => (502, "5.5.1", "This command is not implemented"),
            Self::ProxyOnly => (550, "5.7.0", "This command is not allowed from your address"),
            Self::BadParameters(text) => (501, "5.5.4", text),
            Self::BadSender => (553, "5.1.7", "The sender's address cannot be read"),
            Self::BadRecipient => (553, "5.1.3", "The recipient's address cannot be read"),
            Self::BadSequence(text) => (503, "5.5.1", text),
            Self::UnknownParameter => (555, "5.5.4", "A parameter of this command is not supported"),
            Self::LineTooLong => (500, "5.5.6", "The command line is too long"),
            Self::TlsRequired => (530, "5.7.0", "Issue STARTTLS first"),
            Self::AuthRequired => (530, "5.7.0", "Log in first: authentication is required"),
            Self::EncryptionRequired => {
                (538, "5.7.11", "Issue STARTTLS first: encryption is required to log in")
            }
            Self::AuthFailed => (535, "5.7.8", "Wrong user name or password"),
            Self::AuthCancelled => (501, "5.7.0", "Authentication cancelled"),
            Self::AuthMalformed => (501, "5.5.2", "The authentication data cannot be read"),
            Self::UnknownMechanism => (504, "5.5.4", "Use AUTH PLAIN or AUTH LOGIN"),
            Self::AuthNotOffered => (503, "5.5.1", "Authentication is not offered here"),
            Self::TlsNotOffered => (503, "5.5.1", "STARTTLS is not offered now"),
            Self::SenderNotAllowed => (553, "5.7.1", "You may not send as this sender"),
            Self::TooManyRecipients => {
                (452, "4.5.3", "Too many recipients, send the message to the rest again")
            }
            Self::MessageTooLarge { .. } | Self::HeaderTooLarge { .. } => (552, "5.3.4", ""),
            Self::RecipientSuppressed(text) => (550, "5.7.1", text),
            Self::MailLoop => {
                (554, "5.4.6", "The message runs in a loop: it has been here, or passed too many servers")
            }
            Self::BadMessage(text) => (554, "5.6.0", text),
        }
    }
}

fn write_size_limit(out: &mut Vec<u8>, what: &str, limit: u64) {
    let limit = limit.to_string();
    write_line(out, 552, ' ', &["5.3.4 The ", what, " is larger than the ", &limit, " bytes allowed here"]);
}

fn write_line(out: &mut Vec<u8>, code: u16, separator: char, text: &[&str]) {
    let digits = [b'0' + (code / 100) as u8, b'0' + (code / 10 % 10) as u8, b'0' + (code % 10) as u8];
    out.extend_from_slice(&digits);
    out.push(separator as u8);
    text.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_text(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn formats_replies_as_lines() {
        assert_eq!(reply_text(&Reply::SenderOk), "250 2.1.0 Sender OK\r\n");
        assert_eq!(reply_text(&Reply::AuthContinue("VXNlcm5hbWU6")), "334 VXNlcm5hbWU6\r\n");
        let hello = Reply::Ehlo { hostname: "a".into(), extensions: vec!["SIZE 1".into(), "HELP".into()] };
        assert_eq!(reply_text(&hello), "250-a\r\n250-SIZE 1\r\n250 HELP\r\n");
        let refused = Reply::MessageTooLarge { limit: 5 };
        assert!(refused.is_rejection() && reply_text(&refused).starts_with("552 5.3.4 "));
        let refused = Reply::HeaderTooLarge { limit: 5 };
        let text = "552 5.3.4 The header of the message is larger than the 5 bytes allowed here\r\n";
        assert_eq!(reply_text(&refused), text);
    }

    #[test]
    fn code_and_enhanced_status_have_same_class() {
        for reply in [
            Reply::StorageFull,
            Reply::AuthFailed,
            Reply::TooManyFailedLogins,
            Reply::RateLimited,
            Reply::QuotaExceeded("x"),
            Reply::TooManyRecipients,
            Reply::RecipientSuppressed("x"),
            Reply::BadSender,
            Reply::Closing,
        ] {
            let (code, enhanced, _) = reply.parts();
            assert_eq!(char::from_digit(u32::from(code / 100), 10), enhanced.chars().next(), "{reply:?}");
        }
    }

    /// Every reply as it goes over the wire. Those that carry a text of their own are in `tests/dialogues`.
    #[test]
    fn every_reply_is_as_ever() {
        let replies = [
            Reply::Greeting { hostname: "relay.example.com".into() },
            Reply::Ehlo {
                hostname: "relay.example.com".into(),
                extensions: vec!["SIZE 1".into(), "HELP".into()],
            },
            Reply::Ehlo { hostname: "relay.example.com".into(), extensions: Vec::new() },
            Reply::Ok,
            Reply::SenderOk,
            Reply::RecipientOk,
            Reply::StartData,
            Reply::Queued(TrackingId::from_bytes([1; 16])),
            Reply::StartTls,
            Reply::AuthSucceeded,
            Reply::AuthContinue("VXNlcm5hbWU6"),
            Reply::ChunkOk,
            Reply::CannotVerify,
            Reply::Help,
            Reply::Closing,
            Reply::NotSmtp,
            Reply::TooManyCommands,
            Reply::SessionTooLong,
            Reply::TooManyConnections,
            Reply::ClientNotAllowed,
            Reply::TimedOut,
            Reply::TooManyErrors,
            Reply::TooManyFailedLogins,
            Reply::ShuttingDown,
            Reply::Unavailable,
            Reply::StorageFull,
            Reply::LocalError,
            Reply::RateLimited,
            Reply::QuotaExceeded("TEXT"),
            Reply::UnknownCommand,
            Reply::NotImplemented,
            Reply::ProxyOnly,
            Reply::BadParameters("TEXT"),
            Reply::BadSender,
            Reply::BadRecipient,
            Reply::BadSequence("TEXT"),
            Reply::UnknownParameter,
            Reply::LineTooLong,
            Reply::TlsRequired,
            Reply::AuthRequired,
            Reply::EncryptionRequired,
            Reply::AuthFailed,
            Reply::AuthCancelled,
            Reply::AuthMalformed,
            Reply::UnknownMechanism,
            Reply::AuthNotOffered,
            Reply::TlsNotOffered,
            Reply::SenderNotAllowed,
            Reply::TooManyRecipients,
            Reply::MessageTooLarge { limit: 1234 },
            Reply::HeaderTooLarge { limit: 1234 },
            Reply::RecipientSuppressed("TEXT"),
            Reply::MailLoop,
            Reply::BadMessage("TEXT"),
        ];
        let said: String =
            replies.iter().map(|reply| reply_text(reply).replace("\r\n", "\\r\\n\n")).collect();
        crate::golden::check("replies.txt", &said);
    }
}
