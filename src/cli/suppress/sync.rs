//! `suppress sync`: shows what the daemon does while it does it.

use crate::cli::admin_client::Desk;
use crate::cli::{Context, Trouble, aside, say, say_json};
use indicatif::ProgressBar;
use mailtrail_relay::admin::{SyncLine, SyncOrder, SyncStep};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

pub async fn sync(context: &Context, desk: &Desk, order: &SyncOrder) -> Result<(), Trouble> {
    let mut page = Page::new(context, order.dry_run);
    let mut lines = desk.sync(order).await?;
    while let Some(line) = lines.next().await? {
        page.take(&line);
    }
    page.end()
}

/// What is shown: on a terminal a line that moves, what is done in numbers, what would be done in full.
struct Page<'a> {
    context: &'a Context,
    dry_run: bool,
    bar: ProgressBar,
    /// Addresses by upstream and act.
    counts: BTreeMap<String, Counts>,
    failed: bool,
}

#[derive(Default)]
struct Counts {
    /// Entries that the provider has.
    read: u64,
    acts: BTreeMap<String, u64>,
}

impl<'a> Page<'a> {
    fn new(context: &'a Context, dry_run: bool) -> Self {
        let bar = if std::io::stderr().is_terminal() && !context.json {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { context, dry_run, bar, counts: BTreeMap::new(), failed: false }
    }

    fn take(&mut self, SyncLine { upstream, step }: &SyncLine) {
        let counts = self.counts.entry(upstream.clone()).or_default();
        let mut refused = None;
        match step {
            SyncStep::Read { entries } => counts.read = *entries,
            SyncStep::Act { act, why: None, .. } => *counts.acts.entry(act.clone()).or_default() += 1,
            SyncStep::Act { address, why: Some(why), .. } => refused = Some(format!("{address}: {why}")),
            SyncStep::Failed { error } => refused = Some(error.clone()),
            SyncStep::Waiting { .. } | SyncStep::Unread { .. } | SyncStep::Done => {}
        }
        let acts: u64 = counts.acts.values().sum();
        let progress =
            format!("{upstream}: {} entries of the provider's read, {acts} differences", counts.read);
        self.failed |= refused.is_some();
        let shown = !matches!(step, SyncStep::Read { .. } | SyncStep::Waiting { .. });
        match step {
            _ if self.context.json && shown => {
                say_json(&SyncLine { upstream: upstream.clone(), step: step.clone() })
            }
            SyncStep::Waiting { seconds } => {
                let waits = format!(
                    "{upstream}: the provider takes no more requests for now; goes on in {seconds} s"
                );
                self.bar.set_message(waits.clone());
                if self.bar.is_hidden() {
                    aside(format!("mailtrail: {waits}"));
                }
            }
            SyncStep::Unread { unread, first } => {
                let text = format!(
                    "{upstream}: {unread} entries of the provider's cannot be read and are passed over, and nothing is \
                     ended; the first: {first}"
                );
                self.bar.suspend(|| aside(format!("mailtrail: {text}")));
            }
            SyncStep::Act { address, reason, act, why: None } if self.dry_run => {
                self.bar.suspend(|| say(format!("{act}\t{upstream}\t{reason}\t{address}")));
            }
            SyncStep::Done => self.summary(upstream),
            _ => self.bar.set_message(progress),
        }
        if let Some(refused) = refused.filter(|_| !self.context.json) {
            self.bar.suspend(|| aside(format!("mailtrail: {refused}")));
        }
    }

    fn summary(&self, upstream: &str) {
        let counts = &self.counts[upstream];
        let of = |act: &str| counts.acts.get(act).copied().unwrap_or_default();
        let would = if self.dry_run { "would be " } else { "" };
        let text = format!(
            "{upstream}: the provider lists {}; here {would}{} taken in and {} ended, there {would}{} added and {} removed",
            counts.read,
            of("taken-in"),
            of("ended"),
            of("added-there"),
            of("removed-there"),
        );
        self.bar.suspend(|| say(text));
    }

    fn end(self) -> Result<(), Trouble> {
        self.bar.finish_and_clear();
        if self.failed { Err(Trouble::Nothing) } else { Ok(()) }
    }
}

const TICK: Duration = Duration::from_millis(100);
