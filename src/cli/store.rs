//! Maintenance of the store: in the daemon while it runs, otherwise in this process.

use crate::cli::admin_client::{AdminClient, ensure_owner, operator_name};
use crate::cli::output::MaintenanceOutput;
use crate::cli::{CliError, Context, config_source};
use mailtrail_mail::Clock;
use mailtrail_relay::admin;
use mailtrail_relay::admin::{BackupRequest, MaintenanceEvent, RebuildRequest};
use mailtrail_trail::{OperatorAction, OperatorActionData};
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub enum StoreCommand {
    /// Verify every byte of the journal and compare the ledger; exit code 4 if damaged
    #[command(after_help = "Changes nothing. The relay keeps running.\n\nExample: mailtrail store verify")]
    Verify,
    /// Rebuild the ledger from the journal
    #[command(
        after_help = "The relay keeps running with the current ledger.\n\nExample: mailtrail store rebuild --reason 'the alarm ledger'"
    )]
    Rebuild {
        /// Replace the ledger even if the journal is damaged and the present ledger holds more
        #[arg(long)]
        despite_damage: bool,
        /// Reason for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Back up the store, with the relay running or stopped
    #[command(after_help = BACKUP_AFTER_HELP)]
    Backup {
        /// Target directory; absent or empty, and writable by the relay
        directory: PathBuf,
        /// Reason for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

const BACKUP_AFTER_HELP: &str = "\
The copy holds everything that was committed before it began. It is written under a temporary
name and renamed when it is complete and on stable storage. It holds queued messages and
the key of the relay's own certificate: only the relay's user may read it.

To restore it: stop the relay, put the copy in place of data_dir, start the relay. The ledger
is rebuilt from it. Messages sent since the copy was made are sent again.

The operator and the reason are in `mailtrail log`, unless the relay was stopped: its store is
only read then.

Example: mailtrail store backup /var/backups/mailtrail/monday";

pub async fn run(context: &Context, command: &StoreCommand) -> Result<(), CliError> {
    let (client, rebuilt) = AdminClient::open_with_report(context).await?;
    let mut page = MaintenanceOutput::new(context);
    match command {
        StoreCommand::Verify => verify_store(&mut page, &client, rebuilt).await?,
        StoreCommand::Rebuild { despite_damage, reason } => {
            let order = RebuildRequest { despite_damage: *despite_damage, reason: reason.clone() };
            rebuild_ledger(&mut page, client, order).await?;
        }
        StoreCommand::Backup { directory, reason } => {
            page.start_progress("copying the journal");
            let directory = std::path::absolute(directory)
                .map_err(|error| CliError::Usage(format!("{}: {error}", directory.display())))?;
            match &client {
                AdminClient::Remote(_) => {
                    let order = BackupRequest { directory, reason: reason.clone() };
                    page.print_remote(client.back_up_store(&order).await?).await?;
                }
                AdminClient::Offline(store) => {
                    page.run_offline(store, |store, tell| admin::back_up_store(store, &directory, tell))?
                }
            }
        }
    }
    page.into_result()
}

/// A ledger that opening the store has rebuilt is intact now, but was not before; the result is "damaged".
async fn verify_store(
    page: &mut MaintenanceOutput<'_>,
    client: &AdminClient,
    rebuilt: Option<String>,
) -> Result<(), CliError> {
    page.start_progress("reading the journal");
    let rebuilt = rebuilt.map(|why| format!("the ledger was unusable and has been rebuilt: {why}"));
    if let Some(what) = &rebuilt {
        page.print_event(MaintenanceEvent::Contradiction { what: what.clone() });
    }
    match client {
        AdminClient::Remote(_) => page.print_remote(client.verify_store().await?).await?,
        AdminClient::Offline(store) => {
            // Without a readable configuration, the ledger is not checked against the retention.
            let retention = config_source::load_config(page.context).ok().map(|config| config.retention);
            let now = Clock::System.now();
            page.run_offline(store, |store, tell| {
                admin::verify_store(store, retention.as_ref(), now, &mut |step| match step {
                    MaintenanceEvent::Verified { whole, segments, bytes, records, sends, queued } => {
                        let whole = whole && rebuilt.is_none();
                        tell(MaintenanceEvent::Verified { whole, segments, bytes, records, sends, queued })
                    }
                    step => tell(step),
                })
            })?;
        }
    }
    Ok(())
}

async fn rebuild_ledger(
    page: &mut MaintenanceOutput<'_>,
    client: AdminClient,
    order: RebuildRequest,
) -> Result<(), CliError> {
    page.start_progress("rebuilding the ledger");
    match client {
        AdminClient::Remote(_) => page.print_remote(client.rebuild_store(&order).await?).await,
        AdminClient::Offline(store) => {
            ensure_owner(&config_source::resolve_paths(page.context)?.0)?;
            let despite_damage = order.despite_damage;
            page.run_offline(&store, |store, tell| admin::rebuild_ledger(store, despite_damage, tell))?;
            drop(store);
            if page.has_succeeded() { record_rebuild(page.context, order).await } else { Ok(()) }
        }
    }
}

/// Records an offline rebuild after it has succeeded: a journal that may be damaged is not appended to before.
async fn record_rebuild(context: &Context, order: RebuildRequest) -> Result<(), CliError> {
    let failed = |why: String| {
        CliError::Other(format!(
            "the ledger is rebuilt, but the rebuild cannot be recorded in the journal: {why}"
        ))
    };
    let AdminClient::Offline(store) = AdminClient::open_for_writing(context).await? else {
        return Err(failed("the relay has been started in the meantime".to_owned()));
    };
    let ordered = OperatorAction {
        at: Clock::System.now(),
        data: OperatorActionData::StoreRebuild { despite_damage: order.despite_damage },
        operator: operator_name(),
        reason: admin::truncate_reason(&order.reason),
    };
    store.record_operator_action(ordered).await.map_err(|error| failed(error.to_string()))?;
    store.checkpoint().await;
    Ok(())
}
