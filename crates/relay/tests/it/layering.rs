//! The tasks of `mailtrail-relay` meet only in the store: none imports another. The compiler enforces the crates.

use std::path::{Path, PathBuf};

const TASKS: [&str; 12] = [
    "admin",
    "alarms::notifier",
    "dsn_reporter",
    "inbound",
    "monitoring::consistency",
    "monitoring::heartbeat",
    "monitoring::queue_gauges",
    "monitoring::thresholds",
    "queue",
    "reconcile",
    "sink",
    "submission",
];

/// Imports of one task by another, as `module: imported path`.
fn forbidden_imports(module: &str, text: &str) -> Vec<String> {
    let is_within = |path: &str, task: &str| path == task || path.starts_with(&format!("{task}::"));
    let Some(own) = TASKS.iter().chain(&["webhook"]).find(|task| is_within(module, task)) else {
        return Vec::new();
    };
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let paths = code.split("crate::").skip(1).map(|rest| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    paths
        .filter(|path| TASKS.iter().chain(&["webhook"]).any(|task| task != own && is_within(path, task)))
        .map(|path| format!("{module}: {path}"))
        .collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn tasks_import_no_other_task() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root).into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs"));
    let mut forbidden = Vec::new();
    let mut seen = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().with_extension("");
        let module = relative.to_str().unwrap().replace('/', "::");
        let module = module.trim_end_matches("::mod");
        forbidden.extend(forbidden_imports(module, &std::fs::read_to_string(&file).unwrap()));
        seen.push(module.to_owned());
    }
    assert_eq!(forbidden, [""; 0]);
    for task in TASKS {
        assert!(seen.iter().any(|module| module == task), "{task} is not a module any more");
    }
}

#[test]
fn reports_an_import_of_another_task() {
    assert_eq!(
        forbidden_imports("queue::retry", "use crate::submission::Listener;"),
        ["queue::retry: submission::Listener"]
    );
    assert_eq!(forbidden_imports("webhook", "fn f(_: crate::sink::Item) {}"), ["webhook: sink::Item"]);
    assert_eq!(forbidden_imports("queue", "use crate::queue::retry::Retry;\n// crate::sink::Item"), [""; 0]);
    assert_eq!(forbidden_imports("queue", "use crate::alarms::AlarmRegistry;"), [""; 0]);
}
