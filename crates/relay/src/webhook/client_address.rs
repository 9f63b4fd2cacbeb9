//! Who asks, and how often he was refused.

use axum::http::HeaderMap;
use ipnet::IpNet;
use mailtrail_net::{Fades, Origin, Register};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where he is, as far as that is known.
    pub address: IpAddr,
    /// Whether that is a proxy of ours which does not say for whom it asks.
    pub is_hidden: bool,
}

impl Client {
    /// The last address that `X-Forwarded-For` names and that is no proxy of ours, where the `peer` is one.
    pub fn of(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Self {
        let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(&address));
        let peer = peer.to_canonical();
        if !is_proxy(peer) {
            return Self { address: peer, is_hidden: false };
        }
        let fields: Vec<_> = headers.get_all(FORWARDED).iter().collect();
        let named =
            fields.iter().rev().filter_map(|field| field.to_str().ok()).flat_map(|field| field.rsplit(','));
        let addresses =
            named.map_while(|text| text.trim().parse::<IpAddr>().ok()).map(|address| address.to_canonical());
        match addresses.into_iter().find(|address| !is_proxy(*address)) {
            Some(address) => Self { address, is_hidden: false },
            None => Self { address: peer, is_hidden: true },
        }
    }
}

/// Counts refusals of a minute, by address and source.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Register<(Origin, usize), Tally>>);

/// What is to be said about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// It is the one from which on the address is turned away; how many there were.
    pub limit: Option<u32>,
}

#[derive(Debug)]
struct Tally {
    refused: u32,
    ends: Instant,
}

impl Refusals {
    /// Whether somebody was refused so often lately that he is not looked at.
    pub fn turn_away(&self, client: Client, source: usize, now: Instant) -> bool {
        let refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = refusals.recall(&(client.address.into(), source));
        // Behind a proxy that does not say for whom it asks the genuine one would be turned away, too.
        !client.is_hidden && tally.is_some_and(|tally| tally.refused >= MOST && now < tally.ends)
    }

    /// Somebody is not served. It `counts` where he is at fault.
    pub fn note(&self, client: Client, source: usize, counts: bool, now: Instant) -> Said {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Tally { refused: 0, ends: now + MINUTE };
        let tally = refusals.entry((client.address.into(), source), now, new);
        if now >= tally.ends {
            *tally = Tally { refused: 0, ends: now + MINUTE };
        }
        tally.refused += u32::from(counts);
        Said { limit: (counts && tally.refused == MOST).then_some(MOST) }
    }
}

impl Fades for Tally {
    fn fades(&self) -> Instant {
        self.ends
    }
}

/// What a proxy adds the address to that asked it.
const FORWARDED: &str = "x-forwarded-for";
/// Refusals of a minute, of one address (IPv6: /64) at one source.
const MOST: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for field in forwarded {
            headers.append(FORWARDED, field.parse().unwrap());
        }
        let proxies = ["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let client = Client::of(peer.parse().unwrap(), &headers, &proxies);
        (client.address.to_string(), client.is_hidden)
    }

    #[test]
    fn only_our_own_proxies_say_who_asks() {
        for (peer, forwarded, expected, hidden) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1", false),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1", false),
            ("::ffff:127.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.3"], "198.51.100.1", false),
            ("127.0.0.1", &["203.0.113.9", "2001:db8::1"], "2001:db8::1", false),
            ("127.0.0.1", &["203.0.113.9, unknown, 10.0.0.3"], "127.0.0.1", true),
            ("127.0.0.1", &["10.0.0.3"], "127.0.0.1", true),
            ("127.0.0.1", &[], "127.0.0.1", true),
        ] {
            assert_eq!(client(peer, forwarded), (expected.to_owned(), hidden), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn so_many_refusals_turn_an_address_away_for_the_rest_of_the_minute() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let somebody = |last: u8| Client { address: [192, 0, 2, last].into(), is_hidden: false };
        for number in 1..=MOST {
            assert!(!refusals.turn_away(somebody(1), 0, now));
            let said = refusals.note(somebody(1), 0, true, now);
            assert_eq!(said, Said { limit: (number == MOST).then_some(MOST) });
        }
        assert!(refusals.turn_away(somebody(1), 0, now));
        assert!(!refusals.turn_away(somebody(2), 0, now) && !refusals.turn_away(somebody(1), 1, now));
        assert_eq!(refusals.note(somebody(1), 0, true, now), Said { limit: None });
        let later = now + MINUTE;
        assert!(!refusals.turn_away(somebody(1), 0, later));
        assert_eq!(refusals.note(somebody(1), 0, true, later), Said { limit: None });
        assert!(!refusals.turn_away(somebody(1), 0, later));
    }

    #[test]
    fn what_is_our_own_fault_and_who_is_hidden_turn_nobody_away() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let [open, hidden] =
            [false, true].map(|is_hidden| Client { address: [127, 0, 0, 1].into(), is_hidden });
        for _ in 0..2 * MOST {
            assert_eq!(refusals.note(open, 0, false, now), Said { limit: None });
        }
        assert!(!refusals.turn_away(open, 0, now));
        for _ in 0..2 * MOST {
            refusals.note(hidden, 1, true, now);
        }
        assert!(refusals.turn_away(open, 1, now) && !refusals.turn_away(hidden, 1, now));
    }
}
