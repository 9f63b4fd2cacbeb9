//! Replacement for `/usr/sbin/sendmail`: submits a message from standard input over SMTP to a listener of the relay on
//! this machine, or with -bs a whole SMTP session.
//!
//! It reads no secret and stores nothing. Exit code 0 means that the relay has accepted the message for all recipients;
//! any other code means for none.

use crate::cli::{CliError, Context, config_source, print_line, write_stdout};
use bytes::Bytes;
use futures_util::stream;
use mail_builder::headers::{Header as _, address::Address};
use mail_parser::{HeaderName, MessageParser};
use mailtrail_mail::{
    BodyType, Envelope, HeaderLine, HeaderSection, Mailbox, find_missing_domains, is_mbox_line,
};
use mailtrail_net::tls;
use mailtrail_net::transport::{
    Connection, DataError, EnvelopeReplies, Pipelining, Security, Settings, TransportError,
};
use mailtrail_relay::submission::{Listener, ListenerTls};
use mailtrail_smtp::{Authentication, Response};
use mailtrail_trail::provider::Provider;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct SendmailArgs {
    /// Take recipients from To, Cc and Bcc in addition to the arguments
    #[arg(short = 't')]
    from_header: bool,
    /// Envelope sender; <> for none [default: current user]
    #[arg(short = 'f', short_alias = 'r', value_name = "ADDRESS", allow_hyphen_values = true)]
    sender: Option<String>,
    /// Name of the sender if the message has no From field
    #[arg(short = 'F', value_name = "NAME", allow_hyphen_values = true)]
    name: Option<String>,
    /// Do not end the message at a line with only a dot
    #[arg(short = 'i')]
    whole: bool,
    /// -oi is -i; other values are ignored
    #[arg(short = 'o', value_name = "OPTION")]
    options: Vec<String>,
    /// -bm: a message from standard input; -bs: SMTP on standard input and output
    #[arg(short = 'b', value_name = "MODE", default_value = "m", hide_default_value = true)]
    mode: String,
    /// Print the relay's replies
    #[arg(short = 'v')]
    verbose: bool,
    /// Address of the relay [default: the first listener that requires neither TLS nor login]
    #[arg(long, value_name = "HOST:PORT", env = "MAILTRAIL_SENDMAIL_SERVER")]
    server: Option<String>,
    /// Recipients
    #[arg(value_name = "ADDRESS")]
    recipients: Vec<String>,
    /// Options of sendmail that have no meaning for a relay; accepted and ignored.
    #[arg(short = 'B', short_aliases = ['A', 'C', 'L', 'N', 'O', 'R', 'V', 'X', 'e', 'p'], hide = true)]
    ignored: Vec<String>,
    #[arg(short = 'x', short_aliases = ['G', 'I', 'U', 'c', 'm', 'n'], hide = true)]
    ignored_flag: bool,
    #[arg(short = 'q', num_args = 0..=1, default_missing_value = "", hide = true)]
    queue: Option<String>,
}

pub async fn run(context: &Context, arguments: SendmailArgs) -> Result<(), CliError> {
    arguments.validate()?;
    let server = resolve_server(context, arguments.server.as_deref())?;
    if arguments.mode == SMTP_MODE {
        return proxy_stdio(&server).await;
    }
    let tls = tls::build_connector(None).map_err(|error| CliError::Other(error.to_string()))?;
    let input = read_message(std::io::stdin().lock(), !arguments.ignores_dots())?;
    let opened = Connection::open(&server, &tls, "localhost").await;
    let mut connection = opened.map_err(|fault| connection_error(&fault, &server))?;
    let letter = Submission::new(&arguments, &input, connection.name())?;
    // After an error, no QUIT is sent: it could be read as part of the message.
    let response = letter.submit(&mut connection).await?;
    connection.quit().await;
    if arguments.verbose {
        print_line(response);
    }
    Ok(())
}

impl SendmailArgs {
    fn validate(&self) -> Result<(), CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        match (self.mode.as_str(), &self.queue) {
            ("m", None) if self.from_header || !self.recipients.is_empty() => Ok(()),
            ("m", None) => usage("name the recipients, or let -t take them from the header"),
            ("p", _) | (_, Some(_)) => {
                usage("the relay sends what waits by itself; `mailtrail queue list` shows it")
            }
            (SMTP_MODE, None) => Ok(()),
            (mode, _) => usage(&format!("-b{mode} is not to be had, only -bm and -bs")),
        }
    }

    fn ignores_dots(&self) -> bool {
        self.whole || self.options.iter().any(|option| option == "i")
    }
}

/// Returns the address and settings of the relay.
fn resolve_server(context: &Context, named: Option<&str>) -> Result<Settings, CliError> {
    let (host, port) = match named {
        Some(named) => named
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)))
            .ok_or_else(|| CliError::Usage(format!("{named} is not of the form HOST:PORT")))?,
        None => match config_source::load_listeners(context)? {
            Some(listeners) => find_open_listener(&listeners)
                .ok_or_else(|| CliError::Configuration(NO_OPEN_LISTENER.into()))?,
            None => (DEFAULT_SERVER.0.to_owned(), DEFAULT_SERVER.1),
        },
    };
    Ok(Settings {
        name: "relay".into(),
        provider: Provider::Plain,
        domain: None,
        host,
        port,
        security: Security::None,
        ca_file: None,
        login: None,
        api: None,
        connections: 1,
        pipelining: Pipelining::Off,
        idle_timeout: Duration::from_secs(60),
        connection_age: Duration::from_secs(600),
        messages_per_connection: 1,
        rate: None,
        quota_limit: None,
        breaker: Default::default(),
        timeouts: Default::default(),
    })
}

/// Connects standard input and output with the relay, for clients that speak SMTP with the program.
async fn proxy_stdio(server: &Settings) -> Result<(), CliError> {
    let stream = match TcpStream::connect((server.host.as_str(), server.port)).await {
        Ok(stream) => stream,
        Err(error) => {
            write_stdout(b"421 4.3.2 The relay cannot be reached\r\n");
            return Err(connection_error(&error.into(), server));
        }
    };
    let (mut hear, mut say) = stream.into_split();
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let upward = async {
        // If either side closes, the relay closes the connection, which ends the session.
        let _ = tokio::io::copy(&mut input, &mut say).await;
        let _ = say.shutdown().await;
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut hear, &mut output) => ended,
        never = upward => never,
    };
    ended.map(|_| ()).map_err(|error| {
        CliError::Sysexits(EX_TEMPFAIL, format!("the conversation with the relay broke: {error}"))
    })
}

/// Returns the first listener that this machine may use without TLS and login.
fn find_open_listener(listeners: &[Listener]) -> Option<(String, u16)> {
    listeners.iter().find_map(|listener| {
        let ip = match listener.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let open = listener.authentication == Authentication::None
            && listener.tls != ListenerTls::Implicit
            && !listener.require_tls
            && listener.allow.iter().any(|network| network.contains(&ip));
        open.then(|| (ip.to_string(), listener.address.port()))
    })
}

/// Reads the message and normalizes line ends to CRLF. A `From ` line of a mailbox file is skipped.
fn read_message(input: impl Read, dot_ends: bool) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_MESSAGE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::Sysexits(EX_TEMPFAIL, format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > MAX_MESSAGE_BYTES {
        return Err(CliError::Sysexits(
            EX_DATAERR,
            format!("the message is larger than {MAX_MESSAGE_BYTES} bytes"),
        ));
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let mut message = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    for line in bytes.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if dot_ends && line == b"." {
            break;
        }
        if !(message.is_empty() && is_mbox_line(line)) {
            message.extend_from_slice(line);
            message.extend_from_slice(b"\r\n");
        }
    }
    Ok(message)
}

/// Message and envelope to submit.
struct Submission {
    envelope: Envelope,
    message: Bytes,
}

impl Submission {
    /// Builds the envelope and the message. Names without a domain get `domain`.
    fn new(arguments: &SendmailArgs, input: &[u8], domain: &str) -> Result<Self, CliError> {
        let block = HeaderSection::parse(input);
        let author = match arguments.sender.as_deref() {
            None | Some("" | "<>") => current_user_mailbox(domain)?,
            Some(sender) => parse_mailbox(sender.trim_matches(['<', '>']), domain)
                .map_err(|text| CliError::Usage(format!("-f: {text}")))?,
        };
        let nobody = matches!(arguments.sender.as_deref(), Some("" | "<>"));
        let message =
            build_message(block, input, domain, || build_from_header(arguments.name.as_deref(), &author));
        let recipients = collect_recipients(arguments, &input[..block.end()], domain)?;
        let body = if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
        let smtputf8 = !recipients.iter().chain([&author]).all(Mailbox::is_ascii);
        let sender = Some(author).filter(|_| !nobody);
        Ok(Self {
            envelope: Envelope { sender, recipients, body, smtputf8, ..Envelope::default() },
            message: message.into(),
        })
    }

    /// Submits the message to all recipients or to none.
    async fn submit(self, connection: &mut Connection) -> Result<Response, CliError> {
        let replies = connection.send_envelope(&self.envelope, self.message.len() as u64).await;
        let replies = replies.map_err(|fault| CliError::Sysexits(EX_TEMPFAIL, fault.to_string()))?;
        self.check_replies(&replies)?;
        let sent = match connection.send_body(stream::iter([Ok(self.message)])).await {
            Ok(()) => connection.finish_data(None).await,
            Err(fault) => Err(fault),
        };
        let response = sent.map_err(|fault| match fault {
            DataError::BodyUnreadable(error) => CliError::Sysexits(EX_TEMPFAIL, error.to_string()),
            DataError::Rejected(response) => rejection_error(&response, EX_DATAERR, "the message"),
            DataError::BeforeEnd(fault) => CliError::Sysexits(EX_TEMPFAIL, fault.to_string()),
            DataError::AfterEnd(fault) => {
                CliError::Sysexits(EX_TEMPFAIL, format!("the relay may have taken the message, but: {fault}"))
            }
        })?;
        if response.is_positive() {
            Ok(response)
        } else {
            Err(rejection_error(&response, EX_DATAERR, "the message"))
        }
    }

    fn check_replies(&self, replies: &EnvelopeReplies) -> Result<(), CliError> {
        if matches!(replies.mail.code, 530 | 538) {
            return Err(CliError::Sysexits(EX_UNAVAILABLE, format!("{}; {NO_OPEN_LISTENER}", replies.mail)));
        }
        if !replies.mail.is_positive() {
            return Err(rejection_error(&replies.mail, EX_DATAERR, "the message"));
        }
        let answers = self.envelope.recipients.iter().zip(&replies.recipients);
        match answers.into_iter().find(|(_, reply)| !reply.is_positive()) {
            Some((recipient, reply)) => Err(rejection_error(reply, EX_NOUSER, recipient.as_str())),
            None if replies.may_send_data() => Ok(()),
            None => Err(CliError::Sysexits(EX_TEMPFAIL, "the relay does not take the message now".into())),
        }
    }
}

/// Adds a From field if it is missing and removes Bcc. Addresses without a domain get `domain`.
fn build_message(
    block: HeaderSection<'_>,
    input: &[u8],
    domain: &str,
    from: impl FnOnce() -> Vec<u8>,
) -> Vec<u8> {
    let mut message = Vec::with_capacity(input.len() + 256);
    if block.find_field("From").is_none() && block.find_field("Resent-From").is_none() {
        message.extend_from_slice(&from());
        if block.is_absent() {
            message.extend_from_slice(b"\r\n");
        }
    }
    let mut at = 0;
    for field in block.fields() {
        let name = field.name.to_ascii_lowercase();
        let name = name.strip_prefix("resent-").unwrap_or(&name);
        if name == "bcc" {
            message.extend_from_slice(&input[at..field.span.start]);
            at = field.span.end;
        } else if ADDRESS_FIELDS.contains(&name) {
            let start =
                field.span.start + memchr::memchr(b':', &input[field.span]).map_or(0, |colon| colon + 1);
            for place in find_missing_domains(field.value) {
                message.extend_from_slice(&input[at..start + place]);
                message.extend_from_slice(format!("@{domain}").as_bytes());
                at = start + place;
            }
        }
    }
    message.extend_from_slice(&input[at..]);
    message
}

fn build_from_header(name: Option<&str>, author: &Mailbox) -> Vec<u8> {
    let name = name.map(|name| name.replace(char::is_control, " ")).filter(|name| !name.trim().is_empty());
    let mut line = b"From: ".to_vec();
    let column = line.len();
    Address::new_address(name, author.as_str()).write_header(&mut line, column);
    line
}

/// Returns the recipients of the arguments, then those of the header: only of its Resent fields, if there are any.
fn collect_recipients(
    arguments: &SendmailArgs,
    header: &[u8],
    domain: &str,
) -> Result<Vec<Mailbox>, CliError> {
    let mut texts = Vec::new();
    for text in &arguments.recipients {
        match text.parse::<Mailbox>() {
            Ok(_) => texts.push(text.clone()),
            Err(_) => {
                let line = HeaderLine::new("To", text);
                texts.extend(parse_addresses(format!("{line}\r\n\r\n").as_bytes(), &[HeaderName::To]));
            }
        }
    }
    if arguments.from_header {
        let resent =
            parse_addresses(header, &[HeaderName::ResentTo, HeaderName::ResentCc, HeaderName::ResentBcc]);
        match resent.is_empty() {
            true => texts.extend(parse_addresses(header, &[HeaderName::To, HeaderName::Cc, HeaderName::Bcc])),
            false => texts.extend(resent),
        }
    }
    let mut recipients = Vec::new();
    for text in texts {
        let recipient = parse_mailbox(&text, domain).map_err(|text| CliError::Sysexits(EX_NOUSER, text))?;
        if !recipients.contains(&recipient) {
            recipients.push(recipient);
        }
    }
    if recipients.is_empty() {
        return Err(CliError::Usage("no recipient is named, neither here nor in the header".into()));
    }
    Ok(recipients)
}

/// Parses the addresses in the named header fields. An entry without a domain is read as a local user name.
fn parse_addresses(header: &[u8], names: &[HeaderName<'_>]) -> Vec<String> {
    let parsed = MessageParser::new().with_address_headers().default_header_ignore().parse_headers(header);
    let fields = parsed.iter().flat_map(|message| message.headers()).filter(|f| names.contains(&f.name));
    let addresses = fields.filter_map(|field| field.value.as_address()).flat_map(|found| found.iter());
    addresses.filter_map(|found| found.address().or(found.name())).map(str::to_owned).collect()
}

fn parse_mailbox(text: &str, domain: &str) -> Result<Mailbox, String> {
    let whole = if text.contains('@') { text.to_owned() } else { format!("{text}@{domain}") };
    whole.parse().map_err(|error| format!("{text}: {error}"))
}

fn current_user_mailbox(domain: &str) -> Result<Mailbox, CliError> {
    let name = whoami::username().unwrap_or_else(|_| "nobody".to_owned());
    parse_mailbox(&name, domain).map_err(CliError::Usage)
}

fn connection_error(fault: &TransportError, Settings { host, port, .. }: &Settings) -> CliError {
    let code = match fault {
        TransportError::Refused { response, .. } if response.code >= 500 => EX_UNAVAILABLE,
        _ => EX_TEMPFAIL,
    };
    CliError::Sysexits(code, format!("cannot reach the relay on {host} port {port}: {fault}"))
}

/// A permanent rejection exits with `code`; a transient one with `EX_TEMPFAIL`.
fn rejection_error(response: &Response, code: u8, what: &str) -> CliError {
    let code = if response.code >= 500 { code } else { EX_TEMPFAIL };
    CliError::Sysexits(code, format!("the relay rejects {what}: {response}"))
}

/// Value of `-b` for SMTP on standard input (`-bs`).
const SMTP_MODE: &str = "s";
/// In lower case; each also exists with the prefix `resent-`.
const ADDRESS_FIELDS: [&str; 5] = ["from", "sender", "reply-to", "to", "cc"];
/// Exit codes of sysexits.h.
const EX_DATAERR: u8 = 65;
const EX_NOUSER: u8 = 67;
const EX_UNAVAILABLE: u8 = 69;
const EX_TEMPFAIL: u8 = 75;

/// Address of the relay if the configuration file is not readable.
const DEFAULT_SERVER: (&str, u16) = ("127.0.0.1", 25);
const NO_OPEN_LISTENER: &str = "sendmail needs a [[listener]] on this machine with tls = \"none\" and auth = \"none\", or \
                       --server, or MAILTRAIL_SENDMAIL_SERVER";
/// In bytes; the upper limit of `message_size`.
const MAX_MESSAGE_BYTES: u64 = 1 << 30;
