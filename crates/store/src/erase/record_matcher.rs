//! Finds and rewrites the records that mention an address.

use crate::erase::address_matcher::AddressMatcher;
use crate::erase::error::EraseError;
use crate::journal::{Frame, Retain, Segment};
use crate::record::Record;
use mailtrail_mail::Mailbox;
use std::io;

/// Creates the matcher of an address.
pub fn address_matcher(address: &Mailbox) -> Result<AddressMatcher, EraseError> {
    AddressMatcher::new(address).ok_or_else(|| EraseError::NoDomain(address.to_string()))
}

/// Matcher of an address, with the pseudonym that replaces it.
pub struct RecordMatcher<'a> {
    pub matcher: &'a AddressMatcher,
    pub pseudonym: &'a str,
}

impl RecordMatcher<'_> {
    /// Returns the part of a record to retain.
    pub fn evaluate_frame(&self, frame: &Frame, segment: &Segment) -> io::Result<Retain> {
        if self.matcher.may_match(&frame.payload)
            && let Some(kept) = self.rewrite_record(frame)?
        {
            return Ok(kept);
        }
        if frame.body_length == 0 {
            return Ok(Retain::All);
        }
        let body = frame.body_extent();
        let mut bytes = vec![0; body.length as usize];
        segment.read_exact_at(&mut bytes, body.start)?;
        Ok(if self.matcher.matches(&bytes) { Retain::DropBody } else { Retain::All })
    }

    fn rewrite_record(&self, frame: &Frame) -> io::Result<Option<Retain>> {
        let record = Record::decode(frame.kind, frame.version, &frame.payload).map_err(io::Error::other)?;
        let changed = record.map_strings(&mut |text| self.matcher.replace(text, self.pseudonym));
        let changed = changed.map_err(io::Error::other)?;
        Ok(changed.map(|payload| Retain::Replace { version: record.version(), payload }))
    }
}
