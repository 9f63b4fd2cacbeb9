//! Imports point down: the rows in the doc of `src/lib.rs`, enforced.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper may fail the test")]

use std::collections::BTreeMap;
use std::path::Path;

const LIB: &str = include_str!("../src/lib.rs");

#[test]
fn imports_point_down() {
    let files = sources();
    assert!(files.len() > 80, "only {} files were found", files.len());
    assert_eq!(faults(&rows(LIB), &files), [""; 0]);
}

#[test]
fn every_module_has_a_row_and_no_more() {
    let rows = rows(LIB);
    for module in LIB.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(rows.contains_key(module), "{module} stands in no row");
    }
    assert!(rows["clock"] < rows["mail"] && rows["store"] < rows["queue"] && rows["daemon"] < rows["main"]);
}

#[test]
fn an_edge_upward_or_within_a_row_is_seen() {
    let rows = rows(LIB);
    for (path, text, to) in [
        ("store/mod.rs", "use crate::queue::Queue;", "queue"),
        ("admin/router.rs", "use crate::queue::Queue;", "queue"),
        ("queue/work.rs", "use crate::{clock::Clock, submission::Front};", "submission"),
        ("mail/address.rs", "use crate::{\n    clock::{Clock, Timestamp},\n    id::TrackingId,\n};", "id"),
        ("clock.rs", "fn f() -> Option<crate::id::TrackingId> { None }", "id"),
        ("provider/mod.rs", "pub use super::smtp::Response;", "smtp"),
        ("store/sled/read.rs", "use super::super::super::webhook::Inbox;", "webhook"),
        ("config/user.rs", "use mailtrail::cli::Cli;", "cli"),
        ("tls.rs", "use ::mailtrail::{ daemon };", "daemon"),
        ("event.rs", "use crate::nowhere::Thing;", "nowhere"),
        ("event.rs", "use crate::*;", "*"),
    ] {
        let found = faults(&rows, &[(path.to_owned(), text.to_owned())]);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(&format!("`{to}`")), "{found:?}");
    }
}

#[test]
fn what_is_no_edge_upward_is_let_through() {
    let rows = rows(LIB);
    for (path, text) in [
        ("queue/work.rs", "use crate::{clock::Clock, store::{Store, Job}, queue::Retry};"),
        (
            "store/mod.rs",
            "// crate::queue takes from here\n//! [`x`](crate::queue::Queue)\n/// crate::daemon",
        ),
        ("store/sled/read.rs", "use super::super::webhook;\npub(crate) fn f() {}"),
        ("store/sled/read.rs", "use super::keys;\nuse crate::store::journal::Place;"),
        ("main.rs", "use mailtrail::cli;"),
        ("lib.rs", "pub mod cli;"),
    ] {
        assert_eq!(faults(&rows, &[(path.to_owned(), text.to_owned())]), [""; 0], "{path}: {text}");
    }
    let stranger = faults(&rows, &[("novelty.rs".to_owned(), String::new())]);
    assert_eq!(stranger, ["src/novelty.rs: `novelty` stands in no row of src/lib.rs"]);
}

/// Module → number of its row, from the table in the crate's doc.
fn rows(lib: &str) -> BTreeMap<String, usize> {
    let table = lib.lines().filter_map(|line| line.strip_prefix("//! |"));
    let named = table.filter_map(|line| line.split('|').nth(1)).filter(|cell| cell.contains('`'));
    let mut rows = BTreeMap::new();
    for (number, cell) in named.enumerate() {
        for module in cell.split(',').map(|word| word.trim().trim_matches('`')) {
            assert_eq!(rows.insert(module.to_owned(), number), None, "{module} stands in two rows");
        }
    }
    assert!(rows.len() > 15, "the table in src/lib.rs cannot be read: {rows:?}");
    rows
}

/// What breaks the rule, one line each. Files are paths below `src` with their text.
fn faults(rows: &BTreeMap<String, usize>, files: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path != "lib.rs") {
        let names = module_path(path);
        let Some(row) = rows.get(names[0]) else {
            faults.push(format!("src/{path}: `{}` stands in no row of src/lib.rs", names[0]));
            continue;
        };
        for module in imports(rows, &names, text).into_iter().filter(|module| module != names[0]) {
            match rows.get(&module) {
                Some(other) if other < row => {}
                Some(_) => faults.push(format!("src/{path} imports `{module}`, which stands no lower")),
                None => faults.push(format!("src/{path} imports `{module}`, which stands in no row")),
            }
        }
    }
    faults
}

/// `store/sled/read.rs` → store, sled, read.
fn module_path(path: &str) -> Vec<&str> {
    let path = path.strip_suffix("/mod.rs").or(path.strip_suffix(".rs")).unwrap_or(path);
    path.split('/').collect()
}

/// The modules of the crate's root that a file names.
fn imports(rows: &BTreeMap<String, usize>, names: &[&str], text: &str) -> Vec<String> {
    let code: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let up = "super::".repeat(names.len());
    let mut modules: Vec<String> = Vec::new();
    for prefix in ["crate::", "mailtrail::", up.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            // `super::super::` ends a longer way up, and `x_crate::` is somebody else's.
            let whole = !before.is_alphanumeric() && before != '_' && !(prefix == up && before == ':');
            if whole {
                // In an inline module the same way up ends one floor below the root.
                let heads = heads(&code[at + prefix.len()..]).into_iter();
                modules.extend(heads.filter(|name| prefix != up || rows.contains_key(name)));
            }
        }
    }
    modules.sort();
    modules.dedup();
    modules
}

/// The first names of a path, or of each path in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |path: &str| -> String {
        path.trim_start().chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '*')).collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts.iter().map(|part| name(part)).filter(|name| !name.is_empty()).collect()
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut directories) = (Vec::new(), vec![root.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push((name, text));
            }
        }
    }
    files
}
