//! What is to be done, as a function of both lists.

use mailtrail_mail::Timestamp;
use mailtrail_net::provider_api::{Entry, List};
use mailtrail_store::Filed;
use mailtrail_trail::suppression::{Dossier, Live, Mark, Reason, Scope, Settings, Source};

/// What becomes of an entry of the provider's.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Nothing.
    Left,
    /// It is evidence here.
    TakenIn(Mark),
    /// It is taken off there.
    Removed,
}

/// What is known here of an address that the provider lists.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// On the upstream's list.
    pub own: &'a Dossier,
    /// On the one that holds for every domain.
    pub everywhere: &'a Dossier,
}

/// What a list of the provider's is for.
pub const fn reason(list: List) -> Reason {
    match list {
        List::Bounces => Reason::HardBounce,
        List::Complaints => Reason::Complaint,
        List::Unsubscribes => Reason::Unsubscribe,
    }
}

/// The provider's list for a reason, if it has one.
pub fn list(wanted: Reason) -> Option<List> {
    List::ALL.into_iter().find(|list| reason(*list) == wanted)
}

/// Which mail the provider keeps back because of an entry: an unsubscription may be from some tags or senders only.
pub fn scope(list: List, entry: &Entry) -> Scope {
    let some = list == List::Unsubscribes && !entry.tags.iter().any(|tag| tag == "*");
    if some { Scope::Bulk } else { Scope::All }
}

impl Known<'_> {
    /// What becomes of an entry of the provider's.
    pub fn weigh(&self, list: List, entry: &Entry, settings: &Settings, now: Timestamp) -> Fate {
        let (reason, scope) = (reason(list), scope(list, entry));
        let live = || [self.own, self.everywhere].into_iter().filter_map(|one| one.live_of(reason));
        if live().any(|live| settings.holds(reason, live, now) && live.scope() >= scope) {
            return Fate::Left;
        }
        let void = self.own.void_until(reason).max(self.everywhere.void_until(reason));
        // One that does not say when is no evidence of anything since a removal.
        let at = entry.since.map_or(Mark::UNKNOWN, |since| since.min(now));
        if void > Timestamp::default() && at <= void {
            return if live().next().is_none() { Fate::Removed } else { Fate::Left };
        }
        // What ended is listed there again: as far as we know since now.
        let again = |live: &Live| at <= live.last() && live.expires.is_some_and(|expires| expires <= now);
        let at = if self.own.live_of(reason).is_some_and(again) { now } else { at };
        let words = [entry.code.as_deref(), entry.reason.as_deref()];
        let words =
            words.into_iter().flatten().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ");
        let mark = Mark { at, scope, source: Source::Provider, expires: None, words };
        let mut after = self.own.clone();
        after.add(reason, &mark);
        after.under(self.everywhere);
        if after == *self.own { Fate::Left } else { Fate::TakenIn(mark) }
    }
}

/// Evidence from the provider's list as it ends, now that the address is no longer there; `None` for what others said
/// last, or what ends anyway.
pub fn ended(live: &Live, now: Timestamp) -> Option<Mark> {
    let lasts = live.source == Source::Provider && live.expires.is_none();
    lasts.then(|| Mark {
        at: live.last(),
        scope: live.scope(),
        source: Source::Provider,
        expires: Some(now),
        words: GONE.to_owned(),
    })
}

/// The entry that the provider is to have because of what an operator added here.
pub fn added(
    filed: &Filed,
    reason: Reason,
    live: &Live,
    settings: &Settings,
    now: Timestamp,
) -> Option<(List, Entry)> {
    let list = list(reason)?;
    // A provider's entry has no end, and knows no lanes.
    let lasts = live.expires.is_none() && settings.holds(reason, live, now);
    let wanted = live.source.is_operator() && lasts && settings.scope(reason, live) == Scope::All;
    wanted.then(|| {
        let entry = Entry {
            address: filed.address.clone(),
            since: Some(live.last().min(now)),
            code: None,
            reason: (list == List::Bounces).then(|| live.words.clone()),
            tags: if list == List::Unsubscribes { vec!["*".to_owned()] } else { Vec::new() },
        };
        (list, entry)
    })
}

/// The words of what ended.
const GONE: &str = "no longer on the provider's list";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_387_200);

    fn ago(days: u32) -> Timestamp {
        NOW.before(Duration::from_secs(86_400) * days)
    }

    fn mark(days: u32, scope: Scope, source: Source) -> Mark {
        Mark { at: ago(days), scope, source, expires: None, words: String::new() }
    }

    fn dossier(reason: Reason, marks: &[Mark], removed: Option<u32>) -> Dossier {
        let mut dossier = Dossier::default();
        marks.iter().for_each(|mark| dossier.add(reason, mark));
        removed.into_iter().for_each(|days| dossier.clear(None, ago(days)));
        dossier
    }

    fn entry(days: Option<u32>, tag: &str) -> Entry {
        Entry {
            address: "a@example.net".into(),
            since: days.map(ago),
            tags: vec![tag.into()],
            ..Entry::default()
        }
    }

    fn weigh(own: &Dossier, everywhere: &Dossier, entry: &Entry) -> Fate {
        Known { own, everywhere }.weigh(List::Unsubscribes, entry, &Settings::default(), NOW)
    }

    #[test]
    fn what_the_provider_lists_is_taken_in_unless_as_much_is_known() {
        let of = |marks: &[Mark]| dossier(Reason::Unsubscribe, marks, None);
        let nothing = Dossier::default();
        let Fate::TakenIn(taken) = weigh(&nothing, &nothing, &entry(Some(3), "*")) else { unreachable!() };
        assert_eq!(taken, mark(3, Scope::All, Source::Provider));
        let after = of(std::slice::from_ref(&taken));
        for days in [3, 5, 1] {
            assert_eq!(weigh(&after, &nothing, &entry(Some(days), "*")), Fate::Left);
        }
        let bulk = of(&[mark(2, Scope::Bulk, Source::Webhook)]);
        for (own, everywhere, tag, taken) in [
            (&bulk, &nothing, "news", false),
            (&bulk, &nothing, "*", true),
            (&nothing, &bulk, "news", false),
            (&nothing, &bulk, "*", true),
            (&nothing, &after, "*", false),
        ] {
            let fate = weigh(own, everywhere, &entry(Some(3), tag));
            assert_eq!(matches!(fate, Fate::TakenIn(_)), taken, "{tag} {fate:?}");
            if let Fate::TakenIn(mark) = fate {
                let mut again = own.clone();
                again.add(Reason::Unsubscribe, &mark);
                assert_eq!(weigh(&again, everywhere, &entry(Some(3), tag)), Fate::Left, "once is enough");
            }
        }
    }

    #[test]
    fn a_removal_here_wins_over_what_is_older_there() {
        let (nothing, removed) = (Dossier::default(), dossier(Reason::Unsubscribe, &[], Some(5)));
        for (own, everywhere) in [(&removed, &nothing), (&nothing, &removed)] {
            for (days, expected) in
                [(Some(6), Some(Fate::Removed)), (Some(5), Some(Fate::Removed)), (Some(4), None)]
            {
                let fate = weigh(own, everywhere, &entry(days, "*"));
                match expected {
                    Some(expected) => assert_eq!(fate, expected),
                    None => assert!(matches!(fate, Fate::TakenIn(_)), "{fate:?}"),
                }
            }
            assert_eq!(weigh(own, everywhere, &entry(None, "*")), Fate::Removed, "nothing is known since");
        }
        let Fate::TakenIn(unknown) = weigh(&nothing, &nothing, &entry(None, "*")) else { unreachable!() };
        assert_eq!(unknown.at, Mark::UNKNOWN);
        let mut known = Dossier::default();
        known.add(Reason::Unsubscribe, &unknown);
        assert_eq!(weigh(&known, &nothing, &entry(None, "*")), Fate::Left, "once is enough");
        assert_eq!(weigh(&known, &nothing, &entry(Some(3), "*")), Fate::Left);
        let since = dossier(Reason::Unsubscribe, &[mark(2, Scope::Bulk, Source::Webhook)], Some(5));
        assert_eq!(weigh(&since, &nothing, &entry(None, "*")), Fate::Left, "it happened again");
        // Who unsubscribed again since then stays where he is.
        let again = dossier(Reason::Unsubscribe, &[mark(2, Scope::Bulk, Source::Webhook)], Some(5));
        assert_eq!(weigh(&again, &nothing, &entry(Some(6), "*")), Fate::Left);
    }

    #[test]
    fn what_ended_and_comes_back_counts_again() {
        let nothing = Dossier::default();
        let mut own = dossier(Reason::Unsubscribe, &[mark(3, Scope::All, Source::Provider)], None);
        let end = ended(own.live_of(Reason::Unsubscribe).unwrap(), ago(1)).unwrap();
        own.add(Reason::Unsubscribe, &end);
        let live = own.live_of(Reason::Unsubscribe).unwrap();
        assert!(!Settings::default().holds(Reason::Unsubscribe, live, NOW));
        assert_eq!(ended(live, NOW), None, "it ends once");
        for days in [Some(3), Some(1), Some(0)] {
            let Fate::TakenIn(mark) = weigh(&own, &nothing, &entry(days, "*")) else { unreachable!() };
            let mut again = own.clone();
            again.add(Reason::Unsubscribe, &mark);
            let live = again.live_of(Reason::Unsubscribe).unwrap();
            assert!(Settings::default().holds(Reason::Unsubscribe, live, NOW), "{days:?}");
            assert_eq!(weigh(&again, &nothing, &entry(days, "*")), Fate::Left);
        }
    }

    #[test]
    fn only_what_an_operator_added_against_all_mail_goes_there() {
        let settings = Settings::default();
        let pushed = |reason: Reason, mark: &Mark| {
            let filed = Filed {
                address: "a@example.net".into(),
                list: String::new(),
                dossier: dossier(reason, std::slice::from_ref(mark), None),
            };
            added(&filed, reason, filed.dossier.live_of(reason).unwrap(), &settings, NOW)
        };
        for (reason, list) in [
            (Reason::HardBounce, Some(List::Bounces)),
            (Reason::Complaint, Some(List::Complaints)),
            (Reason::Unsubscribe, Some(List::Unsubscribes)),
            (Reason::Manual, None),
            (Reason::SoftBounce, None),
        ] {
            for source in Source::ALL {
                let found = pushed(reason, &mark(1, Scope::All, source));
                let expected = list.filter(|_| matches!(source, Source::Operator | Source::Import));
                assert_eq!(found.as_ref().map(|(list, _)| *list), expected, "{reason:?} {source:?}");
                assert!(found.is_none_or(|(_, entry)| entry.since == Some(ago(1))));
            }
        }
        let operator = mark(1, Scope::All, Source::Operator);
        assert_eq!(pushed(Reason::Unsubscribe, &Mark { scope: Scope::Bulk, ..operator.clone() }), None);
        assert_eq!(
            pushed(
                Reason::HardBounce,
                &Mark { expires: Some(NOW.after(Duration::from_secs(9))), ..operator }
            ),
            None
        );
    }
}
