//! One command line of a client, parsed (RFC 5321 section 4.1).

use mailtrail_mail::{BodyType, DsnRecipient, Envelope, Mailbox, Notify, Ret};

/// A command with its arguments checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// EHLO with the client's name.
    Ehlo(String),
    /// HELO with the client's name.
    Helo(String),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954) with its initial response, if it came along.
    Auth {
        /// SASL mechanism.
        mechanism: Mechanism,
        /// Base64, `=` for an empty one.
        initial_response: Option<&'a str>,
    },
    /// MAIL FROM.
    Mail {
        /// Sender and parameters of the message.
        envelope: Envelope,
        /// Bytes announced with SIZE= (RFC 1870).
        size: Option<u64>,
    },
    /// RCPT TO.
    Rcpt {
        /// Recipient address.
        recipient: Mailbox,
        /// NOTIFY= and ORCPT= (RFC 3461).
        dsn: DsnRecipient,
    },
    /// DATA.
    Data,
    /// BDAT (RFC 3030): a chunk of the message follows.
    Bdat {
        /// Size of the chunk in bytes.
        size: u64,
        /// Whether they are the last.
        last: bool,
    },
    /// XCLIENT: attributes of a proxy's client, `NAME=value` pairs in xtext.
    XClient(&'a str),
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Vrfy,
    /// EXPN, TURN and other known commands that are not implemented.
    NotImplemented,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
}

/// SASL mechanisms. CRAM-MD5 is left out deliberately, because it requires plaintext passwords on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The older one that many applications use.
    Login,
    /// By the certificate that TLS was set up with (RFC 4422 appendix A).
    External,
}

/// Error of parsing a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// Unknown verb, or not text at all.
    UnknownCommand,
    /// The arguments are missing or wrong; what would be right.
    InvalidArguments(&'static str),
    /// The sender's address is none.
    InvalidSender,
    /// The recipient's address is none.
    InvalidRecipient,
    /// A parameter that we did not offer.
    UnknownParameter,
    /// A login mechanism that we do not have.
    UnknownMechanism,
    /// Another protocol's, such as HTTP: a browser was made to talk to us.
    ForeignProtocol,
}

impl<'a> Command<'a> {
    /// Parses a line without its line end. An address without a domain is refused.
    pub fn parse(line: &'a [u8]) -> Result<Self, CommandError> {
        Self::parse_with_domain(line, None)
    }

    /// Parses a line as [`Self::parse`] does; an address without a domain gets `domain`, as Postfix does it.
    pub fn parse_with_domain(line: &'a [u8], domain: Option<&str>) -> Result<Self, CommandError> {
        let line = line.trim_ascii();
        let Ok(line) = std::str::from_utf8(line) else {
            return parse_non_utf8_hello(line).ok_or(CommandError::UnknownCommand);
        };
        let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let parsed = match verb.len() {
            4 => Self::parse_short(verb, rest, domain),
            8 if verb.eq_ignore_ascii_case("STARTTLS") => without_arguments(Self::StartTls, rest),
            7 if verb.eq_ignore_ascii_case("XCLIENT") => Ok(Self::XClient(rest)),
            _ => Err(CommandError::UnknownCommand),
        };
        match parsed {
            Err(CommandError::UnknownCommand) if HTTP_VERBS.contains(&verb) && rest.contains("HTTP/") => {
                Err(CommandError::ForeignProtocol)
            }
            parsed => parsed,
        }
    }

    fn parse_short(verb: &str, rest: &'a str, domain: Option<&str>) -> Result<Self, CommandError> {
        let is = |word| verb.eq_ignore_ascii_case(word);
        if is("MAIL") {
            parse_mail(rest, domain)
        } else if is("RCPT") {
            parse_rcpt(rest, domain)
        } else if is("DATA") {
            without_arguments(Self::Data, rest)
        } else if is("EHLO") {
            parse_client_name(rest.chars()).map(Self::Ehlo)
        } else if is("HELO") {
            parse_client_name(rest.chars()).map(Self::Helo)
        } else if is("AUTH") {
            parse_auth(rest)
        } else if is("BDAT") {
            parse_bdat(rest)
        } else if is("RSET") {
            without_arguments(Self::Rset, rest)
        } else if is("NOOP") {
            Ok(Self::Noop)
        } else if is("VRFY") {
            Ok(Self::Vrfy)
        } else if ["EXPN", "TURN", "SEND", "SOML", "SAML", "ETRN"].into_iter().any(is) {
            Ok(Self::NotImplemented)
        } else if is("HELP") {
            Ok(Self::Help)
        } else if is("QUIT") {
            Ok(Self::Quit)
        } else {
            Err(CommandError::UnknownCommand)
        }
    }
}

fn without_arguments<'a>(command: Command<'a>, rest: &str) -> Result<Command<'a>, CommandError> {
    if rest.is_empty() {
        Ok(command)
    } else {
        Err(CommandError::InvalidArguments("This command takes no parameters"))
    }
}

/// The name that a client gives itself: mostly a domain or an address literal, but Windows programs send the computer's
/// name, with blanks and in their code page. A character that a Received field cannot carry becomes `?`.
fn parse_client_name(characters: impl Iterator<Item = char>) -> Result<String, CommandError> {
    let plain = |c: char| if c.is_ascii_graphic() && !"<>();,\\\"".contains(c) { c } else { '?' };
    let name: String = characters.take(MAX_CLIENT_NAME_CHARS).map(plain).collect();
    if name.is_empty() {
        Err(CommandError::InvalidArguments("Give your host name: EHLO host.example.com"))
    } else {
        Ok(name)
    }
}

/// EHLO or HELO with a name that is not UTF-8.
fn parse_non_utf8_hello<'a>(line: &[u8]) -> Option<Command<'a>> {
    let (verb, rest) = line.split_at_checked(4)?;
    let given = rest.trim_ascii_start();
    let name =
        parse_client_name(given.iter().copied().map(char::from)).ok().filter(|_| given.len() < rest.len())?;
    match verb {
        verb if verb.eq_ignore_ascii_case(b"EHLO") => Some(Command::Ehlo(name)),
        verb if verb.eq_ignore_ascii_case(b"HELO") => Some(Command::Helo(name)),
        _ => None,
    }
}

fn parse_auth(rest: &str) -> Result<Command<'_>, CommandError> {
    let (mechanism, initial_response) = match rest.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.trim())),
        None => (rest, None),
    };
    let mechanism = match mechanism {
        "" => return Err(CommandError::InvalidArguments("Name a mechanism: AUTH PLAIN or AUTH LOGIN")),
        m if m.eq_ignore_ascii_case("PLAIN") => Mechanism::Plain,
        m if m.eq_ignore_ascii_case("LOGIN") => Mechanism::Login,
        m if m.eq_ignore_ascii_case("EXTERNAL") => Mechanism::External,
        _ => return Err(CommandError::UnknownMechanism),
    };
    Ok(Command::Auth { mechanism, initial_response })
}

fn parse_mail<'a>(rest: &'a str, domain: Option<&str>) -> Result<Command<'a>, CommandError> {
    let (path, parameters) = split_path(rest, "FROM:")
        .ok_or(CommandError::InvalidArguments("Write MAIL FROM:<address>"))?
        .map_err(|()| CommandError::InvalidSender)?;
    let sender = match path {
        "" => None,
        address => Some(parse_mailbox(address, domain).ok_or(CommandError::InvalidSender)?),
    };
    let mut envelope = Envelope { sender, ..Envelope::default() };
    let (mut size, mut body) = (None, None);
    for (key, value) in parse_parameters(parameters) {
        let is = |word| key.eq_ignore_ascii_case(word);
        if is("SIZE") {
            let bytes =
                value.parse().map_err(|_| CommandError::InvalidArguments("SIZE= takes a number of bytes"))?;
            set_once(&mut size, bytes)?;
        } else if is("BODY") {
            set_once(&mut body, parse_body_type(value)?)?;
        } else if is("SMTPUTF8") && value.is_empty() {
            envelope.smtputf8 = true;
        } else if is("RET") {
            set_once(&mut envelope.dsn.ret, parse_ret(value)?)?;
        } else if is("ENVID") {
            let why = "ENVID= takes up to 100 printable characters, others as +XX";
            set_once(&mut envelope.dsn.envid, parse_xtext(value, 100, why)?)?;
        } else if !is("AUTH") {
            // AUTH= (RFC 4954 section 5) is read and means nothing to us.
            return Err(CommandError::UnknownParameter);
        }
    }
    envelope.body = body.unwrap_or_default();
    Ok(Command::Mail { envelope, size })
}

fn parse_rcpt<'a>(rest: &'a str, domain: Option<&str>) -> Result<Command<'a>, CommandError> {
    let (path, parameters) = split_path(rest, "TO:")
        .ok_or(CommandError::InvalidArguments("Write RCPT TO:<address>"))?
        .map_err(|()| CommandError::InvalidRecipient)?;
    let recipient = parse_mailbox(path, domain).ok_or(CommandError::InvalidRecipient)?;
    let mut dsn = DsnRecipient::default();
    for (key, value) in parse_parameters(parameters) {
        if key.eq_ignore_ascii_case("NOTIFY") {
            set_once(&mut dsn.notify, parse_notify(value)?)?;
        } else if key.eq_ignore_ascii_case("ORCPT") {
            let why = "ORCPT= takes a type, a semicolon and an address";
            if !value.split_once(';').is_some_and(|(kind, address)| !kind.is_empty() && !address.is_empty()) {
                return Err(CommandError::InvalidArguments(why));
            }
            set_once(&mut dsn.orcpt, parse_xtext(value, 500, why)?)?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok(Command::Rcpt { recipient, dsn })
}

fn parse_bdat(rest: &str) -> Result<Command<'_>, CommandError> {
    let (size, last) = rest.split_once(' ').map_or((rest, ""), |(size, last)| (size, last.trim_start()));
    let why =
        CommandError::InvalidArguments("Write BDAT and a number of bytes, behind the last of them LAST");
    let digits = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
    let last_is_fine = last.is_empty() || last.eq_ignore_ascii_case("LAST");
    let size = size.parse().ok().filter(|_| digits && last_is_fine).ok_or(why)?;
    Ok(Command::Bdat { size, last: !last.is_empty() })
}

/// The parameters of MAIL and RCPT: `KEY=value` or `KEY`.
fn parse_parameters(parameters: &str) -> impl Iterator<Item = (&str, &str)> {
    parameters.split_ascii_whitespace().map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

/// Sets a parameter that may be given only once.
fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), CommandError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandError::InvalidArguments("A parameter is given twice")),
    }
}

fn parse_body_type(value: &str) -> Result<BodyType, CommandError> {
    match value {
        v if v.eq_ignore_ascii_case("7BIT") => Ok(BodyType::SevenBit),
        v if v.eq_ignore_ascii_case("8BITMIME") => Ok(BodyType::EightBitMime),
        _ => Err(CommandError::InvalidArguments("BODY= takes 7BIT or 8BITMIME")),
    }
}

fn parse_ret(value: &str) -> Result<Ret, CommandError> {
    match value {
        v if v.eq_ignore_ascii_case("FULL") => Ok(Ret::Full),
        v if v.eq_ignore_ascii_case("HDRS") => Ok(Ret::Headers),
        _ => Err(CommandError::InvalidArguments("RET= takes FULL or HDRS")),
    }
}

fn parse_notify(value: &str) -> Result<Notify, CommandError> {
    let mut notify = Notify::default();
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(notify);
    }
    for word in value.split(',') {
        match word {
            w if w.eq_ignore_ascii_case("SUCCESS") => notify.success = true,
            w if w.eq_ignore_ascii_case("FAILURE") => notify.failure = true,
            w if w.eq_ignore_ascii_case("DELAY") => notify.delay = true,
            _ => {
                return Err(CommandError::InvalidArguments(
                    "NOTIFY= takes NEVER, or SUCCESS, FAILURE and DELAY",
                ));
            }
        }
    }
    Ok(notify)
}

/// A text of at most `limit` bytes in the form of RFC 3461 section 4, or of RFC 6533 for addresses in UTF-8.
fn parse_xtext(value: &str, limit: usize, why: &'static str) -> Result<Box<str>, CommandError> {
    let mut rest = value.bytes();
    let mut fine = !value.is_empty() && value.len() <= limit && !value.contains(char::is_control);
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.is_some_and(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
        fine &= byte != b'=' && (byte != b'+' || (hex(rest.next()) && hex(rest.next())));
    }
    if fine { Ok(value.into()) } else { Err(CommandError::InvalidArguments(why)) }
}

/// An address as legacy applications write it: with blanks around its `@`, or without a domain, in place of which it
/// gets `domain`.
fn parse_mailbox(text: &str, domain: Option<&str>) -> Option<Mailbox> {
    match (text.rsplit_once('@'), domain) {
        (Some((local, domain)), _) => format!("{}@{}", local.trim_end(), domain.trim_start()).parse().ok(),
        (None, Some(domain)) => text.parse().or_else(|_| format!("{text}@{domain}").parse()).ok(),
        (None, None) => text.parse().ok(),
    }
}

/// Splits `FROM:<path> parameters` into path and parameters. White space after the colon, missing or doubled brackets
/// and a name in front of the address are accepted, because legacy applications write them. `None`: the keyword is
/// missing.
fn split_path<'a>(rest: &'a str, keyword: &str) -> Option<Result<(&'a str, &'a str), ()>> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_start();
    let Some(inner) = rest.strip_prefix('<') else {
        let (path, parameters) =
            rest.split_at(find_unquoted(rest, |b, _| matches!(b, b' ' | b'\t')).unwrap_or(rest.len()));
        let path = path.strip_suffix('>').unwrap_or(path);
        return Some(if path.is_empty() { Err(()) } else { Ok((path, parameters.trim())) });
    };
    let Some(close) = find_unquoted(inner, |b, depth| b == b'>' && depth == 0) else { return Some(Err(())) };
    let (path, parameters) = (innermost_path(&inner[..close]).trim(), &inner[close + 1..]);
    // A source route (RFC 5321 section 4.1.1.3) is to be ignored.
    let path = if path.starts_with('@') { path.split_once(':').map_or(path, |(_, path)| path) } else { path };
    let separated = parameters.is_empty() || parameters.starts_with([' ', '\t']);
    Some(if separated { Ok((path, parameters.trim())) } else { Err(()) })
}

/// `a@b` of `<a@b>` and `Ada <a@b>`.
fn innermost_path(path: &str) -> &str {
    match find_unquoted(path, |b, _| b == b'<') {
        Some(open) => innermost_path(path[open + 1..].trim_end_matches('>')),
        None => path,
    }
}

/// Where the first byte outside of quotes is that is `wanted`, given how many brackets are open before it.
fn find_unquoted(text: &str, wanted: impl Fn(u8, usize) -> bool) -> Option<usize> {
    let (mut quoted, mut escaped, mut depth) = (false, false, 0usize);
    text.bytes().position(|b| {
        let found = !quoted && wanted(b, depth);
        match b {
            b'"' if !escaped => quoted = !quoted,
            b'<' if !quoted => depth += 1,
            b'>' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = quoted && b == b'\\' && !escaped;
        found
    })
}

/// Characters of a client's name that are kept.
const MAX_CLIENT_NAME_CHARS: usize = 255;
/// The verbs that browsers and other HTTP clients begin with.
const HTTP_VERBS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "CONNECT"];

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::DsnParameters;

    #[test]
    fn parses_odoo_commands() {
        assert_eq!(Command::parse(b"ehlo [127.0.0.1]"), Ok(Command::Ehlo("[127.0.0.1]".into())));
        let Ok(Command::Mail { envelope: Envelope { sender: Some(sender), .. }, size }) =
            Command::parse(b"mail FROM:<bounce@example.com> size=4786")
        else {
            panic!()
        };
        assert_eq!((sender.as_str(), size), ("bounce@example.com", Some(4786)));
        let (recipient, dsn) = ("a@example.org".parse().unwrap(), DsnRecipient::default());
        assert_eq!(Command::parse(b"rcpt TO:<a@example.org>"), Ok(Command::Rcpt { recipient, dsn }));
        let utf8 = Command::parse("mail FROM:<jiří@example.com> SMTPUTF8 BODY=8BITMIME".as_bytes());
        let expected = Envelope {
            sender: "jiří@example.com".parse().ok(),
            body: BodyType::EightBitMime,
            smtputf8: true,
            ..Envelope::default()
        };
        assert_eq!(utf8, Ok(Command::Mail { envelope: expected, size: None }));
    }

    #[test]
    fn tolerates_legacy_spellings() {
        for line in
            ["MAIL FROM: <a@b.c>", "mail from:a@b.c", "MAIL FROM: a@b.c SIZE=1", "MAIL FROM:<@x,@y:a@b.c>"]
        {
            let Ok(Command::Mail { envelope, .. }) = Command::parse(line.as_bytes()) else {
                panic!("{line}")
            };
            assert_eq!(envelope.sender.map(|s| s.to_string()), Some("a@b.c".into()), "{line}");
        }
        for line in ["MAIL FROM:<>", "MAIL FROM: <> ", "MAIL FROM:< >", "mail\tfrom:<>"] {
            let empty = Command::Mail { envelope: Envelope::default(), size: None };
            assert_eq!(Command::parse(line.as_bytes()), Ok(empty), "{line}");
        }
    }

    /// As a Postfix 3.7 takes them.
    #[test]
    fn accepts_addresses_that_postfix_accepts() {
        for (path, address) in [
            ("<\"a>b\"@c.d>", "\"a>b\"@c.d"),
            ("<\"a b\"@c.d>", "\"a b\"@c.d"),
            ("\"a b\"@c.d", "\"a b\"@c.d"),
            ("<<a@c.d>>", "a@c.d"),
            ("<Ada L. <a@c.d>>", "a@c.d"),
            ("<\"Ada <L>\" <a@c.d>>", "a@c.d"),
            ("a@c.d>", "a@c.d"),
            ("< a@c.d >", "a@c.d"),
            ("<a @ c.d>", "a@c.d"),
            ("<a@c.d>\t", "a@c.d"),
            ("<a@c.d.>", "a@c.d."),
            ("<.a..b.@c_d.e>", ".a..b.@c_d.e"),
            ("<O'Brien@c.d>", "O'Brien@c.d"),
            ("<b!a%x@c.d>", "b!a%x@c.d"),
            ("<root>", "root@here.example"),
            ("www-data", "www-data@here.example"),
            ("<\"a b\">", "\"a b\"@here.example"),
            ("<postmaster>", "postmaster"),
        ] {
            let (rcpt, mail) = (format!("RCPT TO:{path}"), format!("MAIL FROM: {path}"));
            let here = Some("here.example");
            let Ok(Command::Rcpt { recipient, .. }) = Command::parse_with_domain(rcpt.as_bytes(), here)
            else {
                panic!("{rcpt}")
            };
            assert_eq!(recipient.as_str(), address, "{path}");
            let Ok(Command::Mail { envelope, .. }) = Command::parse_with_domain(mail.as_bytes(), here) else {
                panic!("{mail}")
            };
            assert_eq!(envelope.sender.unwrap().as_str(), address, "{path}");
        }
        for path in [
            "",
            "<a@c.d",
            "<a@c.d>SIZE=1",
            "<a b@c.d>",
            "<a@c.d,b@c.d>",
            "<Ada <a@c.d>",
            "<a\"b@c.d>",
            "<a@>",
        ] {
            let line = format!("RCPT TO:{path}");
            let why = Command::parse_with_domain(line.as_bytes(), Some("here.example"));
            assert_eq!(why, Err(CommandError::InvalidRecipient), "{path}");
        }
        assert_eq!(Command::parse(b"RCPT TO:<root>"), Err(CommandError::InvalidRecipient));
    }

    #[test]
    fn accepts_unusual_client_names() {
        for (line, name) in [
            (&b"EHLO my computer"[..], "my?computer"),
            (b" ehlo\tx ", "x"),
            (b"EHLO host_name", "host_name"),
            (b"EHLO M\xfcller", "M?ller"),
            ("EHLO Müller".as_bytes(), "M?ller"),
            (b"EHLO <x> (y)", "?x???y?"),
            (b"EHLO a\x01\0b", "a??b"),
            (b"EHLO [IPv6:::1]", "[IPv6:::1]"),
        ] {
            assert_eq!(Command::parse(line), Ok(Command::Ehlo(name.into())));
        }
        let line = format!("HELO {}", "x".repeat(900));
        let long = Command::parse(line.as_bytes());
        assert_eq!(long, Ok(Command::Helo("x".repeat(MAX_CLIENT_NAME_CHARS))));
        for line in [&b"\xfc"[..], b"EHLO\xfc", b"EHL\xfc", b"MAIL FROM:<\xfc@a.b>", b"NOOP \xfc"] {
            assert_eq!(Command::parse(line), Err(CommandError::UnknownCommand));
        }
    }

    #[test]
    fn rejects_invalid_lines_with_reason() {
        for (line, why) in [
            (&b""[..], CommandError::UnknownCommand),
            (b"GET", CommandError::UnknownCommand),
            (b"GET / HTTP/1.1", CommandError::ForeignProtocol),
            (b"POST / HTTP/1.1", CommandError::ForeignProtocol),
            (b"CONNECT a:25 HTTP/1.1", CommandError::ForeignProtocol),
            (b"\xff\xfe", CommandError::UnknownCommand),
            (b"MAIL FROM:<a@b.c> NOTIFY=NEVER", CommandError::UnknownParameter),
            (b"RCPT TO:<a@b.c> RET=FULL", CommandError::UnknownParameter),
            (b"MAIL FROM:<a b@c>", CommandError::InvalidSender),
            (b"MAIL FROM:<a@b.c", CommandError::InvalidSender),
            (b"MAIL FROM:<a@b.c>SIZE=1", CommandError::InvalidSender),
            (b"RCPT TO:<>", CommandError::InvalidRecipient),
            (b"RCPT TO:<a\0@b.c>", CommandError::InvalidRecipient),
            (b"AUTH CRAM-MD5", CommandError::UnknownMechanism),
        ] {
            assert_eq!(Command::parse(line), Err(why), "{:?}", String::from_utf8_lossy(line));
        }
        for line in [
            "DATA now",
            "EHLO",
            "HELO ",
            "MAIL TO:<a@b.c>",
            "RCPT <a@b.c>",
            "MAIL FROM:<a@b.c> SIZE=x",
            "MAIL FROM:<a@b.c> SIZE=1 SIZE=1",
            "MAIL FROM:<a@b.c> RET=NONE",
            "MAIL FROM:<a@b.c> ENVID=a+1",
            "RCPT TO:<a@b.c> NOTIFY=",
            "RCPT TO:<a@b.c> NOTIFY=NEVER,DELAY",
            "RCPT TO:<a@b.c> ORCPT=a@b.c",
            "RCPT TO:<a@b.c> ORCPT=rfc822;a=b",
            "BDAT",
            "BDAT +1",
            "BDAT -1",
            "BDAT 1 FIRST",
            "BDAT 99999999999999999999",
        ] {
            assert!(
                matches!(Command::parse(line.as_bytes()), Err(CommandError::InvalidArguments(_))),
                "{line}"
            );
        }
    }

    #[test]
    fn parses_dsn_parameters() {
        let mail = Command::parse(b"MAIL FROM:<a@b.c> RET=hdrs ENVID=QQ+2B314159");
        let Ok(Command::Mail { envelope, .. }) = mail else { panic!("{mail:?}") };
        let dsn = DsnParameters {
            ret: Some(Ret::Headers),
            envid: Some("QQ+2B314159".into()),
            recipients: Vec::new(),
        };
        assert_eq!(envelope.dsn, dsn);
        for (text, notify) in [
            ("never", Notify::default()),
            ("SUCCESS,delay", Notify { success: true, failure: false, delay: true }),
            ("FAILURE", Notify { failure: true, ..Notify::default() }),
        ] {
            let line = format!("RCPT TO:<a@b.c> NOTIFY={text} ORCPT=rfc822;a+2Bx@d.e");
            let dsn = DsnRecipient { notify: Some(notify), orcpt: Some("rfc822;a+2Bx@d.e".into()) };
            let expected = Command::Rcpt { recipient: "a@b.c".parse().unwrap(), dsn };
            assert_eq!(Command::parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn parses_bdat() {
        for (line, size, last) in
            [("BDAT 0 LAST", 0, true), ("bdat 1000", 1000, false), ("BDAT 1 last ", 1, true)]
        {
            assert_eq!(Command::parse(line.as_bytes()), Ok(Command::Bdat { size, last }), "{line}");
        }
    }
}
