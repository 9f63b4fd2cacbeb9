//! A mail made anew from its parts, where its provider does not hand on how it came. What a reader sees is the same, the
//! bytes are not: signatures of the sender's do not hold any more.

use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::headers::{Header, HeaderType};
use mail_builder::mime::{BodyPart, MimePart};
use mail_parser::{Addr, MessageParser};

/// The parts of a mail.
#[derive(Debug, Default)]
pub struct MailParts {
    /// Its header fields in their order, decoded or as they came.
    pub headers: Vec<(String, String)>,
    /// Its text.
    pub plain: Option<String>,
    /// Its text as HTML.
    pub html: Option<String>,
    /// Its files, in their order.
    pub attachments: Vec<Attachment>,
}

/// A file of a mail.
#[derive(Debug)]
pub struct Attachment {
    /// Its name.
    pub name: Option<String>,
    /// Its type with parameters; anything else counts as bytes of no known type.
    pub content_type: String,
    /// What the HTML names it by, without brackets.
    pub content_id: Option<String>,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// The mail, with CRLF line ends.
pub fn build_mime(parsed: MailParts) -> Vec<u8> {
    let MailParts { headers, plain, html, attachments } = parsed;
    let mut mail = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| is_copied_header(name)) {
        mail.extend_from_slice(name.as_bytes());
        mail.extend_from_slice(b": ");
        header_value(name, value).write_header(&mut mail, name.len() + 2);
    }
    mail.extend_from_slice(b"MIME-Version: 1.0\r\n");
    let shown = |attachment: &Attachment| {
        let id = attachment.content_id.as_ref();
        id.zip(html.as_ref()).is_some_and(|(id, html)| html.contains(&format!("cid:{id}")))
    };
    let (inline, files): (Vec<_>, Vec<_>) = attachments.into_iter().partition(shown);
    let text = plain.map(|text| MimePart::new("text/plain", text));
    let html = html.map(|html| {
        let inline: Vec<_> = inline.into_iter().map(|inline| attachment_part(inline, true)).collect();
        multipart("multipart/related", MimePart::new("text/html", html), inline)
    });
    let body = match (text, html) {
        (Some(text), Some(html)) => multipart("multipart/alternative", text, vec![html]),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => MimePart::new("text/plain", String::new()),
    };
    let files = files.into_iter().map(|file| attachment_part(file, false)).collect();
    multipart("multipart/mixed", body, files).write_part(&mut mail);
    mail
}

fn multipart<'x>(kind: &'static str, first: MimePart<'x>, others: Vec<MimePart<'x>>) -> MimePart<'x> {
    if others.is_empty() {
        return first;
    }
    MimePart::new(kind, std::iter::once(first).chain(others).collect::<Vec<_>>())
}

fn attachment_part(attachment: Attachment, inline: bool) -> MimePart<'static> {
    let Attachment { name, content_type, content_id, bytes } = attachment;
    let plain = content_type.contains('/') && content_type.bytes().all(|byte| (32..127).contains(&byte));
    let content_type = if plain { content_type } else { "application/octet-stream".to_owned() };
    // A message in a message may not be encoded (RFC 2046 section 5.2.1).
    let message = content_type.to_ascii_lowercase().starts_with("message/");
    let header = vec![("Content-Type".into(), HeaderType::Raw(Raw::new(content_type)))];
    let mut part = MimePart { headers: header, contents: BodyPart::Binary(bytes.into()) };
    if message {
        part = part.transfer_encoding("8bit");
    }
    if let Some(id) =
        content_id.filter(|id| !id.is_empty() && id.bytes().all(|byte| (33..127).contains(&byte)))
    {
        part = part.cid(id);
    }
    match name.filter(|name| !name.is_empty()) {
        _ if inline => part.inline(),
        Some(name) => part.attachment(name),
        // Without its disposition a text would be read as a part of the mail's own.
        None => part.header("Content-Disposition", ContentType::new("attachment")),
    }
}

/// What says how the body was written does not hold for the new one.
fn is_copied_header(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let plain = !name.is_empty() && name.bytes().all(|byte| (33..127).contains(&byte) && byte != b':');
    plain && !lower.starts_with("content-") && lower != "mime-version"
}

/// A value as it is to be written: what is ASCII stays as it came.
fn header_value(name: &str, value: &str) -> HeaderType<'static> {
    let value: String =
        value.replace("\r\n", "").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.is_ascii() {
        return HeaderType::Raw(Raw::new(value));
    }
    let named = ADDRESS_HEADERS.iter().any(|known| name.eq_ignore_ascii_case(known));
    match parse_address_list(&value).filter(|_| named) {
        Some(addresses) => HeaderType::Address(addresses),
        None => HeaderType::Text(Text::new(value)),
    }
}

/// The mailboxes that a decoded field names; `None` where one has no address.
fn parse_address_list(value: &str) -> Option<Address<'static>> {
    let field = format!("To: {value}\r\n\r\n");
    let parsed = MessageParser::new().with_address_headers().parse_headers(field.as_bytes())?;
    let all = parsed.to()?;
    let one = |addr: &Addr<'_>| {
        let name = addr.name().map(str::to_owned);
        Some(Address::new_address(name, addr.address()?.to_owned()))
    };
    let list: Vec<_> = all.iter().map(one).collect::<Option<_>>()?;
    (!list.is_empty()).then(|| Address::new_list(list))
}

const ADDRESS_HEADERS: [&str; 8] =
    ["From", "To", "Cc", "Reply-To", "Sender", "Resent-From", "Resent-To", "Resent-Cc"];

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::{Message, MimeHeaders, PartType};

    fn header_pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn parse_mail(mail: &[u8]) -> Message<'_> {
        let lines = mail.split(|byte| *byte == b'\n');
        assert!(lines.clone().all(|line| line.len() <= 998), "a line is too long");
        MessageParser::default().parse(mail).unwrap()
    }

    #[test]
    fn round_trips_all_parts() {
        let picture = Attachment {
            name: Some("logo.png".into()),
            content_type: "image/png".into(),
            content_id: Some("logo@x".into()),
            bytes: (0..=255).cycle().take(5000).collect(),
        };
        let file = Attachment {
            name: Some("Größe.pdf".into()),
            content_type: "application/pdf; x=y".into(),
            content_id: None,
            bytes: b"%PDF\n\0\xff".to_vec(),
        };
        let inner = Attachment {
            name: Some("inner.eml".into()),
            content_type: "message/rfc822".into(),
            content_id: Some("never shown@x".into()),
            bytes: b"Subject: inner\r\n\r\nhi\r\n".to_vec(),
        };
        let plain = format!("Grüße\r\n.\r\n{}\r\n", "long ".repeat(500));
        let html = "<p>Grüße <img src=\"cid:logo@x\"></p>".to_owned();
        let headers = header_pairs(&[
            ("Received", "from a by b"),
            ("From", "Jörg Müller <joerg@example.net>, \"Ü, V\" <uv@example.net>"),
            ("To", "reply@mg.example.com"),
            ("Subject", "Größe ✓"),
            ("Message-Id", "<1@example.net>"),
            ("References", &"<0123456789@example.net> ".repeat(60)),
            ("Content-Type", "multipart/mixed; boundary=old"),
            ("MIME-Version", "1.0"),
            ("X-Evil", "a\r\nBcc: b@c"),
            ("Bad Name", "x"),
        ]);
        let attachments = vec![picture, file, inner];
        let mail = build_mime(MailParts {
            headers,
            plain: Some(plain.clone()),
            html: Some(html.clone()),
            attachments,
        });
        let message = parse_mail(&mail);
        let from: Vec<_> = message
            .from()
            .unwrap()
            .iter()
            .map(|addr| (addr.name().unwrap(), addr.address().unwrap()))
            .collect();
        assert_eq!(from, [("Jörg Müller", "joerg@example.net"), ("Ü, V", "uv@example.net")]);
        assert_eq!(message.subject(), Some("Größe ✓"));
        assert_eq!(message.references().as_text_list().unwrap().len(), 60);
        assert_eq!((message.bcc(), message.header_raw("X-Evil")), (None, Some(" aBcc: b@c\r\n")));
        assert_eq!(message.headers().iter().filter(|field| field.name() == "Content-Type").count(), 1);
        assert_eq!(message.body_text(0).unwrap(), plain);
        assert_eq!(message.body_html(0).unwrap(), html);
        let files: Vec<_> = message.attachments().collect();
        assert_eq!(files.len(), 3);
        assert_eq!(files[0].content_id(), Some("logo@x"));
        assert_eq!(files[0].contents(), (0..=255u8).cycle().take(5000).collect::<Vec<_>>());
        assert_eq!(
            (files[1].attachment_name(), files[1].contents()),
            (Some("Größe.pdf"), &b"%PDF\n\0\xff"[..])
        );
        let PartType::Message(inner) = &files[2].body else { panic!("{:?}", files[2]) };
        assert_eq!((inner.subject(), files[2].content_id()), (Some("inner"), None));
    }

    #[test]
    fn builds_mail_of_minimal_parts() {
        let mail = build_mime(MailParts::default());
        assert_eq!(parse_mail(&mail).body_text(0).unwrap().trim(), "");
        let parsed = MailParts { html: Some("<p>x</p>".into()), ..MailParts::default() };
        assert_eq!(parse_mail(&build_mime(parsed)).body_html(0).unwrap(), "<p>x</p>");
        let odd = Attachment { name: None, content_type: "ü".into(), content_id: None, bytes: vec![1, 2] };
        let mail = build_mime(MailParts { attachments: vec![odd], ..MailParts::default() });
        assert_eq!(parse_mail(&mail).attachments().next().unwrap().contents(), [1, 2]);
    }
}
