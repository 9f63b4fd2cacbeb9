//! The suppression list: what is on it, and orders to change it.

use crate::admin::error::Refusal;
use crate::admin::state::Panel;
use futures_util::{StreamExt, stream};
use mailtrail_mail::{Mailbox, Timestamp, fold_domain};
use mailtrail_store::{Filed, ReadError, Store};
use mailtrail_trail::Hinted;
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::{Change, Dossier, End, Listing, Live, Mark, Reason, Settings, Source};
use serde::{Deserialize, Serialize};

/// Which entries are wanted; what is not given asks for all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionFilter {
    /// That address.
    pub address: Option<String>,
    /// Addresses at that domain.
    pub domain: Option<String>,
    /// With that reason.
    pub reason: Option<String>,
    /// Of that upstream's list.
    pub upstream: Option<String>,
    /// From that source.
    pub source: Option<String>,
    /// Of which something happened since then, in milliseconds since 1970.
    pub since: Option<u64>,
    /// Behind the page that said so.
    pub after: Option<String>,
}

/// Some entries, in the order of addresses, lists and reasons.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionPage {
    /// The entries.
    pub entries: Vec<SuppressionView>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// One reason why an address gets no mail, or may come to get none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionView {
    /// The address, in lower case.
    pub address: String,
    /// The upstream whose list it is on; absent: all of them.
    pub upstream: Option<String>,
    /// `complaint`, `hard-bounce`, `manual`, `unsubscribe` or `soft-bounce`.
    pub reason: String,
    /// `suppressed`; `counted` where it is not enough for that yet; `ended`.
    pub state: String,
    /// Which mail it is about: `all` or `bulk`.
    pub scope: String,
    /// Until when it is suppressed by the settings, RFC 3339; absent: until it is removed, or not at all.
    pub until: Option<String>,
    /// Each time that something happened, as far as is remembered, RFC 3339, ascending; none where nobody says when.
    pub times: Vec<String>,
    /// Who said so last: `webhook`, `poll`, `provider`, `attempt`, `operator`, `import` or `hint`.
    pub source: String,
    /// Until when it was listed, where that was said, RFC 3339.
    pub expires: Option<String>,
    /// The words that came with it last.
    pub words: String,
}

/// What is to be done with the list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionOrder {
    /// `add` or `remove`.
    pub verb: String,
    /// The entries. To remove, each names an address, and may name a list and a reason.
    #[serde(default)]
    pub entries: Vec<SuppressionEntry>,
    /// Or: to remove all entries with that reason, from that upstream's list or from all.
    #[serde(default)]
    pub all: Option<SuppressionEntry>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// An entry as somebody wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionEntry {
    /// The address.
    #[serde(default)]
    pub address: String,
    /// The upstream whose list it is for; absent: all of them.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Why; `manual` where nothing is said, to remove: any.
    #[serde(default)]
    pub reason: Option<String>,
    /// Which mail: `all`, or `bulk`, which is usual for `unsubscribe`.
    #[serde(default)]
    pub scope: Option<String>,
    /// When it happened, RFC 3339, or `unknown`; none: now.
    #[serde(default)]
    pub times: Vec<String>,
    /// Who said so; `operator` where nothing is said.
    #[serde(default)]
    pub source: Option<String>,
    /// When it ends, RFC 3339; absent: when the settings say so.
    #[serde(default)]
    pub expires: Option<String>,
    /// In what words.
    #[serde(default)]
    pub words: String,
}

/// What was done with one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionAct {
    /// The address.
    pub address: String,
    /// `done`; `same` where nothing had to be done; `refused`.
    pub outcome: String,
    /// Why not.
    pub why: Option<String>,
    /// What becomes of the providers' own entries, where an address was removed.
    #[serde(default)]
    pub there: Option<String>,
}

impl SuppressionAct {
    /// Whether it was done, or would be.
    pub fn is_done(&self) -> bool {
        self.outcome == DONE
    }

    /// Whether it makes no sense.
    pub fn is_refused(&self) -> bool {
        self.outcome == REFUSED
    }
}

/// What somebody who sent none of our mail says about an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HintView {
    /// When it came, RFC 3339.
    pub received: String,
    /// The source that gave it.
    pub source: String,
    /// What happened: `bounced`, `unsubscribed`, `opened`, `clicked`, `replied`, `forwarded` or `unknown`.
    pub hint: String,
    /// When it happened, RFC 3339.
    pub at: String,
    /// The address.
    pub address: String,
    /// The source's lists that it concerns.
    pub lists: Vec<String>,
    /// The source's name for it.
    pub name: String,
    /// The words that came with it.
    pub text: Option<String>,
}

/// Hints about an address, the last to come first.
pub fn hints(store: &Store, address: &str) -> Result<Vec<HintView>, ReadError> {
    let view = |Hinted { source, received, hint, .. }: Hinted| HintView {
        received: received.to_string(),
        source,
        hint: hint.kind.word().to_owned(),
        at: hint.at.to_string(),
        address: hint.address.unwrap_or_default(),
        lists: hint.lists,
        text: hint.words.in_one_line(),
        name: hint.words.name,
    };
    Ok(store.hints(address, HINTS)?.into_iter().map(view).collect())
}

/// A page of the list, by these settings and at this time.
pub fn suppressions(
    store: &Store,
    settings: &Settings,
    filter: &SuppressionFilter,
    now: Timestamp,
) -> Result<SuppressionPage, ReadError> {
    let filed = match &filter.address {
        Some(address) => store.dossiers_of(address)?,
        None => store.dossiers(filter.after.as_deref().and_then(|after| after.rsplit_once(' ')), PAGE)?,
    };
    let more = filter.address.is_none() && filed.len() == PAGE;
    let next = filed.last().filter(|_| more).map(|last| format!("{} {}", last.address, last.list));
    let entries =
        filed.iter().flat_map(|filed| filed.dossier.live().map(move |(reason, live)| (filed, reason, live)));
    let entries = entries.filter(|(filed, reason, live)| fits(filter, filed, *reason, live));
    let entries = entries.map(|(filed, reason, live)| view(filed, reason, live, settings, now)).collect();
    Ok(SuppressionPage { entries, next })
}

fn fits(filter: &SuppressionFilter, filed: &Filed, reason: Reason, live: &Live) -> bool {
    let same = |wanted: &Option<String>, found: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(found))
    };
    let domain = filed.address.rsplit_once('@').map_or("", |(_, domain)| domain);
    filter.domain.as_deref().is_none_or(|wanted| fold_domain(wanted) == domain)
        && same(&filter.reason, reason.word())
        && same(&filter.upstream, &filed.list)
        && same(&filter.source, live.source.word())
        && filter.since.is_none_or(|since| live.last().millis() >= since)
}

fn view(filed: &Filed, reason: Reason, live: &Live, settings: &Settings, now: Timestamp) -> SuppressionView {
    let end = settings.end(reason, live);
    let state = match end {
        None => "counted",
        Some(End::At(end)) if end <= now => "ended",
        Some(_) => SUPPRESSED,
    };
    let until = match end {
        Some(End::At(end)) => Some(end.to_string()),
        Some(End::Never) | None => None,
    };
    SuppressionView {
        address: filed.address.clone(),
        upstream: Some(filed.list.clone()).filter(|list| !list.is_empty()),
        reason: reason.word().to_owned(),
        state: state.to_owned(),
        scope: settings.scope(reason, live).word().to_owned(),
        until,
        times: live.times.iter().filter(|at| **at != Mark::UNKNOWN).map(ToString::to_string).collect(),
        source: live.source.word().to_owned(),
        expires: live.expires.map(|expires| expires.to_string()),
        words: live.words.clone(),
    }
}

/// Carries an order out; entries of which nothing comes are not written.
pub async fn change(
    panel: &Panel,
    order: SuppressionOrder,
    operator: &str,
) -> Result<Vec<SuppressionAct>, Refusal> {
    let (here, dry_run, operator) = (panel.clone(), order.dry_run, operator.to_owned());
    let weighed = tokio::task::spawn_blocking(move || weigh(&here, &order, &operator)).await;
    let weighed = weighed.map_err(|_| Refusal::Broken)??;
    let one = |(address, weighed): (String, Weighed)| async move {
        let mut there = None;
        let (outcome, why) = match weighed {
            Weighed::Good(listing) => {
                if matches!(listing.change, Change::Remove { .. }) {
                    there = at_providers(panel, listing.list.as_deref());
                }
                if !dry_run {
                    panel.store.list(*listing).await?;
                }
                (DONE, None)
            }
            Weighed::Same(why) => (SAME, Some(why.to_owned())),
            Weighed::Bad(why) => (REFUSED, Some(why)),
        };
        Ok(SuppressionAct { address, outcome: outcome.to_owned(), why, there })
    };
    let acts = stream::iter(weighed).map(one).buffered(AT_ONCE);
    acts.collect::<Vec<_>>().await.into_iter().collect()
}

/// What becomes of the providers' own entries of an address that is removed from a list, or from all.
fn at_providers(panel: &Panel, list: Option<&str>) -> Option<String> {
    let upstreams = panel.providers.iter().filter(|(_, provider)| **provider != Provider::Plain);
    let upstreams = upstreams.map(|(name, _)| name).filter(|name| list.is_none_or(|list| list == *name));
    let said: Vec<_> = upstreams
        .map(|name| match panel.sync.is_by_itself(name) {
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

/// What is to become of an entry.
enum Weighed {
    Good(Box<Listing>),
    /// It is so already.
    Same(&'static str),
    /// It makes no sense.
    Bad(String),
}

fn weigh(panel: &Panel, order: &SuppressionOrder, operator: &str) -> Result<Vec<(String, Weighed)>, Refusal> {
    let chosen;
    let entries = match (&order.all, &order.entries[..]) {
        (Some(all), []) if order.verb == "remove" => {
            chosen = select(&panel.store, all)?;
            &chosen
        }
        (None, entries) => entries,
        (Some(_), _) => return Err(Refusal::Senseless("ALL is for removing, and stands alone")),
    };
    let desk = Desk { panel, now: panel.clock.now(), operator };
    let add = match &*order.verb {
        "add" => true,
        "remove" => false,
        _ => return Err(Refusal::Senseless("the verb is add or remove")),
    };
    let mut weighed = Vec::with_capacity(entries.len());
    for entry in entries {
        let one = match if add { desk.add(entry) } else { desk.remove(entry) } {
            Ok(weighed) => weighed,
            Err(Weighing::Bad(why)) => Weighed::Bad(why),
            Err(Weighing::Read(error)) => return Err(error.into()),
        };
        weighed.push((entry.address.clone(), one));
    }
    Ok(weighed)
}

/// The addresses of all entries with a reason.
fn select(store: &Store, all: &SuppressionEntry) -> Result<Vec<SuppressionEntry>, Refusal> {
    if all.reason.is_none() {
        return Err(Refusal::Senseless("ALL needs a reason: --reason hard-bounce"));
    }
    let mut filter = SuppressionFilter {
        reason: all.reason.clone(),
        upstream: all.upstream.clone(),
        ..SuppressionFilter::default()
    };
    let (settings, mut chosen) = (Settings::default(), Vec::<SuppressionEntry>::new());
    loop {
        let page = suppressions(store, &settings, &filter, Timestamp::default())?;
        for entry in page.entries {
            if chosen.last().is_none_or(|last| last.address != entry.address) {
                chosen.push(SuppressionEntry { address: entry.address, ..all.clone() });
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(chosen),
        }
    }
}

/// Why an entry is not weighed to its end.
enum Weighing {
    Bad(String),
    Read(ReadError),
}

impl From<ReadError> for Weighing {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

struct Desk<'a> {
    panel: &'a Panel,
    now: Timestamp,
    operator: &'a str,
}

impl Desk<'_> {
    fn add(&self, entry: &SuppressionEntry) -> Result<Weighed, Weighing> {
        let address = address(entry)?;
        let list = self.list(entry)?;
        let reason =
            word(entry.reason.as_ref(), "reason", Reason::ALL.map(Reason::word))?.unwrap_or(Reason::Manual);
        let scope = word(entry.scope.as_ref(), "scope", ["all", "bulk"])?.unwrap_or(reason.usual_scope());
        let source =
            word(entry.source.as_ref(), "source", Source::ALL.map(Source::word))?.unwrap_or(Source::Operator);
        let expires = entry.expires.as_ref().map(|text| time(text)).transpose()?;
        let mut times = entry.times.iter().map(|text| happened(text)).collect::<Result<Vec<_>, _>>()?;
        times.sort_unstable();
        if times.last().is_some_and(|last| *last > self.now.after(SKEW)) {
            return Err(Weighing::Bad("happened in the future".to_owned()));
        }
        let known = self.known(&address, list.as_deref())?;
        if times.is_empty() {
            // What only others say ends when they say so.
            let lasts = |source| !matches!(source, Source::Provider | Source::Hint);
            let same = |live: &Live| live.scope() == scope && live.expires == expires && lasts(live.source);
            if known.own.live_of(reason).is_some_and(same) {
                return Ok(Weighed::Same("is on the list already"));
            }
            times.push(self.now);
        }
        let words = noted(&entry.words);
        let mark = |at| Mark { at, scope, source, expires, words: words.clone() };
        let marks: Vec<_> = times.into_iter().map(mark).collect();
        let (at, operator) = (self.now, self.operator.to_owned());
        let change = Change::Add { reason, marks };
        let mut after = known.own.clone();
        after.change(&change, at);
        after.under(&known.everywhere);
        if after == known.own {
            let known = after.live_of(reason).is_some();
            return Ok(Weighed::Same(if known {
                "is on the list already"
            } else {
                "was removed since then"
            }));
        }
        Ok(Weighed::Good(Box::new(Listing { address, list, at, operator, change })))
    }

    fn remove(&self, entry: &SuppressionEntry) -> Result<Weighed, Weighing> {
        let address = address(entry)?;
        let list = self.list(entry)?;
        let reason: Option<Reason> = word(entry.reason.as_ref(), "reason", Reason::ALL.map(Reason::word))?;
        let filed = self.panel.store.dossiers_of(&address.folded())?;
        let concerned = filed.iter().filter(|filed| list.as_ref().is_none_or(|list| *list == filed.list));
        let live = concerned.flat_map(|filed| filed.dossier.live());
        let last = live.filter(|(known, _)| reason.is_none_or(|reason| reason == *known));
        // What a provider's clock dates ahead of ours is to be void, too.
        let Some(last) = last.map(|(_, live)| live.last()).max() else {
            return Ok(Weighed::Same("is not on the list"));
        };
        let (at, operator) = (self.now.max(last), self.operator.to_owned());
        let words = noted(&entry.words);
        Ok(Weighed::Good(Box::new(Listing {
            address,
            list,
            at,
            operator,
            change: Change::Remove { reason, words },
        })))
    }

    fn list(&self, entry: &SuppressionEntry) -> Result<Option<String>, Weighing> {
        let list = entry.upstream.clone().filter(|list| !list.is_empty());
        match &list {
            Some(name) if !self.panel.upstreams.iter().any(|health| health.name() == name) => {
                Err(Weighing::Bad(format!(
                    "there is no upstream {name:?}; `mailtrail breaker status` lists them"
                )))
            }
            _ => Ok(list),
        }
    }

    fn known(&self, address: &Mailbox, list: Option<&str>) -> Result<Known, Weighing> {
        let (store, address) = (&self.panel.store, address.folded());
        let everywhere = store.dossier(&address, "")?.unwrap_or_default();
        let own = match list {
            Some(list) => store.dossier(&address, list)?.unwrap_or_default(),
            None => everywhere.clone(),
        };
        Ok(Known { own, everywhere: if list.is_some() { everywhere } else { Dossier::default() } })
    }
}

/// What is known of an address.
struct Known {
    /// On the list that is meant.
    own: Dossier,
    /// On the one above it.
    everywhere: Dossier,
}

fn address(entry: &SuppressionEntry) -> Result<Mailbox, Weighing> {
    entry.address.parse().map_err(|error| Weighing::Bad(format!("is no mail address: {error}")))
}

/// As much of somebody's words as is kept.
fn noted(words: &str) -> String {
    words.chars().take(Mark::WORDS).collect()
}

/// A time of an entry: a list that was exported may not say when something happened.
fn happened(text: &str) -> Result<Timestamp, Weighing> {
    if text == UNKNOWN { Ok(Mark::UNKNOWN) } else { time(text) }
}

fn time(text: &str) -> Result<Timestamp, Weighing> {
    let bad = || Weighing::Bad(format!("{text:?} is no time such as \"2026-11-21T10:00:00Z\""));
    Timestamp::parse_rfc3339(text).ok_or_else(bad)
}

fn word<T: std::str::FromStr, const N: usize>(
    text: Option<&String>,
    what: &str,
    words: [&str; N],
) -> Result<Option<T>, Weighing> {
    let Some(text) = text else { return Ok(None) };
    let bad = |_| Weighing::Bad(format!("{text:?} is no {what}: {}", words.join(", ")));
    text.parse().map(Some).map_err(bad)
}

/// Of an entry that mail is kept back by.
pub const SUPPRESSED: &str = "suppressed";
/// Of an entry of which nobody says when it happened.
pub const UNKNOWN: &str = "unknown";
const DONE: &str = "done";
const SAME: &str = "same";
const REFUSED: &str = "refused";
/// Hints of one address that are told.
const HINTS: usize = 100;
/// Dossiers of a page.
const PAGE: usize = 2000;
/// Entries that are written at a time: they share syncs.
const AT_ONCE: usize = 1024;
/// How far ahead of ours a clock may be.
const SKEW: std::time::Duration = std::time::Duration::from_secs(86_400);
