//! Server actions of mailtrail's in a database, and how their numbers are found.
//!
//! An integration user may run an action when it knows the number, and may not search for it: Odoo refuses that to all
//! but administrators. So `mailtrail setup odoo` writes the numbers into the comment of the group whose members may run
//! the actions, which every internal user may read.

use crate::odoo::client::Client;
use crate::odoo::error::Fault;
use serde_json::{Value, json};

/// A server action that `mailtrail setup odoo` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The word for it in the group's comment.
    pub key: &'static str,
    /// Its name in Odoo.
    pub name: &'static str,
    /// The code that it runs.
    pub code: &'static str,
    /// The version that the code names in its first line and in its answers.
    pub version: u64,
}

/// The action that hands mail from outside to the mail gateway.
pub const INBOUND: Action = Action {
    key: "inbound",
    name: "mailtrail: mail from outside",
    code: include_str!("inbound_action.py"),
    version: 1,
};

/// The group whose members may run the actions.
pub const GROUP_NAME: &str = "mailtrail: tells what became of the mail";

/// Writes the group's comment: the numbers of the actions that are there.
pub fn write_comment(numbers: &[(&str, u64)]) -> String {
    let numbers: Vec<_> = numbers.iter().map(|(key, number)| format!("{key}={number}")).collect();
    format!("{COMMENT}{}", numbers.join(" "))
}

/// Reads the number of an action from the group's comment.
pub fn read_comment(comment: &str, key: &str) -> Option<u64> {
    let (_, numbers) = comment.split_once(COMMENT)?;
    let number = |word: &str| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok();
    numbers.split_whitespace().find_map(number)
}

/// Finds the number of an action. `None`: it was not made, or by an earlier version of mailtrail.
pub async fn find_number(client: &mut Client, key: &str) -> Result<Option<u64>, Fault> {
    let domain = json!([[["name", "=", GROUP_NAME]]]);
    let groups = client.call("res.groups", "search_read", domain, json!({ "fields": ["comment"] })).await?;
    let comments = groups.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let mut numbers = comments.filter_map(|group| read_comment(group["comment"].as_str()?, key));
    Ok(numbers.next())
}

/// Runs a server action with what it is to find in its context.
pub async fn run(client: &mut Client, number: u64, context: Value) -> Result<Value, Fault> {
    client.call("ir.actions.server", "run", json!([[number]]), json!({ "context": context })).await
}

/// What stands in front of the numbers.
const COMMENT: &str = "Made by `mailtrail setup odoo`, which finds its server actions here: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        let comment = write_comment(&[("events", 420), ("inbound", 42)]);
        assert_eq!(read_comment(&comment, "events"), Some(420));
        assert_eq!(read_comment(&comment, "inbound"), Some(42));
        assert_eq!(read_comment(&format!("Mind this.\n{comment} \nThank you."), "inbound"), Some(42));
        for other in ["", "events=1", &write_comment(&[]), &write_comment(&[("inbounds", 1)])] {
            assert_eq!(read_comment(other, "inbound"), None, "{other}");
        }
        let first = INBOUND.code.lines().next().unwrap();
        assert!(first.contains(&format!("action, version {}:", INBOUND.version)), "{first}");
        assert!(INBOUND.code.contains(&format!("'version': {}, 'record'", INBOUND.version)));
    }
}
