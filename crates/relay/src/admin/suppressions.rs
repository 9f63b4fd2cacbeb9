//! The suppression list: queries and changes.

use crate::admin::error::ApiError;
use crate::admin::state::ApiState;
use futures_util::{StreamExt, stream};
use mailtrail_mail::{Mailbox, Timestamp, fold_domain};
use mailtrail_store::{AddressEvidence, ReadError, Store};
use mailtrail_trail::ReceivedHint;
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::{
    ActiveEvidence, EvidenceItem, EvidenceSource, Expiry, Reason, SuppressionChange, SuppressionChangeKind,
    SuppressionEvidence, SuppressionSettings,
};
use serde::{Deserialize, Serialize};

/// Filter of suppression entries; an absent field matches all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionListFilter {
    /// Address.
    pub address: Option<String>,
    /// Domain of the addresses.
    pub domain: Option<String>,
    /// Reason.
    pub reason: Option<String>,
    /// Upstream of the list.
    pub upstream: Option<String>,
    /// Source.
    pub source: Option<String>,
    /// Earliest time of the last evidence, milliseconds since the epoch.
    pub since: Option<u64>,
    /// Cursor from the previous page.
    pub after: Option<String>,
}

/// Page of entries, ordered by address, list and reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionPage {
    /// Entries.
    pub entries: Vec<SuppressionView>,
    /// Cursor of the next page, if there is one.
    pub next: Option<String>,
}

/// An entry: one reason for which an address is suppressed, or may become so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionView {
    /// Address in lower case.
    pub address: String,
    /// Upstream of the list; absent: the global list.
    pub upstream: Option<String>,
    /// Reason: `complaint`, `hard-bounce`, `manual`, `unsubscribe` or `soft-bounce`.
    pub reason: String,
    /// State: `suppressed`; `counted` below the threshold; `ended`.
    pub state: String,
    /// Scope of the mail: `all` or `bulk`.
    pub scope: String,
    /// End of the suppression by the settings, RFC 3339; absent: until removal, or not suppressed.
    pub until: Option<String>,
    /// Times of the retained evidence, RFC 3339, ascending; empty if unknown.
    pub times: Vec<String>,
    /// Source of the last evidence: `webhook`, `poll`, `provider`, `attempt`, `operator`, `import` or `hint`.
    pub source: String,
    /// Explicit expiry, if given, RFC 3339.
    pub expires: Option<String>,
    /// Diagnostic of the last evidence.
    pub words: String,
}

/// Change of the suppression list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionRequest {
    /// Action: `add` or `remove`.
    pub verb: String,
    /// Entries. For removal, each has an address, and optionally a list and a reason.
    #[serde(default)]
    pub entries: Vec<SuppressionEntry>,
    /// Alternatively: removal of all entries with this reason, from this upstream's list or from all.
    #[serde(default)]
    pub all: Option<SuppressionEntry>,
    /// Whether to report the results without changing the list.
    #[serde(default)]
    pub dry_run: bool,
}

/// An entry of a change request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionEntry {
    /// Address.
    #[serde(default)]
    pub address: String,
    /// Upstream of the list; absent: the global list.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Reason. Default: `manual`; for removal: any.
    #[serde(default)]
    pub reason: Option<String>,
    /// Scope of the mail: `all` or `bulk`. Default for `unsubscribe`: `bulk`.
    #[serde(default)]
    pub scope: Option<String>,
    /// Times of the evidence, RFC 3339, or `unknown`; empty: now.
    #[serde(default)]
    pub times: Vec<String>,
    /// Source. Default: `operator`.
    #[serde(default)]
    pub source: Option<String>,
    /// Expiry, RFC 3339; absent: by the settings.
    #[serde(default)]
    pub expires: Option<String>,
    /// Diagnostic.
    #[serde(default)]
    pub words: String,
}

/// Result of a change for one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionResult {
    /// Address.
    pub address: String,
    /// Outcome: `done`; `same` if it needed no change; `refused`.
    pub outcome: String,
    /// Reason of a refusal or of no change.
    pub why: Option<String>,
    /// Effect on the providers' own entries, if an address was removed.
    #[serde(default)]
    pub there: Option<String>,
}

impl SuppressionResult {
    /// Returns whether the change was made, or would be.
    pub fn is_done(&self) -> bool {
        self.outcome == DONE_OUTCOME
    }

    /// Returns whether the entry is invalid.
    pub fn is_rejected(&self) -> bool {
        self.outcome == REJECTED_OUTCOME
    }
}

/// A contact hint about an address, from a source that sent none of our mail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HintView {
    /// Time of arrival, RFC 3339.
    pub received: String,
    /// Source of the hint.
    pub source: String,
    /// Kind: `bounced`, `unsubscribed`, `opened`, `clicked`, `replied`, `forwarded` or `unknown`.
    pub hint: String,
    /// Time of the event, RFC 3339.
    pub at: String,
    /// Address.
    pub address: String,
    /// Lists of the source that it concerns.
    pub lists: Vec<String>,
    /// The source's name of the event.
    pub name: String,
    /// Diagnostic text.
    pub text: Option<String>,
}

/// Returns the hints about an address, the latest arrival first.
pub fn find_hints(store: &Store, address: &str) -> Result<Vec<HintView>, ReadError> {
    let view = |ReceivedHint { source, received_at, hint, .. }: ReceivedHint| HintView {
        received: received_at.to_string(),
        source,
        hint: hint.kind.as_str().to_owned(),
        at: hint.at.to_string(),
        address: hint.address.unwrap_or_default(),
        lists: hint.lists,
        text: hint.diagnostic.to_line(),
        name: hint.diagnostic.name,
    };
    Ok(store.find_hints(address, MAX_HINTS)?.into_iter().map(view).collect())
}

/// Returns a page of the list, evaluated with these settings at this time.
pub fn find_suppressions(
    store: &Store,
    settings: &SuppressionSettings,
    filter: &SuppressionListFilter,
    now: Timestamp,
) -> Result<SuppressionPage, ReadError> {
    let filed = match &filter.address {
        Some(address) => store.evidence_for_address(address)?,
        None => store
            .list_evidence(filter.after.as_deref().and_then(|after| after.rsplit_once(' ')), PAGE_SIZE)?,
    };
    let more = filter.address.is_none() && filed.len() == PAGE_SIZE;
    let next = filed.last().filter(|_| more).map(|last| format!("{} {}", last.address, last.list));
    let entries = filed
        .iter()
        .flat_map(|filed| filed.evidence.active().map(move |(reason, live)| (filed, reason, live)));
    let entries = entries.filter(|(filed, reason, live)| matches_filter(filter, filed, *reason, live));
    let entries = entries.map(|(filed, reason, live)| to_view(filed, reason, live, settings, now)).collect();
    Ok(SuppressionPage { entries, next })
}

fn matches_filter(
    filter: &SuppressionListFilter,
    filed: &AddressEvidence,
    reason: Reason,
    live: &ActiveEvidence,
) -> bool {
    let same = |wanted: &Option<String>, found: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(found))
    };
    let domain = filed.address.rsplit_once('@').map_or("", |(_, domain)| domain);
    filter.domain.as_deref().is_none_or(|wanted| fold_domain(wanted) == domain)
        && same(&filter.reason, reason.as_str())
        && same(&filter.upstream, &filed.list)
        && same(&filter.source, live.source.as_str())
        && filter.since.is_none_or(|since| live.last_seen().as_millis() >= since)
}

fn to_view(
    filed: &AddressEvidence,
    reason: Reason,
    live: &ActiveEvidence,
    settings: &SuppressionSettings,
    now: Timestamp,
) -> SuppressionView {
    let end = settings.expiry(reason, live);
    let state = match end {
        None => "counted",
        Some(Expiry::At(end)) if end <= now => "ended",
        Some(_) => SUPPRESSED_STATE,
    };
    let until = match end {
        Some(Expiry::At(end)) => Some(end.to_string()),
        Some(Expiry::Never) | None => None,
    };
    SuppressionView {
        address: filed.address.clone(),
        upstream: Some(filed.list.clone()).filter(|list| !list.is_empty()),
        reason: reason.as_str().to_owned(),
        state: state.to_owned(),
        scope: settings.effective_scope(reason, live).as_str().to_owned(),
        until,
        times: live
            .times
            .iter()
            .filter(|at| **at != EvidenceItem::UNKNOWN_TIME)
            .map(ToString::to_string)
            .collect(),
        source: live.source.as_str().to_owned(),
        expires: live.expires_at.map(|expires| expires.to_string()),
        words: live.diagnostic.clone(),
    }
}

/// Applies a change request; entries without an effect are not written.
pub async fn change_suppressions(
    api: &ApiState,
    order: SuppressionRequest,
    operator: &str,
) -> Result<Vec<SuppressionResult>, ApiError> {
    let (here, dry_run, operator) = (api.clone(), order.dry_run, operator.to_owned());
    let planned = tokio::task::spawn_blocking(move || plan_changes(&here, &order, &operator)).await;
    let planned = planned.map_err(|_| ApiError::Internal)??;
    let one = |(address, planned): (String, PlannedChange)| async move {
        let mut there = None;
        let (outcome, why) = match planned {
            PlannedChange::Write(listing) => {
                if matches!(listing.kind, SuppressionChangeKind::Remove { .. }) {
                    there = provider_list_notice(api, listing.list.as_deref());
                }
                if !dry_run {
                    api.store.change_suppression(*listing).await?;
                }
                (DONE_OUTCOME, None)
            }
            PlannedChange::Unchanged(why) => (UNCHANGED_OUTCOME, Some(why.to_owned())),
            PlannedChange::Rejected(why) => (REJECTED_OUTCOME, Some(why)),
        };
        Ok(SuppressionResult { address, outcome: outcome.to_owned(), why, there })
    };
    let acts = stream::iter(planned).map(one).buffered(WRITE_BATCH);
    acts.collect::<Vec<_>>().await.into_iter().collect()
}

/// Returns the effect on the providers' own entries of removing an address from a list, or from all.
fn provider_list_notice(api: &ApiState, list: Option<&str>) -> Option<String> {
    let upstreams = api.providers.iter().filter(|(_, provider)| **provider != Provider::Plain);
    let upstreams = upstreams.map(|(name, _)| name).filter(|name| list.is_none_or(|list| list == *name));
    let said: Vec<_> = upstreams
        .map(|name| match api.suppression_sync.is_automatic(name) {
            Some(true) => format!("upstream {name}: the next sync takes it off the provider's list"),
            Some(false) => format!(
                "upstream {name}: it stays on the provider's list until `mailtrail suppress sync --upstream {name}`"
            ),
            None => format!(
                "upstream {name}: without an api_key it stays on the provider's list, and the provider keeps mail back; \
                 remove it there"
            ),
        })
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Planned change of an entry.
enum PlannedChange {
    Write(Box<SuppressionChange>),
    /// No change needed.
    Unchanged(&'static str),
    /// Invalid entry.
    Rejected(String),
}

fn plan_changes(
    state: &ApiState,
    order: &SuppressionRequest,
    caller: &str,
) -> Result<Vec<(String, PlannedChange)>, ApiError> {
    let selected;
    let entries = match (&order.all, &order.entries[..]) {
        (Some(all), []) if order.verb == "remove" => {
            selected = select_entries(&state.store, all)?;
            &selected
        }
        (None, entries) => entries,
        (Some(_), _) => return Err(ApiError::Invalid("ALL is for removing, and stands alone")),
    };
    let planner = ChangePlanner { state, now: state.clock.now(), caller };
    let add = match &*order.verb {
        "add" => true,
        "remove" => false,
        _ => return Err(ApiError::Invalid("the verb is add or remove")),
    };
    let mut planned = Vec::with_capacity(entries.len());
    for entry in entries {
        let one = match if add { planner.plan_addition(entry) } else { planner.plan_removal(entry) } {
            Ok(planned) => planned,
            Err(PlanError::Invalid(why)) => PlannedChange::Rejected(why),
            Err(PlanError::Read(error)) => return Err(error.into()),
        };
        planned.push((entry.address.clone(), one));
    }
    Ok(planned)
}

/// Returns the addresses of all entries with a reason.
fn select_entries(store: &Store, all: &SuppressionEntry) -> Result<Vec<SuppressionEntry>, ApiError> {
    if all.reason.is_none() {
        return Err(ApiError::Invalid("ALL needs a reason: --reason hard-bounce"));
    }
    let mut filter = SuppressionListFilter {
        reason: all.reason.clone(),
        upstream: all.upstream.clone(),
        ..SuppressionListFilter::default()
    };
    let (settings, mut selected) = (SuppressionSettings::default(), Vec::<SuppressionEntry>::new());
    loop {
        let page = find_suppressions(store, &settings, &filter, Timestamp::default())?;
        for entry in page.entries {
            if selected.last().is_none_or(|last| last.address != entry.address) {
                selected.push(SuppressionEntry { address: entry.address, ..all.clone() });
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(selected),
        }
    }
}

/// Error that ends the planning of an entry.
enum PlanError {
    Invalid(String),
    Read(ReadError),
}

impl From<ReadError> for PlanError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

struct ChangePlanner<'a> {
    state: &'a ApiState,
    now: Timestamp,
    caller: &'a str,
}

impl ChangePlanner<'_> {
    fn plan_addition(&self, entry: &SuppressionEntry) -> Result<PlannedChange, PlanError> {
        let address = parse_address(entry)?;
        let list = self.parse_list(entry)?;
        let reason = parse_keyword(entry.reason.as_ref(), "reason", Reason::ALL.map(Reason::as_str))?
            .unwrap_or(Reason::Manual);
        let scope =
            parse_keyword(entry.scope.as_ref(), "scope", ["all", "bulk"])?.unwrap_or(reason.default_scope());
        let source =
            parse_keyword(entry.source.as_ref(), "source", EvidenceSource::ALL.map(EvidenceSource::as_str))?
                .unwrap_or(EvidenceSource::Operator);
        let expires_at = entry.expires.as_ref().map(|text| parse_time(text)).transpose()?;
        let mut times =
            entry.times.iter().map(|text| parse_event_time(text)).collect::<Result<Vec<_>, _>>()?;
        times.sort_unstable();
        if times.last().is_some_and(|last| *last > self.now.saturating_add(MAX_CLOCK_SKEW)) {
            return Err(PlanError::Invalid("happened in the future".to_owned()));
        }
        let known = self.load_evidence(&address, list.as_deref())?;
        if times.is_empty() {
            // Evidence from other parties alone ends when they end it.
            let lasts = |source| !matches!(source, EvidenceSource::Provider | EvidenceSource::Hint);
            let same = |live: &ActiveEvidence| {
                live.scope() == scope && live.expires_at == expires_at && lasts(live.source)
            };
            if known.own.active_for(reason).is_some_and(same) {
                return Ok(PlannedChange::Unchanged("is on the list already"));
            }
            times.push(self.now);
        }
        let words = truncate_words(&entry.words);
        let mark = |at| EvidenceItem { at, scope, source, expires_at, diagnostic: words.clone() };
        let items: Vec<_> = times.into_iter().map(mark).collect();
        let (at, operator) = (self.now, self.caller.to_owned());
        let kind = SuppressionChangeKind::Add { reason, items };
        let mut after = known.own.clone();
        after.apply_change(&kind, at);
        after.apply_global_clear(&known.global);
        if after == known.own {
            let known = after.active_for(reason).is_some();
            return Ok(PlannedChange::Unchanged(if known {
                "is on the list already"
            } else {
                "was removed since then"
            }));
        }
        Ok(PlannedChange::Write(Box::new(SuppressionChange { address, list, at, operator, kind })))
    }

    fn plan_removal(&self, entry: &SuppressionEntry) -> Result<PlannedChange, PlanError> {
        let address = parse_address(entry)?;
        let list = self.parse_list(entry)?;
        let reason: Option<Reason> =
            parse_keyword(entry.reason.as_ref(), "reason", Reason::ALL.map(Reason::as_str))?;
        let filed = self.state.store.evidence_for_address(&address.to_folded())?;
        let concerned = filed.iter().filter(|filed| list.as_ref().is_none_or(|list| *list == filed.list));
        let live = concerned.flat_map(|filed| filed.evidence.active());
        let last = live.filter(|(known, _)| reason.is_none_or(|reason| reason == *known));
        // Evidence dated ahead by a provider's clock is cleared, too.
        let Some(last) = last.map(|(_, live)| live.last_seen()).max() else {
            return Ok(PlannedChange::Unchanged("is not on the list"));
        };
        let (at, operator) = (self.now.max(last), self.caller.to_owned());
        let comment = truncate_words(&entry.words);
        Ok(PlannedChange::Write(Box::new(SuppressionChange {
            address,
            list,
            at,
            operator,
            kind: SuppressionChangeKind::Remove { reason, comment },
        })))
    }

    fn parse_list(&self, entry: &SuppressionEntry) -> Result<Option<String>, PlanError> {
        let list = entry.upstream.clone().filter(|list| !list.is_empty());
        match &list {
            Some(name) if !self.state.upstream_health.iter().any(|health| health.name() == name) => {
                Err(PlanError::Invalid(format!(
                    "there is no upstream {name:?}; `mailtrail breaker status` lists them"
                )))
            }
            _ => Ok(list),
        }
    }

    fn load_evidence(&self, address: &Mailbox, list: Option<&str>) -> Result<ExistingEvidence, PlanError> {
        let (store, address) = (&self.state.store, address.to_folded());
        let everywhere = store.suppression_evidence(&address, "")?.unwrap_or_default();
        let own = match list {
            Some(list) => store.suppression_evidence(&address, list)?.unwrap_or_default(),
            None => everywhere.clone(),
        };
        Ok(ExistingEvidence {
            own,
            global: if list.is_some() { everywhere } else { SuppressionEvidence::default() },
        })
    }
}

/// Existing evidence about an address.
struct ExistingEvidence {
    /// Evidence on the requested list.
    own: SuppressionEvidence,
    /// Evidence on the global list.
    global: SuppressionEvidence,
}

fn parse_address(entry: &SuppressionEntry) -> Result<Mailbox, PlanError> {
    entry.address.parse().map_err(|error| PlanError::Invalid(format!("is no mail address: {error}")))
}

/// Truncates a diagnostic to its maximum length.
fn truncate_words(words: &str) -> String {
    words.chars().take(EvidenceItem::MAX_DIAGNOSTIC_CHARS).collect()
}

/// Parses an entry's time: an exported list may lack it.
fn parse_event_time(text: &str) -> Result<Timestamp, PlanError> {
    if text == UNKNOWN_TIME { Ok(EvidenceItem::UNKNOWN_TIME) } else { parse_time(text) }
}

fn parse_time(text: &str) -> Result<Timestamp, PlanError> {
    let bad = || PlanError::Invalid(format!("{text:?} is no time such as \"2026-11-21T10:00:00Z\""));
    Timestamp::parse_rfc3339(text).ok_or_else(bad)
}

fn parse_keyword<T: std::str::FromStr, const N: usize>(
    text: Option<&String>,
    what: &str,
    words: [&str; N],
) -> Result<Option<T>, PlanError> {
    let Some(text) = text else { return Ok(None) };
    let bad = |_| PlanError::Invalid(format!("{text:?} is no {what}: {}", words.join(", ")));
    text.parse().map(Some).map_err(bad)
}

/// State of an entry that suppresses mail.
pub const SUPPRESSED_STATE: &str = "suppressed";
/// Time of an entry without a known one.
pub const UNKNOWN_TIME: &str = "unknown";
const DONE_OUTCOME: &str = "done";
const UNCHANGED_OUTCOME: &str = "same";
const REJECTED_OUTCOME: &str = "refused";
/// Maximum number of hints returned for one address.
const MAX_HINTS: usize = 100;
/// Suppression records read per page.
const PAGE_SIZE: usize = 2000;
/// Entries written at a time: they share fsyncs.
const WRITE_BATCH: usize = 1024;
/// Maximum time by which another clock may be ahead of ours.
const MAX_CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(86_400);
