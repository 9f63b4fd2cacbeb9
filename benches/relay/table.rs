//! What was measured, for people and for programs.

use crate::measure::{Column, Figures};
use serde_json::{Value, json};
use std::fmt::Write;

/// One table.
pub struct ResultTable {
    columns: &'static [Column],
    rows: Vec<ResultRow>,
}

/// One load, and what each relay made of it.
struct ResultRow {
    label: String,
    relays: Vec<(&'static str, Vec<Figures>)>,
}

impl ResultTable {
    /// An empty table.
    pub fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether its columns are these.
    pub fn has_columns(&self, columns: &[Column]) -> bool {
        self.columns == columns
    }

    /// Adds one run.
    pub fn add_run(&mut self, label: &str, relay: &'static str, figures: Figures) {
        let row = match self.rows.iter().position(|row| row.label == label) {
            Some(place) => &mut self.rows[place],
            None => {
                self.rows.push(ResultRow { label: label.to_owned(), relays: Vec::new() });
                self.rows.last_mut().expect("one was just pushed")
            }
        };
        match row.relays.iter_mut().find(|(name, _)| *name == relay) {
            Some((_, runs)) => runs.push(figures),
            None => row.relays.push((relay, vec![figures])),
        }
    }

    /// Medians of the runs, and the ratio of the first relay to the second.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| load | relay |");
        for (_, title, _) in self.columns {
            let _ = write!(text, " {title} |");
        }
        text += "\n|---|---|";
        text += &"--:|".repeat(self.columns.len());
        for row in &self.rows {
            let medians: Vec<_> =
                row.relays.iter().map(|(name, runs)| (*name, column_medians(runs))).collect();
            for (name, figures) in &medians {
                let values = figures.iter().zip(self.columns);
                write_row(
                    &mut text,
                    &row.label,
                    name,
                    values.map(|(value, (.., digits))| format!("{value:.digits$}")),
                );
            }
            if let [(_, ours), (name, theirs)] = medians.as_slice() {
                let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| format!("×{:.2}", ours / theirs));
                write_row(&mut text, &row.label, &format!("ratio to {name}"), ratios);
            }
        }
        text
    }

    /// One line a row with what matters, ours over theirs; nothing where only one relay was measured.
    pub fn to_summary(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let [(_, ours), (name, theirs)] = &row.relays[..] else { continue };
            let (ours, theirs) = (column_medians(ours), column_medians(theirs));
            if text.is_empty() {
                let _ = write!(
                    text,
                    "| load | mailtrail accepted/s | relayed/s | {name} relayed/s | relayed | p50 | p99 | CPU | peak PSS |\n\
                     |---|--:|--:|--:|--:|--:|--:|--:|--:|"
                );
            }
            let at = |key| self.columns.iter().position(|(known, ..)| *known == key).unwrap_or_default();
            let (accepted, relayed) = (at("accepted_per_s"), at("relayed_per_s"));
            let rates = [ours[accepted], ours[relayed], theirs[relayed]].map(format_thousands);
            let keys = ["relayed_per_s", "wait_p50_ms", "wait_p99_ms", "cpu_ms_per_message", "pss_peak_mib"];
            let ratios = keys.map(|key| format_ratio(ours[at(key)] / theirs[at(key)]));
            let _ = write!(text, "\n| {} | {} | {} |", row.label, rates.join(" | "), ratios.join(" | "));
        }
        text
    }

    /// Every run.
    pub fn to_json(&self) -> Vec<Value> {
        let mut lines = Vec::new();
        for row in &self.rows {
            for (relay, runs) in &row.relays {
                for (run, figures) in runs.iter().enumerate() {
                    let mut line = json!({ "load": row.label, "relay": relay, "run": run });
                    for (value, (key, ..)) in figures.iter().zip(self.columns) {
                        line[key] = json!(value);
                    }
                    lines.push(line);
                }
            }
        }
        lines
    }
}

/// Two digits that count.
fn format_ratio(value: f64) -> String {
    let digits = if value < 1.0 { 2 } else { 1 };
    format!("×{value:.digits$}")
}

fn format_thousands(value: f64) -> String {
    let whole = value.round() as u64;
    if whole < 1000 { whole.to_string() } else { format!("{},{:03}", whole / 1000, whole % 1000) }
}

fn write_row(text: &mut String, label: &str, relay: &str, values: impl Iterator<Item = String>) {
    let _ = write!(text, "\n| {label} | {relay} |");
    for value in values {
        let _ = write!(text, " {value} |");
    }
}

fn column_medians(runs: &[Figures]) -> Figures {
    let columns = runs.first().map_or(0, Vec::len);
    let median = |column: usize| {
        let mut values: Vec<f64> = runs.iter().map(|figures| figures[column]).collect();
        values.sort_unstable_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    };
    (0..columns).map(median).collect()
}
