//! How many messages a user or an address may send in a time.

use crate::submission::settings::User;
use mailtrail_mail::Rate;
use mailtrail_net::{BoundedMap, ClientNetwork, Expires};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Usage of all rates. A message counts when its MAIL is accepted, whatever follows.
#[derive(Debug)]
pub struct RateLimiter {
    per_user: HashMap<String, Rate>,
    per_network: Option<Rate>,
    buckets: Arc<Mutex<RateBuckets>>,
}

#[derive(Debug, Default)]
struct RateBuckets {
    by_user: HashMap<String, TokenBucket>,
    by_network: BoundedMap<ClientNetwork, TokenBucket>,
}

/// A bucket of tokens that fills evenly: full, it lets all messages of its rate through at once.
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    full_at: Instant,
}

impl RateLimiter {
    /// Those of the users, and the one that each address has.
    pub fn new(users: &[User], per_network: Option<Rate>) -> Self {
        let rated = |user: &User| Some((user.account.name.clone(), user.rate?));
        Self { per_user: users.iter().filter_map(rated).collect(), per_network, buckets: Arc::default() }
    }

    /// Returns changed rates; both share the usage.
    pub fn reconfigured(&self, users: &[User], of_origins: Option<Rate>) -> Self {
        Self { buckets: self.buckets.clone(), ..Self::new(users, of_origins) }
    }

    /// Takes a token for a message; returns false if there is none.
    pub fn try_acquire(&self, user: Option<&str>, peer: IpAddr, now: Instant) -> bool {
        let of_user = user.and_then(|user| Some((user, self.per_user.get(user)?)));
        if of_user.is_none() && self.per_network.is_none() {
            return true;
        }
        let mut used = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let RateBuckets { by_user: by_users, by_network } = &mut *used;
        let empty = || TokenBucket { full_at: now };
        let by_user =
            of_user.map(|(user, rate)| (by_users.entry(user.to_owned()).or_insert_with(empty), rate));
        let by_origin = self
            .per_network
            .as_ref()
            .map(|rate| (by_network.get_or_insert_with(peer.into(), now, empty), rate));
        let mut taken = Vec::with_capacity(2);
        for (bucket, rate) in by_user.into_iter().chain(by_origin) {
            let Some(after) = bucket.try_take(rate, now) else { return false };
            taken.push((bucket, after));
        }
        taken.into_iter().for_each(|(bucket, after)| *bucket = after);
        true
    }
}

impl TokenBucket {
    fn try_take(self, rate: &Rate, now: Instant) -> Option<Self> {
        let one = rate.per.as_nanos() / u128::from(rate.count.max(1));
        let one = Duration::from_nanos(u64::try_from(one).unwrap_or(u64::MAX));
        let full_at = self.full_at.max(now) + one;
        (full_at - now <= rate.per).then_some(Self { full_at })
    }
}

impl Expires for TokenBucket {
    fn expires_at(&self) -> Instant {
        self.full_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderCleanup;
    use mailtrail_smtp::Account;
    use std::sync::Arc;

    fn rate_limiter(of_user: Option<Rate>, of_origins: Option<Rate>) -> RateLimiter {
        let account = Account {
            name: "odoo".into(),
            client_label: "odoo".into(),
            sender_patterns: Vec::new(),
            allowed_request_headers: Vec::new(),
            header_cleanup: HeaderCleanup::default(),
        };
        let (account, certificate_identities) = (Arc::new(account), Vec::new());
        let user = User { account, password: None, certificate_identities, rate: of_user, quota: None };
        RateLimiter::new(&[user], of_origins)
    }

    fn three_per_minute() -> Option<Rate> {
        Some(Rate { count: 3, per: Duration::from_secs(60) })
    }

    fn count_admitted(rates: &RateLimiter, user: Option<&str>, peer: [u8; 4], now: Instant) -> usize {
        (0..10).filter(|_| rates.try_acquire(user, peer.into(), now)).count()
    }

    #[test]
    fn full_bucket_allows_burst_and_refills_evenly() {
        let (rates, now) = (rate_limiter(three_per_minute(), None), Instant::now());
        assert_eq!(count_admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), 3);
        assert_eq!(count_admitted(&rates, Some("odoo"), [192, 0, 2, 2], now), 0, "wherever it comes from");
        assert_eq!(count_admitted(&rates, Some("shop"), [192, 0, 2, 1], now), 10);
        for (seconds, more) in [(19, 0), (20, 1), (60, 2), (1000, 3)] {
            let now = now + Duration::from_secs(seconds);
            assert_eq!(count_admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), more, "after {seconds} s");
        }
    }

    #[test]
    fn rejection_by_one_limit_consumes_nothing_of_the_other() {
        let two = Some(Rate { count: 2, per: Duration::from_secs(60) });
        let (rates, now) = (rate_limiter(two, three_per_minute()), Instant::now());
        assert_eq!(count_admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), 2);
        assert_eq!(count_admitted(&rates, None, [192, 0, 2, 1], now), 1);
        assert_eq!(count_admitted(&rates, None, [192, 0, 2, 2], now), 3);
    }

    #[test]
    fn allows_everything_without_rates() {
        let (rates, now) = (rate_limiter(None, None), Instant::now());
        assert_eq!(count_admitted(&rates, Some("odoo"), [192, 0, 2, 1], now), 10);
    }

    #[test]
    fn reconfigured_limiter_shares_buckets() {
        let (rates, now) = (rate_limiter(None, three_per_minute()), Instant::now());
        assert_eq!(count_admitted(&rates, None, [192, 0, 2, 1], now), 3);
        let five = Some(Rate { count: 5, per: Duration::from_secs(100) });
        assert_eq!(count_admitted(&rates.reconfigured(&[], five), None, [192, 0, 2, 1], now), 2);
    }
}
