//! Settings of the header cleanup, and the tests for unusable fields.

use crate::message_id::MessageId;
use mail_parser::{Address, DateTime, HeaderName, MessageParser};

/// The changes that are made to a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCleanup {
    /// Fields that are taken out, of [`HeaderCleanup::DROPPABLE_HEADERS`].
    pub drop_headers: Vec<&'static str>,
    /// Whether an unusable `Message-ID`, `Date` or `From` is replaced (RFC 6409 section 8).
    pub replace_unusable: bool,
    /// Whether a first line of a mailbox file becomes a header field.
    pub convert_mbox_line: bool,
    /// Whether Odoo's `List-Unsubscribe` is written plainly.
    pub rewrite_list_unsubscribe: bool,
}

impl HeaderCleanup {
    /// Fields that may be taken out: they belong to the envelope, and show it to all recipients.
    pub const DROPPABLE_HEADERS: [&'static str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];

    /// No change at all.
    pub const NONE: Self = Self {
        drop_headers: Vec::new(),
        replace_unusable: false,
        convert_mbox_line: false,
        rewrite_list_unsubscribe: false,
    };
}

impl Default for HeaderCleanup {
    /// Every cleanup on.
    fn default() -> Self {
        Self {
            drop_headers: Self::DROPPABLE_HEADERS.to_vec(),
            replace_unusable: true,
            convert_mbox_line: true,
            rewrite_list_unsubscribe: true,
        }
    }
}

/// Returns whether a `Message-ID` identifies its message, in any form.
pub fn is_usable_message_id(value: &str) -> bool {
    let plain = strip_comments(value);
    let named = |word: &str| MessageId::parse(word).is_some() && word.contains(char::is_alphanumeric);
    // One that is too long for us may be fine for others.
    plain.len() > MAX_MESSAGE_ID_BYTES || plain.split_whitespace().any(named)
}

/// Whether a `Date` can be read, be it without its zone.
pub fn is_usable_date(value: &str) -> bool {
    let read = |text: &str| DateTime::parse_rfc822(text);
    let date = read(value).or_else(|| read(&format!("{value} +0000")));
    // A minute may have a leap second (RFC 5322 section 3.3).
    date.is_some_and(|date| date.second <= 60 && DateTime { second: date.second.min(59), ..date }.is_valid())
}

/// Returns whether a `From` names an author: an address, a local name without a domain, or a group. `value` follows the
/// field's colon.
pub fn is_usable_author(value: &[u8]) -> bool {
    let plain = strip_comments(&String::from_utf8_lossy(value));
    let field = format!("From:{plain}\r\n\r\n");
    let parser = MessageParser::new().header_address(HeaderName::From).default_header_ignore();
    let parsed = parser.parse_headers(field.as_bytes());
    let Some(authors) = parsed.as_ref().and_then(|message| message.from()) else { return false };
    let bracketed = plain.contains('<');
    let named = |text: Option<&str>| text.is_some_and(|text| text.contains(char::is_alphanumeric));
    match authors {
        Address::Group(groups) => !groups.is_empty(),
        Address::List(list) => list.iter().any(|author| {
            let local = |name: &str| !bracketed && !name.contains(char::is_whitespace);
            named(author.address()) || named(author.name().filter(|name| local(name)))
        }),
    }
}

/// A value without its comments (RFC 5322 section 3.2.2), which nest.
fn strip_comments(value: &str) -> String {
    let (mut plain, mut depth, mut escaped, mut quoted) = (String::new(), 0u32, false, false);
    for c in value.chars() {
        let was_escaped = escaped;
        escaped = c == '\\' && !was_escaped;
        match c {
            '"' if !was_escaped && depth == 0 => quoted = !quoted,
            '(' if !was_escaped && !quoted => depth += 1,
            ')' if !was_escaped && !quoted && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            plain.push(c);
        }
    }
    plain
}

/// Longer Message-IDs are not parsed.
const MAX_MESSAGE_ID_BYTES: usize = 900;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_unusable_message_ids() {
        for usable in [
            "<a@b>",
            "a@b",
            "<a>",
            "<a b@c>",
            " <a@b> (c)",
            "(c) <a@b>",
            "<a@b> <c@d>",
            "<(a)@b>",
            &"x".repeat(1000),
        ] {
            assert!(is_usable_message_id(usable), "{usable}");
        }
        for empty in ["", " ", "<>", "< >", "<@>", "(a@b)", "(a (b) \\) c) <>", "<><>", "\"\"", "<.>"] {
            assert!(!is_usable_message_id(empty), "{empty}");
        }
    }

    #[test]
    fn rejects_unparsable_dates() {
        for usable in [
            "Mon, 30 Nov 2026 12:00:00 +0000",
            "30 Nov 2026 12:00 +0100 (CET)",
            " Mon, 30 Nov 26 12:00:60 EST",
            "(early) 1 Jan 1970 00:00:00 -0000",
            "Mon, 30 Nov 2026 12:00:00",
            "Mon, 30 Nov 2026",
        ] {
            assert!(is_usable_date(usable), "{usable}");
        }
        for empty in [
            "",
            " ",
            "x",
            "yesterday",
            "(Mon, 30 Nov 2026 12:00:00 +0000)",
            "Mon, 99 Foo 2026 12:00:00 +0000",
            "0000-00-00 00:00:00",
            "Mon, 30 Nov 2026 99:00:00 +0000",
            "=?utf-8?q?Mon?=",
        ] {
            assert!(!is_usable_date(empty), "{empty}");
        }
    }

    #[test]
    fn rejects_authors_without_address() {
        for usable in [
            " a@b",
            " A <a@b>",
            " \"A (B)\" <root>",
            " root",
            " root (Cron Daemon)",
            " <a@[127.0.0.1]>",
            " A Group:;",
            " A Group: a@b, c@d;",
            " ,\r\n a@b",
            " =?utf-8?q?=C3=84?= <a@b>",
            " \u{e4}@\u{f6}",
        ] {
            assert!(is_usable_author(usable.as_bytes()), "{usable}");
        }
        for empty in ["", " ", " <>", " \"\" <>", " A <>", " (a@b)", " ,", " ;", " @", " A Shop", " <@>"] {
            assert!(!is_usable_author(empty.as_bytes()), "{empty}");
        }
    }
}
