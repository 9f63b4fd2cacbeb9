//! DSNs to senders (RFC 3464), read by an independent parser: Python's, which Odoo uses.

use mailtrail_trail::{DsnAction, TrailEventKind};
use std::collections::HashMap;
use std::process::Command;
use testkit::relay::{Relay, all_message_ids};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{ReceivedMessage, SinkOptions, SmtpSink};

const SENDER: &str = "bounce@example.com";
const SAMPLE_MESSAGE: &str = "Message-ID: <1.2.3-openerp-4-crm.lead@vm>\r\nFrom: a@example.com\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\n\r\ntext\r\n";

async fn start_with_rejecting_sink() -> (SmtpSink, Relay) {
    let refused = [("gone@example.net", "550 5.1.1 no such user, sorry"), ("odd@example.net", "554 zażółć")];
    let rejections: HashMap<_, _> =
        refused.iter().map(|(to, reply)| ((*to).into(), (*reply).into())).collect();
    let sink = SmtpSink::with_options(SinkOptions { rejections, ..SinkOptions::default() }).await;
    let relay = Relay::start(&sink, "[reports]\nfailures = \"sender\"").await;
    (sink, relay)
}

/// Waits for DSNs and returns them in the order of their recipients.
async fn wait_for_dsns(sink: &SmtpSink, count: usize) -> Vec<ReceivedMessage> {
    let is_report = |mail: &ReceivedMessage| mail.sender.is_empty();
    let arrived = || {
        let reports: Vec<_> = sink.messages().into_iter().filter(is_report).collect();
        (reports.len() >= count).then_some(reports)
    };
    testkit::eventually("the reports", arrived).await
}

/// Returns the parts that Odoo reads: From, To, the first text, recipient and action of the second block, and the
/// message's id. `None`, with a notice, if Python is not installed.
async fn parse_as_odoo(mail: &ReceivedMessage) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.eml");
    std::fs::write(&file, &mail.message).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/read_report.py");
    let Some(read) = testkit::run_if_installed(Command::new("python3").arg(script).arg(&file)).await else {
        println!("skipped: python3 is not here");
        return None;
    };
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    Some(String::from_utf8(read.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn sends_one_dsn_per_failure_in_form_odoo_reads() {
    let (sink, relay) = start_with_rejecting_sink().await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    let to = ["gone@example.net", "here@example.net", "odd@example.net"];
    let id = client.submit(SENDER, &to, SAMPLE_MESSAGE).await.unwrap();
    let mut read_back = Vec::new();
    for report in wait_for_dsns(&sink, 2).await {
        assert_eq!(report.recipients, [SENDER]);
        let Some(report) = parse_as_odoo(&report).await else { return };
        read_back.push(report);
    }
    read_back.sort();
    let both = |recipient: &str, text: &str, status: &str| {
        [
            "multipart/report delivery-status",
            "MAILER-DAEMON@relay.example.com",
            SENDER,
            "<1.2.3-openerp-4-crm.lead@vm>",
            &format!("{recipient}: {text}"),
            &format!("rfc822; {recipient}"),
            "failed",
            status,
            "<1.2.3-openerp-4-crm.lead@vm>",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    assert_eq!(
        read_back,
        [
            both("gone@example.net", "550 5.1.1 no such user, sorry", "5.1.1"),
            both("odd@example.net", "554 zażółć", "5.0.0")
        ]
    );
    let (store, _directory) = relay.stop().await;
    let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
    let notified: Vec<_> =
        trail.events.iter().filter(|fact| fact.kind == TrailEventKind::DsnSent(DsnAction::Failed)).collect();
    assert_eq!(notified.len(), 2);
    assert_eq!(all_message_ids(&store).len(), 3, "the mail and its reports");
    assert!(store.pending_dsns(10).unwrap().is_empty());
}

#[tokio::test]
async fn sends_no_dsn_to_null_sender_or_when_not_requested() {
    let (sink, relay) = start_with_rejecting_sink().await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    for (from, parameters) in [("", ""), (SENDER, " NOTIFY=NEVER"), (SENDER, " NOTIFY=SUCCESS,DELAY")] {
        client.command(&format!("MAIL FROM:<{from}>")).await.unwrap();
        client.command(&format!("RCPT TO:<gone@example.net>{parameters}")).await.unwrap();
        client.command("DATA").await.unwrap();
        assert_eq!(client.command(&format!("{SAMPLE_MESSAGE}.")).await.unwrap().0, 250);
    }
    // DSNs are sent in order: after this one there is none left.
    let id = client.submit(SENDER, &["gone@example.net"], SAMPLE_MESSAGE).await.unwrap();
    assert_eq!(wait_for_dsns(&sink, 1).await.len(), 1);
    drop(client);
    let (store, _directory) = relay.stop().await;
    assert_eq!(all_message_ids(&store).len(), 5);
    let notified = |id| {
        store.load_trail(id).unwrap().unwrap().message.dsn_for.map(|about| about.tracking_id.to_string())
    };
    assert_eq!(all_message_ids(&store).into_iter().find_map(notified), Some(id));
}

/// A report is made once even when the relay stops in between, and is itself never reported on.
#[tokio::test]
async fn failed_dsn_produces_no_further_dsn() {
    let (sink, relay) = start_with_rejecting_sink().await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    client.submit("gone@example.net", &["gone@example.net"], SAMPLE_MESSAGE).await.unwrap();
    let over = || {
        let store = relay.store();
        let sends = all_message_ids(store);
        let waits = |id: &mailtrail_mail::TrackingId| {
            store.load_trail(*id).unwrap().is_none_or(|trail| trail.recipients.iter().any(|r| r.is_pending()))
        };
        (sends.len() == 2 && !sends.iter().any(waits)).then_some(())
    };
    testkit::eventually("the report failed, too", over).await;
    assert!(relay.store().pending_dsns(10).unwrap().is_empty());
    assert_eq!(sink.count(), 0);
}
