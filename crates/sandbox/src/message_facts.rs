use crate::webhook_client::{encode_hex, random_bytes};
use mail_parser::{Address, MessageParser, MessagePart, MimeHeaders};
use mailtrail_mail::{Envelope, HeaderField, HeaderSection, Mailbox, MessageId};
use memchr::memmem;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// How a message came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SubmissionOrigin {
    /// Over SMTP, from there.
    Smtp(IpAddr),
    /// Over HTTP, with these parameters.
    Http(Vec<(String, String)>),
}

/// Attributes of a message that each event repeats.
#[derive(Debug)]
pub(crate) struct MessageFacts {
    pub(crate) message_id: MessageId,
    pub(crate) domain: String,
    pub(crate) sender: String,
    pub(crate) origin: SubmissionOrigin,
    /// As events carry it: headers, attachments, size.
    pub(crate) message: Value,
    /// Tags, at most three.
    pub(crate) tags: Vec<String>,
    /// Merged from all `X-Mailgun-Variables`.
    pub(crate) variables: Map<String, Value>,
    pub(crate) storage: Value,
    /// The first link in the message.
    pub(crate) first_link: String,
    /// Whether the message has `o:testmode`.
    pub(crate) is_test_mode: bool,
    /// First address of From.
    pub(crate) author: String,
    /// Brevo's tag.
    pub(crate) mailin_tag: Option<String>,
    /// What Brevo carries back.
    pub(crate) mailin_custom: Option<String>,
}

impl MessageFacts {
    /// A message without a Message-ID gets `made_up`.
    pub(crate) fn from_message(
        envelope: &Envelope,
        raw: &[u8],
        origin: SubmissionOrigin,
        domain: &str,
        made_up: &str,
    ) -> Self {
        let block = HeaderSection::parse(raw);
        let message_id = block
            .find_field("Message-ID")
            .and_then(|id| MessageId::parse(&id.to_text()))
            .or_else(|| MessageId::parse(made_up))
            .or_else(|| MessageId::parse(&encode_hex(&random_bytes::<12>())))
            .expect("hexadecimal digits are an id");
        let parsed = MessageParser::default().parse(raw);
        let author = parsed.as_ref().and_then(|parsed| parsed.from()?.first()?.address());
        let key = format!("BAAB{}", encode_hex(&random_bytes::<14>()));
        let url = format!("https://storage-us-east4.api.mailgun.net/v3/domains/{domain}/messages/{key}");
        let mut facts = Self {
            domain: domain.to_owned(),
            sender: envelope.sender.as_ref().map_or("", Mailbox::as_str).to_owned(),
            origin: SubmissionOrigin::Http(Vec::new()),
            message: message_json(parsed.as_ref(), &message_id, raw.len()),
            tags: headers_named(&block, "X-Mailgun-Tag").map(|tag| tag.to_text()).take(MAX_TAGS).collect(),
            variables: merge_variables(&block),
            storage: json!({ "region": "us-east4", "env": "production", "key": key, "url": url }),
            first_link: parsed
                .as_ref()
                .and_then(find_first_link)
                .unwrap_or_else(|| format!("https://{domain}/")),
            is_test_mode: block
                .find_field("X-Mailgun-Drop-Message")
                .is_some_and(|answer| is_yes(&answer.to_text())),
            author: author.unwrap_or_default().to_owned(),
            mailin_tag: block.find_field("X-Mailin-Tag").map(|tag| tag.to_text()),
            mailin_custom: block.find_field("X-Mailin-custom").map(|custom| custom.to_text()),
            message_id,
        };
        if let SubmissionOrigin::Http(parameters) = &origin {
            parameters.iter().for_each(|(name, value)| facts.apply_parameter(name, value));
        }
        Self { origin, ..facts }
    }

    /// Applies a parameter of a request, which takes precedence over the header field.
    fn apply_parameter(&mut self, name: &str, value: &str) {
        match name.strip_prefix("v:") {
            Some(name) => {
                self.variables.insert(name.to_owned(), stringify_value(value.into()));
            }
            None if name == "o:testmode" => self.is_test_mode = is_yes(value),
            None if name == "o:tag" => {
                let known = self.tags.iter().any(|tag| tag.eq_ignore_ascii_case(value));
                if !known && self.tags.len() < MAX_TAGS {
                    self.tags.push(value.to_owned());
                }
            }
            None => {}
        }
    }
}

fn message_json(parsed: Option<&mail_parser::Message<'_>>, id: &MessageId, size: usize) -> Value {
    let attachments: Vec<_> =
        parsed.into_iter().flat_map(|parsed| parsed.attachments()).map(attachment_json).collect();
    json!({
        "headers": {
            "to": format_addresses(parsed.and_then(|parsed| parsed.to())),
            "message-id": id.as_str(),
            "from": format_addresses(parsed.and_then(|parsed| parsed.from())),
            "subject": parsed.and_then(|parsed| parsed.subject()).unwrap_or_default(),
        },
        "attachments": attachments,
        "size": size,
    })
}

fn attachment_json(part: &MessagePart<'_>) -> Value {
    let kind = part.content_type();
    let main = kind.map_or("application", |kind| kind.ctype());
    let sub = kind.and_then(|kind| kind.subtype()).unwrap_or("octet-stream");
    json!({
        "filename": part.attachment_name(),
        "content-type": format!("{main}/{sub}"),
        "size": part.len(),
    })
}

fn format_addresses(list: Option<&Address<'_>>) -> String {
    let written = list.into_iter().flat_map(|list| list.iter()).map(|one| {
        let address = one.address().unwrap_or_default();
        one.name().map_or_else(|| address.to_owned(), |name| format!("{name} <{address}>"))
    });
    written.collect::<Vec<_>>().join(", ")
}

/// Merges the maps of all header fields. As with Mailgun, values that are not objects are dropped silently, and long
/// values are cut.
fn merge_variables(block: &HeaderSection<'_>) -> Map<String, Value> {
    let mut all_of_them = Map::new();
    for header in headers_named(block, "X-Mailgun-Variables") {
        if let Ok(map) = serde_json::from_str::<Map<String, Value>>(&header.to_text()) {
            all_of_them.extend(map.into_iter().map(|(name, value)| (name, stringify_value(value))));
        }
    }
    all_of_them
}

fn stringify_value(value: Value) -> Value {
    let mut text = match value {
        Value::String(text) => text,
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        value => return value,
    };
    text.truncate(text.floor_char_boundary(MAX_VARIABLE_BYTES));
    Value::String(text)
}

/// Where the first link of the message leads.
fn find_first_link(parsed: &mail_parser::Message<'_>) -> Option<String> {
    let html = parsed.body_html(0)?;
    let start = memmem::find(html.as_bytes(), b"href=\"http").map(|at| at + 6)?;
    let link = html.get(start..)?.split('"').next()?;
    Some(link.replace("&amp;", "&"))
}

fn headers_named<'a>(
    block: &HeaderSection<'a>,
    name: &'static str,
) -> impl Iterator<Item = HeaderField<'a>> + use<'a> {
    block.fields().filter(move |field| field.name.eq_ignore_ascii_case(name))
}

fn is_yes(text: &str) -> bool {
    text.eq_ignore_ascii_case("yes") || text.eq_ignore_ascii_case("true")
}

/// Tags of one message; Mailgun drops the rest.
const MAX_TAGS: usize = 3;
/// Bytes of one variable's value; Mailgun cuts the rest off.
const MAX_VARIABLE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of_message(raw: &str) -> MessageFacts {
        facts_of_request(raw, &[])
    }

    fn facts_of_request(raw: &str, parameters: &[(&str, &str)]) -> MessageFacts {
        let parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let sender = "bounces@mg.example.com".parse().ok();
        let envelope = Envelope { sender, ..Envelope::default() };
        MessageFacts::from_message(
            &envelope,
            raw.replace('\n', "\r\n").as_bytes(),
            SubmissionOrigin::Http(parameters),
            "mg.example.com",
            "made-up@mg.example.com",
        )
    }

    #[test]
    fn decodes_headers_and_merges_variables() {
        let facts = facts_of_message(
            "Message-Id: <1.2@mg.example.com>\nTo: Customer <a@example.net>, b@example.net\nFrom: s@example.com\n\
             Subject: =?utf-8?q?Za=C5=BC?=\nX-Mailgun-Tag: odoo\nX-Mailgun-Variables: {\"a\": 1,\n \"b\": \"x\"}\n\
             X-Mailgun-Variables: {\"mailtrail\": \"y\"}\nX-Mailgun-Variables: nonsense\n\
             Content-Type: text/html\n\n<a href=\"https://example.com/?a=1&amp;b=2\">x</a>\n",
        );
        assert_eq!(facts.message["headers"]["to"], "Customer <a@example.net>, b@example.net");
        assert_eq!(facts.message["headers"]["subject"], "Zaż");
        assert_eq!(facts.message["headers"]["message-id"], "1.2@mg.example.com");
        assert_eq!(Value::from(facts.variables), json!({ "a": "1", "b": "x", "mailtrail": "y" }));
        assert_eq!((facts.tags, facts.is_test_mode), (vec!["odoo".to_owned()], false));
        assert_eq!(facts.first_link, "https://example.com/?a=1&b=2");
    }

    #[test]
    fn request_parameters_override_headers() {
        let header =
            "X-Mailgun-Variables: {\"a\": 1, \"b\": 2}\nX-Mailgun-Tag: odoo\nX-Mailgun-Drop-Message: yes\n\n";
        let facts = facts_of_request(
            header,
            &[("v:b", "3"), ("o:tag", "Odoo"), ("o:tag", "sale"), ("o:testmode", "no")],
        );
        assert_eq!(Value::from(facts.variables), json!({ "a": "1", "b": "3" }));
        assert_eq!((facts.tags, facts.is_test_mode), (vec!["odoo".to_owned(), "sale".to_owned()], false));
    }

    #[test]
    fn generates_message_id_for_message_without_header() {
        let facts = facts_of_message("just text\n");
        assert_eq!(facts.message_id.as_str(), "made-up@mg.example.com");
        assert_eq!(facts.first_link, "https://mg.example.com/");
        assert_eq!(Value::from(facts.variables), json!({}));
    }
}
