//! Takes an address out of everything that is kept: by the daemon while it runs, else here.

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
Afterwards no file below data_dir has the address any more: not the journal, nor the ledger, nor
what providers reported, in whatever way it is written. Trails, events, the log and the figures
stay, with a pseudonym in its place, whose key is thrown away; by domain it counts as `invalid`.
Messages and raw payloads that mention it are left out. The relay goes on meanwhile.

A message that waits and mentions it stands in the way: let it be sent, or take it out with
`queue delete --reason`. If the address was on the suppression list, mail to it stays suppressed:
the list recognises it by a code of it, with a key that lies in the store. Who has the store can
try addresses against that; `suppress remove ADDRESS` takes that out, too.

Not covered: other addresses of the same person, such as ada+news@…; a name or a local part alone
in a subject or an error's words; a Message-ID that has it as a part (1.ada@…); hashes that events
and duplicates are recognised by; what came after it began (a late report names it again: run it again);
backups, the program's log, files of sinks, what Odoo and the provider know, and what the disk
keeps of removed files. `suppress sync` brings it back if it is on the provider's list: erase it
there first. What a sink was not told of yet, it is told with the pseudonym.

If it is cut off, nothing is lost: run it again, and it goes on.

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
