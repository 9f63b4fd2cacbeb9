//! The comparison of an output with its golden file. Unit tests of what is private include this file, too.
#![allow(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests of several crates, each with what it needs"
)]

use std::path::{Path, PathBuf};

/// The directory of the golden files, wherever the crate of the test lies.
pub fn directory() -> PathBuf {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("tests/golden"));
    above.find(|directory| directory.is_dir()).expect("tests/golden is above the crate")
}

/// Reads a golden file.
pub fn read(name: &str) -> String {
    std::fs::read_to_string(directory().join(name)).unwrap_or_default()
}

/// The golden segment of the journal: the words of each line. Those of a frame are its name, kind and version, and in hex its
/// header, its record and its body.
pub fn journal() -> Vec<Vec<String>> {
    let golden = read("journal.txt");
    let lines = golden.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// The bytes written so; `-` for none.
pub fn bytes(hex: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    if hex == "-" { Vec::new() } else { (0..hex.len()).step_by(2).map(pair).collect() }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fails, with the differences, unless each golden file has exactly the text beside its name. With `MAILTRAIL_GOLDEN=rewrite` in
/// the environment those files are written anew, and the test fails all the same.
pub fn check_all(found: &[(&str, String)]) {
    let is_rewritten = std::env::var("MAILTRAIL_GOLDEN").is_ok_and(|value| value == "rewrite");
    let mut differences = String::new();
    for (name, found) in found {
        let golden = read(name);
        if golden != *found {
            differences += &format!("tests/golden/{name}:\n{}", difference(&golden, found));
            if is_rewritten {
                std::fs::write(directory().join(name), found).expect("the golden file can be written");
            }
        }
    }
    let note = if is_rewritten { ", and was written anew: run the test again" } else { "" };
    assert!(differences.is_empty(), "something outside differs{note}; `-` golden, `+` found:\n{differences}");
}

/// The same for one file.
pub fn check(name: &str, found: &str) {
    check_all(&[(name, found.to_owned())]);
}

/// The lines that differ, each with its number; of long lines the part around the first difference.
fn difference(golden: &str, found: &str) -> String {
    let (mut golden, mut found) = (lines(golden), lines(found));
    let same = golden.iter().zip(&found).take_while(|(one, other)| one.1 == other.1).count();
    (golden, found) = (golden.split_off(same), found.split_off(same));
    while golden.last().map(|line| line.1).is_some_and(|line| found.last().is_some_and(|last| last.1 == line))
    {
        golden.pop();
        found.pop();
    }
    let start = match (golden.first(), found.first()) {
        (Some((_, one)), Some((_, other))) => {
            one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count().saturating_sub(60)
        }
        _ => 0,
    };
    let show = |sign: &str, lines: &[(usize, &str)]| {
        let shown = lines.iter().take(SHOWN_LINES);
        let shown = shown.map(|(number, line)| {
            let part: String = line.chars().skip(start).take(SHOWN_CHARACTERS).collect();
            format!("{sign}{number}: {}{part}\n", if start > 0 { "..." } else { "" })
        });
        let rest = lines.len().saturating_sub(SHOWN_LINES);
        shown.collect::<String>()
            + &if rest > 0 { format!("{sign} and {rest} lines\n") } else { String::new() }
    };
    show("-", &golden) + &show("+", &found)
}

fn lines(text: &str) -> Vec<(usize, &str)> {
    text.split('\n').enumerate().map(|(index, line)| (index + 1, line)).collect()
}

const SHOWN_LINES: usize = 20;
const SHOWN_CHARACTERS: usize = 300;
