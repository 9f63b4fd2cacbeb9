use crate::provider_event::EventKind;
use crate::recipient::Recipient;
use crate::recipient_state::RecipientState;

/// Recipients counted by state, each in exactly one of the groups from `open` to `cancelled`, and
/// additionally by provider events.
///
/// The figures are recomputed from the current data. A late event therefore changes the figures of the day of
/// acceptance, and the order of events has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStats {
    /// All recipients.
    pub recipients: u64,
    /// Queued, sending, held or unknown.
    pub open: u64,
    /// Accepted by the provider, without a further event.
    pub relayed: u64,
    /// Delivered to the recipient's server: reported as such, or opened, clicked, unsubscribed or complained.
    pub delivered: u64,
    /// Permanently refused, by the upstream or a later server: hard bounces.
    pub bounced: u64,
    /// Given up by the relay, or by the provider because of the message itself.
    pub failed: u64,
    /// Not attempted, because the address is suppressed.
    pub suppressed: u64,
    /// Deleted by an operator.
    pub cancelled: u64,
    /// With a temporary failure after the provider's acceptance, whatever followed: soft bounces.
    pub deferred: u64,
    /// Opened by a person, once or more. Opens without images are invisible, so this is a lower bound.
    pub opened: u64,
    /// Clicked by a person, once or more.
    pub clicked: u64,
    /// Opened or clicked by software.
    pub automated: u64,
    /// Reported as spam.
    pub complained: u64,
    /// Unsubscribed.
    pub unsubscribed: u64,
}

impl DeliveryStats {
    /// Adds one recipient.
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

    /// Returns the share of delivered recipients among finished ones: delivered, bounced or failed.
    pub fn delivery_rate(&self) -> Option<f64> {
        ratio(self.delivered, self.delivered + self.bounced + self.failed)
    }

    /// Returns the share of bounced recipients among sent ones.
    pub fn bounce_rate(&self) -> Option<f64> {
        ratio(self.bounced, self.sent())
    }

    /// Returns the share of deferred recipients among sent ones.
    pub fn soft_bounce_rate(&self) -> Option<f64> {
        ratio(self.deferred, self.sent())
    }

    /// Returns the share of complaints among delivered recipients.
    pub fn complaint_rate(&self) -> Option<f64> {
        ratio(self.complained, self.delivered)
    }

    /// Returns the share of opens among delivered recipients: a lower bound, as [`DeliveryStats::opened`] is.
    pub fn open_rate(&self) -> Option<f64> {
        ratio(self.opened, self.delivered)
    }

    /// Returns the share of clicks among delivered recipients.
    pub fn click_rate(&self) -> Option<f64> {
        ratio(self.clicked, self.delivered)
    }

    /// Returns the number of sent recipients: relayed, delivered or bounced.
    pub fn sent(&self) -> u64 {
        self.relayed + self.delivered + self.bounced
    }
}

/// Events that can only follow a delivery.
const IMPLIES_DELIVERY: [EventKind; 4] =
    [EventKind::Opened, EventKind::Clicked, EventKind::Unsubscribed, EventKind::Complained];

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Grouping of recipients for statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsGroup {
    /// Day (UTC) on which the message was accepted.
    Day,
    /// Tag. A message with several tags counts with each; one without tags counts with none.
    Tag,
    /// Label of the client.
    Client,
    /// Domain of the sender's address.
    Domain,
    /// Upstream that accepted the message, or was tried last.
    Upstream,
}

impl StatsGroup {
    /// All groupings.
    pub const ALL: [Self; 5] = [Self::Day, Self::Tag, Self::Client, Self::Domain, Self::Upstream];

    /// Returns the keyword for commands.
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
    use crate::received_event::CorrelatedBy;
    use crate::recipient_state::AttemptStatus;
    use mailtrail_mail::Timestamp;

    fn sample_recipient(status: AttemptStatus, kinds: &[(EventKind, bool)]) -> Recipient {
        let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
        recipient.apply_attempt(status, &Diagnostic::default());
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
        let relayed = |kinds| sample_recipient(AttemptStatus::Relayed, kinds);
        let mut stats = DeliveryStats::default();
        for one in [
            sample_recipient(AttemptStatus::Queued, &[]),
            sample_recipient(AttemptStatus::Unknown, &[]),
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
            sample_recipient(AttemptStatus::Bounced, &[]),
            sample_recipient(AttemptStatus::Expired, &[]),
            sample_recipient(AttemptStatus::Cancelled, &[]),
        ] {
            stats.add(&one);
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
        assert_eq!(stats, expected);
        assert_eq!(stats.delivery_rate(), Some(3.0 / 6.0));
        assert_eq!(stats.bounce_rate(), Some(2.0 / 7.0));
        assert_eq!(stats.complaint_rate(), Some(1.0 / 3.0));
        assert_eq!(DeliveryStats::default().open_rate(), None);
    }
}
