use mailtrail_trail::{Route, Waits, routing};
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

    /// In the order of preference; none for what is held. A route that is no more leads everywhere, and so does mail that
    /// may be at an upstream that is no more: it takes its route. Those that are not able to take it come after all
    /// others fail: see [`Ways::unable`].
    pub fn of(&self, waits: &Waits) -> Vec<usize> {
        match waits {
            Waits::Held => Vec::new(),
            Waits::ForRoute(route) => self.route(route.as_deref()),
            Waits::ForOthers { route, unable } => {
                let all = self.route(route.as_deref());
                let able: Vec<_> =
                    all.iter().copied().filter(|place| !self.is_among(*place, unable)).collect();
                if able.is_empty() { all } else { able }
            }
            Waits::ForUpstream { name, route } => {
                let Some(own) = self.upstreams.iter().position(|(known, _)| **known == **name) else {
                    return self.route(route.as_deref());
                };
                let others = (0..self.upstreams.len()).filter(|place| *place != own && self.upstreams[own].1);
                std::iter::once(own).chain(others).collect()
            }
        }
    }

    /// Those of its route that were not able to take it when they were asked last, while there are others.
    pub fn unable(&self, waits: &Waits) -> Vec<usize> {
        let Waits::ForOthers { route, .. } = waits else { return Vec::new() };
        let able = self.of(waits);
        self.route(route.as_deref()).into_iter().filter(|place| !able.contains(place)).collect()
    }

    /// Whether another than that upstream may be able to take it.
    pub fn has_other(&self, waits: &Waits, upstream: &str) -> bool {
        let tried: &[Box<str>] = if let Waits::ForOthers { unable, .. } = waits { unable } else { &[] };
        let mut places = self.of(waits).into_iter();
        places.any(|place| self.upstreams[place].0 != upstream && !self.is_among(place, tried))
    }

    fn route(&self, name: Option<&str>) -> Vec<usize> {
        let known = name.and_then(|name| self.routes.get(name));
        known.cloned().unwrap_or_else(|| (0..self.upstreams.len()).collect())
    }

    fn is_among(&self, place: usize, names: &[Box<str>]) -> bool {
        names.iter().any(|name| **name == *self.upstreams[place].0)
    }

    /// The name of the upstream that is preferred for it.
    pub fn first(&self, waits: &Waits) -> Option<&str> {
        self.of(waits).first().map(|place| &*self.upstreams[*place].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_trail::Pattern;

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
            (for_upstream("a", None), &[0]),
            (for_upstream("b", None), &[1, 0, 2]),
            (for_upstream("gone", None), &[0, 1, 2]),
            (for_upstream("gone", Some("news")), &[1, 0]),
            (for_upstream("gone", Some("gone")), &[0, 1, 2]),
            (for_others(Some("news"), &["b"]), &[0]),
            (for_others(Some("news"), &["a", "b"]), &[1, 0]),
            (for_others(None, &["a", "gone"]), &[1, 2]),
            (Waits::Held, &[]),
        ] {
            assert_eq!(ways.of(&waits), expected, "{waits:?}");
        }
        assert_eq!(ways.first(&for_upstream("b", None)), Some("b"));
        assert_eq!(ways.unable(&for_others(Some("news"), &["b"])), [1]);
        assert!(ways.unable(&for_others(Some("news"), &["a", "b"])).is_empty());
        for (waits, upstream, expected) in [
            (Waits::ForRoute(None), "a", true),
            (Waits::ForRoute(Some("news".into())), "a", true),
            (for_others(Some("news"), &["b"]), "a", false),
            (for_others(Some("news"), &["a", "b"]), "a", false),
            (for_others(None, &["b"]), "a", true),
            (for_upstream("a", None), "a", false),
        ] {
            assert_eq!(ways.has_other(&waits, upstream), expected, "{waits:?} {upstream}");
        }
    }

    fn for_upstream(name: &str, route: Option<&str>) -> Waits {
        Waits::ForUpstream { name: name.into(), route: route.map(Into::into) }
    }

    fn for_others(route: Option<&str>, unable: &[&str]) -> Waits {
        Waits::ForOthers {
            route: route.map(Into::into),
            unable: unable.iter().map(|name| (*name).into()).collect(),
        }
    }
}
