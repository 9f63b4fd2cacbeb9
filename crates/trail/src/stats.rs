use crate::provider_event::EventKind;
use crate::recipient::{Recipient, RecipientState};

/// Recipients counted by what became of them, each in exactly one of the groups from `open` to `cancelled`, and by what
/// the provider reported beside it.
///
/// It is made anew from what is known now, so a late event changes the figures of the day on which the mail was
/// accepted, and no order of events gives others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStats {
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
    pub automated: u64,
    /// Reported as spam.
    pub complained: u64,
    /// Unsubscribed.
    pub unsubscribed: u64,
}

impl DeliveryStats {
    /// Counts one recipient.
    pub fn add(&mut self, recipient: &Recipient) {
        let has = |kind| recipient.marks.get(kind).is_some();
        let arrived = IMPLIES_DELIVERY.into_iter().any(has);
        let group = match recipient.state() {
            RecipientState::Queued
            | RecipientState::Sending
            | RecipientState::Held
            | RecipientState::Unknown => &mut self.open,
            RecipientState::Relayed if arrived => &mut self.delivered,
            RecipientState::Relayed => &mut self.relayed,
            RecipientState::Delivered => &mut self.delivered,
            RecipientState::Bounced => &mut self.bounced,
            RecipientState::Failed | RecipientState::Expired => &mut self.failed,
            RecipientState::Suppressed => &mut self.suppressed,
            RecipientState::Cancelled => &mut self.cancelled,
        };
        *group += 1;
        self.recipients += 1;
        self.deferred += u64::from(has(EventKind::Deferred));
        self.opened += u64::from(has(EventKind::Opened));
        self.clicked += u64::from(has(EventKind::Clicked));
        self.complained += u64::from(has(EventKind::Complained));
        self.unsubscribed += u64::from(has(EventKind::Unsubscribed));
        self.automated += u64::from(recipient.marks.has_automated());
    }

    /// Delivered among those whose end is known: delivered, bounced or failed.
    pub fn delivery_rate(&self) -> Option<f64> {
        ratio(self.delivered, self.delivered + self.bounced + self.failed)
    }

    /// Bounced among those whose mail left.
    pub fn bounce_rate(&self) -> Option<f64> {
        ratio(self.bounced, self.sent())
    }

    /// Deferred among those whose mail left.
    pub fn soft_bounce_rate(&self) -> Option<f64> {
        ratio(self.deferred, self.sent())
    }

    /// Complained among the delivered.
    pub fn complaint_rate(&self) -> Option<f64> {
        ratio(self.complained, self.delivered)
    }

    /// Opened among the delivered: an undercount, as [`Tally::opened`] is.
    pub fn open_rate(&self) -> Option<f64> {
        ratio(self.opened, self.delivered)
    }

    /// Clicked among the delivered.
    pub fn click_rate(&self) -> Option<f64> {
        ratio(self.clicked, self.delivered)
    }

    /// Those whose mail left: relayed, delivered or bounced.
    pub fn sent(&self) -> u64 {
        self.relayed + self.delivered + self.bounced
    }
}

/// What only happens to a mail that arrived.
const IMPLIES_DELIVERY: [EventKind; 4] =
    [EventKind::Opened, EventKind::Clicked, EventKind::Unsubscribed, EventKind::Complained];

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How recipients are grouped to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsGroup {
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

impl StatsGroup {
    /// Every grouping.
    pub const ALL: [Self; 5] = [Self::Day, Self::Tag, Self::Client, Self::Domain, Self::Upstream];

    /// The word for commands.
    pub const fn as_str(self) -> &'static str {
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
    use crate::provider_event::{Diagnostic, ProviderEvent};
    use crate::recipient::AttemptStatus;
    use crate::trail_event::CorrelatedBy;
    use mailtrail_mail::Timestamp;

    fn recipient(standing: AttemptStatus, kinds: &[(EventKind, bool)]) -> Recipient {
        let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
        recipient.apply_attempt(standing, &Diagnostic::default());
        for (number, (kind, by_machine)) in kinds.iter().enumerate() {
            let event = ProviderEvent {
                kind: *kind,
                at: Timestamp::from_secs(number as u64),
                dedup_key: number.to_string(),
                recipient: None,
                tracking_id: None,
                message_id: None,
                automated: *by_machine,
                test_mode: false,
                diagnostic: Diagnostic::default(),
            };
            recipient.apply_event(&event, CorrelatedBy::MessageId);
        }
        recipient
    }

    #[test]
    fn counts_each_recipient_in_exactly_one_group() {
        let relayed = |kinds| recipient(AttemptStatus::Relayed, kinds);
        let mut tally = DeliveryStats::default();
        for one in [
            recipient(AttemptStatus::Queued, &[]),
            recipient(AttemptStatus::Unknown, &[]),
            relayed(&[]),
            relayed(&[(EventKind::Deferred, false), (EventKind::Delivered, false)]),
            relayed(&[(EventKind::Opened, false), (EventKind::Opened, false)]),
            relayed(&[(EventKind::Opened, true)]),
            relayed(&[(EventKind::Delivered, false), (EventKind::Bounced, false)]),
            relayed(&[
                (EventKind::Delivered, false),
                (EventKind::Complained, false),
                (EventKind::Clicked, false),
            ]),
            relayed(&[(EventKind::Suppressed, false)]),
            recipient(AttemptStatus::Bounced, &[]),
            recipient(AttemptStatus::Expired, &[]),
            recipient(AttemptStatus::Cancelled, &[]),
        ] {
            tally.add(&one);
        }
        let expected = DeliveryStats {
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
            automated: 1,
            complained: 1,
            unsubscribed: 0,
        };
        assert_eq!(tally, expected);
        assert_eq!(tally.delivery_rate(), Some(3.0 / 6.0));
        assert_eq!(tally.bounce_rate(), Some(2.0 / 7.0));
        assert_eq!(tally.complaint_rate(), Some(1.0 / 3.0));
        assert_eq!(DeliveryStats::default().open_rate(), None);
    }
}
