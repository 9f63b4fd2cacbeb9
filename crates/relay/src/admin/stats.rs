use mailtrail_mail::Timestamp;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{DeliveryStats, StatsGroup};
use serde::{Deserialize, Serialize};

/// Query of delivery statistics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatsQuery {
    /// Earliest time of acceptance, milliseconds since the epoch.
    pub since: u64,
    /// Latest time of acceptance, milliseconds since the epoch.
    pub until: u64,
    /// Word of the grouping; by day if empty.
    pub by: String,
}

/// Counts of a group. Rates are fractions of one, absent if the denominator is zero.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatsRow {
    /// Word of the grouping, or `total`.
    pub by: String,
    /// Name of the group; empty for the total.
    pub group: String,
    /// Recipients of accepted mail.
    pub recipients: u64,
    /// Recipients queued, sending, held or unknown.
    pub open: u64,
    /// Recipients accepted by the provider without a later event.
    pub relayed: u64,
    /// Recipients delivered to their server.
    pub delivered: u64,
    /// Recipients refused permanently.
    pub bounced: u64,
    /// Recipients given up.
    pub failed: u64,
    /// Recipients not attempted because of suppression.
    pub suppressed: u64,
    /// Recipients cancelled by an operator.
    pub cancelled: u64,
    /// Recipients deferred after the provider accepted the mail, whatever followed.
    pub deferred: u64,
    /// Recipients with an opening by a person.
    pub opened: u64,
    /// Recipients with a click by a person.
    pub clicked: u64,
    /// Recipients with an opening or click by software.
    pub by_machine: u64,
    /// Recipients that complained of spam.
    pub complained: u64,
    /// Recipients that unsubscribed.
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

/// Returns the groups in the order of their names, followed by the total.
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
