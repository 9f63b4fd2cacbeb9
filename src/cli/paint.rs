use crate::doctor::Status;

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

/// Rows in columns of equal width on a terminal, with tabs between the cells elsewhere.
pub fn table(header: &[&str], rows: &[Vec<String>], terminal: bool) -> Vec<String> {
    if !terminal {
        return rows.iter().map(|row| row.join("\t")).collect();
    }
    let header = header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect()
}
