use crate::suppression::change::Change;
use crate::suppression::reason::{Mark, Reason, Scope, Source};
use mailtrail_mail::Timestamp;
use std::collections::BTreeMap;

/// What speaks against one address on one list, by reason. The same evidence in any order ends in equal dossiers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dossier(BTreeMap<Reason, Evidence>);

/// What is known of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What happened up to then is void.
    pub void_until: Timestamp,
    /// What happened since.
    pub live: Option<Live>,
}

/// Evidence that is not void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// When something happened, ascending; at least one time, and the latest [`Live::TIMES`] of many. The first may be
    /// [`Mark::UNKNOWN`].
    pub times: Vec<Timestamp>,
    /// The last time that it was about all mail, if it ever was.
    pub all_mail: Option<Timestamp>,
    /// Who said so the last time.
    pub source: Source,
    /// When it ends, where that was said the last time.
    pub expires: Option<Timestamp>,
    /// The words of the last time.
    pub words: String,
}

impl Live {
    /// Times that are remembered: more than any count in the settings asks for.
    pub const TIMES: usize = 16;

    /// The earliest time that is remembered.
    pub fn first(&self) -> Timestamp {
        self.times.first().copied().unwrap_or_default()
    }

    /// The latest.
    pub fn last(&self) -> Timestamp {
        self.times.last().copied().unwrap_or_default()
    }

    /// Whether nobody says of anything when it was.
    pub fn is_undated(&self) -> bool {
        self.last() == Mark::UNKNOWN
    }

    /// What says the same when it is taken in.
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        let beyond = self.all_mail.filter(|at| !self.times.contains(at));
        beyond.into_iter().chain(self.times.iter().copied()).map(|at| Mark {
            at,
            scope: if self.all_mail == Some(at) { Scope::All } else { Scope::Bulk },
            source: self.source,
            expires: self.expires,
            words: self.words.clone(),
        })
    }

    /// Which mail it is about.
    pub fn scope(&self) -> Scope {
        if self.all_mail.is_some() { Scope::All } else { Scope::Bulk }
    }

    fn add(&mut self, mark: &Mark) {
        let words: String = mark.words.chars().take(Mark::WORDS).collect();
        // What is said of one time by several is decided the same way in every order.
        let said = (self.last(), self.source, self.expires, self.words.as_str());
        if (mark.at, mark.source, mark.expires, words.as_str()) > said {
            (self.source, self.expires, self.words) = (mark.source, mark.expires, words);
        }
        self.all_mail = self.all_mail.max(all_mail(mark));
        if let Err(place) = self.times.binary_search(&mark.at) {
            self.times.insert(place, mark.at);
            self.times.drain(..self.times.len().saturating_sub(Self::TIMES));
        }
    }
}

impl From<&Mark> for Live {
    fn from(mark: &Mark) -> Self {
        Self {
            times: vec![mark.at],
            all_mail: all_mail(mark),
            source: mark.source,
            expires: mark.expires,
            words: mark.words.chars().take(Mark::WORDS).collect(),
        }
    }
}

fn all_mail(mark: &Mark) -> Option<Timestamp> {
    (mark.scope == Scope::All).then_some(mark.at)
}

impl Evidence {
    fn add(&mut self, mark: &Mark) {
        if self.void_until > Timestamp::default() && mark.at <= self.void_until {
            return;
        }
        match &mut self.live {
            Some(live) => live.add(mark),
            None => self.live = Some(mark.into()),
        }
    }

    fn clear(&mut self, until: Timestamp) {
        if until == Timestamp::default() {
            // Nobody cleared anything.
            return;
        }
        self.void_until = self.void_until.max(until);
        if let Some(live) = &mut self.live {
            live.times.retain(|at| *at > until);
            live.all_mail = live.all_mail.filter(|at| *at > until);
        }
        self.live.take_if(|live| live.times.is_empty());
    }
}

impl Dossier {
    /// One as it was stored.
    pub fn new(evidence: impl IntoIterator<Item = (Reason, Evidence)>) -> Self {
        Self(evidence.into_iter().collect())
    }

    /// All of it, void or not.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, &Evidence)> {
        self.0.iter().map(|(reason, evidence)| (*reason, evidence))
    }

    /// What is not void, the gravest first.
    pub fn live(&self) -> impl Iterator<Item = (Reason, &Live)> {
        self.iter().filter_map(|(reason, evidence)| Some((reason, evidence.live.as_ref()?)))
    }

    /// What is not void of one reason.
    pub fn live_of(&self, reason: Reason) -> Option<&Live> {
        self.0.get(&reason)?.live.as_ref()
    }

    /// Up to when what happened is void for a reason: 1970 where nobody cleared it.
    pub fn void_until(&self, reason: Reason) -> Timestamp {
        self.0.get(&reason).map_or_else(Timestamp::default, |evidence| evidence.void_until)
    }

    /// Whether there is nothing to know.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it speaks against the address: a bounce that may pass does not yet.
    pub fn is_listed(&self) -> bool {
        self.live().any(|(reason, _)| reason != Reason::SoftBounce)
    }

    /// Whether nothing of it is needed any more: it is void, or may pass, and is from before `before`.
    pub fn is_over(&self, before: Timestamp) -> bool {
        let over = |live: &Live| live.last() < before;
        !self.is_listed()
            && self.iter().all(|(_, one)| one.void_until < before && one.live.as_ref().is_none_or(over))
    }

    /// Takes evidence in.
    pub fn add(&mut self, reason: Reason, mark: &Mark) {
        self.0.entry(reason).or_default().add(mark);
    }

    /// Makes void what happened up to `until`, for one reason or for all.
    pub fn clear(&mut self, reason: Option<Reason>, until: Timestamp) {
        for known in Reason::ALL.into_iter().filter(|known| reason.is_none_or(|reason| reason == *known)) {
            self.0.entry(known).or_default().clear(until);
        }
    }

    /// Takes in what is not void of another.
    pub fn join(&mut self, other: &Self) {
        for (reason, live) in other.live() {
            live.marks().for_each(|mark| self.add(reason, &mark));
        }
    }

    /// Does as a listing says at that time.
    pub fn change(&mut self, change: &Change, at: Timestamp) {
        match change {
            Change::Add { reason, marks } => marks.iter().for_each(|mark| self.add(*reason, mark)),
            Change::Remove { reason, .. } => self.clear(*reason, at),
        }
    }

    /// What was cleared everywhere is void on this list, too; what says no more than that is left out.
    pub fn under(&mut self, everywhere: &Self) {
        for (reason, evidence) in &mut self.0 {
            let until = everywhere.0.get(reason).map_or_else(Timestamp::default, |above| above.void_until);
            let own = evidence.void_until;
            evidence.clear(until);
            evidence.void_until = if own > until { own } else { Timestamp::default() };
        }
        self.0.retain(|_, evidence| *evidence != Evidence::default());
    }

    /// The same for the list that holds everywhere.
    pub fn tidy(&mut self) {
        self.0.retain(|_, evidence| *evidence != Evidence::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the store does it.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Lists {
        own: Dossier,
        everywhere: Dossier,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Mark(Reason, Mark),
        ClearOwn(Option<Reason>, Timestamp),
        ClearAll(Option<Reason>, Timestamp),
    }

    impl Lists {
        fn take(&mut self, step: &Step) {
            match step {
                Step::Mark(reason, mark) => self.own.add(*reason, mark),
                Step::ClearOwn(reason, until) => self.own.clear(*reason, *until),
                Step::ClearAll(reason, until) => self.everywhere.clear(*reason, *until),
            }
            self.everywhere.tidy();
            self.own.under(&self.everywhere);
        }

        fn after(steps: &[Step]) -> Self {
            let mut lists = Self::default();
            steps.iter().for_each(|step| lists.take(step));
            lists
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_789_387_200 + seconds)
    }

    fn mark(random: &mut fastrand::Rng, times: u64) -> Mark {
        Mark {
            at: if random.u8(..20) == 0 { Mark::UNKNOWN } else { at(random.u64(..times)) },
            scope: if random.bool() { Scope::All } else { Scope::Bulk },
            source: Source::ALL[random.usize(..Source::ALL.len())],
            expires: random.bool().then(|| at(random.u64(..1000))),
            words: random.u8(..3).to_string(),
        }
    }

    fn step(random: &mut fastrand::Rng, times: u64) -> Step {
        let reason = Reason::ALL[random.usize(..2)];
        let some = random.bool().then_some(reason);
        match random.u8(..50) {
            0 => Step::ClearOwn(some, at(random.u64(..times))),
            1 => Step::ClearAll(some, at(random.u64(..times))),
            _ => Step::Mark(reason, mark(random, times)),
        }
    }

    #[test]
    fn any_order_with_repetitions_ends_in_the_same() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut live, mut full) = (0, 0);
        for round in 0..1000 {
            let times = [5, 30, 1000][round % 3];
            let mut steps: Vec<_> = (0..random.usize(1..150)).map(|_| step(&mut random, times)).collect();
            let expected = Lists::after(&steps);
            for _ in 0..4 {
                let again: Vec<_> =
                    (0..random.usize(..8)).map(|_| steps[random.usize(..steps.len())].clone()).collect();
                steps.extend(again);
                random.shuffle(&mut steps);
                assert_eq!(Lists::after(&steps), expected, "{steps:?}");
            }
            live += expected.own.live().count();
            full += expected.own.live().filter(|(_, live)| live.times.len() == Live::TIMES).count();
        }
        assert!(live > 500 && full > 50, "{live} {full}");
    }

    #[test]
    fn the_latest_speaks_and_what_was_cleared_is_void() {
        let mark = |seconds, scope, words: &str| Mark {
            at: at(seconds),
            scope,
            source: Source::Webhook,
            expires: None,
            words: words.into(),
        };
        let mut dossier = Dossier::default();
        dossier.add(Reason::Unsubscribe, &mark(20, Scope::Bulk, "late"));
        dossier.add(Reason::Unsubscribe, &mark(10, Scope::All, "early"));
        let live = dossier.live_of(Reason::Unsubscribe).unwrap();
        assert_eq!((live.first(), live.last(), live.scope()), (at(10), at(20), Scope::All));
        assert_eq!(live.words, "late");
        dossier.clear(None, at(15));
        let live = dossier.live_of(Reason::Unsubscribe).unwrap();
        assert_eq!((live.first(), live.scope()), (at(20), Scope::Bulk));
        assert!(dossier.is_listed() && !dossier.is_over(at(100)));
        dossier.clear(Some(Reason::Unsubscribe), at(20));
        dossier.add(Reason::Unsubscribe, &mark(20, Scope::All, "repeated"));
        assert!(!dossier.is_listed() && dossier.is_over(at(21)) && !dossier.is_over(at(20)));
    }
}
