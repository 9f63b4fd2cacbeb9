//! Output of maintenance commands: progress, findings and the result, from the daemon or of work in this process.

use crate::cli::admin_client::NdjsonStream;
use crate::cli::{CliError, Context, print_json, print_line, time_expr};
use crate::logging::ProgressReporter;
use mailtrail_relay::admin::{MaintenanceCallback, MaintenanceEvent};
use mailtrail_store::Store;
use std::io;

/// Prints the events of a maintenance command and keeps its result.
pub(crate) struct MaintenanceOutput<'a> {
    pub context: &'a Context,
    progress: Option<ProgressReporter>,
    result: Option<Result<(), CliError>>,
}

impl<'a> MaintenanceOutput<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, progress: None, result: None }
    }

    pub(crate) fn start_progress(&mut self, what: &'static str) {
        self.progress = Some(ProgressReporter::new(what));
    }

    /// Prints the events of work in the daemon.
    pub(crate) async fn print_remote(
        &mut self,
        mut lines: NdjsonStream<MaintenanceEvent>,
    ) -> Result<(), CliError> {
        while let Some(step) = lines.next().await? {
            self.print_event(step);
        }
        Ok(())
    }

    /// Runs `work` in this process and prints its events.
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
            format!("contradiction: {what}\n  `mailtrail store rebuild` rebuilds the ledger from the journal")
        }
        MaintenanceEvent::Verified { whole, segments, bytes, records, sends, queued } => {
            let whole = if *whole { "the store is intact" } else { "everything else is intact" };
            format!(
                "{whole}: {segments} segments with {bytes} bytes and {records} records; the ledger has {sends} messages, \
                 {queued} of them queued"
            )
        }
        MaintenanceEvent::Rebuilt { records } => {
            format!("the ledger is rebuilt from {records} records of the journal")
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
        (_, 0) => "no data mentions the address".to_owned(),
        (Some(pseudonym), _) => format!("the address is erased; {pseudonym} replaces it"),
        (None, _) => "the address would be erased".to_owned(),
    };
    text.push_str(&format!(
        "\n  records {records}  messages {sends}  events {reports}  inbound messages {inbound}  bodies and payloads \
         {bodies}"
    ));
    if !waiting.is_empty() {
        text.push_str(&format!(
            "\n  these queued messages have to be sent or deleted first: {}",
            waiting.join(" ")
        ));
    }
    if *suppressed {
        text.push_str(
            "\n  it stays suppressed: the list holds a keyed hash of it, which is found by address (`suppress check`, \
             `suppress remove`)",
        );
    }
    text
}

const STORE_DAMAGED: &str =
    "the store is damaged: see the findings above; a backup may hold the lost records";
