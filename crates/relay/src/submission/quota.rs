//! How many recipients a user's mail may have in a time.
//!
//! A quota is asked twice. MAIL is refused once it is used up: refused at RCPT, some of several recipients would get
//! nothing, and Odoo would not say so. Behind the message it is asked again, for whoever came meanwhile. A message that
//! finds something left is taken whole, so a quota may be exceeded by one message's recipients.
//!
//! What counts is what was kept: at the start it is read from the ledger, which costs about a second for a million sends
//! of the period.

use crate::alarms::{Alarms, Kind};
use crate::submission::settings::User;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::transport::{Period, Plan, Quota};
use mailtrail_smtp::Reply;
use mailtrail_store::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The quotas of all users.
#[derive(Debug)]
pub struct Quotas {
    plans: HashMap<String, Plan>,
    /// Those of former configurations too: their conversations go on.
    used: Arc<Mutex<HashMap<String, Vec<Quota>>>>,
    alarms: Alarms,
    clock: Clock,
}

impl Quotas {
    /// Those of the users, with what the store knows.
    pub fn new(users: &[User], store: &Store, alarms: Alarms, clock: Clock) -> Self {
        let quotas = Self { plans: plans(users), used: Arc::default(), alarms, clock };
        quotas.remember(store);
        quotas
    }

    /// The quotas as they were changed; both count what is sent under the other.
    pub fn renewed(&self, users: &[User], store: &Store) -> Self {
        let (used, alarms) = (self.used.clone(), self.alarms.clone());
        let quotas = Self { plans: plans(users), used, alarms, clock: self.clock };
        for gone in self.plans.keys().filter(|user| !quotas.plans.contains_key(*user)) {
            quotas.alarms.clear(Kind::Quota, &subject(gone));
        }
        quotas.remember(store);
        quotas
    }

    /// What to say if nothing is left to the user.
    pub fn used_up(&self, user: &str) -> Option<Reply> {
        self.with(user, |quota, now| quota.used_up_until(now)).flatten().map(|_| self.refusal(user))
    }

    /// Counts the recipients of a message, if something is left.
    pub fn take(&self, user: &str, recipients: u64) -> Result<(), Reply> {
        let (plan, now) = (self.plans.get(user), self.clock.now());
        let mut used = self.used();
        let Some(quotas) = used.get_mut(user) else { return Ok(()) };
        let mut own = quotas.iter_mut().filter(|quota| plan == Some(&quota.plan()));
        if own.any(|quota| quota.used_up_until(now).is_some()) {
            return Err(self.refusal(user));
        }
        quotas.iter_mut().for_each(|quota| quota.count(recipients, now));
        drop(used);
        self.warn(user);
        Ok(())
    }

    /// They were not kept after all.
    pub fn give_back(&self, user: &str, recipients: u64) {
        for quota in self.used().get_mut(user).into_iter().flatten() {
            quota.give_back(recipients);
        }
        self.warn(user);
    }

    /// Begins to count what is not counted yet.
    fn remember(&self, store: &Store) {
        let now = self.clock.now();
        let mut known = HashMap::new();
        for (user, plan) in &self.plans {
            if self.with(user, |_, _| ()).is_none() {
                let handed_in = known.entry(plan.period).or_insert_with(|| {
                    store.handed_in(plan.period.around(now)).unwrap_or_else(|error| {
                        tracing::error!(%error, "what is used of the users' quotas cannot be read");
                        Default::default()
                    })
                });
                let quota = Quota::new(*plan, now, |_| handed_in.get(user).copied().unwrap_or_default());
                self.used().entry(user.clone()).or_default().push(quota);
            }
            self.warn(user);
        }
    }

    /// Warns early: what is refused for its quota has failed for good where nobody tries again, as Odoo does not.
    fn warn(&self, user: &str) {
        let Some(percent) = self.with(user, |quota, now| quota.percent(now)) else { return };
        let text = match percent {
            100.. => "the user's quota is used up; its mail is refused with 452 until the next period",
            95.. => "more than 95 % of the user's quota is used; then its mail is refused with 452",
            80.. => "more than 80 % of the user's quota is used; then its mail is refused with 452",
            _ => return self.alarms.clear(Kind::Quota, &subject(user)),
        };
        self.alarms.raise(Kind::Quota, &subject(user), text);
    }

    fn with<T>(&self, user: &str, ask: impl FnOnce(&mut Quota, Timestamp) -> T) -> Option<T> {
        let plan = self.plans.get(user)?;
        let mut used = self.used();
        let quota = used.get_mut(user)?.iter_mut().find(|quota| quota.plan() == *plan)?;
        Some(ask(quota, self.clock.now()))
    }

    fn refusal(&self, user: &str) -> Reply {
        Reply::OverQuota(match self.plans.get(user).map(|plan| plan.period) {
            Some(Period::Hour) => "Your mail has had as many recipients as it may this hour, try again later",
            Some(Period::Day) => "Your mail has had as many recipients as it may today, try again tomorrow",
            Some(Period::Month) | None => {
                "Your mail has had as many recipients as it may this month, try again next month"
            }
        })
    }

    fn used(&self) -> MutexGuard<'_, HashMap<String, Vec<Quota>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn plans(users: &[User]) -> HashMap<String, Plan> {
    users.iter().filter_map(|user| Some((user.account.name.clone(), user.quota?))).collect()
}

/// Upstreams have quotas, too.
fn subject(user: &str) -> String {
    format!("user {user}")
}
