use crate::doctor::CheckStatus;
use mailtrail_mail::{Timestamp, TrackingId};
use std::ops::Range;
use terminal_size::{Width, terminal_size};

/// Text style: coloured or plain.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    is_enabled: bool,
}

impl Style {
    /// Style with or without colours.
    pub fn new(is_enabled: bool) -> Self {
        Self { is_enabled }
    }

    /// Emphasized text.
    pub fn bold(self, text: &str) -> String {
        self.apply_ansi("1", text)
    }

    /// Text of lower importance.
    pub fn dim(self, text: &str) -> String {
        self.apply_ansi("2", text)
    }

    /// Colours `padded` by the state or event `word`.
    pub fn color_state(self, word: &str, padded: &str) -> String {
        let code = match word {
            "delivered" | "opened" | "clicked" => "32",
            "bounced" | "failed" | "expired" | "cancelled" | "complained" | "suppressed" => "31",
            "deferred" | "unknown" | "queued" | "held" | "sending" | "unsubscribed" => "33",
            _ => "36",
        };
        self.apply_ansi(code, padded)
    }

    /// Colours `padded` by the status of a check.
    pub fn color_status(self, status: CheckStatus, padded: &str) -> String {
        let code = match status {
            CheckStatus::Ok => "32",
            CheckStatus::Warn | CheckStatus::Unknown => "33",
            CheckStatus::Fail => "31",
        };
        self.apply_ansi(code, padded)
    }

    fn apply_ansi(self, code: &str, text: &str) -> String {
        if self.is_enabled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Formats a table. On a terminal: columns within its width; elsewhere: cells separated by tabs. On a narrow terminal,
/// texts are cut, but never numbers, ids and times; a row without enough room continues on a second line.
pub fn format_table(header: &[&str], rows: &[Vec<String>], terminal: bool) -> Vec<String> {
    if !terminal {
        return rows.iter().map(|row| row.join("\t")).collect();
    }
    let width = terminal_size().map(|(Width(width), _)| usize::from(width));
    layout_columns(header, rows, width.unwrap_or(usize::MAX))
}

fn layout_columns(header: &[&str], rows: &[Vec<String>], most: usize) -> Vec<String> {
    let header = header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let all = || std::iter::once(&header).chain(rows);
    let cells = |column: usize| all().filter_map(move |row| row.get(column));
    let width = |column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let mut widths: Vec<_> = (0..header.len()).map(width).collect();
    // The first column identifies the row, so it is never cut.
    let stays = |column| column == 0 || cells(column).any(|cell| is_unbreakable(cell));
    let least =
        |(column, width): (usize, &usize)| if stays(column) { *width } else { MIN_COLUMN_WIDTH.min(*width) };
    let least: Vec<_> = widths.iter().enumerate().map(least).collect();
    let lines = wrap_columns(&least, most);
    for line in &lines {
        shrink_to_fit(
            &mut widths[line.clone()],
            &least[line.clone()],
            most.saturating_sub(line_indent(line)),
        );
    }
    let shown = |row: &Vec<String>, line: &Range<usize>| {
        let cells = row.iter().zip(&widths).skip(line.start).take(line.len());
        let cells = cells.map(|(cell, width)| format!("{:<width$}", truncate(cell, *width)));
        let text = format!(
            "{:indent$}{}",
            "",
            cells.collect::<Vec<_>>().join(COLUMN_GAP),
            indent = line_indent(line)
        );
        text.trim_end().to_owned()
    };
    let text = all().flat_map(|row| lines.iter().map(|line| shown(row, line)).collect::<Vec<_>>());
    text.filter(|line| !line.is_empty()).collect()
}

/// Whether a cell must not be cut: a number, an id or a time.
fn is_unbreakable(cell: &str) -> bool {
    let is_number = cell.parse::<u64>().is_ok();
    is_number || cell.parse::<TrackingId>().is_ok() || Timestamp::parse_rfc3339(cell).is_some()
}

/// Distributes the columns over as few lines as their minimum widths allow.
fn wrap_columns(least: &[usize], most: usize) -> Vec<Range<usize>> {
    let (mut lines, mut start, mut used) = (Vec::new(), 0, 0);
    for (column, width) in least.iter().enumerate() {
        if column > start && used + COLUMN_GAP.len() + width > most {
            lines.push(start..column);
            (start, used) = (column, CONTINUATION_INDENT);
        }
        used += width + if column > start { COLUMN_GAP.len() } else { 0 };
    }
    lines.push(start..least.len());
    lines
}

/// Indentation of the second and later lines of a row.
fn line_indent(line: &Range<usize>) -> usize {
    if line.start == 0 { 0 } else { CONTINUATION_INDENT }
}

/// Shrinks the widest columns, down to their `least` widths, until the line fits.
fn shrink_to_fit(widths: &mut [usize], least: &[usize], most: usize) {
    let gaps = COLUMN_GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > most {
        let wide = widths.iter_mut().zip(least).filter(|(width, least)| **width > **least);
        let Some((widest, _)) = wide.max_by_key(|(width, _)| **width) else { return };
        *widest -= 1;
    }
}

/// Cuts a cell to the width of its column.
fn truncate(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

const COLUMN_GAP: &str = "  ";
const CONTINUATION_INDENT: usize = 4;
/// Minimum width of a cut column, in characters.
const MIN_COLUMN_WIDTH: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinks_widest_columns_first() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows =
            [row(["01K54Z8Q3V", "ada.lovelace@example.net", "held"]), row(["01K54Z8Q3W", "b@ü.net", ""])];
        let lines = |most| layout_columns(&["ID", "TO", "STATE"], &rows, most);
        let whole = [
            "ID          TO                        STATE",
            "01K54Z8Q3V  ada.lovelace@example.net  held",
            "01K54Z8Q3W  b@ü.net",
        ];
        assert_eq!(lines(43), whole);
        assert_eq!(
            lines(30),
            ["ID          TO           STATE", "01K54Z8Q3V  ada.lovela…  held", "01K54Z8Q3W  b@ü.net"]
        );
        // On a narrower terminal, a row takes several lines.
        assert_eq!(lines(21)[2..], ["01K54Z8Q3V  ada.love…", "    held", "01K54Z8Q3W  b@ü.net"]);
        assert_eq!(lines(1)[3..6], ["01K54Z8Q3V", "    ada.l…", "    held"]);
    }

    #[test]
    fn never_truncates_ids_and_times() {
        let (id, time) = ("01K54Z8Q3V7N5X9B2C6D8F0GHJ", "2026-09-14T12:00:00.000Z");
        let rows =
            [[id, "queued", "a.long.name@example.net", time, ""], [id, "held", "b@example.net", "", time]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        for most in 1..140 {
            let lines = layout_columns(&["ID", "STATE", "TO", "NEXT", "UNTIL"], &rows, most);
            let text = lines.join("\n");
            assert_eq!((text.matches(id).count(), text.matches(time).count()), (2, 2), "{most}: {text}");
            let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= most.max(CONTINUATION_INDENT + id.len()), "{most}: {text}");
        }
    }
}
