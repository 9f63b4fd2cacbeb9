//! Names and addresses that a configuration uses only once.

use crate::config::section::Section;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

/// Names in use: listen addresses, users, routes, upstreams, sources, sinks and targets.
#[derive(Default)]
pub(crate) struct UniqueNames {
    used: BTreeMap<(NameKind, String), String>,
}

/// Kinds of names; names of different kinds do not collide.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NameKind {
    Address,
    User,
    Certificate,
    Route,
    Upstream,
    Sink,
    Target,
}

impl UniqueNames {
    /// Claims a name; a second claim is a fault.
    pub fn insert_name(&mut self, kind: NameKind, section: &Section<'_>, key: &str, name: &str) {
        match self.used.entry((kind, name.into())) {
            Entry::Occupied(first) => section.add_error(key, format!("{name:?} is already {}", first.get())),
            Entry::Vacant(free) => {
                free.insert(section.key_path(key));
            }
        }
    }

    /// Claims an address; port 0 never collides.
    pub fn insert_address(&mut self, section: &Section<'_>, key: &str, address: SocketAddr) {
        if address.port() != 0 {
            self.insert_name(NameKind::Address, section, key, &address.to_string());
        }
    }

    /// Reads and claims the `address` of a listening section.
    pub fn read_listen_address(&mut self, section: &mut Section<'_>) -> Option<SocketAddr> {
        let example = "an address with a port, such as \"127.0.0.1:2525\"";
        let address = section.parse("address", example, |text| text.parse().ok())?;
        self.insert_address(section, "address", address);
        Some(address)
    }
}
