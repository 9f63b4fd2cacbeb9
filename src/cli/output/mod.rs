//! Output on a terminal: tables and colours.

mod table;

pub(crate) use table::{Paint, table};
