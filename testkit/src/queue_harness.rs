//! In-process relay with a scripted upstream, and the clock of both.

use crate::mock_smtp::{AcceptedMail, MockSmtpServer, SmtpScript};
use bytes::Bytes;
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, Lane, ManualClock, MessageId, Timestamp, TrackingId};
use mailtrail_trail::{
    AcceptedMessage, AttemptStatus, Message, Recipient, RecipientState, Trail, TrailEventKind,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Source of time.
pub enum TestTime {
    /// Real time.
    Real,
    /// Manual time, which advances faster while nothing happens. It needs a runtime of one thread with paused time.
    Manual {
        moment: &'static ManualClock,
        now: Cell<Timestamp>,
        step: Cell<Duration>,
        /// Keeps tokio's clock from advancing by itself while disk and sockets are in progress.
        _hold: mpsc::Sender<()>,
    },
}

impl TestTime {
    /// Manual time that starts on a Monday.
    pub fn manual() -> Self {
        let (hold, held) = mpsc::channel();
        tokio::task::spawn_blocking(move || held.recv());
        let (moment, now) = (Box::leak(Box::default()), Timestamp::from_secs(1_789_387_200));
        ManualClock::advance_to(moment, now);
        Self::Manual { moment, now: Cell::new(now), step: Cell::new(MIN_ADVANCE), _hold: hold }
    }

    pub fn clock(&self) -> Clock {
        match self {
            Self::Real => Clock::System,
            Self::Manual { moment, .. } => Clock::Manual(moment),
        }
    }

    /// Lets work in progress finish, then advances time a little, or more if `quiet` returns true, up to `at_most`.
    pub async fn advance_when_idle(&self, quiet: impl FnOnce() -> bool, at_most: Duration) {
        let Self::Manual { step, .. } = self else {
            return tokio::time::sleep(Duration::from_millis(2)).await;
        };
        self.settle().await;
        step.set(if quiet() { (step.get() * 2).min(MAX_ADVANCE) } else { MIN_ADVANCE });
        self.advance(step.get().min(at_most)).await;
    }

    /// Lets work in progress finish without advancing time.
    pub async fn settle(&self) {
        let rest = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1)));
        rest.await.unwrap();
    }

    /// Sets the wall clock; no time passes.
    pub fn set_wall_clock(&self, to: Timestamp) {
        if let Self::Manual { moment, now, .. } = self {
            now.set(to);
            moment.set_wall_clock(to);
        }
    }

    /// Advances time.
    pub async fn advance(&self, duration: Duration) {
        let Self::Manual { moment, now, .. } = self else { return tokio::time::sleep(duration).await };
        now.set(now.get().saturating_add(duration));
        moment.advance_to(now.get());
        tokio::time::advance(duration).await;
    }
}

/// Relay with its upstream and the directory of its store.
pub struct QueueHarness {
    pub server: MockSmtpServer,
    pub config: Config,
    pub time: TestTime,
    daemon: Option<Daemon>,
    _directory: TempDir,
}

impl QueueHarness {
    pub async fn new(script: SmtpScript, upstream: &str) -> Self {
        Self::with_provider("plain", script, upstream).await
    }

    pub async fn with_provider(provider: &str, script: SmtpScript, upstream: &str) -> Self {
        Self::with_config(provider, script, upstream, |_| {}).await
    }

    /// Starts a relay; `change` sets values outside the bounds of the configuration.
    pub async fn with_config(
        provider: &str,
        script: SmtpScript,
        upstream: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let server = MockSmtpServer::start(script).await;
        let text = format!("{upstream}\n[upstream.retry]\nfirst = \"100ms\"\nmax = \"1s\"\n");
        Self::build(TestTime::Real, server, provider, &text, change).await
    }

    /// Starts a relay with default retries and manual time.
    pub async fn with_manual_time(server: MockSmtpServer, upstream: &str) -> Self {
        Self::manual_time_with_provider("plain", server, upstream).await
    }

    /// Starts a relay with manual time and a provider.
    pub async fn manual_time_with_provider(provider: &str, server: MockSmtpServer, upstream: &str) -> Self {
        Self::build(TestTime::manual(), server, provider, upstream, |_| {}).await
    }

    /// Starts a relay with manual time; `change` sets values outside the bounds of the configuration.
    pub async fn manual_time_with_config(
        server: MockSmtpServer,
        upstream: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        Self::build(TestTime::manual(), server, "plain", upstream, change).await
    }

    async fn build(
        time: TestTime,
        server: MockSmtpServer,
        provider: &str,
        upstream: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tls = ["tls = \"none\"", ""][usize::from(upstream.contains("tls ="))];
        let host = ["host = \"127.0.0.1\"", ""][usize::from(upstream.contains("host ="))];
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[upstream]]\nname = \"up\"\nprovider = \"{provider}\"\n{host}\nport = {}\n{tls}\n{upstream}\n",
            directory.path().join("data").display().to_string(),
            server.address.port()
        );
        let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        change(&mut config);
        let mut harness = Self { server, config, time, daemon: None, _directory: directory };
        harness.start().await;
        harness
    }

    pub async fn start(&mut self) {
        self.daemon = Some(Daemon::start(&self.config, self.time.clock(), None).await.unwrap());
    }

    pub async fn stop(&mut self) {
        let mut stopped = pin!(self.daemon.take().unwrap().stop());
        loop {
            tokio::select! {
                () = &mut stopped => return,
                () = self.time.advance_when_idle(|| true, MAX_ADVANCE) => {}
            }
        }
    }

    /// Stores a message and waits until its trail is readable.
    pub async fn enqueue(&self, number: u64, recipients: &[&str]) -> TrackingId {
        let id = self.store_message(number, recipients).await;
        self.wait_until("its trail", || self.find_trail(id).is_some()).await;
        id
    }

    /// Stores a message.
    pub async fn store_message(&self, number: u64, recipients: &[&str]) -> TrackingId {
        self.store_with_lane(number, recipients, Lane::default()).await
    }

    /// Stores a message in a lane of the queue.
    pub async fn store_in_lane(&self, number: u64, lane: Lane) -> TrackingId {
        self.store_with_lane(number, &["a@example.net"], lane).await
    }

    async fn store_with_lane(&self, number: u64, recipients: &[&str], lane: Lane) -> TrackingId {
        self.store_with(number, recipients, |send| send.lane = lane).await
    }

    /// Stores a changed message and waits until its trail is readable.
    pub async fn enqueue_with(
        &self,
        number: u64,
        recipients: &[&str],
        change: impl FnOnce(&mut Message),
    ) -> TrackingId {
        let id = self.store_with(number, recipients, change).await;
        self.wait_until("its trail", || self.find_trail(id).is_some()).await;
        id
    }

    async fn store_with(
        &self,
        number: u64,
        recipients: &[&str],
        change: impl FnOnce(&mut Message),
    ) -> TrackingId {
        let id = TrackingId::new(self.time.clock().now(), u128::from(number));
        let message = sample_message(number);
        let mut send = Message {
            sender: "bounces@example.com".parse().ok(),
            subject: number.to_string(),
            size: message.len() as u64,
            message_id: message_id(),
            ..Message::new(id, "test")
        };
        change(&mut send);
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        let store = self.daemon.as_ref().unwrap().store();
        store.put_message(AcceptedMessage { message: send, recipients }, Bytes::from(message)).await.unwrap();
        id
    }

    pub async fn enqueue_many(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<TrackingId> {
        let sends = numbers.into_iter().map(|number| self.store_message(number, &["a@example.net"]));
        let ids = futures_util::future::join_all(sends).await;
        for id in &ids {
            self.wait_until("its trail", || self.find_trail(*id).is_some()).await;
        }
        ids
    }

    pub fn load_trail(&self, id: TrackingId) -> Trail {
        self.find_trail(id).unwrap()
    }

    pub fn find_trail(&self, id: TrackingId) -> Option<Trail> {
        self.daemon.as_ref().unwrap().store().load_trail(id).unwrap()
    }

    /// Waits until no recipient is pending and returns the trail.
    pub async fn wait_for_result(&self, id: TrackingId) -> Trail {
        let done = || {
            self.find_trail(id)
                .is_some_and(|trail| !trail.recipients.iter().any(Recipient::is_pending) && !trail.is_sending)
        };
        self.wait_until("the end of a send", done).await;
        self.load_trail(id)
    }

    /// Lets time pass until the condition holds. The limit is [`WAIT_TIMEOUT`] of real time.
    pub async fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let (deadline, mut events) = (Instant::now() + WAIT_TIMEOUT, 0);
        while !holds() {
            let received = self.server.commands();
            let last = &received[received.len().saturating_sub(12)..];
            assert!(Instant::now() < deadline, "{what} did not come; last heard: {last:#?}");
            self.advance(&mut events, MAX_ADVANCE).await;
        }
    }

    /// Lets this time pass in steps, with all events in it.
    pub async fn let_time_pass(&self, duration: Duration) {
        let (end, mut events) = (self.time.clock().now().saturating_add(duration), 0);
        loop {
            let left = end.duration_since(self.time.clock().now());
            if left.is_zero() {
                return;
            }
            self.advance(&mut events, left).await;
        }
    }

    /// Lets time pass, in small steps after activity of the server.
    async fn advance(&self, events: &mut usize, at_most: Duration) {
        let quiet = || {
            let (now, handshakes) = self.server.with_script(|script| (script.events, script.handshakes));
            std::mem::replace(events, now) == now && handshakes == 0
        };
        self.time.advance_when_idle(quiet, at_most).await;
    }

    /// Returns the address for submissions.
    pub fn smtp_address(&self) -> std::net::SocketAddr {
        self.daemon.as_ref().unwrap().smtp_addresses()[0]
    }

    /// Returns the address for webhooks.
    pub fn http_address(&self) -> std::net::SocketAddr {
        self.daemon.as_ref().unwrap().http_address().unwrap()
    }

    pub fn store(&self) -> &mailtrail_store::Store {
        self.daemon.as_ref().unwrap().store()
    }

    /// Returns the number of received commands with this verb.
    pub fn command_count(&self, verb: &str) -> usize {
        self.server.commands().iter().filter(|line| line.split(' ').nth(1) == Some(verb)).count()
    }

    pub fn assert_each_accepted_once(&self, numbers: impl IntoIterator<Item = u64>, what: &str) {
        let mut messages: Vec<_> = self.server.accepted().into_iter().map(|taken| taken.message).collect();
        let mut expected: Vec<_> =
            numbers.into_iter().map(|number| sample_message(number).into_bytes()).collect();
        messages.sort();
        expected.sort();
        assert!(messages == expected, "{what}: {} messages", messages.len());
    }
}

/// Returns a message with dots at the start of lines and a length of its own.
pub fn sample_message(number: u64) -> String {
    if number == LONG_MESSAGE {
        return format!("Subject: long\r\n\r\n{}", format!("{}\r\n", "x".repeat(990)).repeat(12_000));
    }
    let lines = "\r\n..two\r\n.\r\nline.\r\n".repeat(number as usize % 100 * 3);
    format!("Subject: {number}\r\n\r\n.first\r\n{lines}\r\n.\r\n")
}

/// Returns the Message-ID of all sample messages.
pub fn message_id() -> Option<MessageId> {
    MessageId::parse("<one@example.com>")
}

pub fn accepted_mail(connection: usize, number: u64) -> AcceptedMail {
    AcceptedMail {
        connection,
        recipients: vec!["a@example.net".into()],
        message: sample_message(number).into_bytes(),
    }
}

pub fn recipient_states(trail: &Trail) -> Vec<RecipientState> {
    trail.recipients.iter().map(Recipient::state).collect()
}

/// Returns the results of the attempts, oldest first.
pub fn attempt_results(trail: &Trail) -> Vec<AttemptStatus> {
    let facts = trail.events.iter();
    let standings = facts.filter_map(|fact| match fact.kind {
        TrailEventKind::Attempted(standing) => Some(standing),
        _ => None,
    });
    standings.collect()
}

/// Message that exceeds all buffers between relay and server.
pub const LONG_MESSAGE: u64 = 1_000_000;
/// Longest wait for a state, in real time; only a failing test reaches it. Manual time advances with the processors, and
/// other tests and builds share them.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time per step after activity, and the maximum without. The maximum is below every timeout of an upstream, so that
/// a wait that starts before a step does not time out in it.
const MIN_ADVANCE: Duration = Duration::from_millis(100);
const MAX_ADVANCE: Duration = Duration::from_secs(20);
