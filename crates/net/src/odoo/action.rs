//! Server actions of mailtrail in a database, and the lookup of their ids.
//!
//! An integration user may run an action by its id, but may not search for it: Odoo permits that to administrators
//! only. So `mailtrail setup odoo` writes the ids into the comment of the group that may run the actions, which every
//! internal user may read.

use crate::odoo::client::OdooClient;
use crate::odoo::error::OdooError;
use serde_json::{Value, json};

/// A server action that `mailtrail setup odoo` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAction {
    /// Keyword of the action in the group's comment.
    pub key: &'static str,
    /// Its name in Odoo.
    pub name: &'static str,
    /// The code that it runs.
    pub code: &'static str,
    /// The version that the code names in its first line and in its answers.
    pub version: u64,
}

/// The action that hands mail from outside to the mail gateway.
pub const INBOUND_ACTION: ServerAction = ServerAction {
    key: "inbound",
    name: "mailtrail: mail from outside",
    code: include_str!("inbound_action.py"),
    version: 1,
};

/// Name of the group whose members may run the actions.
pub const GROUP_NAME: &str = "mailtrail: tells what became of the mail";

/// Writes the group's comment: the numbers of the actions that are there.
pub fn format_group_comment(numbers: &[(&str, u64)]) -> String {
    let numbers: Vec<_> = numbers.iter().map(|(key, number)| format!("{key}={number}")).collect();
    format!("{GROUP_COMMENT_PREFIX}{}", numbers.join(" "))
}

/// Reads the number of an action from the group's comment.
pub fn parse_action_id(comment: &str, key: &str) -> Option<u64> {
    let (_, numbers) = comment.split_once(GROUP_COMMENT_PREFIX)?;
    let number = |word: &str| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok();
    numbers.split_whitespace().find_map(number)
}

/// Finds the number of an action. `None`: it was not made, or by an earlier version of mailtrail.
pub async fn find_action_id(client: &mut OdooClient, key: &str) -> Result<Option<u64>, OdooError> {
    let domain = json!([[["name", "=", GROUP_NAME]]]);
    let groups =
        client.call_method("res.groups", "search_read", domain, json!({ "fields": ["comment"] })).await?;
    let comments = groups.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let mut numbers = comments.filter_map(|group| parse_action_id(group["comment"].as_str()?, key));
    Ok(numbers.next())
}

/// Runs a server action with `context`.
pub async fn run_action(client: &mut OdooClient, number: u64, context: Value) -> Result<Value, OdooError> {
    client.call_method("ir.actions.server", "run", json!([[number]]), json!({ "context": context })).await
}

/// Text in front of the ids.
const GROUP_COMMENT_PREFIX: &str = "Made by `mailtrail setup odoo`, which finds its server actions here: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_comment_round_trips() {
        let comment = format_group_comment(&[("events", 420), ("inbound", 42)]);
        assert_eq!(parse_action_id(&comment, "events"), Some(420));
        assert_eq!(parse_action_id(&comment, "inbound"), Some(42));
        assert_eq!(parse_action_id(&format!("Mind this.\n{comment} \nThank you."), "inbound"), Some(42));
        for other in ["", "events=1", &format_group_comment(&[]), &format_group_comment(&[("inbounds", 1)])] {
            assert_eq!(parse_action_id(other, "inbound"), None, "{other}");
        }
        let first = INBOUND_ACTION.code.lines().next().unwrap();
        assert!(first.contains(&format!("action, version {}:", INBOUND_ACTION.version)), "{first}");
        assert!(INBOUND_ACTION.code.contains(&format!("'version': {}, 'record'", INBOUND_ACTION.version)));
    }
}
