//! Output of a change at a provider or in Odoo.

use crate::cli::{print_json, print_line};
use serde_json::Value;

/// Prints a change, made or planned: `done`, `what` and `id`. Text output adds `more`.
pub fn print_change(as_json: bool, dry_run: bool, told: &Value, more: &str) {
    if as_json {
        let mut told = told.clone();
        told["dry_run"] = dry_run.into();
        return print_json(&told);
    }
    let word = |key: &str| told[key].as_str().unwrap_or_default();
    let number = told["id"].as_u64().map(|id| format!(" {id}")).unwrap_or_default();
    let changes = !matches!(word("done"), "kept" | "not there");
    let only = if dry_run && changes { "would be " } else { "" };
    print_line(format!("{only}{}: {}{number} ({more})", word("done"), word("what")));
}
