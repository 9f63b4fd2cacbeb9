use crate::suppression::evidence::{Dossier, Live};
use crate::suppression::reason::{Mark, Reason, Scope, Source};
use mailtrail_mail::{Lane, Timestamp};
use std::time::Duration;

/// What is to become of mail to addresses that speak against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is done about them. Default report.
    pub policy: Policy,
    /// How long a hard bounce counts; `None`: until it is removed. Default so: a provider keeps it for ever as well. 1 day
    /// to 10 years.
    pub hard_bounce: Option<Duration>,
    /// The same of a complaint. Default until it is removed.
    pub complaint: Option<Duration>,
    /// What an unsubscription keeps back. Default what the provider keeps back.
    pub unsubscribe: Unsubscribes,
    /// Soft bounces within the window that are too many. Default 5, 0 to 10; 0: never.
    pub soft_bounces: usize,
    /// How long a soft bounce counts. Default 14 days, 1 to 60.
    pub soft_bounce_window: Duration,
    /// How long mail is kept back after one too many; each further one doubles it, up to the window. Default 1 day, 1 h to
    /// 30 days.
    pub soft_bounce_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::Report,
            hard_bounce: None,
            complaint: None,
            unsubscribe: Unsubscribes::Refused,
            soft_bounces: 5,
            soft_bounce_window: 14 * DAY,
            soft_bounce_pause: DAY,
        }
    }
}

/// What is done about mail to an address that is suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: the provider decides.
    Off,
    /// It is taken, not sent, and the sender is told.
    Report,
    /// It is refused at RCPT where no upstream could be sent it; otherwise as with [`Policy::Report`].
    Reject,
}

/// What an unsubscription keeps back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribes {
    /// Bulk mail; and all mail from the first that the provider itself kept back because of it. An unsubscription at
    /// Mailgun may be from one tag only, which its event does not show, and an invoice that would have gone through must
    /// not be lost to that; its suppressing a mail (606) is what shows that it goes no further.
    Refused,
    /// Bulk mail, whatever the provider does.
    Bulk,
    /// All mail.
    All,
}

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When it is removed.
    Never,
    /// Then.
    At(Timestamp),
}

/// Why an address is sent no mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The gravest reason.
    pub reason: Reason,
    /// The list that it stands on: an upstream's name, or nothing for the one that holds everywhere.
    pub list: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub end: End,
    /// Who said so last.
    pub source: Source,
    /// In whose words.
    pub words: String,
}

impl Settings {
    /// Until when evidence keeps mail back, if it is enough to.
    pub fn end(&self, reason: Reason, live: &Live) -> Option<End> {
        // What nobody knows the beginning of has no end either.
        let counted = |expiry: Option<Duration>| expiry.filter(|_| !live.is_undated());
        let after = |expiry: Option<Duration>| {
            counted(expiry).map_or(End::Never, |expiry| End::At(live.last().after(expiry)))
        };
        match (live.expires, reason) {
            (Some(expires), _) => Some(End::At(expires)),
            (None, Reason::HardBounce) => Some(after(self.hard_bounce)),
            (None, Reason::Complaint) => Some(after(self.complaint)),
            (None, Reason::Manual | Reason::Unsubscribe) => Some(End::Never),
            (None, Reason::SoftBounce) => self.pause(live).map(|pause| End::At(live.last().after(pause))),
        }
    }

    /// Which mail evidence keeps back. A hint is never about more than it says: who leaves a campaign gets invoices.
    pub fn scope(&self, reason: Reason, live: &Live) -> Scope {
        match (reason, self.unsubscribe) {
            _ if live.source == Source::Hint => live.scope(),
            (Reason::Unsubscribe, Unsubscribes::Bulk) => Scope::Bulk,
            (Reason::Unsubscribe, Unsubscribes::All) => Scope::All,
            _ => live.scope(),
        }
    }

    /// Whether evidence keeps mail back now.
    pub fn holds(&self, reason: Reason, live: &Live, now: Timestamp) -> bool {
        match self.end(reason, live) {
            Some(End::Never) => true,
            Some(End::At(end)) => now < end,
            None => false,
        }
    }

    fn pause(&self, live: &Live) -> Option<Duration> {
        let since = live.last().before(self.soft_bounce_window);
        let recent = live.times.iter().filter(|at| **at > since).count();
        let too_many = recent.checked_sub(self.soft_bounces.max(1)).filter(|_| self.soft_bounces > 0)?;
        let doublings = u32::try_from(too_many).unwrap_or(u32::MAX).min(31);
        let longest = self.soft_bounce_window.max(self.soft_bounce_pause);
        Some(self.soft_bounce_pause.saturating_mul(1 << doublings).min(longest))
    }

    /// Why a dossier keeps mail of that lane back now, if it does.
    fn judge(&self, list: &str, dossier: &Dossier, lane: Lane, now: Timestamp) -> Option<Verdict> {
        let holds = |(reason, live): &(Reason, &Live)| {
            self.holds(*reason, live, now) && (lane == Lane::Bulk || self.scope(*reason, live) == Scope::All)
        };
        let (reason, live) = dossier.live().find(holds)?;
        Some(Verdict {
            reason,
            list: list.to_owned(),
            since: live.first(),
            end: self.end(reason, live)?,
            source: live.source,
            words: live.words.clone(),
        })
    }
}

/// The lists that count for one upstream, by name: its own, and those of the same provider and domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists(Vec<String>);

impl Lists {
    /// Those of these names.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Why an address is sent no mail of that lane now, if that is so; `look` finds what is known of it on a list.
    pub fn judge<E>(
        &self,
        settings: &Settings,
        lane: Lane,
        now: Timestamp,
        mut look: impl FnMut(&str) -> Result<Option<Dossier>, E>,
    ) -> Result<Option<Verdict>, E> {
        let mut gravest: Option<Verdict> = None;
        for list in self.0.iter().map(String::as_str).chain([EVERYWHERE]) {
            let found = look(list)?.and_then(|dossier| settings.judge(list, &dossier, lane, now));
            gravest = match (gravest, found) {
                (Some(known), Some(found)) if found.reason < known.reason => Some(found),
                (known, found) => known.or(found),
            };
        }
        Ok(gravest)
    }
}

/// What a front door asks about recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// The rules.
    pub settings: Settings,
    /// The lists of each upstream, those that count alike once.
    pub upstreams: Vec<Lists>,
}

impl Screen {
    /// Why no upstream could be sent any mail for an address, if that is so. Which lane and route a mail takes is not
    /// known when its recipients are named, so what keeps back bulk mail only, or at some upstreams only, is none.
    pub fn judge<E>(
        &self,
        now: Timestamp,
        mut look: impl FnMut(&str) -> Result<Option<Dossier>, E>,
    ) -> Result<Option<Verdict>, E> {
        let mut first = None;
        for lists in &self.upstreams {
            match lists.judge(&self.settings, Lane::Transactional, now, &mut look)? {
                Some(verdict) => first = first.or(Some(verdict)),
                None => return Ok(None),
            }
        }
        Ok(first)
    }
}

impl Verdict {
    /// For people: why, since when, who says so, and what is to be done about it.
    pub fn text(&self, address: &str) -> String {
        let Self { reason, list, since, source, words, .. } = self;
        let from =
            if list.is_empty() { source.word().to_owned() } else { format!("{} of {list}", source.word()) };
        let until = match self.end {
            End::Never => String::new(),
            End::At(end) => format!(" until {end}"),
        };
        let since = if *since == Mark::UNKNOWN { "an unknown time".to_owned() } else { since.to_string() };
        let said = if words.is_empty() { String::new() } else { format!(": {words}") };
        format!(
            "not sent, on the suppression list{until}: {}, since {since}, by {from}{said}; \
             `mailtrail suppress remove {address}` lets mail go again",
            reason.word()
        )
    }
}

/// The name of the list that holds for every domain.
const EVERYWHERE: &str = "";

/// The status of what is not sent: refused because of a rule about the recipient (RFC 3463 section 3.8).
pub const STATUS: &str = "5.7.1";

const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppression::reason::Mark;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_387_200);

    fn mark(days_ago: u64, scope: Scope) -> Mark {
        Mark {
            at: NOW.before(DAY * days_ago as u32),
            scope,
            source: Source::Webhook,
            expires: None,
            words: "550 no".into(),
        }
    }

    fn dossier(marks: &[(Reason, u64, Scope)]) -> Dossier {
        let mut dossier = Dossier::default();
        marks.iter().for_each(|(reason, days, scope)| dossier.add(*reason, &mark(*days, *scope)));
        dossier
    }

    fn reason(settings: &Settings, marks: &[(Reason, u64, Scope)], lane: Lane) -> Option<Reason> {
        settings.judge("up", &dossier(marks), lane, NOW).map(|verdict| verdict.reason)
    }

    const BOTH: [Lane; 2] = [Lane::Transactional, Lane::Bulk];

    #[test]
    fn an_unsubscription_lets_invoices_go_until_the_provider_does_not() {
        use Reason::Unsubscribe;
        let settings = |unsubscribe| Settings { unsubscribe, ..Settings::default() };
        let (wanted, refused) = ([(Unsubscribe, 3, Scope::Bulk)], [(Unsubscribe, 2, Scope::All)]);
        for (rule, expected) in [
            (Unsubscribes::Refused, [None, Some(Unsubscribe), Some(Unsubscribe), Some(Unsubscribe)]),
            (Unsubscribes::Bulk, [None, Some(Unsubscribe), None, Some(Unsubscribe)]),
            (Unsubscribes::All, [Some(Unsubscribe); 4]),
        ] {
            let settings = settings(rule);
            let found: Vec<_> = [&wanted, &refused]
                .into_iter()
                .flat_map(|marks| BOTH.map(|lane| reason(&settings, marks, lane)))
                .collect();
            assert_eq!(found, expected, "{rule:?}");
        }
    }

    #[test]
    fn bounces_and_complaints_end_when_the_settings_say_so() {
        let shipped = Settings::default();
        let short =
            Settings { hard_bounce: Some(DAY * 90), complaint: Some(DAY * 10), ..Settings::default() };
        for (one, days, under_short) in [
            (Reason::HardBounce, 89, true),
            (Reason::HardBounce, 90, false),
            (Reason::Complaint, 9, true),
            (Reason::Complaint, 10, false),
            (Reason::Manual, 4000, true),
        ] {
            let marks = [(one, days, Scope::All)];
            assert_eq!(reason(&shipped, &marks, Lane::Transactional), Some(one));
            assert_eq!(
                reason(&short, &marks, Lane::Transactional),
                under_short.then_some(one),
                "{one:?} {days}"
            );
        }
        let mut until = Dossier::default();
        until.add(Reason::Manual, &Mark { expires: Some(NOW.after(DAY)), ..mark(1, Scope::All) });
        let held = |now| shipped.judge("", &until, Lane::Transactional, now).is_some();
        assert!(held(NOW) && !held(NOW.after(DAY)));
    }

    #[test]
    fn soft_bounces_keep_mail_back_when_they_are_many_and_longer_each_time() {
        let settings = Settings::default();
        let hours = |bounces: &[u64]| {
            let marks: Vec<_> = bounces.iter().map(|days| (Reason::SoftBounce, *days, Scope::All)).collect();
            let dossier = dossier(&marks);
            let live = dossier.live_of(Reason::SoftBounce).unwrap();
            settings.pause(live).map(|pause| pause.as_secs() / 3600)
        };
        assert_eq!(hours(&[0, 1, 2, 3]), None);
        assert_eq!(hours(&[0, 1, 2, 3, 14]), None, "one is too old to count");
        assert_eq!(hours(&[0, 1, 2, 3, 13]), Some(24));
        assert_eq!(hours(&[0, 1, 2, 3, 4, 5]), Some(48));
        assert_eq!(hours(&[0, 1, 2, 3, 4, 5, 6, 7]), Some(192));
        assert_eq!(hours(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), Some(14 * 24), "no longer than the window");
        let never = Settings { soft_bounces: 0, ..Settings::default() };
        let many: Vec<_> = (0..13).map(|days| (Reason::SoftBounce, days, Scope::All)).collect();
        assert_eq!(reason(&never, &many, Lane::Bulk), None);
        assert_eq!(reason(&settings, &many, Lane::Transactional), Some(Reason::SoftBounce));
    }

    #[test]
    fn the_gravest_reason_of_the_lists_that_count_speaks() {
        let known = BTreeMap::from([
            ("a", dossier(&[(Reason::Unsubscribe, 1, Scope::All)])),
            ("a-api", dossier(&[(Reason::HardBounce, 1, Scope::All)])),
            ("b", dossier(&[(Reason::Complaint, 1, Scope::All)])),
        ]);
        let look = |list: &str| Ok::<_, Infallible>(known.get(list).cloned());
        let lists = |names: &[&str]| Lists::new(names.iter().map(|name| (*name).to_owned()).collect());
        let settings = Settings::default();
        let Ok(verdict) = lists(&["a", "a-api"]).judge(&settings, Lane::Transactional, NOW, look);
        let verdict = verdict.unwrap();
        assert_eq!((verdict.reason, &*verdict.list), (Reason::HardBounce, "a-api"));
        let text = verdict.text("ada@example.net");
        assert!(
            text.contains("hard-bounce, since 2026-09-13T12:00:00.000Z, by webhook of a-api: 550 no;"),
            "{text}"
        );
        let screen = |upstreams| Screen { settings: settings.clone(), upstreams };
        let Ok(everywhere) = screen(vec![lists(&["a"]), lists(&["b"])]).judge(NOW, look);
        assert_eq!(everywhere.map(|verdict| verdict.reason), Some(Reason::Unsubscribe));
        let Ok(somewhere) = screen(vec![lists(&["a"]), lists(&["c"])]).judge(NOW, look);
        assert_eq!(somewhere, None);
    }
}
