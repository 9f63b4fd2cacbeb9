//! How many connections each address has.

use crate::webhook::settings::Settings;
use ipnet::IpNet;
use mailtrail_net::Origin;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Everybody who is here.
#[derive(Debug)]
pub struct Crowd {
    /// Whose connections are many people's, and are not counted.
    proxies: Vec<IpNet>,
    /// Connections of one address.
    most: usize,
    here: Mutex<HashMap<Origin, usize>>,
}

/// One connection's seat, given back when it ends however it ends.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    origin: Option<Origin>,
    /// Whether its address has as many as it may have already: it is to be told so.
    pub is_one_too_many: bool,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(settings: Settings) -> Self {
        let (proxies, most) = (settings.proxies, settings.connections_per_ip);
        Self { proxies, most, here: Mutex::default() }
    }

    /// A seat for another connection of that address; `None` where there are too many even to be told.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        if self.proxies.iter().any(|network| network.contains(&address)) {
            return Some(Seat { crowd: self.clone(), origin: None, is_one_too_many: false });
        }
        let origin = Origin::from(address);
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        let many = here.entry(origin).or_default();
        if *many >= self.most + FEW {
            return None;
        }
        *many += 1;
        Some(Seat { crowd: self.clone(), origin: Some(origin), is_one_too_many: *many > self.most })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(origin) = self.origin else { return };
        let mut here = self.crowd.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(many) = here.get_mut(&origin) {
            *many -= 1;
            if *many == 0 {
                here.remove(&origin);
            }
        }
    }
}

/// Connections of one address that are told that they are too many: a small part of those of all.
const FEW: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_no_more_than_its_share() {
        let settings = Settings { connections_per_ip: 2, ..Settings::default() };
        let crowd = Arc::new(Crowd::new(settings));
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let mut seats: Vec<_> = (0..2 + FEW).map(|_| enter("192.0.2.1").unwrap()).collect();
        let many: Vec<_> = seats.iter().map(|seat| seat.is_one_too_many).collect();
        assert_eq!(many, [vec![false; 2], vec![true; FEW]].concat());
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        assert!(!enter("192.0.2.2").unwrap().is_one_too_many);
        // A web server of ours brings many people's.
        let proxied: Vec<_> = (0..20).map(|_| enter("127.0.0.1").unwrap()).collect();
        assert!(proxied.iter().all(|seat| !seat.is_one_too_many));
        seats.pop();
        assert!(enter("192.0.2.1").unwrap().is_one_too_many);
        drop((seats, proxied));
        assert!(!enter("192.0.2.1").unwrap().is_one_too_many);
        assert!(crowd.here.lock().unwrap().is_empty(), "nobody is left");
    }
}
