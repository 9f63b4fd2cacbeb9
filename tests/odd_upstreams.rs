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
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_net::transport::Timeouts;
use mailtrail_trail::{Accepted, Recipient, Send, State, Trail};
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
            let what = format!("{mode} {at:?} {act:?}");
            let mut play = Play::new(half_open().odd(at, act), mode, what);
            play.opens = true;
            scenes.push(play);
        }
    }
    let world = World::new(scenes).await;
    world.play().await;
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
    world.play().await;
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

/// A recipient over which the connection breaks holds no other recipient of the message.
#[tokio::test]
async fn a_recipient_that_breaks_the_connection_holds_no_other() {
    let mut scenes = Vec::new();
    for mode in MODES {
        for act in breaks() {
            let what = format!("{mode} {act:?}");
            let script = Script::new().to(ODD_RECIPIENT, [act.clone()]).to(SECOND_ODD, [act]);
            scenes.push(Play::new(script, mode, what));
        }
    }
    let world = World::new(scenes).await;
    let mut sent = Vec::new();
    for scene in 0..world.plays.len() {
        let to = ["a@example.net", ODD_RECIPIENT, "b@example.net", SECOND_ODD, "c@example.net"];
        sent.push(world.send(scene, FINE, &to).await);
        world.send_others(scene).await;
    }
    world.others_arrive().await;
    let relayed = |id: TrackingId| {
        let states = states(&world.trail(id));
        [0, 2, 4].iter().all(|place| states[*place] == State::Relayed)
    };
    let late = || -> Vec<_> {
        let late = world.plays.iter().zip(&sent).filter(|(_, id)| !relayed(**id));
        late.map(|(play, _)| play.what.clone()).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    while !late().is_empty() {
        assert!(Instant::now() < deadline, "recipients wait for another: {:#?}", late());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (play, id) in world.plays.iter().zip(sent) {
        assert_eq!(world.times_taken(scene_of(&world, play), id), 1, "{}: doubled", play.what);
    }
    world.stop().await;
}

fn scene_of(world: &World, play: &Play) -> usize {
    world.plays.iter().position(|known| known.what == play.what).unwrap()
}

/// An upstream that takes messages and says nothing more.
#[tokio::test]
async fn an_upstream_that_hangs_is_noticed_by_its_stuck_connections() {
    let log = Log::default();
    let _logging = log.listen();
    let mut scenes = Vec::new();
    for (connections, at) in [
        (1, At::Banner),
        (2, At::Ehlo),
        (1, At::Dot),
        (2, At::Dot),
        (4, At::Dot),
        (1, At::Mail),
        (2, At::Data),
        (2, At::Body),
    ] {
        let script = match at {
            At::Banner | At::Ehlo => Script::new().at(at, vec![Some(Act::Silence); 50]),
            _ => Script::new().odd(at, Act::Silence),
        };
        let mut play = Play::new(script, "", format!("{connections} {at:?}"));
        play.settings = format!("connections = {connections}\n");
        (play.second, play.odd) = (true, connections);
        scenes.push(play);
    }
    let world = World::changed(scenes, |config| {
        for upstream in &mut config.upstreams {
            upstream.transport.timeouts.patience = Duration::from_millis(300);
        }
    })
    .await;
    for scene in 0..world.plays.len() {
        world.send_odd(scene).await;
    }
    // Each says so once: none of their attempts ends before the end.
    world.until("an alarm each", || log.lines("alarm=\"stuck\"").len() == world.plays.len()).await;
    for scene in 0..world.plays.len() {
        world.send_others(scene).await;
    }
    world.others_arrive().await;
    assert!(world.hanging().iter().all(|hanging| *hanging), "nothing hangs");
    assert_eq!(log.lines("alarm=\"stuck\"").len(), world.plays.len());
    world.stop_at_once().await;
}

/// One message at which the upstream hangs leaves the other connections to the others.
#[tokio::test]
async fn a_message_at_which_the_upstream_hangs_leaves_the_others_their_connections() {
    let log = Log::default();
    let _logging = log.listen();
    let mut play = Play::new(Script::new().odd(At::Dot, Act::Silence), "", "one hangs".into());
    play.settings = "connections = 3\n".into();
    let world = World::changed(vec![play], |config| {
        config.upstreams[0].transport.timeouts.patience = Duration::from_millis(100);
    })
    .await;
    world.send_odd(0).await;
    world.until("what hangs", || world.hanging() == [true]).await;
    world.send_others(0).await;
    world.others_arrive().await;
    assert_eq!(log.lines("alarm=\"stuck\""), [""; 0]);
    world.stop_at_once().await;
}

fn breaks() -> Vec<Act> {
    vec![
        Act::Close,
        Act::Reset,
        Act::HalfClose,
        Act::WrongClass,
        Act::Say("what is this"),
        Act::LongLine,
        Act::Bye("421 4.3.2 closing"),
    ]
}

/// Each step, each odd reply, with a breaker that is closed or half-open, and one upstream or two.
macro_rules! steps {
    ($($name:ident: $step:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            play_all($step).await;
        }
    )*};
}

steps! {
    odd_greetings_hold_no_message: At::Banner;
    odd_replies_to_ehlo_hold_no_message: At::Ehlo;
    odd_replies_to_auth_hold_no_message: At::Auth;
    odd_replies_to_mail_hold_no_other_message: At::Mail;
    odd_replies_to_rcpt_hold_no_other_message: At::Rcpt;
    odd_replies_to_data_hold_no_other_message: At::Data;
    odd_replies_in_a_message_hold_no_other_message: At::Body;
    odd_replies_to_the_dot_hold_no_other_message: At::Dot;
    odd_replies_after_a_message_hold_no_other_message: At::Between;
}

async fn play_all(step: At) {
    let at_login = matches!(step, At::Banner | At::Ehlo | At::Auth);
    let mut plays = Vec::new();
    for (number, act) in odd_acts().into_iter().enumerate() {
        for opens in [false, true] {
            for second in [false, true] {
                let mut script = if opens { half_open() } else { Script::new() };
                if at_login {
                    script.add(step, [Some(act.clone()), Some(act.clone())]);
                } else {
                    script = script.odd(step, act.clone());
                }
                let mode = MODES[(number + usize::from(opens)) % MODES.len()];
                let state = if opens { "half-open" } else { "closed" };
                let what = format!("{step:?} {act:?} {state} second={second} {mode}");
                let mut play = Play::new(script, mode, what);
                (play.second, play.opens, play.provider) = (second, opens, PROVIDERS[number % 2]);
                play.longest_pause = if at_login { "1s" } else { "1h" };
                plays.push(play);
            }
        }
    }
    let world = World::changed(plays, |config| {
        for upstream in &mut config.upstreams {
            upstream.transport.timeouts = SHORT;
        }
    })
    .await;
    world.play().await;
    world.tally_holds();
    world.stop_at_once().await;
}

fn odd_acts() -> Vec<Act> {
    let replies = [
        "what is this",
        "\u{fe}\u{1}",
        "250-fine\r\nwhat\r\n-\r\n451 4.3.0 not now",
        "450-4.2.1 busy\r\n550 5.1.1 no",
        "250 2.0.0 fine",
        "421 4.7.0 I say so and stay",
        "450 4.2.1 busy",
        "451 4.7.1 too many messages, try again after 3600 seconds",
        "421 Domain mg.example.com is not allowed to send: add the address to authorized recipients",
        "454 4.7.1 Relay access denied",
        "500 5.5.1 what",
        "503 bad sequence",
        "530 5.7.0 Authentication required",
        "535 5.7.8 Authentication failed",
        "550 5.1.2 Domain not found",
        "550 5.7.1 Relaying denied",
        "552 5.3.4 Message size limit exceeded",
        "554 5.7.1 no",
        "999 never seen",
    ];
    let others =
        [Act::Close, Act::Reset, Act::Silence, Act::HalfClose, Act::LongLine, Act::Endless, Act::WrongClass];
    let farewell = Act::Bye("421 4.3.2 closing");
    replies.into_iter().map(Act::Say).chain(others).chain([farewell]).collect()
}

/// What happens in one scene.
struct Play {
    what: String,
    provider: &'static str,
    script: Option<Script>,
    settings: String,
    second: bool,
    /// Odd messages.
    odd: usize,
    /// Whether its breaker is opened at the beginning.
    opens: bool,
    longest_pause: &'static str,
    /// Where the odd message must end.
    state: Option<State>,
}

impl Play {
    fn new(script: Script, settings: &str, what: String) -> Self {
        Self {
            what,
            provider: "plain",
            script: Some(script),
            settings: format!("connections = 1\n{settings}\n"),
            second: false,
            odd: 1,
            opens: false,
            longest_pause: "1h",
            state: None,
        }
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
                     port = {}\ntls = \"none\"\n{login}{}\n\
                     [upstream.breaker]\nfailures = 2\npause = \"200ms\"\nlongest_pause = \"{}\"\n\
                     [upstream.retry]\nfirst = \"200ms\"\nmax = \"1s\"\n",
                    server.address.port(),
                    play.settings,
                    play.longest_pause
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

    /// Ends the conversations that hang, then stops.
    async fn stop_at_once(self) {
        for server in self.servers.iter().flatten() {
            server.hang_up();
        }
        self.daemon.stop().await;
    }

    /// Whether each scene's upstream hangs over an odd message.
    fn hanging(&self) -> Vec<bool> {
        self.servers.iter().map(|servers| servers[0].hanging() > 0).collect()
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

    /// Sends the odd messages, each the oldest of its scene, and the others: these arrive, and the odd ones are settled
    /// or tried again.
    async fn play(&self) {
        self.open_breakers().await;
        for scene in 0..self.plays.len() {
            self.send_odd(scene).await;
            self.send_others(scene).await;
        }
        self.others_arrive().await;
        self.odd_ones_are_tried_again().await;
    }

    /// Opens the breakers of the upstreams that refuse their first connections: one message of the others' kind meets
    /// that, and waits then as the others do.
    async fn open_breakers(&self) {
        for scene in (0..self.plays.len()).filter(|scene| self.plays[*scene].opens) {
            let id = self.send(scene, FINE, &["a@example.net"]).await;
            self.sent.borrow_mut().push(Sent { scene, odd: false, id });
        }
        self.all("meet a closed door", |sent| self.trail(sent.id).attempts >= 2).await;
    }

    async fn send_odd(&self, scene: usize) {
        for _ in 0..self.plays[scene].odd {
            // An address of its own: one that is refused may get no more mail.
            let id = self.send(scene, ODD, &[&format!("odd{scene}@example.net")]).await;
            self.sent.borrow_mut().push(Sent { scene, odd: true, id });
        }
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
            // It may be asked to wait for an hour.
            let waits = trail.due.is_some_and(|due| due.since(Clock::System.now()) > PATIENCE);
            !sent.odd || !open || trail.attempts >= 3 || waits
        })
        .await;
        for sent in self.sent.borrow().iter().filter(|sent| sent.odd) {
            let (play, trail) = (&self.plays[sent.scene], self.trail(sent.id));
            let open = trail.recipients.iter().any(Recipient::waits);
            assert!(!open || trail.sending || trail.due.is_some(), "{}: {trail:?}", play.what);
            assert!(play.state.is_none_or(|state| states(&trail) == [state]), "{}: {trail:#?}", play.what);
        }
    }

    /// Every recipient has one state, and what the relay says was taken was taken.
    fn tally_holds(&self) {
        for sent in self.sent.borrow().iter() {
            let (trail, what) = (self.trail(sent.id), &self.plays[sent.scene].what);
            let relayed = states(&trail).iter().filter(|state| **state == State::Relayed).count();
            let taken = self.times_taken(sent.scene, sent.id);
            assert!(relayed == 0 || taken == 1, "{what}: relayed and taken {taken} times");
            let open = trail.recipients.iter().any(Recipient::waits);
            assert!(!open || trail.due.is_some() || trail.sending, "{what}: it waits for nothing: {trail:?}");
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
const SECOND_ODD: &str = "second@example.net";
const ODD_RECIPIENT: &str = "odd@example.net";
/// Other messages of a scene.
const OTHERS: usize = 4;
/// Longest wait for anything; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);
const PROVIDERS: [&str; 2] = ["mailgun", "brevo"];
const SHORT: Timeouts = Timeouts {
    connect: Duration::from_millis(1000),
    command: Duration::from_millis(500),
    data: Duration::from_millis(500),
    part: Duration::from_millis(500),
    end_of_data: Duration::from_millis(1000),
    patience: Duration::from_millis(250),
};
