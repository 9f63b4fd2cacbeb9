//! What an upstream says to us (RFC 5321 section 4.2, RFC 2034), read leniently: Mailgun sends no enhanced codes.

/// One whole reply of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status `x.y.z` (RFC 3463), where the text starts with one that fits the code.
    pub enhanced: Option<String>,
    /// The text without codes, its lines joined by blanks, control characters made blanks.
    pub text: String,
}

impl Response {
    /// 2yz.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 354.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// Whether the server did not understand what it was told, or not there: it says nothing about the mail.
    pub fn is_confused(&self) -> bool {
        let syntax = self.enhanced.as_ref().is_none_or(|status| status.starts_with("5.5."));
        matches!(self.code, 500 | 502 | 503) && syntax
    }

    /// 4yz and 5yz.
    pub fn is_negative(&self) -> bool {
        self.code >= 400
    }
}

/// As the server wrote it, in one line.
impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = &self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " {}", self.text) }
    }
}

/// The peer does not speak SMTP, or too much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No three digits at its beginning.
    #[error("the server's reply is not SMTP")]
    Malformed,
    /// More than [`ResponseReader::LINE`] bytes without a line end, or more than [`ResponseReader::LINES`] lines.
    #[error("the server's reply is too long")]
    TooLong,
}

/// Puts lines together to a reply. The last line decides (RFC 5321 section 4.2.1): servers are seen that write other
/// codes, or none, in the lines before it.
#[derive(Debug, Default)]
pub struct ResponseReader {
    lines: Vec<Line>,
}

/// One line of a reply.
#[derive(Debug)]
struct Line {
    /// The status at its beginning, where it fits the line's code.
    enhanced: Option<String>,
    text: String,
}

impl ResponseReader {
    /// Longest line, in bytes.
    pub const LINE: usize = 4096;
    /// Most lines of one reply.
    pub const LINES: usize = 128;

    /// Takes one line without its line end; the reply when it was the last.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Response>, Unreadable> {
        if self.lines.len() == Self::LINES {
            return Err(Unreadable::TooLong);
        }
        let Some((code, last, text)) = split(line) else {
            // Before any line with a code it could be a part of anything.
            if self.lines.is_empty() {
                return Err(Unreadable::Malformed);
            }
            self.lines.push(Line { enhanced: None, text: printable(line) });
            return Ok(None);
        };
        let text = printable(text);
        let enhanced = enhanced_status(&text, code);
        self.lines.push(Line { enhanced, text });
        Ok(last.then(|| std::mem::take(self).finish(code)))
    }

    fn finish(self, code: u16) -> Response {
        let fits = |line: &&Line| line.enhanced.as_ref().is_some_and(|status| is_of_class(status, code));
        let enhanced = self.lines.iter().rev().find(fits).and_then(|line| line.enhanced.clone());
        let texts = self.lines.iter().map(|line| match &line.enhanced {
            Some(status) => line.text[status.len()..].trim_start(),
            None => &line.text,
        });
        let text = texts.collect::<Vec<_>>().join(" ").trim().to_owned();
        Response { code, enhanced, text }
    }
}

/// Code, whether the reply ends with the line, and text.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok().filter(|code| (200..600).contains(code))?;
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(char::is_control, " ")
}

fn is_of_class(status: &str, code: u16) -> bool {
    status.split('.').next().is_some_and(|class| class == (code / 100).to_string())
}

fn enhanced_status(text: &str, code: u16) -> Option<String> {
    let word = text.split(' ').next()?;
    let mut parts = word.split('.');
    let class: u16 = parts.next()?.parse().ok()?;
    let numeric = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let fits = class == code / 100 && parts.clone().count() == 2 && parts.all(numeric);
    fits.then(|| word.to_owned())
}

/// What an upstream offered in its answer to EHLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// SIZE (RFC 1870); its limit, 0 for none.
    pub size: Option<u64>,
    /// AUTH PLAIN (RFC 4616).
    pub auth_plain: bool,
    /// AUTH LOGIN.
    pub auth_login: bool,
}

impl Capabilities {
    /// Takes one line of the answer, without its code.
    pub fn note(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let mut keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        // `AUTH=LOGIN PLAIN` is from before RFC 2554, and still offered for the clients of that time.
        let first = keyword.strip_prefix("AUTH=").map(str::to_owned);
        if first.is_some() {
            keyword.truncate("AUTH".len());
        }
        match keyword.as_str() {
            "STARTTLS" => self.starttls = true,
            "PIPELINING" => self.pipelining = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "SIZE" => self.size = Some(words.next().and_then(|limit| limit.parse().ok()).unwrap_or(0)),
            "AUTH" => {
                for mechanism in first.as_deref().into_iter().chain(words) {
                    self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                    self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Response>, Unreadable> {
        let mut reader = ResponseReader::default();
        lines.iter().try_fold(None, |_, line| reader.line(line.as_bytes()))
    }

    #[test]
    fn replies_are_put_together() {
        let reply = read(&["550-5.1.1 no such", "550 5.1.1 user"]).unwrap().unwrap();
        assert_eq!(
            (reply.code, reply.enhanced.as_deref(), &*reply.text),
            (550, Some("5.1.1"), "no such user")
        );
        assert_eq!(read(&["250 Great success"]).unwrap().unwrap().to_string(), "250 Great success");
        assert_eq!(read(&["250"]).unwrap().unwrap().to_string(), "250");
        assert_eq!(read(&["571 policy"]).unwrap().unwrap().code, 571);
        assert_eq!(read(&["250-a"]).unwrap(), None);
    }

    #[test]
    fn the_last_line_decides() {
        for (lines, expected) in [
            (&["450-4.2.1 busy", "550 5.1.1 no such user"][..], "550 5.1.1 busy no such user"),
            (&["550-5.1.1 no such user", "450 busy"], "450 no such user busy"),
            (&["250-a", "251 b"], "251 a b"),
            (&["550-5.1.1 a", "b", " c", "55", "550"], "550 5.1.1 a b  c 55"),
            (&["550-5.1.1 a", "550-5.7.1 b", "550 c"], "550 5.7.1 a b c"),
            (&["250-a", "999 b", "250_c", "250 d"], "250 a 999 b 250_c d"),
        ] {
            assert_eq!(read(lines).unwrap().unwrap().to_string(), expected, "{lines:?}");
        }
    }

    #[test]
    fn logins_are_offered_in_two_forms() {
        for (line, plain, login) in [
            ("AUTH PLAIN LOGIN", true, true),
            ("auth login", false, true),
            ("AUTH=PLAIN LOGIN", true, true),
            ("auth=login", false, true),
            ("AUTH= PLAIN", true, false),
            ("AUTH CRAM-MD5", false, false),
            ("AUTHINFO PLAIN", false, false),
            ("X-AUTH=PLAIN", false, false),
        ] {
            let mut capabilities = Capabilities::default();
            capabilities.note(line);
            assert_eq!((capabilities.auth_plain, capabilities.auth_login), (plain, login), "{line}");
        }
    }

    #[test]
    fn a_status_that_does_not_fit_is_text() {
        let reply = read(&["550 2.1.1 odd"]).unwrap().unwrap();
        assert_eq!((reply.enhanced, &*reply.text), (None, "2.1.1 odd"));
        assert_eq!(read(&["250 2.0.0.1 x"]).unwrap().unwrap().enhanced, None);
    }

    #[test]
    fn what_is_not_smtp_is_said_so() {
        for lines in [&["HTTP/1.1 400"][..], &["25"], &["250_a"], &["999 x"], &["é"]] {
            assert_eq!(read(lines), Err(Unreadable::Malformed), "{lines:?}");
        }
        assert_eq!(read(&["250-x"; 200]), Err(Unreadable::TooLong));
    }
}
