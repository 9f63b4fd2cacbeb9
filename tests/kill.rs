//! The promise at its hardest: `kill -9` in the middle of traffic, several times. Every message that was answered
//! with 250 arrives; one that arrives twice has an `unknown` in its trail that says why.
//!
//! MAILTRAIL_TEST_KILLS (3) and MAILTRAIL_TEST_MESSAGES (600) make it longer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use mailtrail_store::Store;
use mailtrail_trail::{Standing, State, Trail, What};
use scripted::{Act, At, Script, Server};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::client::Client;
use support::process::Process;
use support::relay::all_sends;
use support::sink::{Mail, Manners, Sink};
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_promised_is_lost_when_the_process_is_killed() {
    let (kills, messages) = (number("MAILTRAIL_TEST_KILLS", 3), number("MAILTRAIL_TEST_MESSAGES", 600));
    // So that attempts are always under way.
    let manners = Manners { thinking: Duration::from_millis(20), ..Manners::default() };
    let sink = Sink::with(manners).await;
    let mut process = Process::new(&sink);
    process.start().await;
    let traffic = Traffic::start(&process, messages);
    for kill in 1..=kills {
        let enough = || (traffic.promised() >= messages * kill / (kills + 1)).then_some(());
        support::eventually_within(LONG, "traffic goes on", enough).await;
        process.kill();
        process.start().await;
    }
    let promised = traffic.end().await;
    assert_eq!(promised.len(), messages, "every message was taken in the end");
    let patience = LONG + Duration::from_millis(20) * u32::try_from(messages).unwrap();
    let missing = || {
        let copies = copies(&sink.mails());
        promised.keys().all(|id| copies.contains_key(id)).then_some(())
    };
    support::eventually_within(patience, "every promised message arrives", missing).await;
    let store = process.settle().await;
    Tally::of(&promised, &sink.mails(), &store).check(kills);
}

/// Killed at a known point of the way out: before the dot the mail is sent again as if nothing had been; behind it
/// nobody knows, and the trail says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kill_costs_depends_on_the_dot_alone() {
    for (at, act, arrivals, unknown) in [
        (At::Banner, Act::Silence, 1..=1, 0..=0),
        (At::Mail, Act::Silence, 1..=1, 0..=0),
        (At::Rcpt, Act::Silence, 1..=1, 0..=0),
        (At::Data, Act::Silence, 1..=1, 0..=0),
        (At::Body, Act::Silence, 1..=1, 0..=0),
        (At::Dot, Act::Silence, 1..=1, 1..=1),
        (At::Dot, Act::Keep, 2..=2, 1..=1),
        // The answer and the signal are on their way at the same time.
        (At::Dot, Act::Say("250 taken"), 1..=2, 0..=1),
    ] {
        for offers in [vec!["PIPELINING"], vec![]] {
            let what = format!("{act:?} at {at:?}, {offers:?}");
            let mut script = Script::new().at(at, [Some(act.clone())]);
            script.offers = offers;
            let server = Server::start(script).await;
            let mut process = Process::toward(server.address.port(), "");
            process.start().await;
            let mut client = Client::connect(process.address(1)).await.unwrap();
            // No buffer on the way holds a message whose end shall not be reached.
            let text = message(0) + &"y".repeat(998).repeat(if at == At::Body { 12_000 } else { 1 }) + "\r\n";
            let text = text.replace(&"y".repeat(998), &("y".repeat(996) + "\r\n"));
            let id = client.submit("a@example.com", &["b@example.net"], &text).await.unwrap();
            let there = || server.with(|script| script.is_done(at)).then_some(());
            support::eventually(&what, there).await;
            process.kill();
            process.start().await;
            let store = process.settle().await;
            let trail = store.trail(id.parse().unwrap()).unwrap().unwrap();
            assert_eq!(trail.recipients[0].state(), State::Relayed, "{what}: {:?}", trail.facts);
            let (arrived, unknowns) = (server.taken().len(), unknowns(&trail));
            assert!(arrivals.contains(&arrived), "{what}: arrived {arrived} times: {:?}", trail.facts);
            assert!(unknown.contains(&unknowns) && arrived <= 1 + unknowns, "{what}: {:?}", trail.facts);
            assert!(server.taken().iter().all(|taken| taken.message.ends_with(text.as_bytes())), "{what}");
        }
    }
}

/// Clients that send until everything was taken, whatever happens to the relay.
struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    next: AtomicUsize,
    messages: usize,
    /// Tracking ids that were answered with 250, and the numbers of their messages.
    promised: Mutex<HashMap<String, usize>>,
}

impl Traffic {
    fn start(process: &Process, messages: usize) -> Self {
        let shared = Arc::new(Shared { next: AtomicUsize::new(0), messages, promised: Mutex::default() });
        let trust = mailtrail_net::tls::connector(Some(&process.data().join("tls/relay.pem"))).unwrap();
        let client = |number: usize| {
            // One in four as Odoo does it.
            let secure = number.is_multiple_of(4);
            let address = process.address(if secure { 0 } else { 1 });
            tokio::spawn(shared.clone().send_all(address, secure.then(|| trust.clone())))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { shared, clients }
    }

    fn promised(&self) -> usize {
        self.shared.promised.lock().unwrap().len()
    }

    async fn end(self) -> HashMap<String, usize> {
        for client in self.clients {
            client.await.unwrap();
        }
        self.shared.promised.lock().unwrap().clone()
    }
}

impl Shared {
    async fn send_all(self: Arc<Self>, address: SocketAddr, trust: Option<TlsConnector>) {
        let mut client = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.messages {
                return;
            }
            // Without a 250 the message is the client's: it sends it again, and that is another send.
            let id = loop {
                match send(&mut client, address, trust.as_ref(), number).await {
                    Ok(id) => break id,
                    Err(_) => {
                        client = None;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            };
            let known = self.promised.lock().unwrap().insert(id, number);
            assert_eq!(known, None, "an id is never given twice");
        }
    }
}

async fn send(
    client: &mut Option<Client>,
    address: SocketAddr,
    trust: Option<&TlsConnector>,
    number: usize,
) -> std::io::Result<String> {
    if client.is_none() {
        *client = Some(match trust {
            Some(trust) => Client::log_in(address, trust).await?,
            None => Client::connect(address).await?,
        });
    }
    let client = client.as_mut().unwrap();
    client.submit("a@example.com", &["b@example.net"], &message(number)).await
}

/// Of sizes from nothing to some tens of kilobytes.
fn message(number: usize) -> String {
    let line = format!("{number} {}\r\n", "x".repeat(60));
    format!(
        "Message-ID: <{number}@example.com>\r\nSubject: {number}\r\n\r\n{}",
        line.repeat(number * 37 % 500)
    )
}

fn copies(mails: &[Mail]) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    mails.iter().for_each(|mail| *copies.entry(mail.id().to_owned()).or_default() += 1);
    copies
}

/// What became of everything.
#[derive(Debug, Default)]
struct Tally {
    promised: usize,
    /// Kept, though the client never heard so.
    kept_unheard: usize,
    arrived: usize,
    /// Sends that arrived more than once, each explained.
    repeated: usize,
    /// Sends with an `unknown` in their trail.
    unknown: usize,
}

impl Tally {
    fn of(promised: &HashMap<String, usize>, mails: &[Mail], store: &Store) -> Self {
        let copies = copies(mails);
        for mail in mails {
            let number: usize = support::header(&mail.message, "Subject").unwrap().parse().unwrap();
            let fits = promised.get(mail.id()).is_none_or(|known| *known == number);
            assert!(fits && mail.message.ends_with(message(number).as_bytes()), "{} is whole", mail.id());
        }
        let kept = all_sends(store);
        let mut tally = Self { promised: promised.len(), arrived: copies.len(), ..Self::default() };
        tally.kept_unheard = kept.iter().filter(|id| !promised.contains_key(&id.to_string())).count();
        assert_eq!(kept.len(), tally.promised + tally.kept_unheard, "what was promised is in the store");
        for id in kept {
            let trail = store.trail(id).unwrap().unwrap();
            assert_eq!(trail.recipients[0].state(), State::Relayed, "{id}: {:?}", trail.facts);
            let (arrivals, unknowns) = (copies.get(&id.to_string()).copied().unwrap_or(0), unknowns(&trail));
            assert!(arrivals >= 1, "{id} was relayed and never arrived");
            assert!(arrivals <= 1 + unknowns, "{id} arrived {arrivals} times: {:?}", trail.facts);
            tally.repeated += usize::from(arrivals > 1);
            tally.unknown += usize::from(unknowns > 0);
        }
        tally
    }

    fn check(&self, kills: usize) {
        println!("{kills} kills: {self:?}");
        assert_eq!(self.arrived, self.promised + self.kept_unheard, "accepted = arrived");
        assert!(kills == 0 || self.unknown > 0, "the kills hit nothing: this has tested nothing");
    }
}

fn unknowns(trail: &Trail) -> usize {
    trail.facts.iter().filter(|fact| fact.what == What::Attempted(Standing::Unknown)).count()
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |value| value.parse().expect("a number"))
}

const CLIENTS: usize = 8;
const LONG: Duration = Duration::from_secs(60);
