//! The provider's side of an SMTP session, without I/O: lines in, actions out. The texts are observed ones; where none
//! was observed, the text is a plain one by RFC 5321.

use crate::profile::SmtpTexts;
use crate::scenario::Scenario;
use crate::seen::SeenCounter;
use crate::webhook_client::{encode_hex, random_bytes};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::{Envelope, Mailbox, Secret};
use mailtrail_smtp::{Command, CommandError, Mechanism};
use md5::Md5;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use subtle::ConstantTimeEq;

/// Accepted login.
#[derive(Debug)]
pub(crate) struct Credentials {
    username: String,
    password: Secret,
    /// Whether the next one is refused because of the address it comes from.
    refuse_next: AtomicBool,
}

impl Credentials {
    pub(crate) fn new(username: String, password: Secret) -> Self {
        Self { username, password, refuse_next: AtomicBool::new(false) }
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    fn refuse_next_login(&self) {
        self.refuse_next.store(true, Ordering::Relaxed);
    }

    fn take_refusal(&self) -> bool {
        self.refuse_next.swap(false, Ordering::Relaxed)
    }

    fn matches(&self, user: &str, password: &str) -> bool {
        let right = user.as_bytes().ct_eq(self.username.as_bytes())
            & password.as_bytes().ct_eq(self.password.expose().as_bytes());
        right.into()
    }

    /// Whether a response to a challenge (RFC 2195) is this login's.
    fn matches_cram_md5(&self, challenge: &str, response: &str) -> bool {
        let Ok(mac) = Hmac::<Md5>::new_from_slice(self.password.expose().as_bytes()) else { return false };
        let digest = encode_hex(&mac.chain_update(challenge).finalize().into_bytes());
        let expected = format!("{} {digest}", self.username);
        response.as_bytes().ct_eq(expected.as_bytes()).into()
    }
}

/// What to do next. A text may have several lines; none has its final CRLF.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SessionAction {
    /// Send a reply and read on.
    Reply(Cow<'static, str>),
    /// Send a reply, then start TLS and a new session.
    StartTls(&'static str),
    /// Send a reply, then receive a message for this envelope.
    ReceiveMessage(&'static str, Envelope),
    /// Send the rate-limit reply of the domain, then close.
    RateLimited,
    /// Send a reply and close.
    Close(&'static str),
    /// Close without a reply.
    Disconnect,
}

/// State of a session.
#[derive(Debug)]
pub(crate) struct SmtpSession {
    texts: &'static SmtpTexts,
    credentials: Arc<Credentials>,
    is_tls: bool,
    is_authenticated: bool,
    state: SessionState,
}

#[derive(Debug)]
enum SessionState {
    Idle,
    AuthPlain,
    AuthLoginUser,
    AuthLoginPassword {
        user: String,
    },
    /// CRAM-MD5 (RFC 2195): the challenge.
    AuthCramMd5(String),
    Transaction(Envelope),
}

impl SmtpSession {
    pub(crate) fn new(texts: &'static SmtpTexts, credentials: Arc<Credentials>, is_tls: bool) -> Self {
        Self { texts, credentials, is_tls, is_authenticated: false, state: SessionState::Idle }
    }

    /// Answers one line, given without its line end.
    pub(crate) fn handle_line(&mut self, line: &[u8], memory: &SeenCounter) -> SessionAction {
        match std::mem::replace(&mut self.state, SessionState::Idle) {
            SessionState::AuthPlain => self.check_plain(line),
            SessionState::AuthLoginUser => match decode_base64(line) {
                Some(user) => self.prompt_password(user),
                None => static_reply(self.texts.invalid_base64),
            },
            SessionState::AuthLoginPassword { user } => match decode_base64(line) {
                Some(password) => self.check_password(&user, &password),
                None => static_reply(self.texts.invalid_base64),
            },
            SessionState::AuthCramMd5(challenge) => match decode_base64(line) {
                Some(response) => self.check_cram_md5(&challenge, &response),
                None => static_reply(self.texts.invalid_base64),
            },
            phase if self.texts.supports_cram_md5 && !self.is_authenticated && is_auth_cram_md5(line) => {
                drop(phase);
                self.send_challenge()
            }
            phase => {
                self.state = phase;
                match Command::parse(line) {
                    Ok(command) => self.handle_command(command, memory),
                    Err(fault) => static_reply(self.syntax_error_reply(fault)),
                }
            }
        }
    }

    fn handle_command(&mut self, command: Command<'_>, memory: &SeenCounter) -> SessionAction {
        match command {
            Command::Ehlo(name) => {
                self.state = SessionState::Idle;
                fill_placeholder(if self.is_tls { self.texts.ehlo_over_tls } else { self.texts.ehlo }, &name)
            }
            Command::Helo(name) => {
                self.state = SessionState::Idle;
                fill_placeholder(self.texts.helo, &name)
            }
            Command::StartTls if self.is_tls => static_reply(self.texts.tls_already_active),
            Command::StartTls => SessionAction::StartTls(self.texts.starttls),
            Command::Auth { .. } if self.is_authenticated => static_reply(self.texts.already_authenticated),
            Command::Auth { mechanism, initial_response } => self.handle_auth(mechanism, initial_response),
            Command::Mail { .. } if matches!(self.state, SessionState::Transaction(_)) => {
                static_reply("503 Nested MAIL command")
            }
            Command::Mail { .. } if self.texts.requires_auth_at_mail && !self.is_authenticated => {
                static_reply(self.texts.auth_required)
            }
            Command::Mail { size: Some(size), .. } if size > self.texts.max_message_bytes => {
                static_reply(self.texts.message_too_large)
            }
            Command::Mail { envelope, .. } => {
                let sender = envelope.sender.as_ref().map_or("", Mailbox::as_str);
                let step = fill_placeholder(self.texts.sender_accepted, sender);
                self.state = SessionState::Transaction(envelope);
                step
            }
            Command::Rcpt { recipient, .. } => self.handle_rcpt(recipient, memory),
            Command::Data => self.handle_data(memory),
            Command::Rset => {
                self.state = SessionState::Idle;
                static_reply(self.texts.rset)
            }
            Command::Noop => static_reply(self.texts.noop),
            Command::Vrfy => static_reply(self.texts.vrfy),
            Command::NotImplemented | Command::Bdat { .. } | Command::XClient(_) => {
                static_reply(self.texts.not_implemented)
            }
            Command::Help => static_reply(self.texts.help),
            Command::Quit => SessionAction::Close(self.texts.quit),
        }
    }

    fn handle_auth(&mut self, mechanism: Mechanism, initial: Option<&str>) -> SessionAction {
        match (mechanism, initial) {
            (Mechanism::Plain, Some(initial)) => self.check_plain(initial.as_bytes()),
            (Mechanism::Plain, None) => {
                self.state = SessionState::AuthPlain;
                static_reply(self.texts.auth_plain_prompt)
            }
            (Mechanism::Login, Some(initial)) => match decode_base64(initial.as_bytes()) {
                Some(user) => self.prompt_password(user),
                None => static_reply(self.texts.invalid_base64),
            },
            (Mechanism::Login, None) => {
                self.state = SessionState::AuthLoginUser;
                static_reply("334 VXNlcm5hbWU6")
            }
            (Mechanism::External, _) => static_reply(self.syntax_error_reply(CommandError::UnknownMechanism)),
        }
    }

    fn prompt_password(&mut self, user: String) -> SessionAction {
        self.state = SessionState::AuthLoginPassword { user };
        static_reply("334 UGFzc3dvcmQ6")
    }

    fn check_plain(&mut self, response: &[u8]) -> SessionAction {
        let Some(text) = decode_base64(response) else { return static_reply(self.texts.invalid_base64) };
        let mut parts = text.splitn(3, '\0');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(user), Some(password)) => self.check_password(user, password),
            _ => static_reply(self.texts.invalid_base64),
        }
    }

    fn send_challenge(&mut self) -> SessionAction {
        let challenge = format!("<{}@smtp-relay.brevo.com>", encode_hex(&random_bytes::<12>()));
        let said = format!("334 {}", BASE64_STANDARD.encode(&challenge));
        self.state = SessionState::AuthCramMd5(challenge);
        SessionAction::Reply(said.into())
    }

    fn check_password(&mut self, user: &str, password: &str) -> SessionAction {
        let is_known = self.credentials.matches(user, password);
        self.authenticate(is_known)
    }

    fn check_cram_md5(&mut self, challenge: &str, response: &str) -> SessionAction {
        let is_known = self.credentials.matches_cram_md5(challenge, response);
        self.authenticate(is_known)
    }

    fn authenticate(&mut self, is_known: bool) -> SessionAction {
        if self.credentials.take_refusal() {
            return static_reply(UNAUTHORIZED_IP);
        }
        self.is_authenticated = is_known;
        if self.is_authenticated {
            static_reply(self.texts.auth_succeeded)
        } else if self.texts.closes_after_auth_failure {
            SessionAction::Close(self.texts.auth_failed)
        } else {
            static_reply(self.texts.auth_failed)
        }
    }

    fn handle_rcpt(&mut self, recipient: Mailbox, memory: &SeenCounter) -> SessionAction {
        let SessionState::Transaction(envelope) = &mut self.state else {
            return static_reply(self.texts.mail_required);
        };
        if !self.is_authenticated {
            return static_reply(self.texts.auth_required);
        }
        if envelope.recipients.len() >= MAX_RECIPIENTS {
            return static_reply(self.texts.too_many_recipients);
        }
        match Scenario::for_recipient(&recipient) {
            Scenario::Reject => {
                return SessionAction::Reply(
                    format!("550 5.1.1 <{recipient}>: Recipient address rejected").into(),
                );
            }
            Scenario::DeferSmtp if memory.record_seen(attempt_key("RCPT", envelope, &recipient)) % 3 < 2 => {
                return SessionAction::Reply(
                    format!("451 4.3.0 <{recipient}>: Temporary failure, try again later").into(),
                );
            }
            Scenario::UnauthorizedIp
                if self.texts.requires_auth_at_mail
                    && memory.record_seen(attempt_key("RCPT", envelope, &recipient)).is_multiple_of(2) =>
            {
                self.credentials.refuse_next_login();
                return SessionAction::Disconnect;
            }
            _ => {}
        }
        let step = fill_placeholder(self.texts.recipient_accepted, recipient.as_str());
        envelope.recipients.push(recipient);
        step
    }

    fn handle_data(&mut self, memory: &SeenCounter) -> SessionAction {
        let envelope = match std::mem::replace(&mut self.state, SessionState::Idle) {
            SessionState::Transaction(envelope) if !envelope.recipients.is_empty() => envelope,
            phase => {
                self.state = phase;
                return static_reply(self.texts.recipient_required);
            }
        };
        let limited =
            envelope.recipients.iter().filter(|to| Scenario::for_recipient(to) == Scenario::RateLimit);
        // Every one is counted, so that several in one message do not have it refused several times.
        let refused = limited
            .filter(|to| memory.record_seen(attempt_key("DATA", &envelope, to)).is_multiple_of(2))
            .count();
        if refused > 0 {
            SessionAction::RateLimited
        } else {
            SessionAction::ReceiveMessage(self.texts.start_mail_input, envelope)
        }
    }

    fn syntax_error_reply(&self, fault: CommandError) -> &'static str {
        match fault {
            CommandError::UnknownCommand | CommandError::ForeignProtocol => self.texts.unknown_command,
            CommandError::InvalidArguments(_) => "501 Syntax error in parameters",
            CommandError::InvalidSender => "501 Invalid sender address",
            CommandError::InvalidRecipient => "501 Invalid recipient address",
            CommandError::UnknownParameter => "555 Parameter not supported",
            CommandError::UnknownMechanism => "504 Authentication mechanism not supported",
        }
    }
}

fn attempt_key(command: &str, envelope: &Envelope, recipient: &Mailbox) -> String {
    let sender = envelope.sender.as_ref().map_or("", Mailbox::as_str);
    format!("{command} {sender} {}", recipient.to_folded())
}

fn is_auth_cram_md5(line: &[u8]) -> bool {
    line.trim_ascii().eq_ignore_ascii_case(b"AUTH CRAM-MD5")
}

fn decode_base64(base64: &[u8]) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(base64.trim_ascii()).ok()?;
    String::from_utf8(bytes).ok()
}

fn static_reply(text: &'static str) -> SessionAction {
    SessionAction::Reply(Cow::Borrowed(text))
}

/// Replaces the placeholder of a text.
fn fill_placeholder(text: &'static str, what: &str) -> SessionAction {
    if text.contains("{}") {
        SessionAction::Reply(text.replace("{}", what).into())
    } else {
        static_reply(text)
    }
}

pub(crate) const LINE_TOO_LONG: &str = "500 Line too long";
/// Reply above the maximum number of active events; not observed at Mailgun.
pub(crate) const TEMPORARILY_UNAVAILABLE: &str = "451 Temporarily unavailable, try again later";

/// Where only some addresses may log in, at Brevo.
const UNAUTHORIZED_IP: &str = "525 5.7.1 Unauthorized IP address";

/// Bytes of a message that Mailgun takes.
pub(crate) const MAX_MESSAGE_BYTES: u64 = 52_428_800;
/// Recipients of one transaction; Mailgun's number is not published, its batches end here.
const MAX_RECIPIENTS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ProviderProfile;

    fn mailgun_actions(lines: &[&str]) -> Vec<SessionAction> {
        session_actions(ProviderProfile::Mailgun, lines)
    }

    fn session_actions(profile: ProviderProfile, lines: &[&str]) -> Vec<SessionAction> {
        let login = Credentials::new("u@mg.example.com".into(), Secret::new("pw"));
        let (mut dialogue, memory) =
            (SmtpSession::new(profile.smtp_texts(), Arc::new(login), true), SeenCounter::default());
        lines.iter().map(|line| dialogue.handle_line(line.as_bytes(), &memory)).collect()
    }

    #[test]
    fn accepts_auth_plain_and_login_with_or_without_initial_response() {
        let (user, password) = (BASE64_STANDARD.encode("u@mg.example.com"), BASE64_STANDARD.encode("pw"));
        let plain = BASE64_STANDARD.encode("\0u@mg.example.com\0pw");
        for lines in [
            &["AUTH PLAIN", &plain][..],
            &[&format!("AUTH PLAIN {plain}")],
            &["AUTH LOGIN", &user, &password],
            &[&format!("AUTH LOGIN {user}"), &password],
        ] {
            assert_eq!(
                mailgun_actions(lines).last(),
                Some(&static_reply("235 Authentication successful")),
                "{lines:?}"
            );
        }
        assert_eq!(mailgun_actions(&["AUTH PLAIN", "*"])[1], static_reply("501 Invalid response encoding"));
        assert_eq!(
            mailgun_actions(&["AUTH LOGIN", &user, &user])[2],
            SessionAction::Close("535 Authentication failed")
        );
    }

    #[test]
    fn applies_rcpt_and_data_scenarios_before_message() {
        let login = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0u@mg.example.com\0pw"));
        let text = |step: &SessionAction| match step {
            SessionAction::Reply(text) => text[..3].to_owned(),
            step => format!("{step:?}").chars().take_while(|c| c.is_alphabetic()).collect(),
        };
        let mail = "MAIL FROM:<a@b.c>";
        let defer = "RCPT TO:<defer-smtp@b.c>";
        let steps = mailgun_actions(&[&login, mail, defer, defer, defer, "RCPT TO:<reject@b.c>", "DATA"]);
        let texts: Vec<_> = steps.iter().map(text).collect();
        assert_eq!(texts, ["235", "250", "451", "451", "250", "550", "ReceiveMessage"]);
        let limit = "RCPT TO:<rate-limit@b.c>";
        let steps = mailgun_actions(&[&login, mail, limit, "DATA", "DATA", mail, limit, "DATA"]);
        let texts: Vec<_> = steps.iter().map(text).collect();
        assert_eq!(texts, ["235", "250", "250", "RateLimited", "503", "250", "250", "ReceiveMessage"]);
    }

    #[test]
    fn brevo_requires_auth_before_mail_and_refuses_unauthorized_ip() {
        let login = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0u@mg.example.com\0pw"));
        let (mail, recipient) = ("MAIL FROM:<a@b.c>", "RCPT TO:<unauthorized-ip@b.c>");
        let steps = session_actions(
            ProviderProfile::Brevo,
            &[mail, &login, mail, recipient, "RSET", "NOOP", "BDAT 1", "hm", "DATA"],
        );
        let expected = [
            static_reply("502 5.7.0 Please authenticate first"),
            static_reply("235 2.0.0 Authentication succeeded"),
            static_reply("250 2.0.0 Roger, accepting mail from <a@b.c>"),
            SessionAction::Disconnect,
            static_reply("250 2.0.0 Session reset"),
            static_reply("250 2.0.0 I have sucessfully done nothing"),
            static_reply("502 5.5.1 Command not implemented"),
            static_reply("500 5.5.2 Syntax errors, command unrecognized"),
            static_reply("502 5.5.1 Missing RCPT TO command."),
        ];
        assert_eq!(steps, expected);
        let login_elsewhere = Credentials::new("u".into(), Secret::new("pw"));
        login_elsewhere.refuse_next_login();
        let (login, memory) = (Arc::new(login_elsewhere), SeenCounter::default());
        let attempt = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0u\0pw"));
        let said = [0; 2].map(|_| {
            SmtpSession::new(ProviderProfile::Brevo.smtp_texts(), login.clone(), true)
                .handle_line(attempt.as_bytes(), &memory)
        });
        assert_eq!(said, [static_reply(UNAUTHORIZED_IP), static_reply("235 2.0.0 Authentication succeeded")]);
    }

    /// The example of RFC 2195 section 2.
    #[test]
    fn cram_md5_response_is_checked_against_password() {
        let login = Credentials::new("tim".into(), Secret::new("tanstaaftanstaaf"));
        let challenge = "<1896.697170952@postoffice.reston.mci.net>";
        assert!(login.matches_cram_md5(challenge, "tim b913a602c7eda7a495b4e6e7334d3890"));
        for wrong in
            ["tim b913a602c7eda7a495b4e6e7334d3891", "tom b913a602c7eda7a495b4e6e7334d3890", "tim", ""]
        {
            assert!(!login.matches_cram_md5(challenge, wrong), "{wrong}");
        }
        let (mut dialogue, memory) = (
            SmtpSession::new(ProviderProfile::Brevo.smtp_texts(), Arc::new(login), true),
            SeenCounter::default(),
        );
        let SessionAction::Reply(said) = dialogue.handle_line(b"AUTH CRAM-MD5", &memory) else {
            unreachable!()
        };
        let challenge = decode_base64(said.strip_prefix("334 ").unwrap().as_bytes()).unwrap();
        let mac = Hmac::<Md5>::new_from_slice(b"tanstaaftanstaaf").unwrap();
        let signed = encode_hex(&mac.chain_update(&challenge).finalize().into_bytes());
        let response = BASE64_STANDARD.encode(format!("tim {signed}"));
        let step = dialogue.handle_line(response.as_bytes(), &memory);
        assert_eq!(step, static_reply("235 2.0.0 Authentication succeeded"));
        assert_eq!(
            mailgun_actions(&["AUTH CRAM-MD5"]),
            [static_reply("504 Authentication mechanism not supported")]
        );
    }
}
