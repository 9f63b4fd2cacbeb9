//! How many messages a user or an address may send in a time.

use crate::submission::settings::User;
use mailtrail_mail::Rate;
use mailtrail_net::{Fades, Origin, Register};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What has been used of all rates. A message is a MAIL that was taken, whatever becomes of it.
#[derive(Debug)]
pub struct Rates {
    of_users: HashMap<String, Rate>,
    of_origins: Option<Rate>,
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    by_users: HashMap<String, Bucket>,
    by_origins: Register<Origin, Bucket>,
}

/// A bucket of tokens that fills evenly: full, it lets all messages of its rate through at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full: Instant,
}

impl Rates {
    /// Those of the users, and the one that each address has.
    pub fn new(users: &[User], of_origins: Option<Rate>) -> Self {
        let rated = |user: &User| Some((user.account.name.clone(), user.rate?));
        Self { of_users: users.iter().filter_map(rated).collect(), of_origins, used: Arc::default() }
    }

    /// The rates as they were changed; both count on what has been used of the other.
    pub fn renewed(&self, users: &[User], of_origins: Option<Rate>) -> Self {
        Self { used: self.used.clone(), ..Self::new(users, of_origins) }
    }

    /// Whether one more message fits. If so, it counts.
    pub fn admits(&self, user: Option<&str>, peer: IpAddr, now: Instant) -> bool {
        let of_user = user.and_then(|user| Some((user, self.of_users.get(user)?)));
        if of_user.is_none() && self.of_origins.is_none() {
            return true;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let Used { by_users, by_origins } = &mut *used;
        let empty = || Bucket { full: now };
        let by_user =
            of_user.map(|(user, rate)| (by_users.entry(user.to_owned()).or_insert_with(empty), rate));
        let by_origin =
            self.of_origins.as_ref().map(|rate| (by_origins.entry(peer.into(), now, empty), rate));
        let mut taken = Vec::with_capacity(2);
        for (bucket, rate) in by_user.into_iter().chain(by_origin) {
            let Some(after) = bucket.without_one(rate, now) else { return false };
            taken.push((bucket, after));
        }
        taken.into_iter().for_each(|(bucket, after)| *bucket = after);
        true
    }
}

impl Bucket {
    fn without_one(self, rate: &Rate, now: Instant) -> Option<Self> {
        let one = rate.time.as_nanos() / u128::from(rate.messages.max(1));
        let one = Duration::from_nanos(u64::try_from(one).unwrap_or(u64::MAX));
        let full = self.full.max(now) + one;
        (full - now <= rate.time).then_some(Self { full })
    }
}

impl Fades for Bucket {
    fn fades(&self) -> Instant {
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderCleanup;
    use mailtrail_smtp::Account;
    use std::sync::Arc;

    fn rates(of_user: Option<Rate>, of_origins: Option<Rate>) -> Rates {
        let account = Account {
            name: "odoo".into(),
            client: "odoo".into(),
            senders: Vec::new(),
            request_headers: Vec::new(),
            cleanup: HeaderCleanup::default(),
        };
        let (account, certificates) = (Arc::new(account), Vec::new());
        let user = User { account, password: None, certificates, rate: of_user, quota: None };
        Rates::new(&[user], of_origins)
    }

    fn three_a_minute() -> Option<Rate> {
        Some(Rate { messages: 3, time: Duration::from_secs(60) })
    }

    fn admitted(rates: &Rates, user: Option<&str>, peer: [u8; 4], now: Instant) -> usize {
        (0..10).filter(|_| rates.admits(user, peer.into(), now)).count()
    }

    #[test]
    fn a_full_bucket_lets_all_through_and_fills_evenly() {
        let (rates, now) = (rates(three_a_minute(), None), Instant::now());
        assert_eq!(admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), 3);
        assert_eq!(admitted(&rates, Some("odoo"), [192, 0, 2, 2], now), 0, "wherever it comes from");
        assert_eq!(admitted(&rates, Some("shop"), [192, 0, 2, 1], now), 10);
        for (seconds, more) in [(19, 0), (20, 1), (60, 2), (1000, 3)] {
            let now = now + Duration::from_secs(seconds);
            assert_eq!(admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), more, "after {seconds} s");
        }
    }

    #[test]
    fn what_one_refuses_costs_the_other_nothing() {
        let two = Some(Rate { messages: 2, time: Duration::from_secs(60) });
        let (rates, now) = (rates(two, three_a_minute()), Instant::now());
        assert_eq!(admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), 2);
        assert_eq!(admitted(&rates, None, [192, 0, 2, 1], now), 1);
        assert_eq!(admitted(&rates, None, [192, 0, 2, 2], now), 3);
    }

    #[test]
    fn without_rates_everything_fits() {
        let (rates, now) = (rates(None, None), Instant::now());
        assert_eq!(admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), 10);
    }

    #[test]
    fn changed_rates_know_what_has_been_used() {
        let (rates, now) = (rates(None, three_a_minute()), Instant::now());
        assert_eq!(admitted(&rates, None, [192, 0, 2, 1], now), 3);
        let five = Some(Rate { messages: 5, time: Duration::from_secs(100) });
        assert_eq!(admitted(&rates.renewed(&[], five), None, [192, 0, 2, 1], now), 2);
    }
}
