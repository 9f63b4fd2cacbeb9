use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::rows::{FactRow, SendRow, decode};
use mailtrail_mail::{Timestamp, TrackingId, fold_domain};
use mailtrail_trail::{Fact, Grouping, Recipient, Send, Tally, What};
use sled::IVec;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound::{self, Excluded, Included};
use std::ops::Range;

impl Projection {
    /// Counts the recipients of sends accepted from `since` to `until`: all, and in groups.
    pub fn tally(
        &self,
        since: Timestamp,
        until: Timestamp,
        grouping: Grouping,
    ) -> sled::Result<(Tally, BTreeMap<String, Tally>)> {
        let (low, high) = (TrackingId::new(since, 0), TrackingId::new(until, u128::MAX));
        let range = (Included(keys::send(low).into()), Included(keys::send(high).into()));
        let (mut all, mut groups) = (Tally::default(), BTreeMap::<String, Tally>::new());
        for row in self.rows().range(range) {
            let Some(row) = decode::<SendRow>(&row?.1) else { continue };
            let recipients = self.recipients(row.send.id(), &row)?;
            let Some(send) = row.send.restore() else { continue };
            recipients.iter().for_each(|recipient| all.add(recipient));
            for (group, recipients) in self.groups(&send, &recipients, grouping)? {
                let tally = groups.entry(group).or_default();
                recipients.into_iter().for_each(|recipient| tally.add(recipient));
            }
        }
        Ok((all, groups))
    }

    /// Returns the users whose mail was accepted in `period`, the address it came from, and when it did so last.
    pub fn logins(&self, period: Range<Timestamp>) -> sled::Result<BTreeMap<(IpAddr, String), Timestamp>> {
        let mut logins = BTreeMap::new();
        for row in self.rows().range(accepted_in(&period)) {
            let Some(row) = decode::<SendRow>(&row?.1) else { continue };
            if let (Some(peer), Some(user)) = (row.send.peer(), row.send.user()) {
                // Rows are in the order of their times.
                logins.insert((peer, user.to_owned()), row.send.id().timestamp());
            }
        }
        Ok(logins)
    }

    /// Counts the recipients of sends accepted in `period` by user; who logged in nowhere is none.
    pub fn handed_in(&self, period: Range<Timestamp>) -> sled::Result<BTreeMap<String, u64>> {
        let mut users = BTreeMap::new();
        for row in self.rows().range(accepted_in(&period)) {
            let Some(row) = decode::<SendRow>(&row?.1) else { continue };
            if let Some(user) = row.send.user() {
                *users.entry(user.to_owned()).or_default() += u64::from(row.recipients);
            }
        }
        Ok(users)
    }

    fn groups<'a>(
        &self,
        send: &Send,
        recipients: &'a [Recipient],
        grouping: Grouping,
    ) -> sled::Result<Vec<(String, Vec<&'a Recipient>)>> {
        let everybody = || recipients.iter().collect::<Vec<_>>();
        let domain = || send.sender.as_ref().map_or(NOBODY, |sender| sender.domain());
        Ok(match grouping {
            Grouping::Day => vec![(send.id.timestamp().to_string()[..DATE].to_owned(), everybody())],
            Grouping::Tag => send.tags.iter().map(|tag| (tag.clone(), everybody())).collect(),
            Grouping::Client => vec![(send.client.clone(), everybody())],
            Grouping::Domain => vec![(fold_domain(domain()), everybody())],
            Grouping::Upstream => {
                let upstreams = self.upstreams(send.id, recipients.len())?;
                upstreams.into_iter().zip(recipients).map(|(name, one)| (name, vec![one])).collect()
            }
        })
    }

    /// The upstream of each recipient: of the last attempt that is known.
    fn upstreams(&self, id: TrackingId, recipients: usize) -> sled::Result<Vec<String>> {
        let mut upstreams = vec![NOBODY.to_owned(); recipients];
        for row in self.rows().prefixed(&keys::facts(id)) {
            let Some(fact) = decode::<FactRow>(&row?.1).map(Fact::from) else { continue };
            let Some(upstream) = fact.upstream.filter(|_| matches!(fact.what, What::Attempted(_))) else {
                continue;
            };
            for place in fact.recipients {
                if let Some(name) = upstreams.get_mut(usize::from(place)) {
                    name.clone_from(&upstream);
                }
            }
        }
        Ok(upstreams)
    }
}

/// The keys of the sends that were accepted in `period`.
fn accepted_in(period: &Range<Timestamp>) -> (Bound<IVec>, Bound<IVec>) {
    let [low, high] = [period.start, period.end].map(|at| keys::send(TrackingId::new(at, 0)));
    (Included(low.into()), Excluded(high.into()))
}

/// The group of those that have none.
const NOBODY: &str = "-";
/// Characters of a date in a time.
const DATE: usize = "2026-11-21".len();
