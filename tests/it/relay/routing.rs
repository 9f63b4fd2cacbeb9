//! Several upstreams: routing, order, rates, and operator actions.

use bytes::Bytes;
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, Lane, TrackingId};
use mailtrail_trail::{AcceptedMessage, AttemptStatus, Message, RecipientState, Trail, TrailEventKind};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness;

#[tokio::test]
async fn fails_over_and_returns_to_first_upstream() {
    let dead = SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 3]);
    let harness = MultiUpstreamRelay::new([dead, SmtpScript::new()], ["", ""], "").await;
    let ids = harness.enqueue_many(0..6, |_| {}).await;
    for id in ids {
        assert_eq!(recipient_states(&harness.wait_settled(id).await), [RecipientState::Relayed]);
    }
    assert!(!harness.received_numbers(1).is_empty(), "nothing went to the second");
    // The first is well again: its probes close the breaker, and everything goes there.
    harness.wait_until("a probe", |harness| !harness.received_numbers(0).is_empty()).await;
    for round in 0..9 {
        harness.wait_settled(harness.enqueue(10 + round, |_| {}).await).await;
    }
    let second = harness.received_numbers(1).len();
    harness.wait_settled(harness.enqueue(99, |_| {}).await).await;
    assert_eq!(harness.received_numbers(1).len(), second);
    assert_eq!(harness.received_numbers(0).len() + second, 16);
    // The trail names the upstream, and the message has its header.
    assert_eq!(harness.trail(harness.find_id(99)).events.last().unwrap().upstream.as_deref(), Some("a"));
}

#[tokio::test]
async fn adds_tracking_header_of_used_upstream() {
    let dead = SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 50]);
    let mut fine = SmtpScript::new();
    fine.capabilities.push("AUTH PLAIN");
    let harness =
        MultiUpstreamRelay::with_providers(["brevo", "mailgun"], [dead, fine], [LONG_BREAKER_PAUSE, ""], "")
            .await;
    let id = harness.enqueue(1, |_| {}).await;
    harness.wait_settled(id).await;
    let message = String::from_utf8(harness.server(1).accepted()[0].message.clone()).unwrap();
    assert!(
        message.starts_with(&format!("X-Mailgun-Variables: {{\"mailtrail\":\"{id}\"}}\r\n")),
        "{message}"
    );
    assert!(!message.contains("X-Mailin-custom"), "{message}");
}

#[tokio::test]
async fn unknown_message_stays_with_its_upstream() {
    for (rule, expected) in [("", 0), ("unknown_elsewhere = true", 1)] {
        let mut script = SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Close)]);
        script.add_actions(SmtpStep::Banner, [None]);
        script.add_actions(SmtpStep::Banner, vec![Some(SmtpAction::Close); 200]);
        let one_failure = "[upstream.breaker]\nfailures = 1\npause = \"1h\"\nlongest_pause = \"1h\"";
        let settings = format!("{one_failure}\n[upstream.retry]\nfirst = \"100ms\"\n{rule}");
        let harness = MultiUpstreamRelay::new([script, SmtpScript::new()], [&settings, ""], "").await;
        let unknown = harness.enqueue(1, |_| {}).await;
        harness
            .wait_until("an unknown end", |harness| {
                recipient_states(&harness.trail(unknown)) != [RecipientState::Queued]
            })
            .await;
        // The breaker of the first is open: other mail takes the second.
        for number in 2..6 {
            harness.wait_settled(harness.enqueue(number, |_| {}).await).await;
        }
        if expected == 1 {
            harness.wait_settled(unknown).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let taken = harness.received_numbers(1).iter().filter(|subject| **subject == 1).count();
        assert_eq!(taken, expected, "{rule}");
        if expected == 0 {
            assert_eq!(recipient_states(&harness.trail(unknown)), [RecipientState::Unknown]);
        }
    }
}

/// A temporary failure reveals nothing about the attempt before it.
#[tokio::test]
async fn unknown_message_stays_unknown_after_failed_retry() {
    let mut script = SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Close)]);
    script.add_actions(SmtpStep::Banner, [None]);
    script.add_actions(SmtpStep::Banner, vec![Some(SmtpAction::Close); 200]);
    let settings = "[upstream.breaker]\nfailures = 2\npause = \"1h\"\nlongest_pause = \"1h\"\n\
                    [upstream.retry]\nfirst = \"100ms\"\n";
    let harness = MultiUpstreamRelay::new([script, SmtpScript::new()], [settings, ""], "").await;
    let unknown = harness.enqueue(1, |_| {}).await;
    harness.wait_until("two attempts", |harness| harness.trail(unknown).attempts == 2).await;
    // The breaker of the first is open: other mail takes the second.
    harness.wait_settled(harness.enqueue(2, |_| {}).await).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        (recipient_states(&harness.trail(unknown)), harness.received_numbers(1)),
        (vec![RecipientState::Unknown], vec![2])
    );
}

/// An attempt that hangs since before the breaker opened is no probe.
#[tokio::test]
async fn hanging_attempt_does_not_keep_breaker_open() {
    let mut script = SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Hang)]);
    script.add_actions(SmtpStep::Banner, [None, Some(SmtpAction::Close), Some(SmtpAction::Close)]);
    let harness = MultiUpstreamRelay::new([script], [""], "").await;
    let hangs = harness.enqueue(1, |_| {}).await;
    harness.wait_until("a dot", |harness| harness.trail(hangs).is_sending).await;
    harness.wait_settled(harness.enqueue(2, |_| {}).await).await;
    assert_eq!(harness.received_numbers(0), [2]);
    assert!(harness.trail(hangs).is_sending);
}

#[tokio::test]
async fn routes_select_upstream() {
    let routes = "[[route]]\nname = \"news\"\nupstreams = [\"b\"]\nsenders = [\"news@*\"]\n";
    let harness = MultiUpstreamRelay::new([SmtpScript::new(), SmtpScript::new()], ["", ""], routes).await;
    let news = harness.enqueue(1, |send| send.route = Some("news".into())).await;
    let gone = harness.enqueue(2, |send| send.route = Some("no-more".into())).await;
    let other = harness.enqueue(3, |_| {}).await;
    for id in [news, gone, other] {
        harness.wait_settled(id).await;
    }
    assert_eq!(
        (harness.received_numbers(1), sort_numbers(harness.received_numbers(0))),
        (vec![1], vec![2, 3])
    );
}

#[tokio::test]
async fn transactional_mail_overtakes_bulk_mail() {
    let settings = "rate = \"200/s\"\nconnections = 2\n";
    let harness = MultiUpstreamRelay::new([SmtpScript::new()], [settings], "").await;
    let bulk = harness.enqueue_many(0..600, |send| send.lane = Lane::Bulk).await;
    harness.wait_until("some bulk mail", |harness| harness.received_numbers(0).len() > 20).await;
    let before = harness.received_numbers(0).len();
    for id in harness.enqueue_many(1000..1020, |_| {}).await {
        harness.wait_settled(id).await;
    }
    let overtaken = harness.received_numbers(0).iter().skip(before).filter(|number| **number < 1000).count();
    assert!(overtaken < 200, "{overtaken} of 600 went first");
    for id in bulk {
        harness.wait_settled(id).await;
    }
    assert_eq!(harness.received_numbers(0).len(), 620);
}

/// 2,000 newsletters and 20 invoices, and a provider that takes 300 an hour and refuses the rest: nothing is lost or
/// doubled, the invoices do not wait for the newsletters, and the provider is not hammered.
#[tokio::test(start_paused = true)]
async fn adapts_to_hourly_limit_of_upstream() {
    let hour = Duration::from_secs(3600);
    let mut script = SmtpScript::new();
    script.message_limit = Some((300, hour, "450 4.7.1 Rate limit exceeded"));
    let harness =
        queue_harness::QueueHarness::with_manual_time(MockSmtpServer::start(script).await, "connections = 5")
            .await;
    let begun = harness.time.clock().now();
    let mut ids = Vec::new();
    for number in 0..2020 {
        ids.push(
            harness.store_in_lane(number, if number < 2000 { Lane::Bulk } else { Lane::Transactional }).await,
        );
    }
    for id in &ids {
        assert_eq!(recipient_states(&harness.wait_for_result(*id).await), [RecipientState::Relayed]);
    }
    harness.assert_each_accepted_once(0..2020, "300 an hour");
    let took = harness.time.clock().now().duration_since(begun);
    assert!(took < hour * 12, "{took:?}");
    let last = |ids: &[TrackingId]| {
        let trails = ids.iter().map(|id| harness.load_trail(*id).events.last().unwrap().at);
        trails.max().unwrap().duration_since(begun)
    };
    assert!(last(&ids[2000..]) < hour * 2, "{:?}", last(&ids[2000..]));
    let asked = harness.command_count("MAIL");
    assert!(asked < 2020 * 3, "asked {asked} times for 2020 messages");
}

/// With a configured rate, nothing is rejected.
#[tokio::test(start_paused = true)]
async fn configured_rate_avoids_rejections() {
    let hour = Duration::from_secs(3600);
    let mut script = SmtpScript::new();
    script.message_limit = Some((300, hour, "450 4.7.1 Rate limit exceeded"));
    let harness = queue_harness::QueueHarness::with_manual_time(
        MockSmtpServer::start(script).await,
        "connections = 5\nrate = \"300/h\"",
    )
    .await;
    let mut bulk = Vec::new();
    for number in 0..1000 {
        bulk.push(harness.store_in_lane(number, Lane::Bulk).await);
    }
    let mut important = Vec::new();
    for number in 1000..1020 {
        important.push(harness.store_in_lane(number, Lane::Transactional).await);
    }
    // No time passes until all mail is in the ledger and the first has begun, however slow disk and connections are.
    let all = || bulk.iter().chain(&important).all(|id| harness.find_trail(*id).is_some());
    while harness.command_count("MAIL") == 0 || !all() {
        harness.time.settle().await;
    }
    for id in &important {
        harness.wait_for_result(*id).await;
    }
    // The first message used the available rate; after it, the transactional messages took every place.
    let before = harness.server.accepted().len() - important.len();
    assert!(before <= 20, "{before} went first");
    for id in bulk {
        harness.wait_for_result(id).await;
    }
    harness.assert_each_accepted_once(0..1020, "300 an hour");
    assert_eq!(harness.command_count("MAIL"), 1020);
}

#[tokio::test]
async fn exhausted_quota_sends_mail_to_other_upstream() {
    let mut harness = MultiUpstreamRelay::new(
        [SmtpScript::new(), SmtpScript::new()],
        ["quota = \"3/day\"\nconnections = 1", ""],
        "",
    )
    .await;
    for number in 0..3 {
        harness.wait_settled(harness.enqueue(number, |_| {}).await).await;
    }
    assert_eq!(harness.received_numbers(0).len(), 3);
    harness.wait_settled(harness.enqueue(3, |_| {}).await).await;
    // The used quota survives a restart.
    harness.restart().await;
    harness.wait_settled(harness.enqueue(4, |_| {}).await).await;
    assert_eq!((harness.received_numbers(0).len(), harness.received_numbers(1)), (3, vec![3, 4]));
}

#[tokio::test]
async fn queued_and_held_mail_expires_at_deadline() {
    let dead = || SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 500]);
    let harness = MultiUpstreamRelay::with_config_change(["plain"], [dead()], [""], "", |config| {
        config.upstreams[0].retry.give_up_after = Duration::from_secs(2);
    })
    .await;
    let waits = harness.enqueue(1, |_| {}).await;
    let held = harness.enqueue(2, |_| {}).await;
    let lock = harness.wait_for("the send", |harness| harness.daemon().store().try_lock(held)).await;
    let (operator, reason) = ("uid 0".to_owned(), "no".to_owned());
    let action = mailtrail_trail::QueueAction {
        id: held,
        at: Clock::System.now(),
        verb: mailtrail_trail::QueueVerb::Hold,
        operator,
        reason,
    };
    harness.daemon().store().record_queue_action(action).await.unwrap();
    drop(lock);
    for id in [waits, held] {
        let trail = harness.wait_settled(id).await;
        assert_eq!(recipient_states(&trail), [RecipientState::Expired]);
        assert_eq!(trail.events.last().unwrap().kind, TrailEventKind::Attempted(AttemptStatus::Expired));
    }
    assert!(harness.received_numbers(0).is_empty());
}

/// An obstacle belongs to one upstream: what the second cannot take waits for the first, and is not offered to the second
/// again and again meanwhile.
#[tokio::test]
async fn waits_for_upstream_with_required_capabilities() {
    for (offers, recipient) in
        [(vec!["PIPELINING", "SIZE 15"], "a@example.net"), (vec!["SIZE 0"], "ji\u{159}\u{ed}@example.net")]
    {
        let away = [
            Some(SmtpAction::Close),
            Some(SmtpAction::Close),
            Some(SmtpAction::Close),
            Some(SmtpAction::Close),
        ];
        let mut first = SmtpScript::new().on(SmtpStep::Banner, away);
        first.capabilities.push("SMTPUTF8");
        let mut second = SmtpScript::new();
        second.capabilities = offers;
        let harness = MultiUpstreamRelay::new([first, second], ["", ""], "").await;
        let id = harness.enqueue_to(1, &[recipient], |_| {}).await;
        let trail = harness.wait_settled(id).await;
        let output = format!("{recipient}: {:#?}", trail.events);
        assert_eq!(
            (recipient_states(&trail), harness.received_numbers(0), harness.received_numbers(1)),
            (vec![RecipientState::Relayed], vec![1], vec![]),
            "{output}"
        );
        let by_second = trail.events.iter().filter(|fact| fact.upstream.as_deref() == Some("b")).count();
        assert!(by_second <= 2, "{output}");
    }
}

#[tokio::test]
async fn uses_second_upstream_when_first_lacks_capability() {
    let mut small = SmtpScript::new();
    small.capabilities = vec!["PIPELINING", "SIZE 15"];
    let harness =
        MultiUpstreamRelay::new([small, SmtpScript::new()], [LONG_RETRY_DELAYS, LONG_RETRY_DELAYS], "").await;
    for number in 1..4 {
        let trail = harness.wait_settled(harness.enqueue(number, |_| {}).await).await;
        assert_eq!(recipient_states(&trail), [RecipientState::Relayed]);
        let words = &trail.events[1].diagnostic;
        assert_eq!(words.name, "capabilities", "{words:?}");
        assert!(words.text.as_ref().unwrap().contains("larger than the upstream takes"), "{words:?}");
    }
    assert_eq!((harness.received_numbers(0), harness.received_numbers(1)), (vec![], vec![1, 2, 3]));
}

/// A server that states a missing capability in a reply, not in its EHLO.
#[tokio::test]
async fn uses_second_upstream_after_capability_rejection() {
    for (at, refusal) in [
        (SmtpStep::Mail, "552 5.3.4 Message size exceeds fixed limit"),
        (SmtpStep::Mail, "555 5.5.4 Unsupported option: SIZE"),
        (SmtpStep::Mail, "550 5.6.7 Non-ASCII addresses are not permitted"),
        (SmtpStep::Data, "552 5.3.4 Message too big"),
        (SmtpStep::Dot, "552 5.3.4 Message size limit exceeded"),
        (SmtpStep::Dot, "554 5.6.3 Conversion required but not supported"),
    ] {
        let first = SmtpScript::new().on(at, vec![Some(SmtpAction::Reply(refusal)); 9]);
        let harness =
            MultiUpstreamRelay::new([first, SmtpScript::new()], [LONG_RETRY_DELAYS, LONG_RETRY_DELAYS], "")
                .await;
        let trail = harness.wait_settled(harness.enqueue(1, |_| {}).await).await;
        assert_eq!(
            (recipient_states(&trail), harness.received_numbers(1)),
            (vec![RecipientState::Relayed], vec![1]),
            "{at:?} {refusal}"
        );
        let words = trail.events[1].diagnostic.to_line();
        assert_eq!(words.as_deref(), Some(refusal), "the trail has the upstream's words");
        // Without another upstream it is a permanent rejection.
        let only = SmtpScript::new().on(at, vec![Some(SmtpAction::Reply(refusal)); 9]);
        let harness = MultiUpstreamRelay::new([only], [LONG_RETRY_DELAYS], "").await;
        let trail = harness.wait_settled(harness.enqueue(1, |_| {}).await).await;
        assert_eq!(
            (recipient_states(&trail), trail.attempts),
            (vec![RecipientState::Bounced], 1),
            "{at:?} {refusal}"
        );
    }
}

#[tokio::test]
async fn fails_when_no_upstream_of_route_is_capable() {
    let small = || {
        let mut script = SmtpScript::new();
        script.capabilities = vec!["PIPELINING", "SIZE 15"];
        script
    };
    let routes = "[[route]]\nname = \"news\"\nupstreams = [\"b\"]\nsenders = [\"news@*\"]\n";
    for (scripts, route, attempts) in [
        ([small(), small()], None, 2),
        ([SmtpScript::new(), small()], Some("news"), 1),
        ([small(), small()], Some("news"), 1),
    ] {
        let harness = MultiUpstreamRelay::new(scripts, [LONG_RETRY_DELAYS, LONG_RETRY_DELAYS], routes).await;
        let id = harness.enqueue(1, |send| send.route = route.map(Into::into)).await;
        let trail = harness.wait_settled(id).await;
        assert_eq!(
            (recipient_states(&trail), trail.attempts),
            (vec![RecipientState::Failed], attempts),
            "{route:?}"
        );
        let text = trail.recipients[0].diagnostic.text.as_ref().unwrap();
        assert!(text.contains("larger than the upstream takes"), "{text}");
        assert!(harness.received_numbers(0).is_empty() && harness.received_numbers(1).is_empty());
    }
}

/// Each connection reports the upstream's capabilities; a waiting message is retried at intervals.
#[tokio::test]
async fn retries_after_missing_capability_appears() {
    for other_mail in [true, false] {
        let mut first = SmtpScript::new();
        first.capabilities = vec!["PIPELINING", "SIZE 25"];
        let away = SmtpScript::new().on(SmtpStep::Banner, vec![Some(SmtpAction::Close); 500]);
        let settings = if other_mail { LONG_RETRY_DELAYS } else { SHORT_DELAYS };
        let settings = format!("messages_per_connection = 1\nidle_timeout = \"1s\"\n{settings}");
        let harness = MultiUpstreamRelay::new([first, away], [&settings, LONG_BREAKER_PAUSE], "").await;
        // The second is known to be away.
        let pinned = harness.enqueue(1, |send| send.route = Some("first b".into())).await;
        harness.wait_settled(pinned).await;
        let id = harness.enqueue(1_000_000_000_000_000_000, |_| {}).await;
        harness.wait_until("the obstacle", |harness| harness.trail(id).attempts >= 1).await;
        harness.server(0).with_script(|script| script.capabilities = vec!["PIPELINING", "SIZE 0"]);
        if other_mail {
            let goodbyes = |harness: &MultiUpstreamRelay| {
                harness.server(0).commands().iter().filter(|line| line.ends_with("QUIT")).count()
            };
            harness.wait_until("the end of both connections", |harness| goodbyes(harness) == 2).await;
            harness.wait_settled(harness.enqueue(2, |_| {}).await).await;
        }
        assert_eq!(
            recipient_states(&harness.wait_settled(id).await),
            [RecipientState::Relayed],
            "{other_mail}"
        );
        assert!(harness.received_numbers(1).is_empty());
    }
}

/// Only the recipients that need the capability wait.
#[tokio::test]
async fn missing_capability_affects_only_one_recipient() {
    for (upstreams, expected) in [(2, RecipientState::Relayed), (1, RecipientState::Failed)] {
        let mut able = SmtpScript::new();
        able.capabilities.push("SMTPUTF8");
        let recipients = ["a@example.net", "ji\u{159}\u{ed}@example.net", "b@b\u{fc}cher.example"];
        let harness = match upstreams {
            2 => MultiUpstreamRelay::new([SmtpScript::new(), able], ["", ""], "").await,
            _ => MultiUpstreamRelay::new([SmtpScript::new()], [""], "").await,
        };
        let id = harness.enqueue_to(1, &recipients, |_| {}).await;
        let trail = harness.wait_settled(id).await;
        assert_eq!(
            recipient_states(&trail),
            [RecipientState::Relayed, expected, RecipientState::Relayed],
            "{upstreams}"
        );
        let to: Vec<_> =
            harness.servers.iter().flat_map(MockSmtpServer::accepted).map(|taken| taken.recipients).collect();
        let mut whole = vec![vec!["a@example.net", "b@xn--bcher-kva.example"]];
        whole.extend((upstreams == 2).then(|| vec![recipients[1]]));
        assert_eq!(to, whole, "{upstreams}");
    }
}

/// Mail with an unknown result at a renamed or removed upstream follows its route, and no other.
#[tokio::test]
async fn unknown_mail_of_removed_upstream_follows_its_route() {
    for (renamed, route, expected) in
        [(true, None, 0), (true, Some("news"), 0), (false, None, 1), (false, Some("news"), 1)]
    {
        let mut script = SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Close)]);
        script.add_actions(SmtpStep::Banner, [None]);
        script.add_actions(SmtpStep::Banner, vec![Some(SmtpAction::Close); 200]);
        let routes = "[[route]]\nname = \"news\"\nupstreams = [\"a\"]\nsenders = [\"news@*\"]\n";
        let mut harness =
            MultiUpstreamRelay::new([script, SmtpScript::new()], [LONG_BREAKER_PAUSE, ""], routes).await;
        let id = harness.enqueue(1, |send| send.route = route.map(Into::into)).await;
        harness
            .wait_until("an unknown end", |harness| {
                recipient_states(&harness.trail(id)) == [RecipientState::Unknown]
            })
            .await;
        if renamed {
            harness.config.upstreams[0].transport.name = "renamed".into();
            harness.config.routing.routes[0].upstreams = vec!["renamed".into()];
        } else {
            harness.config.upstreams.remove(0);
            harness.config.routing.routes[0].upstreams = vec!["b".into()];
        }
        harness.server(0).with_script(|script| script.take_pending(SmtpStep::Banner));
        harness.restart().await;
        let trail = harness.wait_settled(id).await;
        let taken = [harness.received_numbers(0).len(), harness.received_numbers(1).len()];
        let what = format!("{renamed} {route:?}");
        assert_eq!(
            (recipient_states(&trail), taken[expected], taken[1 - expected]),
            (vec![RecipientState::Relayed], 1, 0),
            "{what}"
        );
    }
}

/// A relay, its upstreams `a`, `b`, …, and the directory of its store.
struct MultiUpstreamRelay {
    servers: Vec<MockSmtpServer>,
    config: Config,
    daemon: Option<Daemon>,
    _directory: TempDir,
}

impl MultiUpstreamRelay {
    async fn new<const N: usize>(scripts: [SmtpScript; N], settings: [&str; N], rest: &str) -> Self {
        Self::with_providers(["plain"; N], scripts, settings, rest).await
    }

    async fn with_providers<const N: usize>(
        providers: [&str; N],
        scripts: [SmtpScript; N],
        settings: [&str; N],
        rest: &str,
    ) -> Self {
        Self::with_config_change(providers, scripts, settings, rest, |_| {}).await
    }

    async fn with_config_change<const N: usize>(
        providers: [&str; N],
        scripts: [SmtpScript; N],
        settings: [&str; N],
        rest: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut servers = Vec::new();
        let mut text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n",
            directory.path().join("data").display().to_string(),
        );
        for (number, ((provider, script), settings)) in
            providers.iter().zip(scripts).zip(settings).enumerate()
        {
            let server = MockSmtpServer::start(script).await;
            let usual = if settings.contains("[upstream.") { "" } else { SHORT_DELAYS };
            let login = if *provider == "plain" { "" } else { "username = \"u\"\npassword = \"p\"\n" };
            text += &format!(
                "[[upstream]]\nname = \"{}\"\nprovider = \"{provider}\"\nhost = \"127.0.0.1\"\nport = {}\n\
                 tls = \"none\"\n{login}{settings}\n{usual}\n",
                ["a", "b", "c"][number],
                server.address.port()
            );
            servers.push(server);
        }
        text += rest;
        let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        change(&mut config);
        let mut harness = Self { servers, config, daemon: None, _directory: directory };
        harness.daemon = Some(Daemon::start(&harness.config, Clock::System, None).await.unwrap());
        harness
    }

    async fn restart(&mut self) {
        self.daemon.take().unwrap().stop().await;
        self.daemon = Some(Daemon::start(&self.config, Clock::System, None).await.unwrap());
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn server(&self, number: usize) -> &MockSmtpServer {
        &self.servers[number]
    }

    fn find_id(&self, number: u64) -> TrackingId {
        let newest =
            self.daemon().store().ids_in_range(message_id_of(0), message_id_of(u128::MAX), 10_000).unwrap();
        let sent = |id: &&TrackingId| self.trail(**id).message.subject == number.to_string();
        *newest.iter().find(sent).unwrap()
    }

    /// Puts a message into the queue.
    async fn enqueue(&self, number: u64, change: impl Fn(&mut Message)) -> TrackingId {
        self.enqueue_to(number, &["a@example.net"], change).await
    }

    /// Stores a message to these recipients.
    async fn enqueue_to(
        &self,
        number: u64,
        recipients: &[&str],
        change: impl Fn(&mut Message),
    ) -> TrackingId {
        let id = TrackingId::new(Clock::System.now(), fastrand::u128(..));
        let message = format!("Subject: {number}\r\n\r\ntext\r\n");
        let sender = "bounces@example.com".parse().ok();
        let size = message.len() as u64;
        let mut send = Message { sender, subject: number.to_string(), size, ..Message::new(id, "test") };
        change(&mut send);
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        let store = self.daemon().store();
        store
            .put_message_applied(AcceptedMessage { message: send, recipients }, Bytes::from(message))
            .await
            .unwrap();
        id
    }

    async fn enqueue_many(
        &self,
        numbers: impl IntoIterator<Item = u64>,
        change: impl Fn(&mut Message) + Copy,
    ) -> Vec<TrackingId> {
        futures_util::future::join_all(numbers.into_iter().map(|number| self.enqueue(number, change))).await
    }

    fn trail(&self, id: TrackingId) -> Trail {
        self.daemon().store().load_trail(id).unwrap().unwrap()
    }

    /// The trail when it is not open any more.
    async fn wait_settled(&self, id: TrackingId) -> Trail {
        self.wait_until("the end of a send", |harness| {
            let trail = harness.trail(id);
            !trail.is_sending && !trail.recipients.iter().any(|recipient| recipient.is_open())
        })
        .await;
        self.trail(id)
    }

    async fn wait_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        self.wait_for(what, |harness| holds(harness).then_some(())).await;
    }

    async fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The numbers of the messages that a server took, in their order.
    fn received_numbers(&self, server: usize) -> Vec<u64> {
        let number = |message: &[u8]| {
            let text = std::str::from_utf8(message).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap();
            line.parse().unwrap()
        };
        self.servers[server].accepted().iter().map(|taken| number(&taken.message)).collect()
    }
}

fn message_id_of(number: u128) -> TrackingId {
    TrackingId::from_bytes(number.to_be_bytes())
}

fn sort_numbers(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

fn recipient_states(trail: &Trail) -> Vec<RecipientState> {
    trail.recipients.iter().map(|recipient| recipient.state()).collect()
}

/// Short pauses of the breaker.
const SHORT_DELAYS: &str = "[upstream.breaker]\nfailures = 2\npause = \"100ms\"\nlongest_pause = \"1s\"\n\
                     [upstream.retry]\nfirst = \"100ms\"\nmax = \"1s\"\n";
/// Delays longer than a test.
const LONG_RETRY_DELAYS: &str = "[upstream.breaker]\nfailures = 2\npause = \"100ms\"\nlongest_pause = \"1s\"\n\
                           [upstream.retry]\nfirst = \"1h\"\nmax = \"1h\"\n";
/// Left alone at the first failure, for the rest of the test.
const LONG_BREAKER_PAUSE: &str = "[upstream.breaker]\nfailures = 1\npause = \"1h\"\nlongest_pause = \"1h\"\n\
                     [upstream.retry]\nfirst = \"100ms\"\n";
