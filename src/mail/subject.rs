use mail_parser::{HeaderName, MessageParser};

/// The subject that a header section names, decoded, its first 200 characters; empty where there is none.
pub fn subject(header: &[u8]) -> String {
    let parser = MessageParser::new().header_text(HeaderName::Subject).default_header_ignore();
    let parsed = parser.parse_headers(header);
    let subject = parsed.as_ref().and_then(|message| message.subject()).unwrap_or_default();
    subject.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT).collect()
}

const SUBJECT: usize = 200;
