//! Changes to the header of a client's message: removes harmful fields, replaces unusable ones, and decodes unreadable
//! ones. Each change is listed in the trail; every other byte is kept.

use crate::submission::message_context::{HEADER_HEADROOM, MessageContext};
use mailtrail_mail::{
    HeaderField, HeaderSection, decode_list_unsubscribe, is_usable_author, is_usable_date,
    is_usable_message_id,
};
use mailtrail_trail::provider::TRACKING_ID_HEADER;
use std::ops::Range;

/// Fields that do not go out with a message.
pub struct RemovedFields {
    /// Ranges of the removed fields, in order.
    spans: Vec<Range<usize>>,
    /// Descriptions for the trail.
    changes: Vec<String>,
}

impl RemovedFields {
    /// Finds the fields to remove. An unusable field is removed only if there is another, or if one can be created: the
    /// author is the envelope sender.
    pub fn find_in(circumstances: &MessageContext<'_>, has_sender: bool, block: &HeaderSection<'_>) -> Self {
        let mut found = Self { spans: Vec::new(), changes: Vec::new() };
        let mut identifying = REQUIRED_FIELDS.map(RequiredField::new);
        for field in block.fields() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if circumstances.cleanup.drop_headers.iter().any(|name| is(name))
                || is_forbidden(circumstances, &field)
            {
                found.record_change(field.name, "removed");
                found.spans.push(field.span);
            } else if circumstances.cleanup.replace_unusable {
                identifying.iter_mut().filter(|known| is(known.name)).for_each(|known| known.inspect(&field));
            }
        }
        for RequiredField { name, has_usable, unusable_spans } in identifying {
            if !unusable_spans.is_empty() && (has_usable || name != FROM || has_sender) {
                found.record_change(name, if has_usable { "removed" } else { "replaced" });
                found.spans.extend(unusable_spans);
            }
        }
        found.spans.sort_unstable_by_key(|span| span.start);
        found
    }

    /// Total size of the removed fields.
    pub fn total_bytes(&self) -> usize {
        self.spans.iter().map(Range::len).sum()
    }

    /// Returns the changes for the trail.
    pub fn changes(&self, mbox_lines: bool) -> Vec<String> {
        let converted = mbox_lines.then(|| MBOX_CHANGE_TEXT.to_owned());
        converted.into_iter().chain(self.changes.iter().cloned()).collect()
    }

    /// Takes them out of the message.
    pub fn remove_from(self, buffer: &mut Vec<u8>) {
        if self.spans.is_empty() {
            return;
        }
        let (mut from, mut to) = (HEADER_HEADROOM, HEADER_HEADROOM);
        for span in self.spans {
            buffer.copy_within(from..HEADER_HEADROOM + span.start, to);
            to += HEADER_HEADROOM + span.start - from;
            from = HEADER_HEADROOM + span.end;
        }
        buffer.copy_within(from.., to);
        buffer.truncate(to + buffer.len() - from);
    }

    /// Our own id is not recorded: every message that passed the relay before has it.
    fn record_change(&mut self, name: &str, what: &str) {
        let name = &name[..name.len().min(MAX_FIELD_NAME_BYTES)];
        let change = format!("{name} {what}");
        let known = self.changes.iter().any(|known| known.eq_ignore_ascii_case(&change));
        if !known
            && self.changes.len() < MAX_RECORDED_CHANGES
            && !name.eq_ignore_ascii_case(TRACKING_ID_HEADER)
        {
            self.changes.push(change);
        }
    }
}

/// A field that every message has once.
struct RequiredField {
    name: &'static str,
    /// Whether one of the fields is usable.
    has_usable: bool,
    /// Ranges of the unusable fields.
    unusable_spans: Vec<Range<usize>>,
}

impl RequiredField {
    fn new(name: &'static str) -> Self {
        Self { name, has_usable: false, unusable_spans: Vec::new() }
    }

    fn inspect(&mut self, field: &HeaderField<'_>) {
        let usable = match self.name {
            FROM => is_usable_author(field.value),
            DATE => is_usable_date(&field.to_text()),
            _ => is_usable_message_id(&field.to_text()),
        };
        if usable {
            self.has_usable = true;
        } else {
            self.unusable_spans.push(field.span.clone());
        }
    }
}

/// Returns whether a field is a provider header that clients may not set, or an id that only the relay assigns.
fn is_forbidden(circumstances: &MessageContext<'_>, field: &HeaderField<'_>) -> bool {
    let allowed = circumstances.account.map_or(&[][..], |account| &account.allowed_request_headers);
    circumstances
        .providers
        .iter()
        .any(|provider| provider.is_forbidden_header(field, allowed, circumstances.now))
}

/// Converts the lines of a mailbox file in front of the header into fields, as Postfix does. Returns whether there were
/// any. If no header follows, the header ends there.
pub fn convert_mbox_lines(buffer: &mut Vec<u8>) -> bool {
    let block = HeaderSection::parse_after_mbox_lines(&buffer[HEADER_HEADROOM..]);
    let lines = block.mbox_lines();
    if lines.is_empty() {
        return false;
    }
    let mut fields = Vec::with_capacity(2 * lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        fields.extend_from_slice(MBOX_FIELD_PREFIX);
        fields.extend_from_slice(line);
    }
    if block.is_absent() {
        fields.extend_from_slice(b"\r\n");
    }
    let end = HEADER_HEADROOM + lines.len();
    buffer.splice(HEADER_HEADROOM..end, fields);
    true
}

/// Decodes Odoo's `List-Unsubscribe`, which is written in encoded words. Returns by how many bytes the header section,
/// which ends at `end`, becomes shorter.
pub fn rewrite_list_unsubscribe(
    circumstances: &MessageContext<'_>,
    end: usize,
    buffer: &mut Vec<u8>,
) -> Option<usize> {
    if !circumstances.cleanup.rewrite_list_unsubscribe {
        return None;
    }
    let (old, value) =
        find_encoded_list_unsubscribe(&HeaderSection::with_end(&buffer[HEADER_HEADROOM..], end))?;
    let saved = old.len().checked_sub(value.len())?;
    buffer.splice(HEADER_HEADROOM + old.start..HEADER_HEADROOM + old.end, value.into_bytes());
    Some(saved)
}

/// Finds an encoded `List-Unsubscribe` of Odoo, with its decoded value.
fn find_encoded_list_unsubscribe(block: &HeaderSection<'_>) -> Option<(Range<usize>, String)> {
    let mut fields = block.fields().filter(|field| field.name.eq_ignore_ascii_case("List-Unsubscribe"));
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let value = decode_list_unsubscribe(field.value).filter(|_| is_from_odoo(block))?;
    let start = field.span.start + memchr::memchr(b':', &block.as_bytes()[field.span])? + 1;
    Some((start..start + field.value.len(), format!(" {value}")))
}

/// Returns whether the header identifies Odoo as the origin.
fn is_from_odoo(block: &HeaderSection<'_>) -> bool {
    let by_id = || block.find_field("Message-ID").is_some_and(|field| field.to_text().contains("-openerp-"));
    block.find_field("X-Odoo-Objects").is_some() || by_id()
}

const MESSAGE_ID: &str = "Message-ID";
const DATE: &str = "Date";
const FROM: &str = "From";
const REQUIRED_FIELDS: [&str; 3] = [MESSAGE_ID, DATE, FROM];
const MBOX_FIELD_PREFIX: &[u8] = b"X-Mailbox-Line: ";
const MBOX_CHANGE_TEXT: &str = "From line of a mailbox file made X-Mailbox-Line";
/// Changes that the trail names.
const MAX_RECORDED_CHANGES: usize = 20;
/// Characters of a field's name there.
const MAX_FIELD_NAME_BYTES: usize = 60;
