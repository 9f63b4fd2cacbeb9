//! `mailtrail setup`: registers webhooks at the provider and installs the server actions in Odoo.

mod change;
mod odoo;
mod webhooks;

use crate::cli::{CliError, Context};
use mailtrail_trail::provider::Provider;

#[derive(Debug, clap::Subcommand)]
pub enum SetupCommand {
    /// Register webhooks for all events at Mailgun; other webhooks stay
    #[command(after_help = "Example: mailtrail setup mailgun --url https://relay.example.com --dry-run")]
    Mailgun(webhooks::SetupWebhooksArgs),
    /// Register a webhook for all events at Brevo, with the configured token; other webhooks stay
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
