//! Whether the loop is whole, the figures are sound and the house is in order: silence of a provider, signatures that
//! never fit, clocks that differ, mail that piles up or crawls, rates that cost a sender its name; the disk, the journal
//! and the certificates.

use crate::alarms::{Alarms, Kind, MACHINE};
use crate::monitoring::upstream_activity::{Beat, Pulse};
use mailtrail_mail::{Clock, ClockStep, ClockWatch, Timestamp, descriptors};
use mailtrail_net::tls::Server;
use mailtrail_store::{LOW_BYTES, LOW_INODES, ReadError, Store};
use mailtrail_trail::{DeliveryStats, StatsGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// From where on something is an alarm.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// How long mail may be relayed without any event of the provider's. Default 30 min; `None`: however long.
    pub silence: Option<Duration>,
    /// Mails that wait. Default 10,000.
    pub queue: u64,
    /// Time from our `250` to the upstream's for 95 of 100 mails. Default 5 s.
    pub relay_time: Duration,
    /// The time whose mail makes the rates. Default 24 h.
    pub window: Duration,
    /// Recipients below which a sender domain has no rates. Default 200.
    pub least: u64,
    /// Hard bounces. Default 0.05.
    pub bounce_rate: f64,
    /// Complaints. Default 0.001.
    pub complaint_rate: f64,
    /// Deliveries, from which on downwards. Default 0.95.
    pub delivery_rate: f64,
    /// Bytes that are free on the data directory's disk, from which on downwards. Default 1 GiB.
    pub disk: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            silence: Some(Duration::from_secs(30 * 60)),
            queue: 10_000,
            relay_time: Duration::from_secs(5),
            window: Duration::from_secs(24 * 3600),
            least: 200,
            bounce_rate: 0.05,
            complaint_rate: 0.001,
            delivery_rate: 0.95,
            disk: LOW_BYTES,
        }
    }
}

/// What a monitor works with.
pub struct Monitor {
    /// Where the mail is.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where trouble is reported.
    pub alarms: Alarms,
    /// What goes out and comes back.
    pub pulse: Pulse,
    /// What knows whether the clock was set.
    pub watch: ClockWatch,
    /// The upstreams, and whether their providers report to us.
    pub upstreams: Vec<(String, bool)>,
    /// What accepts TLS, and has certificates that end.
    pub servers: Vec<Arc<Server>>,
    /// From where on something is an alarm.
    pub thresholds: Thresholds,
}

impl Monitor {
    /// Looks every minute until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        tokio::join!(
            stopping.run_until_cancelled(self.follow_the_journal()),
            stopping.run_until_cancelled(self.follow_the_ledger()),
            stopping.run_until_cancelled(self.follow_shortages()),
            stopping.run_until_cancelled(self.follow_the_clock()),
            self.look_around(stopping.clone())
        );
    }

    /// A write that fails is heard of at once.
    async fn follow_the_journal(&self) {
        let Some(mut trouble) = self.store.write_errors() else { return };
        loop {
            let text = trouble.borrow_and_update().as_ref().map(|why| {
                format!("the journal cannot be written, and no mail is taken (452): {why}; look at the disk")
            });
            self.alarms.set(Kind::Journal, "journal", text);
            if trouble.changed().await.is_err() {
                return;
            }
        }
    }

    /// The same of the ledger, which is closed while it cannot be written.
    async fn follow_the_ledger(&self) {
        let Some(mut closed) = self.store.ledger_closed() else { return };
        loop {
            let text = closed.borrow_and_update().as_ref().map(|why| {
                format!(
                    "the ledger cannot be written, and no mail is taken (452) or sent: {why}; make room or mend that, it \
                     goes on by itself"
                )
            });
            self.alarms.set(Kind::Ledger, "ledger", text);
            if closed.changed().await.is_err() {
                return;
            }
        }
    }

    /// A clock that is set is heard of soon.
    async fn follow_the_clock(&self) {
        loop {
            self.tell(Kind::Clock, MACHINE, self.watch.look().and_then(text_of_step));
            tokio::time::sleep(CLOCK_LOOKS).await;
        }
    }

    /// A connection that finds no descriptor is heard of at once.
    async fn follow_shortages(&self) {
        let mut shortages = descriptors::follow_shortages();
        while shortages.changed().await.is_ok() {
            self.alarms.note(Kind::Descriptors, PROCESS, NONE_LEFT, SHORTAGE_LASTS);
        }
    }

    fn look_at_descriptors(&self) {
        let Some((open, allowed)) = descriptors::count_open() else { return };
        if open >= allowed / 10 * 9 {
            let text = format!(
                "{open} of {allowed} file descriptors are in use; raise LimitNOFILE, or lower `connections` in [limits], \
                 [http] or [[upstream]]"
            );
            self.alarms.note(Kind::Descriptors, PROCESS, &text, SHORTAGE_LASTS);
        }
    }

    async fn look_around(&self, stopping: CancellationToken) {
        let (mut domains, mut counted) = (BTreeSet::new(), None);
        self.look_at_house().await;
        while stopping.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let now = self.clock.now();
            self.alarms.expire();
            self.look_at_house().await;
            for (upstream, reports) in &self.upstreams {
                self.look_at(upstream, *reports, now);
            }
            if counted.is_none_or(|counted| now.duration_since(counted) >= COUNT_EVERY) {
                counted = Some(now);
                if let Err(error) = self.count(now, &mut domains).await {
                    tracing::error!(%error, "the mail cannot be counted; it is tried again");
                }
            }
        }
    }

    async fn look_at_house(&self) {
        self.look_at_certificates(self.clock.now());
        self.look_at_descriptors();
        let store = self.store.clone();
        let text = match tokio::task::spawn_blocking(move || store.free_space()).await {
            Ok(Ok(free)) if free.check_available(0).is_err() => {
                Some("the data directory's disk is full, and no mail is taken (452); make room".to_owned())
            }
            Ok(Ok(free)) if free.is_low(self.thresholds.disk) => Some(format!(
                "the data directory's disk is nearly full: less than {} MiB or {LOW_INODES} inodes are free; make room",
                self.thresholds.disk >> 20
            )),
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                return tracing::error!(%error, "the disk's room is not known; it is looked at again");
            }
            // A look that broke off is taken again.
            Err(_) => return,
        };
        self.tell(Kind::Disk, "data_dir", text);
    }

    fn look_at_certificates(&self, now: Timestamp) {
        let ends = self.servers.iter().flat_map(|server| server.expiries());
        let ends: BTreeMap<_, _> = ends.map(|(path, end)| (path.display().to_string(), end)).collect();
        self.alarms.retain(Kind::Certificate, |file| ends.contains_key(file));
        for (file, end) in ends {
            let text = if end <= now {
                Some(format!(
                    "the certificate ended {end}, and clients that check it do not connect; renew it"
                ))
            } else {
                (end < now.saturating_add(ENDS_SOON)).then(|| format!("the certificate ends {end}; renew it"))
            };
            self.tell(Kind::Certificate, &file, text);
        }
    }

    /// Another text is said, too.
    fn tell(&self, kind: Kind, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.alarms.raise(kind, subject, text),
            None => self.alarms.clear(kind, subject),
        }
    }

    fn look_at(&self, upstream: &str, reports: bool, now: Timestamp) {
        let beat = self.pulse.beat(upstream);
        self.alarms.set(Kind::Silence, upstream, self.silence(&beat, now).filter(|_| reports));
        self.alarms.set(Kind::Signature, upstream, signatures(&beat));
        self.alarms.set(Kind::Clock, upstream, clocks(&beat, now));
        let slow =
            beat.relay_time(now.saturating_sub(RECENT)).filter(|time| *time > self.thresholds.relay_time);
        let slow = slow.map(|time| {
            format!(
                "one mail of twenty waits {} s or longer for the upstream; `mailtrail queue shape` and `mailtrail breaker \
                 status` tell why",
                time.as_secs()
            )
        });
        self.alarms.set(Kind::Slow, upstream, slow);
    }

    fn silence(&self, beat: &Beat, now: Timestamp) -> Option<String> {
        let (mails, since) = beat.unanswered?;
        let quiet = now.duration_since(since);
        (quiet >= self.thresholds.silence?).then(|| {
            let cause = if beat.refused.is_some() {
                "its reports come and their signatures do not fit"
            } else {
                "no webhook is registered at the provider, its address does not lead here, or the provider holds the mail back"
            };
            format!("{mails} mails were relayed since {since} and no event came; likely {cause}")
        })
    }

    async fn count(&self, now: Timestamp, known: &mut BTreeSet<String>) -> Result<(), ReadError> {
        let (store, since) = (self.store.clone(), now.saturating_sub(self.thresholds.window));
        let most = usize::try_from(self.thresholds.queue).unwrap_or(usize::MAX).saturating_add(1);
        let counted = tokio::task::spawn_blocking(move || {
            let (_, domains) = store.delivery_stats(since, now, StatsGroup::Domain)?;
            Ok::<_, ReadError>((store.queued_ids(most)?.len() as u64, domains))
        });
        // A count that broke off is made again.
        let Ok(counted) = counted.await else { return Ok(()) };
        let (queued, domains) = counted?;
        let full = (queued > self.thresholds.queue).then(|| {
            format!("more than {} mails wait; `mailtrail queue shape` tells for whom", self.thresholds.queue)
        });
        self.alarms.set(Kind::Backlog, "queue", full);
        for gone in known.iter().filter(|domain| !domains.contains_key(*domain)) {
            self.judge(gone, &DeliveryStats::default());
        }
        for (domain, tally) in &domains {
            self.judge(domain, tally);
        }
        *known = domains.into_keys().collect();
        Ok(())
    }

    /// The rates of a sender domain.
    fn judge(&self, domain: &str, tally: &DeliveryStats) {
        let limits = &self.thresholds;
        let enough = |whole: u64| whole >= limits.least;
        let ended = tally.delivered + tally.bounced + tally.failed;
        let over = |rate: Option<f64>, limit: f64| rate.filter(|rate| *rate > limit);
        let bounces = over(tally.bounce_rate(), limits.bounce_rate).filter(|_| enough(tally.sent()));
        let complaints =
            over(tally.complaint_rate(), limits.complaint_rate).filter(|_| enough(tally.delivered));
        let deliveries = tally.delivery_rate().filter(|rate| *rate < limits.delivery_rate && enough(ended));
        let text = |what: &str, rate: f64, limit: f64, advice: &str| {
            format!("{what} are {:.2} %, the limit is {:.2} %; {advice}", rate * 100.0, limit * 100.0)
        };
        let bounces = bounces.map(|rate| text("hard bounces", rate, limits.bounce_rate, CLEAN));
        let complaints = complaints.map(|rate| text("spam complaints", rate, limits.complaint_rate, CONSENT));
        let deliveries = deliveries.map(|rate| text("deliveries", rate, limits.delivery_rate, FAILED));
        self.alarms.set(Kind::Bounces, domain, bounces);
        self.alarms.set(Kind::Complaints, domain, complaints);
        self.alarms.set(Kind::Deliveries, domain, deliveries);
    }
}

fn signatures(beat: &Beat) -> Option<String> {
    let (count, since) = beat.refused.filter(|(count, _)| *count >= REFUSED)?;
    Some(format!(
        "the last {count} reports, all since {since}, were refused for their signature; likely the key changed at the \
         provider: compare webhook_signing_key, or its token"
    ))
}

/// What is said of a clock that was set; an old store is said to be no fault.
fn text_of_step(step: ClockStep) -> Option<String> {
    let what = match step {
        ClockStep::Ahead(by) => format!("this machine's clock was set ahead by {} s", by.as_secs()),
        ClockStep::Back(by) => format!("this machine's clock was set back by {} s", by.as_secs()),
        ClockStep::Stored(by) => {
            format!("the store holds mail that was accepted {} s ahead of this machine's clock", by.as_secs())
        }
        ClockStep::Old(_) => return None,
        ClockStep::VeryOld(age) => format!(
            "the newest mail in the store is {} days old: the relay was off, or this machine's clock is ahead",
            age.as_secs() / 86_400
        ),
    };
    Some(format!(
        "{what}; no mail expires and nothing is forgotten until this alarm is over: set it right, by NTP at best"
    ))
}

fn clocks(beat: &Beat, now: Timestamp) -> Option<String> {
    let lag = beat.clock_lag(now.saturating_sub(RECENT)).filter(|lag| lag.unsigned_abs() > SKEW)?;
    let seconds = lag.unsigned_abs() / 1000;
    Some(if lag > 0 {
        format!(
            "reports come {seconds} s after they were signed: this machine's clock is ahead, or they are held up on the way"
        )
    } else {
        format!("reports are signed {seconds} s ahead of this machine's clock: set it, by NTP at best")
    })
}

const EVERY: Duration = Duration::from_secs(60);
/// Time between two looks at the clock.
const CLOCK_LOOKS: Duration = Duration::from_secs(1);
/// What the alarm about descriptors is about.
const PROCESS: &str = "process";
const NONE_LEFT: &str = "a connection found no file descriptor left; raise LimitNOFILE, or lower `connections` in [limits], \
                         [http] or [[upstream]]";
/// How long a shortage of descriptors is told of after it was seen last.
const SHORTAGE_LASTS: Duration = Duration::from_secs(120);
/// So long before its end a certificate is spoken of.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// Time from one count of all mail of the window to the next.
const COUNT_EVERY: Duration = Duration::from_secs(600);
/// What counts as now for times and clocks.
const RECENT: Duration = Duration::from_secs(900);
/// Refusals in a row from which on they are no accident.
const REFUSED: u64 = 5;
/// Milliseconds by which clocks may differ.
const SKEW: u64 = 60_000;
const CLEAN: &str =
    "providers cut off who goes on; `mailtrail log --status bounced` shows the addresses to take out";
const CONSENT: &str =
    "`mailtrail log --status complained` shows whom and `mailtrail stats --by tag` what it was";
const FAILED: &str = "`mailtrail log --status bounced` and `--status failed` show why";
