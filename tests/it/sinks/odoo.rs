//! Odoo sink: a whole relay with a fake Odoo that runs the real server action.

use bytes::Bytes;
use mail_parser::{MessageParser, MimeHeaders, PartType};
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail_mail::{MessageId, OdooRecord, Secret, Timestamp, TrackingId};
use mailtrail_net::odoo::{GROUP_NAME, INBOUND_ACTION, OdooClient, format_group_comment};
use mailtrail_net::tls;
use mailtrail_relay::sink::SinkKind as Sink;
use mailtrail_relay::sink::odoo::{EVENTS_ACTION, OdooMode, OdooSettings, run_preflight};
use mailtrail_smtp::Reply;
use mailtrail_trail::{
    AcceptedMessage, Diagnostic, EventKind, EventSource, Message, ProviderEvent, ReceivedEvent,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::fake_odoo::FakeOdoo;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness;
use testkit::queue_harness::QueueHarness;

/// Starts Odoo with the server action for the group of `bot`.
fn odoo_with_action() -> FakeOdoo {
    let odoo = FakeOdoo::start();
    let group = odoo.create("res.groups", json!({ "name": GROUP_NAME }));
    let only = json!([[6, 0, [group]]]);
    let action =
        json!({ "name": EVENTS_ACTION.name, "state": "code", "code": EVENTS_ACTION.code, "groups_id": only });
    odoo.create("ir.actions.server", action);
    odoo.write("res.groups", group, json!({ "comment": format_group_comment(&[("events", 1)]) }));
    odoo.set_faults(json!({ "join": ["bot", group] }));
    odoo
}

fn sink_config(odoo: &FakeOdoo, more: &str) -> String {
    let key = if more.contains("username") { "" } else { "username = \"bot\"\napi_key = \"bot-key\"\n" };
    format!(
        "[suppression]\npolicy = \"off\"\n\
         [[sink]]\nkind = \"odoo\"\nurl = \"{}\"\ndatabase = \"prod\"\ntimeout = \"10min\"\n{key}{more}\n",
        odoo.url()
    )
}

/// Returns the settings of a configured sink.
fn sink_settings(odoo: &FakeOdoo, more: &str) -> OdooSettings {
    let text = format!(
        "[server]\nhostname = \"relay.example.com\"\n[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
         [[upstream]]\nname = \"up\"\nprovider = \"plain\"\nhost = \"127.0.0.1\"\n{}",
        sink_config(odoo, more)
    );
    let config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
    let Some(Sink::Odoo(settings)) = config.sinks.into_iter().next().map(|sink| sink.kind) else {
        panic!("no sink")
    };
    *settings
}

/// Message from Odoo, with its records there.
struct OdooMail {
    id: TrackingId,
    email: String,
    notification: u64,
    partner: u64,
    trace: u64,
}

impl OdooMail {
    /// A chatter message and a mailing at once.
    async fn send(harness: &QueueHarness, odoo: &FakeOdoo, number: u64) -> Self {
        let email = format!("p{number}@example.net");
        let message_id = format!("<1.2.{number}-openerp-{number}-crm.lead@vm>");
        let message = odoo
            .create("mail.message", json!({ "message_id": message_id, "model": "crm.lead", "res_id": 1 }));
        let partner = odoo.create("res.partner", json!({ "email_normalized": email }));
        let links =
            json!({ "mail_message_id": message, "res_partner_id": partner, "notification_status": "sent" });
        let notification = odoo.create("mail.notification", links);
        let trace = json!({ "message_id": message_id, "email": email, "trace_status": "sent" });
        let trace = odoo.create("mailing.trace", trace);
        let id = enqueue(harness, number, &email, &message_id).await;
        Self { id, email, notification, partner, trace }
    }

    async fn put_event(&self, harness: &QueueHarness, kind: EventKind) {
        let diagnostic =
            Diagnostic { code: Some(550), text: Some("5.1.1 no such user".into()), ..Diagnostic::default() };
        let event = ProviderEvent {
            kind,
            at: Timestamp::from_secs(1_789_387_300),
            dedup_key: format!("{}{kind:?}", self.id),
            recipient: Some(self.email.clone()),
            tracking_id: Some(self.id),
            message_id: None,
            automated: false,
            test_mode: false,
            diagnostic,
        };
        let notice = ReceivedEvent {
            upstream: "up".into(),
            received_at: event.at,
            source: EventSource::Webhook,
            token: None,
            event,
        };
        harness.store().put_event(notice, Bytes::new()).await.unwrap();
    }

    /// Everything that Odoo shows of it.
    fn shown_in_odoo(&self, state: &Value) -> Value {
        let field = |model: &str, id: u64, field: &str| state[model][id.to_string()][field].clone();
        let entries = state["mail.blacklist"].as_object().unwrap().values();
        let entries: Vec<_> = entries.filter(|entry| entry["email"] == self.email.as_str()).collect();
        json!({
            "status": field("mail.notification", self.notification, "notification_status"),
            "failure": field("mail.notification", self.notification, "failure_type"),
            "bounces": field("res.partner", self.partner, "message_bounce"),
            "trace": field("mailing.trace", self.trace, "trace_status"),
            "opened": field("mailing.trace", self.trace, "open_datetime"),
            "clicked": field("mailing.trace", self.trace, "links_click_datetime"),
            "blacklisted": entries.len(),
        })
    }
}

async fn enqueue(harness: &QueueHarness, number: u64, email: &str, message_id: &str) -> TrackingId {
    let id = TrackingId::new(harness.time.clock().now(), u128::from(number));
    let message = queue_harness::sample_message(number);
    let send = Message {
        sender: "bounce@example.com".parse().ok(),
        message_id: MessageId::parse(message_id),
        odoo_records: vec![OdooRecord::parse("sale.order,42").unwrap()],
        subject: "Example Trading GmbH Order (Ref S0042)".into(),
        size: message.len() as u64,
        ..Message::new(id, "test")
    };
    let recipients = vec![email.parse().unwrap()];
    harness
        .store()
        .put_message(AcceptedMessage { message: send, recipients }, Bytes::from(message))
        .await
        .unwrap();
    id
}

/// Waits until the sink has everything that there is.
async fn wait_sink_caught_up(harness: &QueueHarness) {
    harness.store().checkpoint().await;
    let store = harness.store();
    // After the delivered events the log has only the sink's own record.
    let is_told =
        |(until, _)| store.read_from(until, 500).unwrap().0.iter().all(|batch| batch.entries.is_empty());
    harness.wait_until("the sink", || store.sink_position("odoo").unwrap().is_some_and(is_told)).await;
}

/// In leaps. Odoo is a process of its own and slower than they are, so it is waited for without end.
async fn with_paused_time(script: SmtpScript, sink: &str) -> QueueHarness {
    let patient = |config: &mut Config| {
        for sink in &mut config.sinks {
            if let Sink::Odoo(settings) = &mut sink.kind {
                settings.login.timeout = Duration::from_secs(86_400 * 365);
            }
        }
    };
    let harness =
        QueueHarness::manual_time_with_config(MockSmtpServer::start(script).await, sink, patient).await;
    wait_sink_started(&harness).await;
    harness
}

async fn wait_sink_started(harness: &QueueHarness) {
    harness.wait_until("the sink", || harness.store().sink_position("odoo").unwrap().is_some()).await;
}

fn permutations<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, first) in items.iter().enumerate() {
        let rest: Vec<_> =
            items.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, item)| *item).collect();
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![*first], tail].concat()));
    }
    all
}

#[tokio::test]
async fn event_order_does_not_change_the_result() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    let opened = "2026-09-14 12:01:40";
    let lost = json!({ "status": "bounce", "failure": "mail_bounce", "bounces": 1, "trace": "bounce",
        "opened": opened, "clicked": opened, "blacklisted": 1 });
    let read = json!({ "status": "sent", "failure": false, "bounces": 0, "trace": "open",
        "opened": opened, "clicked": opened, "blacklisted": 1 });
    let given_up = json!({ "status": "sent", "failure": false, "bounces": 0, "trace": "open",
        "opened": opened, "clicked": false, "blacklisted": 0 });
    let mut number = 0;
    for (kinds, expected) in [
        (&[EventKind::Delivered, EventKind::Bounced, EventKind::Clicked, EventKind::Complained][..], &lost),
        (&[EventKind::Delivered, EventKind::Opened, EventKind::Clicked, EventKind::Unsubscribed], &read),
        (&[EventKind::Rejected, EventKind::Delivered, EventKind::Opened], &given_up),
    ] {
        let mut mails = Vec::new();
        for order in permutations(kinds) {
            number += 1;
            mails.push((OdooMail::send(&harness, &odoo, number).await, order));
        }
        for (mail, _) in &mails {
            harness.wait_until("its trail", || harness.find_trail(mail.id).is_some()).await;
            harness.wait_for_result(mail.id).await;
        }
        // The sink receives each step before the next.
        for step in 0..kinds.len() {
            for (mail, order) in &mails {
                mail.put_event(&harness, order[step]).await;
                mail.put_event(&harness, order[step]).await;
            }
            wait_sink_caught_up(&harness).await;
        }
        let state = odoo.state();
        for (mail, order) in &mails {
            assert_eq!(&mail.shown_in_odoo(&state), expected, "{order:?}");
        }
    }
    assert!(harness.store().sink_dead_letters("odoo", 10).unwrap().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn action_accepts_statuses_in_any_order_and_repeated() {
    let odoo = odoo_with_action();
    let settings = sink_settings(&odoo, "");
    let mut client = OdooClient::new(settings.login, tls::build_client_config(None).unwrap()).unwrap();
    let mut number = 0;
    for (statuses, last, bounces) in [
        (&["pending", "exception", "sent", "bounce"][..], "bounce", 1),
        (&["pending", "exception", "sent"], "sent", 0),
    ] {
        for order in permutations(statuses) {
            number += 1;
            let (email, message_id) = (format!("p{number}@example.net"), format!("<{number}-openerp-1@vm>"));
            let message = odoo.create("mail.message", json!({ "message_id": message_id }));
            let partner = odoo.create("res.partner", json!({ "email_normalized": email }));
            let links = json!({ "mail_message_id": message, "res_partner_id": partner, "notification_status": "sent" });
            let notification = odoo.create("mail.notification", links);
            let event = |status: &&str| json!({ "message_id": message_id, "email": email, "at": "2026-09-14 12:00:00", "status": status });
            let events: Vec<_> = order.iter().chain(&order).map(event).collect();
            let context = json!({ "context": { "mailtrail_events": events } });
            let answer = client.call_method("ir.actions.server", "run", json!([[1]]), context).await.unwrap();
            assert_eq!(answer["results"].as_array().unwrap().len(), events.len());
            assert_eq!(
                odoo.record("mail.notification", notification)["notification_status"],
                last,
                "{order:?}"
            );
            assert_eq!(odoo.record("res.partner", partner)["message_bounce"], bounces, "{order:?}");
        }
    }
}

#[tokio::test]
async fn unsubscribe_leaves_lists_of_mailing_or_all_lists() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "note = true")).await;
    wait_sink_started(&harness).await;
    odoo.create("crm.lead", json!({ "email_normalized": "somebody@example.net" }));
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    let (list, other) = (odoo.create("mailing.list", json!({})), odoo.create("mailing.list", json!({})));
    let mailing = odoo.create("mailing.mailing", json!({ "contact_list_ids": [list] }));
    let contact = odoo.create("mailing.contact", json!({ "email_normalized": mail.email }));
    let subscribed =
        |list| odoo.create("mailing.subscription", json!({ "contact_id": contact, "list_id": list }));
    let (left, kept) = (subscribed(list), subscribed(other));
    let trace = json!({ "message_id": "<1.2.1-openerp-1-crm.lead@vm>", "email": "P1@example.net ",
        "mass_mailing_id": mailing, "trace_status": "sent" });
    odoo.create("mailing.trace", trace);
    harness.wait_until("its trail", || harness.find_trail(mail.id).is_some()).await;
    mail.put_event(&harness, EventKind::Unsubscribed).await;
    wait_sink_caught_up(&harness).await;
    assert_eq!(odoo.record("mailing.subscription", left)["opt_out"], true);
    assert_eq!(odoo.record("mailing.subscription", kept)["opt_out"], false);
    assert_eq!(mail.shown_in_odoo(&odoo.state())["blacklisted"], 0);
    let notes = odoo.record("crm.lead", 1)["message_ids"].clone();
    assert!(notes[0].as_str().unwrap().contains("p1@example.net unsubscribed"), "{notes}");
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn odoo_outage_of_a_day_loses_nothing_and_keeps_order() {
    let log = LogCapture::default();
    let _logging = log.install();
    let odoo = odoo_with_action();
    let mut harness = with_paused_time(SmtpScript::new(), &sink_config(&odoo, "")).await;
    let first = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_until("the first", || first.shown_in_odoo(&odoo.state())["status"] == "pending").await;
    odoo.set_faults(json!({ "down": true }));
    let mut mails = Vec::new();
    for number in 2..26 {
        mails.push(OdooMail::send(&harness, &odoo, number).await);
        harness.let_time_pass(Duration::from_secs(3600)).await;
    }
    assert_eq!(log.lines("alarm=\"sink\"").len(), 1, "{:#?}", log.lines("alarm="));
    odoo.set_faults(json!({ "busy": 2 }));
    let last = mails.last().unwrap();
    harness.wait_until("the last", || last.shown_in_odoo(&odoo.state())["status"] == "pending").await;
    let notified: Vec<u64> = serde_json::from_value(odoo.state()["bus"].clone()).unwrap();
    assert_eq!(notified, (1..26).collect::<Vec<_>>());
    assert!(harness.store().sink_dead_letters("odoo", 10).unwrap().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn applied_event_without_response_is_not_applied_twice() {
    for more in ["", "way = \"report\"\nusername = \"sales\"\napi_key = \"sales-key\""] {
        let odoo = odoo_with_action();
        odoo.create("mail.message", json!({ "message_id": "<0-openerp-1@vm>" }));
        let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, more)).await;
        wait_sink_started(&harness).await;
        let mail = OdooMail::send(&harness, &odoo, 1).await;
        harness.wait_for_result(mail.id).await;
        wait_sink_caught_up(&harness).await;
        odoo.set_faults(json!({ "lost": 2 }));
        mail.put_event(&harness, EventKind::Bounced).await;
        wait_sink_caught_up(&harness).await;
        let shown = mail.shown_in_odoo(&odoo.state());
        assert_eq!(
            (&shown["status"], &shown["bounces"], &shown["trace"]),
            (&json!("bounce"), &json!(1), &json!("bounce"))
        );
        // A sink that restarts sends it again.
        assert!(odoo.state()["gateway"].as_array().unwrap().len() <= 1);
        harness.stop().await;
    }
}

#[tokio::test]
async fn event_rejected_by_odoo_becomes_dead_letter() {
    let odoo = odoo_with_action();
    odoo.set_faults(json!({ "poison": "p2@example.net" }));
    let mut harness =
        QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "relayed = \"off\"\ndelivered = \"off\""))
            .await;
    wait_sink_started(&harness).await;
    let mut mails = Vec::new();
    for number in 1..=3 {
        mails.push(OdooMail::send(&harness, &odoo, number).await);
    }
    for mail in &mails {
        harness.wait_for_result(mail.id).await;
    }
    wait_sink_caught_up(&harness).await;
    for mail in &mails {
        mail.put_event(&harness, EventKind::Bounced).await;
    }
    wait_sink_caught_up(&harness).await;
    let refused = harness.store().sink_dead_letters("odoo", 10).unwrap();
    let [refused] = &refused[..] else { panic!("{refused:?}") };
    assert!(
        refused.reason.contains("odoo.exceptions.UserError: a module of this customer forbids it"),
        "{}",
        refused.reason
    );
    assert_eq!(refused.entry.as_ref().unwrap().tracking_id, Some(mails[1].id));
    let state = odoo.state();
    let statuses: Vec<_> = mails.iter().map(|mail| mail.shown_in_odoo(&state)["status"].clone()).collect();
    assert_eq!(statuses, ["bounce", "sent", "bounce"]);
    harness.stop().await;
}

#[tokio::test]
async fn defers_event_of_uncommitted_mail_without_blocking_others() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    let message_id = "<9-openerp-message-notify@vm>";
    enqueue(&harness, 9, "late@example.net", message_id).await;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_until("its neighbour", || mail.shown_in_odoo(&odoo.state())["status"] == "pending").await;
    let message = odoo.create("mail.message", json!({ "message_id": message_id }));
    let partner = odoo.create("res.partner", json!({ "email_normalized": "late@example.net" }));
    let links =
        json!({ "mail_message_id": message, "res_partner_id": partner, "notification_status": "sent" });
    let late = odoo.create("mail.notification", links);
    harness
        .wait_until("the late one", || {
            odoo.record("mail.notification", late)["notification_status"] == "pending"
        })
        .await;
    wait_sink_caught_up(&harness).await;
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn drops_events_of_mail_unknown_to_odoo() {
    let odoo = odoo_with_action();
    let mut harness = with_paused_time(SmtpScript::new(), &sink_config(&odoo, "")).await;
    enqueue(&harness, 10, "never@example.net", "<10-openerp-reply_to@vm>").await;
    enqueue(&harness, 11, "stranger@example.net", "<1@another.example>").await;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_for_result(mail.id).await;
    wait_sink_caught_up(&harness).await;
    assert_eq!(mail.shown_in_odoo(&odoo.state())["status"], "pending");
    assert!(harness.store().sink_dead_letters("odoo", 10).unwrap().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn preflight_errors_name_remedy() {
    let odoo = odoo_with_action();
    let notified = async |more: &str| run_preflight(&sink_settings(&odoo, more)).await;
    assert_eq!(notified("").await.unwrap(), "Odoo 18.0-20250421, server action 1 in version 2");
    let plain = "username = \"plain\"\napi_key = \"plain-key\"\n";
    for (more, words) in [
        (plain.to_owned(), "run `mailtrail setup odoo --user plain`, which puts that user into the group"),
        ("username = \"bot\"\napi_key = \"guessed\"".to_owned(), "check username and api_key"),
        (
            format!("{plain}way = \"report\""),
            "shows no message at all to this user; give the user the rights",
        ),
        ("action = 77".to_owned(), "and run `mailtrail setup odoo --user bot`"),
    ] {
        let why = notified(&more).await.unwrap_err();
        assert!(why.contains(words) && !why.contains("-key") && !why.contains("guessed"), "{why}");
    }
    let sales = "way = \"report\"\nusername = \"sales\"\napi_key = \"sales-key\"";
    assert!(notified(sales).await.is_err(), "nothing was sent yet");
    odoo.create("mail.message", json!({ "message_id": "<1-openerp-1@vm>" }));
    assert_eq!(notified(sales).await.unwrap(), "Odoo 18.0-20250421, reports through the mail gateway");
    for status in [200, 303, 404] {
        odoo.set_faults(json!({ "page": status }));
        let why = notified("").await.unwrap_err();
        assert!(
            why.contains("which is not Odoo's API; check url") && why.contains("Select a database"),
            "{why}"
        );
    }
    odoo.set_faults(json!({ "page": 502 }));
    assert!(notified("").await.unwrap_err().contains("it answers 502"));
    odoo.set_faults(json!({}));
    let other = OdooSettings { mode: OdooMode::Action, ..sink_settings(&odoo, "") };
    let mut absent = other.clone();
    absent.login.database = "test".into();
    assert!(run_preflight(&absent).await.unwrap_err().contains("no database \"test\""));
    let group = odoo.create("res.groups", json!({}));
    let join = json!({ "join": ["bot", group] });
    odoo.set_faults(join);
    for (code, words) in [
        (EVENTS_ACTION.code.replace("'version': 2", "'version': 0"), "has version 0, and 2 is needed"),
        ("action = {}".to_owned(), "is none of mailtrail's"),
        ("import os".to_owned(), "forbidden opcode"),
    ] {
        let only = json!([[6, 0, [group]]]);
        let action =
            odoo.create("ir.actions.server", json!({ "state": "code", "code": code, "groups_id": only }));
        let why = notified(&format!("action = {action}")).await.unwrap_err();
        assert!(why.contains(words), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_rights_raise_alarm_and_lose_nothing() {
    let log = LogCapture::default();
    let _logging = log.install();
    let odoo = odoo_with_action();
    let more = "username = \"plain\"\napi_key = \"plain-key\"";
    let mut harness = with_paused_time(SmtpScript::new(), &sink_config(&odoo, more)).await;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_until("the alarm", || !log.lines("alarm=\"sink\"").is_empty()).await;
    let alarms = log.lines("alarm=\"sink\"");
    assert!(alarms[0].contains("mailtrail setup odoo --user plain"), "{alarms:#?}");
    assert_eq!(mail.shown_in_odoo(&odoo.state())["status"], "sent");
    odoo.set_faults(json!({ "join": ["plain", 1] }));
    harness.wait_until("the write-back", || mail.shown_in_odoo(&odoo.state())["status"] == "pending").await;
    let over = || log.lines("alarm=\"sink\"").last().is_some_and(|line| line.contains("alarm cleared"));
    harness.wait_until("the end of the alarm", over).await;
    harness.stop().await;
}

#[tokio::test]
async fn dsn_has_form_that_odoo_reads() {
    let odoo = odoo_with_action();
    odoo.create("mail.message", json!({ "message_id": "<0-openerp-1@vm>" }));
    let more = "way = \"report\"\nusername = \"sales\"\napi_key = \"sales-key\"";
    let mut harness = QueueHarness::new(
        SmtpScript::new().on_recipient("p2@example.net", [SmtpAction::Reply("550 5.2.1 Straße gesperrt")]),
        &sink_config(&odoo, more),
    )
    .await;
    wait_sink_started(&harness).await;
    let (kept, lost) = (OdooMail::send(&harness, &odoo, 1).await, OdooMail::send(&harness, &odoo, 2).await);
    harness.wait_for_result(kept.id).await;
    harness.wait_for_result(lost.id).await;
    for kind in [EventKind::Delivered, EventKind::Deferred, EventKind::Opened, EventKind::Complained] {
        kept.put_event(&harness, kind).await;
    }
    wait_sink_caught_up(&harness).await;
    let state = odoo.state();
    assert_eq!(kept.shown_in_odoo(&state)["status"], "sent");
    assert_eq!(
        (&lost.shown_in_odoo(&state)["status"], &lost.shown_in_odoo(&state)["bounces"]),
        (&json!("bounce"), &json!(1))
    );
    let reason = &state["mail.notification"][lost.notification.to_string()]["failure_reason"];
    assert_eq!(reason, "p2@example.net: 550 5.2.1 Straße gesperrt");
    let gateway = state["gateway"].as_array().unwrap();
    let [report] = &gateway[..] else { panic!("{gateway:#?}") };
    let report = report.as_str().unwrap();
    assert!(report.lines().count() == report.matches("\r\n").count() && !report.contains("\n.\r\n"));
    let message = MessageParser::new().parse(report).unwrap();
    assert_eq!(message.from().unwrap().first().unwrap().address(), Some("MAILER-DAEMON@relay.example.com"));
    assert_eq!(message.to().unwrap().first().unwrap().address(), Some("bounce@example.com"));
    let kind = message.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let PartType::Multipart(parts) = &message.parts[0].body else { panic!("{message:?}") };
    let kinds = parts.iter().map(|part| {
        let kind = message.parts[*part as usize].content_type().unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    // Odoo takes the second block, and there is one recipient in it.
    let status = report.split("message/delivery-status").nth(1).unwrap().split_once("\r\n\r\n").unwrap().1;
    let status = status.split("\r\n--").next().unwrap();
    let blocks: Vec<Vec<&str>> =
        status.trim_end().split("\r\n\r\n").map(|block| block.split("\r\n").collect()).collect();
    let [about, recipient] = &blocks[..] else { panic!("{blocks:?}") };
    assert_eq!(about[0], "Reporting-MTA: dns; relay.example.com");
    assert_eq!(
        recipient[..3],
        ["Final-Recipient: rfc822; p2@example.net", "Action: failed", "Status: 5.2.1"]
    );
    let original = report.split("text/rfc822-headers").nth(1).unwrap();
    assert!(original.contains("\r\n\r\nMessage-ID: <1.2.2-openerp-2-crm.lead@vm>\r\n"), "{original}");
    // Odoo has the event: a repetition counts nothing twice.
    lost.put_event(&harness, EventKind::Bounced).await;
    wait_sink_caught_up(&harness).await;
    assert_eq!(odoo.state()["gateway"].as_array().unwrap().len(), 1);
    // An event of an invisible record would be counted and not shown.
    enqueue(&harness, 3, "p2@example.net", "<3-openerp-7-hr.applicant@vm>").await;
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn event_of_invisible_message_becomes_dead_letter() {
    let odoo = odoo_with_action();
    odoo.create("mail.message", json!({ "message_id": "<0-openerp-1@vm>" }));
    let script =
        SmtpScript::new().on_recipient("p3@example.net", [SmtpAction::Reply("550 5.1.1 no such user")]);
    let more = "way = \"report\"\nusername = \"sales\"\napi_key = \"sales-key\"";
    let mut harness = with_paused_time(script, &sink_config(&odoo, more)).await;
    let partner = odoo.create("res.partner", json!({ "email_normalized": "p3@example.net" }));
    enqueue(&harness, 3, "p3@example.net", "<3-openerp-7-hr.applicant@vm>").await;
    harness
        .wait_until("the dead letter", || !harness.store().sink_dead_letters("odoo", 10).unwrap().is_empty())
        .await;
    let why = &harness.store().sink_dead_letters("odoo", 10).unwrap()[0].reason;
    assert!(why.contains("shows \"sales\" no message <3-openerp-7-hr.applicant@vm>"), "{why}");
    assert_eq!(odoo.record("res.partner", partner)["message_bounce"], 0);
    assert!(odoo.state()["gateway"].as_array().unwrap().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn ignores_mail_of_other_databases() {
    let odoo = odoo_with_action();
    for (more, notified) in
        [("hosts = [\"vm\"]\nsenders = [\"Example.com\"]", true), ("hosts = [\"vm2\"]", false)]
    {
        let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, more)).await;
        wait_sink_started(&harness).await;
        let mail = OdooMail::send(&harness, &odoo, 1 + u64::from(notified)).await;
        harness.wait_for_result(mail.id).await;
        wait_sink_caught_up(&harness).await;
        assert_eq!(mail.shown_in_odoo(&odoo.state())["status"] == "pending", notified, "{more}");
        harness.stop().await;
    }
}

#[tokio::test]
async fn trail_and_log_link_to_odoo_record() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(
        SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Reply("250 fine"))]),
        &sink_config(&odoo, ""),
    )
    .await;
    wait_sink_started(&harness).await;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_for_result(mail.id).await;
    let tls = tls::build_client_config(None).unwrap();
    let client = reqwest::Client::builder()
        .unix_socket(harness.config.admin.socket.clone())
        .tls_backend_preconfigured(tls)
        .build()
        .unwrap();
    let link = format!("{}/odoo/sale.order/42", odoo.url());
    for what in ["sale.order,42", "S0042"] {
        let url = format!("http://localhost/api/v1/trace?what={what}&limit=5");
        let found: Value = client.get(url).send().await.unwrap().json().await.unwrap();
        let trails = found["trails"].as_array().unwrap();
        assert_eq!(trails.len(), 1, "{what}");
        assert_eq!((&trails[0]["record"], &trails[0]["record_url"]), (&json!("sale.order,42"), &json!(link)));
    }
    let log: Value = client.get("http://localhost/api/v1/log").send().await.unwrap().json().await.unwrap();
    let links: BTreeSet<_> =
        log["lines"].as_array().unwrap().iter().map(|line| line["record_url"].as_str()).collect();
    assert_eq!(links, BTreeSet::from([Some(&*link)]));
    harness.stop().await;
}

/// Runs the command with a password on its standard input; returns its output and whether it succeeded.
fn run_setup(odoo: &FakeOdoo, arguments: &[&str], password: &str) -> (String, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mailtrail"))
        .args(["setup", "odoo", "--url", &odoo.url(), "--database", "prod"])
        .args(arguments)
        .env_remove("MAILTRAIL_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!printed.contains(password), "{printed}");
    (printed, output.status.success())
}

#[test]
fn setup_creates_updates_and_removes_action() {
    let odoo = FakeOdoo::start();
    let only_said = "would be created: group";
    let (printed, good) = run_setup(&odoo, &["--dry-run", "--user", "bot"], "admin-key");
    assert!(
        good && printed.contains(only_said) && odoo.state()["res.groups"].as_object().unwrap().is_empty(),
        "{printed}"
    );
    let (printed, good) = run_setup(&odoo, &["--user", "bot"], "admin-key");
    assert!(good, "{printed}");
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(
        lines,
        [
            format!("created: group 1 ({GROUP_NAME})"),
            format!("created: server action 1 ({}, version 2)", EVENTS_ACTION.name),
            "put into the group: user 2 (bot)".to_owned(),
        ]
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ready = || runtime.block_on(run_preflight(&sink_settings(&odoo, "")));
    ready().unwrap();
    let (printed, _) = run_setup(&odoo, &[], "admin-key");
    assert!(printed.contains("kept: group 1") && printed.contains("kept: server action 1"), "{printed}");
    // The action was changed, or it has another version.
    let mut settings = sink_settings(&odoo, "");
    (settings.login.username, settings.login.api_key) = ("admin".into(), Secret::new("admin-key"));
    let mut client = OdooClient::new(settings.login, tls::build_client_config(None).unwrap()).unwrap();
    let old = "# mailtrail action, version 0: an old one.\naction = {'version': 0}";
    let write = client.call_method("ir.actions.server", "write", json!([[1], { "code": old }]), json!({}));
    runtime.block_on(write).unwrap();
    assert!(ready().unwrap_err().contains("has version 0"));
    let (printed, _) = run_setup(&odoo, &[], "admin-key");
    assert!(
        printed.contains("updated: server action 1") && printed.contains("version 0 to version 2"),
        "{printed}"
    );
    ready().unwrap();
    let (printed, good) = run_setup(&odoo, &[], "bot-key");
    assert!(!good && printed.contains("refuses the login of \"admin\""), "{printed}");
    let (printed, good) = run_setup(&odoo, &["--login", "plain"], "plain-key");
    assert!(!good && printed.contains("must be an administrator's"), "{printed}");
    let (printed, good) = run_setup(&odoo, &["--inbound"], "admin-key");
    assert!(
        good && printed.contains(&format!("created: server action 2 ({}, version 1)", INBOUND_ACTION.name)),
        "{printed}"
    );
    assert!(odoo.record("res.groups", 1)["comment"].as_str().unwrap().ends_with(" events=1 inbound=2"));
    // An existing action is updated without a question.
    let (printed, good) = run_setup(&odoo, &[], "admin-key");
    assert!(good && printed.contains("kept: server action 2") && !printed.contains("updated"), "{printed}");
    let (printed, good) = run_setup(&odoo, &["--remove", "--dry-run"], "admin-key");
    assert!(good && printed.contains("would be removed: group 1"), "{printed}");
    let (printed, good) = run_setup(&odoo, &["--remove"], "admin-key");
    assert!(
        good && printed.contains("removed: server action 1") && printed.contains("removed: group 1"),
        "{printed}"
    );
    let state = odoo.state();
    assert!(
        state["ir.actions.server"].as_object().unwrap().is_empty()
            && state["res.groups"].as_object().unwrap().is_empty()
    );
    let (printed, good) = run_setup(&odoo, &["--remove"], "admin-key");
    assert!(good && printed.contains("not there: group"), "{printed}");
    // Another number, and nothing is to be configured for it.
    assert!(ready().unwrap_err().contains("run `mailtrail setup odoo --user bot`"));
    let (printed, good) = run_setup(&odoo, &["--user", "bot"], "admin-key");
    assert!(good && printed.contains("created: server action 3"), "{printed}");
    assert!(ready().unwrap().contains("server action 3 in version 2"));
}

#[tokio::test]
async fn missing_configured_action_names_remedy() {
    let odoo = odoo_with_action();
    let more = "action = 77";
    let why = run_preflight(&sink_settings(&odoo, more)).await.unwrap_err();
    assert!(
        why.contains("remove `action = 77` from the [[sink]], and run `mailtrail setup odoo --user bot`"),
        "{why}"
    );
    assert!(run_preflight(&sink_settings(&odoo, "")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn running_sink_finds_recreated_action() {
    let odoo = odoo_with_action();
    let mut harness = with_paused_time(SmtpScript::new(), &sink_config(&odoo, "")).await;
    let first = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_until("the first", || first.shown_in_odoo(&odoo.state())["status"] == "pending").await;
    assert!(
        run_setup(&odoo, &["--remove"], "admin-key").1 && run_setup(&odoo, &["--user", "bot"], "admin-key").1
    );
    let second = OdooMail::send(&harness, &odoo, 2).await;
    harness.wait_until("the second", || second.shown_in_odoo(&odoo.state())["status"] == "pending").await;
    harness.stop().await;
}

#[test]
fn failed_setup_leaves_no_action() {
    let odoo = FakeOdoo::start();
    let left = || {
        let state = odoo.state();
        ["res.groups", "ir.actions.server"].map(|model| state[model].as_object().unwrap().len())
    };
    for dry_run in [&["--dry-run"][..], &[]] {
        let (printed, good) = run_setup(&odoo, &[&["--user", "nobody"], dry_run].concat(), "admin-key");
        assert!(
            !good && printed.contains("no active user has the login") && !printed.contains("created"),
            "{printed}"
        );
        assert_eq!(left(), [0, 0], "{printed}");
    }
    odoo.set_faults(json!({ "unwritable": ["ir.actions.server"] }));
    let (printed, good) = run_setup(&odoo, &["--user", "bot"], "admin-key");
    assert!(!good && printed.contains("removed: group"), "{printed}");
    assert_eq!(left(), [0, 0], "{printed}");
    // The existing action stays.
    odoo.set_faults(json!({}));
    assert!(run_setup(&odoo, &[], "admin-key").1);
    odoo.set_faults(json!({ "unwritable": ["ir.actions.server"] }));
    let (printed, good) = run_setup(&odoo, &["--user", "bot", "--inbound"], "admin-key");
    assert!(!good && !printed.contains("removed"), "{printed}");
    assert_eq!(left(), [1, 1]);
}

/// Runs the action on one event; its result, and what Odoo shows afterwards.
async fn run_action(odoo: &FakeOdoo, event: Value) -> (Value, Value) {
    let login = sink_settings(odoo, "").login;
    let mut client = OdooClient::new(login, tls::build_client_config(None).unwrap()).unwrap();
    let context = json!({ "context": { "mailtrail_events": [event] } });
    let answer = client.call_method("ir.actions.server", "run", json!([[1]]), context).await.unwrap();
    (answer["results"][0].clone(), odoo.state())
}

#[tokio::test]
async fn skips_rows_locked_by_other_transactions() {
    let message_id = "<1-openerp-1@vm>";
    let event = |status: &str| {
        json!({ "message_id": message_id, "email": "a@example.net", "status": status, "reason": "550",
        "at": "2026-09-14 12:00:00", "complained": true, "young": true })
    };
    for (number, weather, mail, notification, trace) in [
        // Odoo's queue run holds the trace, or the notification, in a transaction that is not committed.
        (1, json!({}), Some("outgoing"), "sent", "outgoing"),
        (2, json!({}), Some("outgoing"), "ready", "sent"),
        // Odoo sends it once more.
        (3, json!({}), Some("outgoing"), "exception", "error"),
        // Nothing is known of Odoo's mail, but that it is unsent and new.
        (4, json!({}), None, "sent", "outgoing"),
        (5, json!({}), None, "process", "sent"),
        // Another transaction has the row.
        (6, json!({ "locked": { "mail.notification": [1] } }), None, "sent", "sent"),
        (7, json!({ "locked": { "mailing.trace": [1] } }), None, "sent", "sent"),
        (8, json!({ "locked": { "res.partner": [1] } }), None, "sent", "sent"),
        (9, json!({ "locked": { "mail.blacklist": [1] } }), None, "sent", "sent"),
        // Another transaction changed the row after this one began.
        (10, json!({ "moved": { "mail.notification": [1] } }), None, "sent", "sent"),
        (11, json!({ "moved": { "res.partner": [1] } }), None, "sent", "sent"),
    ] {
        let odoo = odoo_with_action();
        let message = odoo.create("mail.message", json!({ "message_id": message_id }));
        let mail = mail.map(|state| odoo.create("mail.mail", json!({ "state": state })));
        let mail_id = json!(mail.map_or(json!(false), |id| json!(id)));
        odoo.create("res.partner", json!({ "email_normalized": "a@example.net" }));
        odoo.create("mail.blacklist", json!({ "email": "a@example.net", "active": false }));
        odoo.create(
            "mail.notification",
            json!({ "mail_message_id": message, "res_partner_id": 1,
            "notification_status": notification, "mail_mail_id": mail_id }),
        );
        odoo.create(
            "mailing.trace",
            json!({ "message_id": message_id, "email": "a@example.net", "trace_status": trace,
            "mail_mail_id": mail_id }),
        );
        let rows = |state: &Value| {
            ["mail.notification", "mailing.trace", "res.partner", "mail.blacklist"]
                .map(|model| state[model].clone())
        };
        let before = rows(&odoo.state());
        odoo.set_faults(weather);
        let (result, state) = run_action(&odoo, event("bounce")).await;
        assert_eq!(result, "later", "{number}");
        assert_eq!(rows(&state), before, "{number}");
        assert_eq!(state["log"], json!([]), "{number}: Odoo logs nothing");
        // The other transaction ends.
        odoo.set_faults(json!({}));
        if let Some(mail) = mail {
            odoo.write("mail.mail", mail, json!({ "state": "sent" }));
        }
        odoo.write("mail.notification", 1, json!({ "notification_status": "sent" }));
        odoo.write("mailing.trace", 1, json!({ "trace_status": "sent" }));
        for expected in ["changed", "unchanged"] {
            let (result, state) = run_action(&odoo, event("bounce")).await;
            assert_eq!(result, expected, "{number}");
            assert_eq!(state["mail.notification"]["1"]["notification_status"], "bounce", "{number}");
            assert_eq!(state["mailing.trace"]["1"]["trace_status"], "bounce", "{number}");
            assert_eq!(state["res.partner"]["1"]["message_bounce"], 1, "{number}");
            assert_eq!(state["mail.blacklist"]["1"]["active"], true, "{number}");
        }
    }
}

#[tokio::test]
async fn locked_row_does_not_block_others_in_same_call() {
    let odoo = odoo_with_action();
    odoo.set_faults(json!({ "moved": { "mail.notification": [2] }, "blacklisting": ["p3@example.net"] }));
    let mut events = Vec::new();
    for number in 1..=4 {
        let (message_id, email) = (format!("<{number}-openerp-1@vm>"), format!("p{number}@example.net"));
        let message = odoo.create("mail.message", json!({ "message_id": message_id }));
        let partner = odoo.create("res.partner", json!({ "email_normalized": email }));
        odoo.create(
            "mail.notification",
            json!({ "mail_message_id": message, "res_partner_id": partner,
            "notification_status": "sent" }),
        );
        events.push(
            json!({ "message_id": message_id, "email": email, "status": "sent", "at": "2026-09-14 12:00:00",
            "complained": number == 3 }),
        );
    }
    let mut client =
        OdooClient::new(sink_settings(&odoo, "").login, tls::build_client_config(None).unwrap()).unwrap();
    let context = json!({ "context": { "mailtrail_events": events } });
    let answer = client.call_method("ir.actions.server", "run", json!([[1]]), context).await.unwrap();
    assert_eq!(answer["results"], json!(["changed", "later", "later", "changed"]));
    let state = odoo.state();
    let shown = |number: u64| state["mail.notification"][number.to_string()]["failure_reason"].clone();
    let delivered = json!("mailtrail: delivered");
    // The changes for an event that is retried are rolled back.
    assert_eq!([1, 2, 3, 4].map(shown), [delivered.clone(), json!(false), json!(false), delivered]);
}

#[tokio::test]
async fn retries_event_of_row_in_open_transaction() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    let held = OdooMail::send(&harness, &odoo, 1).await;
    let queued = odoo.create("mail.mail", json!({ "state": "outgoing" }));
    odoo.write("mailing.trace", held.trace, json!({ "trace_status": "outgoing", "mail_mail_id": queued }));
    odoo.set_faults(json!({ "open": { "mailing.trace": [held.trace] } }));
    harness.wait_for_result(held.id).await;
    held.put_event(&harness, EventKind::Bounced).await;
    let free = OdooMail::send(&harness, &odoo, 2).await;
    harness.wait_for_result(free.id).await;
    free.put_event(&harness, EventKind::Delivered).await;
    let failure =
        |mail: &OdooMail| odoo.record("mail.notification", mail.notification)["failure_reason"].clone();
    harness.wait_until("its neighbour", || failure(&free) == "mailtrail: delivered").await;
    wait_sink_caught_up(&harness).await;
    harness.wait_until("the delay", || harness.store().count_delayed("odoo").unwrap() == 1).await;
    assert_eq!(odoo.state()["broken"], json!([]), "Odoo's own transaction fails");
    assert_eq!(held.shown_in_odoo(&odoo.state())["bounces"], 0);
    // A delay survives a restart, also without the ledger.
    harness.stop().await;
    std::fs::remove_dir_all(harness.config.data_dir.join("ledger")).unwrap();
    harness.start().await;
    assert_eq!(harness.store().count_delayed("odoo").unwrap(), 1);
    odoo.set_faults(json!({}));
    odoo.write("mail.mail", queued, json!({ "state": "sent" }));
    odoo.write("mailing.trace", held.trace, json!({ "trace_status": "sent" }));
    harness.wait_until("the delayed event", || held.shown_in_odoo(&odoo.state())["trace"] == "bounce").await;
    harness.wait_until("the end of the delay", || harness.store().count_delayed("odoo").unwrap() == 0).await;
    assert_eq!(held.shown_in_odoo(&odoo.state())["bounces"], 1);
    harness.stop().await;
}

#[tokio::test]
async fn mail_with_message_only_completes_without_warning() {
    let log = LogCapture::default();
    let _logging = log.install();
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    for number in 1..=3 {
        let message_id = format!("<{number}-openerp-private@vm>");
        odoo.create("mail.message", json!({ "message_id": message_id }));
        let id = enqueue(&harness, number, "reset@example.net", &message_id).await;
        harness.wait_for_result(id).await;
    }
    wait_sink_caught_up(&harness).await;
    assert_eq!(harness.store().count_delayed("odoo").unwrap(), 0);
    assert!(log.lines("a sink takes nothing").is_empty(), "{:#?}", log.lines("WARN"));
    harness.stop().await;
}

#[tokio::test]
async fn uncommitted_mail_delays_nothing_and_logs_no_warning() {
    let log = LogCapture::default();
    let _logging = log.install();
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    let lost = enqueue(&harness, 9, "reset@example.net", "<9-openerp-private@vm>").await;
    harness.wait_for_result(lost).await;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_for_result(mail.id).await;
    // The cursor goes on, and stays where it is.
    wait_sink_caught_up(&harness).await;
    assert_eq!(mail.shown_in_odoo(&odoo.state())["status"], "pending");
    assert_eq!(harness.store().count_delayed("odoo").unwrap(), 1);
    assert!(log.lines("a sink takes nothing").is_empty(), "{:#?}", log.lines("WARN"));
    harness.stop().await;
}

#[tokio::test]
async fn accepted_event_is_not_written_again() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_for_result(mail.id).await;
    wait_sink_caught_up(&harness).await;
    let before = odoo.call_count("bot ir.actions.server.run");
    mail.put_event(&harness, EventKind::Accepted).await;
    wait_sink_caught_up(&harness).await;
    assert_eq!(odoo.call_count("bot ir.actions.server.run"), before);
    harness.stop().await;
}

#[tokio::test]
async fn event_of_earlier_message_keeps_newer_status() {
    let odoo = odoo_with_action();
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    wait_sink_started(&harness).await;
    let start = harness.store().sink_position("odoo").unwrap().unwrap().0;
    let mail = OdooMail::send(&harness, &odoo, 1).await;
    harness.wait_for_result(mail.id).await;
    mail.put_event(&harness, EventKind::Opened).await;
    mail.put_event(&harness, EventKind::Bounced).await;
    wait_sink_caught_up(&harness).await;
    assert_eq!(mail.shown_in_odoo(&odoo.state())["bounces"], 1);
    // Odoo's Resend uses the same Message-ID.
    let none = json!({ "notification_status": "sent", "failure_type": false, "failure_reason": false });
    odoo.write("mail.notification", mail.notification, none);
    odoo.write("mailing.trace", mail.trace, json!({ "trace_status": "sent", "open_datetime": false }));
    let message_id = "<1.2.1-openerp-1-crm.lead@vm>";
    // The message to another recipient is sent once.
    let other = enqueue(&harness, 8, "other@example.net", message_id).await;
    let again = enqueue(&harness, 9, &mail.email, message_id).await;
    harness.wait_for_result(other).await;
    harness.wait_for_result(again).await;
    wait_sink_caught_up(&harness).await;
    harness.store().request_rewind("odoo", start);
    mail.put_event(&harness, EventKind::Complained).await;
    let complained = || mail.shown_in_odoo(&odoo.state())["blacklisted"] == 1;
    harness.wait_until("the complaint, which is about the address", complained).await;
    wait_sink_caught_up(&harness).await;
    let shown = mail.shown_in_odoo(&odoo.state());
    assert_eq!(
        [&shown["status"], &shown["bounces"], &shown["trace"], &shown["opened"]],
        [&json!("pending"), &json!(1), &json!("sent"), &json!(false)]
    );
    // The newer one's own bounce counts.
    OdooMail { id: again, ..mail }.put_event(&harness, EventKind::Bounced).await;
    wait_sink_caught_up(&harness).await;
    let record = odoo.record("mail.notification", 1);
    assert_eq!(
        (&record["notification_status"], &odoo.record("res.partner", 1)["message_bounce"]),
        (&json!("bounce"), &json!(2))
    );
    harness.stop().await;
}

#[tokio::test]
async fn retries_odoo_mails_that_failed_during_stop() {
    let odoo = odoo_with_action();
    let refused =
        format!("SMTPSenderRefused: (421, b'{}', 'bounce@example.com')", Reply::ShuttingDown.to_text());
    let now = Timestamp::from_secs(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs());
    let now: String = now.to_string().replace('T', " ").chars().take(19).collect();
    let make = |state: &str, reason: &str, at: &str| {
        odoo.create("mail.mail", json!({ "state": state, "failure_reason": reason, "write_date": at }))
    };
    let failed = make("exception", &refused, &now);
    let others = [
        make("exception", "SMTPRecipientsRefused: (550, b'5.1.1 no such user')", &now),
        make("exception", &refused, "2026-01-01 00:00:00"),
        make("cancel", &refused, &now),
    ];
    let before = others.map(|mail| odoo.record("mail.mail", mail));
    let mut harness = QueueHarness::new(SmtpScript::new(), &sink_config(&odoo, "")).await;
    harness.wait_until("the mail", || odoo.record("mail.mail", failed)["state"] == "outgoing").await;
    assert_eq!(others.map(|mail| odoo.record("mail.mail", mail)), before);
    assert_eq!(odoo.record("ir.cron", 1)["triggered"], 1);
    harness.stop().await;
}
