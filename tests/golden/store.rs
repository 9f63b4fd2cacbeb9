//! Stored files: a journal of records of every kind and version, and stores that earlier versions wrote. What the program says
//! about them stays the same, and so do the rows that it makes of them as long as their schema has the same number.

use crate::check::{bytes, check_all, directory, hex, journal};
use crate::program::Place;
use std::fmt::Write;
use std::path::Path;

#[test]
fn journal_with_every_kind_and_version_reads_the_same() {
    let place = Place::new(CONFIGURATION);
    write_journal(&place);
    let questions = [
        "log",
        "queue list",
        "queue show 01EJ67S3AR0000000000000007",
        "events list",
        "events orphans",
        "events dead",
        "events show 01EJ67WWDRKQKYY75BJKBYQ27R",
        "inbound list",
        "inbound dead",
        "inbound show 01EJ67XXM80000000000000055",
        "suppress list",
        "suppress check l-1@example.net",
        "suppress check nobody@example.net",
        "export ada@example.net",
        "erase --dry-run ada@example.net",
        "store verify",
    ];
    let mut said = String::new();
    for question in questions {
        said += &place.transcript(&format!("--json {question}"));
    }
    for by in ["day", "tag", "client", "domain", "upstream"] {
        said += &place.transcript(&format!(
            "--json stats --since 2020-09-14T00:00:00Z --until 2020-09-15T00:00:00Z --by {by}"
        ));
    }
    for local in RECIPIENTS.split(' ') {
        said += &place.transcript(&format!("--json trace {local}"));
    }
    check_all(&[("journal-read.txt", said), ("ledger.txt", rows(&place.data()))]);
}

#[test]
fn stores_of_earlier_versions_read_the_same() {
    let mut found = Vec::new();
    for (version, name) in
        [("1", "store-1.txt"), ("2", "store-2.txt"), ("3", "store-3.txt"), ("4", "store-4.txt")]
    {
        let place = Place::new(CONFIGURATION);
        copy(&directory().join("../fixtures/stores").join(version), &place.data());
        let mut said = String::new();
        for question in ["log", "events list", "inbound list", "suppress list", "store verify"] {
            said += &place.transcript(&format!("--json {question}"));
        }
        for address in ["delivered", "bounce", "defer-smtp", "ada"] {
            said += &place.transcript(&format!("--json trace {address}@example.net"));
        }
        found.push((name, said));
    }
    check_all(&found);
}

/// The rows of the ledger, by their keys, in hex.
fn rows(data: &Path) -> String {
    let ledger = sled::open(data.join("ledger/1")).unwrap();
    let mut rows = String::new();
    for row in ledger.iter() {
        let (key, value) = row.unwrap();
        let first = char::from(key[0]);
        writeln!(rows, "{first} {} {}", hex(&key[1..]), hex(&value)).unwrap();
    }
    rows
}

/// Writes the golden journal as the only segment of a store.
fn write_journal(place: &Place) {
    let mut segment = Vec::new();
    for line in journal() {
        let parts = if line[0] == "segment" { &line[1..] } else { &line[3..] };
        parts.iter().for_each(|part| segment.extend(bytes(part)));
    }
    std::fs::create_dir_all(place.data().join("journal")).unwrap();
    std::fs::write(place.data().join("journal/0000000001.seg"), segment).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}

/// A recipient of each mail in the journal.
const RECIPIENTS: &str = "ada@example.net cy@example.net dan@example.net failed@example.net eve@example.net retried@example.net \
                          held@example.net released@example.net bounced-by-hand@example.net deleted@example.net \
                          waiting@example.net deferred@example.net app@example.com";

const CONFIGURATION: &str = r#"
[server]
hostname = "relay.example.com"
data_dir = "data"
[admin]
socket = "admin.sock"
[[listener]]
address = "127.0.0.1:2525"
tls = "none"
auth = "none"
[[upstream]]
name = "mailgun"
provider = "mailgun"
domain = "mg.example.com"
username = "a"
password = "b"
"#;
