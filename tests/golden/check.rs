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
    let (golden, found): (Vec<_>, Vec<_>) = (golden.split('\n').collect(), found.split('\n').collect());
    let (mut at, mut other_at, mut shown, mut lines) = (0, 0, String::new(), 0);
    while at < golden.len() || other_at < found.len() {
        let (gone, come) = until_same(&golden[at..], &found[other_at..]);
        let start = match (gone, come) {
            (1.., 1..) => same_start(golden[at], found[other_at]).saturating_sub(60),
            _ => 0,
        };
        for (sign, lines, first, count) in [('-', &golden, at, gone), ('+', &found, other_at, come)] {
            for (index, line) in lines[first..first + count].iter().enumerate() {
                let part: String = line.chars().skip(start).take(SHOWN_CHARACTERS).collect();
                let dots = if start > 0 { "..." } else { "" };
                shown += &format!("{sign}{}: {dots}{part}\n", first + index + 1);
            }
        }
        lines += gone + come;
        if lines > SHOWN_LINES {
            return shown + "and more\n";
        }
        (at, other_at) = (at + gone + 1, other_at + come + 1);
    }
    shown
}

/// How many lines of each differ before the next one that is the same in both.
fn until_same(golden: &[&str], found: &[&str]) -> (usize, usize) {
    let most = golden.len() + found.len();
    let places = (0..most).flat_map(|sum| (0..=sum).map(move |gone| (gone, sum - gone)));
    let mut same =
        places.filter(|(gone, come)| golden.get(*gone).is_some_and(|line| found.get(*come) == Some(line)));
    same.next().unwrap_or((golden.len(), found.len()))
}

fn same_start(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

/// Of one file.
const SHOWN_LINES: usize = 40;
/// Of one line.
const SHOWN_CHARACTERS: usize = 300;
