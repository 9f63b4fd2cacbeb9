//! Address of a client behind proxies, and the count of its rejections.

use axum::http::HeaderMap;
use ipnet::IpNet;
use mailtrail_net::{BoundedMap, ClientNetwork, Expires};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// Best known address.
    pub address: IpAddr,
    /// Whether the address is that of a trusted proxy that did not name its client.
    pub is_proxy: bool,
}

impl ClientAddress {
    /// Returns the last address in `X-Forwarded-For` that is not a trusted proxy, if the `peer` is one; otherwise the
    /// peer's.
    pub fn resolve(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Self {
        let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(&address));
        let peer = peer.to_canonical();
        if !is_proxy(peer) {
            return Self { address: peer, is_proxy: false };
        }
        let fields: Vec<_> = headers.get_all(FORWARDED_FOR_HEADER).iter().collect();
        let named =
            fields.iter().rev().filter_map(|field| field.to_str().ok()).flat_map(|field| field.rsplit(','));
        let addresses =
            named.map_while(|text| text.trim().parse::<IpAddr>().ok()).map(|address| address.to_canonical());
        match addresses.into_iter().find(|address| !is_proxy(*address)) {
            Some(address) => Self { address, is_proxy: false },
            None => Self { address: peer, is_proxy: true },
        }
    }
}

/// Counts refusals of a minute, by address and source.
#[derive(Debug, Default)]
pub struct RejectionCounter(Mutex<BoundedMap<(ClientNetwork, usize), RejectionWindow>>);

/// How a rejection is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogDecision {
    /// It is the one from which on the address is turned away; how many there were.
    pub limit_reached: Option<u32>,
}

#[derive(Debug)]
struct RejectionWindow {
    rejections: u32,
    expires_at: Instant,
}

impl RejectionCounter {
    /// Returns whether the client had too many rejections lately to be checked.
    pub fn is_blocked(&self, client: ClientAddress, source: usize, now: Instant) -> bool {
        let refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = refusals.get(&(client.address.into(), source));
        // The address of a proxy without `X-Forwarded-For` stands for many clients, valid ones included.
        !client.is_proxy
            && tally
                .is_some_and(|tally| tally.rejections >= MAX_REJECTIONS_PER_MINUTE && now < tally.expires_at)
    }

    /// Records a rejection. It `counts` towards the limit if the client caused it.
    pub fn record_rejection(
        &self,
        client: ClientAddress,
        source: usize,
        counts: bool,
        now: Instant,
    ) -> LogDecision {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || RejectionWindow { rejections: 0, expires_at: now + REJECTION_WINDOW };
        let tally = refusals.get_or_insert_with((client.address.into(), source), now, new);
        if now >= tally.expires_at {
            *tally = RejectionWindow { rejections: 0, expires_at: now + REJECTION_WINDOW };
        }
        tally.rejections += u32::from(counts);
        LogDecision {
            limit_reached: (counts && tally.rejections == MAX_REJECTIONS_PER_MINUTE)
                .then_some(MAX_REJECTIONS_PER_MINUTE),
        }
    }
}

impl Expires for RejectionWindow {
    fn expires_at(&self) -> Instant {
        self.expires_at
    }
}

/// Header field to which a proxy appends the address of its client.
const FORWARDED_FOR_HEADER: &str = "x-forwarded-for";
/// Refusals of a minute, of one address (IPv6: /64) at one source.
const MAX_REJECTIONS_PER_MINUTE: u32 = 20;
const REJECTION_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_client(peer: &str, forwarded: &[&str]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for field in forwarded {
            headers.append(FORWARDED_FOR_HEADER, field.parse().unwrap());
        }
        let proxies = ["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let client = ClientAddress::resolve(peer.parse().unwrap(), &headers, &proxies);
        (client.address.to_string(), client.is_proxy)
    }

    #[test]
    fn trusts_forwarded_for_of_configured_proxies_only() {
        for (peer, forwarded, expected, hidden) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1", false),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1", false),
            ("::ffff:127.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.3"], "198.51.100.1", false),
            ("127.0.0.1", &["203.0.113.9", "2001:db8::1"], "2001:db8::1", false),
            ("127.0.0.1", &["203.0.113.9, unknown, 10.0.0.3"], "127.0.0.1", true),
            ("127.0.0.1", &["10.0.0.3"], "127.0.0.1", true),
            ("127.0.0.1", &[], "127.0.0.1", true),
        ] {
            assert_eq!(
                resolve_client(peer, forwarded),
                (expected.to_owned(), hidden),
                "{peer} {forwarded:?}"
            );
        }
    }

    #[test]
    fn blocks_address_after_too_many_rejections_per_minute() {
        let (refusals, now) = (RejectionCounter::default(), Instant::now());
        let somebody = |last: u8| ClientAddress { address: [192, 0, 2, last].into(), is_proxy: false };
        for number in 1..=MAX_REJECTIONS_PER_MINUTE {
            assert!(!refusals.is_blocked(somebody(1), 0, now));
            let said = refusals.record_rejection(somebody(1), 0, true, now);
            assert_eq!(
                said,
                LogDecision {
                    limit_reached: (number == MAX_REJECTIONS_PER_MINUTE).then_some(MAX_REJECTIONS_PER_MINUTE)
                }
            );
        }
        assert!(refusals.is_blocked(somebody(1), 0, now));
        assert!(!refusals.is_blocked(somebody(2), 0, now) && !refusals.is_blocked(somebody(1), 1, now));
        assert_eq!(refusals.record_rejection(somebody(1), 0, true, now), LogDecision { limit_reached: None });
        let later = now + REJECTION_WINDOW;
        assert!(!refusals.is_blocked(somebody(1), 0, later));
        assert_eq!(
            refusals.record_rejection(somebody(1), 0, true, later),
            LogDecision { limit_reached: None }
        );
        assert!(!refusals.is_blocked(somebody(1), 0, later));
    }

    #[test]
    fn own_failures_and_proxies_block_nobody() {
        let (refusals, now) = (RejectionCounter::default(), Instant::now());
        let [open, hidden] =
            [false, true].map(|is_proxy| ClientAddress { address: [127, 0, 0, 1].into(), is_proxy });
        for _ in 0..2 * MAX_REJECTIONS_PER_MINUTE {
            assert_eq!(refusals.record_rejection(open, 0, false, now), LogDecision { limit_reached: None });
        }
        assert!(!refusals.is_blocked(open, 0, now));
        for _ in 0..2 * MAX_REJECTIONS_PER_MINUTE {
            refusals.record_rejection(hidden, 1, true, now);
        }
        assert!(refusals.is_blocked(open, 1, now) && !refusals.is_blocked(hidden, 1, now));
    }
}
