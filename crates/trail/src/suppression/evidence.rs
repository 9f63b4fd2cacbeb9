use crate::suppression::change::SuppressionChangeKind;
use crate::suppression::reason::{EvidenceItem, EvidenceSource, Reason, Scope};
use mailtrail_mail::Timestamp;
use std::collections::BTreeMap;

/// Evidence against one address on one list, by reason. The same evidence in any order results in equal
/// values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuppressionEvidence(BTreeMap<Reason, ReasonEvidence>);

/// Evidence of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonEvidence {
    /// Time up to which evidence is invalid.
    pub cleared_until: Timestamp,
    /// Evidence since then.
    pub active: Option<ActiveEvidence>,
}

/// Valid evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveEvidence {
    /// Times of the occurrences, ascending: at least one, and at most the latest [`Self::MAX_TIMES`]. The
    /// first may be [`EvidenceItem::UNKNOWN_TIME`].
    pub times: Vec<Timestamp>,
    /// Latest occurrence that concerned all messages, if any did.
    pub all_mail_at: Option<Timestamp>,
    /// Source of the latest occurrence.
    pub source: EvidenceSource,
    /// Expiry given by the latest occurrence, if any.
    pub expires_at: Option<Timestamp>,
    /// Text of the latest occurrence.
    pub diagnostic: String,
}

impl ActiveEvidence {
    /// Maximum number of times: more than any count in the settings requires.
    pub const MAX_TIMES: usize = 16;

    /// Returns the earliest time.
    pub fn first_seen(&self) -> Timestamp {
        self.times.first().copied().unwrap_or_default()
    }

    /// Returns the latest time.
    pub fn last_seen(&self) -> Timestamp {
        self.times.last().copied().unwrap_or_default()
    }

    /// Returns whether no occurrence has a known time.
    pub fn is_undated(&self) -> bool {
        self.last_seen() == EvidenceItem::UNKNOWN_TIME
    }

    /// Returns items that result in the same evidence when they are added.
    pub fn items(&self) -> impl Iterator<Item = EvidenceItem> {
        let beyond = self.all_mail_at.filter(|at| !self.times.contains(at));
        beyond.into_iter().chain(self.times.iter().copied()).map(|at| EvidenceItem {
            at,
            scope: if self.all_mail_at == Some(at) { Scope::All } else { Scope::Bulk },
            source: self.source,
            expires_at: self.expires_at,
            diagnostic: self.diagnostic.clone(),
        })
    }

    /// Returns the scope of the evidence.
    pub fn scope(&self) -> Scope {
        if self.all_mail_at.is_some() { Scope::All } else { Scope::Bulk }
    }

    fn add(&mut self, item: &EvidenceItem) {
        let words: String = item.diagnostic.chars().take(EvidenceItem::MAX_DIAGNOSTIC_CHARS).collect();
        // Several sources for the same time are ordered by a fixed rule, independent of arrival.
        let current = (self.last_seen(), self.source, self.expires_at, self.diagnostic.as_str());
        if (item.at, item.source, item.expires_at, words.as_str()) > current {
            (self.source, self.expires_at, self.diagnostic) = (item.source, item.expires_at, words);
        }
        self.all_mail_at = self.all_mail_at.max(all_mail_time(item));
        if let Err(place) = self.times.binary_search(&item.at) {
            self.times.insert(place, item.at);
            self.times.drain(..self.times.len().saturating_sub(Self::MAX_TIMES));
        }
    }
}

impl From<&EvidenceItem> for ActiveEvidence {
    fn from(item: &EvidenceItem) -> Self {
        Self {
            times: vec![item.at],
            all_mail_at: all_mail_time(item),
            source: item.source,
            expires_at: item.expires_at,
            diagnostic: item.diagnostic.chars().take(EvidenceItem::MAX_DIAGNOSTIC_CHARS).collect(),
        }
    }
}

fn all_mail_time(item: &EvidenceItem) -> Option<Timestamp> {
    (item.scope == Scope::All).then_some(item.at)
}

impl ReasonEvidence {
    fn add(&mut self, item: &EvidenceItem) {
        if self.cleared_until > Timestamp::default() && item.at <= self.cleared_until {
            return;
        }
        match &mut self.active {
            Some(active) => active.add(item),
            None => self.active = Some(item.into()),
        }
    }

    fn clear(&mut self, until: Timestamp) {
        if until == Timestamp::default() {
            // Nothing was cleared.
            return;
        }
        self.cleared_until = self.cleared_until.max(until);
        if let Some(active) = &mut self.active {
            active.times.retain(|at| *at > until);
            active.all_mail_at = active.all_mail_at.filter(|at| *at > until);
        }
        self.active.take_if(|active| active.times.is_empty());
    }
}

impl SuppressionEvidence {
    /// Restores stored evidence.
    pub fn new(evidence: impl IntoIterator<Item = (Reason, ReasonEvidence)>) -> Self {
        Self(evidence.into_iter().collect())
    }

    /// Returns all evidence, valid or not.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, &ReasonEvidence)> {
        self.0.iter().map(|(reason, evidence)| (*reason, evidence))
    }

    /// Returns the valid evidence, the most severe reason first.
    pub fn active(&self) -> impl Iterator<Item = (Reason, &ActiveEvidence)> {
        self.iter().filter_map(|(reason, evidence)| Some((reason, evidence.active.as_ref()?)))
    }

    /// Returns the valid evidence of one reason.
    pub fn active_for(&self, reason: Reason) -> Option<&ActiveEvidence> {
        self.0.get(&reason)?.active.as_ref()
    }

    /// Returns the time up to which evidence of a reason is invalid: 1970 if it was never cleared.
    pub fn cleared_until(&self, reason: Reason) -> Timestamp {
        self.0.get(&reason).map_or_else(Timestamp::default, |evidence| evidence.cleared_until)
    }

    /// Returns whether there is no data at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the evidence is against the address; soft bounces alone are not yet.
    pub fn is_listed(&self) -> bool {
        self.active().any(|(reason, _)| reason != Reason::SoftBounce)
    }

    /// Returns whether the evidence is obsolete: it is invalid or temporary, and from before `before`.
    pub fn is_expired(&self, before: Timestamp) -> bool {
        let is_old = |active: &ActiveEvidence| active.last_seen() < before;
        !self.is_listed()
            && self
                .iter()
                .all(|(_, one)| one.cleared_until < before && one.active.as_ref().is_none_or(is_old))
    }

    /// Adds an item.
    pub fn add(&mut self, reason: Reason, item: &EvidenceItem) {
        self.0.entry(reason).or_default().add(item);
    }

    /// Invalidates the evidence up to `until`, for one reason or for all.
    pub fn clear(&mut self, reason: Option<Reason>, until: Timestamp) {
        for known in Reason::ALL.into_iter().filter(|known| reason.is_none_or(|reason| reason == *known)) {
            self.0.entry(known).or_default().clear(until);
        }
    }

    /// Adds the valid evidence of another value.
    pub fn merge(&mut self, other: &Self) {
        for (reason, active) in other.active() {
            active.items().for_each(|item| self.add(reason, &item));
        }
    }

    /// Applies a change of the list at that time.
    pub fn apply_change(&mut self, change: &SuppressionChangeKind, at: Timestamp) {
        match change {
            SuppressionChangeKind::Add { reason, items } => {
                items.iter().for_each(|item| self.add(*reason, item))
            }
            SuppressionChangeKind::Remove { reason, .. } => self.clear(*reason, at),
        }
    }

    /// Invalidates evidence that was cleared on the global list, and drops entries that add nothing to that.
    pub fn apply_global_clear(&mut self, everywhere: &Self) {
        for (reason, evidence) in &mut self.0 {
            let until = everywhere.0.get(reason).map_or_else(Timestamp::default, |above| above.cleared_until);
            let own = evidence.cleared_until;
            evidence.clear(until);
            evidence.cleared_until = if own > until { own } else { Timestamp::default() };
        }
        self.0.retain(|_, evidence| *evidence != ReasonEvidence::default());
    }

    /// Drops entries of the global list without content.
    pub fn prune(&mut self) {
        self.0.retain(|_, evidence| *evidence != ReasonEvidence::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists as the store maintains them.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct TestLists {
        own: SuppressionEvidence,
        global: SuppressionEvidence,
    }

    #[derive(Clone, Debug)]
    enum TestStep {
        Item(Reason, EvidenceItem),
        ClearOwn(Option<Reason>, Timestamp),
        ClearGlobal(Option<Reason>, Timestamp),
    }

    impl TestLists {
        fn apply(&mut self, step: &TestStep) {
            match step {
                TestStep::Item(reason, item) => self.own.add(*reason, item),
                TestStep::ClearOwn(reason, until) => self.own.clear(*reason, *until),
                TestStep::ClearGlobal(reason, until) => self.global.clear(*reason, *until),
            }
            self.global.prune();
            self.own.apply_global_clear(&self.global);
        }

        fn from_steps(steps: &[TestStep]) -> Self {
            let mut lists = Self::default();
            steps.iter().for_each(|step| lists.apply(step));
            lists
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_789_387_200 + seconds)
    }

    fn random_item(random: &mut fastrand::Rng, times: u64) -> EvidenceItem {
        EvidenceItem {
            at: if random.u8(..20) == 0 { EvidenceItem::UNKNOWN_TIME } else { at(random.u64(..times)) },
            scope: if random.bool() { Scope::All } else { Scope::Bulk },
            source: EvidenceSource::ALL[random.usize(..EvidenceSource::ALL.len())],
            expires_at: random.bool().then(|| at(random.u64(..1000))),
            diagnostic: random.u8(..3).to_string(),
        }
    }

    fn random_step(random: &mut fastrand::Rng, times: u64) -> TestStep {
        let reason = Reason::ALL[random.usize(..2)];
        let some = random.bool().then_some(reason);
        match random.u8(..50) {
            0 => TestStep::ClearOwn(some, at(random.u64(..times))),
            1 => TestStep::ClearGlobal(some, at(random.u64(..times))),
            _ => TestStep::Item(reason, random_item(random, times)),
        }
    }

    #[test]
    fn any_order_with_duplicates_gives_equal_evidence() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut active, mut full) = (0, 0);
        for round in 0..1000 {
            let times = [5, 30, 1000][round % 3];
            let mut steps: Vec<_> =
                (0..random.usize(1..150)).map(|_| random_step(&mut random, times)).collect();
            let expected = TestLists::from_steps(&steps);
            for _ in 0..4 {
                let again: Vec<_> =
                    (0..random.usize(..8)).map(|_| steps[random.usize(..steps.len())].clone()).collect();
                steps.extend(again);
                random.shuffle(&mut steps);
                assert_eq!(TestLists::from_steps(&steps), expected, "{steps:?}");
            }
            active += expected.own.active().count();
            full += expected
                .own
                .active()
                .filter(|(_, active)| active.times.len() == ActiveEvidence::MAX_TIMES)
                .count();
        }
        assert!(active > 500 && full > 50, "{active} {full}");
    }

    #[test]
    fn latest_item_wins_and_cleared_evidence_is_ignored() {
        let item = |seconds, scope, words: &str| EvidenceItem {
            at: at(seconds),
            scope,
            source: EvidenceSource::Webhook,
            expires_at: None,
            diagnostic: words.into(),
        };
        let mut evidence = SuppressionEvidence::default();
        evidence.add(Reason::Unsubscribe, &item(20, Scope::Bulk, "late"));
        evidence.add(Reason::Unsubscribe, &item(10, Scope::All, "early"));
        let active = evidence.active_for(Reason::Unsubscribe).unwrap();
        assert_eq!((active.first_seen(), active.last_seen(), active.scope()), (at(10), at(20), Scope::All));
        assert_eq!(active.diagnostic, "late");
        evidence.clear(None, at(15));
        let active = evidence.active_for(Reason::Unsubscribe).unwrap();
        assert_eq!((active.first_seen(), active.scope()), (at(20), Scope::Bulk));
        assert!(evidence.is_listed() && !evidence.is_expired(at(100)));
        evidence.clear(Some(Reason::Unsubscribe), at(20));
        evidence.add(Reason::Unsubscribe, &item(20, Scope::All, "repeated"));
        assert!(!evidence.is_listed() && evidence.is_expired(at(21)) && !evidence.is_expired(at(20)));
    }
}
