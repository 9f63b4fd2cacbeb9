//! Bounds of texts in rows; the full text stays in the journal.

/// Shortens a text to fit a row.
pub fn truncate(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

/// Maximum characters of a text in a row.
const MAX_TEXT_CHARS: usize = 512;
