use crate::config::section::Section;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

/// What may be taken only once: addresses to listen on, names of users, routes, upstreams, sources, sinks and targets.
#[derive(Default)]
pub(crate) struct Claims {
    taken: BTreeMap<(Kind, String), String>,
}

/// Names of different kinds do not collide.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Address,
    User,
    Certificate,
    Route,
    Upstream,
    Sink,
    Target,
}

impl Claims {
    /// Takes a name; the second to take it is at fault.
    pub fn name(&mut self, kind: Kind, section: &Section<'_>, key: &str, name: &str) {
        match self.taken.entry((kind, name.into())) {
            Entry::Occupied(first) => section.fault(key, format!("{name:?} is already {}", first.get())),
            Entry::Vacant(free) => {
                free.insert(section.path(key));
            }
        }
    }

    /// Takes an address; port 0 is a new port each time.
    pub fn address(&mut self, section: &Section<'_>, key: &str, address: SocketAddr) {
        if address.port() != 0 {
            self.name(Kind::Address, section, key, &address.to_string());
        }
    }
}
