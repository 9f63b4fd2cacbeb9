use std::fmt;
use std::ops::Range;

/// A whole header line that we add: `Name: value`, folded where needed, without its final CRLF. It cannot contain a
/// CR or LF that is not part of a fold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderLine(String);

impl HeaderLine {
    /// A line from a fixed name and a value; control characters in the value become blanks, so no value can end the
    /// line.
    pub fn new(name: &'static str, value: &str) -> Self {
        let mut line = String::with_capacity(name.len() + 2 + value.len());
        line.push_str(name);
        line.push_str(": ");
        push_without_controls(&mut line, value);
        Self(line)
    }

    /// Builds a line from parts that must not be broken; it is folded between them (RFC 5322 section 2.2.3).
    pub fn folded(name: &'static str, parts: &[&str]) -> Self {
        let length: usize = parts.iter().map(|part| FOLD_SEPARATOR.len() + part.len()).sum();
        let mut line = String::with_capacity(name.len() + length);
        line.push_str(name);
        for (place, part) in parts.iter().enumerate() {
            line.push_str(if place == 0 { ": " } else { FOLD_SEPARATOR });
            push_without_controls(&mut line, part);
        }
        Self(line)
    }

    /// The line without its CRLF.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeaderLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Appends a value, its control characters made blanks.
fn push_without_controls(line: &mut String, value: &str) {
    for (place, piece) in value.split(char::is_control).enumerate() {
        if place > 0 {
            line.push(' ');
        }
        line.push_str(piece);
    }
}

const FOLD_SEPARATOR: &str = "\r\n\t";

/// Header section of a message with CRLF line ends, unchanged.
#[derive(Clone, Copy, Debug)]
pub struct HeaderSection<'a> {
    message: &'a [u8],
    /// Start of its fields, after the lines of a mailbox file.
    start: usize,
    end: usize,
}

/// A header field, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField<'a> {
    /// The field's name as written.
    pub name: &'a str,
    /// Part after the colon, with its folds and without the final CRLF.
    pub value: &'a [u8],
    /// The whole field in the message, final CRLF included.
    pub span: Range<usize>,
}

impl<'a> HeaderSection<'a> {
    /// Finds the header section. A first line that is no header field means that there is none.
    pub fn parse(message: &'a [u8]) -> Self {
        Self::parse_at(message, 0)
    }

    /// Finds the header section. Lines of a mailbox file (see [`is_mbox_line`]) in front belong to it.
    pub fn parse_after_mbox_lines(message: &'a [u8]) -> Self {
        let mut start = 0;
        while is_mbox_line(&message[start..find_line_end(message, start)]) {
            start = find_line_end(message, start);
        }
        Self::parse_at(message, start)
    }

    /// The first line at `start` decides whether there is a header.
    fn parse_at(message: &'a [u8], start: usize) -> Self {
        let mut block = Self { message, start, end: message.len() };
        let mut at = start;
        while at < message.len() {
            let end = find_line_end(message, at);
            let blank = message[at..end] == *b"\r\n";
            if blank || (at == start && parse_field_name(&message[at..end]).is_none()) {
                block.end = at;
                break;
            }
            at = end;
        }
        block
    }

    /// Returns the section that ends at `end`, after lines have been removed from it.
    pub fn with_end(message: &'a [u8], end: usize) -> Self {
        Self { message, start: 0, end }
    }

    /// The lines of a mailbox file in front.
    pub fn mbox_lines(&self) -> &'a [u8] {
        &self.message[..self.start]
    }

    /// Returns the bytes of the section.
    pub fn as_bytes(&self) -> &'a [u8] {
        &self.message[..self.end]
    }

    /// Where the section ends: the blank line, or the first byte of a message without header.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Whether a blank line must follow lines that are put in front.
    pub fn is_absent(&self) -> bool {
        self.end == self.start && !self.message[self.end..].starts_with(b"\r\n")
    }

    /// Returns whether further bytes cannot change the section.
    pub fn is_complete(&self) -> bool {
        memchr::memchr(b'\n', &self.message[self.end..]).is_some()
    }

    /// The fields in their order; lines that are no fields are passed over.
    pub fn fields(&self) -> impl Iterator<Item = HeaderField<'a>> + use<'a> {
        let (message, limit) = (self.message, self.end);
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < limit {
                let start = at;
                at = find_line_end(message, at);
                let Some(name) = parse_field_name(&message[start..at]) else { continue };
                while at < limit && matches!(message[at], b' ' | b'\t') {
                    at = find_line_end(message, at);
                }
                let colon = start + memchr::memchr(b':', &message[start..at])?;
                let value = &message[colon + 1..at];
                let value = value.strip_suffix(b"\r\n").unwrap_or(value);
                return Some(HeaderField { name, value, span: start..at });
            }
            None
        })
    }

    /// The first field of that name, without regard to case.
    pub fn find_field(&self, name: &str) -> Option<HeaderField<'a>> {
        self.fields().find(|field| field.name.eq_ignore_ascii_case(name))
    }
}

impl HeaderField<'_> {
    /// Returns the value as text: unfolded, trimmed, invalid UTF-8 replaced, control characters as spaces.
    pub fn to_text(&self) -> String {
        let text = String::from_utf8_lossy(self.value).replace("\r\n", "");
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Whether a line in front of a header is one that mailbox files have there, maybe quoted: `From root Mon Nov 30 ...`. A
/// field `From :` is none.
pub fn is_mbox_line(line: &[u8]) -> bool {
    let quotes = line.iter().take_while(|byte| **byte == b'>').count();
    line[quotes..].starts_with(b"From ") && parse_field_name(line).is_none()
}

fn find_line_end(message: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &message[at..]).map_or(message.len(), |newline| at + newline + 1)
}

/// The name of the field that starts this line (RFC 5322 section 2.2; blanks before the colon are tolerated).
fn parse_field_name(line: &[u8]) -> Option<&str> {
    let colon = memchr::memchr(b':', line)?;
    let name = std::str::from_utf8(&line[..colon]).ok()?.trim_end_matches([' ', '\t']);
    let fine = !name.is_empty() && name.bytes().all(|b| (33..=126).contains(&b));
    fine.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_spans() {
        let message = b"Subject: a\r\n b\r\nmessage-id : <x@y>\r\njunk\r\nTo:\r\n\r\nNo: field\r\n";
        let block = HeaderSection::parse(message);
        let fields: Vec<_> = block.fields().collect();
        assert_eq!(fields.iter().map(|f| f.name).collect::<Vec<_>>(), ["Subject", "message-id", "To"]);
        assert_eq!(&message[fields[0].span.clone()], b"Subject: a\r\n b\r\n");
        assert_eq!(fields[0].to_text(), "a b");
        assert_eq!(block.find_field("Message-ID").map(|f| f.to_text()), Some("<x@y>".into()));
        assert_eq!(&message[block.end()..], b"\r\nNo: field\r\n");
    }

    #[test]
    fn parses_messages_without_header() {
        for (message, missing) in
            [(&b"just text\r\n"[..], true), (b"\r\ntext\r\n", false), (b"", true), (b"A: b\r\n", false)]
        {
            assert_eq!(HeaderSection::parse(message).is_absent(), missing, "{message:?}");
        }
    }

    #[test]
    fn section_is_complete_with_its_end() {
        for message in [
            "A: b\r\nC: d\r\n\r\nE: f\r\n",
            "just text\r\nA: b\r\n\r\n",
            "\r\nA: b\r\n",
            "From a\r\n>From b\r\nA: b\r\n\r\nC: d\r\n",
            "From a\r\njust text\r\nA: b\r\n\r\n",
            "From : a\r\n\r\nA: b\r\n",
        ] {
            for find in [HeaderSection::parse, HeaderSection::parse_after_mbox_lines] {
                let whole = find(message.as_bytes());
                let sections = (1..=message.len()).map(|cut| find(&message.as_bytes()[..cut]));
                let seen: Vec<_> = sections.filter(HeaderSection::is_complete).collect();
                assert!(
                    !seen.is_empty() && seen.iter().all(|block| block.end() == whole.end()),
                    "{message:?}"
                );
                assert!(seen.iter().all(|block| block.is_absent() == whole.is_absent()), "{message:?}");
            }
        }
    }

    #[test]
    fn separates_mbox_lines_from_fields() {
        for (message, lines, end, missing) in [
            ("From a b\r\nA: b\r\n\r\nc", "From a b\r\n", 16, false),
            ("From a b: c\r\n>>From x\r\nhi\r\nA: b\r\n", "From a b: c\r\n>>From x\r\n", 23, true),
            ("From a\r\n\r\nhi", "From a\r\n", 8, false),
            ("From a", "From a", 6, true),
            ("From : a@b\r\n\r\n", "", 12, false),
            ("From: a@b\r\n\r\n", "", 11, false),
            (">From: a\r\n\r\n", "", 10, false),
            ("from a\r\n\r\n", "", 0, true),
            ("From\r\n", "", 0, true),
        ] {
            let block = HeaderSection::parse_after_mbox_lines(message.as_bytes());
            assert_eq!(block.mbox_lines(), lines.as_bytes(), "{message:?}");
            assert_eq!((block.end(), block.is_absent()), (end, missing), "{message:?}");
        }
    }

    #[test]
    fn values_cannot_break_lines() {
        let line = HeaderLine::new("X-A", "b\r\nBcc: evil@example.net\u{85}");
        assert_eq!(line.to_string(), "X-A: b  Bcc: evil@example.net ");
        let line = HeaderLine::folded("Received", &["from a", "by b\nc"]);
        assert_eq!(line.to_string(), "Received: from a\r\n\tby b c");
    }
}
