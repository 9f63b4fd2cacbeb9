//! Earlier rounds of a message through this relay. A recipient's server may forward mail to another address through us:
//! that is no loop. It is one when a recipient gets the message again, or after [`Rounds::MOST`] rounds.

use mailtrail_mail::{HeaderLine, HeaderSection, Mailbox, TrackingId};
use mailtrail_trail::provider::TRACKING_ID_HEADER;
use std::collections::HashSet;

/// Messages of this relay that a header names, with their recipients. A forwarder may keep the id, our `Received` line
/// or `VIA_HEADER`; each suffices. Unknown ids are ignored.
#[derive(Debug, Default)]
pub struct RelayHistory {
    prior_ids: Vec<TrackingId>,
    prior_recipients: HashSet<String>,
}

impl RelayHistory {
    /// Rounds after which a message goes no further.
    pub const MAX_PASSES: usize = 3;

    /// Reads a header; `recipients` returns those of a message, or `None` for an unknown id.
    pub fn from_header(
        header: &HeaderSection<'_>,
        recipients: impl Fn(TrackingId) -> Option<Vec<Mailbox>>,
    ) -> Self {
        let mut named: Vec<TrackingId> = Vec::new();
        for id in header.fields().flat_map(|field| tracking_ids_in(field.name, &field.to_text())) {
            if !named.contains(&id) {
                named.push(id);
            }
            if named.len() == MAX_ID_LOOKUPS {
                break;
            }
        }
        let mut rounds = Self::default();
        for id in named {
            if let Some(had) = recipients(id) {
                rounds.prior_ids.push(id);
                rounds.prior_recipients.extend(had.iter().map(Mailbox::to_folded));
            }
        }
        rounds
    }

    /// Whether a message to these recipients runs in a loop.
    pub fn is_loop(&self, recipients: &[Mailbox]) -> bool {
        let all_had_it =
            !recipients.is_empty() && recipients.iter().all(|recipient| self.has_recipient(recipient));
        self.prior_ids.len() >= Self::MAX_PASSES || all_had_it
    }

    /// Whether a recipient was one of an earlier round.
    pub fn has_recipient(&self, recipient: &Mailbox) -> bool {
        self.prior_recipients.contains(&recipient.to_folded())
    }

    /// Header line that identifies earlier passes in the next one; only our own lines are removed from a header.
    pub fn via_header_line(&self) -> Option<HeaderLine> {
        let ids: Vec<_> = self.prior_ids.iter().map(TrackingId::to_string).collect();
        (!ids.is_empty()).then(|| HeaderLine::new(VIA_HEADER, &ids.join(" ")))
    }
}

/// The tracking ids that a field names.
fn tracking_ids_in(name: &str, text: &str) -> Vec<TrackingId> {
    let words = || text.split_ascii_whitespace();
    let parsed = |word: &str| word.trim_end_matches(';').parse().ok();
    match name {
        name if name.eq_ignore_ascii_case(TRACKING_ID_HEADER) || name.eq_ignore_ascii_case(VIA_HEADER) => {
            words().filter_map(parsed).collect()
        }
        name if name.eq_ignore_ascii_case("Received") => {
            let ids = words().zip(words().skip(1)).filter(|(word, _)| word.eq_ignore_ascii_case("id"));
            ids.filter_map(|(_, id)| parsed(id)).collect()
        }
        _ => Vec::new(),
    }
}

/// The header that carries the ids of earlier rounds.
const VIA_HEADER: &str = "X-Mailtrail-Via";
/// Maximum number of ids of one message that are looked up.
const MAX_ID_LOOKUPS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn test_id(number: u128) -> TrackingId {
        TrackingId::new(mailtrail_mail::Timestamp::from_secs(1_789_387_200), number)
    }

    /// Message 1 went to a, message 2 to b and c, and so on; ids from 10 on are unknown.
    fn history_of(header: &str) -> RelayHistory {
        let to = |names: &[&str]| {
            Some(names.iter().map(|name| format!("{name}@example.net").parse().unwrap()).collect())
        };
        RelayHistory::from_header(&HeaderSection::parse(header.as_bytes()), |found| match found {
            found if found == test_id(1) => to(&["a"]),
            found if found == test_id(2) => to(&["b", "C"]),
            found if found == test_id(3) => to(&["d"]),
            _ => None,
        })
    }

    fn is_loop(header: &str, to: &[&str]) -> bool {
        let to: Vec<Mailbox> = to.iter().map(|name| format!("{name}@example.net").parse().unwrap()).collect();
        history_of(header).is_loop(&to)
    }

    #[test]
    fn repeated_recipient_is_a_loop() {
        let received = |id| {
            format!("Received: from x ([127.0.0.1])\r\n\tby relay.example.com with ESMTP id {id};\r\n\tx\r\n")
        };
        for header in [
            format!("X-Mailtrail-Id: {}\r\n", test_id(1)),
            format!("x-mailtrail-id:\t{} \r\n", test_id(1)),
            received(test_id(1)),
            format!("Received: by relay.example.com id {} for <x@example.net>; x\r\n", test_id(1)),
            format!("X-Mailtrail-Via: {} {}\r\n", test_id(10), test_id(1)),
            format!("{}X-Mailtrail-Id: {}\r\n", received(test_id(11)), test_id(1)),
        ] {
            assert!(is_loop(&header, &["a"]) && is_loop(&header, &["A"]), "{header}");
            assert!(!is_loop(&header, &["b"]) && !is_loop(&header, &["a", "b"]), "{header}");
            assert_eq!(
                history_of(&header).via_header_line().unwrap().as_str(),
                format!("X-Mailtrail-Via: {}", test_id(1)),
                "{header}"
            );
        }
    }

    #[test]
    fn ignores_foreign_ids_and_body() {
        for header in [
            String::new(),
            format!("X-Mailtrail-Id: {}\r\n", test_id(10)),
            "X-Mailtrail-Id: 1\r\nX-Mailtrail-Via: \r\nReceived: id\r\n".to_owned(),
            format!("Subject: id {}\r\nReceived: from {} by x; y\r\n", test_id(1), test_id(1)),
            format!("A: b\r\n\r\nX-Mailtrail-Id: {}\r\n", test_id(1)),
        ] {
            assert!(!is_loop(&header, &["a"]), "{header}");
            assert!(history_of(&header).via_header_line().is_none(), "{header}");
        }
    }

    #[test]
    fn third_pass_is_a_loop() {
        let all = format!(
            "X-Mailtrail-Id: {}\r\nX-Mailtrail-Via: {} {} {}\r\n",
            test_id(3),
            test_id(1),
            test_id(2),
            test_id(3)
        );
        assert!(is_loop(&all, &["e"]));
        let two = format!(
            "X-Mailtrail-Id: {0}\r\nReceived: x id {0}; y\r\nReceived: x id {1}; y\r\n",
            test_id(2),
            test_id(1)
        );
        assert!(!is_loop(&two, &["e"]) && !is_loop(&two, &["e", "a"]) && is_loop(&two, &["a", "c"]));
    }

    #[test]
    fn limits_id_lookups() {
        let many: String =
            (10..3000).map(|number| format!("X-Mailtrail-Id: {}\r\n", test_id(number))).collect();
        let asked = std::cell::Cell::new(0);
        RelayHistory::from_header(&HeaderSection::parse(many.as_bytes()), |_| {
            asked.set(asked.get() + 1);
            None
        });
        assert_eq!(asked.get(), MAX_ID_LOOKUPS);
    }
}
