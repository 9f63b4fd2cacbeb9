//! `mailtrail setup`: what others need before mailtrail can work with them.

mod odoo;
mod webhooks;

use crate::cli::{CliError, Context, print_json, print_line};
use mailtrail_trail::provider::Provider;
use serde_json::Value;

#[derive(Debug, clap::Subcommand)]
pub enum SetupCommand {
    /// Register webhooks for all events at Mailgun; other webhooks stay
    #[command(after_help = "Example: mailtrail setup mailgun --url https://relay.example.com --dry-run")]
    Mailgun(webhooks::SetupWebhooksArgs),
    /// Have Brevo tell this relay every kind of event, with the token as it is configured; the webhooks of others stay as
    /// they are
    #[command(after_help = "Example: mailtrail setup brevo --url https://relay.example.com --dry-run")]
    Brevo(webhooks::SetupWebhooksArgs),
    /// Create or update the server actions in Odoo and the group that may run them
    #[command(
        after_help = "Example: mailtrail setup odoo --login admin --user mailtrail@example.com --dry-run"
    )]
    Odoo(odoo::SetupOdooArgs),
}

pub async fn run(context: &Context, command: &SetupCommand) -> Result<(), CliError> {
    match command {
        SetupCommand::Mailgun(arguments) => webhooks::run(context, Provider::Mailgun, arguments).await,
        SetupCommand::Brevo(arguments) => webhooks::run(context, Provider::Brevo, arguments).await,
        SetupCommand::Odoo(arguments) => odoo::run(context, arguments).await,
    }
}

/// Says what was done, or would be: `done`, `what` and `id`; people get the `more` that is known about it.
fn print_change(as_json: bool, dry_run: bool, told: &Value, more: &str) {
    if as_json {
        let mut told = told.clone();
        told["dry_run"] = dry_run.into();
        return print_json(&told);
    }
    let word = |key: &str| told[key].as_str().unwrap_or_default();
    let number = told["id"].as_u64().map(|id| format!(" {id}")).unwrap_or_default();
    let changes = !matches!(word("done"), "kept" | "not there");
    let only = if dry_run && changes { "would be " } else { "" };
    print_line(format!("{only}{}: {}{number} ({more})", word("done"), word("what")));
}
