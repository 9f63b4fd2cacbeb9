//! Output of the commands: tables, trails, colours, JSON lines.

mod maintenance;
mod stdio;
mod table;
mod trail;

pub(crate) use maintenance::MaintenanceOutput;
pub(crate) use stdio::{eprint_line, print_json, print_line, write_stdout};
pub(crate) use table::{Style, format_table};
pub(crate) use trail::{format_operator, format_timeline_entry, print_trail};
