use crate::provider_event::Kind;
use crate::recipient::{Recipient, State};

/// Recipients counted by what became of them, each in exactly one of the groups from `open` to `cancelled`, and by what
/// the provider reported beside it.
///
/// It is made anew from what is known now, so a late event changes the figures of the day on which the mail was
/// accepted, and no order of events gives others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub recipients: u64,
    /// Queued, sending, held or unknown.
    pub open: u64,
    /// The provider took the mail; nothing else is known.
    pub relayed: u64,
    /// It reached their server: the provider says so, or somebody opened it, clicked, unsubscribed or complained.
    pub delivered: u64,
    /// Refused for good, by the upstream or behind it: hard bounces.
    pub bounced: u64,
    /// Given up here, or by the provider for the sake of the message itself.
    pub failed: u64,
    /// Not tried, because the address is suppressed.
    pub suppressed: u64,
    /// Taken out by an operator.
    pub cancelled: u64,
    /// With a temporary failure behind the provider, whatever came afterwards: soft bounces.
    pub deferred: u64,
    /// Opened by a person, once or often. Who shows no images opens unseen, so this is the least it was.
    pub opened: u64,
    /// Clicked by a person, once or often.
    pub clicked: u64,
    /// Opened or clicked by software.
    pub by_machine: u64,
    /// Reported as spam.
    pub complained: u64,
    /// Unsubscribed.
    pub unsubscribed: u64,
}

impl Tally {
    /// Counts one recipient.
    pub fn add(&mut self, recipient: &Recipient) {
        let has = |kind| recipient.marks.of(kind).is_some();
        let arrived = ARRIVED.into_iter().any(has);
        let group = match recipient.state() {
            State::Queued | State::Sending | State::Held | State::Unknown => &mut self.open,
            State::Relayed if arrived => &mut self.delivered,
            State::Relayed => &mut self.relayed,
            State::Delivered => &mut self.delivered,
            State::Bounced => &mut self.bounced,
            State::Failed | State::Expired => &mut self.failed,
            State::Suppressed => &mut self.suppressed,
            State::Cancelled => &mut self.cancelled,
        };
        *group += 1;
        self.recipients += 1;
        self.deferred += u64::from(has(Kind::Deferred));
        self.opened += u64::from(has(Kind::Opened));
        self.clicked += u64::from(has(Kind::Clicked));
        self.complained += u64::from(has(Kind::Complained));
        self.unsubscribed += u64::from(has(Kind::Unsubscribed));
        self.by_machine += u64::from(recipient.marks.has_by_machine());
    }

    /// Delivered among those whose end is known: delivered, bounced or failed.
    pub fn delivery_rate(&self) -> Option<f64> {
        rate(self.delivered, self.delivered + self.bounced + self.failed)
    }

    /// Bounced among those whose mail left.
    pub fn bounce_rate(&self) -> Option<f64> {
        rate(self.bounced, self.sent())
    }

    /// Deferred among those whose mail left.
    pub fn soft_bounce_rate(&self) -> Option<f64> {
        rate(self.deferred, self.sent())
    }

    /// Complained among the delivered.
    pub fn complaint_rate(&self) -> Option<f64> {
        rate(self.complained, self.delivered)
    }

    /// Opened among the delivered: an undercount, as [`Tally::opened`] is.
    pub fn open_rate(&self) -> Option<f64> {
        rate(self.opened, self.delivered)
    }

    /// Clicked among the delivered.
    pub fn click_rate(&self) -> Option<f64> {
        rate(self.clicked, self.delivered)
    }

    /// Those whose mail left: relayed, delivered or bounced.
    pub fn sent(&self) -> u64 {
        self.relayed + self.delivered + self.bounced
    }
}

/// What only happens to a mail that arrived.
const ARRIVED: [Kind; 4] = [Kind::Opened, Kind::Clicked, Kind::Unsubscribed, Kind::Complained];

fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How recipients are grouped to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// By the day (UTC) on which the mail was accepted.
    Day,
    /// By tag; a mail with several counts with each, one without any with none.
    Tag,
    /// By the client's label.
    Client,
    /// By the domain of the sender's address.
    Domain,
    /// By the upstream that took the mail, or was the last to be tried.
    Upstream,
}

impl Grouping {
    /// Every grouping.
    pub const ALL: [Self; 5] = [Self::Day, Self::Tag, Self::Client, Self::Domain, Self::Upstream];

    /// The word for commands.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Tag => "tag",
            Self::Client => "client",
            Self::Domain => "domain",
            Self::Upstream => "upstream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider_event::{Event, Words};
    use crate::recipient::Standing;
    use crate::trail_event::Rung;
    use mailtrail_mail::Timestamp;

    fn recipient(standing: Standing, kinds: &[(Kind, bool)]) -> Recipient {
        let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
        recipient.attempted(standing, &Words::default());
        for (number, (kind, by_machine)) in kinds.iter().enumerate() {
            let event = Event {
                kind: *kind,
                at: Timestamp::from_seconds(number as u64),
                identity: number.to_string(),
                recipient: None,
                tracking: None,
                message_id: None,
                by_machine: *by_machine,
                test_mode: false,
                words: Words::default(),
            };
            recipient.report(&event, Rung::MessageId);
        }
        recipient
    }

    #[test]
    fn everybody_is_in_one_group() {
        let relayed = |kinds| recipient(Standing::Relayed, kinds);
        let mut tally = Tally::default();
        for one in [
            recipient(Standing::Queued, &[]),
            recipient(Standing::Unknown, &[]),
            relayed(&[]),
            relayed(&[(Kind::Deferred, false), (Kind::Delivered, false)]),
            relayed(&[(Kind::Opened, false), (Kind::Opened, false)]),
            relayed(&[(Kind::Opened, true)]),
            relayed(&[(Kind::Delivered, false), (Kind::Bounced, false)]),
            relayed(&[(Kind::Delivered, false), (Kind::Complained, false), (Kind::Clicked, false)]),
            relayed(&[(Kind::Suppressed, false)]),
            recipient(Standing::Bounced, &[]),
            recipient(Standing::Expired, &[]),
            recipient(Standing::Cancelled, &[]),
        ] {
            tally.add(&one);
        }
        let expected = Tally {
            recipients: 12,
            open: 2,
            relayed: 2,
            delivered: 3,
            bounced: 2,
            failed: 1,
            suppressed: 1,
            cancelled: 1,
            deferred: 1,
            opened: 1,
            clicked: 1,
            by_machine: 1,
            complained: 1,
            unsubscribed: 0,
        };
        assert_eq!(tally, expected);
        assert_eq!(tally.delivery_rate(), Some(3.0 / 6.0));
        assert_eq!(tally.bounce_rate(), Some(2.0 / 7.0));
        assert_eq!(tally.complaint_rate(), Some(1.0 / 3.0));
        assert_eq!(Tally::default().open_rate(), None);
    }
}
