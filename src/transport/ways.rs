use crate::ledger::Waits;
use crate::routing::{self, Route};
use std::collections::HashMap;

/// Which upstreams may be sent what waits, by their places in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// The upstreams' names, and whether others may be sent what may be there already.
    upstreams: Vec<(String, bool)>,
    routes: HashMap<Box<str>, Vec<usize>>,
}

impl Ways {
    /// Those of a configuration.
    pub fn new(upstreams: Vec<(String, bool)>, routes: &[Route]) -> Self {
        let place = |name: &String| upstreams.iter().position(|(known, _)| known == name);
        let places = |route: &Route| route.upstreams.iter().filter_map(place).collect();
        let mut routes: HashMap<_, _> =
            routes.iter().map(|route| (route.name.clone(), places(route))).collect();
        routes.extend(upstreams.iter().enumerate().map(|(own, (name, _))| {
            let others = (0..upstreams.len()).filter(|place| *place != own);
            (routing::first(name), std::iter::once(own).chain(others).collect())
        }));
        Self { upstreams, routes }
    }

    /// In the order of preference; none for what is held, or was sent to an upstream that is no more. A route that is
    /// no more leads everywhere.
    pub fn of(&self, waits: &Waits) -> Vec<usize> {
        let all = || (0..self.upstreams.len()).collect();
        match waits {
            Waits::Held => Vec::new(),
            Waits::ForRoute(None) => all(),
            Waits::ForRoute(Some(route)) => self.routes.get(route).cloned().unwrap_or_else(all),
            Waits::ForUpstream(name) => {
                let Some(own) = self.upstreams.iter().position(|(known, _)| **known == **name) else {
                    return Vec::new();
                };
                let others = (0..self.upstreams.len()).filter(|place| *place != own && self.upstreams[own].1);
                std::iter::once(own).chain(others).collect()
            }
        }
    }

    /// The name of the upstream that is preferred for it.
    pub fn first(&self, waits: &Waits) -> Option<&str> {
        self.of(waits).first().map(|place| &*self.upstreams[*place].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Pattern;

    #[test]
    fn what_may_be_at_one_upstream_goes_to_another_only_where_that_is_allowed() {
        let route = Route {
            name: "news".into(),
            pattern: Pattern::default(),
            upstreams: vec!["b".into(), "gone".into(), "a".into()],
        };
        let ways = Ways::new(vec![("a".into(), false), ("b".into(), true), ("c".into(), false)], &[route]);
        for (waits, expected) in [
            (Waits::ForRoute(None), &[0, 1, 2][..]),
            (Waits::ForRoute(Some("news".into())), &[1, 0]),
            (Waits::ForRoute(Some("gone".into())), &[0, 1, 2]),
            (Waits::ForRoute(Some(routing::first("b"))), &[1, 0, 2]),
            (Waits::ForRoute(Some(routing::first("gone"))), &[0, 1, 2]),
            (Waits::ForUpstream("a".into()), &[0]),
            (Waits::ForUpstream("b".into()), &[1, 0, 2]),
            (Waits::ForUpstream("gone".into()), &[]),
            (Waits::Held, &[]),
        ] {
            assert_eq!(ways.of(&waits), expected, "{waits:?}");
        }
        assert_eq!(ways.first(&Waits::ForUpstream("b".into())), Some("b"));
    }
}
