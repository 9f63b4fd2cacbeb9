use crate::mailgun::event::SandboxEvent;
use mailtrail_mail::{Mailbox, fold_address, fold_domain};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One of Mailgun's four lists of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuppressionList {
    Bounces,
    Unsubscribes,
    Complaints,
    /// Addresses and domains that never come on the list of bounces.
    Allowed,
}

/// The lists, each in the order of its addresses (in lower case), with entries as the API writes them.
#[derive(Debug, Default)]
pub(crate) struct SuppressionLists([Mutex<BTreeMap<String, Value>>; 4]);

impl SuppressionList {
    /// The list that a path names.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Bounces, Self::Unsubscribes, Self::Complaints, Self::Allowed]
            .into_iter()
            .find(|list| list.as_str() == word)
    }

    /// Its name in paths and messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bounces => "bounces",
            Self::Unsubscribes => "unsubscribes",
            Self::Complaints => "complaints",
            Self::Allowed => "whitelists",
        }
    }
}

impl SuppressionLists {
    /// Event of a recipient that is on a list.
    pub(crate) fn suppression_event(&self, recipient: &Mailbox, tags: &[String]) -> Option<SandboxEvent> {
        let address = recipient.to_folded();
        let unsubscribed = |entry: &Value| {
            let from = |tag: &Value| tag == "*" || tags.iter().any(|own| tag == own.as_str());
            from(&entry["tag"]) || entry["tags"].as_array().is_some_and(|tags| tags.iter().any(from))
        };
        if self.get(SuppressionList::Bounces, &address).is_some() {
            Some(SandboxEvent::Suppressed)
        } else if self.get(SuppressionList::Unsubscribes, &address).is_some_and(|entry| unsubscribed(&entry))
        {
            Some(SandboxEvent::SuppressedUnsubscribed)
        } else if self.get(SuppressionList::Complaints, &address).is_some() {
            Some(SandboxEvent::SuppressedComplained)
        } else {
            None
        }
    }

    /// Puts a recipient on the list that what happened leads to; `at` is written as the API does.
    pub(crate) fn record_event(&self, happening: SandboxEvent, recipient: &Mailbox, at: &str) {
        let address = recipient.to_folded();
        let allowed = |name: &str| self.get(SuppressionList::Allowed, name).is_some();
        let (list, entry) = match happening {
            SandboxEvent::Bounced | SandboxEvent::BouncedLate => {
                if allowed(&address) || allowed(&fold_domain(recipient.domain())) {
                    return;
                }
                (SuppressionList::Bounces, json!({ "code": "550", "error": "5.1.1 User unknown" }))
            }
            SandboxEvent::Complained => (SuppressionList::Complaints, json!({})),
            SandboxEvent::Unsubscribed => (SuppressionList::Unsubscribes, json!({ "tag": "*" })),
            _ => return,
        };
        self.put(list, address, entry, at);
    }

    /// Adds or replaces an entry, up to the maximum number.
    pub(crate) fn put(&self, list: SuppressionList, address: String, entry: Value, at: &str) {
        let mut whole = json!({});
        if list != SuppressionList::Allowed {
            whole["address"] = address.as_str().into();
        }
        if let (Some(whole), Value::Object(entry)) = (whole.as_object_mut(), entry) {
            whole.extend(entry);
        }
        let at_key = if list == SuppressionList::Allowed { "createdAt" } else { "created_at" };
        if whole.get(at_key).is_none_or(Value::is_null) {
            whole[at_key] = at.into();
        }
        let mut entries = self.lock(list);
        if entries.len() < MAX_ENTRIES_PER_LIST || entries.contains_key(&address) {
            entries.insert(address, whole);
        }
    }

    pub(crate) fn get(&self, list: SuppressionList, address: &str) -> Option<Value> {
        self.lock(list).get(&fold_address(address)).cloned()
    }

    /// Whether there was such an entry.
    pub(crate) fn remove(&self, list: SuppressionList, address: &str) -> bool {
        self.lock(list).remove(&fold_address(address)).is_some()
    }

    pub(crate) fn clear(&self, list: SuppressionList) {
        self.lock(list).clear();
    }

    /// Entries after `after`, or before it with the nearest first, with addresses that begin with `term`.
    pub(crate) fn read_page(
        &self,
        list: SuppressionList,
        after: Option<&str>,
        back: bool,
        term: &str,
        limit: usize,
    ) -> Vec<(String, Value)> {
        let entries = self.lock(list);
        let divider = after.map(str::to_lowercase);
        let copy = |(address, entry): (&String, &Value)| {
            address.starts_with(&term.to_lowercase()).then(|| (address.clone(), entry.clone()))
        };
        let divider = divider.map_or(Unbounded, Excluded);
        if back {
            entries.range((Unbounded, divider)).rev().filter_map(copy).take(limit).collect()
        } else {
            entries.range((divider, Unbounded)).filter_map(copy).take(limit).collect()
        }
    }

    fn lock(&self, list: SuppressionList) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0[list as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries of one list.
const MAX_ENTRIES_PER_LIST: usize = 200_000;
