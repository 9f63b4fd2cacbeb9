use mailtrail_trail::{QueueKey, Route, routing};
use std::collections::HashMap;

/// Selection of the upstreams for a queued message, by their index in the configuration.
#[derive(Clone, Debug, Default)]
pub struct UpstreamSelection {
    /// Names, each with whether a message with an unknown result there may be sent elsewhere.
    upstreams: Vec<(String, bool)>,
    routes: HashMap<Box<str>, Vec<usize>>,
}

impl UpstreamSelection {
    /// Those of a configuration.
    pub fn new(upstreams: Vec<(String, bool)>, routes: &[Route]) -> Self {
        let place = |name: &String| upstreams.iter().position(|(known, _)| known == name);
        let places = |route: &Route| route.upstreams.iter().filter_map(place).collect();
        let mut routes: HashMap<_, _> =
            routes.iter().map(|route| (route.name.clone(), places(route))).collect();
        routes.extend(upstreams.iter().enumerate().map(|(own, (name, _))| {
            let others = (0..upstreams.len()).filter(|place| *place != own);
            (routing::prefer_upstream(name), std::iter::once(own).chain(others).collect())
        }));
        Self { upstreams, routes }
    }

    /// Returns the candidates in the order of preference; none for a held message. A message of a removed route may use
    /// any upstream; one with an unknown result at a removed upstream uses its route. Upstreams that could not
    /// transport the message come after all others have failed: see [`UpstreamSelection::unable_candidates`].
    pub fn candidates(&self, waits: &QueueKey) -> Vec<usize> {
        match waits {
            QueueKey::Held => Vec::new(),
            QueueKey::Route(route) => self.route_candidates(route.as_deref()),
            QueueKey::RouteExcept { route, excluded } => {
                let all = self.route_candidates(route.as_deref());
                let able: Vec<_> =
                    all.iter().copied().filter(|place| !self.is_named(*place, excluded)).collect();
                if able.is_empty() { all } else { able }
            }
            QueueKey::Upstream { name, route } => {
                let Some(own) = self.upstreams.iter().position(|(known, _)| **known == **name) else {
                    return self.route_candidates(route.as_deref());
                };
                let others = (0..self.upstreams.len()).filter(|place| *place != own && self.upstreams[own].1);
                std::iter::once(own).chain(others).collect()
            }
        }
    }

    /// Upstreams of the route that could not transport the message at the last attempt, if there are others.
    pub fn unable_candidates(&self, waits: &QueueKey) -> Vec<usize> {
        let QueueKey::RouteExcept { route, .. } = waits else { return Vec::new() };
        let able = self.candidates(waits);
        self.route_candidates(route.as_deref()).into_iter().filter(|place| !able.contains(place)).collect()
    }

    /// Whether another than that upstream may be able to take it.
    pub fn has_alternative(&self, waits: &QueueKey, upstream: &str) -> bool {
        let tried: &[Box<str>] =
            if let QueueKey::RouteExcept { excluded, .. } = waits { excluded } else { &[] };
        let mut places = self.candidates(waits).into_iter();
        places.any(|place| self.upstreams[place].0 != upstream && !self.is_named(place, tried))
    }

    fn route_candidates(&self, name: Option<&str>) -> Vec<usize> {
        let known = name.and_then(|name| self.routes.get(name));
        known.cloned().unwrap_or_else(|| (0..self.upstreams.len()).collect())
    }

    fn is_named(&self, place: usize, names: &[Box<str>]) -> bool {
        names.iter().any(|name| **name == *self.upstreams[place].0)
    }

    /// The name of the upstream that is preferred for it.
    pub fn preferred(&self, waits: &QueueKey) -> Option<&str> {
        self.candidates(waits).first().map(|place| &*self.upstreams[*place].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_trail::Match;

    #[test]
    fn possibly_sent_message_moves_only_where_allowed() {
        let route = Route {
            name: "news".into(),
            criteria: Match::default(),
            upstreams: vec!["b".into(), "gone".into(), "a".into()],
        };
        let ways = UpstreamSelection::new(
            vec![("a".into(), false), ("b".into(), true), ("c".into(), false)],
            &[route],
        );
        for (waits, expected) in [
            (QueueKey::Route(None), &[0, 1, 2][..]),
            (QueueKey::Route(Some("news".into())), &[1, 0]),
            (QueueKey::Route(Some("gone".into())), &[0, 1, 2]),
            (QueueKey::Route(Some(routing::prefer_upstream("b"))), &[1, 0, 2]),
            (QueueKey::Route(Some(routing::prefer_upstream("gone"))), &[0, 1, 2]),
            (queued_for_upstream("a", None), &[0]),
            (queued_for_upstream("b", None), &[1, 0, 2]),
            (queued_for_upstream("gone", None), &[0, 1, 2]),
            (queued_for_upstream("gone", Some("news")), &[1, 0]),
            (queued_for_upstream("gone", Some("gone")), &[0, 1, 2]),
            (queued_for_others(Some("news"), &["b"]), &[0]),
            (queued_for_others(Some("news"), &["a", "b"]), &[1, 0]),
            (queued_for_others(None, &["a", "gone"]), &[1, 2]),
            (QueueKey::Held, &[]),
        ] {
            assert_eq!(ways.candidates(&waits), expected, "{waits:?}");
        }
        assert_eq!(ways.preferred(&queued_for_upstream("b", None)), Some("b"));
        assert_eq!(ways.unable_candidates(&queued_for_others(Some("news"), &["b"])), [1]);
        assert!(ways.unable_candidates(&queued_for_others(Some("news"), &["a", "b"])).is_empty());
        for (waits, upstream, expected) in [
            (QueueKey::Route(None), "a", true),
            (QueueKey::Route(Some("news".into())), "a", true),
            (queued_for_others(Some("news"), &["b"]), "a", false),
            (queued_for_others(Some("news"), &["a", "b"]), "a", false),
            (queued_for_others(None, &["b"]), "a", true),
            (queued_for_upstream("a", None), "a", false),
        ] {
            assert_eq!(ways.has_alternative(&waits, upstream), expected, "{waits:?} {upstream}");
        }
    }

    fn queued_for_upstream(name: &str, route: Option<&str>) -> QueueKey {
        QueueKey::Upstream { name: name.into(), route: route.map(Into::into) }
    }

    fn queued_for_others(route: Option<&str>, unable: &[&str]) -> QueueKey {
        QueueKey::RouteExcept {
            route: route.map(Into::into),
            excluded: unable.iter().map(|name| (*name).into()).collect(),
        }
    }
}
