//! Replies of an upstream (RFC 5321 section 4.2, RFC 2034), parsed leniently: Mailgun sends no enhanced codes.

/// One whole reply of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status `x.y.z` (RFC 3463), where the text starts with one that fits the code.
    pub enhanced_status: Option<String>,
    /// The text without codes, its lines joined by blanks, control characters made blanks.
    pub text: String,
}

impl Response {
    /// Returns whether the code is 2yz.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Returns whether the code is 354.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// Returns whether the server did not understand the command, or not at this point; such a reply is not about the
    /// message.
    pub fn is_command_error(&self) -> bool {
        let syntax = self.enhanced_status.as_ref().is_none_or(|status| status.starts_with("5.5."));
        matches!(self.code, 500 | 502 | 503) && syntax
    }

    /// Returns whether the code is 4yz or 5yz.
    pub fn is_negative(&self) -> bool {
        self.code >= 400
    }
}

/// As the server wrote it, in one line.
impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = &self.enhanced_status {
            write!(f, " {enhanced}")?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " {}", self.text) }
    }
}

/// Input that is not SMTP, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// No three digits at its beginning.
    #[error("the server's reply is not SMTP")]
    Malformed,
    /// More than [`ResponseReader::MAX_LINE_BYTES`] bytes without a line end, or more than [`ResponseReader::MAX_LINES`] lines.
    #[error("the server's reply is too long")]
    TooLong,
}

/// Puts lines together to a reply. The last line decides (RFC 5321 section 4.2.1): servers are seen that write other
/// codes, or none, in the lines before it.
#[derive(Debug, Default)]
pub struct ResponseReader {
    lines: Vec<ResponseLine>,
}

/// One line of a reply.
#[derive(Debug)]
struct ResponseLine {
    /// The status at its beginning, where it fits the line's code.
    enhanced_status: Option<String>,
    text: String,
}

impl ResponseReader {
    /// Longest line, in bytes.
    pub const MAX_LINE_BYTES: usize = 4096;
    /// Most lines of one reply.
    pub const MAX_LINES: usize = 128;

    /// Takes one line without its line end; the reply when it was the last.
    pub fn push_line(&mut self, line: &[u8]) -> Result<Option<Response>, ResponseError> {
        if self.lines.len() == Self::MAX_LINES {
            return Err(ResponseError::TooLong);
        }
        let Some((code, last, text)) = split_line(line) else {
            // Before any line with a code it could be a part of anything.
            if self.lines.is_empty() {
                return Err(ResponseError::Malformed);
            }
            self.lines.push(ResponseLine { enhanced_status: None, text: to_printable(line) });
            return Ok(None);
        };
        let text = to_printable(text);
        let enhanced_status = parse_enhanced_status(&text, code);
        self.lines.push(ResponseLine { enhanced_status, text });
        Ok(last.then(|| std::mem::take(self).into_response(code)))
    }

    fn into_response(self, code: u16) -> Response {
        let fits = |line: &&ResponseLine| {
            line.enhanced_status.as_ref().is_some_and(|status| is_status_class(status, code))
        };
        let enhanced_status =
            self.lines.iter().rev().find(fits).and_then(|line| line.enhanced_status.clone());
        let texts = self.lines.iter().map(|line| match &line.enhanced_status {
            Some(status) => line.text[status.len()..].trim_start(),
            None => &line.text,
        });
        let text = texts.collect::<Vec<_>>().join(" ").trim().to_owned();
        Response { code, enhanced_status, text }
    }
}

/// Code, whether the reply ends with the line, and text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok().filter(|code| (200..600).contains(code))?;
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

fn to_printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(char::is_control, " ")
}

fn is_status_class(status: &str, code: u16) -> bool {
    status.split('.').next().is_some_and(|class| class == (code / 100).to_string())
}

fn parse_enhanced_status(text: &str, code: u16) -> Option<String> {
    let word = text.split(' ').next()?;
    let mut parts = word.split('.');
    let class: u16 = parts.next()?.parse().ok()?;
    let numeric = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let fits = class == code / 100 && parts.clone().count() == 2 && parts.all(numeric);
    fits.then(|| word.to_owned())
}

/// Extensions in the reply to EHLO.
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
    pub fn add_ehlo_line(&mut self, line: &str) {
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

    fn read_lines(lines: &[&str]) -> Result<Option<Response>, ResponseError> {
        let mut reader = ResponseReader::default();
        lines.iter().try_fold(None, |_, line| reader.push_line(line.as_bytes()))
    }

    #[test]
    fn joins_reply_lines() {
        let reply = read_lines(&["550-5.1.1 no such", "550 5.1.1 user"]).unwrap().unwrap();
        assert_eq!(
            (reply.code, reply.enhanced_status.as_deref(), &*reply.text),
            (550, Some("5.1.1"), "no such user")
        );
        assert_eq!(read_lines(&["250 Great success"]).unwrap().unwrap().to_string(), "250 Great success");
        assert_eq!(read_lines(&["250"]).unwrap().unwrap().to_string(), "250");
        assert_eq!(read_lines(&["571 policy"]).unwrap().unwrap().code, 571);
        assert_eq!(read_lines(&["250-a"]).unwrap(), None);
    }

    #[test]
    fn last_line_has_the_code() {
        for (lines, expected) in [
            (&["450-4.2.1 busy", "550 5.1.1 no such user"][..], "550 5.1.1 busy no such user"),
            (&["550-5.1.1 no such user", "450 busy"], "450 no such user busy"),
            (&["250-a", "251 b"], "251 a b"),
            (&["550-5.1.1 a", "b", " c", "55", "550"], "550 5.1.1 a b  c 55"),
            (&["550-5.1.1 a", "550-5.7.1 b", "550 c"], "550 5.7.1 a b c"),
            (&["250-a", "999 b", "250_c", "250 d"], "250 a 999 b 250_c d"),
        ] {
            assert_eq!(read_lines(lines).unwrap().unwrap().to_string(), expected, "{lines:?}");
        }
    }

    #[test]
    fn recognizes_both_auth_forms() {
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
            capabilities.add_ehlo_line(line);
            assert_eq!((capabilities.auth_plain, capabilities.auth_login), (plain, login), "{line}");
        }
    }

    #[test]
    fn mismatched_enhanced_status_is_text() {
        let reply = read_lines(&["550 2.1.1 odd"]).unwrap().unwrap();
        assert_eq!((reply.enhanced_status, &*reply.text), (None, "2.1.1 odd"));
        assert_eq!(read_lines(&["250 2.0.0.1 x"]).unwrap().unwrap().enhanced_status, None);
    }

    #[test]
    fn rejects_replies_that_are_not_smtp() {
        for lines in [&["HTTP/1.1 400"][..], &["25"], &["250_a"], &["999 x"], &["é"]] {
            assert_eq!(read_lines(lines), Err(ResponseError::Malformed), "{lines:?}");
        }
        assert_eq!(read_lines(&["250-x"; 200]), Err(ResponseError::TooLong));
    }
}
