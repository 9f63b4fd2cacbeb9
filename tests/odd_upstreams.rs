//! Odd replies of upstreams: whatever an upstream does to one message, no other message waits for it.
//!
//! Each scene is a route with one or two upstreams of its own. All scenes of a test share one relay, so they run side
//! by side. The sender [`ODD`] or the recipient [`ODD_RECIPIENT`] meets the odd reply, always; the others are served.
//! The breakers' longest pause and the waits that replies ask for are an hour, so a message that waits for them is
//! seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/scene.rs"]
mod scene;
#[path = "support/scripted.rs"]
mod scripted;

use bytes::Bytes;
use mailtrail::clock::Clock;
use mailtrail::config::{self, Config};
use mailtrail::daemon::Daemon;
use mailtrail::id::TrackingId;
use mailtrail::ledger::{Accepted, Recipient, Send, State, Trail};
use scene::{Log, states};
use scripted::{Act, At, Script, Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One of the kinds of issue: the connection breaks over one message while the breaker is half-open, again and again.
#[tokio::test]
async fn a_message_that_breaks_its_connection_holds_no_other_in_half_open() {
    let mut scenes = Vec::new();
    for mode in MODES {
        for (at, act) in [
            (At::Mail, Act::Close),
            (At::Mail, Act::Reset),
            (At::Mail, Act::Say("what is this")),
            (At::Mail, Act::WrongClass),
            (At::Rcpt, Act::Close),
            (At::Rcpt, Act::Say("no idea")),
            (At::Rcpt, Act::Say("250-5.1.1 some\r\nwhat\r\n451 4.1.1 others")),
            (At::Data, Act::Close),
            (At::Data, Act::Say("\u{fe}\u{1}")),
            (At::Body, Act::Close),
            (At::Dot, Act::Close),
            (At::Dot, Act::Say("thanks")),
        ] {
            scenes.push(Play::new(half_open().odd(at, act.clone()), mode, format!("{mode} {at:?} {act:?}")));
        }
    }
    let world = World::new(scenes).await;
    world.open_breakers().await;
    for scene in 0..world.plays.len() {
        world.send_odd_and_others(scene).await;
    }
    world.others_arrive().await;
    world.odd_ones_are_tried_again().await;
    world.stop().await;
}

#[tokio::test]
async fn a_reply_of_several_lines_is_read_by_its_last() {
    for (reply, state) in [
        ("450-4.2.1 busy\r\n550 5.1.1 no such user", State::Bounced),
        ("550-5.1.1 no such user\r\n450 4.2.1 busy", State::Queued),
        ("250-fine\r\n550 5.1.1 no such user", State::Bounced),
        ("550-5.1.1 no such\r\n user here\r\n550 5.1.1 go away", State::Bounced),
        ("550-5.1.1 no such\r\nuser here\r\n550 5.1.1 go away", State::Bounced),
        ("550-\r\n-\r\n550 ", State::Bounced),
    ] {
        let script = Script::new().to(ODD_RECIPIENT, [Act::Say(reply)]);
        let world = World::new(vec![Play::new(script, "", reply.into())]).await;
        let id = world.send(0, ODD, &["a@example.net", ODD_RECIPIENT, "b@example.net"]).await;
        world.until("an attempt", || world.trail(id).attempts > 0 && !world.trail(id).sending).await;
        assert_eq!(states(&world.trail(id)), [State::Relayed, state, State::Relayed], "{reply:?}");
        world.stop().await;
    }
}

/// Words that providers use for an account, in replies about one recipient or one message.
#[tokio::test]
async fn words_about_an_account_decide_about_one_message_where_they_are_said_of_one() {
    let mut scenes = Vec::new();
    for provider in ["mailgun", "brevo", "plain"] {
        for (at, reply, state) in [
            (At::Rcpt, "550 5.1.2 Domain not found", State::Bounced),
            (At::Rcpt, "550 5.7.1 This user is not allowed to send to that list", State::Bounced),
            (At::Rcpt, "552 5.2.2 Mailbox limit exceeded", State::Bounced),
            (At::Rcpt, "550 5.7.1 <x@y>: Relaying denied, says the recipient's gateway", State::Bounced),
            (At::Rcpt, "454 4.7.1 Relay access denied", State::Queued),
            (At::Rcpt, "450 4.1.2 Domain not found", State::Queued),
            (At::Mail, "550 5.1.8 Sender's domain not found", State::Bounced),
            (At::Mail, "552 5.3.4 Message size limit exceeded", State::Bounced),
            (At::Data, "554 5.7.1 unauthorized ip address in your list of recipients", State::Bounced),
            (At::Dot, "552 5.3.4 Message size limit exceeded", State::Bounced),
            (At::Dot, "554 5.7.1 the attachment can't be used to send the message", State::Bounced),
            (At::Dot, "550 5.7.1 your account is not yet activated, says a scanner", State::Bounced),
            (At::Dot, "454 4.7.0 the scanner's login failed", State::Queued),
        ] {
            let script = Script::new().odd(at, Act::Say(reply));
            let mut play = Play::new(script, "", format!("{provider} {at:?} {reply}"));
            (play.provider, play.state) = (provider, Some(state));
            scenes.push(play);
        }
    }
    let world = World::new(scenes).await;
    for scene in 0..world.plays.len() {
        world.send_odd_and_others(scene).await;
    }
    world.others_arrive().await;
    world.odd_ones_are_tried_again().await;
    world.stop().await;
}

/// The reply of one of several recipients is that one's.
#[tokio::test]
async fn a_login_that_is_missing_at_one_recipient_of_several_is_that_one_s() {
    let mut scenes = Vec::new();
    for reply in [
        "454 4.7.1 Relay access denied",
        "530 5.7.1 Authentication required",
        "534 5.7.9 too weak",
        "535 5.7.8 no",
        "538 5.7.11 encryption required",
        "550 5.7.1 Relaying denied",
        "502 5.7.0 Please authenticate first",
        "525 5.7.1 Unauthorized IP address",
    ] {
        for provider in ["mailgun", "brevo", "plain"] {
            let mut play = Play::new(
                Script::new().to(ODD_RECIPIENT, [Act::Say(reply)]),
                "",
                format!("{provider} {reply}"),
            );
            play.provider = provider;
            scenes.push(play);
        }
    }
    let world = World::new(scenes).await;
    let mut sent = Vec::new();
    for scene in 0..world.plays.len() {
        let to = ["a@example.net", ODD_RECIPIENT, "b@example.net"];
        sent.push(world.send(scene, FINE, &to).await);
        world.send_others(scene).await;
    }
    world.others_arrive().await;
    for (play, id) in world.plays.iter().zip(sent) {
        let states = states(&world.trail(id));
        let one = if play.what.contains("454") { State::Queued } else { State::Bounced };
        assert_eq!(states, [State::Relayed, one, State::Relayed], "{}", play.what);
    }
    world.stop().await;
}

/// One message is to wait for an hour.
#[tokio::test]
async fn a_wait_that_is_asked_for_at_one_message_holds_no_other() {
    let mut scenes = Vec::new();
    for (at, reply) in [
        (At::Mail, "451 4.7.1 too many messages, try again after 3600 seconds"),
        (At::Rcpt, "451 4.7.1 too many messages, try again after 3600 seconds"),
        (At::Data, "421 4.7.0 rate limit, try again after 3600 seconds"),
        (At::Dot, "451 4.7.1 slow down, try again after 3600 seconds"),
        (At::Dot, "450 4.7.1 sending limit, try again after 90 seconds."),
    ] {
        for upstreams in [1, 2] {
            let mut play =
                Play::new(Script::new().odd(at, Act::Say(reply)), "", format!("{upstreams} {at:?} {reply}"));
            play.second = upstreams == 2;
            scenes.push(play);
        }
    }
    let world = World::new(scenes).await;
    for scene in 0..world.plays.len() {
        world.send_odd(scene).await;
    }
    world
        .until("the odd replies", || (0..world.plays.len()).all(|scene| world.odd_attempts(scene) > 0))
        .await;
    for scene in 0..world.plays.len() {
        world.send_others(scene).await;
    }
    world.others_arrive().await;
    world.stop().await;
}

/// What happens in one scene.
struct Play {
    what: String,
    provider: &'static str,
    script: Option<Script>,
    settings: String,
    second: bool,
    /// Where the odd message must end.
    state: Option<State>,
}

impl Play {
    fn new(script: Script, settings: &str, what: String) -> Self {
        let settings = format!("connections = 1\n{settings}\n");
        Self { what, provider: "plain", script: Some(script), settings, second: false, state: None }
    }
}

impl Script {
    /// What the odd message meets.
    fn odd(mut self, at: At, act: Act) -> Self {
        self.for_sender = Some((ODD, at, act));
        self
    }
}

/// An upstream whose breaker opens at its first connections.
fn half_open() -> Script {
    Script::new().at(At::Banner, [Some(Act::Close), Some(Act::Close)])
}

/// A relay with the upstreams of all scenes.
struct World {
    plays: Vec<Play>,
    servers: Vec<Vec<Server>>,
    sent: std::cell::RefCell<Vec<Sent>>,
    daemon: Daemon,
    _directory: TempDir,
}

struct Sent {
    scene: usize,
    odd: bool,
    id: TrackingId,
}

impl World {
    async fn new(plays: Vec<Play>) -> Self {
        Self::changed(plays, |_| {}).await
    }

    async fn changed(mut plays: Vec<Play>, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut servers = Vec::new();
        let mut text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n",
            directory.path().join("data").display().to_string(),
        );
        let mut routes = String::new();
        for (number, play) in plays.iter_mut().enumerate() {
            let mut script = play.script.take().unwrap();
            script.offers.push("AUTH PLAIN");
            let mut own = vec![(format!("s{number}a"), Server::start(script).await)];
            if play.second {
                own.push((format!("s{number}b"), Server::start(Script::new()).await));
            }
            for (place, (name, server)) in own.iter().enumerate() {
                let (provider, login) = match (place, play.provider) {
                    (0, "plain") | (1.., _) => ("plain", ""),
                    (_, provider) => (provider, "username = \"u\"\npassword = \"p\"\n"),
                };
                text += &format!(
                    "[[upstream]]\nname = \"{name}\"\nprovider = \"{provider}\"\nhost = \"127.0.0.1\"\n\
                     port = {}\ntls = \"none\"\n{login}{}\n{QUICK}\n",
                    server.address.port(),
                    play.settings
                );
            }
            let names: Vec<_> = own.iter().map(|(name, _)| name).collect();
            routes += &format!(
                "[[route]]\nname = \"s{number}\"\nupstreams = {names:?}\nsenders = [\"s{number}@*\"]\n"
            );
            servers.push(own.into_iter().map(|(_, server)| server).collect());
        }
        text += &routes;
        let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        change(&mut config);
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        Self { plays, servers, sent: Default::default(), daemon, _directory: directory }
    }

    async fn stop(self) {
        self.daemon.stop().await;
    }

    async fn send(&self, scene: usize, sender: &str, recipients: &[&str]) -> TrackingId {
        let id = TrackingId::new(Clock::System.now(), fastrand::u128(..));
        let message = format!("Subject: {id}\r\n\r\ntext\r\n");
        let send = Send {
            sender: sender.parse().ok(),
            size: message.len() as u64,
            route: Some(format!("s{scene}").into()),
            ..Send::new(id, "test")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        let store = self.daemon.store();
        store.accept_and_apply(Accepted { send, recipients }, Bytes::from(message)).await.unwrap();
        id
    }

    /// Opens the breakers of the upstreams that refuse their first connections: one message of the others' kind meets
    /// that, and waits then as the others do.
    async fn open_breakers(&self) {
        for scene in 0..self.plays.len() {
            let id = self.send(scene, FINE, &["a@example.net"]).await;
            self.sent.borrow_mut().push(Sent { scene, odd: false, id });
        }
        self.all("meet a closed door", |sent| self.trail(sent.id).attempts >= 2).await;
    }

    /// The odd one is the oldest.
    async fn send_odd_and_others(&self, scene: usize) {
        self.send_odd(scene).await;
        self.send_others(scene).await;
    }

    async fn send_odd(&self, scene: usize) {
        let id = self.send(scene, ODD, &["a@example.net"]).await;
        self.sent.borrow_mut().push(Sent { scene, odd: true, id });
    }

    async fn send_others(&self, scene: usize) {
        for _ in 0..OTHERS {
            let id = self.send(scene, FINE, &["a@example.net"]).await;
            self.sent.borrow_mut().push(Sent { scene, odd: false, id });
        }
    }

    fn trail(&self, id: TrackingId) -> Trail {
        self.daemon.store().trail(id).unwrap().unwrap()
    }

    fn odd_attempts(&self, scene: usize) -> u32 {
        let sent = self.sent.borrow();
        let odd = sent.iter().find(|sent| sent.odd && sent.scene == scene).unwrap();
        self.trail(odd.id).attempts
    }

    /// Every other message is taken once, by one upstream of its scene.
    async fn others_arrive(&self) {
        self.all("arrive", |sent| {
            sent.odd || {
                let trail = self.trail(sent.id);
                !trail.sending && !trail.recipients.iter().any(Recipient::waits)
            }
        })
        .await;
        for sent in self.sent.borrow().iter().filter(|sent| !sent.odd) {
            let what = &self.plays[sent.scene].what;
            assert_eq!(states(&self.trail(sent.id)), [State::Relayed], "{what}");
            let times = self.times_taken(sent.scene, sent.id);
            assert_eq!(times, 1, "{what}: taken {times} times");
        }
    }

    fn times_taken(&self, scene: usize, id: TrackingId) -> usize {
        let line = format!("Subject: {id}");
        let taken = self.servers[scene].iter().flat_map(Server::taken);
        taken.filter(|taken| String::from_utf8_lossy(&taken.message).contains(&line)).count()
    }

    /// The odd ones are settled, or tried again and again by the retry rule.
    async fn odd_ones_are_tried_again(&self) {
        self.all("be tried again", |sent| {
            let trail = self.trail(sent.id);
            let open = trail.recipients.iter().any(Recipient::waits);
            !sent.odd || !open || trail.attempts >= 3
        })
        .await;
        for sent in self.sent.borrow().iter().filter(|sent| sent.odd) {
            let (play, trail) = (&self.plays[sent.scene], self.trail(sent.id));
            let open = trail.recipients.iter().any(Recipient::waits);
            assert!(!open || trail.sending || trail.due.is_some(), "{}: {trail:?}", play.what);
            assert!(play.state.is_none_or(|state| states(&trail) == [state]), "{}: {trail:#?}", play.what);
        }
    }

    async fn all(&self, what: &str, holds: impl Fn(&Sent) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let late: BTreeMap<_, usize> = self.sent.borrow().iter().filter(|sent| !holds(sent)).fold(
                BTreeMap::new(),
                |mut late, sent| {
                    *late.entry(self.plays[sent.scene].what.clone()).or_default() += 1;
                    late
                },
            );
            if late.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "in {} scenes messages did not {what}: {late:#?}", late.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const MODES: [&str; 3] = ["pipelining = \"full\"", "pipelining = \"group\"", "pipelining = \"off\""];
const ODD: &str = "odd@example.com";
const FINE: &str = "fine@example.com";
const ODD_RECIPIENT: &str = "odd@example.net";
/// Other messages of a scene.
const OTHERS: usize = 4;
/// Longest wait for anything; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);
const QUICK: &str = "[upstream.breaker]\nfailures = 2\npause = \"200ms\"\nlongest_pause = \"1h\"\n\
                     [upstream.retry]\nfirst = \"200ms\"\nmax = \"1s\"\n";
