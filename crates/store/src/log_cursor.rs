//! Cursor of the log.

use crate::position::Position;

/// Position of a log reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor(pub(crate) Position);

impl std::fmt::Display for LogCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.segment, self.0.offset)
    }
}

/// The text is no log cursor.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a cursor is two numbers with a dot between them")]
pub struct ParseLogCursorError;

impl std::str::FromStr for LogCursor {
    type Err = ParseLogCursorError;

    fn from_str(text: &str) -> Result<Self, ParseLogCursorError> {
        let (segment, offset) = text.split_once('.').ok_or(ParseLogCursorError)?;
        let number = |_| ParseLogCursorError;
        Ok(Self(Position {
            segment: segment.parse().map_err(number)?,
            offset: offset.parse().map_err(number)?,
        }))
    }
}
