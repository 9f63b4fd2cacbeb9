use mailtrail_mail::Timestamp;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{DeliveryStats, StatsGroup};
use serde::{Deserialize, Serialize};

/// What is to be counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatsQuery {
    /// Mail accepted then or later, milliseconds since the epoch.
    pub since: u64,
    /// Mail accepted then or earlier, milliseconds since the epoch.
    pub until: u64,
    /// The grouping's word; by day where it is none.
    pub by: String,
}

/// The figures of a group. Rates are parts of one, absent where there is nothing to be a part of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatsRow {
    /// The grouping's word, or `total`.
    pub by: String,
    /// The group's name; empty for the total.
    pub group: String,
    /// Recipients of accepted mail.
    pub recipients: u64,
    /// Queued, sending, held or unknown.
    pub open: u64,
    /// Taken by the provider, and nothing else known.
    pub relayed: u64,
    /// Reached the recipient's server.
    pub delivered: u64,
    /// Refused for good.
    pub bounced: u64,
    /// Given up.
    pub failed: u64,
    /// Not tried.
    pub suppressed: u64,
    /// Taken out by an operator.
    pub cancelled: u64,
    /// Deferred behind the provider, whatever came afterwards.
    pub deferred: u64,
    /// Opened by people.
    pub opened: u64,
    /// Clicked by people.
    pub clicked: u64,
    /// Opened or clicked by software.
    pub by_machine: u64,
    /// Reported as spam.
    pub complained: u64,
    /// Unsubscribed.
    pub unsubscribed: u64,
    /// Delivered among delivered, bounced and failed.
    pub delivery_rate: Option<f64>,
    /// Bounced among relayed, delivered and bounced.
    pub bounce_rate: Option<f64>,
    /// Deferred among relayed, delivered and bounced.
    pub soft_bounce_rate: Option<f64>,
    /// Complained among delivered.
    pub complaint_rate: Option<f64>,
    /// Opened among delivered.
    pub open_rate: Option<f64>,
    /// Clicked among delivered.
    pub click_rate: Option<f64>,
}

/// The groups in the order of their names, and the total behind them.
pub fn query_stats(store: &Store, question: &StatsQuery) -> Result<Vec<StatsRow>, ReadError> {
    let grouping = StatsGroup::ALL.into_iter().find(|grouping| grouping.as_str() == question.by);
    let grouping = grouping.unwrap_or(StatsGroup::Day);
    let [since, until] = [question.since, question.until].map(Timestamp::from_millis);
    let (all, groups) = store.delivery_stats(since, until, grouping)?;
    let groups = groups.iter().map(|(group, tally)| StatsRow::new(grouping.as_str(), group, tally));
    Ok(groups.chain([StatsRow::new("total", "", &all)]).collect())
}

impl StatsRow {
    fn new(by: &str, group: &str, tally: &DeliveryStats) -> Self {
        Self {
            by: by.to_owned(),
            group: group.to_owned(),
            recipients: tally.recipients,
            open: tally.open,
            relayed: tally.relayed,
            delivered: tally.delivered,
            bounced: tally.bounced,
            failed: tally.failed,
            suppressed: tally.suppressed,
            cancelled: tally.cancelled,
            deferred: tally.deferred,
            opened: tally.opened,
            clicked: tally.clicked,
            by_machine: tally.automated,
            complained: tally.complained,
            unsubscribed: tally.unsubscribed,
            delivery_rate: tally.delivery_rate(),
            bounce_rate: tally.bounce_rate(),
            soft_bounce_rate: tally.soft_bounce_rate(),
            complaint_rate: tally.complaint_rate(),
            open_rate: tally.open_rate(),
            click_rate: tally.click_rate(),
        }
    }
}
