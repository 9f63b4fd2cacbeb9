use std::fmt;
use std::str::FromStr;

/// An address of the envelope: `local-part@domain` (RFC 5321 section 4.1.2, RFC 6531 section 3.3), kept as it was
/// written. `postmaster` without a domain is one too.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox(Box<str>);

impl Mailbox {
    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the last `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }

    /// What stands behind the last `@`; nothing for a bare `postmaster`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// In lower case, for comparing: providers and Odoo treat addresses so.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }

    /// Whether it can travel without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// Whether it fits `pattern`: an address, `*@domain`, `*@*.domain` or `*`, without regard to case.
    pub fn matches(&self, pattern: &str) -> bool {
        let (address, pattern) = (self.folded(), pattern.to_lowercase());
        match pattern.split_once('*') {
            None => address == pattern,
            Some(("", "")) => true,
            Some((head, tail)) => match tail.split_once('*') {
                None => {
                    address.len() >= head.len() + tail.len()
                        && address.starts_with(head)
                        && address.ends_with(tail)
                }
                Some((middle, end)) => address
                    .strip_prefix(head)
                    .and_then(|rest| rest.strip_suffix(end))
                    .is_some_and(|rest| rest.contains(middle)),
            },
        }
    }
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAMailbox {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// Longer than 255 bytes before or behind the `@`. RFC 5321 section 4.5.3.1.1 asks for 64 before it, which reply and
    /// bounce addresses with a token in them exceed.
    #[error("the address is too long")]
    TooLong,
    /// No `@`, or nothing before or behind it.
    #[error("the address lacks its local part or its domain")]
    Incomplete,
    /// A control character, an unquoted blank or a bracket.
    #[error("the address holds a character that is not allowed there")]
    Character,
}

impl FromStr for Mailbox {
    type Err = NotAMailbox;

    fn from_str(text: &str) -> Result<Self, NotAMailbox> {
        if text.is_empty() {
            return Err(NotAMailbox::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(NotAMailbox::Character);
        }
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self(text.into()));
        }
        let (local, domain) = text.rsplit_once('@').ok_or(NotAMailbox::Incomplete)?;
        if local.is_empty() || domain.is_empty() {
            return Err(NotAMailbox::Incomplete);
        }
        if local.len() > MAX_LOCAL_PART || domain.len() > MAX_DOMAIN {
            return Err(NotAMailbox::TooLong);
        }
        if !(local_part_is_valid(local) && domain_is_valid(domain)) {
            return Err(NotAMailbox::Character);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn local_part_is_valid(local: &str) -> bool {
    match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut escaped = false;
            let plain = quoted.chars().all(|c| {
                let fine = escaped || c != '"';
                escaped = !escaped && c == '\\';
                fine
            });
            plain && !escaped
        }
        None => !local.chars().any(|c| c.is_whitespace() || "<>()[]@:;,\\\"".contains(c)),
    }
}

/// A host name or an address literal in brackets; more is left to whoever resolves it.
fn domain_is_valid(domain: &str) -> bool {
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = literal.unwrap_or(domain);
    let forbidden =
        |c: char| c.is_whitespace() || "<>()[]@;,\\\"".contains(c) || (c == ':' && literal.is_none());
    !inner.is_empty() && !inner.contains(forbidden)
}

const MAX_LOCAL_PART: usize = 255;
const MAX_DOMAIN: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_as_written() {
        for text in [
            "ada@example.net",
            "\"odd name\"@example.net",
            "\"a@b\"@example.net",
            "a+b@[127.0.0.1]",
            "a@[IPv6:::1]",
            "Postmaster",
            "jiří@bücher.example",
        ] {
            assert_eq!(text.parse::<Mailbox>().map(|m| m.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn nothing_that_could_break_a_line_is_an_address() {
        for text in [
            "",
            "ada",
            "@b",
            "a@",
            "a b@c",
            "a@b c",
            "a\r\n@b",
            "a@b\0",
            "a>@b",
            "\"a\"b\"@c",
            "\"a\\\"@c",
            "@a@b",
            "a@b@c",
            "a@b:25",
        ] {
            assert!(text.parse::<Mailbox>().is_err(), "{text:?}");
        }
        assert_eq!(format!("{}@example.net", "a".repeat(256)).parse::<Mailbox>(), Err(NotAMailbox::TooLong));
    }

    #[test]
    fn patterns_fit_whole_addresses() {
        let ada: Mailbox = "Ada@mg.Example.com".parse().unwrap();
        for pattern in ["*", "*@mg.example.com", "ada@mg.example.com", "*@*.example.com", "ada@*"] {
            assert!(ada.matches(pattern), "{pattern}");
        }
        for pattern in ["*@example.com", "bob@*", "ada@mg.example.co", "", "*@*.net"] {
            assert!(!ada.matches(pattern), "{pattern}");
        }
    }
}
