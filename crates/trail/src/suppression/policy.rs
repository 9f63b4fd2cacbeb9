use crate::suppression::evidence::{ActiveEvidence, SuppressionEvidence};
use crate::suppression::reason::{EvidenceItem, EvidenceSource, Reason, Scope};
use mailtrail_mail::{Lane, Timestamp};
use std::time::Duration;

/// Handling of messages to suppressed addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionSettings {
    /// Action for suppressed recipients. Default: report.
    pub mode: SuppressionMode,
    /// Validity of a hard bounce; `None`: until it is removed. Default: `None`, since providers keep it
    /// permanently as well. Range: 1 day to 10 years.
    pub hard_bounce_expiry: Option<Duration>,
    /// Validity of a complaint, with the same range. Default: `None`, until it is removed.
    pub complaint_expiry: Option<Duration>,
    /// Messages that an unsubscription suppresses. Default: those that the provider suppresses.
    pub unsubscribe_scope: UnsubscribeScope,
    /// Number of soft bounces within the window that suppresses an address. Default: 5. Range: 0 to 10; 0:
    /// never.
    pub soft_bounce_limit: usize,
    /// Validity of a soft bounce. Default: 14 days. Range: 1 to 60 days.
    pub soft_bounce_window: Duration,
    /// Duration of a suppression at the limit; each further soft bounce doubles it, up to the window.
    /// Default: 1 day. Range: 1 h to 30 days.
    pub soft_bounce_pause: Duration,
}

impl Default for SuppressionSettings {
    fn default() -> Self {
        Self {
            mode: SuppressionMode::Report,
            hard_bounce_expiry: None,
            complaint_expiry: None,
            unsubscribe_scope: UnsubscribeScope::AsProvider,
            soft_bounce_limit: 5,
            soft_bounce_window: 14 * ONE_DAY,
            soft_bounce_pause: ONE_DAY,
        }
    }
}

/// Action for messages to a suppressed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressionMode {
    /// None: the provider decides.
    Off,
    /// The message is accepted and not sent; the sender gets a DSN.
    Report,
    /// The recipient is rejected at RCPT if no upstream could be sent the message; otherwise as with
    /// [`SuppressionMode::Report`].
    Reject,
}

/// Messages that an unsubscription suppresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsubscribeScope {
    /// Bulk messages, and all messages from the first one that the provider itself suppressed for this
    /// reason. An unsubscription at Mailgun may concern one tag only, which its event does not show. An
    /// invoice that would have been delivered must not be lost to that. Only a suppression by Mailgun (606)
    /// shows that it applies to all messages.
    AsProvider,
    /// Bulk messages, whatever the provider does.
    Bulk,
    /// All messages.
    All,
}

/// End of a suppression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Valid until it is removed.
    Never,
    /// Valid until that time.
    At(Timestamp),
}

/// Suppression of an address, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionVerdict {
    /// The most severe reason.
    pub reason: Reason,
    /// List with the evidence: an upstream's name; empty for the list that applies to every domain.
    pub list: String,
    /// Start of the suppression.
    pub since: Timestamp,
    /// End of the suppression.
    pub expiry: Expiry,
    /// Source of the latest occurrence.
    pub source: EvidenceSource,
    /// Text of the latest occurrence.
    pub diagnostic: String,
}

impl SuppressionSettings {
    /// Returns the end of the suppression by this evidence, if it is sufficient for one.
    pub fn expiry(&self, reason: Reason, active: &ActiveEvidence) -> Option<Expiry> {
        // Evidence with an unknown start has no end either.
        let counted = |expiry: Option<Duration>| expiry.filter(|_| !active.is_undated());
        let after = |expiry: Option<Duration>| {
            counted(expiry)
                .map_or(Expiry::Never, |expiry| Expiry::At(active.last_seen().saturating_add(expiry)))
        };
        match (active.expires_at, reason) {
            (Some(expires), _) => Some(Expiry::At(expires)),
            (None, Reason::HardBounce) => Some(after(self.hard_bounce_expiry)),
            (None, Reason::Complaint) => Some(after(self.complaint_expiry)),
            (None, Reason::Manual | Reason::Unsubscribe) => Some(Expiry::Never),
            (None, Reason::SoftBounce) => {
                self.pause_for(active).map(|pause| Expiry::At(active.last_seen().saturating_add(pause)))
            }
        }
    }

    /// Returns which messages the evidence suppresses. A hint never covers more than its own scope: a contact
    /// that leaves a campaign still gets invoices.
    pub fn effective_scope(&self, reason: Reason, active: &ActiveEvidence) -> Scope {
        match (reason, self.unsubscribe_scope) {
            _ if active.source == EvidenceSource::Hint => active.scope(),
            (Reason::Unsubscribe, UnsubscribeScope::Bulk) => Scope::Bulk,
            (Reason::Unsubscribe, UnsubscribeScope::All) => Scope::All,
            _ => active.scope(),
        }
    }

    /// Returns whether the evidence suppresses messages now.
    pub fn is_active(&self, reason: Reason, active: &ActiveEvidence, now: Timestamp) -> bool {
        match self.expiry(reason, active) {
            Some(Expiry::Never) => true,
            Some(Expiry::At(end)) => now < end,
            None => false,
        }
    }

    fn pause_for(&self, active: &ActiveEvidence) -> Option<Duration> {
        let since = active.last_seen().saturating_sub(self.soft_bounce_window);
        let recent = active.times.iter().filter(|at| **at > since).count();
        let too_many =
            recent.checked_sub(self.soft_bounce_limit.max(1)).filter(|_| self.soft_bounce_limit > 0)?;
        let doublings = u32::try_from(too_many).unwrap_or(u32::MAX).min(31);
        let longest = self.soft_bounce_window.max(self.soft_bounce_pause);
        Some(self.soft_bounce_pause.saturating_mul(1 << doublings).min(longest))
    }

    /// Returns why evidence suppresses messages of that lane now, if it does.
    fn evaluate(
        &self,
        list: &str,
        evidence: &SuppressionEvidence,
        lane: Lane,
        now: Timestamp,
    ) -> Option<SuppressionVerdict> {
        let holds = |(reason, active): &(Reason, &ActiveEvidence)| {
            self.is_active(*reason, active, now)
                && (lane == Lane::Bulk || self.effective_scope(*reason, active) == Scope::All)
        };
        let (reason, active) = evidence.active().find(holds)?;
        Some(SuppressionVerdict {
            reason,
            list: list.to_owned(),
            since: active.first_seen(),
            expiry: self.expiry(reason, active)?,
            source: active.source,
            diagnostic: active.diagnostic.clone(),
        })
    }
}

/// Lists that apply to one upstream, by name: its own, and those of the same provider and domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListScope(Vec<String>);

impl ListScope {
    /// Creates a scope of these lists.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Returns why messages of that lane to an address are suppressed now, if they are. `lookup` returns the
    /// evidence for the address on a list.
    pub fn evaluate<E>(
        &self,
        settings: &SuppressionSettings,
        lane: Lane,
        now: Timestamp,
        mut lookup: impl FnMut(&str) -> Result<Option<SuppressionEvidence>, E>,
    ) -> Result<Option<SuppressionVerdict>, E> {
        let mut gravest: Option<SuppressionVerdict> = None;
        for list in self.0.iter().map(String::as_str).chain([GLOBAL_LIST]) {
            let found = lookup(list)?.and_then(|evidence| settings.evaluate(list, &evidence, lane, now));
            gravest = match (gravest, found) {
                (Some(known), Some(found)) if found.reason < known.reason => Some(found),
                (known, found) => known.or(found),
            };
        }
        Ok(gravest)
    }
}

/// Check of recipients at SMTP submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientFilter {
    /// Suppression settings.
    pub settings: SuppressionSettings,
    /// List scopes of the upstreams, without duplicates.
    pub list_scopes: Vec<ListScope>,
}

impl RecipientFilter {
    /// Returns why no upstream could be sent any message for an address, if that is so. Lane and route of a
    /// message are unknown at RCPT, so a suppression of bulk messages only, or at some upstreams only, does
    /// not count.
    pub fn evaluate<E>(
        &self,
        now: Timestamp,
        mut lookup: impl FnMut(&str) -> Result<Option<SuppressionEvidence>, E>,
    ) -> Result<Option<SuppressionVerdict>, E> {
        let mut first = None;
        for lists in &self.list_scopes {
            match lists.evaluate(&self.settings, Lane::Transactional, now, &mut lookup)? {
                Some(verdict) => first = first.or(Some(verdict)),
                None => return Ok(None),
            }
        }
        Ok(first)
    }
}

impl SuppressionVerdict {
    /// Returns a text for people: reason, start, source and remedy.
    pub fn to_text(&self, address: &str) -> String {
        let Self { reason, list, since, source, diagnostic, .. } = self;
        let from = if list.is_empty() {
            source.as_str().to_owned()
        } else {
            format!("{} of {list}", source.as_str())
        };
        let until = match self.expiry {
            Expiry::Never => String::new(),
            Expiry::At(end) => format!(" until {end}"),
        };
        let since = if *since == EvidenceItem::UNKNOWN_TIME {
            "an unknown time".to_owned()
        } else {
            since.to_string()
        };
        let suffix = if diagnostic.is_empty() { String::new() } else { format!(": {diagnostic}") };
        format!(
            "not sent, on the suppression list{until}: {}, since {since}, by {from}{suffix}; \
             `mailtrail suppress remove {address}` lets mail go again",
            reason.as_str()
        )
    }
}

/// Name of the list that applies to every domain.
const GLOBAL_LIST: &str = "";

/// Enhanced status of suppressed recipients: refused by a policy about the recipient (RFC 3463 section 3.8).
pub const ENHANCED_STATUS: &str = "5.7.1";

const ONE_DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppression::reason::EvidenceItem;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    const NOW: Timestamp = Timestamp::from_secs(1_789_387_200);

    fn item(days_ago: u64, scope: Scope) -> EvidenceItem {
        EvidenceItem {
            at: NOW.saturating_sub(ONE_DAY * days_ago as u32),
            scope,
            source: EvidenceSource::Webhook,
            expires_at: None,
            diagnostic: "550 no".into(),
        }
    }

    fn evidence(marks: &[(Reason, u64, Scope)]) -> SuppressionEvidence {
        let mut evidence = SuppressionEvidence::default();
        marks.iter().for_each(|(reason, days, scope)| evidence.add(*reason, &item(*days, *scope)));
        evidence
    }

    fn reason_for(
        settings: &SuppressionSettings,
        marks: &[(Reason, u64, Scope)],
        lane: Lane,
    ) -> Option<Reason> {
        settings.evaluate("up", &evidence(marks), lane, NOW).map(|verdict| verdict.reason)
    }

    const BOTH_LANES: [Lane; 2] = [Lane::Transactional, Lane::Bulk];

    #[test]
    fn unsubscribe_blocks_transactional_mail_only_when_the_provider_does() {
        use Reason::Unsubscribe;
        let settings =
            |unsubscribe_scope| SuppressionSettings { unsubscribe_scope, ..SuppressionSettings::default() };
        let (wanted, refused) = ([(Unsubscribe, 3, Scope::Bulk)], [(Unsubscribe, 2, Scope::All)]);
        for (rule, expected) in [
            (UnsubscribeScope::AsProvider, [None, Some(Unsubscribe), Some(Unsubscribe), Some(Unsubscribe)]),
            (UnsubscribeScope::Bulk, [None, Some(Unsubscribe), None, Some(Unsubscribe)]),
            (UnsubscribeScope::All, [Some(Unsubscribe); 4]),
        ] {
            let settings = settings(rule);
            let found: Vec<_> = [&wanted, &refused]
                .into_iter()
                .flat_map(|marks| BOTH_LANES.map(|lane| reason_for(&settings, marks, lane)))
                .collect();
            assert_eq!(found, expected, "{rule:?}");
        }
    }

    #[test]
    fn bounces_and_complaints_expire_as_configured() {
        let shipped = SuppressionSettings::default();
        let short = SuppressionSettings {
            hard_bounce_expiry: Some(ONE_DAY * 90),
            complaint_expiry: Some(ONE_DAY * 10),
            ..SuppressionSettings::default()
        };
        for (one, days, under_short) in [
            (Reason::HardBounce, 89, true),
            (Reason::HardBounce, 90, false),
            (Reason::Complaint, 9, true),
            (Reason::Complaint, 10, false),
            (Reason::Manual, 4000, true),
        ] {
            let marks = [(one, days, Scope::All)];
            assert_eq!(reason_for(&shipped, &marks, Lane::Transactional), Some(one));
            assert_eq!(
                reason_for(&short, &marks, Lane::Transactional),
                under_short.then_some(one),
                "{one:?} {days}"
            );
        }
        let mut until = SuppressionEvidence::default();
        until.add(
            Reason::Manual,
            &EvidenceItem { expires_at: Some(NOW.saturating_add(ONE_DAY)), ..item(1, Scope::All) },
        );
        let held = |now| shipped.evaluate("", &until, Lane::Transactional, now).is_some();
        assert!(held(NOW) && !held(NOW.saturating_add(ONE_DAY)));
    }

    #[test]
    fn repeated_soft_bounces_suppress_with_doubling_pause() {
        let settings = SuppressionSettings::default();
        let hours = |bounces: &[u64]| {
            let marks: Vec<_> = bounces.iter().map(|days| (Reason::SoftBounce, *days, Scope::All)).collect();
            let evidence = evidence(&marks);
            let active = evidence.active_for(Reason::SoftBounce).unwrap();
            settings.pause_for(active).map(|pause| pause.as_secs() / 3600)
        };
        assert_eq!(hours(&[0, 1, 2, 3]), None);
        assert_eq!(hours(&[0, 1, 2, 3, 14]), None, "one is too old to count");
        assert_eq!(hours(&[0, 1, 2, 3, 13]), Some(24));
        assert_eq!(hours(&[0, 1, 2, 3, 4, 5]), Some(48));
        assert_eq!(hours(&[0, 1, 2, 3, 4, 5, 6, 7]), Some(192));
        assert_eq!(hours(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), Some(14 * 24), "no longer than the window");
        let never = SuppressionSettings { soft_bounce_limit: 0, ..SuppressionSettings::default() };
        let many: Vec<_> = (0..13).map(|days| (Reason::SoftBounce, days, Scope::All)).collect();
        assert_eq!(reason_for(&never, &many, Lane::Bulk), None);
        assert_eq!(reason_for(&settings, &many, Lane::Transactional), Some(Reason::SoftBounce));
    }

    #[test]
    fn gravest_reason_of_the_relevant_lists_wins() {
        let known = BTreeMap::from([
            ("a", evidence(&[(Reason::Unsubscribe, 1, Scope::All)])),
            ("a-api", evidence(&[(Reason::HardBounce, 1, Scope::All)])),
            ("b", evidence(&[(Reason::Complaint, 1, Scope::All)])),
        ]);
        let lookup = |list: &str| Ok::<_, Infallible>(known.get(list).cloned());
        let lists = |names: &[&str]| ListScope::new(names.iter().map(|name| (*name).to_owned()).collect());
        let settings = SuppressionSettings::default();
        let Ok(verdict) = lists(&["a", "a-api"]).evaluate(&settings, Lane::Transactional, NOW, lookup);
        let verdict = verdict.unwrap();
        assert_eq!((verdict.reason, &*verdict.list), (Reason::HardBounce, "a-api"));
        let text = verdict.to_text("ada@example.net");
        assert!(
            text.contains("hard-bounce, since 2026-09-13T12:00:00.000Z, by webhook of a-api: 550 no;"),
            "{text}"
        );
        let screen = |list_scopes| RecipientFilter { settings: settings.clone(), list_scopes };
        let Ok(everywhere) = screen(vec![lists(&["a"]), lists(&["b"])]).evaluate(NOW, lookup);
        assert_eq!(everywhere.map(|verdict| verdict.reason), Some(Reason::Unsubscribe));
        let Ok(somewhere) = screen(vec![lists(&["a"]), lists(&["c"])]).evaluate(NOW, lookup);
        assert_eq!(somewhere, None);
    }
}
