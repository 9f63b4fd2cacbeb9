//! What watches over the mail: the auditor and the heartbeat.

#[path = "support/scene.rs"]
mod scene;
#[path = "support/scripted.rs"]
mod scripted;

use bytes::Bytes;
use mailtrail::event::{Event, Kind, Words};
use mailtrail::ledger::{Notice, State, Via};
use metrics_exporter_prometheus::PrometheusBuilder;
use scene::{Log, Scene, states};
use scripted::{Act, At, Script, Server};
use std::time::Duration;

/// Nobody expires a message that somebody holds in his hands; the auditor sees it in the store.
#[tokio::test(start_paused = true)]
async fn mail_past_its_deadline_is_an_alarm_until_it_has_ended() {
    let log = Log::default();
    let _logging = log.listen();
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let server = Server::start(Script::new().at(At::Banner, vec![Some(Act::Close); 9999])).await;
    let mut scene = Scene::in_leaps(server, "[upstream.retry]\ngive_up_after = \"1h\"").await;
    let id = scene.send(1, &["a@example.net"]).await;
    let mut grip = None;
    scene
        .until("nobody to hold it", || {
            grip = scene.store().take(id);
            grip.is_some()
        })
        .await;
    for number in 2..8 {
        scene.put(number, &["a@example.net"]).await;
    }
    // Open, and nothing else for an hour.
    scene
        .until("the breaker", || metrics.render().contains("mailtrail_breaker_state{upstream=\"up\"} 2"))
        .await;
    scene.wait(Duration::from_secs(80 * 60)).await;
    assert!(log.lines("alarm=\"overdue\"").is_empty(), "{:#?}", log.lines("alarm"));
    scene.until("the alarm", || !log.lines("alarm=\"overdue\"").is_empty()).await;
    assert!(log.lines(&id.to_string())[0].contains("past its deadline"));
    let alarm = "mailtrail_alarm{alarm=\"overdue\",subject=\"deadline\"}";
    assert!(metrics.render().contains(&format!("{alarm} 1")));
    drop(grip);
    scene.until("its end", || states(&scene.trail(id)) == [State::Expired]).await;
    scene.until("the end of the alarm", || log.lines("alarm=\"overdue\"").len() == 2).await;
    assert!(metrics.render().contains(&format!("{alarm} 0")));
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_test_mail_whose_events_stay_out_is_an_alarm() {
    let log = Log::default();
    let _logging = log.listen();
    let server = Server::start(Script::new()).await;
    let settings = "[heartbeat]\nto = \"canary@example.net\"\nfrom = \"relay@example.com\"\nevery = \"1h\"";
    let mut scene = Scene::in_leaps(server.clone(), settings).await;
    scene.until("the alarm", || log.lines("alarm=\"heartbeat\"").len() == 1).await;
    let said = log.lines("alarm=\"heartbeat\"");
    assert!(said[0].contains("the test mail is relayed, and no event came within 900 s"), "{said:#?}");
    // The next one is reported on.
    scene.until("the next test mail", || server.taken().len() == 2).await;
    let message = String::from_utf8(server.taken()[1].message.clone()).unwrap();
    let id = message.lines().find_map(|line| line.strip_prefix("X-Mailtrail-Id: ")).unwrap();
    let now = scene.time.clock().now();
    let event = Event {
        kind: Kind::Delivered,
        at: now,
        identity: "1".into(),
        recipient: Some("canary@example.net".into()),
        tracking: id.parse().ok(),
        message_id: None,
        by_machine: false,
        test_mode: false,
        words: Words::default(),
    };
    let notice = Notice { upstream: "up".into(), at: now, via: Via::Webhook, token: None, event };
    scene.store().report(notice, Bytes::new()).await.unwrap();
    scene.until("the end of the alarm", || log.lines("alarm=\"heartbeat\"").len() == 2).await;
    assert!(log.lines("alarm=\"heartbeat\"")[1].contains("over"));
    scene.stop().await;
}
