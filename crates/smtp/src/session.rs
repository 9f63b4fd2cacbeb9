//! One client's session as a state machine: command lines in, actions out (RFC 5321 section 4.1.4).
//!
//! Each state owns what is known in it. Work that needs I/O is an [`Action`]; its result is passed to the method named
//! there.

use crate::command::{Command, CommandError, Mechanism};
use crate::limits::Limits;
use crate::reply::Reply;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mailtrail_mail::{DsnRecipient, Envelope, HeaderCleanup, Mailbox, Secret};
use std::net::IpAddr;
use std::sync::Arc;

/// Requirements of a listener.
#[derive(Clone, Debug)]
pub struct SessionPolicy {
    /// Host name of the relay in greeting and EHLO.
    pub hostname: String,
    /// Whether STARTTLS is offered.
    pub offer_starttls: bool,
    /// Whether MAIL and AUTH wait for TLS.
    pub require_tls: bool,
    /// Whether clients log in.
    pub authentication: Authentication,
    /// Bytes of a message.
    pub max_message_bytes: u64,
    /// Recipients of one transaction.
    pub max_recipients: usize,
}

/// Whether clients log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing is taken before a login.
    Required,
    /// The address that a client connects from is enough.
    None,
}

/// An authenticated client and its permissions.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    /// Name of the login.
    pub name: String,
    /// The label in trails and metrics.
    pub client_label: String,
    /// Patterns of allowed senders; empty allows all.
    pub sender_patterns: Vec<String>,
    /// Requests to a provider that its mail may carry in its header, as `foreign_headers`
    /// reads them.
    pub allowed_request_headers: Vec<String>,
    /// Header cleanup of its messages.
    pub header_cleanup: HeaderCleanup,
}

/// A user name and a password, as a client sent them.
#[derive(Debug)]
pub struct Credentials {
    /// Name of the login.
    pub user: String,
    /// Password to verify.
    pub password: Secret,
}

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Send a reply and read on.
    Reply(Reply),
    /// Send a reply, then start TLS; call `on_tls`, then `on_client_certificate`.
    StartTls(Reply),
    /// A transaction is open: send [`Reply::SenderOk`], or a rejection after [`Session::take_envelope`].
    OpenTransaction {
        /// Declared size of the message in bytes (RFC 1870 section 6).
        size: Option<u64>,
    },
    /// A recipient was accepted: send [`Reply::RecipientOk`], or a rejection after `reject_last_recipient`.
    CheckRecipient(Mailbox),
    /// Verify the credentials; call `on_authenticated` or send [`Reply::AuthFailed`].
    Authenticate(Credentials),
    /// Send a reply, then receive a message for [`Session::take_envelope`].
    ReceiveData(Reply),
    /// Receive a chunk of the message, the last one for [`Session::take_envelope`]; or discard it and send the
    /// rejection.
    ReceiveChunk {
        /// Size of the chunk in bytes.
        size: u64,
        /// Whether the message ends with them.
        last: bool,
        /// Reply to a discarded chunk.
        rejection: Option<Reply>,
    },
    /// A trusted proxy has named its client; call `apply_xclient`.
    ApplyXclient(XClient),
    /// Send a reply and close.
    Close(Reply),
}

/// Attributes of a proxy's client (XCLIENT); unknown ones are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XClient {
    /// Where the client is.
    pub address: Option<IpAddr>,
    /// The user that the proxy has logged in.
    pub user: Option<String>,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    policy: Arc<SessionPolicy>,
    tls_active: bool,
    account: Option<Arc<Account>>,
    /// Account of the client certificate.
    certificate_account: Option<Arc<Account>>,
    greeting: Option<Greeting>,
    phase: SessionState,
    /// Whether the peer may use XCLIENT. Not after an XCLIENT and the EHLO of its client: from there on the proxy may
    /// forward the client's commands.
    xclient_allowed: bool,
    xclient_applied: bool,
    error_count: u32,
    /// Commands since the last message.
    idle_commands: u32,
}

/// How the client introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The name it gave.
    pub client_name: String,
    /// Whether by EHLO.
    pub is_ehlo: bool,
}

#[derive(Debug)]
enum SessionState {
    Idle,
    Authenticating(AuthExchange),
    Transaction(Envelope),
    /// Within a message that comes in chunks.
    ReceivingChunks(Envelope),
}

#[derive(Debug)]
enum AuthExchange {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    External,
}

impl Session {
    /// A new session; `secured` where TLS came first, `trusted` where the peer may introduce others.
    pub fn new(policy: Arc<SessionPolicy>, tls_active: bool, xclient_allowed: bool) -> Self {
        Self {
            policy,
            tls_active,
            account: None,
            certificate_account: None,
            greeting: None,
            phase: SessionState::Idle,
            xclient_allowed,
            xclient_applied: false,
            error_count: 0,
            idle_commands: 0,
        }
    }

    /// Returns the greeting.
    pub fn greeting_reply(&self) -> Reply {
        Reply::Greeting { hostname: self.policy.hostname.clone() }
    }

    /// Whether a message is on its way in, in chunks.
    pub fn is_receiving_chunks(&self) -> bool {
        matches!(self.phase, SessionState::ReceivingChunks(_))
    }

    /// Whether a mail transaction or a login is open.
    pub fn is_in_transaction(&self) -> bool {
        !matches!(self.phase, SessionState::Idle)
    }

    /// The user, once logged in: with AUTH, or else by its certificate.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref().or(self.certificate_account.as_ref())
    }

    /// The name the client gave, empty before EHLO or HELO.
    pub fn client_name(&self) -> &str {
        self.greeting.as_ref().map_or("", |greeting| &greeting.client_name)
    }

    /// Returns the protocol for the Received field (RFC 3848).
    pub fn protocol(&self) -> &'static str {
        let extended = self.greeting.as_ref().is_some_and(|greeting| greeting.is_ehlo);
        match (extended, self.tls_active, self.account().is_some()) {
            (false, ..) => "SMTP",
            (true, false, false) => "ESMTP",
            (true, false, true) => "ESMTPA",
            (true, true, false) => "ESMTPS",
            (true, true, true) => "ESMTPSA",
        }
    }

    /// TLS has started: the session is reset (RFC 3207 section 4.2).
    pub fn on_tls(&mut self) {
        let fresh = Self::new(self.policy.clone(), true, self.xclient_allowed && !self.xclient_applied);
        *self = Self { error_count: self.error_count, idle_commands: self.idle_commands, ..fresh };
    }

    /// The client's address has been applied: the session is reset.
    pub fn apply_xclient(&mut self, account: Option<Arc<Account>>) -> Reply {
        // The proxy's own login does not apply to its client, but a login in an earlier XCLIENT does.
        let account = account.or_else(|| self.account.take().filter(|_| self.xclient_applied));
        let fresh = Self::new(self.policy.clone(), self.tls_active, self.xclient_allowed);
        *self = Self {
            account,
            xclient_applied: true,
            error_count: self.error_count,
            idle_commands: self.idle_commands,
            ..fresh
        };
        self.greeting_reply()
    }

    /// The client presented the certificate of this account, which logs it in. AUTH may still select another account.
    pub fn on_client_certificate(&mut self, account: Arc<Account>) {
        self.certificate_account = Some(account);
    }

    /// The credentials were right.
    pub fn on_authenticated(&mut self, account: Arc<Account>) -> Reply {
        self.account = Some(account);
        Reply::AuthSucceeded
    }

    /// A message was accepted: earlier errors no longer count, because long sessions have some.
    pub fn on_message_accepted(&mut self) {
        (self.error_count, self.idle_commands) = (0, 0);
    }

    /// The recipient that was taken last is not to be one.
    pub fn reject_last_recipient(&mut self) {
        if let SessionState::Transaction(envelope) = &mut self.phase {
            envelope.recipients.pop();
            let left = envelope.recipients.len();
            envelope.dsn.recipients.retain(|(place, _)| usize::from(*place) < left);
        }
    }

    /// The envelope of the message that was read; the transaction is over.
    pub fn take_envelope(&mut self) -> Option<Envelope> {
        match std::mem::replace(&mut self.phase, SessionState::Idle) {
            SessionState::Transaction(mut envelope) | SessionState::ReceivingChunks(mut envelope) => {
                // Internationalized addresses require it, whether or not the client declares it.
                let mut addresses = envelope.sender.iter().chain(&envelope.recipients);
                envelope.smtputf8 |= !addresses.all(Mailbox::is_ascii);
                Some(envelope)
            }
            _ => None,
        }
    }

    /// Takes one line without its line end.
    pub fn on_line(&mut self, line: &[u8]) -> Action {
        self.idle_commands += 1;
        if self.idle_commands > Limits::MAX_IDLE_COMMANDS {
            return Action::Close(Reply::TooManyCommands);
        }
        let step = match std::mem::replace(&mut self.phase, SessionState::Idle) {
            SessionState::Authenticating(login) => self.continue_auth(login, line),
            phase => {
                self.phase = phase;
                let rules = self.policy.clone();
                match Command::parse_with_domain(line, Some(&rules.hostname)) {
                    Ok(command) => self.handle_command(command),
                    Err(CommandError::ForeignProtocol) => Action::Close(Reply::NotSmtp),
                    Err(syntax) => Action::Reply(self.error_reply(syntax)),
                }
            }
        };
        match step {
            Action::Reply(reply) => self.reply_counted(reply),
            step => step,
        }
    }

    /// A line was longer than [`Limits::MAX_COMMAND_LINE_BYTES`]: no command, and within a login its end (RFC 4954 section 4).
    pub fn on_line_too_long(&mut self) -> Action {
        if matches!(self.phase, SessionState::Authenticating(_)) {
            self.phase = SessionState::Idle;
        }
        self.reply_counted(Reply::LineTooLong)
    }

    /// Sends a rejection that was decided outside the session, and closes after too many.
    pub fn reply_counted(&mut self, reply: Reply) -> Action {
        // Too many recipients is no client error, because clients send to the rest again; nor is a suppressed
        // recipient.
        let blameless = matches!(reply, Reply::TooManyRecipients | Reply::RecipientSuppressed(_));
        self.error_count += u32::from(reply.is_rejection() && !blameless);
        if self.error_count > Limits::MAX_ERRORS {
            Action::Close(Reply::TooManyErrors)
        } else {
            Action::Reply(reply)
        }
    }

    fn handle_command(&mut self, command: Command<'_>) -> Action {
        match command {
            Command::Ehlo(name) => Action::Reply(self.handle_hello(name, true)),
            Command::Helo(name) => Action::Reply(self.handle_hello(name, false)),
            Command::StartTls if !self.policy.offer_starttls || self.tls_active => {
                Action::Reply(Reply::TlsNotOffered)
            }
            Command::StartTls => Action::StartTls(Reply::StartTls),
            Command::Auth { mechanism, initial_response } => self.handle_auth(mechanism, initial_response),
            Command::Mail { envelope, size } => self
                .handle_mail(envelope, size)
                .map_or_else(Action::Reply, |()| Action::OpenTransaction { size }),
            Command::Rcpt { recipient, dsn } => {
                self.handle_rcpt(recipient, dsn).map_or_else(Action::Reply, Action::CheckRecipient)
            }
            Command::Data => self.handle_data(),
            Command::Bdat { size, last } => self.handle_bdat(size, last),
            Command::XClient(attributes) => self.handle_xclient(attributes),
            Command::Rset => {
                self.phase = SessionState::Idle;
                Action::Reply(Reply::Ok)
            }
            Command::Noop => Action::Reply(Reply::Ok),
            Command::Vrfy => Action::Reply(Reply::CannotVerify),
            Command::NotImplemented => Action::Reply(Reply::NotImplemented),
            Command::Help => Action::Reply(Reply::Help),
            Command::Quit => Action::Close(Reply::Closing),
        }
    }

    fn error_reply(&self, syntax: CommandError) -> Reply {
        match syntax {
            CommandError::UnknownCommand | CommandError::ForeignProtocol => Reply::UnknownCommand,
            CommandError::InvalidArguments(text) => Reply::BadParameters(text),
            CommandError::InvalidSender => Reply::BadSender,
            CommandError::InvalidRecipient => Reply::BadRecipient,
            CommandError::UnknownParameter => Reply::UnknownParameter,
            CommandError::UnknownMechanism => Reply::UnknownMechanism,
        }
    }

    fn handle_hello(&mut self, client_name: String, is_ehlo: bool) -> Reply {
        self.phase = SessionState::Idle;
        self.xclient_allowed &= !self.xclient_applied;
        self.greeting = Some(Greeting { client_name, is_ehlo });
        let extensions = if is_ehlo { self.ehlo_extensions() } else { Vec::new() };
        Reply::Ehlo { hostname: self.policy.hostname.clone(), extensions }
    }

    fn ehlo_extensions(&self) -> Vec<String> {
        let mut extensions = vec!["PIPELINING".to_owned(), format!("SIZE {}", self.policy.max_message_bytes)];
        if self.policy.offer_starttls && !self.tls_active {
            extensions.push("STARTTLS".to_owned());
        }
        if self.may_log_in() {
            let external = if self.certificate_account.is_some() { " EXTERNAL" } else { "" };
            extensions.push(format!("AUTH PLAIN LOGIN{external}"));
        }
        extensions
            .extend(["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN"].map(str::to_owned));
        extensions.push(format!("LIMITS RCPTMAX={}", self.policy.max_recipients));
        if self.xclient_allowed {
            extensions.push("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT".to_owned());
        }
        extensions
    }

    fn may_log_in(&self) -> bool {
        self.policy.authentication == Authentication::Required
            && (self.tls_active || !self.policy.require_tls)
    }

    fn handle_auth(&mut self, mechanism: Mechanism, initial: Option<&str>) -> Action {
        let refusal = if self.policy.authentication == Authentication::None {
            Some(Reply::AuthNotOffered)
        } else if !self.may_log_in() {
            Some(Reply::EncryptionRequired)
        } else if self.greeting.is_none() {
            Some(Reply::BadSequence("Say EHLO first"))
        } else if self.account.is_some() {
            Some(Reply::BadSequence("You are logged in already"))
        } else if self.is_in_transaction() {
            Some(Reply::BadSequence("Not within a mail transaction"))
        } else if mechanism == Mechanism::External && self.certificate_account.is_none() {
            Some(Reply::UnknownMechanism)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Action::Reply(refusal);
        }
        let login = match mechanism {
            Mechanism::Plain => AuthExchange::Plain,
            Mechanism::Login => AuthExchange::LoginUser,
            Mechanism::External => AuthExchange::External,
        };
        match initial {
            // RFC 4954 section 4: "=" is an initial response of no bytes.
            Some("=") => self.continue_auth(login, b""),
            Some(initial) => self.continue_auth(login, initial.as_bytes()),
            None => {
                let prompt = if mechanism == Mechanism::Login { USERNAME_PROMPT } else { "" };
                self.phase = SessionState::Authenticating(login);
                Action::Reply(Reply::AuthContinue(prompt))
            }
        }
    }

    fn continue_auth(&mut self, login: AuthExchange, line: &[u8]) -> Action {
        if line == b"*" {
            return Action::Reply(Reply::AuthCancelled);
        }
        let decoded =
            BASE64_STANDARD.decode(line.trim_ascii()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = decoded else { return Action::Reply(Reply::AuthMalformed) };
        match login {
            AuthExchange::LoginUser => {
                self.phase = SessionState::Authenticating(AuthExchange::LoginPassword { user: text });
                Action::Reply(Reply::AuthContinue(PASSWORD_PROMPT))
            }
            // RFC 4422 appendix A: empty, or the identity of the certificate.
            AuthExchange::External => match self.certificate_account.clone() {
                Some(account) if text.is_empty() || text == account.name => {
                    Action::Reply(self.on_authenticated(account))
                }
                _ => Action::Reply(Reply::AuthMalformed),
            },
            AuthExchange::LoginPassword { user } => {
                Action::Authenticate(Credentials { user, password: Secret::new(text) })
            }
            AuthExchange::Plain => match text.split('\0').collect::<Vec<_>>()[..] {
                // An authorization identity other than the user would be another account (RFC 4616 section 2).
                [identity, user, password] if identity.is_empty() || identity == user => {
                    Action::Authenticate(Credentials {
                        user: user.to_owned(),
                        password: Secret::new(password),
                    })
                }
                _ => Action::Reply(Reply::AuthMalformed),
            },
        }
    }

    fn handle_mail(&mut self, envelope: Envelope, size: Option<u64>) -> Result<(), Reply> {
        if self.is_in_transaction() {
            return Err(Reply::BadSequence("A transaction is open: RSET first"));
        }
        if self.policy.require_tls && !self.tls_active {
            return Err(Reply::TlsRequired);
        }
        if self.greeting.is_none() {
            return Err(Reply::BadSequence("Say EHLO first"));
        }
        if self.policy.authentication == Authentication::Required && self.account().is_none() {
            return Err(Reply::AuthRequired);
        }
        if size.is_some_and(|size| size > self.policy.max_message_bytes) {
            return Err(Reply::MessageTooLarge { limit: self.policy.max_message_bytes });
        }
        if let Some(sender) = &envelope.sender {
            self.check_sender(sender)?;
        }
        self.phase = SessionState::Transaction(envelope);
        Ok(())
    }

    fn check_sender(&self, sender: &Mailbox) -> Result<(), Reply> {
        let senders = self.account().map_or(&[][..], |account| &account.sender_patterns);
        let allowed = senders.is_empty() || senders.iter().any(|pattern| sender.matches_pattern(pattern));
        if allowed { Ok(()) } else { Err(Reply::SenderNotAllowed) }
    }

    fn handle_rcpt(&mut self, recipient: Mailbox, dsn: DsnRecipient) -> Result<Mailbox, Reply> {
        match &mut self.phase {
            SessionState::Transaction(envelope)
                if envelope.recipients.len() == self.policy.max_recipients =>
            {
                Err(Reply::TooManyRecipients)
            }
            SessionState::Transaction(envelope) => {
                if dsn != DsnRecipient::default() {
                    let place = u16::try_from(envelope.recipients.len()).unwrap_or(u16::MAX);
                    envelope.dsn.recipients.push((place, dsn));
                }
                envelope.recipients.push(recipient.clone());
                Ok(recipient)
            }
            SessionState::ReceivingChunks(_) => Err(Reply::BadSequence(CHUNKS_BEGUN_TEXT)),
            _ => Err(Reply::BadSequence("MAIL FROM first")),
        }
    }

    fn handle_data(&mut self) -> Action {
        match &self.phase {
            SessionState::Transaction(envelope) if envelope.recipients.is_empty() => {
                Action::Reply(NO_RECIPIENT_REPLY)
            }
            SessionState::Transaction(_) => Action::ReceiveData(Reply::StartData),
            SessionState::ReceivingChunks(_) => Action::Reply(Reply::BadSequence(CHUNKS_BEGUN_TEXT)),
            _ => Action::Reply(Reply::BadSequence("MAIL FROM first")),
        }
    }

    /// The bytes after BDAT must be read even if it is rejected: the client does not wait for the reply.
    fn handle_bdat(&mut self, size: u64, last: bool) -> Action {
        let rejection = match std::mem::replace(&mut self.phase, SessionState::Idle) {
            SessionState::Transaction(envelope) if envelope.recipients.is_empty() => {
                self.phase = SessionState::Transaction(envelope);
                Some(NO_RECIPIENT_REPLY)
            }
            SessionState::Transaction(envelope) | SessionState::ReceivingChunks(envelope) => {
                self.phase = SessionState::ReceivingChunks(envelope);
                None
            }
            _ => Some(Reply::BadSequence("MAIL FROM first")),
        };
        Action::ReceiveChunk { size, last, rejection }
    }

    fn handle_xclient(&self, attributes: &str) -> Action {
        if !self.xclient_allowed {
            return Action::Reply(Reply::ProxyOnly);
        }
        if self.is_in_transaction() {
            return Action::Reply(Reply::BadSequence("Not within a mail transaction"));
        }
        XClient::parse(attributes).map_or(
            Action::Reply(Reply::BadParameters("Write XCLIENT and NAME=value pairs")),
            Action::ApplyXclient,
        )
    }
}

impl XClient {
    /// Parses `ADDR=192.0.2.1 LOGIN=odoo`: case-insensitive names, values in xtext. Irrelevant names are skipped; an
    /// unknown one is an error.
    fn parse(attributes: &str) -> Option<Self> {
        let mut introduction = Self::default();
        let mut pairs = attributes.split_ascii_whitespace().peekable();
        pairs.peek()?;
        for pair in pairs {
            let (name, value) = pair.split_once('=')?;
            let value =
                Some(decode_xtext(value)?).filter(|value| !UNAVAILABLE_VALUES.contains(&value.as_str()));
            match name.to_ascii_uppercase().as_str() {
                "ADDR" => {
                    introduction.address = match value {
                        Some(value) => Some(parse_xclient_address(&value)?),
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

fn parse_xclient_address(text: &str) -> Option<IpAddr> {
    let v6 = text.split_at_checked(5).filter(|(head, _)| head.eq_ignore_ascii_case("IPV6:"));
    v6.map_or(text, |(_, address)| address).parse().ok()
}

/// The inverse of xtext (RFC 3461 section 4).
fn decode_xtext(text: &str) -> Option<String> {
    let mut pieces = text.split('+');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

/// Values of a proxy for unknown attributes.
const UNAVAILABLE_VALUES: [&str; 2] = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];
const NO_RECIPIENT_REPLY: Reply = Reply::BadSequence("No recipient was taken: RCPT TO first");
const CHUNKS_BEGUN_TEXT: &str = "The message has begun: end it with BDAT LAST";
/// `Username:`, as clients expect it.
const USERNAME_PROMPT: &str = "VXNlcm5hbWU6";
/// `Password:`.
const PASSWORD_PROMPT: &str = "UGFzc3dvcmQ6";

#[cfg(test)]
mod tests {
    use super::*;

    fn new_session(offer_starttls: bool, authentication: Authentication) -> Session {
        let rules = SessionPolicy {
            hostname: "relay.example.com".into(),
            offer_starttls,
            require_tls: offer_starttls,
            authentication,
            max_message_bytes: 1000,
            max_recipients: 2,
        };
        Session::new(Arc::new(rules), false, false)
    }

    fn reply_code(session: &mut Session, line: &str) -> u16 {
        match session.on_line(line.as_bytes()) {
            Action::Reply(reply)
            | Action::StartTls(reply)
            | Action::ReceiveData(reply)
            | Action::Close(reply) => reply.code(),
            Action::ReceiveChunk { rejection, .. } => rejection.map_or(0, |reply| reply.code()),
            Action::OpenTransaction { .. } => Reply::SenderOk.code(),
            Action::CheckRecipient(_) => Reply::RecipientOk.code(),
            Action::Authenticate(_) | Action::ApplyXclient(_) => 0,
        }
    }

    #[test]
    fn rejects_mail_before_tls_and_auth() {
        let mut session = new_session(true, Authentication::Required);
        for (line, expected) in [
            ("MAIL FROM:<a@b.c>", 530),
            ("EHLO x", 250),
            ("AUTH PLAIN AGEAYg==", 538),
            ("MAIL FROM:<a@b.c>", 530),
            ("RCPT TO:<a@b.c>", 503),
            ("DATA", 503),
            ("STARTTLS", 220),
        ] {
            assert_eq!(reply_code(&mut session, line), expected, "{line}");
        }
        session.on_tls();
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
            assert_eq!(reply_code(&mut session, line), expected, "{line}");
        }
        let account = Account {
            name: "a".into(),
            client_label: "a".into(),
            sender_patterns: vec!["*@b.c".into()],
            allowed_request_headers: Vec::new(),
            header_cleanup: HeaderCleanup::default(),
        };
        assert_eq!(session.on_authenticated(Arc::new(account)).code(), 235);
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
            assert_eq!(reply_code(&mut session, line), expected, "{line}");
        }
        assert_eq!(session.take_envelope().map(|e| e.recipients.len()), Some(2));
        assert_eq!(reply_code(&mut session, "DATA"), 503);
    }

    #[test]
    fn rejected_recipient_leaves_no_trace() {
        let mut session = new_session(false, Authentication::None);
        for line in [
            "EHLO x",
            "MAIL FROM:<a@b.c>",
            "RCPT TO:<a@b.c> NOTIFY=NEVER",
            "RCPT TO:<b@b.c> ORCPT=rfc822;x@b.c",
        ] {
            assert_eq!(reply_code(&mut session, line), 250, "{line}");
        }
        session.reject_last_recipient();
        assert_eq!(reply_code(&mut session, "RCPT TO:<c@b.c>"), 250, "its place is free again");
        let envelope = session.take_envelope().unwrap();
        let recipients: Vec<_> = envelope.recipients.iter().map(Mailbox::as_str).collect();
        assert_eq!(recipients, ["a@b.c", "c@b.c"]);
        assert!(envelope.dsn.parameters_of(0).is_some() && envelope.dsn.parameters_of(1).is_none());
    }

    fn account_named(name: &str) -> Arc<Account> {
        let (name, client_label) = (name.to_owned(), name.to_owned());
        Arc::new(Account {
            name,
            client_label,
            sender_patterns: Vec::new(),
            allowed_request_headers: Vec::new(),
            header_cleanup: HeaderCleanup::default(),
        })
    }

    #[test]
    fn client_certificate_authenticates_alone_and_with_external() {
        let rules = SessionPolicy {
            offer_starttls: true,
            ..(*new_session(true, Authentication::Required).policy).clone()
        };
        let secured = || Session::new(Arc::new(rules.clone()), true, false);
        let mut client = secured();
        for (line, expected) in [("EHLO x", 250), ("AUTH EXTERNAL =", 504), ("MAIL FROM:<a@b.c>", 530)] {
            assert_eq!(reply_code(&mut client, line), expected, "{line}");
        }
        let mut silent = secured();
        silent.on_client_certificate(account_named("shop"));
        for (line, expected) in [("EHLO x", 250), ("MAIL FROM:<a@b.c>", 250)] {
            assert_eq!(reply_code(&mut silent, line), expected, "{line}");
        }
        assert_eq!((silent.account().unwrap().name.as_str(), silent.protocol()), ("shop", "ESMTPSA"));
        for lines in [&["AUTH EXTERNAL ="][..], &["AUTH EXTERNAL c2hvcA=="], &["AUTH EXTERNAL", ""]] {
            let mut polite = secured();
            polite.on_client_certificate(account_named("shop"));
            assert_eq!(reply_code(&mut polite, "EHLO x"), 250);
            assert_eq!(reply_code(&mut polite, "AUTH EXTERNAL b2Rvbw=="), 501, "somebody else");
            let codes: Vec<_> = lines.iter().map(|line| reply_code(&mut polite, line)).collect();
            assert_eq!(codes.last(), Some(&235), "{lines:?}");
            assert_eq!(reply_code(&mut polite, "AUTH EXTERNAL ="), 503);
        }
        silent.on_client_certificate(account_named("shop"));
        assert_eq!(reply_code(&mut silent, "RSET"), 250);
        assert_eq!(reply_code(&mut silent, "AUTH PLAIN AGEAYg=="), 0, "AUTH is still possible");
        silent.on_authenticated(account_named("odoo"));
        assert_eq!(silent.account().unwrap().name, "odoo");
    }

    #[test]
    fn chunks_require_an_envelope() {
        let mut session = new_session(false, Authentication::None);
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
            assert_eq!(reply_code(&mut session, line), expected, "{line}");
        }
        assert!(
            session.is_receiving_chunks()
                && session.take_envelope().is_some()
                && !session.is_in_transaction()
        );
        for line in ["MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>", "BDAT 3", "RSET"] {
            reply_code(&mut session, line);
        }
        assert!(!session.is_receiving_chunks());
        assert_eq!(reply_code(&mut session, "BDAT 3 LAST"), 503);
    }

    #[test]
    fn accepts_xclient_from_trusted_proxies_only() {
        let mut session = new_session(false, Authentication::None);
        assert_eq!(reply_code(&mut session, "XCLIENT ADDR=192.0.2.1"), 550);
        session.xclient_allowed = true;
        for (attributes, address, user) in [
            ("ADDR=192.0.2.1 PORT=1 NAME=[UNAVAILABLE] PROTO=ESMTP", Some("192.0.2.1"), None),
            ("addr=IPV6:2001:db8::1 LOGIN=o+64oo", Some("2001:db8::1"), Some("odoo")),
            ("ADDR=[TEMPUNAVAIL] LOGIN=[unavailable]", None, Some("[unavailable]")),
        ] {
            let step = session.on_line(format!("XCLIENT {attributes}").as_bytes());
            let expected = XClient {
                address: address.map(|address| address.parse().unwrap()),
                user: user.map(str::to_owned),
            };
            assert!(matches!(step, Action::ApplyXclient(found) if found == expected), "{attributes}");
        }
        for attributes in ["", "ADDR", "ADDR=a", "LOGIN=a+0Ab", "LOGIN=a+4", "COLOUR=red"] {
            assert_eq!(reply_code(&mut session, &format!("XCLIENT {attributes}")), 501, "{attributes}");
        }
        assert_eq!(reply_code(&mut session, "MAIL FROM:<a@b.c>"), 503);
        reply_code(&mut session, "EHLO x");
        reply_code(&mut session, "MAIL FROM:<a@b.c>");
        assert_eq!(reply_code(&mut session, "XCLIENT ADDR=192.0.2.1"), 503);
    }

    #[test]
    fn closes_after_too_many_idle_commands() {
        let mut session = new_session(false, Authentication::None);
        for _ in 0..Limits::MAX_IDLE_COMMANDS {
            assert_eq!(reply_code(&mut session, "NOOP"), 250);
        }
        session.on_message_accepted();
        assert_eq!(reply_code(&mut session, "NOOP"), 250);
        session.idle_commands = Limits::MAX_IDLE_COMMANDS;
        assert!(matches!(session.on_line(b"NOOP"), Action::Close(Reply::TooManyCommands)));
    }

    #[test]
    fn closes_after_too_many_errors() {
        let mut session = new_session(false, Authentication::None);
        for _ in 0..Limits::MAX_ERRORS {
            assert_eq!(reply_code(&mut session, "HELLO"), 500);
        }
        assert!(matches!(session.on_line(b"HELLO"), Action::Close(Reply::TooManyErrors)));
    }
}
