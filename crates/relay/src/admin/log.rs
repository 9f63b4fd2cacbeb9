use crate::log_line::LogLine;
use mailtrail_mail::{Timestamp, address_contains};
use mailtrail_net::odoo::OdooInstance;
use mailtrail_store::{LogCursor, LogEntry, ReadError, Store};
use mailtrail_trail::{RecipientState, Trail};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Filter of log lines; all given conditions must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogFilter {
    /// Maximum number of lines; the newest are returned.
    pub lines: Option<usize>,
    /// Earliest time of writing, milliseconds since the epoch.
    pub since: Option<u64>,
    /// Latest time of writing, milliseconds since the epoch.
    pub until: Option<u64>,
    /// Part of a recipient's address.
    pub to: Option<String>,
    /// Part of the sender's address.
    pub from: Option<String>,
    /// Word of an event, or current state of a recipient of the message.
    pub status: Option<String>,
    /// Tag.
    pub tag: Option<String>,
    /// Client label.
    pub client: Option<String>,
    /// Name of an upstream.
    pub upstream: Option<String>,
    /// Regular expression that matches the line's JSON.
    pub grep: Option<String>,
    /// Cursor after which lines are returned.
    pub after: Option<String>,
}

/// Log lines and the cursor after them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogResponse {
    /// Lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Cursor for [`LogFilter::after`].
    pub cursor: String,
}

/// Returns the matching log lines; `odoo_instances` are used for links to records.
pub fn query_log(
    store: &Store,
    filter: &LogFilter,
    odoo_instances: &[OdooInstance],
) -> Result<LogResponse, ReadError> {
    let pattern = filter.grep.as_deref().map(regex::Regex::new).transpose();
    let matcher = LogQuery { store, filter, odoo_instances, pattern: pattern.unwrap_or_default() };
    match filter.after.as_deref().and_then(|cursor| cursor.parse().ok()) {
        Some(cursor) => matcher.read_after(cursor),
        None => matcher.read_newest(),
    }
}

struct LogQuery<'a> {
    store: &'a Store,
    filter: &'a LogFilter,
    odoo_instances: &'a [OdooInstance],
    pattern: Option<regex::Regex>,
}

impl LogQuery<'_> {
    fn read_after(&self, cursor: LogCursor) -> Result<LogResponse, ReadError> {
        let (entries, cursor) = self.store.log_after(cursor)?;
        let mut lines = Vec::new();
        for entry in entries {
            lines.extend(self.to_line(&entry)?);
        }
        Ok(LogResponse { lines, cursor: cursor.to_string() })
    }

    /// Reads the segments from the newest to the oldest, until there are enough lines or the records are
    /// too old.
    fn read_newest(&self) -> Result<LogResponse, ReadError> {
        let cursor = self.store.log_end()?;
        let (wanted, since) = (self.filter.lines.unwrap_or(usize::MAX), self.since());
        let mut lines = VecDeque::new();
        let mut newer_began = Timestamp::from_millis(u64::MAX);
        for (segment, began) in self.store.log_segments()?.into_iter().rev() {
            if lines.len() >= wanted || newer_began < since {
                break;
            }
            newer_began = began;
            for entry in self.store.log_in_segment(segment)?.into_iter().rev() {
                if lines.len() >= wanted {
                    break;
                }
                if let Some(line) = self.to_line(&entry)? {
                    lines.push_front(line);
                }
            }
        }
        Ok(LogResponse { lines: lines.into(), cursor: cursor.to_string() })
    }

    fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.filter.since.unwrap_or(0))
    }

    fn to_line(&self, entry: &LogEntry) -> Result<Option<LogLine>, ReadError> {
        let until = Timestamp::from_millis(self.filter.until.unwrap_or(u64::MAX));
        if entry.recorded_at < self.since() || entry.recorded_at > until {
            return Ok(None);
        }
        let trail = match entry.tracking_id {
            Some(id) => self.store.load_trail(id)?,
            None => None,
        };
        let mut line = LogLine::new(entry, trail.as_ref());
        line.record_url = trail.as_ref().and_then(|trail| record_url(self.odoo_instances, trail));
        let fits = self.matches(&line, trail.as_ref()) && self.matches_pattern(&line);
        Ok(fits.then_some(line))
    }

    fn matches(&self, line: &LogLine, trail: Option<&Trail>) -> bool {
        let filter = self.filter;
        let part = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| address_contains(found, wanted))
        };
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        part(&filter.from, line.from.as_deref().unwrap_or_default())
            && same(&filter.client, &line.client)
            && same(&filter.upstream, &line.entry.upstream)
            && filter.tag.as_ref().is_none_or(|tag| line.tags.contains(tag))
            && filter
                .to
                .as_ref()
                .is_none_or(|_| affected_recipients(line, trail).any(|address| part(&filter.to, &address)))
            && filter
                .status
                .as_ref()
                .is_none_or(|status| *status == line.entry.event || has_state(trail, status))
    }

    fn matches_pattern(&self, line: &LogLine) -> bool {
        let text = || serde_json::to_string(line).unwrap_or_default();
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&text()))
    }
}

/// Returns the URL of the Odoo record that a message is about.
pub(super) fn record_url(places: &[OdooInstance], trail: &Trail) -> Option<String> {
    places.iter().find_map(|place| place.record_url(&trail.message))
}

fn affected_recipients(line: &LogLine, trail: Option<&Trail>) -> impl Iterator<Item = String> {
    let all = trail.filter(|_| line.entry.recipients.is_empty()).map_or(&[][..], |trail| &trail.recipients);
    let all: Vec<_> = all.iter().map(|recipient| recipient.address.to_string()).collect();
    line.entry.recipients.clone().into_iter().chain(all)
}

fn has_state(trail: Option<&Trail>, word: &str) -> bool {
    let states = trail.into_iter().flat_map(|trail| &trail.recipients).map(mailtrail_trail::Recipient::state);
    states.map(RecipientState::as_str).any(|state| state == word)
}
