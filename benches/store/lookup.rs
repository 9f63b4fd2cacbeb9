//! How long lookups take in a store that is in use.

use crate::measure::{percentile, to_milliseconds};
use crate::traffic::{FREQUENT_RECIPIENTS, SyntheticTraffic, record_of};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_relay::admin::MAX_SUBJECT_SCAN;
use mailtrail_store::{ReadError, Store};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// One kind of lookup.
#[derive(Serialize, Deserialize)]
pub struct LookupResult {
    pub name: String,
    /// Sends that one lookup found, on average.
    pub found: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Every kind of lookup, for sends chosen at random.
pub fn measure_lookups(
    store: &Store,
    traffic: SyntheticTraffic,
    sends: u64,
) -> Result<Vec<LookupResult>, ReadError> {
    let middle = traffic.accepted_at(sends / 2);
    let (low, high) = (TrackingId::new(middle, 0), TrackingId::new(middle.saturating_add(ONE_HOUR), 0));
    let random = &mut fastrand::Rng::with_seed(sends);
    let end_of_time = Timestamp::from_millis(u64::MAX);
    Ok(vec![
        time_lookups("trail by tracking id", random, sends, |number| {
            load_trails(store, vec![traffic.tracking_id(number)])
        })?,
        time_lookups("trails by Message-ID", random, sends, |number| match traffic.message_id(number) {
            Some(message_id) => load_trails(store, store.find_by_message_id(&message_id, INDEX_PAGE_SIZE)?),
            None => Ok(0),
        })?,
        time_lookups("trails of a recipient with many, newest 50", random, sends, |number| {
            let address = format!("often{}@example.net", number % FREQUENT_RECIPIENTS);
            load_trails(store, store.find_by_recipient(&address, INDEX_PAGE_SIZE)?)
        })?,
        time_lookups("trails by Odoo record", random, sends, |number| match record_of(number) {
            Some(record) => load_trails(store, store.find_by_odoo_record(&record, INDEX_PAGE_SIZE)?),
            None => Ok(0),
        })?,
        time_lookups("a part of the subject that fits none", random, sends, |_| {
            Ok(store.find_by_subject("no subject", INDEX_PAGE_SIZE, MAX_SUBJECT_SCAN)?.0.len())
        })?,
        time_lookups("due, first 100", random, sends, |_| {
            let first = store.queue_ids()?.into_iter().next();
            first.map_or(Ok(0), |queue| Ok(store.lock_due(&queue, end_of_time, SCAN_SIZE)?.0.len()))
        })?,
        time_lookups("one hour, newest 100 sends", random, sends, |_| {
            let ids = store.ids_in_range(low, high, SCAN_SIZE)?;
            ids.into_iter()
                .try_fold(0, |found, id| Ok(found + usize::from(store.load_message(id)?.is_some())))
        })?,
    ])
}

fn load_trails(store: &Store, ids: Vec<TrackingId>) -> Result<usize, ReadError> {
    ids.into_iter().try_fold(0, |found, id| Ok(found + usize::from(store.load_trail(id)?.is_some())))
}

fn time_lookups(
    name: &str,
    random: &mut fastrand::Rng,
    sends: u64,
    lookup: impl Fn(u64) -> Result<usize, ReadError>,
) -> Result<LookupResult, ReadError> {
    let (mut waits, mut found) = (Vec::with_capacity(TIMED_LOOKUPS), 0);
    for time in 0..WARM_UP_LOOKUPS + TIMED_LOOKUPS {
        let number = random.u64(..sends);
        let begun = Instant::now();
        let sends = lookup(number)?;
        if time >= WARM_UP_LOOKUPS {
            waits.push(begun.elapsed());
            found += sends;
        }
    }
    Ok(LookupResult {
        name: name.to_owned(),
        found: found as f64 / TIMED_LOOKUPS as f64,
        p50_ms: to_milliseconds(percentile(&mut waits, 0.50)),
        p99_ms: to_milliseconds(percentile(&mut waits, 0.99)),
    })
}

/// Lookups of a kind that are timed.
const TIMED_LOOKUPS: usize = 1000;
/// Lookups of a kind before that.
const WARM_UP_LOOKUPS: usize = 100;
/// Sends of an index that are shown.
const INDEX_PAGE_SIZE: usize = 50;
/// Sends of a scan.
const SCAN_SIZE: usize = 100;
const ONE_HOUR: Duration = Duration::from_secs(3600);
