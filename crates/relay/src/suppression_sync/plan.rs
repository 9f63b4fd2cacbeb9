//! Plan of a sync as a pure function of both lists.

use mailtrail_mail::Timestamp;
use mailtrail_net::provider_api::{SuppressionEntry, SuppressionList};
use mailtrail_store::AddressEvidence;
use mailtrail_trail::suppression::{
    ActiveEvidence, EvidenceItem, EvidenceSource, Reason, Scope, SuppressionEvidence, SuppressionSettings,
};

/// Action for an entry of the provider's list.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoteEntryAction {
    /// No change.
    Ignore,
    /// Add as evidence here.
    Import(EvidenceItem),
    /// Remove from the provider's list.
    RemoveRemotely,
}

/// Local evidence about an address that the provider lists.
#[derive(Clone, Copy, Debug)]
pub struct LocalEvidence<'a> {
    /// Evidence on the upstream's list.
    pub upstream: &'a SuppressionEvidence,
    /// Evidence on the global list.
    pub global: &'a SuppressionEvidence,
}

/// Returns the suppression reason of a provider's list.
pub const fn reason_of(list: SuppressionList) -> Reason {
    match list {
        SuppressionList::Bounces => Reason::HardBounce,
        SuppressionList::Complaints => Reason::Complaint,
        SuppressionList::Unsubscribes => Reason::Unsubscribe,
    }
}

/// Returns the provider's list for a reason, if it has one.
pub fn list_for(wanted: Reason) -> Option<SuppressionList> {
    SuppressionList::ALL.into_iter().find(|list| reason_of(*list) == wanted)
}

/// Returns the scope of the mail that the provider withholds because of an entry: an unsubscription may
/// cover some tags or senders only.
pub fn scope_of(list: SuppressionList, entry: &SuppressionEntry) -> Scope {
    let some = list == SuppressionList::Unsubscribes && !entry.tags.iter().any(|tag| tag == "*");
    if some { Scope::Bulk } else { Scope::All }
}

impl LocalEvidence<'_> {
    /// Returns the action for an entry of the provider's list.
    pub fn plan_remote_entry(
        &self,
        list: SuppressionList,
        entry: &SuppressionEntry,
        settings: &SuppressionSettings,
        now: Timestamp,
    ) -> RemoteEntryAction {
        let (reason, scope) = (reason_of(list), scope_of(list, entry));
        let live = || [self.upstream, self.global].into_iter().filter_map(|one| one.active_for(reason));
        if live().any(|live| settings.is_active(reason, live, now) && live.scope() >= scope) {
            return RemoteEntryAction::Ignore;
        }
        let void = self.upstream.cleared_until(reason).max(self.global.cleared_until(reason));
        // An entry without a time is no evidence of an event after a removal.
        let at = entry.since.map_or(EvidenceItem::UNKNOWN_TIME, |since| since.min(now));
        if void > Timestamp::default() && at <= void {
            return if live().next().is_none() {
                RemoteEntryAction::RemoveRemotely
            } else {
                RemoteEntryAction::Ignore
            };
        }
        // Ended evidence is listed there again: since now, as far as can be determined.
        let again = |live: &ActiveEvidence| {
            at <= live.last_seen() && live.expires_at.is_some_and(|expires| expires <= now)
        };
        let at = if self.upstream.active_for(reason).is_some_and(again) { now } else { at };
        let words = [entry.code.as_deref(), entry.reason.as_deref()];
        let diagnostic =
            words.into_iter().flatten().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ");
        let mark = EvidenceItem { at, scope, source: EvidenceSource::Provider, expires_at: None, diagnostic };
        let mut after = self.upstream.clone();
        after.add(reason, &mark);
        after.apply_global_clear(self.global);
        if after == *self.upstream { RemoteEntryAction::Ignore } else { RemoteEntryAction::Import(mark) }
    }
}

/// Returns the evidence that ends an entry no longer on the provider's list; `None` for evidence last seen
/// from another source, or ending anyway.
pub fn expire_evidence(live: &ActiveEvidence, now: Timestamp) -> Option<EvidenceItem> {
    let lasts = live.source == EvidenceSource::Provider && live.expires_at.is_none();
    lasts.then(|| EvidenceItem {
        at: live.last_seen(),
        scope: live.scope(),
        source: EvidenceSource::Provider,
        expires_at: Some(now),
        diagnostic: NO_LONGER_LISTED.to_owned(),
    })
}

/// Returns the entry to add at the provider because of an operator's entry here.
pub fn export_entry(
    filed: &AddressEvidence,
    reason: Reason,
    live: &ActiveEvidence,
    settings: &SuppressionSettings,
    now: Timestamp,
) -> Option<(SuppressionList, SuppressionEntry)> {
    let list = list_for(reason)?;
    // A provider's entry has no expiry and no lane.
    let lasts = live.expires_at.is_none() && settings.is_active(reason, live, now);
    let wanted = live.source.is_operator() && lasts && settings.effective_scope(reason, live) == Scope::All;
    wanted.then(|| {
        let entry = SuppressionEntry {
            address: filed.address.clone(),
            since: Some(live.last_seen().min(now)),
            code: None,
            reason: (list == SuppressionList::Bounces).then(|| live.diagnostic.clone()),
            tags: if list == SuppressionList::Unsubscribes { vec!["*".to_owned()] } else { Vec::new() },
        };
        (list, entry)
    })
}

/// Diagnostic of ended evidence.
const NO_LONGER_LISTED: &str = "no longer on the provider's list";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_secs(1_789_387_200);

    fn days_ago(days: u32) -> Timestamp {
        NOW.saturating_sub(Duration::from_secs(86_400) * days)
    }

    fn evidence_item(days: u32, scope: Scope, source: EvidenceSource) -> EvidenceItem {
        EvidenceItem { at: days_ago(days), scope, source, expires_at: None, diagnostic: String::new() }
    }

    fn suppression_record(
        reason: Reason,
        marks: &[EvidenceItem],
        removed: Option<u32>,
    ) -> SuppressionEvidence {
        let mut evidence = SuppressionEvidence::default();
        marks.iter().for_each(|mark| evidence.add(reason, mark));
        removed.into_iter().for_each(|days| evidence.clear(None, days_ago(days)));
        evidence
    }

    fn remote_entry(days: Option<u32>, tag: &str) -> SuppressionEntry {
        SuppressionEntry {
            address: "a@example.net".into(),
            since: days.map(days_ago),
            tags: vec![tag.into()],
            ..SuppressionEntry::default()
        }
    }

    fn plan_entry(
        upstream: &SuppressionEvidence,
        global: &SuppressionEvidence,
        entry: &SuppressionEntry,
    ) -> RemoteEntryAction {
        LocalEvidence { upstream, global }.plan_remote_entry(
            SuppressionList::Unsubscribes,
            entry,
            &SuppressionSettings::default(),
            NOW,
        )
    }

    #[test]
    fn imports_remote_entries_unless_local_evidence_covers_them() {
        let of = |marks: &[EvidenceItem]| suppression_record(Reason::Unsubscribe, marks, None);
        let nothing = SuppressionEvidence::default();
        let RemoteEntryAction::Import(taken) = plan_entry(&nothing, &nothing, &remote_entry(Some(3), "*"))
        else {
            unreachable!()
        };
        assert_eq!(taken, evidence_item(3, Scope::All, EvidenceSource::Provider));
        let after = of(std::slice::from_ref(&taken));
        for days in [3, 5, 1] {
            assert_eq!(
                plan_entry(&after, &nothing, &remote_entry(Some(days), "*")),
                RemoteEntryAction::Ignore
            );
        }
        let bulk = of(&[evidence_item(2, Scope::Bulk, EvidenceSource::Webhook)]);
        for (own, everywhere, tag, taken) in [
            (&bulk, &nothing, "news", false),
            (&bulk, &nothing, "*", true),
            (&nothing, &bulk, "news", false),
            (&nothing, &bulk, "*", true),
            (&nothing, &after, "*", false),
        ] {
            let action = plan_entry(own, everywhere, &remote_entry(Some(3), tag));
            assert_eq!(matches!(action, RemoteEntryAction::Import(_)), taken, "{tag} {action:?}");
            if let RemoteEntryAction::Import(mark) = action {
                let mut again = own.clone();
                again.add(Reason::Unsubscribe, &mark);
                assert_eq!(
                    plan_entry(&again, everywhere, &remote_entry(Some(3), tag)),
                    RemoteEntryAction::Ignore,
                    "once is enough"
                );
            }
        }
    }

    #[test]
    fn local_removal_wins_over_older_remote_entry() {
        let (nothing, removed) =
            (SuppressionEvidence::default(), suppression_record(Reason::Unsubscribe, &[], Some(5)));
        for (own, everywhere) in [(&removed, &nothing), (&nothing, &removed)] {
            for (days, expected) in [
                (Some(6), Some(RemoteEntryAction::RemoveRemotely)),
                (Some(5), Some(RemoteEntryAction::RemoveRemotely)),
                (Some(4), None),
            ] {
                let action = plan_entry(own, everywhere, &remote_entry(days, "*"));
                match expected {
                    Some(expected) => assert_eq!(action, expected),
                    None => assert!(matches!(action, RemoteEntryAction::Import(_)), "{action:?}"),
                }
            }
            assert_eq!(
                plan_entry(own, everywhere, &remote_entry(None, "*")),
                RemoteEntryAction::RemoveRemotely,
                "nothing is known since"
            );
        }
        let RemoteEntryAction::Import(unknown) = plan_entry(&nothing, &nothing, &remote_entry(None, "*"))
        else {
            unreachable!()
        };
        assert_eq!(unknown.at, EvidenceItem::UNKNOWN_TIME);
        let mut known = SuppressionEvidence::default();
        known.add(Reason::Unsubscribe, &unknown);
        assert_eq!(
            plan_entry(&known, &nothing, &remote_entry(None, "*")),
            RemoteEntryAction::Ignore,
            "once is enough"
        );
        assert_eq!(plan_entry(&known, &nothing, &remote_entry(Some(3), "*")), RemoteEntryAction::Ignore);
        let since = suppression_record(
            Reason::Unsubscribe,
            &[evidence_item(2, Scope::Bulk, EvidenceSource::Webhook)],
            Some(5),
        );
        assert_eq!(
            plan_entry(&since, &nothing, &remote_entry(None, "*")),
            RemoteEntryAction::Ignore,
            "it happened again"
        );
        // An address that unsubscribed again since then stays listed.
        let again = suppression_record(
            Reason::Unsubscribe,
            &[evidence_item(2, Scope::Bulk, EvidenceSource::Webhook)],
            Some(5),
        );
        assert_eq!(plan_entry(&again, &nothing, &remote_entry(Some(6), "*")), RemoteEntryAction::Ignore);
    }

    #[test]
    fn expired_entry_that_returns_is_imported_again() {
        let nothing = SuppressionEvidence::default();
        let mut own = suppression_record(
            Reason::Unsubscribe,
            &[evidence_item(3, Scope::All, EvidenceSource::Provider)],
            None,
        );
        let end = expire_evidence(own.active_for(Reason::Unsubscribe).unwrap(), days_ago(1)).unwrap();
        own.add(Reason::Unsubscribe, &end);
        let live = own.active_for(Reason::Unsubscribe).unwrap();
        assert!(!SuppressionSettings::default().is_active(Reason::Unsubscribe, live, NOW));
        assert_eq!(expire_evidence(live, NOW), None, "it ends once");
        for days in [Some(3), Some(1), Some(0)] {
            let RemoteEntryAction::Import(mark) = plan_entry(&own, &nothing, &remote_entry(days, "*")) else {
                unreachable!()
            };
            let mut again = own.clone();
            again.add(Reason::Unsubscribe, &mark);
            let live = again.active_for(Reason::Unsubscribe).unwrap();
            assert!(SuppressionSettings::default().is_active(Reason::Unsubscribe, live, NOW), "{days:?}");
            assert_eq!(plan_entry(&again, &nothing, &remote_entry(days, "*")), RemoteEntryAction::Ignore);
        }
    }

    #[test]
    fn exports_only_operator_entries_for_all_mail() {
        let settings = SuppressionSettings::default();
        let pushed = |reason: Reason, mark: &EvidenceItem| {
            let filed = AddressEvidence {
                address: "a@example.net".into(),
                list: String::new(),
                evidence: suppression_record(reason, std::slice::from_ref(mark), None),
            };
            export_entry(&filed, reason, filed.evidence.active_for(reason).unwrap(), &settings, NOW)
        };
        for (reason, list) in [
            (Reason::HardBounce, Some(SuppressionList::Bounces)),
            (Reason::Complaint, Some(SuppressionList::Complaints)),
            (Reason::Unsubscribe, Some(SuppressionList::Unsubscribes)),
            (Reason::Manual, None),
            (Reason::SoftBounce, None),
        ] {
            for source in EvidenceSource::ALL {
                let found = pushed(reason, &evidence_item(1, Scope::All, source));
                let expected =
                    list.filter(|_| matches!(source, EvidenceSource::Operator | EvidenceSource::Import));
                assert_eq!(found.as_ref().map(|(list, _)| *list), expected, "{reason:?} {source:?}");
                assert!(found.is_none_or(|(_, entry)| entry.since == Some(days_ago(1))));
            }
        }
        let operator = evidence_item(1, Scope::All, EvidenceSource::Operator);
        assert_eq!(
            pushed(Reason::Unsubscribe, &EvidenceItem { scope: Scope::Bulk, ..operator.clone() }),
            None
        );
        assert_eq!(
            pushed(
                Reason::HardBounce,
                &EvidenceItem { expires_at: Some(NOW.saturating_add(Duration::from_secs(9))), ..operator }
            ),
            None
        );
    }
}
