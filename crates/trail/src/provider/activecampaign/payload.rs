use crate::contact_hint::{ContactHint, ContactHintKind};
use crate::provider::form::Form;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_TEXT, MAX_URL, MAX_WORD};
use crate::provider_event::Diagnostic;
use mailtrail_mail::Timestamp;

/// Reads a webhook, or the request of an automation, which names neither what happened nor when; `None` for what is
/// neither. Without a time it happened when it was `reported`.
pub fn decode(form: &Form, reported: Timestamp) -> Option<ContactHint> {
    let line = |name: &str, cap: usize| form.first(name).and_then(|value| sanitize::line(value, cap));
    let address = form.first("contact[email]").and_then(sanitize::address);
    let word = line("type", MAX_WORD);
    if word.is_none() && address.is_none() {
        return None;
    }
    let word = word.unwrap_or_else(|| "automation".into());
    let described = ["bounce[description]", "unsubscribe[reason]", "message"];
    let code = form.first("bounce[code]").unwrap_or_default();
    Some(ContactHint {
        kind: kind(&word),
        at: form.first("date_time").and_then(Timestamp::parse_any).unwrap_or(reported),
        address,
        lists: lists(form),
        diagnostic: Diagnostic {
            name: line("bounce[type]", MAX_WORD).map_or(word.clone(), |bounce| format!("{word}/{bounce}")),
            code: sanitize::reply_code(code),
            enhanced_status: sanitize::enhanced_status(code),
            text: described.into_iter().find_map(|name| line(name, MAX_TEXT)),
            host: None,
            url: line("link[url]", MAX_URL),
        },
    })
}

fn kind(word: &str) -> ContactHintKind {
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
fn lists(form: &Form) -> Vec<String> {
    let mut lists = Vec::new();
    for list in
        form.all("list").chain(form.all("list[][id]")).filter_map(|list| sanitize::line(list, MAX_LIST))
    {
        if lists.len() < LISTS && !lists.contains(&list) {
            lists.push(list);
        }
    }
    lists
}

/// Bytes of a list's id.
const MAX_LIST: usize = 32;
/// Lists of one hint.
const LISTS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const REPORTED: Timestamp = Timestamp::from_secs(1_789_387_300);

    fn hint(body: &str) -> Option<ContactHint> {
        decode(&Form::parse(body.as_bytes()).unwrap(), REPORTED)
    }

    #[test]
    fn a_bounce_says_how_and_why() {
        let hint = hint(
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
    fn lists_come_once_each() {
        let lists = |body: &str| hint(body).unwrap().lists;
        assert_eq!(lists("type=unsubscribe&list=3&list[][id]=3&list[][id]=5&list[][id]="), ["3", "5"]);
        assert_eq!(lists("type=unsubscribe&list=0"), ["0"]);
        let many: String = (0..2 * LISTS).map(|list| format!("&list[][id]={list}")).collect();
        assert_eq!(lists(&format!("type=unsubscribe{many}")).len(), LISTS);
    }

    #[test]
    fn automations_name_neither_event_nor_time() {
        let automation = hint("contact[email]=ada@example.net&seriesid=9").unwrap();
        assert_eq!((automation.kind, automation.at), (ContactHintKind::Unknown, REPORTED));
        assert_eq!(automation.diagnostic.name, "automation");
        assert_eq!(hint("contact[id]=7&date_time=2026-09-14T07:00:00-05:00"), None);
        let sent = hint("type=sent&date_time=2026-09-14T07:00:00-05:00").unwrap();
        assert_eq!(
            (sent.kind, sent.address, sent.at.as_secs()),
            (ContactHintKind::CampaignStarted, None, 1_789_387_200)
        );
    }
}
