//! Routes and lanes of messages, as pure rules. They are applied once, when a message is accepted.

use mailtrail_mail::{HeaderSection, Lane, Mailbox};

/// Routing rules of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Routes; the first match decides. A message without a match may go to every upstream, in their order.
    pub routes: Vec<Route>,
    /// Criteria of the bulk lane: one match of one criterion is enough.
    pub bulk_match: Match,
    /// Number of recipients from which on a message belongs to the bulk lane; 0: no such limit.
    pub min_bulk_recipients: usize,
}

/// Route of some messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name in trails. It is looked up at each attempt, since the configuration may have changed.
    pub name: Box<str>,
    /// Criteria of the route: every given criterion must match.
    pub criteria: Match,
    /// Names of the upstreams, in order of preference; at least one.
    pub upstreams: Vec<String>,
}

/// Criteria that a message may match. An empty criterion is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Names of submitting users.
    pub users: Vec<String>,
    /// Patterns of the envelope sender.
    pub senders: Vec<String>,
    /// Patterns of recipients: each recipient must match one.
    pub recipients: Vec<String>,
    /// Header fields: the message must have one of them.
    pub headers: Vec<HeaderMatch>,
}

/// A header field that a message may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Name, case-insensitive.
    pub name: String,
    /// Value, case-insensitive; `None`: any.
    pub value: Option<String>,
}

/// Returns the name of the synthetic route that prefers an upstream. If that is unavailable, all others
/// follow in their order. There is one such route for each upstream; no configured route can have such a
/// name.
pub fn prefer_upstream(upstream: &str) -> Box<str> {
    format!("first {upstream}").into()
}

/// Attributes of a message that rules match.
#[derive(Clone, Copy, Debug)]
pub struct MessageAttributes<'a> {
    /// Submitting user.
    pub user: Option<&'a str>,
    /// Envelope sender.
    pub sender: Option<&'a Mailbox>,
    /// Envelope recipients.
    pub recipients: &'a [Mailbox],
    /// Header section.
    pub header: HeaderSection<'a>,
}

impl Routing {
    /// Returns the lane and the route of a message.
    pub fn choose_route(&self, traits: &MessageAttributes<'_>) -> (Lane, Option<Box<str>>) {
        let connections = self.min_bulk_recipients > 0 && traits.recipients.len() >= self.min_bulk_recipients;
        let bulk = connections || self.bulk_match.evaluate_criteria(traits).contains(&Some(true));
        let fits = |route: &&Route| !route.criteria.evaluate_criteria(traits).contains(&Some(false));
        let route = self.routes.iter().find(fits).map(|route| route.name.clone());
        (if bulk { Lane::Bulk } else { Lane::Transactional }, route)
    }
}

impl Match {
    /// Returns whether the message matches each criterion; `None` for criteria that are not given.
    fn evaluate_criteria(&self, traits: &MessageAttributes<'_>) -> [Option<bool>; 4] {
        let given = |patterns: &[String], fits: &dyn Fn(&[String]) -> bool| {
            (!patterns.is_empty()).then(|| fits(patterns))
        };
        let matches = |address: &Mailbox, patterns: &[String]| {
            patterns.iter().any(|pattern| address.matches_pattern(pattern))
        };
        [
            given(&self.users, &|users| {
                traits.user.is_some_and(|user| users.iter().any(|known| known == user))
            }),
            given(&self.senders, &|senders| traits.sender.is_some_and(|sender| matches(sender, senders))),
            given(&self.recipients, &|patterns| traits.recipients.iter().all(|one| matches(one, patterns))),
            (!self.headers.is_empty()).then(|| self.has_header(&traits.header)),
        ]
    }

    fn has_header(&self, header: &HeaderSection<'_>) -> bool {
        header.fields().any(|field| {
            self.headers.iter().any(|wanted| {
                let same = |value: &String| field.to_text().trim().eq_ignore_ascii_case(value);
                wanted.name.eq_ignore_ascii_case(field.name) && wanted.value.as_ref().is_none_or(same)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_match(senders: &[&str], recipients: &[&str]) -> Match {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Match { senders: owned(senders), recipients: owned(recipients), ..Match::default() }
    }

    fn choose_for(
        routing: &Routing,
        sender: &str,
        recipients: &[&str],
        header: &str,
    ) -> (Lane, Option<Box<str>>) {
        let recipients: Vec<Mailbox> = recipients.iter().map(|one| one.parse().unwrap()).collect();
        let sender: Option<Mailbox> = sender.parse().ok();
        routing.choose_route(&MessageAttributes {
            user: Some("odoo"),
            sender: sender.as_ref(),
            recipients: &recipients,
            header: HeaderSection::parse(header.as_bytes()),
        })
    }

    #[test]
    fn first_route_matching_all_criteria_wins() {
        let route = |name: &str, criteria| Route { name: name.into(), criteria, upstreams: vec!["a".into()] };
        let users = Match { users: vec!["shop".into()], ..Match::default() };
        let routing = Routing {
            routes: vec![
                route("shop", users),
                route("both", address_match(&["*@a.example"], &["*@b.example"])),
                route("sender", address_match(&["*@a.example"], &[])),
            ],
            ..Routing::default()
        };
        let named = |sender, recipients: &[&str]| choose_for(&routing, sender, recipients, "\r\n").1;
        assert_eq!(named("x@A.example", &["y@b.example"]).as_deref(), Some("both"));
        assert_eq!(named("x@a.example", &["y@b.example", "y@c.example"]).as_deref(), Some("sender"));
        assert_eq!(named("x@c.example", &["y@b.example"]), None);
        assert_eq!(named("", &["y@b.example"]), None, "<> is nobody's address");
    }

    #[test]
    fn one_matching_criterion_makes_bulk() {
        let field = |name: &str, value: Option<&str>| HeaderMatch {
            name: name.into(),
            value: value.map(str::to_owned),
        };
        let headers = vec![field("List-Unsubscribe", None), field("Precedence", Some("bulk"))];
        let routing = Routing {
            bulk_match: Match { headers, ..address_match(&["news@a.example"], &[]) },
            min_bulk_recipients: 3,
            ..Routing::default()
        };
        let lane = |sender, recipients: &[&str], header| choose_for(&routing, sender, recipients, header).0;
        let one = &["a@b.example"][..];
        assert_eq!(lane("x@a.example", one, "Subject: a\r\nPrecedence: list\r\n\r\n"), Lane::Transactional);
        assert_eq!(lane("x@a.example", one, "precedence:  BULK\r\n\r\n"), Lane::Bulk);
        assert_eq!(lane("x@a.example", one, "List-unsubscribe: <https://a.example>\r\n\r\n"), Lane::Bulk);
        assert_eq!(lane("News@a.example", one, "\r\n"), Lane::Bulk);
        assert_eq!(lane("x@a.example", &["a@b.example"; 3], "\r\n"), Lane::Bulk);
        assert_eq!(lane("x@a.example", &["a@b.example"; 2], "\r\n"), Lane::Transactional);
    }
}
