//! The provider's side of SMTP without the socket: lines in, steps out. The texts are the observed ones; where nobody has
//! seen the provider answer, the text is a plain one of RFC 5321.

use crate::profile::Texts;
use crate::scenario::Fate;
use crate::seen::Memory;
use crate::webhook_client::{hex, random};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::{Envelope, Mailbox, Secret};
use mailtrail_smtp::{Command, Mechanism, Syntax};
use md5::Md5;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use subtle::ConstantTimeEq;

/// The login that the provider knows.
#[derive(Debug)]
pub(crate) struct Login {
    username: String,
    password: Secret,
    /// Whether the next one is refused because of the address it comes from.
    shut: AtomicBool,
}

impl Login {
    pub(crate) fn new(username: String, password: Secret) -> Self {
        Self { username, password, shut: AtomicBool::new(false) }
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    fn shut_out(&self) {
        self.shut.store(true, Ordering::Relaxed);
    }

    fn is_shut_out(&self) -> bool {
        self.shut.swap(false, Ordering::Relaxed)
    }

    fn is(&self, user: &str, password: &str) -> bool {
        let right = user.as_bytes().ct_eq(self.username.as_bytes())
            & password.as_bytes().ct_eq(self.password.reveal().as_bytes());
        right.into()
    }

    /// Whether a response to a challenge (RFC 2195) is this login's.
    fn is_signed(&self, challenge: &str, response: &str) -> bool {
        let Ok(mac) = Hmac::<Md5>::new_from_slice(self.password.reveal().as_bytes()) else { return false };
        let digest = hex(&mac.chain_update(challenge).finalize().into_bytes());
        let expected = format!("{} {digest}", self.username);
        response.as_bytes().ct_eq(expected.as_bytes()).into()
    }
}

/// What to do next. A text may have several lines; none has its final CRLF.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say this and read on.
    Say(Cow<'static, str>),
    /// Say this, then speak TLS and start anew.
    StartTls(&'static str),
    /// Say this, then read a message for this envelope.
    Receive(&'static str, Envelope),
    /// Say that the domain has to wait, then close.
    RateLimited,
    /// Say this and close.
    Close(&'static str),
    /// Close without a word.
    Drop,
}

/// One session's state.
#[derive(Debug)]
pub(crate) struct Dialogue {
    texts: &'static Texts,
    login: Arc<Login>,
    secured: bool,
    logged_in: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Plain,
    User,
    Password {
        user: String,
    },
    /// CRAM-MD5 (RFC 2195): what is to be signed.
    Challenge(String),
    Mail(Envelope),
}

impl Dialogue {
    pub(crate) fn new(texts: &'static Texts, login: Arc<Login>, secured: bool) -> Self {
        Self { texts, login, secured, logged_in: false, phase: Phase::Idle }
    }

    /// Answers one line, given without its line end.
    pub(crate) fn line(&mut self, line: &[u8], memory: &Memory) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Plain => self.plain(line),
            Phase::User => match decode(line) {
                Some(user) => self.ask_password(user),
                None => say(self.texts.undecodable),
            },
            Phase::Password { user } => match decode(line) {
                Some(password) => self.check(&user, &password),
                None => say(self.texts.undecodable),
            },
            Phase::Challenge(challenge) => match decode(line) {
                Some(response) => self.check_signed(&challenge, &response),
                None => say(self.texts.undecodable),
            },
            phase if self.texts.cram_md5 && !self.logged_in && is_cram_md5(line) => {
                drop(phase);
                self.challenge()
            }
            phase => {
                self.phase = phase;
                match Command::parse(line) {
                    Ok(command) => self.command(command, memory),
                    Err(fault) => say(self.refusal(fault)),
                }
            }
        }
    }

    fn command(&mut self, command: Command<'_>, memory: &Memory) -> Step {
        match command {
            Command::Ehlo(name) => {
                self.phase = Phase::Idle;
                fill(if self.secured { self.texts.secured_hello } else { self.texts.hello }, &name)
            }
            Command::Helo(name) => {
                self.phase = Phase::Idle;
                fill(self.texts.helo, &name)
            }
            Command::StartTls if self.secured => say(self.texts.tls_is_on),
            Command::StartTls => Step::StartTls(self.texts.starttls),
            Command::Auth { .. } if self.logged_in => say(self.texts.authenticated_already),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Mail { .. } if matches!(self.phase, Phase::Mail(_)) => say("503 Nested MAIL command"),
            Command::Mail { .. } if self.texts.login_before_mail && !self.logged_in => {
                say(self.texts.no_login)
            }
            Command::Mail { size: Some(size), .. } if size > self.texts.message_size => {
                say(self.texts.too_large)
            }
            Command::Mail { envelope, .. } => {
                let sender = envelope.sender.as_ref().map_or("", Mailbox::as_str);
                let step = fill(self.texts.sender, sender);
                self.phase = Phase::Mail(envelope);
                step
            }
            Command::Rcpt { recipient, .. } => self.recipient(recipient, memory),
            Command::Data => self.data(memory),
            Command::Rset => {
                self.phase = Phase::Idle;
                say(self.texts.reset)
            }
            Command::Noop => say(self.texts.noop),
            Command::Vrfy => say(self.texts.verify),
            Command::NotImplemented | Command::Bdat { .. } | Command::XClient(_) => {
                say(self.texts.not_implemented)
            }
            Command::Help => say(self.texts.help),
            Command::Quit => Step::Close(self.texts.quit),
        }
    }

    fn auth(&mut self, mechanism: Mechanism, initial: Option<&str>) -> Step {
        match (mechanism, initial) {
            (Mechanism::Plain, Some(initial)) => self.plain(initial.as_bytes()),
            (Mechanism::Plain, None) => {
                self.phase = Phase::Plain;
                say(self.texts.plain)
            }
            (Mechanism::Login, Some(initial)) => match decode(initial.as_bytes()) {
                Some(user) => self.ask_password(user),
                None => say(self.texts.undecodable),
            },
            (Mechanism::Login, None) => {
                self.phase = Phase::User;
                say("334 VXNlcm5hbWU6")
            }
            (Mechanism::External, _) => say(self.refusal(Syntax::Mechanism)),
        }
    }

    fn ask_password(&mut self, user: String) -> Step {
        self.phase = Phase::Password { user };
        say("334 UGFzc3dvcmQ6")
    }

    fn plain(&mut self, response: &[u8]) -> Step {
        let Some(text) = decode(response) else { return say(self.texts.undecodable) };
        let mut parts = text.splitn(3, '\0');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(user), Some(password)) => self.check(user, password),
            _ => say(self.texts.undecodable),
        }
    }

    fn challenge(&mut self) -> Step {
        let challenge = format!("<{}@smtp-relay.brevo.com>", hex(&random::<12>()));
        let said = format!("334 {}", BASE64_STANDARD.encode(&challenge));
        self.phase = Phase::Challenge(challenge);
        Step::Say(said.into())
    }

    fn check(&mut self, user: &str, password: &str) -> Step {
        let is_known = self.login.is(user, password);
        self.let_in(is_known)
    }

    fn check_signed(&mut self, challenge: &str, response: &str) -> Step {
        let is_known = self.login.is_signed(challenge, response);
        self.let_in(is_known)
    }

    fn let_in(&mut self, is_known: bool) -> Step {
        if self.login.is_shut_out() {
            return say(UNAUTHORIZED_ADDRESS);
        }
        self.logged_in = is_known;
        if self.logged_in {
            say(self.texts.authenticated)
        } else if self.texts.closes {
            Step::Close(self.texts.wrong_login)
        } else {
            say(self.texts.wrong_login)
        }
    }

    fn recipient(&mut self, recipient: Mailbox, memory: &Memory) -> Step {
        let Phase::Mail(envelope) = &mut self.phase else { return say(self.texts.mail_first) };
        if !self.logged_in {
            return say(self.texts.no_login);
        }
        if envelope.recipients.len() >= RECIPIENTS {
            return say(self.texts.too_many_recipients);
        }
        match Fate::of(&recipient) {
            Fate::Reject => {
                return Step::Say(format!("550 5.1.1 <{recipient}>: Recipient address rejected").into());
            }
            Fate::DeferSmtp if memory.count(key("RCPT", envelope, &recipient)) % 3 < 2 => {
                return Step::Say(
                    format!("451 4.3.0 <{recipient}>: Temporary failure, try again later").into(),
                );
            }
            Fate::UnauthorizedIp
                if self.texts.login_before_mail
                    && memory.count(key("RCPT", envelope, &recipient)).is_multiple_of(2) =>
            {
                self.login.shut_out();
                return Step::Drop;
            }
            _ => {}
        }
        let step = fill(self.texts.recipient, recipient.as_str());
        envelope.recipients.push(recipient);
        step
    }

    fn data(&mut self, memory: &Memory) -> Step {
        let envelope = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Mail(envelope) if !envelope.recipients.is_empty() => envelope,
            phase => {
                self.phase = phase;
                return say(self.texts.recipient_first);
            }
        };
        let limited = envelope.recipients.iter().filter(|to| Fate::of(to) == Fate::RateLimit);
        // Every one is counted, so that several in one message do not have it refused several times.
        let refused = limited.filter(|to| memory.count(key("DATA", &envelope, to)).is_multiple_of(2)).count();
        if refused > 0 { Step::RateLimited } else { Step::Receive(self.texts.data, envelope) }
    }

    fn refusal(&self, fault: Syntax) -> &'static str {
        match fault {
            Syntax::Unknown | Syntax::Foreign => self.texts.unknown,
            Syntax::Arguments(_) => "501 Syntax error in parameters",
            Syntax::Sender => "501 Invalid sender address",
            Syntax::Recipient => "501 Invalid recipient address",
            Syntax::Parameter => "555 Parameter not supported",
            Syntax::Mechanism => "504 Authentication mechanism not supported",
        }
    }
}

fn key(command: &str, envelope: &Envelope, recipient: &Mailbox) -> String {
    let sender = envelope.sender.as_ref().map_or("", Mailbox::as_str);
    format!("{command} {sender} {}", recipient.folded())
}

fn is_cram_md5(line: &[u8]) -> bool {
    line.trim_ascii().eq_ignore_ascii_case(b"AUTH CRAM-MD5")
}

fn decode(base64: &[u8]) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(base64.trim_ascii()).ok()?;
    String::from_utf8(bytes).ok()
}

fn say(text: &'static str) -> Step {
    Step::Say(Cow::Borrowed(text))
}

/// A text with what belongs into it.
fn fill(text: &'static str, what: &str) -> Step {
    if text.contains("{}") { Step::Say(text.replace("{}", what).into()) } else { say(text) }
}

pub(crate) const LINE_TOO_LONG: &str = "500 Line too long";
/// When more events wait than the sandbox keeps; nobody has seen Mailgun say it.
pub(crate) const BUSY: &str = "451 Temporarily unavailable, try again later";

/// Where only some addresses may log in, at Brevo.
const UNAUTHORIZED_ADDRESS: &str = "525 5.7.1 Unauthorized IP address";

/// Bytes of a message that Mailgun takes.
pub(crate) const MESSAGE_SIZE: u64 = 52_428_800;
/// Recipients of one transaction; Mailgun's number is not published, its batches end here.
const RECIPIENTS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Face;

    fn answers(lines: &[&str]) -> Vec<Step> {
        answers_of(Face::Mailgun, lines)
    }

    fn answers_of(face: Face, lines: &[&str]) -> Vec<Step> {
        let login = Login::new("u@mg.example.com".into(), Secret::new("pw"));
        let (mut dialogue, memory) = (Dialogue::new(face.texts(), Arc::new(login), true), Memory::default());
        lines.iter().map(|line| dialogue.line(line.as_bytes(), &memory)).collect()
    }

    #[test]
    fn both_mechanisms_in_both_forms() {
        let (user, password) = (BASE64_STANDARD.encode("u@mg.example.com"), BASE64_STANDARD.encode("pw"));
        let plain = BASE64_STANDARD.encode("\0u@mg.example.com\0pw");
        for lines in [
            &["AUTH PLAIN", &plain][..],
            &[&format!("AUTH PLAIN {plain}")],
            &["AUTH LOGIN", &user, &password],
            &[&format!("AUTH LOGIN {user}"), &password],
        ] {
            assert_eq!(answers(lines).last(), Some(&say("235 Authentication successful")), "{lines:?}");
        }
        assert_eq!(answers(&["AUTH PLAIN", "*"])[1], say("501 Invalid response encoding"));
        assert_eq!(answers(&["AUTH LOGIN", &user, &user])[2], Step::Close("535 Authentication failed"));
    }

    #[test]
    fn some_fates_are_decided_before_the_message() {
        let login = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0u@mg.example.com\0pw"));
        let text = |step: &Step| match step {
            Step::Say(text) => text[..3].to_owned(),
            step => format!("{step:?}").chars().take_while(|c| c.is_alphabetic()).collect(),
        };
        let mail = "MAIL FROM:<a@b.c>";
        let defer = "RCPT TO:<defer-smtp@b.c>";
        let steps = answers(&[&login, mail, defer, defer, defer, "RCPT TO:<reject@b.c>", "DATA"]);
        let texts: Vec<_> = steps.iter().map(text).collect();
        assert_eq!(texts, ["235", "250", "451", "451", "250", "550", "Receive"]);
        let limit = "RCPT TO:<rate-limit@b.c>";
        let steps = answers(&[&login, mail, limit, "DATA", "DATA", mail, limit, "DATA"]);
        let texts: Vec<_> = steps.iter().map(text).collect();
        assert_eq!(texts, ["235", "250", "250", "RateLimited", "503", "250", "250", "Receive"]);
    }

    #[test]
    fn brevo_wants_a_login_first_and_may_shut_an_address_out() {
        let login = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0u@mg.example.com\0pw"));
        let (mail, recipient) = ("MAIL FROM:<a@b.c>", "RCPT TO:<unauthorized-ip@b.c>");
        let steps =
            answers_of(Face::Brevo, &[mail, &login, mail, recipient, "RSET", "NOOP", "BDAT 1", "hm", "DATA"]);
        let expected = [
            say("502 5.7.0 Please authenticate first"),
            say("235 2.0.0 Authentication succeeded"),
            say("250 2.0.0 Roger, accepting mail from <a@b.c>"),
            Step::Drop,
            say("250 2.0.0 Session reset"),
            say("250 2.0.0 I have sucessfully done nothing"),
            say("502 5.5.1 Command not implemented"),
            say("500 5.5.2 Syntax errors, command unrecognized"),
            say("502 5.5.1 Missing RCPT TO command."),
        ];
        assert_eq!(steps, expected);
        let login_elsewhere = Login::new("u".into(), Secret::new("pw"));
        login_elsewhere.shut_out();
        let (login, memory) = (Arc::new(login_elsewhere), Memory::default());
        let attempt = format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0u\0pw"));
        let said = [0; 2].map(|_| {
            Dialogue::new(Face::Brevo.texts(), login.clone(), true).line(attempt.as_bytes(), &memory)
        });
        assert_eq!(said, [say(UNAUTHORIZED_ADDRESS), say("235 2.0.0 Authentication succeeded")]);
    }

    /// The example of RFC 2195 section 2.
    #[test]
    fn a_challenge_is_signed_with_the_password() {
        let login = Login::new("tim".into(), Secret::new("tanstaaftanstaaf"));
        let challenge = "<1896.697170952@postoffice.reston.mci.net>";
        assert!(login.is_signed(challenge, "tim b913a602c7eda7a495b4e6e7334d3890"));
        for wrong in
            ["tim b913a602c7eda7a495b4e6e7334d3891", "tom b913a602c7eda7a495b4e6e7334d3890", "tim", ""]
        {
            assert!(!login.is_signed(challenge, wrong), "{wrong}");
        }
        let (mut dialogue, memory) =
            (Dialogue::new(Face::Brevo.texts(), Arc::new(login), true), Memory::default());
        let Step::Say(said) = dialogue.line(b"AUTH CRAM-MD5", &memory) else { unreachable!() };
        let challenge = decode(said.strip_prefix("334 ").unwrap().as_bytes()).unwrap();
        let mac = Hmac::<Md5>::new_from_slice(b"tanstaaftanstaaf").unwrap();
        let signed = hex(&mac.chain_update(&challenge).finalize().into_bytes());
        let response = BASE64_STANDARD.encode(format!("tim {signed}"));
        let step = dialogue.line(response.as_bytes(), &memory);
        assert_eq!(step, say("235 2.0.0 Authentication succeeded"));
        assert_eq!(answers(&["AUTH CRAM-MD5"]), [say("504 Authentication mechanism not supported")]);
    }
}
