//! Statistics over the messages of a period. Each reads every message row of the period.

use crate::ledger::database::Ledger;
use crate::ledger::table::{Table, TableRows};
use crate::ledger::tables::{Messages, TrailEvents};
use mailtrail_mail::{Timestamp, TrackingId, fold_domain};
use mailtrail_trail::{DeliveryStats, Message, Recipient, StatsGroup, TrailEvent, TrailEventKind};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Included};
use std::ops::Range;

impl Ledger {
    /// Counts the recipients of messages accepted from `since` to `until`, in total and by group.
    pub fn delivery_stats(
        &self,
        since: Timestamp,
        until: Timestamp,
        grouping: StatsGroup,
    ) -> sled::Result<(DeliveryStats, BTreeMap<String, DeliveryStats>)> {
        let (low, high) = (TrackingId::new(since, 0), TrackingId::new(until, u128::MAX));
        let (mut all, mut groups) = (DeliveryStats::default(), BTreeMap::<String, DeliveryStats>::new());
        for row in Messages::range(self.memtable(), Included(low), Included(high)) {
            let Some(row) = row?.row() else { continue };
            let recipients = self.load_recipients(row.message.id(), &row)?;
            let Some(message) = row.message.into_domain() else { continue };
            recipients.iter().for_each(|recipient| all.add(recipient));
            for (group, recipients) in self.group_recipients(&message, &recipients, grouping)? {
                let counts = groups.entry(group).or_default();
                recipients.into_iter().for_each(|recipient| counts.add(recipient));
            }
        }
        Ok((all, groups))
    }

    /// Returns the users that submitted messages in `period`, each with a client address and the time of the
    /// last message.
    pub fn logins(&self, period: Range<Timestamp>) -> sled::Result<BTreeMap<(IpAddr, String), Timestamp>> {
        let mut logins = BTreeMap::new();
        for row in self.accepted_in(&period) {
            let Some(row) = row?.row() else { continue };
            if let (Some(peer), Some(user)) = (row.message.peer(), row.message.user()) {
                // Rows are ordered by time.
                logins.insert((peer, user.to_owned()), row.message.id().timestamp());
            }
        }
        Ok(logins)
    }

    /// Counts the recipients of messages accepted in `period` by user; unauthenticated submissions do not
    /// count.
    pub fn submitted_by_user(&self, period: Range<Timestamp>) -> sled::Result<BTreeMap<String, u64>> {
        let mut users = BTreeMap::new();
        for row in self.accepted_in(&period) {
            let Some(row) = row?.row() else { continue };
            if let Some(user) = row.message.user() {
                *users.entry(user.to_owned()).or_default() += u64::from(row.recipient_count);
            }
        }
        Ok(users)
    }

    /// Returns the messages accepted in `period`, oldest first.
    fn accepted_in(&self, period: &Range<Timestamp>) -> TableRows<'_, Messages> {
        let [low, high] = [period.start, period.end].map(|at| TrackingId::new(at, 0));
        Messages::range(self.memtable(), Included(low), Excluded(high))
    }

    fn group_recipients<'a>(
        &self,
        message: &Message,
        recipients: &'a [Recipient],
        grouping: StatsGroup,
    ) -> sled::Result<Vec<(String, Vec<&'a Recipient>)>> {
        let all_recipients = || recipients.iter().collect::<Vec<_>>();
        let domain = || message.sender.as_ref().map_or(NO_GROUP, |sender| sender.domain());
        Ok(match grouping {
            StatsGroup::Day => {
                vec![(message.id.timestamp().to_string()[..DATE_CHARS].to_owned(), all_recipients())]
            }
            StatsGroup::Tag => message.tags.iter().map(|tag| (tag.clone(), all_recipients())).collect(),
            StatsGroup::Client => vec![(message.client.clone(), all_recipients())],
            StatsGroup::Domain => vec![(fold_domain(domain()), all_recipients())],
            StatsGroup::Upstream => {
                let upstreams = self.last_upstreams(message.id, recipients.len())?;
                upstreams.into_iter().zip(recipients).map(|(name, one)| (name, vec![one])).collect()
            }
        })
    }

    /// Returns the upstream of each recipient's last known attempt.
    fn last_upstreams(&self, id: TrackingId, recipients: usize) -> sled::Result<Vec<String>> {
        let mut upstreams = vec![NO_GROUP.to_owned(); recipients];
        for row in TrailEvents::of_message(self.memtable(), id) {
            let Some(trail_event) = row?.row().map(TrailEvent::from) else { continue };
            let Some(upstream) =
                trail_event.upstream.filter(|_| matches!(trail_event.kind, TrailEventKind::Attempted(_)))
            else {
                continue;
            };
            for index in trail_event.recipients {
                if let Some(name) = upstreams.get_mut(usize::from(index)) {
                    name.clone_from(&upstream);
                }
            }
        }
        Ok(upstreams)
    }
}

/// Name of the group for messages without one.
const NO_GROUP: &str = "-";
/// Number of characters of the date in a timestamp.
const DATE_CHARS: usize = "2026-11-21".len();
