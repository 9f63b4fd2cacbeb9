//! `[[listener]]`: where clients connect, and who may.

use crate::config::keywords::{AUTHENTICATION, LISTENER_TLS};
use crate::config::section::Section;
use crate::config::sections;
use crate::config::sections::cleanup;
use crate::config::uniqueness::Claims;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mailtrail_relay::submission::{Listener, ListenerTls};
use mailtrail_smtp::Authentication;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads one; `users` is how many could log in.
pub(crate) fn read(mut section: Section<'_>, users: usize, claims: &mut Claims) -> Option<Listener> {
    section.require("address");
    let address = sections::address(&mut section, claims);
    let tls = section.one_of("tls", &LISTENER_TLS).unwrap_or(ListenerTls::StartTls);
    let require_tls = section.boolean("require_tls").unwrap_or(tls != ListenerTls::None);
    let authentication = section.one_of("auth", &AUTHENTICATION).unwrap_or(Authentication::Required);
    let allow = section.list("allow", "a network such as \"10.0.0.0/8\"", network);
    let allow = allow.unwrap_or_else(|| LOOPBACK.to_vec());
    let mut proxies =
        |key| section.list(key, "a network such as \"10.0.0.0/8\"", network).unwrap_or_default();
    let (proxy_protocol_from, xclient_from) = (proxies("proxy_protocol_from"), proxies("xclient_from"));
    let client_ca = section.file("client_ca_file");
    let cleanup = cleanup::read(&mut section);
    let listener = address.map(|address| Listener {
        address,
        tls,
        require_tls,
        authentication,
        allow,
        proxy_protocol_from,
        xclient_from,
        client_ca,
        cleanup,
    });
    let listener = listener.filter(|_| section.is_sound());
    if let Some(listener) = &listener {
        check(listener, users, &section);
    }
    section.finish();
    listener
}

/// A network, or a single address.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(address).map(|network| network.trunc())
}

fn check(listener: &Listener, users: usize, section: &Section<'_>) {
    let login = listener.authentication == Authentication::Required;
    if login && users == 0 {
        section.fault("auth", "\"required\" needs at least one [[user]]");
    }
    if listener.allow.is_empty() {
        section.fault("allow", "an empty list is not a list of networks; nobody could connect");
    }
    let plain = listener.tls == ListenerTls::None;
    if plain && listener.require_tls {
        section.fault("require_tls", "true contradicts tls = \"none\"; nobody could send");
    }
    if plain && listener.client_ca.is_some() {
        section.fault("client_ca_file", "certificates need TLS, and tls is \"none\"");
    }
    if let Some(network) = listener.allow.iter().find(|network| plain && login && !is_private(network)) {
        let message =
            format!("{network} is neither loopback nor private; passwords would cross it without TLS");
        section.fault("allow", message);
    }
    // Halves of the internet are the internet.
    if !login && IpNet::aggregate(&listener.allow).iter().any(|network| network.prefix_len() == 0) {
        section.fault("allow", "the whole internet with auth = \"none\" is an open relay");
    }
}

/// Networks nest or are disjoint, so both ends tell for all between.
fn is_private(network: &IpNet) -> bool {
    [network.network(), network.broadcast()].iter().all(|end| match end {
        IpAddr::V4(end) => end.is_loopback() || end.is_private() || end.is_link_local(),
        IpAddr::V6(end) => end.is_loopback() || end.is_unique_local() || end.is_unicast_link_local(),
    })
}

const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_networks_are_told_apart() {
        for text in ["127.0.0.0/8", "10.1.0.0/16", "172.16.0.0/12", "192.168.0.5", "::1", "fd00::/8"] {
            assert!(is_private(&network(text).unwrap()), "{text}");
        }
        for text in ["0.0.0.0/0", "10.0.0.0/7", "172.0.0.0/8", "8.8.8.8", "::/0", "2001:db8::/32", "::/127"] {
            assert!(!is_private(&network(text).unwrap()), "{text}");
        }
    }
}
