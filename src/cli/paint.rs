use crate::doctor::Status;
use terminal_size::{Width, terminal_size};

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    coloured: bool,
}

impl Paint {
    /// Colours or none.
    pub fn new(coloured: bool) -> Self {
        Self { coloured }
    }

    /// What the eye looks for first.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What matters less.
    pub fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A state or event in the colour of its news.
    pub fn state(self, word: &str, padded: &str) -> String {
        let code = match word {
            "delivered" | "opened" | "clicked" => "32",
            "bounced" | "failed" | "expired" | "cancelled" | "complained" | "suppressed" => "31",
            "deferred" | "unknown" | "queued" | "held" | "sending" | "unsubscribed" => "33",
            _ => "36",
        };
        self.wrap(code, padded)
    }

    /// How something stands.
    pub fn status(self, status: Status, padded: &str) -> String {
        let code = match status {
            Status::Ok => "32",
            Status::Warn | Status::Unknown => "33",
            Status::Fail => "31",
        };
        self.wrap(code, padded)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Rows in columns of equal width on a terminal, as wide as that is, with tabs between the cells elsewhere.
pub fn table(header: &[&str], rows: &[Vec<String>], terminal: bool) -> Vec<String> {
    if !terminal {
        return rows.iter().map(|row| row.join("\t")).collect();
    }
    let width = terminal_size().map(|(Width(width), _)| usize::from(width));
    columns(header, rows, width.unwrap_or(usize::MAX))
}

fn columns(header: &[&str], rows: &[Vec<String>], most: usize) -> Vec<String> {
    let header = header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<_> = (0..header.len()).map(width).collect();
    fit(&mut widths, most);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", cut(cell, *width)));
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    all().map(line).collect()
}

/// Takes from the widest columns until a row fits. The first is what a row is called by, and stays whole.
fn fit(widths: &mut [usize], most: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > most {
        let Some(widest) = widths.iter_mut().skip(1).max().filter(|widest| **widest > NARROW) else { return };
        *widest -= 1;
    }
}

/// A cell that fits its column.
fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

const GAP: &str = "  ";
/// Characters of the narrowest column: with fewer it says nothing, and a terminal that is smaller breaks the lines.
const NARROW: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_columns_make_room() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows =
            [row(["01K54Z8Q3V", "ada.lovelace@example.net", "held"]), row(["01K54Z8Q3W", "b@ü.net", ""])];
        let lines = |most| columns(&["ID", "TO", "STATE"], &rows, most);
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
        // Smaller than that it cannot be.
        assert_eq!(lines(1)[1], "01K54Z8Q3V  ad…  he…");
    }
}
