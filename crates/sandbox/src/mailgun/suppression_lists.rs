use crate::mailgun::event::Happening;
use mailtrail_mail::{Mailbox, fold_address, fold_domain};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One of Mailgun's four lists of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Bounces,
    Unsubscribes,
    Complaints,
    /// Addresses and domains that never come on the list of bounces.
    Allowed,
}

/// The lists, each in the order of its addresses (in lower case), with entries as the API writes them.
#[derive(Debug, Default)]
pub(crate) struct Suppressions([Mutex<BTreeMap<String, Value>>; 4]);

impl List {
    /// The list that a path names.
    pub(crate) fn named(word: &str) -> Option<Self> {
        [Self::Bounces, Self::Unsubscribes, Self::Complaints, Self::Allowed]
            .into_iter()
            .find(|list| list.word() == word)
    }

    /// Its name in paths and messages.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Bounces => "bounces",
            Self::Unsubscribes => "unsubscribes",
            Self::Complaints => "complaints",
            Self::Allowed => "whitelists",
        }
    }
}

impl Suppressions {
    /// What happens to mail for a recipient that stands on a list, if it does.
    pub(crate) fn against(&self, recipient: &Mailbox, tags: &[String]) -> Option<Happening> {
        let address = recipient.folded();
        let unsubscribed = |entry: &Value| {
            let from = |tag: &Value| tag == "*" || tags.iter().any(|own| tag == own.as_str());
            from(&entry["tag"]) || entry["tags"].as_array().is_some_and(|tags| tags.iter().any(from))
        };
        if self.get(List::Bounces, &address).is_some() {
            Some(Happening::Suppressed)
        } else if self.get(List::Unsubscribes, &address).is_some_and(|entry| unsubscribed(&entry)) {
            Some(Happening::SuppressedUnsubscribed)
        } else if self.get(List::Complaints, &address).is_some() {
            Some(Happening::SuppressedComplained)
        } else {
            None
        }
    }

    /// Puts a recipient on the list that what happened leads to; `at` is written as the API does.
    pub(crate) fn note(&self, happening: Happening, recipient: &Mailbox, at: &str) {
        let address = recipient.folded();
        let allowed = |name: &str| self.get(List::Allowed, name).is_some();
        let (list, entry) = match happening {
            Happening::Bounced | Happening::BouncedLate => {
                if allowed(&address) || allowed(&fold_domain(recipient.domain())) {
                    return;
                }
                (List::Bounces, json!({ "code": "550", "error": "5.1.1 User unknown" }))
            }
            Happening::Complained => (List::Complaints, json!({})),
            Happening::Unsubscribed => (List::Unsubscribes, json!({ "tag": "*" })),
            _ => return,
        };
        self.put(list, address, entry, at);
    }

    /// Adds an entry, or puts it in the place of another; only so many are kept.
    pub(crate) fn put(&self, list: List, address: String, entry: Value, at: &str) {
        let mut whole = json!({});
        if list != List::Allowed {
            whole["address"] = address.as_str().into();
        }
        if let (Some(whole), Value::Object(entry)) = (whole.as_object_mut(), entry) {
            whole.extend(entry);
        }
        let at_key = if list == List::Allowed { "createdAt" } else { "created_at" };
        if whole.get(at_key).is_none_or(Value::is_null) {
            whole[at_key] = at.into();
        }
        let mut entries = self.of(list);
        if entries.len() < ENTRIES || entries.contains_key(&address) {
            entries.insert(address, whole);
        }
    }

    pub(crate) fn get(&self, list: List, address: &str) -> Option<Value> {
        self.of(list).get(&fold_address(address)).cloned()
    }

    /// Whether there was such an entry.
    pub(crate) fn remove(&self, list: List, address: &str) -> bool {
        self.of(list).remove(&fold_address(address)).is_some()
    }

    pub(crate) fn clear(&self, list: List) {
        self.of(list).clear();
    }

    /// Entries behind `after`, or before it with the nearest first, whose addresses begin with `term`.
    pub(crate) fn page(
        &self,
        list: List,
        after: Option<&str>,
        back: bool,
        term: &str,
        limit: usize,
    ) -> Vec<(String, Value)> {
        let entries = self.of(list);
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

    fn of(&self, list: List) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0[list as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries of one list.
const ENTRIES: usize = 200_000;
