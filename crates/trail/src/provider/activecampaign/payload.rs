use crate::contact_hint::{ContactHint, ContactHintKind};
use crate::provider::form::Form;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_TEXT_BYTES, MAX_TOKEN_BYTES, MAX_URL_BYTES};
use crate::provider_event::Diagnostic;
use mailtrail_mail::Timestamp;

/// Decodes a webhook, or the request of an automation, which has neither event nor time; `None` for anything else. The
/// time defaults to `reported`.
pub fn decode_hint(form: &Form, reported: Timestamp) -> Option<ContactHint> {
    let line =
        |name: &str, cap: usize| form.first_value(name).and_then(|value| sanitize::clip_line(value, cap));
    let address = form.first_value("contact[email]").and_then(sanitize::parse_address);
    let word = line("type", MAX_TOKEN_BYTES);
    if word.is_none() && address.is_none() {
        return None;
    }
    let word = word.unwrap_or_else(|| "automation".into());
    let described = ["bounce[description]", "unsubscribe[reason]", "message"];
    let code = form.first_value("bounce[code]").unwrap_or_default();
    Some(ContactHint {
        kind: parse_kind(&word),
        at: form.first_value("date_time").and_then(Timestamp::parse_any).unwrap_or(reported),
        address,
        lists: parse_lists(form),
        diagnostic: Diagnostic {
            name: line("bounce[type]", MAX_TOKEN_BYTES)
                .map_or(word.clone(), |bounce| format!("{word}/{bounce}")),
            code: sanitize::find_reply_code(code),
            enhanced_status: sanitize::find_enhanced_status(code),
            text: described.into_iter().find_map(|name| line(name, MAX_TEXT_BYTES)),
            host: None,
            url: line("link[url]", MAX_URL_BYTES),
        },
    })
}

fn parse_kind(word: &str) -> ContactHintKind {
    match word {
        "bounce" => ContactHintKind::Bounced,
        "unsubscribe" => ContactHintKind::Unsubscribed,
        "open" => ContactHintKind::Opened,
        "click" => ContactHintKind::Clicked,
        "reply" => ContactHintKind::Replied,
        "forward" => ContactHintKind::Forwarded,
        "sent" => ContactHintKind::CampaignStarted,
        _ => ContactHintKind::Unknown,
    }
}

/// One list, or several beside it; each once.
fn parse_lists(form: &Form) -> Vec<String> {
    let mut lists = Vec::new();
    for list in form
        .all_values("list")
        .chain(form.all_values("list[][id]"))
        .filter_map(|list| sanitize::clip_line(list, MAX_LIST_ID_BYTES))
    {
        if lists.len() < MAX_LISTS && !lists.contains(&list) {
            lists.push(list);
        }
    }
    lists
}

/// Bytes of a list's id.
const MAX_LIST_ID_BYTES: usize = 32;
/// Lists of one hint.
const MAX_LISTS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const REPORTED_AT: Timestamp = Timestamp::from_secs(1_789_387_300);

    fn decode_form(body: &str) -> Option<ContactHint> {
        decode_hint(&Form::parse(body.as_bytes()).unwrap(), REPORTED_AT)
    }

    #[test]
    fn bounce_has_type_and_diagnostic() {
        let hint = decode_form(
            "type=bounce&contact[email]=ada@example.net&bounce[type]=hard&bounce[code]=5.1.1&bounce[description]=a+b",
        );
        let words = hint.unwrap().diagnostic;
        assert_eq!(
            (words.name.as_str(), words.code, words.enhanced_status.as_deref()),
            ("bounce/hard", None, Some("5.1.1"))
        );
        assert_eq!(words.text.as_deref(), Some("a b"));
    }

    #[test]
    fn removes_duplicate_lists() {
        let lists = |body: &str| decode_form(body).unwrap().lists;
        assert_eq!(lists("type=unsubscribe&list=3&list[][id]=3&list[][id]=5&list[][id]="), ["3", "5"]);
        assert_eq!(lists("type=unsubscribe&list=0"), ["0"]);
        let many: String = (0..2 * MAX_LISTS).map(|list| format!("&list[][id]={list}")).collect();
        assert_eq!(lists(&format!("type=unsubscribe{many}")).len(), MAX_LISTS);
    }

    #[test]
    fn decodes_automations_without_event_or_time() {
        let automation = decode_form("contact[email]=ada@example.net&seriesid=9").unwrap();
        assert_eq!((automation.kind, automation.at), (ContactHintKind::Unknown, REPORTED_AT));
        assert_eq!(automation.diagnostic.name, "automation");
        assert_eq!(decode_form("contact[id]=7&date_time=2026-09-14T07:00:00-05:00"), None);
        let sent = decode_form("type=sent&date_time=2026-09-14T07:00:00-05:00").unwrap();
        assert_eq!(
            (sent.kind, sent.address, sent.at.as_secs()),
            (ContactHintKind::CampaignStarted, None, 1_789_387_200)
        );
    }
}
