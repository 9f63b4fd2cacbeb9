//! Output of maintenance commands: progress, findings and the result, from the daemon or of work in this process.

use crate::cli::admin_client::NdjsonStream;
use crate::cli::{CliError, Context, print_json, print_line, time_expr};
use crate::logging::ProgressReporter;
use mailtrail_relay::admin::{MaintenanceCallback, MaintenanceEvent};
use mailtrail_store::Store;
use std::io;

/// What is shown, and how it ended.
pub(crate) struct MaintenanceOutput<'a> {
    pub context: &'a Context,
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

    pub fn print_event(&mut self, step: MaintenanceEvent) {
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

    pub(crate) fn has_succeeded(&self) -> bool {
        matches!(self.result, Some(Ok(())))
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

const STORE_DAMAGED: &str =
    "the store is damaged: see the findings above; a backup may hold the lost records";
