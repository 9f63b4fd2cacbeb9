//! What has to be true of the rows, looked at without trusting who keeps it so.

use crate::journal::Place;
use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::memtable::starting_with;
use crate::ledger::rows::{QueuedRow, SendRow, WaitsRow, decode};
use crate::usage::Waiting;
use crate::{Audit, Stray};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::Waits;
use std::collections::HashMap;
use std::ops::Bound::{Excluded, Included};

impl Projection {
    /// Looks at the queue: what is in it although it should not be, or was accepted before `before`.
    pub fn audit_queue(&self, before: Timestamp, audit: &mut Audit) -> sled::Result<()> {
        for row in self.rows().prefixed(b"q") {
            let (key, value) = row?;
            let Some((_, at, id)) = keys::read_due(&key) else { continue };
            audit.queued += 1;
            if id.timestamp() < before {
                audit.overdue.push(id);
            }
            let place = decode::<WaitsRow>(&value).map(|waits| QueuedRow { due: at.millis(), waits });
            let known = self.rows().get(&keys::send(id))?.and_then(|row| decode::<SendRow>(&row));
            // Between two looks a send may have moved on.
            if known.is_none_or(|row| row.queued != place) && self.rows().has(&key)? {
                audit.strays.push(Stray::InTheQueue(id));
            }
        }
        Ok(())
    }

    /// What waits, by what it waits for.
    pub fn waiting(&self) -> sled::Result<Vec<(Waits, Waiting)>> {
        let mut waiting = HashMap::<sled::IVec, Waiting>::new();
        for row in self.rows().prefixed(b"q") {
            let (key, value) = row?;
            let Some((.., id)) = keys::read_due(&key) else { continue };
            let oldest = id.timestamp();
            let all = waiting.entry(value).or_insert(Waiting { sends: 0, oldest });
            *all = Waiting { sends: all.sends + 1, oldest: all.oldest.min(oldest) };
        }
        let waits = |(value, all): (sled::IVec, _)| Some((decode::<WaitsRow>(&value)?.into(), all));
        Ok(waiting.into_iter().filter_map(waits).collect())
    }

    /// Looks at `limit` sends behind `from`: those that are open and not in the queue. Says where to go on, or `None` at
    /// the end.
    pub fn audit_sends(
        &self,
        from: Option<TrackingId>,
        limit: usize,
        audit: &mut Audit,
    ) -> sled::Result<Option<TrackingId>> {
        let start = from.map_or_else(|| Included(b"m".into()), |id| Excluded(keys::send(id).into()));
        let mut last = None;
        for row in self.rows().range((start, starting_with(b"m").1)).take(limit) {
            let (key, value) = row?;
            let Some(id) = keys::read_id(&key) else { continue };
            last = Some(id);
            match decode::<SendRow>(&value) {
                None => audit.strays.push(Stray::Unreadable(id)),
                // Between two looks a send may have moved on.
                Some(row) if !self.is_at_rest(id, &row)? => {
                    let again = self.send(id)?.map(|(_, row)| self.is_at_rest(id, &row)).transpose()?;
                    audit.strays.extend((again == Some(false)).then_some(Stray::Forgotten(id)));
                }
                Some(_) => {}
            }
        }
        Ok(last)
    }

    /// Tells of every send whose row can be read: where its record lies, and whether it waits.
    pub fn places(&self, mut each: impl FnMut(TrackingId, Place, bool)) -> sled::Result<()> {
        for row in self.rows().prefixed(b"m") {
            if let Some(row) = decode::<SendRow>(&row?.1) {
                each(row.send.id(), row.place, row.queued.is_some());
            }
        }
        Ok(())
    }

    /// Whether a send is in the queue where its row says so, or has come to its end.
    fn is_at_rest(&self, id: TrackingId, row: &SendRow) -> sled::Result<bool> {
        match &row.queued {
            Some(queued) => self.rows().has(&queued.key(row.send.lane(), id)),
            None => Ok(!self.recipients(id, row)?.iter().any(|one| one.is_open())),
        }
    }
}
