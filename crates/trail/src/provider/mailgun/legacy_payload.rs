//! The form webhooks of before 2018, which old accounts still send.

use crate::provider::form::Form;
use crate::provider::mailgun::payload::{SUPPRESSED_CODES, TEST_MODE_CODE};
use crate::provider::mailgun::tracking_header::TRACKING_VARIABLE;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_TEXT_BYTES, MAX_TOKEN_BYTES, MAX_URL_BYTES};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp};

/// Decodes an event; `None` for a form without one. User variables are mixed with Mailgun's fields; the first field of
/// a name is Mailgun's.
pub fn decode_form(form: &Form, signed_at: Timestamp) -> Option<ProviderEvent> {
    let fields = FormFields(form);
    let word = fields.line_field("event", MAX_TOKEN_BYTES)?;
    let code = fields.reply_code();
    let kind = match word.as_str() {
        "delivered" => EventKind::Delivered,
        "bounced" => EventKind::Bounced,
        "dropped" if code.is_some_and(|code| SUPPRESSED_CODES.contains(&code)) => EventKind::Suppressed,
        "dropped" => EventKind::Bounced,
        "complained" => EventKind::Complained,
        "unsubscribed" => EventKind::Unsubscribed,
        "opened" => EventKind::Opened,
        "clicked" => EventKind::Clicked,
        _ => EventKind::Unknown,
    };
    let reason = fields.line_field("reason", MAX_TOKEN_BYTES).filter(|_| kind.is_permanent_failure());
    Some(ProviderEvent {
        kind,
        at: signed_at,
        dedup_key: fields.dedup_key(signed_at),
        recipient: form
            .first_value("recipient")
            .map(|named| sanitize::parse_address(named).unwrap_or_default()),
        tracking_id: form.all_values(TRACKING_VARIABLE).find_map(|id| id.trim().parse().ok()),
        message_id: fields.message_id(),
        automated: matches!(kind, EventKind::Opened | EventKind::Clicked)
            && form.first_value("client-type") == Some("robot"),
        test_mode: code == Some(TEST_MODE_CODE),
        diagnostic: Diagnostic {
            name: reason.map_or(word.clone(), |reason| format!("{word}/{reason}")),
            code,
            enhanced_status: fields.enhanced_status(),
            text: ["error", "description"]
                .into_iter()
                .find_map(|name| fields.line_field(name, MAX_TEXT_BYTES)),
            host: None,
            url: fields.line_field("url", MAX_URL_BYTES),
        },
    })
}

/// Whether it is a mail that a route forwards, and no event.
pub fn is_inbound_form(form: &Form) -> bool {
    form.first_value("event").is_none() && INBOUND_FIELDS.iter().any(|name| form.first_value(name).is_some())
}

struct FormFields<'a>(&'a Form);

impl FormFields<'_> {
    fn line_field(&self, name: &str, cap: usize) -> Option<String> {
        sanitize::clip_line(self.0.first_value(name)?, cap)
    }

    /// The code is a number or, of a bounce, the enhanced status; the server's text has the number then.
    fn reply_code(&self) -> Option<u16> {
        let own =
            self.0.first_value("code").and_then(|code| code.trim().parse().ok()).filter(|code| *code != 0);
        own.or_else(|| self.0.first_value("error").and_then(sanitize::find_reply_code))
    }

    fn enhanced_status(&self) -> Option<String> {
        ["code", "error"]
            .into_iter()
            .find_map(|name| self.0.first_value(name).and_then(sanitize::find_enhanced_status))
    }

    /// Key of an event. There is no id. A retry may have a new signature, but equal fields otherwise.
    fn dedup_key(&self, signed_at: Timestamp) -> String {
        let fields = self.0.iter().filter(|(name, _)| !matches!(*name, "token" | "signature"));
        let parts: Vec<_> = fields.flat_map(|(name, value)| [name, value]).collect();
        let domain = self.0.first_value("domain").and_then(sanitize::parse_address);
        let domain = domain.as_deref().unwrap_or("-");
        format!("mailgun/{domain}/{}/{}", signed_at.day_number(), sanitize::hash_parts(&parts))
    }

    /// With brackets or without, and of a complaint among the message's header fields only.
    fn message_id(&self) -> Option<MessageId> {
        let own = ["Message-Id", "message-id"].into_iter().find_map(|name| self.0.first_value(name));
        if let Some(own) = own {
            return MessageId::parse(own);
        }
        let header: Vec<(String, String)> =
            serde_json::from_str(self.0.first_value("message-headers")?).ok()?;
        let field = header.iter().find(|(name, _)| name.eq_ignore_ascii_case("message-id"))?;
        MessageId::parse(&field.1)
    }
}

/// What only a forwarded mail has.
const INBOUND_FIELDS: [&str; 4] = ["body-mime", "body-plain", "stripped-text", "message-url"];

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_str(form: &str) -> ProviderEvent {
        decode_form(&Form::parse(form.as_bytes()).unwrap(), Timestamp::from_secs(1_789_387_201)).unwrap()
    }

    #[test]
    fn classifies_failures() {
        let bounced = decode_str("event=bounced&code=5.1.1&error=550+5.1.1+User+unknown&reason=mine");
        assert_eq!((bounced.kind, bounced.diagnostic.name.as_str()), (EventKind::Bounced, "bounced/mine"));
        assert_eq!(
            (bounced.diagnostic.code, bounced.diagnostic.enhanced_status.as_deref()),
            (Some(550), Some("5.1.1"))
        );
        let dropped =
            |code: &str| decode_str(&format!("event=dropped&reason=hardfail&code={code}&description=x")).kind;
        assert_eq!(["605", "606", "607", "499", ""].map(dropped), {
            use EventKind::{Bounced, Suppressed};
            [Suppressed, Suppressed, Suppressed, Bounced, Bounced]
        });
        assert_eq!(decode_str("event=delivered&reason=mine").diagnostic.name, "delivered");
        assert_eq!(decode_str("event=stored").kind, EventKind::Unknown);
    }

    #[test]
    fn first_field_wins_over_user_variables() {
        let clicked = decode_str(
            "event=clicked&recipient=ada@example.net&url=https://a&event=bounced&recipient=eve@example.net",
        );
        assert_eq!(
            (clicked.kind, clicked.recipient.as_deref()),
            (EventKind::Clicked, Some("ada@example.net"))
        );
    }

    #[test]
    fn finds_message_id_in_three_fields() {
        let id = |form: &str| decode_str(form).message_id.map(|id| id.to_string());
        assert_eq!(id("event=delivered&Message-Id=%3Ca@b%3E").as_deref(), Some("a@b"));
        assert_eq!(id("event=opened&message-id=a@b").as_deref(), Some("a@b"));
        assert_eq!(
            id("event=complained&message-headers=[[\"X\",\"y\"],[\"MESSAGE-ID\",\"<a@b>\"]]").as_deref(),
            Some("a@b")
        );
        for odd in ["", "&message-headers=", "&message-headers=[[1]]", "&message-headers={}"] {
            assert_eq!(id(&format!("event=complained{odd}")), None, "{odd}");
        }
    }

    #[test]
    fn dedup_key_ignores_new_signature() {
        let identity =
            |rest: &str| decode_str(&format!("event=opened&domain=mg.example.com{rest}")).dedup_key;
        assert_eq!(identity("&token=1&signature=1"), identity("&token=2&signature=2"));
        assert_ne!(identity("&timestamp=1"), identity("&timestamp=2"));
    }

    #[test]
    fn marks_automated_opens() {
        assert!(decode_str("event=opened&client-type=robot").automated);
        assert!(!decode_str("event=opened&client-type=browser").automated);
        assert!(!decode_str("event=delivered&client-type=robot").automated);
    }
}
