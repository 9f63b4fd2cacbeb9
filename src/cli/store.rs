//! The care of the store: by the daemon while it runs, else here.

use crate::cli::admin_client::{AdminClient, NdjsonStream, ensure_owner, operator_name};
use crate::cli::{CliError, Context, config_source, print_json, print_line, time_expr};
use crate::logging::ProgressReporter;
use mailtrail_mail::Clock;
use mailtrail_relay::admin;
use mailtrail_relay::admin::{BackupRequest, MaintenanceCallback, MaintenanceEvent, RebuildRequest};
use mailtrail_store::Store;
use mailtrail_trail::{OperatorAction, OperatorActionData};
use std::io;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub enum StoreCommand {
    /// Verify every byte of the journal and compare the ledger; exit code 4 if damaged
    #[command(
        after_help = "Nothing is changed. The relay goes on meanwhile.\n\nExample: mailtrail store verify"
    )]
    Verify,
    /// Rebuild the ledger from the journal
    #[command(
        after_help = "The relay goes on meanwhile, with the present ledger.\n\nExample: mailtrail store rebuild --reason 'the alarm ledger'"
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
The copy has everything that was promised before it began. It is made under another name
and takes its own when it is whole and on stable storage. It holds messages that wait and
the key of the relay's own certificate: it is for the eyes of the relay's user only.

To restore it: stop the relay, put the copy where data_dir is, start the relay. The ledger
is made anew from it. Mail that was sent after the copy was made is sent again.

Who had it made, and why, is in `mailtrail log`, unless the relay stood: its store is only
read then.

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

/// A ledger that was made anew when the store was opened here is whole now, and was not before.
async fn verify_store(
    page: &mut MaintenanceOutput<'_>,
    client: &AdminClient,
    rebuilt: Option<String>,
) -> Result<(), CliError> {
    page.start_progress("reading the journal");
    let rebuilt = rebuilt.map(|why| format!("the ledger could not be used and was made anew: {why}"));
    if let Some(what) = &rebuilt {
        page.print_event(MaintenanceEvent::Contradiction { what: what.clone() });
    }
    match client {
        AdminClient::Remote(_) => page.print_remote(client.verify_store().await?).await?,
        AdminClient::Offline(store) => {
            // Where the configuration cannot be read, it is not known what the ledger should know.
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
    page.start_progress("making the ledger anew");
    match client {
        AdminClient::Remote(_) => page.print_remote(client.rebuild_store(&order).await?).await,
        AdminClient::Offline(store) => {
            ensure_owner(&config_source::resolve_paths(page.context)?.0)?;
            let despite_damage = order.despite_damage;
            page.run_offline(&store, |store, tell| admin::rebuild_ledger(store, despite_damage, tell))?;
            drop(store);
            if matches!(page.result, Some(Ok(()))) {
                record_rebuild(page.context, order).await
            } else {
                Ok(())
            }
        }
    }
}

/// Notes a rebuild without the relay when it is done: a journal that may be damaged is not written to before that.
async fn record_rebuild(context: &Context, order: RebuildRequest) -> Result<(), CliError> {
    let failed = |why: String| {
        CliError::Other(format!("the ledger is new, but that cannot be noted in the journal: {why}"))
    };
    let AdminClient::Offline(store) = AdminClient::open_for_writing(context).await? else {
        return Err(failed("the relay was started meanwhile".to_owned()));
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

/// What is shown, and how it ended.
pub(crate) struct MaintenanceOutput<'a> {
    context: &'a Context,
    progress: Option<ProgressReporter>,
    result: Option<Result<(), CliError>>,
}

impl<'a> MaintenanceOutput<'a> {
    /// An empty one.
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, progress: None, result: None }
    }

    pub(crate) fn start_progress(&mut self, what: &'static str) {
        self.progress = Some(ProgressReporter::new(what));
    }

    /// What the daemon does.
    pub(crate) async fn print_remote(
        &mut self,
        mut lines: NdjsonStream<MaintenanceEvent>,
    ) -> Result<(), CliError> {
        while let Some(step) = lines.next().await? {
            self.print_event(step);
        }
        Ok(())
    }

    /// What is done here.
    pub(crate) fn run_offline(
        &mut self,
        store: &Store,
        work: impl FnOnce(&Store, MaintenanceCallback<'_>) -> io::Result<()>,
    ) -> Result<(), CliError> {
        let mut tell = |step| {
            self.print_event(step);
            Ok(())
        };
        tokio::task::block_in_place(|| work(store, &mut tell))
            .map_err(|error| CliError::Other(error.to_string()))
    }

    fn print_event(&mut self, step: MaintenanceEvent) {
        if let MaintenanceEvent::Progress { done, total } = step {
            if let Some(progress) = &mut self.progress {
                progress.update(done, total);
            }
            return;
        }
        self.progress = None;
        match &step {
            _ if self.context.json => print_json(&step),
            MaintenanceEvent::Failed { .. } => {}
            step => print_line(format_event(step)),
        }
        self.result = match step {
            MaintenanceEvent::Erased { records: 0, .. } => Some(Err(CliError::AlreadyReported)),
            MaintenanceEvent::Verified { whole: true, .. }
            | MaintenanceEvent::Rebuilt { .. }
            | MaintenanceEvent::BackedUp { .. }
            | MaintenanceEvent::Erased { .. } => Some(Ok(())),
            MaintenanceEvent::Verified { whole: false, .. } => {
                Some(Err(CliError::Damaged(STORE_DAMAGED.to_owned())))
            }
            MaintenanceEvent::Failed { error, damaged: true } => Some(Err(CliError::Damaged(error))),
            MaintenanceEvent::Failed { error, damaged: false } => Some(Err(CliError::Other(error))),
            MaintenanceEvent::Progress { .. }
            | MaintenanceEvent::Damaged { .. }
            | MaintenanceEvent::Contradiction { .. } => None,
        };
    }

    pub(crate) fn into_result(self) -> Result<(), CliError> {
        let cut_off =
            || Err(CliError::Unreachable("the daemon ended before this was done; see its log".into()));
        self.result.unwrap_or_else(cut_off)
    }
}

fn format_event(step: &MaintenanceEvent) -> String {
    match step {
        MaintenanceEvent::Damaged { segment, at, bytes, what, ids, sends, means, .. } => {
            let mut text = format!("damaged: segment {segment}, byte {at}, {bytes} bytes: {what}\n  {means}");
            for id in ids {
                text.push_str("\n  ");
                text.push_str(id);
            }
            let more = sends.saturating_sub(ids.len() as u64);
            if more > 0 {
                text.push_str(&format!("\n  and {more} more"));
            }
            text
        }
        MaintenanceEvent::Contradiction { what } => {
            format!(
                "contradiction: {what}\n  `mailtrail store rebuild` makes the ledger anew from the journal"
            )
        }
        MaintenanceEvent::Verified { whole, segments, bytes, records, sends, queued } => {
            let whole = if *whole { "the store is whole" } else { "all else is whole" };
            format!(
                "{whole}: {segments} segments with {bytes} bytes and {records} records; the ledger has {sends} sends, \
                 of which {queued} wait"
            )
        }
        MaintenanceEvent::Rebuilt { records } => {
            format!("the ledger is new: {records} records of the journal are in it")
        }
        MaintenanceEvent::BackedUp { directory, segments, bytes, until } => format!(
            "{}: {segments} segments with {bytes} bytes, everything before {}",
            directory.display(),
            time_expr::format_local(until)
        ),
        MaintenanceEvent::Erased { .. } => format_erased(step),
        MaintenanceEvent::Progress { done, total } => format!("{done} of {total} bytes"),
        MaintenanceEvent::Failed { error, .. } => error.clone(),
    }
}

fn format_erased(step: &MaintenanceEvent) -> String {
    let MaintenanceEvent::Erased { pseudonym, records, bodies, sends, reports, inbound, waiting, suppressed } =
        step
    else {
        return String::new();
    };
    let mut text = match (pseudonym, records) {
        (_, 0) => "nothing mentions the address".to_owned(),
        (Some(pseudonym), _) => format!("the address is erased; {pseudonym} stands in its place"),
        (None, _) => "the address would be erased".to_owned(),
    };
    text.push_str(&format!(
        "\n  records {records}  sends {sends}  reports {reports}  mail from outside {inbound}  messages and payloads \
         {bodies}"
    ));
    if !waiting.is_empty() {
        text.push_str(&format!("\n  not before this is done, which waits: {}", waiting.join(" ")));
    }
    if *suppressed {
        text.push_str(
            "\n  it stays on the suppression list, which only recognises it when it is named (`suppress check`, \
             `suppress remove`)",
        );
    }
    text
}

const STORE_DAMAGED: &str = "the store is damaged: see above what that means; a backup may have what is lost";
