//! What is changed in the header of a client's mail: what would harm goes out, what says nothing is replaced, what nobody
//! could read is written plainly. Each change is said in the trail, and every other byte stays as it came.

use crate::submission::cleanup::{Circumstances, HEADROOM};
use mailtrail_mail::{
    Header, HeaderBlock, is_usable_author, is_usable_date, is_usable_message_id, repaired_unsubscribe,
};
use mailtrail_trail::provider::OWN_ID_HEADER;
use std::ops::Range;

/// Fields that do not go out with a message.
pub struct Unwanted {
    /// Where they stand, in their order.
    spans: Vec<Range<usize>>,
    /// What the trail says about them.
    changes: Vec<String>,
}

impl Unwanted {
    /// Finds them in the header. One that says nothing goes only if there is another, or one can be made: the author is the
    /// envelope's sender.
    pub fn find(circumstances: &Circumstances<'_>, has_sender: bool, block: &HeaderBlock<'_>) -> Self {
        let mut found = Self { spans: Vec::new(), changes: Vec::new() };
        let mut identifying = IDENTIFYING.map(Identifying::new);
        for field in block.fields() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if circumstances.cleanup.drop_headers.iter().any(|name| is(name))
                || is_foreign(circumstances, &field)
            {
                found.note(field.name, "removed");
                found.spans.push(field.span);
            } else if circumstances.cleanup.replace_unusable {
                identifying.iter_mut().filter(|known| is(known.name)).for_each(|known| known.see(&field));
            }
        }
        for Identifying { name, usable, unusable } in identifying {
            if !unusable.is_empty() && (usable || name != AUTHOR || has_sender) {
                found.note(name, if usable { "removed" } else { "replaced" });
                found.spans.extend(unusable);
            }
        }
        found.spans.sort_unstable_by_key(|span| span.start);
        found
    }

    /// Bytes of them.
    pub fn len(&self) -> usize {
        self.spans.iter().map(Range::len).sum()
    }

    /// What the trail says, if anything.
    pub fn changes(&self, mbox_lines: bool) -> Vec<String> {
        let converted = mbox_lines.then(|| MBOX_CHANGE.to_owned());
        converted.into_iter().chain(self.changes.iter().cloned()).collect()
    }

    /// Takes them out of the message.
    pub fn take_out(self, buffer: &mut Vec<u8>) {
        if self.spans.is_empty() {
            return;
        }
        let (mut from, mut to) = (HEADROOM, HEADROOM);
        for span in self.spans {
            buffer.copy_within(from..HEADROOM + span.start, to);
            to += HEADROOM + span.start - from;
            from = HEADROOM + span.end;
        }
        buffer.copy_within(from.., to);
        buffer.truncate(to + buffer.len() - from);
    }

    /// Our own id is not worth a word: it is on all mail that was here before.
    fn note(&mut self, name: &str, what: &str) {
        let name = &name[..name.len().min(NAME)];
        let change = format!("{name} {what}");
        let known = self.changes.iter().any(|known| known.eq_ignore_ascii_case(&change));
        if !known && self.changes.len() < CHANGES && !name.eq_ignore_ascii_case(OWN_ID_HEADER) {
            self.changes.push(change);
        }
    }
}

/// A field that every message has once.
struct Identifying {
    name: &'static str,
    /// Whether one of them says something.
    usable: bool,
    /// Where those stand that say nothing.
    unusable: Vec<Range<usize>>,
}

impl Identifying {
    fn new(name: &'static str) -> Self {
        Self { name, usable: false, unusable: Vec::new() }
    }

    fn see(&mut self, field: &Header<'_>) {
        let usable = match self.name {
            AUTHOR => is_usable_author(field.value),
            DATE => is_usable_date(&field.text()),
            _ => is_usable_message_id(&field.text()),
        };
        if usable {
            self.usable = true;
        } else {
            self.unusable.push(field.span.clone());
        }
    }
}

/// Whether a field says what clients may not say to a provider, or is an id that only we give.
fn is_foreign(circumstances: &Circumstances<'_>, field: &Header<'_>) -> bool {
    let allowed = circumstances.account.map_or(&[][..], |account| &account.request_headers);
    circumstances.providers.iter().any(|provider| provider.is_foreign(field, allowed, circumstances.now))
}

/// Makes fields of the lines of a mailbox file that stand in front of the header, as Postfix does; whether there are some.
/// Where no header follows them, theirs ends there.
pub fn convert_mbox_lines(buffer: &mut Vec<u8>) -> bool {
    let block = HeaderBlock::behind_mbox_lines(&buffer[HEADROOM..]);
    let lines = block.mbox_lines();
    if lines.is_empty() {
        return false;
    }
    let mut fields = Vec::with_capacity(2 * lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        fields.extend_from_slice(MBOX_FIELD);
        fields.extend_from_slice(line);
    }
    if block.is_missing() {
        fields.extend_from_slice(b"\r\n");
    }
    let end = HEADROOM + lines.len();
    buffer.splice(HEADROOM..end, fields);
    true
}

/// Writes Odoo's `List-Unsubscribe` plainly, which stands in encoded words; says by how many bytes the header section,
/// which ends at `end`, is shorter then.
pub fn repair(circumstances: &Circumstances<'_>, end: usize, buffer: &mut Vec<u8>) -> Option<usize> {
    if !circumstances.cleanup.repair {
        return None;
    }
    let (old, value) = unreadable(&HeaderBlock::ending(&buffer[HEADROOM..], end))?;
    let saved = old.len().checked_sub(value.len())?;
    buffer.splice(HEADROOM + old.start..HEADROOM + old.end, value.into_bytes());
    Some(saved)
}

/// The value of a `List-Unsubscribe` of Odoo's that nobody can read, and what it should be.
fn unreadable(block: &HeaderBlock<'_>) -> Option<(Range<usize>, String)> {
    let mut fields = block.fields().filter(|field| field.name.eq_ignore_ascii_case("List-Unsubscribe"));
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let value = repaired_unsubscribe(field.value).filter(|_| is_odoo(block))?;
    let start = field.span.start + memchr::memchr(b':', &block.bytes()[field.span])? + 1;
    Some((start..start + field.value.len(), format!(" {value}")))
}

/// Whether a mail says that Odoo made it.
fn is_odoo(block: &HeaderBlock<'_>) -> bool {
    let by_id = || block.first("Message-ID").is_some_and(|field| field.text().contains("-openerp-"));
    block.first("X-Odoo-Objects").is_some() || by_id()
}

const MESSAGE_ID: &str = "Message-ID";
const DATE: &str = "Date";
const AUTHOR: &str = "From";
const IDENTIFYING: [&str; 3] = [MESSAGE_ID, DATE, AUTHOR];
const MBOX_FIELD: &[u8] = b"X-Mailbox-Line: ";
const MBOX_CHANGE: &str = "From line of a mailbox file made X-Mailbox-Line";
/// Changes that the trail names.
const CHANGES: usize = 20;
/// Characters of a field's name there.
const NAME: usize = 60;
