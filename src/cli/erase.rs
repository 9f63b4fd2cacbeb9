//! Erases an address from all stored data: in the daemon while it runs, otherwise in this process.

use crate::cli::admin_client::{AdminClient, operator_name};
use crate::cli::output::MaintenanceOutput;
use crate::cli::{CliError, Context};
use mailtrail_mail::Clock;
use mailtrail_relay::admin;
use mailtrail_relay::admin::EraseRequest;

#[derive(Debug, clap::Args)]
pub struct EraseArgs {
    /// Address to erase
    address: String,
    /// Reason; stored with the operator, without the address
    #[arg(long, default_value = "")]
    reason: String,
    /// Only list the matches
    #[arg(long)]
    dry_run: bool,
}

pub const AFTER_HELP: &str = "\
Afterwards no file below data_dir holds the address: neither journal nor ledger nor provider
payloads, in any spelling. Trails, events, log and statistics
stay, with a pseudonym in its place, whose key is discarded; by domain it counts as `invalid`.
Message bodies and raw payloads that mention it are removed. The relay keeps running.

A queued message that mentions it blocks the erasure: let it be sent, or delete it with
`queue delete --reason`. If the address was on the suppression list, mail to it stays suppressed:
the list holds a keyed hash of it, with the key in the store. With the store one can
test addresses against that hash; `suppress remove ADDRESS` removes it, too.

Not covered: other addresses of the same person, such as ada+news@…; a name or a local part alone
in a subject or an error text; a Message-ID that contains it (1.ada@…); the hashes that identify
events and duplicates; data received later (a late event names it again: run the command again);
backups, the program's log, files of sinks, the data of Odoo and the provider, and blocks of removed
files on the disk. `suppress sync` brings it back if it is on the provider's list: erase it
there first. Sinks receive outstanding events with the pseudonym.

If it is interrupted, nothing is lost: run it again to continue.

Example: mailtrail erase ada@example.net --reason 'asked for by letter of 3 March'";

pub async fn run(context: &Context, arguments: &EraseArgs) -> Result<(), CliError> {
    let order = EraseRequest {
        address: arguments.address.trim().to_owned(),
        reason: arguments.reason.clone(),
        dry_run: arguments.dry_run,
    };
    let mut page = MaintenanceOutput::new(context);
    let client = if order.dry_run {
        AdminClient::open(context).await?
    } else {
        AdminClient::open_for_writing(context).await?
    };
    page.start_progress(if order.dry_run { "searching the journal" } else { "erasing the address" });
    match &client {
        AdminClient::Remote(_) => page.print_remote(client.erase_address(&order).await?).await?,
        AdminClient::Offline(store) => {
            let (operator, now) = (operator_name(), Clock::System.now());
            page.run_offline(store, |store, tell| admin::erase_address(store, &order, &operator, now, tell))?;
            store.checkpoint().await;
        }
    }
    page.into_result()
}
