//! Recipients that a user's messages may have per period.
//!
//! A quota is checked twice. MAIL is rejected once it is used up: after a rejection at RCPT, only some recipients would
//! get the message, and Odoo would not report it. It is checked again after the message, because other sessions may
//! have used it in the meantime. A message is accepted as a whole if any quota is left, so one message may exceed it.
//!
//! Stored messages count. At the start the usage is read from the ledger, which takes about a second for a million
//! messages of the period.

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::submission::settings::User;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::transport::{Quota, QuotaLimit, QuotaPeriod};
use mailtrail_smtp::Reply;
use mailtrail_store::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The quotas of all users.
#[derive(Debug)]
pub struct UserQuotas {
    limits: HashMap<String, QuotaLimit>,
    /// Those of former configurations too: their conversations go on.
    usage: Arc<Mutex<HashMap<String, Vec<Quota>>>>,
    alarms: AlarmRegistry,
    clock: Clock,
}

impl UserQuotas {
    /// Creates the quotas of the users, with the usage in the store.
    pub fn new(users: &[User], store: &Store, alarms: AlarmRegistry, clock: Clock) -> Self {
        let quotas = Self { limits: quota_limits(users), usage: Arc::default(), alarms, clock };
        quotas.load_usage(store);
        quotas
    }

    /// Returns changed quotas; both share the counts.
    pub fn reconfigured(&self, users: &[User], store: &Store) -> Self {
        let (usage, alarms) = (self.usage.clone(), self.alarms.clone());
        let quotas = Self { limits: quota_limits(users), usage, alarms, clock: self.clock };
        for gone in self.limits.keys().filter(|user| !quotas.limits.contains_key(*user)) {
            quotas.alarms.clear(AlarmKind::Quota, &alarm_subject(gone));
        }
        quotas.load_usage(store);
        quotas
    }

    /// Returns the reply if the user's quota is used up.
    pub fn check_exhausted(&self, user: &str) -> Option<Reply> {
        self.with_quota(user, |quota, now| quota.exhausted_until(now))
            .flatten()
            .map(|_| self.over_quota_reply(user))
    }

    /// Counts the recipients of a message, if something is left.
    pub fn try_consume(&self, user: &str, recipients: u64) -> Result<(), Reply> {
        let (plan, now) = (self.limits.get(user), self.clock.now());
        let mut used = self.usage();
        let Some(quotas) = used.get_mut(user) else { return Ok(()) };
        let mut own = quotas.iter_mut().filter(|quota| plan == Some(&quota.limit()));
        if own.any(|quota| quota.exhausted_until(now).is_some()) {
            return Err(self.over_quota_reply(user));
        }
        quotas.iter_mut().for_each(|quota| quota.consume(recipients, now));
        drop(used);
        self.update_alarm(user);
        Ok(())
    }

    /// They were not kept after all.
    pub fn refund(&self, user: &str, recipients: u64) {
        for quota in self.usage().get_mut(user).into_iter().flatten() {
            quota.refund(recipients);
        }
        self.update_alarm(user);
    }

    /// Loads the usage of quotas that are not counted yet.
    fn load_usage(&self, store: &Store) {
        let now = self.clock.now();
        let mut known = HashMap::new();
        for (user, plan) in &self.limits {
            if self.with_quota(user, |_, _| ()).is_none() {
                let handed_in = known.entry(plan.period).or_insert_with(|| {
                    store.submitted_by_user(plan.period.containing(now)).unwrap_or_else(|error| {
                        tracing::error!(%error, "what is used of the users' quotas cannot be read");
                        Default::default()
                    })
                });
                let quota = Quota::new(*plan, now, |_| handed_in.get(user).copied().unwrap_or_default());
                self.usage().entry(user.clone()).or_default().push(quota);
            }
            self.update_alarm(user);
        }
    }

    /// Raises the alarm early: clients that do not retry, such as Odoo, fail rejected messages permanently.
    fn update_alarm(&self, user: &str) {
        let Some(percent) = self.with_quota(user, |quota, now| quota.percent_used(now)) else { return };
        let text = match percent {
            100.. => "the user's quota is used up; its mail is refused with 452 until the next period",
            95.. => "more than 95 % of the user's quota is used; then its mail is refused with 452",
            80.. => "more than 80 % of the user's quota is used; then its mail is refused with 452",
            _ => return self.alarms.clear(AlarmKind::Quota, &alarm_subject(user)),
        };
        self.alarms.raise(AlarmKind::Quota, &alarm_subject(user), text);
    }

    fn with_quota<T>(&self, user: &str, ask: impl FnOnce(&mut Quota, Timestamp) -> T) -> Option<T> {
        let plan = self.limits.get(user)?;
        let mut used = self.usage();
        let quota = used.get_mut(user)?.iter_mut().find(|quota| quota.limit() == *plan)?;
        Some(ask(quota, self.clock.now()))
    }

    fn over_quota_reply(&self, user: &str) -> Reply {
        Reply::QuotaExceeded(match self.limits.get(user).map(|plan| plan.period) {
            Some(QuotaPeriod::Hour) => {
                "Your mail has had as many recipients as it may this hour, try again later"
            }
            Some(QuotaPeriod::Day) => {
                "Your mail has had as many recipients as it may today, try again tomorrow"
            }
            Some(QuotaPeriod::Month) | None => {
                "Your mail has had as many recipients as it may this month, try again next month"
            }
        })
    }

    fn usage(&self) -> MutexGuard<'_, HashMap<String, Vec<Quota>>> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quota_limits(users: &[User]) -> HashMap<String, QuotaLimit> {
    users.iter().filter_map(|user| Some((user.account.name.clone(), user.quota?))).collect()
}

/// Upstreams have quotas, too.
fn alarm_subject(user: &str) -> String {
    format!("user {user}")
}
