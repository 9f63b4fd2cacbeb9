//! What the front door does beyond words: duplicates, proxies, wishes for reports.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/log.rs"]
mod log;
mod support;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use log::Log;
use mailtrail::ledger::{State, Trail, What};
use mailtrail::mail::{Notify, Ret};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use support::client::Client;
use support::relay::{PASSWORD, Relay, USER};
use support::sink::{Manners, Sink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FROM: &str = "a@example.com";

fn message(id: &str, body: &str) -> String {
    format!("Message-ID: <{id}@example.com>\r\nFrom: a@example.com\r\nDate: x\r\n\r\n{body}\r\n")
}

/// A trail, once it is in the ledger.
async fn trail(relay: &Relay, id: &str) -> Trail {
    let id = id.parse().unwrap();
    support::eventually("its trail", || relay.store().trail(id).unwrap()).await
}

/// How often a trail says that the mail was handed in again, and for whom.
fn repetitions(trail: &Trail) -> Vec<Vec<u16>> {
    let facts = trail.facts.iter().filter(|fact| fact.what == What::Repeated);
    facts.map(|fact| fact.recipients.clone()).collect()
}

async fn guarded(refused: &[(&str, &str)]) -> (Sink, Relay, Client) {
    let refused: HashMap<_, _> = refused.iter().map(|(to, reply)| ((*to).into(), (*reply).into())).collect();
    let sink = Sink::with(Manners { refused, ..Manners::default() }).await;
    let relay = Relay::start(&sink, "[duplicates]\nwindow = \"1h\"").await;
    let client = Client::connect(relay.open()).await.unwrap();
    (sink, relay, client)
}

#[tokio::test]
async fn what_is_handed_in_again_is_not_sent_again() {
    let (sink, relay, mut client) = guarded(&[]).await;
    let to = ["b@example.net", "c@example.net"];
    let first = client.submit(FROM, &to, &message("1", "text")).await.unwrap();
    for _ in 0..2 {
        let again = client.submit(FROM, &["C@example.net"], &message("1", "text")).await.unwrap();
        assert_eq!(again, first);
    }
    // Somebody new beside somebody known: only the new one gets it.
    let more = client.submit(FROM, &["b@example.net", "d@example.net"], &message("1", "text")).await.unwrap();
    assert_ne!(more, first);
    // Another body, another Message-ID: another mail.
    client.submit(FROM, &to, &message("1", "other")).await.unwrap();
    client.submit(FROM, &to, &message("2", "text")).await.unwrap();
    let mails = sink.wait_for(4).await;
    let mut recipients: Vec<_> = mails.iter().map(|mail| mail.recipients.clone()).collect();
    recipients.sort();
    assert_eq!(recipients, [&to[..], &to[..], &to[..], &["d@example.net"][..]]);
    let (store, _directory) = relay.stop().await;
    let trail = store.trail(first.parse().unwrap()).unwrap().unwrap();
    assert_eq!(repetitions(&trail), [vec![1], vec![1], vec![0]]);
    assert_eq!(sink.count(), 4);
}

#[tokio::test]
async fn what_failed_may_be_sent_again() {
    let (_sink, relay, mut client) = guarded(&[("b@example.net", "550 5.1.1 nobody here")]).await;
    let first = client.submit(FROM, &["b@example.net"], &message("1", "text")).await.unwrap();
    let failed = || {
        let trail = relay.store().trail(first.parse().unwrap()).unwrap()?;
        trail.recipients.iter().all(|recipient| !recipient.waits()).then_some(())
    };
    support::eventually("it failed", failed).await;
    let again = client.submit(FROM, &["b@example.net"], &message("1", "text")).await.unwrap();
    assert_ne!(again, first);
    assert!(repetitions(&trail(&relay, &first).await).is_empty());
}

#[tokio::test]
async fn many_at_once_are_one_mail() {
    let (sink, relay, _) = guarded(&[]).await;
    let send = |address| async move {
        let mut client = Client::connect(address).await.unwrap();
        client.submit(FROM, &["b@example.net"], &message("1", "text")).await.unwrap()
    };
    let ids = futures_util::future::join_all((0..20).map(|_| send(relay.open()))).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    relay.stop().await;
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn our_own_mail_does_not_come_back() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = Client::connect(relay.open()).await.unwrap();
    let id = client.submit(FROM, &["b@example.net"], &message("1", "text")).await.unwrap();
    let stamped = String::from_utf8(sink.arrival(&id).await.message).unwrap();
    let refusal = client.submit(FROM, &["b@example.net"], &stamped).await.unwrap_err().to_string();
    assert!(refusal.starts_with("554 5.4.6 "), "{refusal}");
    let foreign = stamped.replace(&id, "01K54Z8Q3V7N5X9B2C6D8F0GHJ");
    client.submit(FROM, &["b@example.net"], &foreign).await.unwrap();
}

#[tokio::test]
async fn the_client_in_front_of_the_proxies_is_named() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut names = Vec::new();
    for introduction in [
        &["PROXY TCP4 192.0.2.8 198.51.100.1 1111 25"][..],
        &["PROXY TCP6 2001:db8::1 2001:db8::2 1111 25"],
        &["PROXY TCP4 192.0.2.7 198.51.100.1 1111 25", "XCLIENT ADDR=192.0.2.9 LOGIN=odoo"],
    ] {
        let mut client = Client::by_proxy(relay.proxied(), introduction).await.unwrap();
        let id = client.submit(FROM, &["b@example.net"], &message("1", "text")).await.unwrap();
        let text = String::from_utf8(sink.arrival(&id).await.message).unwrap();
        let send = trail(&relay, &id).await.send;
        names.push((
            send.peer.unwrap().to_string(),
            send.client,
            text.split_once(";\r\n").unwrap().0.to_owned(),
        ));
    }
    let expected = [
        ("192.0.2.8", "192.0.2.8", "([192.0.2.8])\r\n\tby relay.example.com with ESMTP id "),
        ("2001:db8::1", "2001:db8::1", "([IPv6:2001:db8::1])\r\n\tby relay.example.com with ESMTP id "),
        ("192.0.2.9", "odoo", "([192.0.2.9])\r\n\tby relay.example.com with ESMTPA id "),
    ];
    for ((peer, client, received), (wanted_peer, wanted_client, text)) in names.iter().zip(expected) {
        assert_eq!((peer.as_str(), client.as_str()), (wanted_peer, wanted_client));
        assert!(received.contains(text), "{received}");
    }
}

#[tokio::test]
async fn wishes_for_reports_are_kept() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = Client::connect(relay.open()).await.unwrap();
    for line in [
        "MAIL FROM:<a@example.com> RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<b@example.net>",
        "RCPT TO:<c@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@example.net",
        "RCPT TO:<d@example.net> NOTIFY=NEVER",
    ] {
        assert_eq!(client.ask(line).await.unwrap().0, 250, "{line}");
    }
    client.ask("DATA").await.unwrap();
    let (_, reply) = client.ask(&(message("1", "text") + ".")).await.unwrap();
    let id = reply.rsplit(' ').next().unwrap().to_owned();
    let dsn = trail(&relay, &id).await.send.dsn;
    assert_eq!((dsn.ret, dsn.envid.as_deref()), (Some(Ret::Headers), Some("QQ+2B1")));
    let wishes: Vec<_> = dsn.recipients.iter().map(|(place, wish)| (*place, wish.notify.unwrap())).collect();
    assert_eq!(wishes, [(1, Notify { success: true, failure: false, delay: true }), (2, Notify::default())]);
    assert_eq!(dsn.recipients[0].1.orcpt.as_deref(), Some("rfc822;x@example.net"));
}

/// One login on a connection of its own; the code of the last reply, whichever came.
async fn log_in(relay: &Relay, user: &str, password: &str) -> u16 {
    let Ok(client) = Client::connect(relay.guarded()).await else { return 421 };
    let mut client = client.start_tls(&relay.trust()).await.unwrap();
    let token = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
    let (code, text) = client.ask(&format!("AUTH PLAIN {token}")).await.unwrap();
    if code != 235 {
        assert_eq!(client.ask("NOOP").await.unwrap().0, 250, "the session goes on after {text}");
    }
    code
}

const GUARDED: &str = "login_failures = 3\n[[user]]\nname = \"shop\"\npassword = \"shop-secret\"";

#[tokio::test]
async fn a_client_that_logged_in_rightly_keeps_the_door_whatever_others_try_from_its_address() {
    for guess in [
        |number: u32| (format!("name{number}"), "x".to_owned()),
        |number: u32| (USER.to_owned(), format!("wrong{number}")),
    ] {
        let sink = Sink::start().await;
        let relay = Relay::start(&sink, GUARDED).await;
        assert_eq!(log_in(&relay, USER, PASSWORD).await, 235);
        for number in 0..4 {
            let (name, password) = guess(number);
            let code = log_in(&relay, &name, &password).await;
            assert!(matches!(code, 535 | 454), "{name}: {code}");
        }
        assert_eq!(log_in(&relay, USER, PASSWORD).await, 235);
        let mut client = Client::log_in(relay.guarded(), &relay.trust()).await.unwrap();
        client.submit(FROM, &["b@example.net"], &message("1", "text")).await.unwrap();
    }
}

#[tokio::test]
async fn wrong_logins_of_others_refuse_no_user_that_comes_for_the_first_time() {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, GUARDED).await;
    for number in 0..3 {
        assert_ne!(log_in(&relay, "shop", &format!("wrong{number}")).await, 235);
    }
    assert_eq!(
        log_in(&relay, "shop", "shop-secret").await,
        454,
        "of that user nothing is checked for a while"
    );
    assert_eq!(log_in(&relay, USER, PASSWORD).await, 235);
}

/// A relay in front of a server that takes everything, with no look for duplicates.
async fn plain() -> (Sink, Relay, Client) {
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    let client = Client::connect(relay.open()).await.unwrap();
    (sink, relay, client)
}

/// Hands a message over; what the recipient's server gets of it.
async fn pass(client: &mut Client, sink: &Sink, to: &[&str], message: &str) -> (String, String) {
    let id = client.submit(FROM, to, message).await.unwrap();
    let arrived = sink.arrival(&id).await;
    assert_eq!(arrived.recipients, to);
    (id, String::from_utf8(arrived.message).unwrap())
}

/// What is said to a message that is not taken.
async fn refusal(client: &mut Client, to: &[&str], message: &str) -> String {
    client.submit(FROM, to, message).await.unwrap_err().to_string()
}

const LOOP: &str = "554 5.4.6 ";

/// `message` without the fields whose names begin with that.
fn without(message: &str, name: &str) -> String {
    let (head, body) = message.split_once("\r\n\r\n").unwrap();
    let mut fields: Vec<String> = Vec::new();
    for line in head.split("\r\n") {
        match fields.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
            Some(field) => *field = format!("{field}\r\n{line}"),
            None => fields.push(line.to_owned()),
        }
    }
    fields.retain(|field| !field.starts_with(name));
    format!("{}\r\n\r\n{body}", fields.join("\r\n"))
}

/// The server of each recipient forwards the mail to the next one, through us.
#[tokio::test]
async fn a_redirect_is_no_loop() {
    let (sink, relay, mut client) = plain().await;
    // Forwarders keep what they get, or take out what says where it has been.
    for (round, kept) in ["", "Received:", "X-Mailtrail-Id:", "X-Mailtrail-Via:"].into_iter().enumerate() {
        let to: Vec<_> = ["b", "c", "d", "e"].map(|name| format!("{name}{round}@example.net")).into();
        let original = message(&format!("r{round}"), "text");
        let (_, first) = pass(&mut client, &sink, &[&to[0]], &original).await;
        let first = if kept.is_empty() { first } else { without(&first, kept) };
        assert!(refusal(&mut client, &[&to[0]], &first).await.starts_with(LOOP), "{kept}");
        let upper = to[0].to_uppercase();
        assert!(refusal(&mut client, &[&upper], &first).await.starts_with(LOOP), "{kept}");
        let (_, second) = pass(&mut client, &sink, &[&to[1]], &first).await;
        let second = if kept.is_empty() { second } else { without(&second, kept) };
        for seen in &to[..2] {
            assert!(refusal(&mut client, &[seen], &second).await.starts_with(LOOP), "{kept}: {second}");
        }
        let (_, third) = pass(&mut client, &sink, &[&to[2]], &second).await;
        let third = if kept.is_empty() { third } else { without(&third, kept) };
        // Three rounds are enough, whoever is next.
        assert!(refusal(&mut client, &[&to[3]], &third).await.starts_with(LOOP), "{kept}: {third}");
        // A mail about that mail is another one.
        let quoting = format!("{}\r\n{third}", message(&format!("q{round}"), "It was:"));
        pass(&mut client, &sink, &[&to[0]], &quoting).await;
    }
    relay.stop().await;
}

/// Ids that we gave nothing, or something else, refuse nothing; those of other relays are not ours.
#[tokio::test]
async fn a_foreign_id_is_no_loop() {
    let (sink, relay, mut client) = plain().await;
    let (other, _) = pass(&mut client, &sink, &["b@example.net"], &message("1", "text")).await;
    for line in [
        format!("X-Mailtrail-Id: {other}"),
        "X-Mailtrail-Id: 01K54Z8Q3V7N5X9B2C6D8F0GHJ".to_owned(),
        "X-Mailtrail-Id: nonsense".to_owned(),
        format!("Received: from x by relay.example.com with ESMTP id {other}; x"),
        "Received: from x by mx.example.net with ESMTP id 01K54Z8Q3V7N5X9B2C6D8F0GHJ; x".to_owned(),
    ] {
        let forged = format!("{line}\r\n{}", message("2", "text"));
        let (id, arrived) = pass(&mut client, &sink, &["c@example.net"], &forged).await;
        assert_ne!(id, other);
        assert_eq!(arrived.matches("X-Mailtrail-Id:").count(), 1, "{arrived}");
    }
    relay.stop().await;
}

/// Of several recipients only those that had the mail are refused, by the report that each refused recipient gets.
#[tokio::test]
async fn a_recipient_that_had_the_mail_harms_no_other() {
    let (sink, relay, mut client) = plain().await;
    let to = ["b@example.net", "c@example.net"];
    let (_, first) = pass(&mut client, &sink, &to, &message("1", "text")).await;
    let id = client.submit(FROM, &["d@example.net", "C@example.net", "e@example.net"], &first).await.unwrap();
    assert_eq!(sink.arrival(&id).await.recipients, ["d@example.net", "e@example.net"]);
    let (store, _directory) = relay.stop().await;
    let trail = store.trail(id.parse().unwrap()).unwrap().unwrap();
    let states: Vec<_> = trail.recipients.iter().map(|recipient| recipient.state()).collect();
    assert_eq!(states, [State::Relayed, State::Failed, State::Relayed]);
    let text = trail.recipients[1].words.text.as_deref().unwrap();
    assert!(text.contains("has this mail already"), "{text}");
    assert_eq!(trail.recipients[1].words.enhanced.as_deref(), Some("5.4.6"));
}

/// What a client does wrong at a door.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    Says(fn(&Relay) -> SocketAddr, &'static [u8]),
    DistrustsAfterStartTls,
    DistrustsFromTheFirstByte,
}

async fn make(mistake: Mistake, relay: &Relay) {
    // It trusts nothing that this relay has.
    let trust = mailtrail::tls::connector(None).unwrap();
    match mistake {
        Mistake::Says(door, words) => {
            let mut stream = TcpStream::connect(door(relay)).await.unwrap();
            stream.write_all(words).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        Mistake::DistrustsAfterStartTls => {
            let client = Client::connect(relay.guarded()).await.unwrap();
            assert!(client.start_tls(&trust).await.is_err());
        }
        Mistake::DistrustsFromTheFirstByte => {
            assert!(Client::connect_secured(relay.implicit(), &trust).await.is_err());
        }
    }
}

/// The beginning of a TLS 1.1 client's handshake (RFC 4346 section 7.4.1.2).
const OLD_HELLO: &[u8] = &[
    0x16, 3, 1, 0, 49, 1, 0, 0, 45, 3, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 4, 0xc0, 0x09, 0, 0x2f, 1, 0, 0, 0,
];

#[tokio::test]
async fn each_mistake_at_a_door_is_one_warning_with_its_remedy() {
    use Mistake::{DistrustsAfterStartTls, DistrustsFromTheFirstByte, Says};
    for (mistake, remedy) in [
        (Says(Relay::guarded, OLD_HELLO), "set the client to STARTTLS"),
        (Says(Relay::open, OLD_HELLO), "TLS from the first byte"),
        (Says(Relay::guarded, &[0x16]), "TLS from the first byte"),
        (Says(Relay::implicit, b"EHLO client\r\n"), "set the client to SSL/TLS"),
        (Says(Relay::implicit, b"GET / HTTP/1.1\r\n\r\n"), "set the client to SSL/TLS"),
        (Says(Relay::implicit, OLD_HELLO), "it needs TLS 1.2"),
        (DistrustsAfterStartTls, "does not trust our certificate"),
        (DistrustsFromTheFirstByte, "does not trust our certificate"),
        (Says(Relay::guarded, b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n"), "switch STARTTLS on"),
        (
            Says(Relay::guarded, b"EHLO a\r\nAUTH PLAIN AGEAYg==\r\nAUTH LOGIN\r\nQUIT\r\n"),
            "switch STARTTLS on",
        ),
        (Says(Relay::open, b"EHLO a\r\nAUTH PLAIN AGEAYg==\r\nQUIT\r\n"), "see `auth` of the listener"),
        (Says(Relay::open, b"EHLO a\r\nSTARTTLS\r\nQUIT\r\n"), "see `tls` of the listener"),
        (Says(Relay::open, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "another protocol than SMTP"),
        (Says(Relay::closed, b""), "see `allow` of the listener"),
        (Says(Relay::proxied, b"EHLO a\r\n"), "see `proxy_protocol_from` of the listener"),
        (Says(Relay::proxied, b"PROXY TCP4 198.51.100.1 192.0.2.1 1 25\r\n"), "see `allow` of the listener"),
        (
            Says(Relay::proxied, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\nXCLIENT ADDR=198.51.100.9\r\n"),
            "see `allow` of the listener",
        ),
        (
            Says(Relay::proxied, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\nXCLIENT LOGIN=nobody\r\nQUIT\r\n"),
            "XCLIENT names a user",
        ),
    ] {
        let log = Log::default();
        let _listening = log.listen();
        let sink = Sink::start().await;
        let relay = Relay::start(&sink, "").await;
        for _ in 0..4 {
            make(mistake, &relay).await;
        }
        relay.stop().await;
        let warnings = log.lines(" WARN ");
        assert!(warnings.len() == 1 && warnings[0].contains(remedy), "{mistake:?}: {warnings:#?}");
        assert!(warnings[0].contains("peer="), "{warnings:#?}");
    }
}

#[tokio::test]
async fn connections_too_many_and_senders_of_others_are_one_warning() {
    let log = Log::default();
    let _listening = log.listen();
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "connections_per_ip = 1").await;
    let mut client = Client::log_in(relay.guarded(), &relay.trust()).await.unwrap();
    for _ in 0..30 {
        assert!(Client::connect(relay.open()).await.is_err());
        assert_eq!(client.ask("MAIL FROM:<a@example.org>").await.unwrap().0, 553);
    }
    for text in ["see `connections` and `connections_per_ip` in [limits]", "see `senders` of the [[user]]"] {
        assert_eq!(log.lines(text).len(), 1, "{text}");
    }
    assert_eq!(log.lines(" WARN ").len(), 2);
}

/// A health check connects and leaves; a client that waits for a greeting in clear stays for a while.
#[tokio::test(start_paused = true)]
async fn a_probe_is_no_mistake_and_a_silent_client_is() {
    let log = Log::default();
    let _listening = log.listen();
    let sink = Sink::start().await;
    let relay = Relay::start(&sink, "").await;
    drop(TcpStream::connect(relay.implicit()).await.unwrap());
    drop(TcpStream::connect(relay.guarded()).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.lines(" WARN "), [""; 0]);
    let mut stream = TcpStream::connect(relay.implicit()).await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(log.lines("set it to SSL/TLS").len(), 1);
}
