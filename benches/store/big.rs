//! One big store: its size, its memory, its opening, its lookups.

use crate::child::{ChildProcess, ChildRole, LoadResult, OpenResult};
use crate::measure::{disk_usage, markdown_table, to_mib};
use std::io;
use std::path::Path;
use tempfile::TempDir;

/// Fills a store in one process, kills that, and opens the store in others.
pub fn measure_large_store(sends: u64) -> io::Result<String> {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (journal, ledger) = (folder.path().join("journal"), folder.path().join("ledger"));
    let mut process = ChildProcess::start(ChildRole::Load, folder.path(), &[("--sends", sends)])?;
    let loaded: LoadResult = process.read_report()?;
    process.sigkill()?;
    let sizes = format!(
        "One store of {sends} sends, loaded in {:.0} s ({:.0}/s) with {:.0} MiB RSS (at most {:.0}). \
         On disk after kill -9: journal {:.0} MiB, ledger {:.0} MiB.",
        loaded.seconds,
        sends as f64 / loaded.seconds,
        loaded.rss_mib,
        loaded.peak_mib,
        to_mib(disk_usage(&journal)?),
        to_mib(disk_usage(&ledger)?),
    );
    eprintln!("{sizes}");
    let killed = open_in_child(folder.path(), sends)?;
    let again = open_in_child(folder.path(), sends)?;
    std::fs::remove_dir_all(&ledger)?;
    let rebuilt = open_in_child(folder.path(), sends)?;
    let rebuilt_size = format!("The rebuilt ledger has {:.0} MiB.", to_mib(disk_usage(&ledger)?));
    Ok(format!("{sizes}\n{rebuilt_size}\n\n{}", compare_openings(&[killed, again, rebuilt])))
}

fn open_in_child(directory: &Path, sends: u64) -> io::Result<OpenResult> {
    let mut process = ChildProcess::start(ChildRole::Open, directory, &[("--sends", sends)])?;
    let opened: OpenResult = process.read_report()?;
    process.wait()?;
    eprintln!("opened in {:.2} s, {} records replayed", opened.seconds, opened.replayed);
    if let Some(reason) = &opened.rebuilt {
        eprintln!("the ledger was rebuilt: {reason}");
    }
    Ok(opened)
}

fn compare_openings(openings: &[OpenResult; 3]) -> String {
    let row = |name: &str, goal: &str, cell: &dyn Fn(&OpenResult) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(openings.iter().map(cell));
        row.push(goal.to_owned());
        row
    };
    let mut rows = vec![
        row("open, s", "≤ 3; rebuild ≤ 90", &|opened| format!("{:.2}", opened.seconds)),
        row("records replayed", "", &|opened| opened.replayed.to_string()),
        row("RSS when open, MiB", "≤ 400 MB", &|opened| format!("{:.0}", opened.rss_mib)),
        row("RSS at most until then, MiB", "≤ 400 MB", &|opened| format!("{:.0}", opened.peak_mib)),
        row("RSS after the lookups, MiB", "≤ 400 MB", &|opened| format!("{:.0}", opened.rss_after_mib)),
    ];
    for (kind, lookup) in openings[0].lookups.iter().enumerate() {
        let name = format!("{}: p50 / p99 ms ({:.0} found)", lookup.name, lookup.found);
        rows.push(row(&name, "p99 < 5", &|opened| {
            let lookup = &opened.lookups[kind];
            format!("{:.3} / {:.3}", lookup.p50_ms, lookup.p99_ms)
        }));
    }
    markdown_table(&["", "after kill -9", "after a stop", "ledger lost", "goal at 1 M"], &rows)
}
