//! Which hints keep bulk mail back.

use crate::webhook::source::Suppressing;
use mailtrail_mail::Mailbox;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::Hinted;
use mailtrail_trail::suppression::{Change, Listing, Mark, Reason, Scope, Source};

/// What a hint is to change about the suppression list, if anything: on the list that holds for all upstreams, and about
/// bulk mail. What others said there for the same reason says more than a hint, and stays as it is.
pub(super) fn of_hint(
    store: &Store,
    suppress: &[Suppressing],
    hinted: &Hinted,
) -> Result<Option<Listing>, ReadError> {
    let Hinted { source, received, hint, .. } = hinted;
    let reason: Option<Reason> = suppress.iter().find_map(|rule| rule.reason(hint));
    let address: Option<Mailbox> = hint.address.as_ref().and_then(|address| address.parse().ok());
    let Some((reason, address)) = reason.zip(address) else { return Ok(None) };
    let known = store.dossier(&address.folded(), "")?.unwrap_or_default();
    if known.live_of(reason).is_some_and(|live| live.source != Source::Hint) {
        return Ok(None);
    }
    let text = hint.words.text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
    let mark = Mark {
        at: hint.at.min(*received),
        scope: Scope::Bulk,
        source: Source::Hint,
        expires: None,
        words: format!("{} at {source}{text}", hint.words.name),
    };
    let change = Change::Add { reason, marks: vec![mark] };
    Ok(Some(Listing { address, list: None, at: *received, operator: String::new(), change }))
}
