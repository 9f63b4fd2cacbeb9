//! `suppress sync`: shows the progress of the daemon.

use crate::cli::admin_client::AdminClient;
use crate::cli::{CliError, Context, eprint_line, print_json, print_line};
use indicatif::ProgressBar;
use mailtrail_relay::admin::{SuppressionSyncEvent, SuppressionSyncProgress, SuppressionSyncRequest};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

pub async fn sync_lists(
    context: &Context,
    client: &AdminClient,
    order: &SuppressionSyncRequest,
) -> Result<(), CliError> {
    let mut page = SyncOutput::new(context, order.dry_run);
    let mut lines = client.sync_suppressions(order).await?;
    while let Some(line) = lines.next().await? {
        page.print_progress(&line);
    }
    page.finish()
}

/// Output of a synchronization: progress on a terminal, applied changes as counts, planned changes in full.
struct SyncOutput<'a> {
    context: &'a Context,
    dry_run: bool,
    progress_bar: ProgressBar,
    /// Addresses by upstream and action.
    counts: BTreeMap<String, UpstreamCounts>,
    has_failed: bool,
}

#[derive(Default)]
struct UpstreamCounts {
    /// Number of entries on the provider's list.
    read: u64,
    changes: BTreeMap<String, u64>,
}

impl<'a> SyncOutput<'a> {
    fn new(context: &'a Context, dry_run: bool) -> Self {
        let progress_bar = if std::io::stderr().is_terminal() && !context.json {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(SPINNER_INTERVAL);
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { context, dry_run, progress_bar, counts: BTreeMap::new(), has_failed: false }
    }

    fn print_progress(&mut self, SuppressionSyncProgress { upstream, step }: &SuppressionSyncProgress) {
        let counts = self.counts.entry(upstream.clone()).or_default();
        let mut refused = None;
        match step {
            SuppressionSyncEvent::Read { entries } => counts.read = *entries,
            SuppressionSyncEvent::Act { act, why: None, .. } => {
                *counts.changes.entry(act.clone()).or_default() += 1
            }
            SuppressionSyncEvent::Act { address, why: Some(why), .. } => {
                refused = Some(format!("{address}: {why}"))
            }
            SuppressionSyncEvent::Failed { error } => refused = Some(error.clone()),
            SuppressionSyncEvent::Waiting { .. }
            | SuppressionSyncEvent::Unread { .. }
            | SuppressionSyncEvent::Done => {}
        }
        let acts: u64 = counts.changes.values().sum();
        let progress =
            format!("{upstream}: {} entries of the provider's list read, {acts} differences", counts.read);
        self.has_failed |= refused.is_some();
        let shown = !matches!(step, SuppressionSyncEvent::Read { .. } | SuppressionSyncEvent::Waiting { .. });
        match step {
            _ if self.context.json && shown => {
                print_json(&SuppressionSyncProgress { upstream: upstream.clone(), step: step.clone() })
            }
            SuppressionSyncEvent::Waiting { seconds } => {
                let waits = format!("{upstream}: rate limit of the provider; continues in {seconds} s");
                self.progress_bar.set_message(waits.clone());
                if self.progress_bar.is_hidden() {
                    eprint_line(format!("mailtrail: {waits}"));
                }
            }
            SuppressionSyncEvent::Unread { unread, first } => {
                let text = format!(
                    "{upstream}: {unread} entries of the provider's list cannot be decoded and are skipped; no entry is \
                     removed; the first: {first}"
                );
                self.progress_bar.suspend(|| eprint_line(format!("mailtrail: {text}")));
            }
            SuppressionSyncEvent::Act { address, reason, act, why: None } if self.dry_run => {
                self.progress_bar.suspend(|| print_line(format!("{act}\t{upstream}\t{reason}\t{address}")));
            }
            SuppressionSyncEvent::Done => self.print_summary(upstream),
            _ => self.progress_bar.set_message(progress),
        }
        if let Some(refused) = refused.filter(|_| !self.context.json) {
            self.progress_bar.suspend(|| eprint_line(format!("mailtrail: {refused}")));
        }
    }

    fn print_summary(&self, upstream: &str) {
        let counts = &self.counts[upstream];
        let of = |act: &str| counts.changes.get(act).copied().unwrap_or_default();
        let would = if self.dry_run { "would be " } else { "" };
        let text = format!(
            "{upstream}: the provider lists {}; here {would}{} added and {} removed, there {would}{} added and {} removed",
            counts.read,
            of("taken-in"),
            of("ended"),
            of("added-there"),
            of("removed-there"),
        );
        self.progress_bar.suspend(|| print_line(text));
    }

    fn finish(self) -> Result<(), CliError> {
        self.progress_bar.finish_and_clear();
        if self.has_failed { Err(CliError::AlreadyReported) } else { Ok(()) }
    }
}

const SPINNER_INTERVAL: Duration = Duration::from_millis(100);
