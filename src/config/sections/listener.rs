//! `[[listener]]`: address, TLS and access of an SMTP listener.

use crate::config::keywords::{AUTHENTICATION_MODES, LISTENER_TLS_MODES};
use crate::config::section::Section;
use crate::config::sections::cleanup;
use crate::config::unique_names::UniqueNames;
use crate::config::units::parse_network;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mailtrail_relay::submission::{Listener, ListenerTls};
use mailtrail_smtp::Authentication;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads a listener; `users` is the number of configured users.
pub(crate) fn read_listener(
    mut section: Section<'_>,
    users: usize,
    claims: &mut UniqueNames,
) -> Option<Listener> {
    section.require_key("address");
    let address = claims.read_listen_address(&mut section);
    let tls = section.keyword("tls", &LISTENER_TLS_MODES).unwrap_or(ListenerTls::StartTls);
    let require_tls = section.boolean("require_tls").unwrap_or(tls != ListenerTls::None);
    let authentication = section.keyword("auth", &AUTHENTICATION_MODES).unwrap_or(Authentication::Required);
    let allow = section.list("allow", "a network such as \"10.0.0.0/8\"", parse_network);
    let allow = allow.unwrap_or_else(|| LOOPBACK_NETWORKS.to_vec());
    let mut proxies =
        |key| section.list(key, "a network such as \"10.0.0.0/8\"", parse_network).unwrap_or_default();
    let (proxy_protocol_from, xclient_from) = (proxies("proxy_protocol_from"), proxies("xclient_from"));
    let client_ca = section.existing_file("client_ca_file");
    let cleanup = cleanup::read_cleanup(&mut section);
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
    let listener = listener.filter(|_| section.is_valid());
    if let Some(listener) = &listener {
        check_listener(listener, users, &section);
    }
    section.reject_unknown();
    listener
}

fn check_listener(listener: &Listener, users: usize, section: &Section<'_>) {
    let login = listener.authentication == Authentication::Required;
    if login && users == 0 {
        section.add_error("auth", "\"required\" needs at least one [[user]]");
    }
    if listener.allow.is_empty() {
        section.add_error("allow", "an empty list allows no client");
    }
    let plain = listener.tls == ListenerTls::None;
    if plain && listener.require_tls {
        section.add_error("require_tls", "true contradicts tls = \"none\"; no client could send");
    }
    if plain && listener.client_ca.is_some() {
        section.add_error("client_ca_file", "certificates need TLS, and tls is \"none\"");
    }
    if let Some(network) = listener.allow.iter().find(|network| plain && login && !is_private(network)) {
        let message =
            format!("{network} is neither loopback nor private; passwords would cross it without TLS");
        section.add_error("allow", message);
    }
    // Two halves of the address space cover all of it.
    if !login && IpNet::aggregate(&listener.allow).iter().any(|network| network.prefix_len() == 0) {
        section.add_error("allow", "the whole internet with auth = \"none\" is an open relay");
    }
}

/// Private ranges and networks nest or are disjoint, so it suffices to check both ends.
fn is_private(network: &IpNet) -> bool {
    [network.network(), network.broadcast()].iter().all(|end| match end {
        IpAddr::V4(end) => end.is_loopback() || end.is_private() || end.is_link_local(),
        IpAddr::V6(end) => end.is_loopback() || end.is_unique_local() || end.is_unicast_link_local(),
    })
}

const LOOPBACK_NETWORKS: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_private_networks() {
        for text in ["127.0.0.0/8", "10.1.0.0/16", "172.16.0.0/12", "192.168.0.5", "::1", "fd00::/8"] {
            assert!(is_private(&parse_network(text).unwrap()), "{text}");
        }
        for text in ["0.0.0.0/0", "10.0.0.0/7", "172.0.0.0/8", "8.8.8.8", "::/0", "2001:db8::/32", "::/127"] {
            assert!(!is_private(&parse_network(text).unwrap()), "{text}");
        }
    }
}
