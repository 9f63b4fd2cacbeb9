//! The care of the store: by the daemon while it runs, else here.

use crate::cli::admin_client::{Desk, Lines, operator, refuse_another};
use crate::cli::{Context, Trouble, config_source, say, say_json, time_expr};
use crate::logging::Progress;
use mailtrail_mail::Clock;
use mailtrail_relay::admin;
use mailtrail_relay::admin::{BackupOrder, CareStep, RebuildOrder, Tell};
use mailtrail_store::Store;
use mailtrail_trail::{Errand, Ordered};
use std::io;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Read all of the journal, check every byte of it, and compare the ledger with it; exit code 4 when it is damaged
    #[command(
        after_help = "Nothing is changed. The relay goes on meanwhile.\n\nExample: mailtrail store verify"
    )]
    Verify,
    /// Make the ledger anew from the journal
    #[command(
        after_help = "The relay goes on meanwhile, with the present ledger.\n\nExample: mailtrail store rebuild --reason 'the alarm ledger'"
    )]
    Rebuild {
        /// Take the new ledger also when the journal is damaged and the present one knows more
        #[arg(long)]
        despite_damage: bool,
        /// Why, for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Copy the store, while the relay runs or stands
    #[command(after_help = BACKUP)]
    Backup {
        /// Where to; it must not exist, or be empty, and the relay must be able to write there
        directory: PathBuf,
        /// Why, for the log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

const BACKUP: &str = "\
The copy has everything that was promised before it began. It is made under another name
and takes its own when it is whole and on stable storage. It holds messages that wait and
the key of the relay's own certificate: it is for the eyes of the relay's user only.

To restore it: stop the relay, put the copy where data_dir is, start the relay. The ledger
is made anew from it. Mail that was sent after the copy was made is sent again.

Who had it made, and why, is in `mailtrail log`, unless the relay stood: its store is only
read then.

Example: mailtrail store backup /var/backups/mailtrail/monday";

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let (desk, rebuilt) = Desk::open_and_report(context).await?;
    let mut page = Page::new(context);
    match command {
        Command::Verify => verify(&mut page, &desk, rebuilt).await?,
        Command::Rebuild { despite_damage, reason } => {
            let order = RebuildOrder { despite_damage: *despite_damage, reason: reason.clone() };
            rebuild(&mut page, desk, order).await?;
        }
        Command::Backup { directory, reason } => {
            page.of("copying the journal");
            let directory = std::path::absolute(directory)
                .map_err(|error| Trouble::Usage(format!("{}: {error}", directory.display())))?;
            match &desk {
                Desk::Daemon(_) => {
                    let order = BackupOrder { directory, reason: reason.clone() };
                    page.follow(desk.back_up_store(&order).await?).await?;
                }
                Desk::Store(store) => {
                    page.work(store, |store, tell| admin::back_up(store, &directory, tell))?
                }
            }
        }
    }
    page.end()
}

/// A ledger that was made anew when the store was opened here is whole now, and was not before.
async fn verify(page: &mut Page<'_>, desk: &Desk, rebuilt: Option<String>) -> Result<(), Trouble> {
    page.of("reading the journal");
    let rebuilt = rebuilt.map(|why| format!("the ledger could not be used and was made anew: {why}"));
    if let Some(what) = &rebuilt {
        page.take(CareStep::Contradiction { what: what.clone() });
    }
    match desk {
        Desk::Daemon(_) => page.follow(desk.verify_store().await?).await?,
        Desk::Store(store) => {
            // Where the configuration cannot be read, it is not known what the ledger should know.
            let retention = config_source::load(page.context).ok().map(|config| config.retention);
            let now = Clock::System.now();
            page.work(store, |store, tell| {
                admin::verify(store, retention.as_ref(), now, &mut |step| match step {
                    CareStep::Verified { whole, segments, bytes, records, sends, queued } => {
                        let whole = whole && rebuilt.is_none();
                        tell(CareStep::Verified { whole, segments, bytes, records, sends, queued })
                    }
                    step => tell(step),
                })
            })?;
        }
    }
    Ok(())
}

async fn rebuild(page: &mut Page<'_>, desk: Desk, order: RebuildOrder) -> Result<(), Trouble> {
    page.of("making the ledger anew");
    match desk {
        Desk::Daemon(_) => page.follow(desk.rebuild_store(&order).await?).await,
        Desk::Store(store) => {
            refuse_another(&config_source::whereabouts(page.context)?.0)?;
            let despite_damage = order.despite_damage;
            page.work(&store, |store, tell| admin::rebuild(store, despite_damage, tell))?;
            drop(store);
            if matches!(page.ended, Some(Ok(()))) { note(page.context, order).await } else { Ok(()) }
        }
    }
}

/// Notes a rebuild without the relay when it is done: a journal that may be damaged is not written to before that.
async fn note(context: &Context, order: RebuildOrder) -> Result<(), Trouble> {
    let failed = |why: String| {
        Trouble::Failed(format!("the ledger is new, but that cannot be noted in the journal: {why}"))
    };
    let Desk::Store(store) = Desk::open_to_change(context).await? else {
        return Err(failed("the relay was started meanwhile".to_owned()));
    };
    let ordered = Ordered {
        at: Clock::System.now(),
        errand: Errand::StoreRebuild { despite_damage: order.despite_damage },
        operator: operator(),
        reason: admin::noted(&order.reason),
    };
    store.order(ordered).await.map_err(|error| failed(error.to_string()))?;
    store.settle_down().await;
    Ok(())
}

/// What is shown, and how it ended.
pub(crate) struct Page<'a> {
    context: &'a Context,
    progress: Option<Progress>,
    ended: Option<Result<(), Trouble>>,
}

impl<'a> Page<'a> {
    /// An empty one.
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, progress: None, ended: None }
    }

    pub(crate) fn of(&mut self, what: &'static str) {
        self.progress = Some(Progress::new(what));
    }

    /// What the daemon does.
    pub(crate) async fn follow(&mut self, mut lines: Lines<CareStep>) -> Result<(), Trouble> {
        while let Some(step) = lines.next().await? {
            self.take(step);
        }
        Ok(())
    }

    /// What is done here.
    pub(crate) fn work(
        &mut self,
        store: &Store,
        work: impl FnOnce(&Store, Tell<'_>) -> io::Result<()>,
    ) -> Result<(), Trouble> {
        let mut tell = |step| {
            self.take(step);
            Ok(())
        };
        tokio::task::block_in_place(|| work(store, &mut tell))
            .map_err(|error| Trouble::Failed(error.to_string()))
    }

    fn take(&mut self, step: CareStep) {
        if let CareStep::Progress { done, total } = step {
            if let Some(progress) = &mut self.progress {
                progress.show(done, total);
            }
            return;
        }
        self.progress = None;
        match &step {
            _ if self.context.json => say_json(&step),
            CareStep::Failed { .. } => {}
            step => say(described(step)),
        }
        self.ended = match step {
            CareStep::Erased { records: 0, .. } => Some(Err(Trouble::Nothing)),
            CareStep::Verified { whole: true, .. }
            | CareStep::Rebuilt { .. }
            | CareStep::BackedUp { .. }
            | CareStep::Erased { .. } => Some(Ok(())),
            CareStep::Verified { whole: false, .. } => Some(Err(Trouble::Damaged(DAMAGED.to_owned()))),
            CareStep::Failed { error, damaged: true } => Some(Err(Trouble::Damaged(error))),
            CareStep::Failed { error, damaged: false } => Some(Err(Trouble::Failed(error))),
            CareStep::Progress { .. } | CareStep::Damaged { .. } | CareStep::Contradiction { .. } => None,
        };
    }

    pub(crate) fn end(self) -> Result<(), Trouble> {
        let cut_off =
            || Err(Trouble::Unreachable("the daemon ended before this was done; see its log".into()));
        self.ended.unwrap_or_else(cut_off)
    }
}

fn described(step: &CareStep) -> String {
    match step {
        CareStep::Damaged { segment, at, bytes, what, ids, sends, means, .. } => {
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
        CareStep::Contradiction { what } => {
            format!(
                "contradiction: {what}\n  `mailtrail store rebuild` makes the ledger anew from the journal"
            )
        }
        CareStep::Verified { whole, segments, bytes, records, sends, queued } => {
            let whole = if *whole { "the store is whole" } else { "all else is whole" };
            format!(
                "{whole}: {segments} segments with {bytes} bytes and {records} records; the ledger has {sends} sends, \
                 of which {queued} wait"
            )
        }
        CareStep::Rebuilt { records } => {
            format!("the ledger is new: {records} records of the journal are in it")
        }
        CareStep::BackedUp { directory, segments, bytes, until } => format!(
            "{}: {segments} segments with {bytes} bytes, everything before {}",
            directory.display(),
            time_expr::shown(until)
        ),
        CareStep::Erased { .. } => erased(step),
        CareStep::Progress { done, total } => format!("{done} of {total} bytes"),
        CareStep::Failed { error, .. } => error.clone(),
    }
}

fn erased(step: &CareStep) -> String {
    let CareStep::Erased { pseudonym, records, bodies, sends, reports, inbound, waiting, suppressed } = step
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

const DAMAGED: &str = "the store is damaged: see above what that means; a backup may have what is lost";
