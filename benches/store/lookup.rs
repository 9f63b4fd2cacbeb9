//! How long lookups take in a store that is in use.

use crate::measure::{milliseconds, percentile};
use crate::traffic::{OFTEN, Traffic, record};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_relay::admin::SUBJECTS;
use mailtrail_store::{ReadError, Store};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// One kind of lookup.
#[derive(Serialize, Deserialize)]
pub struct Lookup {
    pub name: String,
    /// Sends that one lookup found, on average.
    pub found: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Every kind of lookup, for sends chosen at random.
pub fn measure(store: &Store, traffic: Traffic, sends: u64) -> Result<Vec<Lookup>, ReadError> {
    let middle = traffic.at(sends / 2);
    let (low, high) = (TrackingId::new(middle, 0), TrackingId::new(middle.after(HOUR), 0));
    let random = &mut fastrand::Rng::with_seed(sends);
    let end_of_time = Timestamp::from_millis(u64::MAX);
    Ok(vec![
        timed("trail by tracking id", random, sends, |number| trails(store, vec![traffic.id(number)]))?,
        timed("trails by Message-ID", random, sends, |number| match traffic.message_id(number) {
            Some(message_id) => trails(store, store.by_message_id(&message_id, NEWEST)?),
            None => Ok(0),
        })?,
        timed("trails of a recipient with many, newest 50", random, sends, |number| {
            let address = format!("often{}@example.net", number % OFTEN);
            trails(store, store.by_recipient(&address, NEWEST)?)
        })?,
        timed("trails by Odoo record", random, sends, |number| match record(number) {
            Some(record) => trails(store, store.by_record(&record, NEWEST)?),
            None => Ok(0),
        })?,
        timed("a part of the subject that fits none", random, sends, |_| {
            Ok(store.by_subject("no subject", NEWEST, SUBJECTS)?.0.len())
        })?,
        timed("due, first 100", random, sends, |_| {
            let first = store.queues()?.into_iter().next();
            first.map_or(Ok(0), |queue| Ok(store.take_due(&queue, end_of_time, SCANNED)?.0.len()))
        })?,
        timed("one hour, newest 100 sends", random, sends, |_| {
            let ids = store.between(low, high, SCANNED)?;
            ids.into_iter().try_fold(0, |found, id| Ok(found + usize::from(store.send(id)?.is_some())))
        })?,
    ])
}

fn trails(store: &Store, ids: Vec<TrackingId>) -> Result<usize, ReadError> {
    ids.into_iter().try_fold(0, |found, id| Ok(found + usize::from(store.trail(id)?.is_some())))
}

fn timed(
    name: &str,
    random: &mut fastrand::Rng,
    sends: u64,
    lookup: impl Fn(u64) -> Result<usize, ReadError>,
) -> Result<Lookup, ReadError> {
    let (mut waits, mut found) = (Vec::with_capacity(TIMES), 0);
    for time in 0..WARM_UP + TIMES {
        let number = random.u64(..sends);
        let begun = Instant::now();
        let sends = lookup(number)?;
        if time >= WARM_UP {
            waits.push(begun.elapsed());
            found += sends;
        }
    }
    Ok(Lookup {
        name: name.to_owned(),
        found: found as f64 / TIMES as f64,
        p50_ms: milliseconds(percentile(&mut waits, 0.50)),
        p99_ms: milliseconds(percentile(&mut waits, 0.99)),
    })
}

/// Lookups of a kind that are timed.
const TIMES: usize = 1000;
/// Lookups of a kind before that.
const WARM_UP: usize = 100;
/// Sends of an index that are shown.
const NEWEST: usize = 50;
/// Sends of a scan.
const SCANNED: usize = 100;
const HOUR: Duration = Duration::from_secs(3600);
