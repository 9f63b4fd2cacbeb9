//! Listeners beyond dialogues: duplicates, proxies, requests for DSNs.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mailtrail_mail::{Clock, Notify, Ret, Timestamp};
use mailtrail_trail::{RecipientState, Trail, TrailEventKind};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::relay::{PASSWORD, Relay, USER};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{SinkOptions, SmtpSink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SENDER: &str = "a@example.com";

fn sample_message(id: &str, body: &str) -> String {
    format!("Message-ID: <{id}@example.com>\r\nFrom: a@example.com\r\n{DATE_LINE}\r\n{body}\r\n")
}

/// A trail, once it is in the ledger.
async fn wait_for_trail(relay: &Relay, id: &str) -> Trail {
    let id = id.parse().unwrap();
    testkit::eventually("its trail", || relay.store().load_trail(id).unwrap()).await
}

/// Returns the recipients of each duplicate submission in a trail.
fn duplicate_recipients(trail: &Trail) -> Vec<Vec<u16>> {
    let facts = trail.events.iter().filter(|fact| fact.kind == TrailEventKind::Resubmitted);
    facts.map(|fact| fact.recipients.clone()).collect()
}

async fn start_and_log_in(refused: &[(&str, &str)]) -> (SmtpSink, Relay, SmtpClient) {
    let rejections: HashMap<_, _> =
        refused.iter().map(|(to, reply)| ((*to).into(), (*reply).into())).collect();
    let sink = SmtpSink::with_options(SinkOptions { rejections, ..SinkOptions::default() }).await;
    let relay = Relay::start(&sink, "[duplicates]\nwindow = \"1h\"").await;
    let client = SmtpClient::connect(relay.open()).await.unwrap();
    (sink, relay, client)
}

#[tokio::test]
async fn resubmitted_message_is_not_sent_again() {
    let (sink, relay, mut client) = start_and_log_in(&[]).await;
    let to = ["b@example.net", "c@example.net"];
    let first = client.submit(SENDER, &to, &sample_message("1", "text")).await.unwrap();
    for _ in 0..2 {
        let again = client.submit(SENDER, &["C@example.net"], &sample_message("1", "text")).await.unwrap();
        assert_eq!(again, first);
    }
    // A new recipient next to a known one: only the new one gets the message.
    let more = client
        .submit(SENDER, &["b@example.net", "d@example.net"], &sample_message("1", "text"))
        .await
        .unwrap();
    assert_ne!(more, first);
    // Another body, another Message-ID: another mail.
    client.submit(SENDER, &to, &sample_message("1", "other")).await.unwrap();
    client.submit(SENDER, &to, &sample_message("2", "text")).await.unwrap();
    let mails = sink.wait_for_count(4).await;
    let mut recipients: Vec<_> = mails.iter().map(|mail| mail.recipients.clone()).collect();
    recipients.sort();
    assert_eq!(recipients, [&to[..], &to[..], &to[..], &["d@example.net"][..]]);
    drop(client);
    let (store, _directory) = relay.stop().await;
    let trail = store.load_trail(first.parse().unwrap()).unwrap().unwrap();
    assert_eq!(duplicate_recipients(&trail), [vec![1], vec![1], vec![0]]);
    assert_eq!(sink.count(), 4);
}

#[tokio::test]
async fn failed_message_may_be_resubmitted() {
    let (_sink, relay, mut client) = start_and_log_in(&[("b@example.net", "550 5.1.1 nobody here")]).await;
    let first = client.submit(SENDER, &["b@example.net"], &sample_message("1", "text")).await.unwrap();
    let failed = || {
        let trail = relay.store().load_trail(first.parse().unwrap()).unwrap()?;
        trail.recipients.iter().all(|recipient| !recipient.is_pending()).then_some(())
    };
    testkit::eventually("it failed", failed).await;
    let again = client.submit(SENDER, &["b@example.net"], &sample_message("1", "text")).await.unwrap();
    assert_ne!(again, first);
    assert!(duplicate_recipients(&wait_for_trail(&relay, &first).await).is_empty());
}

#[tokio::test]
async fn concurrent_resubmissions_are_one_message() {
    let (sink, relay, _) = start_and_log_in(&[]).await;
    let send = |address| async move {
        let mut client = SmtpClient::connect(address).await.unwrap();
        client.submit(SENDER, &["b@example.net"], &sample_message("1", "text")).await.unwrap()
    };
    let ids = futures_util::future::join_all((0..20).map(|_| send(relay.open()))).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    relay.stop().await;
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn rejects_own_message_as_loop() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    let id = client.submit(SENDER, &["b@example.net"], &sample_message("1", "text")).await.unwrap();
    let stamped = String::from_utf8(sink.wait_for_message(&id).await.message).unwrap();
    let refusal = client.submit(SENDER, &["b@example.net"], &stamped).await.unwrap_err().to_string();
    assert!(refusal.starts_with("554 5.4.6 "), "{refusal}");
    let foreign = stamped.replace(&id, "01K54Z8Q3V7N5X9B2C6D8F0GHJ");
    client.submit(SENDER, &["b@example.net"], &foreign).await.unwrap();
}

#[tokio::test]
async fn names_client_of_proxy_protocol_and_xclient() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut names = Vec::new();
    for introduction in [
        &["PROXY TCP4 192.0.2.8 198.51.100.1 1111 25"][..],
        &["PROXY TCP6 2001:db8::1 2001:db8::2 1111 25"],
        &["PROXY TCP4 192.0.2.7 198.51.100.1 1111 25", "XCLIENT ADDR=192.0.2.9 LOGIN=odoo"],
    ] {
        let mut client = SmtpClient::connect_through_proxy(relay.proxied(), introduction).await.unwrap();
        let id = client.submit(SENDER, &["b@example.net"], &sample_message("1", "text")).await.unwrap();
        let text = String::from_utf8(sink.wait_for_message(&id).await.message).unwrap();
        let send = wait_for_trail(&relay, &id).await.message;
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
async fn stores_dsn_parameters() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    for line in [
        "MAIL FROM:<a@example.com> RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<b@example.net>",
        "RCPT TO:<c@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@example.net",
        "RCPT TO:<d@example.net> NOTIFY=NEVER",
    ] {
        assert_eq!(client.command(line).await.unwrap().0, 250, "{line}");
    }
    client.command("DATA").await.unwrap();
    let (_, reply) = client.command(&(sample_message("1", "text") + ".")).await.unwrap();
    let id = reply.rsplit(' ').next().unwrap().to_owned();
    let dsn = wait_for_trail(&relay, &id).await.message.dsn;
    assert_eq!((dsn.ret, dsn.envid.as_deref()), (Some(Ret::Headers), Some("QQ+2B1")));
    let wishes: Vec<_> = dsn.recipients.iter().map(|(place, wish)| (*place, wish.notify.unwrap())).collect();
    assert_eq!(wishes, [(1, Notify { success: true, failure: false, delay: true }), (2, Notify::default())]);
    assert_eq!(dsn.recipients[0].1.orcpt.as_deref(), Some("rfc822;x@example.net"));
}

/// Logs in on a connection of its own; returns the code of the last reply.
async fn login_code(relay: &Relay, user: &str, password: &str) -> u16 {
    let Ok(client) = SmtpClient::connect(relay.guarded()).await else { return 421 };
    let mut client = client.start_tls(&relay.tls_connector()).await.unwrap();
    let token = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
    let (code, text) = client.command(&format!("AUTH PLAIN {token}")).await.unwrap();
    if code != 235 {
        assert_eq!(client.command("NOOP").await.unwrap().0, 250, "the session goes on after {text}");
    }
    code
}

const LOGIN_LIMITS: &str = "login_failures = 3\n[[user]]\nname = \"shop\"\npassword = \"shop-secret\"";

#[tokio::test]
async fn user_with_earlier_login_is_not_locked_out_by_failures_from_same_address() {
    for guess in [
        |number: u32| (format!("name{number}"), "x".to_owned()),
        |number: u32| (USER.to_owned(), format!("wrong{number}")),
    ] {
        let sink = SmtpSink::start().await;
        let relay = Relay::start(&sink, LOGIN_LIMITS).await;
        assert_eq!(login_code(&relay, USER, PASSWORD).await, 235);
        for number in 0..4 {
            let (name, password) = guess(number);
            let code = login_code(&relay, &name, &password).await;
            assert!(matches!(code, 535 | 454), "{name}: {code}");
        }
        assert_eq!(login_code(&relay, USER, PASSWORD).await, 235);
        let mut client = SmtpClient::log_in(relay.guarded(), &relay.tls_connector()).await.unwrap();
        client.submit(SENDER, &["b@example.net"], &sample_message("1", "text")).await.unwrap();
    }
}

#[tokio::test]
async fn failed_logins_of_one_user_do_not_lock_out_another() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, LOGIN_LIMITS).await;
    for number in 0..3 {
        assert_ne!(login_code(&relay, "shop", &format!("wrong{number}")).await, 235);
    }
    assert_eq!(
        login_code(&relay, "shop", "shop-secret").await,
        454,
        "of that user nothing is checked for a while"
    );
    assert_eq!(login_code(&relay, USER, PASSWORD).await, 235);
}

/// A relay in front of a server that takes everything, with no look for duplicates.
async fn start_and_connect() -> (SmtpSink, Relay, SmtpClient) {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let client = SmtpClient::connect(relay.open()).await.unwrap();
    (sink, relay, client)
}

/// Hands a message over; what the recipient's server gets of it.
async fn submit_and_receive(
    client: &mut SmtpClient,
    sink: &SmtpSink,
    to: &[&str],
    message: &str,
) -> (String, String) {
    let id = client.submit(SENDER, to, message).await.unwrap();
    let arrived = sink.wait_for_message(&id).await;
    assert_eq!(arrived.recipients, to);
    (id, String::from_utf8(arrived.message).unwrap())
}

/// Returns the reply to a rejected message.
async fn rejection_of(client: &mut SmtpClient, to: &[&str], message: &str) -> String {
    client.submit(SENDER, to, message).await.unwrap_err().to_string()
}

const LOOP_REPLY: &str = "554 5.4.6 ";

/// Returns `message` without the fields whose names begin with `name`.
fn without_fields(message: &str, name: &str) -> String {
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
async fn accepts_redirected_message_for_new_recipient() {
    let (sink, relay, mut client) = start_and_connect().await;
    // A forwarder keeps all fields, or removes the ones that record its path.
    for (round, kept) in ["", "Received:", "X-Mailtrail-Id:", "X-Mailtrail-Via:"].into_iter().enumerate() {
        let to: Vec<_> = ["b", "c", "d", "e"].map(|name| format!("{name}{round}@example.net")).into();
        let original = sample_message(&format!("r{round}"), "text");
        let (_, first) = submit_and_receive(&mut client, &sink, &[&to[0]], &original).await;
        let first = if kept.is_empty() { first } else { without_fields(&first, kept) };
        assert!(rejection_of(&mut client, &[&to[0]], &first).await.starts_with(LOOP_REPLY), "{kept}");
        let upper = to[0].to_uppercase();
        assert!(rejection_of(&mut client, &[&upper], &first).await.starts_with(LOOP_REPLY), "{kept}");
        let (_, second) = submit_and_receive(&mut client, &sink, &[&to[1]], &first).await;
        let second = if kept.is_empty() { second } else { without_fields(&second, kept) };
        for seen in &to[..2] {
            assert!(
                rejection_of(&mut client, &[seen], &second).await.starts_with(LOOP_REPLY),
                "{kept}: {second}"
            );
        }
        let (_, third) = submit_and_receive(&mut client, &sink, &[&to[2]], &second).await;
        let third = if kept.is_empty() { third } else { without_fields(&third, kept) };
        // Three rounds are enough, whatever the next hop is.
        assert!(
            rejection_of(&mut client, &[&to[3]], &third).await.starts_with(LOOP_REPLY),
            "{kept}: {third}"
        );
        // A mail about that mail is another one.
        let quoting = format!("{}\r\n{third}", sample_message(&format!("q{round}"), "It was:"));
        submit_and_receive(&mut client, &sink, &[&to[0]], &quoting).await;
    }
    drop(client);
    relay.stop().await;
}

/// Ids that we gave nothing, or something else, refuse nothing; those of other relays are not ours.
#[tokio::test]
async fn unknown_tracking_id_is_no_loop() {
    let (sink, relay, mut client) = start_and_connect().await;
    let (other, _) =
        submit_and_receive(&mut client, &sink, &["b@example.net"], &sample_message("1", "text")).await;
    for line in [
        format!("X-Mailtrail-Id: {other}"),
        "X-Mailtrail-Id: 01K54Z8Q3V7N5X9B2C6D8F0GHJ".to_owned(),
        "X-Mailtrail-Id: nonsense".to_owned(),
        format!("Received: from x by relay.example.com with ESMTP id {other}; x"),
        "Received: from x by mx.example.net with ESMTP id 01K54Z8Q3V7N5X9B2C6D8F0GHJ; x".to_owned(),
    ] {
        let forged = format!("{line}\r\n{}", sample_message("2", "text"));
        let (id, arrived) = submit_and_receive(&mut client, &sink, &["c@example.net"], &forged).await;
        assert_ne!(id, other);
        assert_eq!(arrived.matches("X-Mailtrail-Id:").count(), 1, "{arrived}");
    }
    drop(client);
    relay.stop().await;
}

/// With several recipients, only the looped ones are rejected, each by a DSN.
#[tokio::test]
async fn looped_recipient_does_not_affect_others() {
    let (sink, relay, mut client) = start_and_connect().await;
    let to = ["b@example.net", "c@example.net"];
    let (_, first) = submit_and_receive(&mut client, &sink, &to, &sample_message("1", "text")).await;
    let id =
        client.submit(SENDER, &["d@example.net", "C@example.net", "e@example.net"], &first).await.unwrap();
    assert_eq!(sink.wait_for_message(&id).await.recipients, ["d@example.net", "e@example.net"]);
    drop(client);
    let (store, _directory) = relay.stop().await;
    let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
    let states: Vec<_> = trail.recipients.iter().map(|recipient| recipient.state()).collect();
    assert_eq!(states, [RecipientState::Relayed, RecipientState::Failed, RecipientState::Relayed]);
    let text = trail.recipients[1].diagnostic.text.as_deref().unwrap();
    assert!(text.contains("has this mail already"), "{text}");
    assert_eq!(trail.recipients[1].diagnostic.enhanced_status.as_deref(), Some("5.4.6"));
}

/// Mistake of a client at a listener.
#[derive(Clone, Copy, Debug)]
enum ClientMistake {
    Sends(fn(&Relay) -> SocketAddr, &'static [u8]),
    DistrustsAfterStartTls,
    DistrustsImplicitTls,
}

async fn make_mistake(mistake: ClientMistake, relay: &Relay) {
    // The client trusts no certificate of this relay.
    let trust = mailtrail_net::tls::build_connector(None).unwrap();
    match mistake {
        ClientMistake::Sends(listener, words) => {
            let mut stream = TcpStream::connect(listener(relay)).await.unwrap();
            stream.write_all(words).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        ClientMistake::DistrustsAfterStartTls => {
            let client = SmtpClient::connect(relay.guarded()).await.unwrap();
            assert!(client.start_tls(&trust).await.is_err());
        }
        ClientMistake::DistrustsImplicitTls => {
            assert!(SmtpClient::connect_tls(relay.implicit(), &trust).await.is_err());
        }
    }
}

/// The beginning of a TLS 1.1 client's handshake (RFC 4346 section 7.4.1.2).
const TLS_1_1_CLIENT_HELLO: &[u8] = &[
    0x16, 3, 1, 0, 49, 1, 0, 0, 45, 3, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 4, 0xc0, 0x09, 0, 0x2f, 1, 0, 0, 0,
];

#[tokio::test]
async fn logs_each_client_mistake_once_with_remedy() {
    use ClientMistake::{DistrustsAfterStartTls, DistrustsImplicitTls, Sends};
    for (mistake, remedy) in [
        (Sends(Relay::guarded, TLS_1_1_CLIENT_HELLO), "set the client to STARTTLS"),
        (Sends(Relay::open, TLS_1_1_CLIENT_HELLO), "TLS from the first byte"),
        (Sends(Relay::guarded, &[0x16]), "TLS from the first byte"),
        (Sends(Relay::implicit, b"EHLO client\r\n"), "set the client to SSL/TLS"),
        (Sends(Relay::implicit, b"GET / HTTP/1.1\r\n\r\n"), "set the client to SSL/TLS"),
        (Sends(Relay::implicit, TLS_1_1_CLIENT_HELLO), "it needs TLS 1.2"),
        (DistrustsAfterStartTls, "does not trust our certificate"),
        (DistrustsImplicitTls, "does not trust our certificate"),
        (Sends(Relay::guarded, b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n"), "switch STARTTLS on"),
        (
            Sends(Relay::guarded, b"EHLO a\r\nAUTH PLAIN AGEAYg==\r\nAUTH LOGIN\r\nQUIT\r\n"),
            "switch STARTTLS on",
        ),
        (Sends(Relay::open, b"EHLO a\r\nAUTH PLAIN AGEAYg==\r\nQUIT\r\n"), "see `auth` of the listener"),
        (Sends(Relay::open, b"EHLO a\r\nSTARTTLS\r\nQUIT\r\n"), "see `tls` of the listener"),
        (Sends(Relay::open, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "another protocol than SMTP"),
        (Sends(Relay::closed, b""), "see `allow` of the listener"),
        (Sends(Relay::proxied, b"EHLO a\r\n"), "see `proxy_protocol_from` of the listener"),
        (Sends(Relay::proxied, b"PROXY TCP4 198.51.100.1 192.0.2.1 1 25\r\n"), "see `allow` of the listener"),
        (
            Sends(Relay::proxied, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\nXCLIENT ADDR=198.51.100.9\r\n"),
            "see `allow` of the listener",
        ),
        (
            Sends(Relay::proxied, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\nXCLIENT LOGIN=nobody\r\nQUIT\r\n"),
            "XCLIENT names a user",
        ),
    ] {
        let log = LogCapture::default();
        let _listening = log.install();
        let sink = SmtpSink::start().await;
        let relay = Relay::start(&sink, "").await;
        for _ in 0..4 {
            make_mistake(mistake, &relay).await;
        }
        relay.stop().await;
        let warnings = log.lines(" WARN ");
        assert!(warnings.len() == 1 && warnings[0].contains(remedy), "{mistake:?}: {warnings:#?}");
        assert!(warnings[0].contains("peer="), "{warnings:#?}");
    }
}

#[tokio::test]
async fn logs_connection_limit_and_foreign_sender_once() {
    let log = LogCapture::default();
    let _listening = log.install();
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "connections_per_ip = 1").await;
    let mut client = SmtpClient::log_in(relay.guarded(), &relay.tls_connector()).await.unwrap();
    for _ in 0..30 {
        assert!(SmtpClient::connect(relay.open()).await.is_err());
        assert_eq!(client.command("MAIL FROM:<a@example.org>").await.unwrap().0, 553);
    }
    for text in ["see `connections` and `connections_per_ip` in [limits]", "see `senders` of the [[user]]"] {
        assert_eq!(log.lines(text).len(), 1, "{text}");
    }
    assert_eq!(log.lines(" WARN ").len(), 2);
}

/// A health check connects and leaves; a client that waits for a greeting in clear stays for a while.
#[tokio::test(start_paused = true)]
async fn warns_about_silent_client_but_not_health_check() {
    let log = LogCapture::default();
    let _listening = log.install();
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    drop(TcpStream::connect(relay.implicit()).await.unwrap());
    drop(TcpStream::connect(relay.guarded()).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.lines(" WARN "), [""; 0]);
    let mut stream = TcpStream::connect(relay.implicit()).await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(log.lines("set it to SSL/TLS").len(), 1);
}

/// Returns the relayed message after our own lines, and the removed fields of the trail.
async fn submit_and_split(
    relay: &Relay,
    sink: &SmtpSink,
    client: &mut SmtpClient,
    message: &str,
) -> (String, String) {
    let id = client.submit(SENDER, &["b@example.net"], message).await.unwrap();
    let whole = String::from_utf8(sink.wait_for_message(&id).await.message).unwrap();
    let trail = wait_for_trail(relay, &id).await;
    assert_eq!(trail.message.size, whole.len() as u64);
    let (_, ours) = whole.split_once("\r\nX-Mailtrail-Id: ").unwrap();
    let rest = ours.strip_prefix(&format!("{id}\r\n")).unwrap();
    (rest.to_owned(), trail.events[0].diagnostic.text.clone().unwrap_or_default())
}

/// Without a login, and with one.
async fn both_clients(relay: &Relay) -> [SmtpClient; 2] {
    let logged_in = SmtpClient::log_in(relay.guarded(), &relay.tls_connector()).await.unwrap();
    [SmtpClient::connect(relay.open()).await.unwrap(), logged_in]
}

#[tokio::test]
async fn removes_bcc_and_return_path() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let body = |lines: usize| format!("\r\nBcc: body@example.net\r\n{}", "0123456789abcde\r\n".repeat(lines));
    let (mut sent, mut kept) = (String::new(), String::new());
    for (line, stays) in [
        ("BCC:hidden@example.net\r\n", false),
        ("X-First: 1\r\n", true),
        ("Bcc: hidden@example.net,\r\n\t\"Bcc: \" <hidden2@example.net>\r\n \r\n", false),
        ("Message-ID: <1@example.com>\r\n", true),
        ("bcc \t: hidden@example.net\r\n", false),
        ("From: a@example.com\r\n", true),
        ("Resent-Bcc:\r\n hidden@example.net\r\n", false),
        ("resent-BCC: hidden@example.net\r\n", false),
        ("Resent-To: c@example.net\r\n", true),
        ("Return-Path: <hidden@example.com>\r\n", false),
        (DATE_LINE, true),
        ("X-Bcc: stays\r\n", true),
        ("Bcc-Count: 1\r\n", true),
        ("To: Bcc:;\r\n\tBcc: stays\r\n", true),
        ("return-path:\r\n", false),
        ("Bcc:\r\n", false),
    ] {
        sent += line;
        kept += if stays { line } else { "" };
    }
    for mut client in both_clients(&relay).await {
        for body in [body(3), body(0), body(100_000), "\r\n".to_owned()] {
            let (message, output) =
                submit_and_split(&relay, &sink, &mut client, &format!("{sent}{body}")).await;
            assert!(message == format!("{kept}{body}"), "{}", &message[..message.len().min(1000)]);
            assert_eq!(output, "BCC removed; Resent-Bcc removed; Return-Path removed");
        }
    }
}

#[tokio::test]
async fn replaces_empty_header_fields() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let good = ["Message-ID: <1@example.com>\r\n", DATE_LINE, "From: a@example.com\r\n"];
    let [open, mut logged_in] = both_clients(&relay).await;
    drop(open);
    for (place, line) in [
        (0, "Message-ID:\r\n"),
        (0, "Message-Id: <>\r\n"),
        (0, "MESSAGE-ID : < >\r\n"),
        (0, "Message-ID:\r\n \r\n\t<>\r\n"),
        (0, "Message-ID: (none)\r\n"),
        (0, "Message-ID: <@>\r\n"),
        (1, "Date:\r\n"),
        (1, "date: \t\r\n"),
        (1, "Date: now\r\n"),
        (1, "Date: Mon, 99 Foo 2026 99:99:99 +0000\r\n"),
        (1, "Date: 0000-00-00 00:00:00\r\n"),
        (1, "Date:\r\n (no date)\r\n"),
        (2, "From:\r\n"),
        (2, "FROM: <>\r\n"),
        (2, "From: \"A Shop\" <>\r\n"),
        (2, "From: (nobody)\r\n"),
        (2, "From: ,\r\n ;\r\n"),
    ] {
        let mut lines = good;
        lines[place] = line;
        let message = format!("Subject: hi\r\n{}\r\nhi\r\n", lines.concat());
        let (out, output) = submit_and_split(&relay, &sink, &mut logged_in, &message).await;
        let name = ["Message-ID", "Date", "From"][place];
        let (front, rest) = out.split_once("Subject: hi\r\n").unwrap();
        lines[place] = "";
        assert_eq!(rest, format!("{}\r\nhi\r\n", lines.concat()), "{line:?}");
        let ours: Vec<_> = front.lines().collect();
        assert!(ours.len() == 1 && ours[0].starts_with(&format!("{name}: ")), "{line:?}: {front:?}");
        let value = ours[0].split_once(": ").unwrap().1;
        let right = match place {
            0 => value.starts_with("<01") && value.ends_with("@relay.example.com>"),
            1 => jiff::fmt::rfc2822::parse(value).is_ok(),
            _ => value == "<a@example.com>",
        };
        assert!(right, "{line:?}: {front:?}");
        assert_eq!(output, format!("{name} replaced"), "{line:?}");
    }
}

#[tokio::test]
async fn keeps_nonempty_header_fields() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    let good = ["Message-ID: <1@example.com>\r\n", DATE_LINE, "From: a@example.com\r\n"];
    for (place, line) in [
        (0, "Message-ID: 1@example.com\r\n"),
        (0, "Message-ID:\r\n <1@example.com>\r\n"),
        (0, "Message-ID: <1@example.com> (added by a relay)\r\n"),
        (0, "Message-ID: <1 2@example.com>\r\n"),
        (0, "Message-ID: <without-a-domain>\r\n"),
        (0, "Message-ID: =?utf-8?q?=3C1=40example=2Ecom=3E?=\r\n"),
        (1, "Date: Mon, 30 Nov 2026 12:00 +0000\r\n"),
        (1, "Date: 30 Nov 26 12:00:00 EST\r\n"),
        (1, "Date: Mon,\r\n 30 Nov 2026 12:00:60 +0100 (CET)\r\n"),
        (1, "Date: Mon, 30 Nov 2026 12:00:00\r\n"),
        (1, "Date: Fri, 30 Nov 2026 12:00:00 GMT\r\n"),
        (1, "Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n"),
        (2, "From: root\r\n"),
        (2, "From: root (Cron Daemon)\r\n"),
        (2, "From: \"(Cron Daemon)\" <root>\r\n"),
        (2, "From: A Group:;\r\n"),
        (2, "From: A <a@example.com>,\r\n b@example.com\r\n"),
        (2, "From: =?utf-8?q?=C3=84?= <a@example.com>\r\n"),
        (2, "From: <a@[127.0.0.1]>\r\n"),
    ] {
        let mut lines = good;
        lines[place] = line;
        let message = format!("Subject: hi\r\n{}\r\nhi\r\n", lines.concat());
        let (out, output) = submit_and_split(&relay, &sink, &mut client, &message).await;
        assert_eq!((out, output.as_str()), (message, ""), "{line:?}");
    }
    // Of several fields, only the empty ones are removed.
    for (twice, left) in [
        ("Message-ID:\r\nMessage-ID: <2@example.com>\r\n", "Message-ID: <2@example.com>\r\n"),
        ("Message-ID: <2@example.com>\r\nMessage-ID: <>\r\n", "Message-ID: <2@example.com>\r\n"),
    ] {
        let rest = format!("{DATE_LINE}From: a@example.com\r\n\r\nhi\r\n");
        let (out, output) = submit_and_split(&relay, &sink, &mut client, &format!("{twice}{rest}")).await;
        assert_eq!((out, output.as_str()), (format!("{left}{rest}"), "Message-ID removed"), "{twice:?}");
    }
    // The null sender names no author.
    client.command("MAIL FROM:<>").await.unwrap();
    client.command("RCPT TO:<b@example.net>").await.unwrap();
    client.command("DATA").await.unwrap();
    let empty = format!("From: <>\r\nMessage-ID: <3@example.com>\r\n{DATE_LINE}\r\nhi\r\n");
    let (_, reply) = client.command(&format!("{empty}.")).await.unwrap();
    let mail = sink.wait_for_message(reply.rsplit(' ').next().unwrap()).await;
    assert!(mail.message.ends_with(format!("\r\n{empty}").as_bytes()));
}

#[tokio::test]
async fn mbox_from_line_does_not_end_header() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let header = format!("Subject: hi\r\nMessage-ID: <1@example.com>\r\n{DATE_LINE}From: a@example.com\r\n");
    const MBOX_LINE: &str = "From root Mon Nov 30 23:04:50 2026\r\n";
    const EXPECTED_CHANGE: &str = "From line of a mailbox file made X-Mailbox-Line";
    for mut client in both_clients(&relay).await {
        for (lines, fields) in [
            (MBOX_LINE.to_owned(), format!("X-Mailbox-Line: {MBOX_LINE}")),
            (format!(">{MBOX_LINE}"), format!("X-Mailbox-Line: >{MBOX_LINE}")),
            ("From \u{e9}\r\n".into(), "X-Mailbox-Line: From \u{e9}\r\n".into()),
            (
                format!("{MBOX_LINE}>>{MBOX_LINE}"),
                format!("X-Mailbox-Line: {MBOX_LINE}X-Mailbox-Line: >>{MBOX_LINE}"),
            ),
        ] {
            for body in ["\r\nFrom here on\r\n", "\r\n"] {
                let message = format!("{lines}Bcc: c@example.net\r\n{header}{body}");
                let (out, output) = submit_and_split(&relay, &sink, &mut client, &message).await;
                assert_eq!(out, format!("{fields}{header}{body}"), "{lines:?}");
                assert_eq!(output, format!("{EXPECTED_CHANGE}; Bcc removed"));
            }
        }
        // The rest may have no header.
        for (message, expected) in [
            (
                format!("{MBOX_LINE}hello\r\nTo: x\r\n"),
                format!("X-Mailbox-Line: {MBOX_LINE}\r\nhello\r\nTo: x\r\n"),
            ),
            (format!("{MBOX_LINE}\r\nhello\r\n"), format!("X-Mailbox-Line: {MBOX_LINE}\r\nhello\r\n")),
            (MBOX_LINE.to_owned(), format!("X-Mailbox-Line: {MBOX_LINE}\r\n")),
        ] {
            let (out, output) = submit_and_split(&relay, &sink, &mut client, &message).await;
            assert!(out.ends_with(&format!("From: <a@example.com>\r\n{expected}")), "{message:?}: {out}");
            assert_eq!(output, EXPECTED_CHANGE);
        }
        // These are fields, or text.
        for message in [
            format!("{header}\r\n{MBOX_LINE}hi\r\n"),
            header.replacen("From:", "From :", 1) + "\r\nhi\r\n",
            format!("From : a@example.com\r\nMessage-ID: <1@example.com>\r\n{DATE_LINE}\r\nhi\r\n"),
            format!("{header}{MBOX_LINE}\r\nhi\r\n"),
        ] {
            let (out, output) = submit_and_split(&relay, &sink, &mut client, &message).await;
            assert_eq!((out, output.as_str()), (message, ""));
        }
    }
}

#[tokio::test]
async fn leaves_header_unchanged_when_configured() {
    const CLEANUP_OFF: &str =
        "drop_headers = []\nreplace_unusable = false\nmbox_line = false\nrepair = false\n";
    let sink = SmtpSink::start().await;
    let sections = format!(
        "[[user]]\nname = \"exact\"\npassword = \"lab-secret\"\n{CLEANUP_OFF}\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n{CLEANUP_OFF}\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\ndrop_headers = [\"return-path\"]\n"
    );
    let relay = Relay::start(&sink, &sections).await;
    let message = "Bcc: c@example.net\r\nReturn-Path: <a@example.com>\r\nMessage-ID: <>\r\nDate:\r\nFrom:\r\n\r\nhi\r\n";
    let exact = SmtpClient::log_in_as("exact", relay.guarded(), &relay.tls_connector()).await.unwrap();
    for mut client in [exact, SmtpClient::connect(relay.listener_at(5)).await.unwrap()] {
        let (out, output) = submit_and_split(&relay, &sink, &mut client, message).await;
        assert_eq!((out.as_str(), output.as_str()), (message, ""));
        let with_line = format!("From root Mon Nov 30 23:04:50 2026\r\n{message}");
        let (out, output) = submit_and_split(&relay, &sink, &mut client, &with_line).await;
        assert!(out.ends_with(&format!("\r\n\r\n{with_line}")) && output.is_empty(), "{out}");
    }
    let mut client = SmtpClient::connect(relay.listener_at(6)).await.unwrap();
    let (out, output) = submit_and_split(&relay, &sink, &mut client, message).await;
    assert!(out.ends_with("From: <a@example.com>\r\nBcc: c@example.net\r\n\r\nhi\r\n"), "{out}");
    assert_eq!(output, "Return-Path removed; Message-ID replaced; Date replaced; From replaced");
}

const DATE_LINE: &str = "Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n";

/// A client's requests to the provider: harmful ones pass only for a user with permission.
#[tokio::test]
async fn passes_safe_provider_headers_of_users() {
    let sink = SmtpSink::start().await;
    let upstream = |provider: &str| {
        format!(
            "[[upstream]]\nname = \"{provider}\"\nprovider = \"{provider}\"\nhost = \"127.0.0.1\"\nport = 1\n\
             tls = \"none\"\nusername = \"u\"\npassword = \"p\"\n"
        )
    };
    let users = [
        ("more", "[\"safe\", \"Drop-Message\", \"Dkim\", \"Sandbox\"]"),
        ("listed", "[\"Tag\"]"),
        ("none", "[]"),
    ];
    let users = users.map(|(name, allowed)| {
        format!("[[user]]\nname = \"{name}\"\npassword = \"lab-secret\"\nrequest_headers = {allowed}\n")
    });
    let route = "[[route]]\nname = \"all\"\nupstreams = [\"sink\"]\nsenders = [\"*@example.com\"]\n";
    let sections = format!("{}{}{}{route}", users.concat(), upstream("mailgun"), upstream("brevo"));
    let relay = Relay::start(&sink, &sections).await;
    let (trust, guarded) = (relay.tls_connector(), relay.guarded());
    let mut clients = vec![SmtpClient::connect(relay.open()).await.unwrap()];
    for user in ["odoo", "more", "listed", "none"] {
        clients.push(SmtpClient::log_in_as(user, guarded, &trust).await.unwrap());
    }
    let later =
        |seconds: u64| Timestamp::from_millis(Clock::System.now().as_millis() + 1000 * seconds).to_rfc5322();
    let (soon, late) = (later(3600), later(4 * 86_400));
    let ours = format!("X-Mailgun-Variables: {}", r#"{"mailtrail": "01K54Z8Q3V7N5X9B2C6D8F0GHJ", "a": 1}"#);
    // Permissions: without authentication, default, extended, the tag alone, none.
    for (field, passes) in [
        ("X-Mailgun-Tag: spring", "01110"),
        ("X-MAILGUN-TAG : \u{e9}", "00010"),
        (r#"X-Mailgun-Variables: {"odoo_db": "prod", "tracking_email_id": 7}"#, "11111"),
        (&*ours, "00000"),
        ("X-Mailgun-Variables: nonsense", "00000"),
        ("X-Mailgun-Track: no", "01100"),
        ("X-Mailgun-Track: perhaps", "00000"),
        ("X-Mailgun-Track-Clicks: htmlonly", "01100"),
        ("X-Mailgun-Track-Opens: yes", "01100"),
        (&*format!("X-Mailgun-Deliver-By: {soon}"), "01100"),
        (&*format!("X-Mailgun-Deliver-By:\r\n {late}"), "00000"),
        ("X-Mailgun-Dkim: yes", "01100"),
        ("X-Mailgun-Dkim: no", "00100"),
        ("X-Mailgun-Require-TLS: true", "01100"),
        ("X-Mailgun-Require-TLS: no", "00000"),
        ("X-Mailgun-Drop-Message: yes", "00100"),
        ("X-Mailgun-Skip-Verification: yes", "00000"),
        ("X-Mailgun-Recipient-Variables: {}", "00000"),
        ("X-Mailgun-Sending-Ip: 192.0.2.1", "00000"),
        ("X-Mailgun-Archive-To: https://example.net/", "00000"),
        ("X-Mailgun-Template-Name: a", "00000"),
        ("X-Mailgun-Suppress-Headers: all", "00000"),
        ("X-Mailin-Tag: spring", "11111"),
        ("X-Mailin-custom: order:42", "11111"),
        ("X-Mailin-custom: mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ", "00000"),
        ("X-Sib-Sandbox: drop", "00100"),
        ("sender.ip: 192.0.2.1", "00000"),
    ] {
        let message = sample_message("1", "text");
        for (client, passes) in clients.iter_mut().zip(passes.chars()) {
            let (out, output) =
                submit_and_split(&relay, &sink, client, &format!("{field}\r\n{message}")).await;
            let name = field.split(':').next().unwrap().trim();
            let expected = match passes {
                '1' => (format!("{field}\r\n{message}"), String::new()),
                _ => (message.clone(), format!("{name} removed")),
            };
            assert_eq!((out, output), expected, "{field:?}");
        }
    }
    // All of it at once, each named once.
    let many = "X-Mailgun-Drop-Message: yes\r\nx-mailgun-drop-message: no\r\nX-Mailgun-Tag: a\r\nX-Mailgun-Tag: b\r\n";
    let (out, output) =
        submit_and_split(&relay, &sink, &mut clients[1], &format!("{many}{}", sample_message("1", "text")))
            .await;
    assert!(out.starts_with("X-Mailgun-Tag: a\r\nX-Mailgun-Tag: b\r\nMessage-ID:"), "{out}");
    assert_eq!(output, "X-Mailgun-Drop-Message removed");
    let id = sink.messages().last().unwrap().tracking_id().to_owned();
    assert_eq!(wait_for_trail(&relay, &id).await.message.tags, ["a", "b"]);
}
