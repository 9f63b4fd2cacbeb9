//! The form webhooks of before 2018, which old accounts still send.

use crate::provider::form::Form;
use crate::provider::mailgun::payload::{SUPPRESSED, TEST_MODE};
use crate::provider::mailgun::tracking_header::VARIABLE;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_TEXT, MAX_URL, MAX_WORD};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp};

/// Reads an event; `None` for a form without one. Users' variables stand among Mailgun's own fields, of which the first
/// of a name is the true one.
pub fn decode(form: &Form, signed_at: Timestamp) -> Option<ProviderEvent> {
    let fields = Fields(form);
    let word = fields.line("event", MAX_WORD)?;
    let code = fields.code();
    let kind = match word.as_str() {
        "delivered" => EventKind::Delivered,
        "bounced" => EventKind::Bounced,
        "dropped" if code.is_some_and(|code| SUPPRESSED.contains(&code)) => EventKind::Suppressed,
        "dropped" => EventKind::Bounced,
        "complained" => EventKind::Complained,
        "unsubscribed" => EventKind::Unsubscribed,
        "opened" => EventKind::Opened,
        "clicked" => EventKind::Clicked,
        _ => EventKind::Unknown,
    };
    let reason = fields.line("reason", MAX_WORD).filter(|_| kind.is_permanent_failure());
    Some(ProviderEvent {
        kind,
        at: signed_at,
        dedup_key: fields.identity(signed_at),
        recipient: form.first("recipient").map(|named| sanitize::address(named).unwrap_or_default()),
        tracking_id: form.all(VARIABLE).find_map(|id| id.trim().parse().ok()),
        message_id: fields.message_id(),
        automated: matches!(kind, EventKind::Opened | EventKind::Clicked)
            && form.first("client-type") == Some("robot"),
        test_mode: code == Some(TEST_MODE),
        diagnostic: Diagnostic {
            name: reason.map_or(word.clone(), |reason| format!("{word}/{reason}")),
            code,
            enhanced_status: fields.enhanced(),
            text: ["error", "description"].into_iter().find_map(|name| fields.line(name, MAX_TEXT)),
            host: None,
            url: fields.line("url", MAX_URL),
        },
    })
}

/// Whether it is a mail that a route forwards, and no event.
pub fn is_inbound(form: &Form) -> bool {
    form.first("event").is_none() && INBOUND.iter().any(|name| form.first(name).is_some())
}

struct Fields<'a>(&'a Form);

impl Fields<'_> {
    fn line(&self, name: &str, cap: usize) -> Option<String> {
        sanitize::line(self.0.first(name)?, cap)
    }

    /// The code is a number or, of a bounce, the enhanced status; the server's text has the number then.
    fn code(&self) -> Option<u16> {
        let own = self.0.first("code").and_then(|code| code.trim().parse().ok()).filter(|code| *code != 0);
        own.or_else(|| self.0.first("error").and_then(sanitize::reply_code))
    }

    fn enhanced(&self) -> Option<String> {
        ["code", "error"].into_iter().find_map(|name| self.0.first(name).and_then(sanitize::enhanced_status))
    }

    /// There is no id. A retry may be signed anew, and is otherwise the same.
    fn identity(&self, signed_at: Timestamp) -> String {
        let fields = self.0.iter().filter(|(name, _)| !matches!(*name, "token" | "signature"));
        let parts: Vec<_> = fields.flat_map(|(name, value)| [name, value]).collect();
        let domain = self.0.first("domain").and_then(sanitize::address);
        let domain = domain.as_deref().unwrap_or("-");
        format!("mailgun/{domain}/{}/{}", signed_at.day_number(), sanitize::digest(&parts))
    }

    /// With brackets or without, and of a complaint among the message's header fields only.
    fn message_id(&self) -> Option<MessageId> {
        let own = ["Message-Id", "message-id"].into_iter().find_map(|name| self.0.first(name));
        if let Some(own) = own {
            return MessageId::parse(own);
        }
        let header: Vec<(String, String)> = serde_json::from_str(self.0.first("message-headers")?).ok()?;
        let field = header.iter().find(|(name, _)| name.eq_ignore_ascii_case("message-id"))?;
        MessageId::parse(&field.1)
    }
}

/// What only a forwarded mail has.
const INBOUND: [&str; 4] = ["body-mime", "body-plain", "stripped-text", "message-url"];

#[cfg(test)]
mod tests {
    use super::*;

    fn event(form: &str) -> ProviderEvent {
        decode(&Form::parse(form.as_bytes()).unwrap(), Timestamp::from_secs(1_789_387_201)).unwrap()
    }

    #[test]
    fn failures_are_told_apart() {
        let bounced = event("event=bounced&code=5.1.1&error=550+5.1.1+User+unknown&reason=mine");
        assert_eq!((bounced.kind, bounced.diagnostic.name.as_str()), (EventKind::Bounced, "bounced/mine"));
        assert_eq!(
            (bounced.diagnostic.code, bounced.diagnostic.enhanced_status.as_deref()),
            (Some(550), Some("5.1.1"))
        );
        let dropped =
            |code: &str| event(&format!("event=dropped&reason=hardfail&code={code}&description=x")).kind;
        assert_eq!(["605", "606", "607", "499", ""].map(dropped), {
            use EventKind::{Bounced, Suppressed};
            [Suppressed, Suppressed, Suppressed, Bounced, Bounced]
        });
        assert_eq!(event("event=delivered&reason=mine").diagnostic.name, "delivered");
        assert_eq!(event("event=stored").kind, EventKind::Unknown);
    }

    #[test]
    fn the_first_field_is_mailguns_and_later_ones_are_variables() {
        let clicked = event(
            "event=clicked&recipient=ada@example.net&url=https://a&event=bounced&recipient=eve@example.net",
        );
        assert_eq!(
            (clicked.kind, clicked.recipient.as_deref()),
            (EventKind::Clicked, Some("ada@example.net"))
        );
    }

    #[test]
    fn message_ids_stand_in_three_places() {
        let id = |form: &str| event(form).message_id.map(|id| id.to_string());
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
    fn the_same_event_signed_anew_is_the_same() {
        let identity = |rest: &str| event(&format!("event=opened&domain=mg.example.com{rest}")).dedup_key;
        assert_eq!(identity("&token=1&signature=1"), identity("&token=2&signature=2"));
        assert_ne!(identity("&timestamp=1"), identity("&timestamp=2"));
    }

    #[test]
    fn robots_are_no_people() {
        assert!(event("event=opened&client-type=robot").automated);
        assert!(!event("event=opened&client-type=browser").automated);
        assert!(!event("event=delivered&client-type=robot").automated);
    }
}
