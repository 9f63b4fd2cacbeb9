//! Which mail goes where, and which goes first. Pure rules, decided once: when a mail is accepted.

use mailtrail_mail::{HeaderBlock, Lane, Mailbox};

/// The rules of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// The first that fits decides. Mail that fits none may go to every upstream, in their order.
    pub routes: Vec<Route>,
    /// What goes into the bulk lane: what fits one of these in one way.
    pub bulk: Pattern,
    /// A mail to so many recipients, or more, goes there, too; 0: never because of that.
    pub bulk_recipients: usize,
}

/// Where some mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name in trails. The configuration may change behind it: it is looked up at each attempt.
    pub name: Box<str>,
    /// Which mail: what fits in each way that is given.
    pub pattern: Pattern,
    /// The names of its upstreams, in the order of preference; at least one.
    pub upstreams: Vec<String>,
}

/// Ways in which a mail may fit; a way that names nothing is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// Names of users that sent it.
    pub users: Vec<String>,
    /// Patterns of the envelope's sender.
    pub senders: Vec<String>,
    /// Patterns of recipients: each recipient fits one.
    pub recipients: Vec<String>,
    /// Header fields: it has one of them.
    pub headers: Vec<Field>,
}

/// A header field that a mail may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, in any case.
    pub name: String,
    /// Its value, in any case; `None`: any.
    pub value: Option<String>,
}

/// The route by which mail goes to that upstream first, and to all others in their order where that one is away. There
/// is one for each upstream; no route of the configuration has such a name.
pub fn first(upstream: &str) -> Box<str> {
    format!("first {upstream}").into()
}

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Traits<'a> {
    /// Who sent it.
    pub user: Option<&'a str>,
    /// The envelope's sender.
    pub sender: Option<&'a Mailbox>,
    /// The envelope's recipients.
    pub recipients: &'a [Mailbox],
    /// The header section.
    pub header: HeaderBlock<'a>,
}

impl Routing {
    /// The lane and the route of a mail.
    pub fn choose(&self, traits: &Traits<'_>) -> (Lane, Option<Box<str>>) {
        let crowd = self.bulk_recipients > 0 && traits.recipients.len() >= self.bulk_recipients;
        let bulk = crowd || self.bulk.ways(traits).contains(&Some(true));
        let fits = |route: &&Route| !route.pattern.ways(traits).contains(&Some(false));
        let route = self.routes.iter().find(fits).map(|route| route.name.clone());
        (if bulk { Lane::Bulk } else { Lane::Transactional }, route)
    }
}

impl Pattern {
    /// Whether the mail fits in each way; `None` for those that are not given.
    fn ways(&self, traits: &Traits<'_>) -> [Option<bool>; 4] {
        let given = |patterns: &[String], fits: &dyn Fn(&[String]) -> bool| {
            (!patterns.is_empty()).then(|| fits(patterns))
        };
        let matches =
            |address: &Mailbox, patterns: &[String]| patterns.iter().any(|pattern| address.matches(pattern));
        [
            given(&self.users, &|users| {
                traits.user.is_some_and(|user| users.iter().any(|known| known == user))
            }),
            given(&self.senders, &|senders| traits.sender.is_some_and(|sender| matches(sender, senders))),
            given(&self.recipients, &|patterns| traits.recipients.iter().all(|one| matches(one, patterns))),
            (!self.headers.is_empty()).then(|| self.has_field(&traits.header)),
        ]
    }

    fn has_field(&self, header: &HeaderBlock<'_>) -> bool {
        header.fields().any(|field| {
            self.headers.iter().any(|wanted| {
                let same = |value: &String| field.text().trim().eq_ignore_ascii_case(value);
                wanted.name.eq_ignore_ascii_case(field.name) && wanted.value.as_ref().is_none_or(same)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(senders: &[&str], recipients: &[&str]) -> Pattern {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Pattern { senders: owned(senders), recipients: owned(recipients), ..Pattern::default() }
    }

    fn choose(
        routing: &Routing,
        sender: &str,
        recipients: &[&str],
        header: &str,
    ) -> (Lane, Option<Box<str>>) {
        let recipients: Vec<Mailbox> = recipients.iter().map(|one| one.parse().unwrap()).collect();
        let sender: Option<Mailbox> = sender.parse().ok();
        routing.choose(&Traits {
            user: Some("odoo"),
            sender: sender.as_ref(),
            recipients: &recipients,
            header: HeaderBlock::of(header.as_bytes()),
        })
    }

    #[test]
    fn the_first_route_that_fits_in_every_way_decides() {
        let route = |name: &str, pattern| Route { name: name.into(), pattern, upstreams: vec!["a".into()] };
        let users = Pattern { users: vec!["shop".into()], ..Pattern::default() };
        let routing = Routing {
            routes: vec![
                route("shop", users),
                route("both", pattern(&["*@a.example"], &["*@b.example"])),
                route("sender", pattern(&["*@a.example"], &[])),
            ],
            ..Routing::default()
        };
        let named = |sender, recipients: &[&str]| choose(&routing, sender, recipients, "\r\n").1;
        assert_eq!(named("x@A.example", &["y@b.example"]).as_deref(), Some("both"));
        assert_eq!(named("x@a.example", &["y@b.example", "y@c.example"]).as_deref(), Some("sender"));
        assert_eq!(named("x@c.example", &["y@b.example"]), None);
        assert_eq!(named("", &["y@b.example"]), None, "<> is nobody's address");
    }

    #[test]
    fn one_sign_makes_it_bulk() {
        let field =
            |name: &str, value: Option<&str>| Field { name: name.into(), value: value.map(str::to_owned) };
        let headers = vec![field("List-Unsubscribe", None), field("Precedence", Some("bulk"))];
        let routing = Routing {
            bulk: Pattern { headers, ..pattern(&["news@a.example"], &[]) },
            bulk_recipients: 3,
            ..Routing::default()
        };
        let lane = |sender, recipients: &[&str], header| choose(&routing, sender, recipients, header).0;
        let one = &["a@b.example"][..];
        assert_eq!(lane("x@a.example", one, "Subject: a\r\nPrecedence: list\r\n\r\n"), Lane::Transactional);
        assert_eq!(lane("x@a.example", one, "precedence:  BULK\r\n\r\n"), Lane::Bulk);
        assert_eq!(lane("x@a.example", one, "List-unsubscribe: <https://a.example>\r\n\r\n"), Lane::Bulk);
        assert_eq!(lane("News@a.example", one, "\r\n"), Lane::Bulk);
        assert_eq!(lane("x@a.example", &["a@b.example"; 3], "\r\n"), Lane::Bulk);
        assert_eq!(lane("x@a.example", &["a@b.example"; 2], "\r\n"), Lane::Transactional);
    }
}
