//! What an upstream says to us (RFC 5321 section 4.2, RFC 2034), read leniently: Mailgun sends no enhanced codes.

use std::borrow::Cow;

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
    /// No three digits, or other digits than in the lines before.
    #[error("the server's reply is not SMTP")]
    Malformed,
    /// More than [`ResponseReader::LINE`] bytes without a line end, or more than [`ResponseReader::LINES`] lines.
    #[error("the server's reply is too long")]
    TooLong,
}

/// Puts lines together to a reply.
#[derive(Debug, Default)]
pub struct ResponseReader {
    code: Option<u16>,
    lines: usize,
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
        if self.lines == Self::LINES {
            return Err(Unreadable::TooLong);
        }
        let (code, last, text) = split(line).ok_or(Unreadable::Malformed)?;
        if self.code.is_some_and(|earlier| earlier != code) {
            return Err(Unreadable::Malformed);
        }
        self.code = Some(code);
        if self.lines == 0 {
            self.enhanced = enhanced_status(&text, code);
        } else {
            self.text.push(' ');
        }
        self.lines += 1;
        let text = match self.enhanced.as_ref().and_then(|enhanced| text.strip_prefix(enhanced.as_str())) {
            Some(rest) => rest.trim_start(),
            None => &text,
        };
        self.text.push_str(text);
        Ok(last.then(|| std::mem::take(self).finish(code)))
    }

    fn finish(self, code: u16) -> Response {
        Response { code, enhanced: self.enhanced, text: self.text.trim().to_owned() }
    }
}

fn split(line: &[u8]) -> Option<(u16, bool, Cow<'_, str>)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok().filter(|code| (200..600).contains(code))?;
    let (last, text) = match rest.split_first() {
        None => (true, rest),
        Some((b' ', text)) => (true, text),
        Some((b'-', text)) => (false, text),
        Some(_) => return None,
    };
    let mut text = String::from_utf8_lossy(text);
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ").into();
    }
    Some((code, last, text))
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
        match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "STARTTLS" => self.starttls = true,
            "PIPELINING" => self.pipelining = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "SIZE" => self.size = Some(words.next().and_then(|limit| limit.parse().ok()).unwrap_or(0)),
            "AUTH" => {
                for mechanism in words {
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
    fn a_status_that_does_not_fit_is_text() {
        let reply = read(&["550 2.1.1 odd"]).unwrap().unwrap();
        assert_eq!((reply.enhanced, &*reply.text), (None, "2.1.1 odd"));
        assert_eq!(read(&["250 2.0.0.1 x"]).unwrap().unwrap().enhanced, None);
    }

    #[test]
    fn what_is_not_smtp_is_said_so() {
        for lines in [&["HTTP/1.1 400"][..], &["25"], &["250-a", "251 b"], &["250_a"], &["999 x"], &["é"]] {
            assert_eq!(read(lines), Err(Unreadable::Malformed), "{lines:?}");
        }
        assert_eq!(read(&["250-x"; 200]), Err(Unreadable::TooLong));
    }
}
