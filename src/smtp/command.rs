//! One command line of a client, parsed (RFC 5321 section 4.1).

use crate::mail::{BodyType, Mailbox};

/// A command with its arguments checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// EHLO with the client's name.
    Ehlo(&'a str),
    /// HELO with the client's name.
    Helo(&'a str),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954) with its initial response, if it came along.
    Auth {
        /// How.
        mechanism: Mechanism,
        /// Base64, `=` for an empty one.
        initial: Option<&'a str>,
    },
    /// MAIL FROM.
    Mail {
        /// `None` for `<>`.
        sender: Option<Mailbox>,
        /// Bytes announced with SIZE= (RFC 1870).
        size: Option<u64>,
        /// BODY= (RFC 6152).
        body: BodyType,
        /// SMTPUTF8 (RFC 6531).
        smtputf8: bool,
    },
    /// RCPT TO.
    Rcpt(Mailbox),
    /// DATA.
    Data,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY or EXPN.
    Vrfy,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
}

/// How a client logs in. CRAM-MD5 is left out on purpose: it needs the password in clear on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The older one that many applications use.
    Login,
    /// By the certificate that TLS was set up with (RFC 4422 appendix A).
    External,
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Not a verb that we know, or not text at all.
    Unknown,
    /// The arguments are missing or wrong; what would be right.
    Arguments(&'static str),
    /// The sender's address is none.
    Sender,
    /// The recipient's address is none.
    Recipient,
    /// A parameter that we did not offer.
    Parameter,
    /// A login mechanism that we do not have.
    Mechanism,
}

impl<'a> Command<'a> {
    /// Parses a line without its line end.
    pub fn parse(line: &'a [u8]) -> Result<Self, Syntax> {
        let line = std::str::from_utf8(line).map_err(|_| Syntax::Unknown)?.trim_end_matches([' ', '\t']);
        let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim_start();
        match verb.len() {
            4 => Self::parse_short(verb, rest),
            8 if verb.eq_ignore_ascii_case("STARTTLS") => alone(Self::StartTls, rest),
            _ => Err(Syntax::Unknown),
        }
    }

    fn parse_short(verb: &str, rest: &'a str) -> Result<Self, Syntax> {
        let is = |word| verb.eq_ignore_ascii_case(word);
        if is("MAIL") {
            mail(rest)
        } else if is("RCPT") {
            rcpt(rest)
        } else if is("DATA") {
            alone(Self::Data, rest)
        } else if is("EHLO") {
            name(rest).map(Self::Ehlo)
        } else if is("HELO") {
            name(rest).map(Self::Helo)
        } else if is("AUTH") {
            auth(rest)
        } else if is("RSET") {
            alone(Self::Rset, rest)
        } else if is("NOOP") {
            Ok(Self::Noop)
        } else if is("VRFY") || is("EXPN") {
            Ok(Self::Vrfy)
        } else if is("HELP") {
            Ok(Self::Help)
        } else if is("QUIT") {
            alone(Self::Quit, rest)
        } else {
            Err(Syntax::Unknown)
        }
    }
}

fn alone<'a>(command: Command<'a>, rest: &str) -> Result<Command<'a>, Syntax> {
    if rest.is_empty() { Ok(command) } else { Err(Syntax::Arguments("This command takes no parameters")) }
}

/// A domain or an address literal. Clients send all sorts of things here; what cannot harm a trail is taken.
fn name(rest: &str) -> Result<&str, Syntax> {
    let fine = !rest.is_empty() && rest.len() <= 255 && !rest.chars().any(|c| c.is_control() || c == ' ');
    if fine { Ok(rest) } else { Err(Syntax::Arguments("Give your host name: EHLO host.example.com")) }
}

fn auth(rest: &str) -> Result<Command<'_>, Syntax> {
    let (mechanism, initial) = match rest.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.trim())),
        None => (rest, None),
    };
    let mechanism = match mechanism {
        "" => return Err(Syntax::Arguments("Name a mechanism: AUTH PLAIN or AUTH LOGIN")),
        m if m.eq_ignore_ascii_case("PLAIN") => Mechanism::Plain,
        m if m.eq_ignore_ascii_case("LOGIN") => Mechanism::Login,
        m if m.eq_ignore_ascii_case("EXTERNAL") => Mechanism::External,
        _ => return Err(Syntax::Mechanism),
    };
    Ok(Command::Auth { mechanism, initial })
}

fn mail(rest: &str) -> Result<Command<'_>, Syntax> {
    let (path, parameters) = path(rest, "FROM:")
        .ok_or(Syntax::Arguments("Write MAIL FROM:<address>"))?
        .map_err(|()| Syntax::Sender)?;
    let sender = match path {
        "" => None,
        address => Some(address.parse().map_err(|_| Syntax::Sender)?),
    };
    let (mut size, mut body, mut smtputf8) = (None, BodyType::SevenBit, false);
    for parameter in parameters.split_ascii_whitespace() {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if key.eq_ignore_ascii_case("SIZE") {
            size = Some(value.parse().map_err(|_| Syntax::Arguments("SIZE= takes a number of bytes"))?);
        } else if key.eq_ignore_ascii_case("BODY") {
            body = match value {
                v if v.eq_ignore_ascii_case("7BIT") => BodyType::SevenBit,
                v if v.eq_ignore_ascii_case("8BITMIME") => BodyType::EightBitMime,
                _ => return Err(Syntax::Arguments("BODY= takes 7BIT or 8BITMIME")),
            };
        } else if key.eq_ignore_ascii_case("SMTPUTF8") && value.is_empty() {
            smtputf8 = true;
        } else if !key.eq_ignore_ascii_case("AUTH") {
            // AUTH= (RFC 4954 section 5) is read and means nothing to us.
            return Err(Syntax::Parameter);
        }
    }
    Ok(Command::Mail { sender, size, body, smtputf8 })
}

fn rcpt(rest: &str) -> Result<Command<'_>, Syntax> {
    let (path, parameters) = path(rest, "TO:")
        .ok_or(Syntax::Arguments("Write RCPT TO:<address>"))?
        .map_err(|()| Syntax::Recipient)?;
    if !parameters.is_empty() {
        return Err(Syntax::Parameter);
    }
    path.parse().map(Command::Rcpt).map_err(|_| Syntax::Recipient)
}

/// Splits `FROM:<path> parameters` into path and parameters. A blank behind the colon and missing brackets are
/// tolerated: legacy applications write both. `None`: the keyword is missing.
fn path<'a>(rest: &'a str, keyword: &str) -> Option<Result<(&'a str, &'a str), ()>> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_start();
    let Some(inner) = rest.strip_prefix('<') else {
        let (path, parameters) = rest.split_once(' ').unwrap_or((rest, ""));
        return Some(if path.is_empty() { Err(()) } else { Ok((path, parameters.trim())) });
    };
    let Some(close) = closing_bracket(inner) else { return Some(Err(())) };
    let (path, parameters) = (&inner[..close], &inner[close + 1..]);
    // A source route (RFC 5321 section 4.1.1.3) is to be ignored.
    let path = if path.starts_with('@') { path.split_once(':').map_or(path, |(_, path)| path) } else { path };
    let separated = parameters.is_empty() || parameters.starts_with(' ');
    Some(if separated { Ok((path, parameters.trim())) } else { Err(()) })
}

fn closing_bracket(inner: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    inner.bytes().position(|b| {
        let closes = b == b'>' && !quoted;
        if b == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && b == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_odoo_sends_is_understood() {
        assert_eq!(Command::parse(b"ehlo [127.0.0.1]"), Ok(Command::Ehlo("[127.0.0.1]")));
        let Ok(Command::Mail { sender: Some(sender), size, .. }) =
            Command::parse(b"mail FROM:<bounce@example.com> size=4786")
        else {
            panic!()
        };
        assert_eq!((sender.as_str(), size), ("bounce@example.com", Some(4786)));
        assert_eq!(
            Command::parse(b"rcpt TO:<a@example.org>"),
            Ok(Command::Rcpt("a@example.org".parse().unwrap()))
        );
        let utf8 = Command::parse("mail FROM:<jiří@example.com> SMTPUTF8 BODY=8BITMIME".as_bytes());
        assert!(matches!(
            utf8,
            Ok(Command::Mail { smtputf8: true, body: BodyType::EightBitMime, size: None, .. })
        ));
    }

    #[test]
    fn legacy_spellings_are_tolerated() {
        for line in
            ["MAIL FROM: <a@b.c>", "mail from:a@b.c", "MAIL FROM: a@b.c SIZE=1", "MAIL FROM:<@x,@y:a@b.c>"]
        {
            let Ok(Command::Mail { sender, .. }) = Command::parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(sender.map(|s| s.to_string()), Some("a@b.c".into()), "{line}");
        }
        assert!(matches!(Command::parse(b"MAIL FROM:<>"), Ok(Command::Mail { sender: None, .. })));
        assert!(Command::parse(b"RCPT TO:<\"a>b\"@c.d>").is_ok());
    }

    #[test]
    fn bad_lines_say_why() {
        for (line, why) in [
            (&b""[..], Syntax::Unknown),
            (b"GET / HTTP/1.1", Syntax::Unknown),
            (b"\xff\xfe", Syntax::Unknown),
            (b"MAIL FROM:<a@b.c> NOTIFY=NEVER", Syntax::Parameter),
            (b"MAIL FROM:<a b@c>", Syntax::Sender),
            (b"MAIL FROM:<a@b.c", Syntax::Sender),
            (b"MAIL FROM:<a@b.c>SIZE=1", Syntax::Sender),
            (b"RCPT TO:<>", Syntax::Recipient),
            (b"RCPT TO:<a\0@b.c>", Syntax::Recipient),
            (b"AUTH CRAM-MD5", Syntax::Mechanism),
        ] {
            assert_eq!(Command::parse(line), Err(why), "{:?}", String::from_utf8_lossy(line));
        }
        for line in
            ["DATA now", "EHLO", "EHLO a b", "MAIL TO:<a@b.c>", "RCPT <a@b.c>", "MAIL FROM:<a@b.c> SIZE=x"]
        {
            assert!(matches!(Command::parse(line.as_bytes()), Err(Syntax::Arguments(_))), "{line}");
        }
    }
}
