use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The URLs that are registered for each type of webhook.
#[derive(Debug, Default)]
pub(crate) struct MailgunWebhookRegistry(Mutex<BTreeMap<&'static str, Vec<Arc<str>>>>);

impl MailgunWebhookRegistry {
    /// The URLs of a type.
    pub(crate) fn urls_for(&self, kind: &str) -> Vec<Arc<str>> {
        self.lock().get(kind).cloned().unwrap_or_default()
    }

    /// Puts URLs in the place of those that a type has; without any it is not registered.
    pub(crate) fn set_urls(&self, kind: &'static str, urls: Vec<Arc<str>>) {
        let mut all = self.lock();
        if urls.is_empty() {
            all.remove(kind);
        } else {
            all.insert(kind, urls);
        }
    }

    /// All of them, in the API's form.
    pub(crate) fn to_json(&self) -> Value {
        let all = self.lock();
        let written = all.iter().map(|(kind, urls)| ((*kind).to_owned(), urls_to_json(urls)));
        Value::Object(written.collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<Arc<str>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The URLs of one type, in the API's form.
pub(crate) fn urls_to_json(urls: &[Arc<str>]) -> Value {
    serde_json::json!({ "urls": urls.iter().map(|url| &**url).collect::<Vec<_>>() })
}

/// The type of an event, if it has one.
pub(crate) fn kind_of_event(data: &Map<String, Value>) -> Option<&'static str> {
    let word = data.get("event").and_then(Value::as_str)?;
    let permanent = data.get("severity").is_some_and(|severity| severity == "permanent");
    parse_kind(match (word, permanent) {
        ("failed", true) => "permanent_fail",
        ("failed", false) => "temporary_fail",
        (word, _) => word,
    })
}

/// The type of that name.
pub(crate) fn parse_kind(word: &str) -> Option<&'static str> {
    WEBHOOK_KINDS.into_iter().find(|kind| *kind == word)
}

pub(crate) const WEBHOOK_KINDS: [&str; 8] = [
    "accepted",
    "delivered",
    "opened",
    "clicked",
    "unsubscribed",
    "complained",
    "permanent_fail",
    "temporary_fail",
];
