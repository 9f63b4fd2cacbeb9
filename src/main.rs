//! The mailtrail command.
fn main() {}
