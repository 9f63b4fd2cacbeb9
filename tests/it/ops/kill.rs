//! `kill -9` during traffic, several times. Every message with a 250 arrives; a duplicate has an `unknown` in its
//! trail.
//!
//! MAILTRAIL_TEST_KILLS (3) and MAILTRAIL_TEST_MESSAGES (600) set the number of rounds and messages.

use mailtrail_store::Store;
use mailtrail_trail::{AttemptStatus, RecipientState, Trail, TrailEventKind};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::relay::all_message_ids;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{ReceivedMessage, SinkOptions, SmtpSink};
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_loses_no_accepted_message() {
    let (kills, messages) =
        (env_number("MAILTRAIL_TEST_KILLS", 3), env_number("MAILTRAIL_TEST_MESSAGES", 600));
    // The delay keeps attempts in progress.
    let options = SinkOptions { reply_delay: Duration::from_millis(20), ..SinkOptions::default() };
    let sink = SmtpSink::with_options(options).await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let traffic = KillTraffic::start(&process, messages);
    for kill in 1..=kills {
        let enough = || (traffic.accepted_count() >= messages * kill / (kills + 1)).then_some(());
        testkit::eventually_within(LONG_TIMEOUT, "traffic goes on", enough).await;
        process.kill();
        process.start().await;
    }
    let promised = traffic.wait_until_sent().await;
    assert_eq!(promised.len(), messages, "every message was taken in the end");
    let limit = LONG_TIMEOUT + Duration::from_millis(20) * u32::try_from(messages).unwrap();
    let missing = || {
        let copies = count_copies(&sink.messages());
        promised.keys().all(|id| copies.contains_key(id)).then_some(())
    };
    testkit::eventually_within(limit, "every promised message arrives", missing).await;
    let store = process.drain().await;
    KillResults::collect(&promised, &sink.messages(), &store).assert_nothing_lost(kills);
}

/// A kill at a chosen step of the delivery: before the final dot the message is sent again; after it the result is
/// unknown, and the trail has that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_before_end_of_data_resends_and_after_it_is_unknown() {
    for (at, act, arrivals, unknown) in [
        (SmtpStep::Banner, SmtpAction::Hang, 1..=1, 0..=0),
        (SmtpStep::Mail, SmtpAction::Hang, 1..=1, 0..=0),
        (SmtpStep::Rcpt, SmtpAction::Hang, 1..=1, 0..=0),
        (SmtpStep::Data, SmtpAction::Hang, 1..=1, 0..=0),
        (SmtpStep::Body, SmtpAction::Hang, 1..=1, 0..=0),
        (SmtpStep::Dot, SmtpAction::Hang, 1..=1, 1..=1),
        (SmtpStep::Dot, SmtpAction::AcceptAndHang, 2..=2, 1..=1),
        // The reply and the signal are in flight at the same time.
        (SmtpStep::Dot, SmtpAction::Reply("250 taken"), 1..=2, 0..=1),
    ] {
        for offers in [vec!["PIPELINING"], vec![]] {
            let what = format!("{act:?} at {at:?}, {offers:?}");
            let mut script = SmtpScript::new().on(at, [Some(act.clone())]);
            script.capabilities = offers;
            let server = MockSmtpServer::start(script).await;
            let mut process = RelayProcess::with_upstream_port(server.address.port(), "");
            process.start().await;
            let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
            // The message is larger than all buffers, so that its end cannot be in flight.
            let text = sample_message(0)
                + &"y".repeat(998).repeat(if at == SmtpStep::Body { 12_000 } else { 1 })
                + "\r\n";
            let text = text.replace(&"y".repeat(998), &("y".repeat(996) + "\r\n"));
            let id = client.submit("a@example.com", &["b@example.net"], &text).await.unwrap();
            let there = || server.with_script(|script| script.is_done(at)).then_some(());
            testkit::eventually(&what, there).await;
            process.kill();
            process.start().await;
            let store = process.drain().await;
            let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
            assert_eq!(trail.recipients[0].state(), RecipientState::Relayed, "{what}: {:?}", trail.events);
            let (arrived, unknowns) = (server.accepted().len(), count_unknown(&trail));
            assert!(arrivals.contains(&arrived), "{what}: arrived {arrived} times: {:?}", trail.events);
            assert!(unknown.contains(&unknowns) && arrived <= 1 + unknowns, "{what}: {:?}", trail.events);
            assert!(server.accepted().iter().all(|taken| taken.message.ends_with(text.as_bytes())), "{what}");
        }
    }
}

/// Clients that send until everything is accepted, across all kills.
struct KillTraffic {
    shared: Arc<KillTrafficState>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

struct KillTrafficState {
    next_number: AtomicUsize,
    messages: usize,
    /// Tracking ids that were answered with 250, and the numbers of their messages.
    accepted: Mutex<HashMap<String, usize>>,
}

impl KillTraffic {
    fn start(process: &RelayProcess, messages: usize) -> Self {
        let shared = Arc::new(KillTrafficState {
            next_number: AtomicUsize::new(0),
            messages,
            accepted: Mutex::default(),
        });
        let trust =
            mailtrail_net::tls::build_connector(Some(&process.data_dir().join("tls/relay.pem"))).unwrap();
        let client = |number: usize| {
            // One in four uses TLS and authentication, as Odoo does.
            let secure = number.is_multiple_of(4);
            let address = process.address(if secure { 0 } else { 1 });
            tokio::spawn(shared.clone().send_all(address, secure.then(|| trust.clone())))
        };
        let clients = (0..CLIENT_COUNT).map(client).collect();
        Self { shared, clients }
    }

    fn accepted_count(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    async fn wait_until_sent(self) -> HashMap<String, usize> {
        for client in self.clients {
            client.await.unwrap();
        }
        self.shared.accepted.lock().unwrap().clone()
    }
}

impl KillTrafficState {
    async fn send_all(self: Arc<Self>, address: SocketAddr, trust: Option<TlsConnector>) {
        let mut client = None;
        loop {
            let number = self.next_number.fetch_add(1, Ordering::Relaxed);
            if number >= self.messages {
                return;
            }
            // Without a 250 the message is the client's: it sends it again, and that is another send.
            let id = loop {
                match send_message(&mut client, address, trust.as_ref(), number).await {
                    Ok(id) => break id,
                    Err(_) => {
                        client = None;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            };
            let known = self.accepted.lock().unwrap().insert(id, number);
            assert_eq!(known, None, "an id is never given twice");
        }
    }
}

async fn send_message(
    client: &mut Option<SmtpClient>,
    address: SocketAddr,
    trust: Option<&TlsConnector>,
    number: usize,
) -> std::io::Result<String> {
    if client.is_none() {
        *client = Some(match trust {
            Some(trust) => SmtpClient::log_in(address, trust).await?,
            None => SmtpClient::connect(address).await?,
        });
    }
    let client = client.as_mut().unwrap();
    client.submit("a@example.com", &["b@example.net"], &sample_message(number)).await
}

/// Returns a message of up to some tens of kilobytes.
fn sample_message(number: usize) -> String {
    let line = format!("{number} {}\r\n", "x".repeat(60));
    format!(
        "Message-ID: <{number}@example.com>\r\nSubject: {number}\r\n\r\n{}",
        line.repeat(number * 37 % 500)
    )
}

fn count_copies(mails: &[ReceivedMessage]) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    mails.iter().for_each(|mail| *copies.entry(mail.tracking_id().to_owned()).or_default() += 1);
    copies
}

/// Results of all messages.
#[derive(Debug, Default)]
struct KillResults {
    accepted: usize,
    /// Stored messages whose reply did not reach the client.
    stored_unacknowledged: usize,
    arrived: usize,
    /// Sends that arrived more than once, each explained.
    repeated: usize,
    /// Sends with an `unknown` in their trail.
    unknown: usize,
}

impl KillResults {
    fn collect(promised: &HashMap<String, usize>, mails: &[ReceivedMessage], store: &Store) -> Self {
        let copies = count_copies(mails);
        for mail in mails {
            let number: usize = testkit::header_value(&mail.message, "Subject").unwrap().parse().unwrap();
            let fits = promised.get(mail.tracking_id()).is_none_or(|known| *known == number);
            assert!(
                fits && mail.message.ends_with(sample_message(number).as_bytes()),
                "{} is whole",
                mail.tracking_id()
            );
        }
        let kept = all_message_ids(store);
        let mut tally = Self { accepted: promised.len(), arrived: copies.len(), ..Self::default() };
        tally.stored_unacknowledged =
            kept.iter().filter(|id| !promised.contains_key(&id.to_string())).count();
        assert_eq!(
            kept.len(),
            tally.accepted + tally.stored_unacknowledged,
            "what was promised is in the store"
        );
        for id in kept {
            let trail = store.load_trail(id).unwrap().unwrap();
            assert_eq!(trail.recipients[0].state(), RecipientState::Relayed, "{id}: {:?}", trail.events);
            let (arrivals, unknowns) =
                (copies.get(&id.to_string()).copied().unwrap_or(0), count_unknown(&trail));
            assert!(arrivals >= 1, "{id} was relayed and never arrived");
            assert!(arrivals <= 1 + unknowns, "{id} arrived {arrivals} times: {:?}", trail.events);
            tally.repeated += usize::from(arrivals > 1);
            tally.unknown += usize::from(unknowns > 0);
        }
        tally
    }

    fn assert_nothing_lost(&self, kills: usize) {
        println!("{kills} kills: {self:?}");
        assert_eq!(self.arrived, self.accepted + self.stored_unacknowledged, "accepted = arrived");
        assert!(kills == 0 || self.unknown > 0, "the kills hit nothing: this has tested nothing");
    }
}

fn count_unknown(trail: &Trail) -> usize {
    trail.events.iter().filter(|fact| fact.kind == TrailEventKind::Attempted(AttemptStatus::Unknown)).count()
}

fn env_number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |value| value.parse().expect("a number"))
}

const CLIENT_COUNT: usize = 8;
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
