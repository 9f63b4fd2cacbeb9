//! The suppression list as CSV (RFC 4180). Exported files can be imported.

use mailtrail_relay::admin::{SuppressionEntry, SuppressionView, UNKNOWN_TIME};
use std::io::{self, Read};

/// Parses a CSV file into entries, each with its line number. The error lists all faults.
pub fn read_csv(source: impl Read) -> Result<Vec<(u64, SuppressionEntry)>, String> {
    let mut reader = csv::ReaderBuilder::new().from_reader(source);
    let header = reader.headers().map_err(|error| format!("line 1: {error}"))?.clone();
    let places = ColumnMap::from_header(&header)?;
    let (mut entries, mut bad) = (Vec::new(), Vec::new());
    for record in reader.records() {
        match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                entries.push((line, places.to_entry(&record)));
            }
            Err(error) => bad.push(format_csv_error(&error)),
        }
    }
    if !bad.is_empty() {
        return Err(format_bad_lines(&bad));
    }
    if entries.is_empty() { Err("the file holds no entries".to_owned()) } else { Ok(entries) }
}

/// Formats the errors of invalid lines.
pub fn format_bad_lines(bad: &[String]) -> String {
    let shown: Vec<_> = bad.iter().take(MAX_REPORTED_ERRORS).map(String::as_str).collect();
    let more = bad.len().saturating_sub(MAX_REPORTED_ERRORS);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    format!("nothing is imported, these lines are bad:\n{}{more}", shown.join("\n"))
}

fn format_csv_error(error: &csv::Error) -> String {
    let line = error.position().map_or(0, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("line {line}: has {len} fields, the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => format!("line {line}: is not UTF-8"),
        _ => format!("line {line}: {error}"),
    }
}

/// Formats entries as CSV.
pub fn write_csv(entries: &[SuppressionView]) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMN_NAMES)?;
    for entry in entries {
        writer.write_record([
            &entry.address,
            entry.upstream.as_deref().unwrap_or_default(),
            &entry.reason,
            &entry.scope,
            &format_times(&entry.times),
            &entry.source,
            entry.expires.as_deref().unwrap_or_default(),
            &entry.words,
        ])?;
    }
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// Index of each known column.
struct ColumnMap([Option<usize>; COLUMN_NAMES.len()]);

impl ColumnMap {
    fn from_header(header: &csv::StringRecord) -> Result<Self, String> {
        let mut places = [None; COLUMN_NAMES.len()];
        for (place, name) in header.iter().enumerate() {
            // Excel starts its files with a byte order mark.
            let name = name.trim_start_matches('\u{feff}').trim();
            let known = COLUMN_NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
            let column =
                known.ok_or_else(|| format!("line 1: no column is called {name:?}; {IMPORT_HELP}"))?;
            if places[column].replace(place).is_some() {
                return Err(format!("line 1: duplicate column {name:?}"));
            }
        }
        if places[0].is_none() {
            return Err(format!("line 1: the column \"address\" is missing; {IMPORT_HELP}"));
        }
        Ok(Self(places))
    }

    fn to_entry(&self, record: &csv::StringRecord) -> SuppressionEntry {
        let text = |column: usize| self.0[column].and_then(|place| record.get(place)).unwrap_or_default();
        let some = |column: usize| Some(text(column).trim().to_owned()).filter(|text| !text.is_empty());
        SuppressionEntry {
            address: text(0).trim().to_owned(),
            upstream: some(1),
            reason: some(2),
            scope: some(3),
            times: text(4).split_whitespace().map(str::to_owned).collect(),
            source: Some(some(5).unwrap_or_else(|| "import".to_owned())),
            expires: some(6),
            words: text(7).to_owned(),
        }
    }
}

/// Times in the local time zone mean nothing in a file, so `today` and the like are rejected.
fn format_times(times: &[String]) -> String {
    if times.is_empty() { UNKNOWN_TIME.to_owned() } else { times.join(" ") }
}

const COLUMN_NAMES: [&str; 8] =
    ["address", "upstream", "reason", "scope", "times", "source", "expires", "words"];

/// Format of the file, for the help.
pub const IMPORT_HELP: &str = "The first line names the columns, in any order: address; and optionally upstream (empty: all), reason \
(complaint, hard-bounce, manual, unsubscribe, soft-bounce; default manual), scope (all, bulk), times (RFC 3339, several \
separated by spaces, or unknown; default now), source (default import), expires (RFC 3339), words.";

/// Maximum number of reported lines.
const MAX_REPORTED_ERRORS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_entries() {
        let view = |address: &str, words: &str, upstream: Option<&str>| SuppressionView {
            address: address.into(),
            upstream: upstream.map(str::to_owned),
            reason: "hard-bounce".into(),
            state: "suppressed".into(),
            scope: "all".into(),
            until: None,
            times: vec!["2026-09-14T12:00:00.001Z".into(), "2026-09-15T12:00:00.000Z".into()],
            source: "webhook".into(),
            expires: None,
            words: words.into(),
        };
        let views = [
            view("\"a, b\"@example.net", " 550 \"no\",\nnever; =1+1", Some("mailgun")),
            view("jiří@example.net", "", None),
        ];
        let sheet = write_csv(&views).unwrap();
        let entries = read_csv(&sheet[..]).unwrap();
        assert_eq!(entries.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4]);
        for ((_, entry), view) in entries.iter().zip(&views) {
            assert_eq!(
                (&entry.address, &entry.words, &entry.times),
                (&view.address, &view.words, &view.times)
            );
            assert_eq!((&entry.upstream, entry.source.as_ref()), (&view.upstream, Some(&view.source)));
        }
    }

    #[test]
    fn reports_errors_with_line_numbers() {
        for (text, said) in [
            ("", "line 1: the column \"address\" is missing"),
            ("email\na@b.c\n", "line 1: no column is called \"email\""),
            ("address,words\na@b.c,x\nb@b.c\n", "line 3: has 1 fields, the header has 2"),
            ("address,ADDRESS\na,b\n", "line 1: duplicate column \"ADDRESS\""),
            ("address\n", "the file holds no entries"),
        ] {
            let error = read_csv(text.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        let (_, entry) = &read_csv("\u{feff}Words,Address\r\nx, a@b.c \r\n".as_bytes()).unwrap()[0];
        assert_eq!((&*entry.address, &*entry.words), ("a@b.c", "x"));
    }
}
