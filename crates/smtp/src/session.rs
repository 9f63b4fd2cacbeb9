//! One client's session as a state machine: command lines in, steps out (RFC 5321 section 4.1.4).
//!
//! A state owns what is known in it. What needs the outside world is a [`Step`]; its answer comes back through one
//! of the methods named there.

use crate::command::{Command, Mechanism, Syntax};
use crate::limits::Limits;
use crate::reply::Reply;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mailtrail_mail::{DsnRecipient, Envelope, HeaderCleanup, Mailbox, Secret};
use std::net::IpAddr;
use std::sync::Arc;

/// What one listener asks of its clients.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Our name in greeting and EHLO.
    pub hostname: String,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
    /// Whether MAIL and AUTH wait for TLS.
    pub require_tls: bool,
    /// Whether clients log in.
    pub authentication: Authentication,
    /// Bytes of a message.
    pub message_size: u64,
    /// Recipients of one transaction.
    pub recipients: usize,
}

/// Whether clients log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing is taken before a login.
    Required,
    /// The address that a client connects from is enough.
    None,
}

/// Who a client turned out to be, and what that allows.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The label in trails and metrics.
    pub client: String,
    /// Patterns of allowed senders; empty allows all.
    pub senders: Vec<String>,
    /// Requests to a provider that its mail may carry in its header, as [`mailtrail_trail::provider::Provider::foreign_headers`]
    /// reads them.
    pub request_headers: Vec<String>,
    /// What is changed in the header of its mail.
    pub cleanup: HeaderCleanup,
}

/// A user name and a password, as a client sent them.
#[derive(Debug)]
pub struct Credentials {
    /// The login name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Say this and read on.
    Reply(Reply),
    /// Say this, then speak TLS; tell [`Session::secured`], then [`Session::certified`].
    StartTls(Reply),
    /// A transaction is open: say [`Reply::SenderOk`], or why not after [`Session::take_envelope`].
    Open {
        /// Bytes that the message has, as far as the client said so (RFC 1870 section 6).
        size: Option<u64>,
    },
    /// This recipient was taken: say [`Reply::RecipientOk`], or why not after [`Session::refuse_recipient`].
    Recipient(Mailbox),
    /// Check these; tell [`Session::logged_in`] or say [`Reply::AuthFailed`].
    Authenticate(Credentials),
    /// Say this, then read a message for [`Session::take_envelope`].
    Receive(Reply),
    /// Read a chunk: a part of the message, after the last for [`Session::take_envelope`]; or read and drop it, and
    /// say why.
    Chunk {
        /// Bytes that follow.
        size: u64,
        /// Whether the message ends with them.
        last: bool,
        /// Why they are dropped.
        refused: Option<Reply>,
    },
    /// A trusted proxy says whose connection this is; tell [`Session::introduced`].
    Introduce(Introduction),
    /// Say this and close.
    Close(Reply),
}

/// What a trusted proxy says about its client (XCLIENT); what it does not know is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Where the client is.
    pub address: Option<IpAddr>,
    /// The user that the proxy has logged in.
    pub user: Option<String>,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    rules: Arc<Rules>,
    secured: bool,
    account: Option<Arc<Account>>,
    /// The user whose certificate the client showed.
    certified: Option<Arc<Account>>,
    greeting: Option<Greeting>,
    phase: Phase,
    /// Whether the peer may introduce others. Once it did, and the client's EHLO follows, it may not any more: from
    /// there on it may pass through whatever the client says.
    trusted: bool,
    introduced: bool,
    errors: u32,
    /// Commands since the last message.
    commands: u32,
}

/// How the client introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The name it gave.
    pub name: String,
    /// Whether by EHLO.
    pub extended: bool,
}

#[derive(Debug)]
enum Phase {
    Idle,
    LoggingIn(Login),
    Mail(Envelope),
    /// Within a message that comes in chunks.
    Chunks(Envelope),
}

#[derive(Debug)]
enum Login {
    Plain,
    User,
    Password { user: String },
    External,
}

impl Session {
    /// A new session; `secured` where TLS came first, `trusted` where the peer may introduce others.
    pub fn new(rules: Arc<Rules>, secured: bool, trusted: bool) -> Self {
        Self {
            rules,
            secured,
            account: None,
            certified: None,
            greeting: None,
            phase: Phase::Idle,
            trusted,
            introduced: false,
            errors: 0,
            commands: 0,
        }
    }

    /// What to say first.
    pub fn greeting(&self) -> Reply {
        Reply::Ready { hostname: self.rules.hostname.clone() }
    }

    /// Whether a message is on its way in, in chunks.
    pub fn is_in_chunks(&self) -> bool {
        matches!(self.phase, Phase::Chunks(_))
    }

    /// Whether a mail transaction or a login is open.
    pub fn is_in_transaction(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// The user, once logged in: with AUTH, or else by its certificate.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref().or(self.certified.as_ref())
    }

    /// The name the client gave, empty before EHLO or HELO.
    pub fn client_name(&self) -> &str {
        self.greeting.as_ref().map_or("", |greeting| &greeting.name)
    }

    /// How the mail came, as a Received header says it (RFC 3848).
    pub fn protocol(&self) -> &'static str {
        let extended = self.greeting.as_ref().is_some_and(|greeting| greeting.extended);
        match (extended, self.secured, self.account().is_some()) {
            (false, ..) => "SMTP",
            (true, false, false) => "ESMTP",
            (true, false, true) => "ESMTPA",
            (true, true, false) => "ESMTPS",
            (true, true, true) => "ESMTPSA",
        }
    }

    /// TLS is on: everything said before is forgotten (RFC 3207 section 4.2).
    pub fn secured(&mut self) {
        let fresh = Self::new(self.rules.clone(), true, self.trusted && !self.introduced);
        *self = Self { errors: self.errors, commands: self.commands, ..fresh };
    }

    /// Whose connection it is has been taken note of; it begins anew.
    pub fn introduced(&mut self, account: Option<Arc<Account>>) -> Reply {
        // What the proxy itself is logged in as is not its client's; what it said before, in parts, is.
        let account = account.or_else(|| self.account.take().filter(|_| self.introduced));
        let fresh = Self::new(self.rules.clone(), self.secured, self.trusted);
        *self = Self { account, introduced: true, errors: self.errors, commands: self.commands, ..fresh };
        self.greeting()
    }

    /// The client showed this user's certificate. That logs it in; AUTH may still make it somebody else.
    pub fn certified(&mut self, account: Arc<Account>) {
        self.certified = Some(account);
    }

    /// The credentials were right.
    pub fn logged_in(&mut self, account: Arc<Account>) -> Reply {
        self.account = Some(account);
        Reply::LoggedIn
    }

    /// A message was kept: what came before it is forgiven, as long sessions have some errors.
    pub fn kept(&mut self) {
        (self.errors, self.commands) = (0, 0);
    }

    /// The recipient that was taken last is not to be one.
    pub fn refuse_recipient(&mut self) {
        if let Phase::Mail(envelope) = &mut self.phase {
            envelope.recipients.pop();
            let left = envelope.recipients.len();
            envelope.dsn.recipients.retain(|(place, _)| usize::from(*place) < left);
        }
    }

    /// The envelope of the message that was read; the transaction is over.
    pub fn take_envelope(&mut self) -> Option<Envelope> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Mail(mut envelope) | Phase::Chunks(mut envelope) => {
                // Addresses need it whether the client says so or not.
                let mut addresses = envelope.sender.iter().chain(&envelope.recipients);
                envelope.smtputf8 |= !addresses.all(Mailbox::is_ascii);
                Some(envelope)
            }
            _ => None,
        }
    }

    /// Takes one line without its line end.
    pub fn line(&mut self, line: &[u8]) -> Step {
        self.commands += 1;
        if self.commands > Limits::COMMANDS {
            return Step::Close(Reply::TooManyCommands);
        }
        let step = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::LoggingIn(login) => self.login(login, line),
            phase => {
                self.phase = phase;
                let rules = self.rules.clone();
                match Command::parse_at(line, Some(&rules.hostname)) {
                    Ok(command) => self.command(command),
                    Err(Syntax::Foreign) => Step::Close(Reply::NotSmtp),
                    Err(syntax) => Step::Reply(self.syntax(syntax)),
                }
            }
        };
        match step {
            Step::Reply(reply) => self.count(reply),
            step => step,
        }
    }

    /// A line was longer than [`Limits::COMMAND_LINE`]: no command, and within a login its end (RFC 4954 section 4).
    pub fn line_too_long(&mut self) -> Step {
        if matches!(self.phase, Phase::LoggingIn(_)) {
            self.phase = Phase::Idle;
        }
        self.count(Reply::LineTooLong)
    }

    /// Says a refusal that was found outside, and closes after too many.
    pub fn count(&mut self, reply: Reply) -> Step {
        // Too many recipients is no error of the client's, it sends to the rest again; nor is one that wants no mail.
        let blameless = matches!(reply, Reply::TooManyRecipients | Reply::Suppressed(_));
        self.errors += u32::from(reply.is_refusal() && !blameless);
        if self.errors > Limits::ERRORS { Step::Close(Reply::TooManyErrors) } else { Step::Reply(reply) }
    }

    fn command(&mut self, command: Command<'_>) -> Step {
        match command {
            Command::Ehlo(name) => Step::Reply(self.hello(name, true)),
            Command::Helo(name) => Step::Reply(self.hello(name, false)),
            Command::StartTls if !self.rules.starttls || self.secured => Step::Reply(Reply::TlsNotOffered),
            Command::StartTls => Step::StartTls(Reply::StartTls),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Mail { envelope, size } => {
                self.mail(envelope, size).map_or_else(Step::Reply, |()| Step::Open { size })
            }
            Command::Rcpt { recipient, dsn } => {
                self.rcpt(recipient, dsn).map_or_else(Step::Reply, Step::Recipient)
            }
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.chunk(size, last),
            Command::XClient(attributes) => self.introduce(attributes),
            Command::Rset => {
                self.phase = Phase::Idle;
                Step::Reply(Reply::Ok)
            }
            Command::Noop => Step::Reply(Reply::Ok),
            Command::Vrfy => Step::Reply(Reply::CannotVerify),
            Command::NotImplemented => Step::Reply(Reply::NotImplemented),
            Command::Help => Step::Reply(Reply::Help),
            Command::Quit => Step::Close(Reply::Bye),
        }
    }

    fn syntax(&self, syntax: Syntax) -> Reply {
        match syntax {
            Syntax::Unknown | Syntax::Foreign => Reply::UnknownCommand,
            Syntax::Arguments(text) => Reply::BadParameters(text),
            Syntax::Sender => Reply::BadSender,
            Syntax::Recipient => Reply::BadRecipient,
            Syntax::Parameter => Reply::UnknownParameter,
            Syntax::Mechanism => Reply::UnknownMechanism,
        }
    }

    fn hello(&mut self, name: String, extended: bool) -> Reply {
        self.phase = Phase::Idle;
        self.trusted &= !self.introduced;
        self.greeting = Some(Greeting { name, extended });
        let extensions = if extended { self.extensions() } else { Vec::new() };
        Reply::Hello { hostname: self.rules.hostname.clone(), extensions }
    }

    fn extensions(&self) -> Vec<String> {
        let mut extensions = vec!["PIPELINING".to_owned(), format!("SIZE {}", self.rules.message_size)];
        if self.rules.starttls && !self.secured {
            extensions.push("STARTTLS".to_owned());
        }
        if self.may_log_in() {
            let external = if self.certified.is_some() { " EXTERNAL" } else { "" };
            extensions.push(format!("AUTH PLAIN LOGIN{external}"));
        }
        extensions
            .extend(["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN"].map(str::to_owned));
        extensions.push(format!("LIMITS RCPTMAX={}", self.rules.recipients));
        if self.trusted {
            extensions.push("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT".to_owned());
        }
        extensions
    }

    fn may_log_in(&self) -> bool {
        self.rules.authentication == Authentication::Required && (self.secured || !self.rules.require_tls)
    }

    fn auth(&mut self, mechanism: Mechanism, initial: Option<&str>) -> Step {
        let refusal = if self.rules.authentication == Authentication::None {
            Some(Reply::AuthNotOffered)
        } else if !self.may_log_in() {
            Some(Reply::EncryptionRequired)
        } else if self.greeting.is_none() {
            Some(Reply::BadSequence("Say EHLO first"))
        } else if self.account.is_some() {
            Some(Reply::BadSequence("You are logged in already"))
        } else if self.is_in_transaction() {
            Some(Reply::BadSequence("Not within a mail transaction"))
        } else if mechanism == Mechanism::External && self.certified.is_none() {
            Some(Reply::UnknownMechanism)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Step::Reply(refusal);
        }
        let login = match mechanism {
            Mechanism::Plain => Login::Plain,
            Mechanism::Login => Login::User,
            Mechanism::External => Login::External,
        };
        match initial {
            // RFC 4954 section 4: "=" is an initial response of no bytes.
            Some("=") => self.login(login, b""),
            Some(initial) => self.login(login, initial.as_bytes()),
            None => {
                let prompt = if mechanism == Mechanism::Login { PROMPT_USER } else { "" };
                self.phase = Phase::LoggingIn(login);
                Step::Reply(Reply::Continue(prompt))
            }
        }
    }

    fn login(&mut self, login: Login, line: &[u8]) -> Step {
        if line == b"*" {
            return Step::Reply(Reply::AuthCancelled);
        }
        let decoded =
            BASE64_STANDARD.decode(line.trim_ascii()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = decoded else { return Step::Reply(Reply::AuthMalformed) };
        match login {
            Login::User => {
                self.phase = Phase::LoggingIn(Login::Password { user: text });
                Step::Reply(Reply::Continue(PROMPT_PASSWORD))
            }
            // RFC 4422 appendix A: nothing, or the identity that the certificate stands for.
            Login::External => match self.certified.clone() {
                Some(account) if text.is_empty() || text == account.name => {
                    Step::Reply(self.logged_in(account))
                }
                _ => Step::Reply(Reply::AuthMalformed),
            },
            Login::Password { user } => Step::Authenticate(Credentials { user, password: Secret::new(text) }),
            Login::Plain => match text.split('\0').collect::<Vec<_>>()[..] {
                // An authorisation identity other than the user would be somebody else (RFC 4616 section 2).
                [identity, user, password] if identity.is_empty() || identity == user => {
                    Step::Authenticate(Credentials { user: user.to_owned(), password: Secret::new(password) })
                }
                _ => Step::Reply(Reply::AuthMalformed),
            },
        }
    }

    fn mail(&mut self, envelope: Envelope, size: Option<u64>) -> Result<(), Reply> {
        if self.is_in_transaction() {
            return Err(Reply::BadSequence("A transaction is open: RSET first"));
        }
        if self.rules.require_tls && !self.secured {
            return Err(Reply::TlsRequired);
        }
        if self.greeting.is_none() {
            return Err(Reply::BadSequence("Say EHLO first"));
        }
        if self.rules.authentication == Authentication::Required && self.account().is_none() {
            return Err(Reply::AuthRequired);
        }
        if size.is_some_and(|size| size > self.rules.message_size) {
            return Err(Reply::TooLarge { limit: self.rules.message_size });
        }
        if let Some(sender) = &envelope.sender {
            self.check_sender(sender)?;
        }
        self.phase = Phase::Mail(envelope);
        Ok(())
    }

    fn check_sender(&self, sender: &Mailbox) -> Result<(), Reply> {
        let senders = self.account().map_or(&[][..], |account| &account.senders);
        let allowed = senders.is_empty() || senders.iter().any(|pattern| sender.matches(pattern));
        if allowed { Ok(()) } else { Err(Reply::SenderRefused) }
    }

    fn rcpt(&mut self, recipient: Mailbox, dsn: DsnRecipient) -> Result<Mailbox, Reply> {
        match &mut self.phase {
            Phase::Mail(envelope) if envelope.recipients.len() == self.rules.recipients => {
                Err(Reply::TooManyRecipients)
            }
            Phase::Mail(envelope) => {
                if dsn != DsnRecipient::default() {
                    let place = u16::try_from(envelope.recipients.len()).unwrap_or(u16::MAX);
                    envelope.dsn.recipients.push((place, dsn));
                }
                envelope.recipients.push(recipient.clone());
                Ok(recipient)
            }
            Phase::Chunks(_) => Err(Reply::BadSequence(CHUNKS_BEGUN)),
            _ => Err(Reply::BadSequence("MAIL FROM first")),
        }
    }

    fn data(&mut self) -> Step {
        match &self.phase {
            Phase::Mail(envelope) if envelope.recipients.is_empty() => Step::Reply(NO_RECIPIENT),
            Phase::Mail(_) => Step::Receive(Reply::StartData),
            Phase::Chunks(_) => Step::Reply(Reply::BadSequence(CHUNKS_BEGUN)),
            _ => Step::Reply(Reply::BadSequence("MAIL FROM first")),
        }
    }

    /// What follows a BDAT must be read even where it is refused: the client does not wait for our reply.
    fn chunk(&mut self, size: u64, last: bool) -> Step {
        let refused = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Mail(envelope) if envelope.recipients.is_empty() => {
                self.phase = Phase::Mail(envelope);
                Some(NO_RECIPIENT)
            }
            Phase::Mail(envelope) | Phase::Chunks(envelope) => {
                self.phase = Phase::Chunks(envelope);
                None
            }
            _ => Some(Reply::BadSequence("MAIL FROM first")),
        };
        Step::Chunk { size, last, refused }
    }

    fn introduce(&self, attributes: &str) -> Step {
        if !self.trusted {
            return Step::Reply(Reply::NotTrusted);
        }
        if self.is_in_transaction() {
            return Step::Reply(Reply::BadSequence("Not within a mail transaction"));
        }
        Introduction::parse(attributes)
            .map_or(Step::Reply(Reply::BadParameters("Write XCLIENT and NAME=value pairs")), Step::Introduce)
    }
}

impl Introduction {
    /// `ADDR=192.0.2.1 LOGIN=odoo`: names without regard to case, values in xtext. The names that say nothing to us
    /// are read over; an unknown one is a fault.
    fn parse(attributes: &str) -> Option<Self> {
        let mut introduction = Self::default();
        let mut pairs = attributes.split_ascii_whitespace().peekable();
        pairs.peek()?;
        for pair in pairs {
            let (name, value) = pair.split_once('=')?;
            let value = Some(from_xtext(value)?).filter(|value| !UNKNOWN.contains(&value.as_str()));
            match name.to_ascii_uppercase().as_str() {
                "ADDR" => {
                    introduction.address = match value {
                        Some(value) => Some(address(&value)?),
                        None => None,
                    }
                }
                "LOGIN" => introduction.user = value,
                "NAME" | "PORT" | "PROTO" | "HELO" | "DESTADDR" | "DESTPORT" => {}
                _ => return None,
            }
        }
        Some(introduction)
    }
}

fn address(text: &str) -> Option<IpAddr> {
    let v6 = text.split_at_checked(5).filter(|(head, _)| head.eq_ignore_ascii_case("IPV6:"));
    v6.map_or(text, |(_, address)| address).parse().ok()
}

/// The inverse of xtext (RFC 3461 section 4).
fn from_xtext(text: &str) -> Option<String> {
    let mut pieces = text.split('+');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

/// What a proxy says where it does not know.
const UNKNOWN: [&str; 2] = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];
const NO_RECIPIENT: Reply = Reply::BadSequence("No recipient was taken: RCPT TO first");
const CHUNKS_BEGUN: &str = "The message has begun: end it with BDAT LAST";
/// `Username:`, as clients expect it.
const PROMPT_USER: &str = "VXNlcm5hbWU6";
/// `Password:`.
const PROMPT_PASSWORD: &str = "UGFzc3dvcmQ6";

#[cfg(test)]
mod tests {
    use super::*;

    fn session(starttls: bool, authentication: Authentication) -> Session {
        let rules = Rules {
            hostname: "relay.example.com".into(),
            starttls,
            require_tls: starttls,
            authentication,
            message_size: 1000,
            recipients: 2,
        };
        Session::new(Arc::new(rules), false, false)
    }

    fn code(session: &mut Session, line: &str) -> u16 {
        match session.line(line.as_bytes()) {
            Step::Reply(reply) | Step::StartTls(reply) | Step::Receive(reply) | Step::Close(reply) => {
                reply.code()
            }
            Step::Chunk { refused, .. } => refused.map_or(0, |reply| reply.code()),
            Step::Open { .. } => Reply::SenderOk.code(),
            Step::Recipient(_) => Reply::RecipientOk.code(),
            Step::Authenticate(_) | Step::Introduce(_) => 0,
        }
    }

    #[test]
    fn nothing_is_taken_before_tls_and_login() {
        let mut session = session(true, Authentication::Required);
        for (line, expected) in [
            ("MAIL FROM:<a@b.c>", 530),
            ("EHLO x", 250),
            ("AUTH PLAIN AGEAYg==", 538),
            ("MAIL FROM:<a@b.c>", 530),
            ("RCPT TO:<a@b.c>", 503),
            ("DATA", 503),
            ("STARTTLS", 220),
        ] {
            assert_eq!(code(&mut session, line), expected, "{line}");
        }
        session.secured();
        for (line, expected) in [
            ("STARTTLS", 503),
            ("AUTH PLAIN AGEAYg==", 503),
            ("EHLO x", 250),
            ("MAIL FROM:<a@b.c>", 530),
            ("AUTH LOGIN", 334),
            ("*", 501),
            ("AUTH LOGIN YQ==", 334),
            ("!", 501),
            ("AUTH PLAIN Zm9vAGEAYg==", 501),
            ("AUTH PLAIN", 334),
            ("AGEAYg==", 0),
        ] {
            assert_eq!(code(&mut session, line), expected, "{line}");
        }
        let account = Account {
            name: "a".into(),
            client: "a".into(),
            senders: vec!["*@b.c".into()],
            request_headers: Vec::new(),
            cleanup: HeaderCleanup::default(),
        };
        assert_eq!(session.logged_in(Arc::new(account)).code(), 235);
        assert_eq!(session.protocol(), "ESMTPSA");
        for (line, expected) in [
            ("AUTH PLAIN AGEAYg==", 503),
            ("MAIL FROM:<a@b.d>", 553),
            ("MAIL FROM:<a@b.c> SIZE=1001", 552),
            ("MAIL FROM:<a@b.c>", 250),
            ("MAIL FROM:<a@b.c>", 503),
            ("DATA", 503),
            ("RCPT TO:<ji\u{7}ří@b.c>", 553),
            ("RCPT TO:<a@b.c>", 250),
            ("RCPT TO:<b@b.c>", 250),
            ("RCPT TO:<c@b.c>", 452),
            ("DATA", 354),
        ] {
            assert_eq!(code(&mut session, line), expected, "{line}");
        }
        assert_eq!(session.take_envelope().map(|e| e.recipients.len()), Some(2));
        assert_eq!(code(&mut session, "DATA"), 503);
    }

    #[test]
    fn a_refused_recipient_leaves_nothing_behind() {
        let mut session = session(false, Authentication::None);
        for line in [
            "EHLO x",
            "MAIL FROM:<a@b.c>",
            "RCPT TO:<a@b.c> NOTIFY=NEVER",
            "RCPT TO:<b@b.c> ORCPT=rfc822;x@b.c",
        ] {
            assert_eq!(code(&mut session, line), 250, "{line}");
        }
        session.refuse_recipient();
        assert_eq!(code(&mut session, "RCPT TO:<c@b.c>"), 250, "its place is free again");
        let envelope = session.take_envelope().unwrap();
        let recipients: Vec<_> = envelope.recipients.iter().map(Mailbox::as_str).collect();
        assert_eq!(recipients, ["a@b.c", "c@b.c"]);
        assert!(envelope.dsn.recipient(0).is_some() && envelope.dsn.recipient(1).is_none());
    }

    fn account(name: &str) -> Arc<Account> {
        let (name, client) = (name.to_owned(), name.to_owned());
        Arc::new(Account {
            name,
            client,
            senders: Vec::new(),
            request_headers: Vec::new(),
            cleanup: HeaderCleanup::default(),
        })
    }

    #[test]
    fn a_certificate_logs_in_by_itself_and_with_external() {
        let rules = Rules { starttls: true, ..(*session(true, Authentication::Required).rules).clone() };
        let secured = || Session::new(Arc::new(rules.clone()), true, false);
        let mut stranger = secured();
        for (line, expected) in [("EHLO x", 250), ("AUTH EXTERNAL =", 504), ("MAIL FROM:<a@b.c>", 530)] {
            assert_eq!(code(&mut stranger, line), expected, "{line}");
        }
        let mut silent = secured();
        silent.certified(account("shop"));
        for (line, expected) in [("EHLO x", 250), ("MAIL FROM:<a@b.c>", 250)] {
            assert_eq!(code(&mut silent, line), expected, "{line}");
        }
        assert_eq!((silent.account().unwrap().name.as_str(), silent.protocol()), ("shop", "ESMTPSA"));
        for lines in [&["AUTH EXTERNAL ="][..], &["AUTH EXTERNAL c2hvcA=="], &["AUTH EXTERNAL", ""]] {
            let mut polite = secured();
            polite.certified(account("shop"));
            assert_eq!(code(&mut polite, "EHLO x"), 250);
            assert_eq!(code(&mut polite, "AUTH EXTERNAL b2Rvbw=="), 501, "somebody else");
            let codes: Vec<_> = lines.iter().map(|line| code(&mut polite, line)).collect();
            assert_eq!(codes.last(), Some(&235), "{lines:?}");
            assert_eq!(code(&mut polite, "AUTH EXTERNAL ="), 503);
        }
        silent.certified(account("shop"));
        assert_eq!(code(&mut silent, "RSET"), 250);
        assert_eq!(code(&mut silent, "AUTH PLAIN AGEAYg=="), 0, "AUTH is still possible");
        silent.logged_in(account("odoo"));
        assert_eq!(silent.account().unwrap().name, "odoo");
    }

    #[test]
    fn chunks_follow_the_envelope_and_nothing_else() {
        let mut session = session(false, Authentication::None);
        for (line, expected) in [
            ("EHLO x", 250),
            ("BDAT 3", 503),
            ("MAIL FROM:<a@b.c>", 250),
            ("BDAT 3", 503),
            ("RCPT TO:<a@b.c>", 250),
            ("BDAT 3", 0),
            ("RCPT TO:<a@b.c>", 503),
            ("DATA", 503),
            ("MAIL FROM:<a@b.c>", 503),
            ("STARTTLS", 503),
            ("NOOP", 250),
            ("BDAT 0 LAST", 0),
        ] {
            assert_eq!(code(&mut session, line), expected, "{line}");
        }
        assert!(session.is_in_chunks() && session.take_envelope().is_some() && !session.is_in_transaction());
        for line in ["MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>", "BDAT 3", "RSET"] {
            code(&mut session, line);
        }
        assert!(!session.is_in_chunks());
        assert_eq!(code(&mut session, "BDAT 3 LAST"), 503);
    }

    #[test]
    fn only_trusted_proxies_introduce_others() {
        let mut session = session(false, Authentication::None);
        assert_eq!(code(&mut session, "XCLIENT ADDR=192.0.2.1"), 550);
        session.trusted = true;
        for (attributes, address, user) in [
            ("ADDR=192.0.2.1 PORT=1 NAME=[UNAVAILABLE] PROTO=ESMTP", Some("192.0.2.1"), None),
            ("addr=IPV6:2001:db8::1 LOGIN=o+64oo", Some("2001:db8::1"), Some("odoo")),
            ("ADDR=[TEMPUNAVAIL] LOGIN=[unavailable]", None, Some("[unavailable]")),
        ] {
            let step = session.line(format!("XCLIENT {attributes}").as_bytes());
            let expected = Introduction {
                address: address.map(|address| address.parse().unwrap()),
                user: user.map(str::to_owned),
            };
            assert!(matches!(step, Step::Introduce(found) if found == expected), "{attributes}");
        }
        for attributes in ["", "ADDR", "ADDR=a", "LOGIN=a+0Ab", "LOGIN=a+4", "COLOUR=red"] {
            assert_eq!(code(&mut session, &format!("XCLIENT {attributes}")), 501, "{attributes}");
        }
        assert_eq!(code(&mut session, "MAIL FROM:<a@b.c>"), 503);
        code(&mut session, "EHLO x");
        code(&mut session, "MAIL FROM:<a@b.c>");
        assert_eq!(code(&mut session, "XCLIENT ADDR=192.0.2.1"), 503);
    }

    #[test]
    fn too_many_commands_without_a_message_end_a_session() {
        let mut session = session(false, Authentication::None);
        for _ in 0..Limits::COMMANDS {
            assert_eq!(code(&mut session, "NOOP"), 250);
        }
        session.kept();
        assert_eq!(code(&mut session, "NOOP"), 250);
        session.commands = Limits::COMMANDS;
        assert!(matches!(session.line(b"NOOP"), Step::Close(Reply::TooManyCommands)));
    }

    #[test]
    fn too_many_errors_end_a_session() {
        let mut session = session(false, Authentication::None);
        for _ in 0..Limits::ERRORS {
            assert_eq!(code(&mut session, "HELLO"), 500);
        }
        assert!(matches!(session.line(b"HELLO"), Step::Close(Reply::TooManyErrors)));
    }
}
