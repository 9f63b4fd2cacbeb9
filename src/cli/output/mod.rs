//! Output on a terminal: tables and colours.

mod table;

pub(crate) use table::{Style, format_table};
