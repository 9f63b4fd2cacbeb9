//! Polls for events without a webhook: the whole relay with the sandbox, at manual times.

use bytes::Bytes;
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, ManualClock, Timestamp, TrackingId};
use mailtrail_net::provider_api::{EventsApi, ProviderKind};
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, Sandbox};
use mailtrail_trail::{AcceptedMessage, EventKind, Message, TrailEventKind};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_http;
use testkit::{WAIT_TIMEOUT, eventually, eventually_within};

#[tokio::test]
async fn polls_recover_twelve_hours_without_webhooks() {
    let mut harness = ReconcileHarness::new(FaultInjection { hold: true, ..FaultInjection::default() }).await;
    harness.config.upstreams[0].reconcile = None;
    harness.start().await;
    for hour in 1..=12 {
        harness.enqueue_many(MESSAGE_COUNT / 12).await;
        eventually("the events", || {
            (harness.sandbox.counters().events >= hour * MESSAGE_COUNT / 6).then_some(())
        })
        .await;
        harness.advance(ONE_HOUR);
    }
    assert_eq!(harness.count_events(), BTreeMap::new());
    harness.stop().await;
    harness.config = harness.default_config.clone();
    harness.start().await;
    // In the middle of it the relay goes away, and goes on where it was.
    let first = eventually("the first page", || harness.cursor()).await;
    assert!(first < harness.now().saturating_sub(ONE_HOUR * 10), "{first}");
    harness.stop().await;
    harness.start().await;
    assert_eq!(harness.cursor(), Some(first));
    harness.wait_polled().await;
    let all = BTreeMap::from([
        ((EventKind::Accepted, "poll"), MESSAGE_COUNT),
        ((EventKind::Delivered, "poll"), MESSAGE_COUNT),
    ]);
    assert_eq!(harness.count_events(), all);
    // Now the webhooks come after all.
    harness.sandbox.set_faults(FaultInjection::default());
    eventually("the webhooks", || {
        (harness.sandbox.counters().accepted_events == MESSAGE_COUNT * 2).then_some(())
    })
    .await;
    assert_eq!(harness.count_events(), all);
    assert_eq!(harness.mark_counts(), BTreeSet::from([1]), "nothing is counted twice");
    harness.stop().await;
}

#[tokio::test]
async fn polls_find_late_events_with_either_api() {
    for api in [EventsApi::Events, EventsApi::Logs] {
        let weather = FaultInjection { lose: 1.0, late: 25 * 60, ..FaultInjection::default() };
        let mut harness = ReconcileHarness::new(weather).await;
        harness.use_api(api);
        harness.start().await;
        harness.enqueue_many(10).await;
        eventually("the events", || (harness.sandbox.counters().events == 20).then_some(())).await;
        harness.advance(ONE_MINUTE * 3);
        harness.wait_polled().await;
        assert_eq!(harness.count_events().values().sum::<u64>(), 10, "{api:?}");
        harness.advance(ONE_MINUTE * 23);
        harness.wait_polled().await;
        let all = BTreeMap::from([((EventKind::Accepted, "poll"), 10), ((EventKind::Delivered, "poll"), 10)]);
        assert_eq!(harness.count_events(), all, "{api:?}");
        assert_eq!(harness.mark_counts(), BTreeSet::from([1]));
        harness.stop().await;
    }
}

#[tokio::test]
async fn webhook_and_poll_of_same_event_count_once() {
    for api in [EventsApi::Events, EventsApi::Logs] {
        let mut harness = ReconcileHarness::new(FaultInjection::default()).await;
        harness.use_api(api);
        let log = LogCapture::default();
        let _listening = log.install();
        harness.start().await;
        harness.enqueue_many(5).await;
        eventually("the webhooks", || (harness.sandbox.counters().accepted_events == 10).then_some(())).await;
        harness.advance(ONE_MINUTE * 3);
        harness.wait_polled().await;
        let mut reports =
            BTreeMap::from([((EventKind::Accepted, "webhook"), 5), ((EventKind::Delivered, "webhook"), 5)]);
        assert_eq!(harness.count_events(), reports, "{api:?}");
        assert_eq!(log.lines("recovered"), [""; 0]);
        harness.sandbox.set_faults(FaultInjection { hold: true, ..FaultInjection::default() });
        harness.enqueue_many(5).await;
        eventually("the events", || (harness.sandbox.counters().events == 20).then_some(())).await;
        // Recent events are left to the webhook.
        harness.advance(ONE_MINUTE);
        harness.wait_polled().await;
        assert_eq!(harness.count_events(), reports);
        harness.advance(ONE_MINUTE * 2);
        harness.wait_polled().await;
        reports.extend([((EventKind::Accepted, "poll"), 5), ((EventKind::Delivered, "poll"), 5)]);
        assert_eq!(harness.count_events(), reports);
        let output = "10 events recovered that no webhook brought";
        eventually("the number", || log.lines(output).pop()).await;
        harness.sandbox.set_faults(FaultInjection::default());
        eventually("the webhooks", || (harness.sandbox.counters().accepted_events == 20).then_some(())).await;
        assert_eq!(harness.count_events(), reports);
        assert_eq!(harness.mark_counts(), BTreeSet::from([1]));
        harness.stop().await;
    }
}

#[tokio::test]
async fn wrong_api_key_is_logged_and_loses_no_event() {
    let mut harness = ReconcileHarness::new(FaultInjection { lose: 1.0, ..FaultInjection::default() }).await;
    let log = LogCapture::default();
    let _listening = log.install();
    harness.config.upstreams[0].provider_api.as_mut().unwrap().api_key = Secret::new("hunter2");
    harness.start().await;
    harness.enqueue_many(3).await;
    eventually("the events", || (harness.sandbox.counters().events == 6).then_some(())).await;
    harness.advance(ONE_MINUTE * 3);
    let refused = "upstream up: events: the provider's API refused the api_key (401: Invalid private key)";
    eventually("the refusal", || (!log.lines(refused).is_empty()).then_some(())).await;
    assert_eq!((harness.cursor(), log.lines("hunter2")), (None, vec![]));
    let config = harness.default_config.clone();
    harness.daemon.as_mut().unwrap().reload(config).unwrap();
    harness.wait_polled().await;
    assert_eq!(harness.count_events().values().sum::<u64>(), 6);
    harness.stop().await;
}

#[tokio::test]
async fn compares_each_day_after_it_ends() {
    let late = 3 * 3600;
    let mut harness =
        ReconcileHarness::new(FaultInjection { lose: 1.0, late, ..FaultInjection::default() }).await;
    let log = LogCapture::default();
    let _listening = log.install();
    harness.start().await;
    harness.enqueue_many(4).await;
    eventually("the events", || (harness.sandbox.counters().events == 8).then_some(())).await;
    for _ in 0..8 {
        harness.advance(ONE_MINUTE * 25);
        harness.wait_polled().await;
    }
    assert_eq!(harness.count_events().values().sum::<u64>(), 4, "what is so late no poll finds");
    // 02:00 of the next day.
    harness.advance(Duration::from_secs(14 * 3600 - 8 * 25 * 60));
    let found = "compared: the provider has";
    let line = eventually("the comparison", || log.lines(found).pop()).await;
    assert!(line.contains("day=\"2026-09-14\"") && line.contains("of which we had"), "{line}");
    let all = BTreeMap::from([((EventKind::Accepted, "poll"), 4), ((EventKind::Delivered, "poll"), 4)]);
    assert_eq!(harness.count_events(), all);
    harness.advance(Duration::from_secs(86_400));
    eventually("the next comparison", || log.lines("all 0 of the provider's are here").pop()).await;
    assert_eq!(harness.count_events(), all);
    harness.stop().await;
}

/// The rest of the page is stored, the undecodable event becomes a dead letter once, and the next poll continues
/// after it.
#[tokio::test]
async fn bad_event_in_page_does_not_affect_others() {
    for provider in ["mailgun", "brevo"] {
        let brevo = provider == "brevo";
        let event = |address: &str, id: u32, text: &str| {
            let at = START_TIME.saturating_sub(ONE_HOUR);
            let message_id = "1@example.com";
            if brevo {
                let date = at.to_string();
                format!(
                    r#"{{"event":"delivered","email":"{address}","date":"{date}","messageId":"<{message_id}>","reason":"{text}"}}"#
                )
            } else {
                let at = at.as_secs();
                format!(
                    r#"{{"event":"delivered","id":"{id}","timestamp":{at},"recipient":"{address}","message":{{"headers":{{"message-id":"{message_id}"}}}},"delivery-status":{{"message":"{text}"}}}}"#
                )
            }
        };
        let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
        let events = [
            event("a@example.net", 1, r"\ud83d"),
            "7".to_owned(),
            event("b@example.net", 2, "a\u{1}b\u{fffd}"),
            format!("{{\"event\":\"delivered\",\"deep\":{deep}}}"),
            r#"{"event" "delivered"}"#.to_owned(),
            event("c@example.net", 3, "fine"),
        ];
        let list = events.join(",\n");
        let server = mock_http::MockHttpServer::start(move |_, request| {
            let empty = if brevo { "{}" } else { r#"{"items":[]}"# };
            let host = request.header("host").unwrap();
            let page = if brevo {
                format!("\u{feff}{{\"events\":[{list}]}}")
            } else {
                format!("{{\"items\":[{list}],\"paging\":{{\"next\":\"http://{host}/next\"}}}}")
            };
            mock_http::HttpAction::Respond(
                200,
                if request.line.contains("events") { page } else { empty.into() },
            )
        })
        .await;
        let (daemon, id, _scene) = polling(provider, &server).await;
        let end = START_TIME.saturating_sub(ONE_MINUTE * 30);
        eventually("the cursor", || (daemon.store().poll_cursor("up").unwrap() == Some(end)).then_some(()))
            .await;
        let all = [Some(1), Some(1), Some(1), None];
        assert_eq!(delivered(&daemon, id), all, "{provider}");
        let asked = server.count();
        eventually("more polls", || (server.count() > asked + 6).then_some(())).await;
        assert_eq!(daemon.store().count_unmatched().unwrap(), (0, 3), "{provider}: each once");
        assert_eq!(delivered(&daemon, id), all, "{provider}");
        let raw =
            |id| daemon.store().raw_event(&daemon.store().find_event(id).unwrap().unwrap()).unwrap().unwrap();
        let dead = daemon.store().find_dead_letters(9, |_| true).unwrap();
        let raw: BTreeSet<_> = dead.iter().map(|one| raw(one.id)).collect();
        let expected: BTreeSet<_> = [1, 3, 4].map(|place| Bytes::from(events[place].clone())).into();
        assert_eq!(raw, expected, "{provider}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn damaged_page_of_mailgun_events_delays_no_other_event() {
    for damage in [Damage::Brackets, Damage::Quote, Damage::Cut] {
        survive("events", damage).await;
    }
}

#[tokio::test]
async fn damaged_page_of_mailgun_logs_delays_no_other_event() {
    for damage in [Damage::Brackets, Damage::Quote, Damage::Cut] {
        survive("logs", damage).await;
    }
}

#[tokio::test]
async fn damaged_page_of_brevo_delays_no_other_event() {
    survive("brevo", Damage::Cut).await;
}

/// Polls a provider whose page stays damaged: the relay asks again, then reads the other events, stores the rest as a
/// dead letter and continues.
async fn survive(api: &'static str, damage: Damage) {
    let case = format!("{api} {damage:?}");
    let log = LogCapture::default();
    let _listening = log.install();
    let heal = Arc::new(AtomicBool::new(false));
    let healed = heal.clone();
    let server = mock_http::MockHttpServer::start(move |_, request| {
        let damage = if healed.load(Ordering::SeqCst) { Damage::None } else { damage };
        mock_http::HttpAction::Respond(200, history(api, request, damage))
    })
    .await;
    let (daemon, id, _scene) = polling(api, &server).await;
    let end = START_TIME.saturating_sub(ONE_MINUTE * 30);
    // Brevo is asked every 15 s.
    let at_end = || (daemon.store().poll_cursor("up").unwrap() == Some(end)).then_some(());
    eventually_within(WAIT_TIMEOUT * 6, &case, at_end).await;
    // The damage may come from the transmission.
    assert_eq!(log.lines("it is tried again").len(), 3, "{case}");
    assert_eq!(delivered(&daemon, id), [Some(1), None, Some(1), Some(1)], "{case}");
    let dead = daemon.store().find_dead_letters(9, |_| true).unwrap();
    let report = |id| daemon.store().find_event(id).unwrap().unwrap();
    let raw = dead.iter().map(|one| daemon.store().raw_event(&report(one.id)).unwrap().unwrap());
    let raw: Vec<_> = raw.map(|raw| String::from_utf8(raw.to_vec()).unwrap()).collect();
    assert!(raw.iter().any(|raw| raw.contains("b@example.net")), "{case}: {raw:?}");
    assert!(!raw.iter().any(|raw| raw.contains("c@example.net")), "{case}: {raw:?}");
    let output = || log.lines("pages of its events could not be read whole").pop();
    eventually_within(WAIT_TIMEOUT * 6, "the alarm", output).await;
    heal.store(true, Ordering::SeqCst);
    eventually("the end of the alarm", || log.lines("alarm cleared").pop()).await;
    assert_eq!(delivered(&daemon, id), [Some(1), None, Some(1), Some(1)], "{case}: it is too long ago");
    daemon.stop().await;
}

/// A transfer that broke off, or a page that is whole the next time, costs another request and nothing else.
#[tokio::test]
async fn page_that_is_intact_on_retry_leaves_no_dead_letter() {
    for api in ["events", "logs", "brevo"] {
        for damage in [Damage::Transfer, Damage::Brackets, Damage::Cut] {
            let server = mock_http::MockHttpServer::start(move |number, request| {
                let page = history(api, request, if number < 3 { damage } else { Damage::None });
                if number < 3 && matches!(damage, Damage::Transfer) {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                    return mock_http::HttpAction::RespondRaw(head + &page[..page.len() / 2]);
                }
                mock_http::HttpAction::Respond(200, page)
            })
            .await;
            let (daemon, id, _scene) = polling(api, &server).await;
            let end = START_TIME.saturating_sub(ONE_MINUTE * 30);
            let at_end = || (daemon.store().poll_cursor("up").unwrap() == Some(end)).then_some(());
            eventually("the cursor", at_end).await;
            assert_eq!(delivered(&daemon, id), [Some(1); 4], "{api} {damage:?}");
            assert_eq!(daemon.store().count_unmatched().unwrap(), (0, 0), "{api} {damage:?}");
            daemon.stop().await;
        }
    }
}

/// Damage of the event of `b@example.net` in every response.
#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    /// A missing bracket.
    Brackets,
    /// A missing quote.
    Quote,
    /// The page ends there.
    Cut,
    /// The transfer ends in the middle of the page.
    Transfer,
}

/// Returns a provider's response with four events, ten minutes apart, the second of them damaged.
fn history(api: &str, request: &mock_http::HttpRequest, damage: Damage) -> String {
    let at = |place: u32| START_TIME.saturating_sub(ONE_HOUR * 2).saturating_add(ONE_MINUTE * 10 * place);
    let asked = request.line.split(' ').nth(1).unwrap();
    let value =
        |name: &str| asked.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let begin = match api {
        "events" => Timestamp::from_secs(value("begin").unwrap_or("9999999999").parse().unwrap()),
        "logs" if request.line.contains("logs") => {
            let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            Timestamp::parse_any(asked["start"].as_str().unwrap()).unwrap()
        }
        _ => Timestamp::default(),
    };
    let mut events = Vec::new();
    for (place, to) in (0..).zip(TO) {
        if at(place) < begin {
            continue;
        }
        let at = at(place);
        let event = match api {
            "brevo" => format!(
                r#"{{"event":"delivered","messageId":"<1@example.com>","email":"{to}","date":"{at}","list":[]}}"#
            ),
            api => format!(
                r#"{{"event":"delivered","id":"{place}","message":{{"headers":{{"message-id":"1@example.com"}}}},"recipient":"{to}","{}":{},"list":[]}}"#,
                if api == "logs" { "@timestamp" } else { "timestamp" },
                if api == "logs" { format!("\"{at}\"") } else { at.as_secs().to_string() },
            ),
        };
        events.push(match damage {
            Damage::Brackets if place == 1 => event.replace("[]", "["),
            Damage::Quote if place == 1 => event.replace(".net\"", ".net"),
            _ => event,
        });
    }
    if api == "brevo" {
        events.reverse();
        events.drain(..value("offset").unwrap_or("0").parse::<usize>().unwrap().min(events.len()));
    }
    let name = if api == "brevo" { "events" } else { "items" };
    let page = format!("{{\"{name}\":[{}]}}", events.join(","));
    match (damage, page.find("b@example.net")) {
        (Damage::Cut, Some(place)) => page[..place + 20].to_owned(),
        _ => page,
    }
}

const TO: [&str; 4] = ["a@example.net", "b@example.net", "c@example.net", "d@example.net"];

/// A relay that polls `server`, and a mail of `1@example.com` to [`TO`].
async fn polling(api: &str, server: &mock_http::MockHttpServer) -> (Daemon, TrackingId, ReconcileHarness) {
    let mut harness = ReconcileHarness::new(FaultInjection::default()).await;
    if api == "logs" {
        harness.use_api(EventsApi::Logs);
    }
    let upstream = &mut harness.config.upstreams[0];
    upstream.provider_api.as_mut().unwrap().base_url = format!("http://{}", server.address).parse().unwrap();
    if api == "brevo" {
        upstream.transport.provider = mailtrail_trail::provider::Provider::Brevo;
        upstream.provider_api.as_mut().unwrap().provider = ProviderKind::Brevo;
    }
    let daemon = Daemon::start(&harness.config, Clock::Manual(harness.manual_clock), None).await.unwrap();
    let id = TrackingId::new(START_TIME.saturating_sub(ONE_HOUR * 3), 1);
    let send =
        Message { message_id: mailtrail_mail::MessageId::parse("1@example.com"), ..Message::new(id, "test") };
    let recipients = TO.map(|to| to.parse().unwrap()).into();
    let message = Bytes::from_static(b"Subject: x\r\n\r\nx\r\n");
    daemon.store().put_message(AcceptedMessage { message: send, recipients }, message).await.unwrap();
    (daemon, id, harness)
}

/// Returns the number of delivery events for each recipient.
fn delivered(daemon: &Daemon, id: TrackingId) -> Vec<Option<u32>> {
    let trail = daemon.store().load_trail(id).unwrap().unwrap();
    let marks = trail.recipients.iter().map(|one| one.marks.get(EventKind::Delivered));
    marks.map(|mark| mark.map(|mark| mark.count)).collect()
}

/// Relay and sandbox on one manual clock.
struct ReconcileHarness {
    sandbox: Sandbox,
    manual_clock: &'static ManualClock,
    now: Cell<Timestamp>,
    daemon: Option<Daemon>,
    config: Config,
    default_config: Config,
    sent_ids: RefCell<Vec<TrackingId>>,
    _directory: tempfile::TempDir,
}

impl ReconcileHarness {
    async fn new(faults: FaultInjection) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manual_clock: &'static ManualClock = Box::leak(Box::default());
        manual_clock.advance_to(START_TIME);
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
            profile: mailtrail_sandbox::ProviderProfile::Mailgun,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key-1"),
            domain: "mg.example.com".into(),
            username: "postmaster@mg.example.com".into(),
            password: Secret::new("pw"),
            signing_key: Secret::new("signing"),
            webhook_url: None,
            time_scale: 0.0,
            faults,
            clock: Clock::Manual(manual_clock),
            tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
        });
        let sandbox = sandbox.await.unwrap();
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[upstream]]\nname = \"up\"\nprovider = \"mailgun\"\ndomain = \"mg.example.com\"\nhost = \"127.0.0.1\"\n\
             port = {}\ntls = \"none\"\nusername = \"postmaster@mg.example.com\"\npassword = \"pw\"\n\
             webhook_signing_key = \"signing\"\napi_key = \"key-1\"\napi_base_url = \"http://{}\"\n\
             [http]\naddress = \"127.0.0.1:0\"\n",
            directory.path().join("data").display().to_string(),
            sandbox.smtp_address().port(),
            sandbox.api_address(),
        );
        let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        // Real time, of which the test has little.
        config.upstreams[0].reconcile.as_mut().unwrap().interval = Duration::from_millis(50);
        Self {
            sandbox,
            manual_clock,
            now: Cell::new(START_TIME),
            daemon: None,
            default_config: config.clone(),
            config,
            sent_ids: RefCell::default(),
            _directory: directory,
        }
    }

    fn use_api(&mut self, wanted: EventsApi) {
        if let ProviderKind::Mailgun { events_api, .. } =
            &mut self.config.upstreams[0].provider_api.as_mut().unwrap().provider
        {
            *events_api = wanted;
        }
    }

    async fn start(&mut self) {
        let daemon = Daemon::start(&self.config, Clock::Manual(self.manual_clock), None).await.unwrap();
        self.sandbox.set_webhook_url(format!("http://{}/webhooks/up", daemon.http_address().unwrap()));
        self.daemon = Some(daemon);
    }

    async fn stop(&mut self) {
        self.daemon.take().unwrap().stop().await;
    }

    fn now(&self) -> Timestamp {
        self.now.get()
    }

    fn advance(&self, time: Duration) {
        self.now.set(self.now().saturating_add(time));
        self.manual_clock.advance_to(self.now());
    }

    /// Stores this number of messages.
    async fn enqueue_many(&self, count: u64) {
        let accept = (0..count).map(|_| async {
            let id = TrackingId::new(self.now(), fastrand::u128(..));
            let message = b"From: a@example.com\r\nSubject: x\r\n\r\nText\r\n";
            let send = Message {
                sender: "bounces@example.com".parse().ok(),
                size: message.len() as u64,
                ..Message::new(id, "test")
            };
            let recipients = vec!["a@example.net".parse().unwrap()];
            let store = self.daemon.as_ref().unwrap().store();
            store
                .put_message(AcceptedMessage { message: send, recipients }, Bytes::from_static(message))
                .await
                .unwrap();
            id
        });
        let ids = futures_util::future::join_all(accept).await;
        self.sent_ids.borrow_mut().extend(ids);
    }

    fn cursor(&self) -> Option<Timestamp> {
        self.daemon.as_ref().unwrap().store().poll_cursor("up").unwrap()
    }

    /// Waits until a poll that began at this time has ended.
    async fn wait_polled(&self) {
        let end = self.now().saturating_sub(ONE_MINUTE * 30);
        eventually("the poll", || (self.cursor() == Some(end)).then_some(())).await;
    }

    /// Counts the events in all trails by kind and source.
    fn count_events(&self) -> BTreeMap<(EventKind, &'static str), u64> {
        let mut reports: BTreeMap<(EventKind, &'static str), u64> = BTreeMap::new();
        for id in self.sent_ids.borrow().iter() {
            let trail = self.daemon.as_ref().unwrap().store().load_trail(*id).unwrap().unwrap();
            for fact in trail.events {
                if let TrailEventKind::EventReceived(kind) = fact.kind {
                    *reports.entry((kind, fact.source.as_str())).or_default() += 1;
                }
            }
        }
        reports
    }

    /// Returns the counts of all marks.
    fn mark_counts(&self) -> BTreeSet<u32> {
        let store = self.daemon.as_ref().unwrap().store();
        let sent = self.sent_ids.borrow();
        let trails = sent.iter().map(|id| store.load_trail(*id).unwrap().unwrap());
        trails
            .flat_map(|trail| {
                trail.recipients[0].marks.iter().map(|(_, mark)| mark.count).collect::<Vec<_>>()
            })
            .collect()
    }
}

const MESSAGE_COUNT: u64 = 2520;
const START_TIME: Timestamp = Timestamp::from_secs(1_789_387_200);
const ONE_HOUR: Duration = Duration::from_secs(3600);
const ONE_MINUTE: Duration = Duration::from_secs(60);
