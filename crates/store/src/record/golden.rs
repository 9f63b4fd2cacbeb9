//! Golden test of the encoded records, compared with `tests/golden`. The test program of that name compares their
//! decoded content.

use crate::golden::{bytes, check, hex, journal};
use crate::record::Record;
use std::fmt::Write;

/// Compares the present encoding of each kind and version, and the encoding with replaced strings.
#[test]
fn every_record_is_written_as_ever() {
    let mut written = String::new();
    for line in journal() {
        let [name, kind, version, _, head, _] = &line[..] else { continue };
        let (kind, version, head) = (kind.parse().unwrap(), version.parse().unwrap(), bytes(head));
        let record = Record::decode(kind, version, &head).unwrap();
        let now = record.encode();
        assert!(version < record.version() || now == head, "{name} is written as {}", hex(&now));
        // Names of variants are passed as strings, too, but are not part of the record.
        let is_there = |text: &str| memchr::memmem::find(&head, &with_length(text)).is_some();
        let mut texts = Vec::new();
        let other = record.map_strings(&mut |text| {
            let other = (!text.is_empty() && is_there(text)).then(|| format!("x{text}"));
            texts.extend(other.clone());
            other
        });
        let other = other.unwrap().map_or("-".to_owned(), |other| hex(&other));
        let (kind, version) = (record.kind(), record.version());
        writeln!(written, "{name} {kind} {version}\n    {}\n    {other}\n    {texts:?}", hex(&now)).unwrap();
    }
    check("journal-written.txt", &written);
}

fn with_length(text: &str) -> Vec<u8> {
    postcard::to_stdvec(text).unwrap()
}
